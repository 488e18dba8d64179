"""How a diagnosis is shown: as a table, a dictionary, a plot, and by the example on the command line."""

import json
import sys

import pytest
import torch
from patients import diagnosed

from examples import diagnose as example


def test_the_table_and_the_dictionary():
    found = diagnosed("xavier_normal", depth=4)
    lines = str(found).splitlines()
    assert lines[0].split()[:2] == ["layer", "kind"]
    assert [line.split()[0] for line in lines[1:8]] == [one.name for one in found.profile.layers]
    assert lines[9].startswith("HEALTHY: over 4 layers with weights, activations change by -0.")
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["layers"][2]["front"] == "relu"
    assert plain["slopes"]["forward"] == found.profile.forward.slope


def test_the_plot_shows_both_directions():
    figure = diagnosed("xavier_normal").plot()
    above, below = figure.axes
    assert len(above.lines) == 2
    assert len(below.lines[0].get_xdata()) == 50
    assert above.get_yscale() == below.get_yscale() == "log"
    figure.canvas.draw()


def test_without_matplotlib_the_plot_says_what_is_missing(monkeypatch):
    found = diagnosed("he_normal", depth=2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        found.plot()


@pytest.mark.parametrize(
    ("initializer", "verdict"), [("small_random", "VANISHING at layer "), ("he_normal", "HEALTHY")]
)
def test_the_example_prints_and_draws(initializer, verdict, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    example.main([f"initializer={initializer}", "model=deep_mlp", "model.depth=8", f"plot={tmp_path / 'profile.png'}"])
    assert f"\n{verdict}" in capsys.readouterr().out
    assert (tmp_path / "profile.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("initializer=he_nromal", "did you mean he_normal"),
        ("model.depth=0", "model.depth=0"),
        ("init.frozen=x", "frozen"),
    ],
)
def test_the_example_says_mistakes_in_one_sentence(override, message):
    with pytest.raises(SystemExit, match=message):
        example.main(["initializer=normal", override] if "initializer" not in override else [override])
