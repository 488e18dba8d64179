"""The published experiment on real Fashion-MNIST, reduced to one seed of two settings; and the table it prints."""

import pytest
from making import command, made_up, needs_data

from examples.comparison import compare
from examples.published import __main__ as collecting
from examples.published import udacity
from examples.published.claims import Claim, table
from examples.result import Result


@needs_data
def test_the_notebook_is_reproduced(monkeypatch, tmp_path, capsys):
    settings = "initializer=published/uniform_half,uniform_rule"
    command(monkeypatch, "experiment=udacity", settings, "seed=0", "monitor=off", f"hydra.sweep.dir={tmp_path}")
    checked = udacity.measured(compare([tmp_path]))
    assert len(checked) == 4
    assert [(claim.setting, claim.quantity, got) for claim, got in checked if not claim.holds(got)] == []
    assert "4 of 4 figures within the expected range" in capsys.readouterr().out
    assert (tmp_path / "published.md").read_text().startswith("## udacity\n")


def test_a_figure_out_of_range_is_said():
    rows = table([(Claim("a", "q", "50 %", 0.4, 0.6), 0.5), (Claim("b", "q", "50 %", 0.4, 0.6), 0.7)])
    assert rows["within range"].tolist() == ["yes", "NO"]
    assert rows["expected here"].tolist() == ["40.0% to 60.0%"] * 2
    assert not Claim("c", "q", "-", 0, 1).holds(float("nan"))


def test_claims_take_the_mean_over_seeds_of_the_right_metric(tmp_path):
    for seed, accuracy in enumerate((0.2, 0.4)):
        made_up(tmp_path / str(seed), initializer="uniform", seed=seed, accuracy=[accuracy])
        result = Result.read(tmp_path / str(seed))
        result.history["val_accuracy_dropout"] = [accuracy / 2]
        result.write(tmp_path / str(seed))
    got = {claim.quantity: value for claim, value in udacity.measured(compare([tmp_path]))}
    assert got == {udacity.WITH: pytest.approx(0.15), udacity.WITHOUT: pytest.approx(0.3)}


def test_sections_are_collected_and_replaced(tmp_path):
    document = tmp_path / "published.md"
    for name, text in (("b", "old"), ("a", "first"), ("b", "new")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "published.md").write_text(f"## {name}\n\n{text}\n")
        collecting.main([str(document), str(tmp_path / name)])
    lines = document.read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## a", "## b"]
    assert "new" in lines
    assert "old" not in lines
    with pytest.raises(SystemExit, match="does not exist"):
        collecting.main([str(document), str(tmp_path / "nowhere")])
