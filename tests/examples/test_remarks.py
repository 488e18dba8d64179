"""What a comparison says of itself: runs that failed or never began, settings that are mixed, gaps in the pairing."""

import json

import pandas as pd
import pytest
from making import made_up

from examples import arguments, compare, plans
from examples.comparison import compare as compared


def grid(*overrides):
    return plans.plan(arguments.grid(overrides))


def test_mixed_experiments_are_said(tmp_path):
    for name in ("demo", "udacity"):
        result = made_up(tmp_path / name, overrides=[f"experiment={name}"])
        result.choices["experiment"] = name
        result.write(tmp_path / name)
    comparison = compared([tmp_path])
    assert len(comparison.settings) == 2
    assert any("different experiments are here (demo, udacity)" in note for note in comparison.notes)


def test_the_reasons_of_failures_are_said(tmp_path):
    made_up(tmp_path / "good")
    for seed in range(5):
        made_up(tmp_path / f"bad{seed}", initializer="eye", seed=seed, status="failed", accuracy=[])
        raw = json.loads((tmp_path / f"bad{seed}/result.json").read_text())
        (tmp_path / f"bad{seed}/result.json").write_text(json.dumps(raw | {"error": "ValueError: no\n square"}))
    assert "Failed (bad0; bad1; bad2; and 2 more): ValueError: no square" in compared([tmp_path]).notes


def test_runs_that_a_sweep_never_began_are_counted(tmp_path):
    plans.note(tmp_path / "sweep", grid("initializer=zeros", "seed=range(5)"))
    made_up(tmp_path / "sweep/done")
    (tmp_path / "sweep/killed/.hydra").mkdir(parents=True)
    (tmp_path / "sweep/killed/.hydra/overrides.yaml").write_text("- initializer=zeros\n- seed=1\n")
    assert f"Not begun: 3 of the runs of the sweep {tmp_path / 'sweep'}" in compared([tmp_path]).notes
    made_up(tmp_path / "sweep/killed", seed=1)
    for seed in (2, 3, 4):
        made_up(tmp_path / f"sweep/{seed}", seed=seed)
    assert compared([tmp_path]).notes == []


def test_sweeps_in_one_directory_are_told_apart(tmp_path):
    """The second is larger, and its runs are as many as those of both that are finished."""
    first, second = grid("initializer=zeros,eye", "seed=0,1"), grid("initializer=normal,he_normal,ones", "seed=0,1")
    assert plans.note(tmp_path, first) == []
    for initializer in ("zeros", "eye"):
        for seed in (0, 1):
            made_up(tmp_path / f"{initializer}{seed}", initializer=initializer, seed=seed)
    assert plans.note(tmp_path, second) == [first]
    for seed in (0, 1):
        made_up(tmp_path / f"normal{seed}", initializer="normal", seed=seed)
    assert plans.progress(tmp_path)[:2] == (2, 6)
    assert compared([tmp_path]).notes == [
        f"Runs of 2 sweeps are in {tmp_path}: {first} (4 runs); {second} (2 runs)",
        f"Not begun: 4 of the runs of the sweep {second} in {tmp_path}",
    ]


def test_a_sweep_that_is_widened_or_repeated_in_part_stays_one(tmp_path):
    first, wider = grid("initializer=zeros", "seed=0,1"), grid("initializer=zeros", "seed=0,1,2")
    for plan in (first, wider, first):
        assert plans.note(tmp_path, plan) == []
        for seed in (0, 1):
            made_up(tmp_path / str(seed), seed=seed)
        assert plans.progress(tmp_path)[:2] == (2, plan.total)
    assert plans.plans(tmp_path) == [wider]
    assert compared([tmp_path]).notes == [f"Not begun: 1 of the runs of the sweep {tmp_path}"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"plans": []}'])
def test_a_foreign_file_called_like_a_plan_is_none(tmp_path, content):
    made_up(tmp_path / "run")
    (tmp_path / "sweep.json").write_text(content)
    assert compared([tmp_path]).notes == ["One seed only: no intervals. Add seeds, for example seed=0,1,2"]


def test_gaps_in_the_pairing_are_said(tmp_path):
    for initializer, depth, seeds in [("a", 2, (0, 1, 2)), ("b", 2, (0, 2)), ("a", 9, (0, 1)), ("b", 9, ())]:
        for seed in (0, 1, 2):
            ended = {} if seed in seeds else {"status": "failed", "accuracy": []}
            made_up(tmp_path / f"{initializer}{depth}{seed}", initializer=initializer, seed=seed, **ended,
                    overrides=[f"model.depth={depth}"], **{"model.depth": depth})  # fmt: skip
    notes = [note for note in compared([tmp_path]).notes if not note.startswith("Failed")]
    assert notes == [
        "b, depth=2: no accuracy with seed 1, which others here have",
        "Over all settings b cannot be compared: it has no accuracy for depth=9",
    ]


def test_settings_made_with_different_configs_are_pointed_out(tmp_path):
    for seed, lr in ((0, 0.1), (1, 0.2)):
        made_up(tmp_path / str(seed), seed=seed, lr=lr, split=seed)
    assert "zeros: its runs also differ in lr" in compared([tmp_path]).notes


def test_one_seed_is_said_and_leaves_the_interval_blank(tmp_path):
    made_up(tmp_path / "only")
    compare.write([tmp_path])
    assert pd.read_csv(tmp_path / "comparison.csv")["val_accuracy_low"].isna().all()
    assert "One seed only: no intervals" in (tmp_path / "comparison.md").read_text()
    for seed in (0, 1):
        made_up(tmp_path / f"more{seed}", initializer="he_normal", seed=seed)
    assert "One seed only, so no interval: zeros" in compared([tmp_path]).notes
