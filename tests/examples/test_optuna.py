"""Searches by Hydra's Optuna sweeper."""

import pandas as pd
import pytest
import yaml
from making import TINY, command

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper, of the extra sweeps")
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.MovedIn20Warning")  # Optuna 2, which the plugin needs


@pytest.fixture
def search(monkeypatch, tmp_path):
    def run(*arguments):
        command(monkeypatch, *TINY, "monitor=off", "experiment=find_gain", *arguments, f"hydra.sweep.dir={tmp_path}")
        return yaml.safe_load((tmp_path / "optimization_results.yaml").read_text()), pd.read_csv(tmp_path / "runs.csv")

    return run


def test_the_best_trial_is_the_first_of_the_comparison_and_a_repeated_search_tries_nothing_anew(
    search, tmp_path, capsys
):
    best, runs = search("hydra.sweeper.n_trials=3")
    assert best["best_value"] == runs["val_accuracy"].max()
    gain = runs["initializer.gain"][runs["val_accuracy"].idxmax()]
    assert best["best_params"] == {"initializer.gain": gain}
    assert 0.2 <= gain <= 4
    assert "Not begun" not in (tmp_path / "comparison.md").read_text()
    capsys.readouterr()
    again, _ = search("hydra.sweeper.n_trials=3")
    assert again == best
    assert capsys.readouterr().out.count("(was finished)") == 3


def test_nothing_is_missing_of_trials_that_were_the_same(search, tmp_path, capsys):
    _, runs = search("initializer.gain=1,2", "hydra.sweeper.n_trials=6")
    assert len(runs) == 2
    assert "2 runs into" in capsys.readouterr().out
    assert "Not begun" not in (tmp_path / "comparison.md").read_text()


def test_nothing_is_missing_of_a_search_that_did_not_try_all(search, tmp_path):
    _, runs = search("initializer.gain=1,2,3,4", "hydra.sweeper.n_trials=4")
    assert len(runs) < 4
    assert "Not begun" not in (tmp_path / "comparison.md").read_text()
