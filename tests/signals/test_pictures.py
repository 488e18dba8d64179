"""Pictures show what was logged, on the right scale, whatever is missing."""

import math
import sys

import numpy as np
import pytest

from lightning_init.signals.pictures import colour_limits, depth_profile, heat_map, pixels, series_of

HISTORY = {
    "activation_variance/a": {0: 1.0, 10: 0.1, 30: 1e-3},
    "activation_variance/b": {0: 2.0, 10: 0.0, 30: math.inf},
    "activation_variance/c": {0: 3.0, 30: 5.0},
    "activation_zero_fraction/a": {0: 0.0, 10: 0.5},
    "weight_mean/a": {0: -1.0, 10: 1.0},
    "gradient_norm_total": {0: 1.0},
}


def cells(figure):
    (mesh,) = figure.axes[0].collections
    return mesh.get_array()


def test_a_heat_map_has_a_row_for_each_layer_and_a_column_for_each_step():
    figure = heat_map(HISTORY, "activation_variance")
    axes, bar = figure.axes
    shown = cells(figure)
    assert shown.filled(-1).tolist() == [[1.0, 0.1, 1e-3], [2.0, -1, -1], [3.0, -1, 5.0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.get_ylim() == (2.5, -0.5)
    assert axes.get_xlim() == (-5.0, 40.0)
    assert "grey: zero, not finite or not measured" in bar.get_ylabel()
    assert figure.axes[0].collections[0].norm.__class__.__name__ == "LogNorm"


@pytest.mark.parametrize("series", ["activation_zero_fraction", "weight_mean"])
def test_fractions_and_what_can_be_negative_have_a_linear_scale(series):
    figure = heat_map(HISTORY, series)
    assert figure.axes[0].collections[0].norm.__class__.__name__ == "Normalize"
    assert not np.ma.getmaskarray(cells(figure)).any()
    assert depth_profile(HISTORY, series).axes[0].get_yscale() == "linear"


def test_a_profile_has_a_line_for_the_first_and_the_last_step_and_some_between():
    history = {f"s_x/{layer}": {step: 1.0 + layer + step for step in range(500)} for layer in range(3)}
    (axes,) = depth_profile(history, "s_x").axes
    labels = [line.get_label() for line in axes.get_lines()]
    assert (labels[0], labels[-1], len(labels)) == ("step 0", "step 499", 6)
    assert axes.get_lines()[-1].get_ydata().tolist() == [500.0, 501.0, 502.0]
    assert axes.get_yscale() == "log"


def test_many_steps_are_thinned_out_and_many_layers_named_in_part():
    history = {f"s_x/{layer}": dict.fromkeys(range(4000), 1.0) for layer in range(100)}
    figure = heat_map(history, "s_x")
    assert cells(figure).shape == (100, 1500)
    assert len(figure.axes[0].get_yticks()) <= 40


def test_a_single_point_and_nothing_finite_can_be_drawn():
    for value in (1.0, 0.0, math.nan):
        for draw in (heat_map, depth_profile):
            assert pixels(draw({"s_x/a": {0: value}}, "s_x")).shape[2] == 3


def test_unknown_series_are_refused_with_the_closest():
    with pytest.raises(ValueError, match="series: 'activation_varience' was not logged; the closest are 'activation_v"):
        heat_map(HISTORY, "activation_varience")
    assert series_of(HISTORY) == ["activation_variance"]


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        heat_map(HISTORY, "weight_mean")


def test_a_layer_that_explodes_does_not_darken_the_others():
    shown = np.array([[1.0, 4.0], [2.0, 1e14], [0.0, np.nan]])
    low, high = colour_limits(shown)
    assert (low, high) == (1.0, 3.0 * 1e6)
    history = {f"gradient_norm/{i}": dict(enumerate(row)) for i, row in enumerate(shown)}
    (mesh,) = heat_map(history, "gradient_norm").axes[0].collections
    norm = mesh.norm
    assert (norm.vmin, norm.vmax) == (low, high)
    low, high = colour_limits(np.ones(2))
    assert low < high
