"""What `auto` takes from theory: the variance, gain and symmetry for a nonlinearity, and what max pooling does."""

import math

import pytest
import torch

from lightning_init.auto.theory import BUDGET, pooled, setting


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "softplus", "hardswish"])
def test_pairs_make_these_nonlinearities_exactly_linear(name):
    found = setting(name, 1000)
    assert (found.symmetry, found.q) == ("mirrored", 1.0)
    assert found.chi == pytest.approx(1, abs=1e-9)
    assert found.slope == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softsign", "elu", "selu", "mish", "hardtanh"])
def test_the_variance_of_a_chain_is_the_largest_within_the_budget(name):
    found = {depth: setting(name, depth) for depth in (10, 200)}
    assert found[200].q < found[10].q or found[10].q == 1
    for depth, one in found.items():
        assert abs(math.log10(one.chi)) * depth <= BUDGET
        assert one.slope < 1


@pytest.mark.parametrize("window", [1, 2, 4, 9])
def test_max_pooling_of_independent_values_is_the_law_of_their_largest(window):
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    law = torch.special.ndtr(x) ** window
    density = torch.diff(law)
    middle = (x[1:] + x[:-1]) / 2
    square = float((density * middle.relu() ** 2).sum())
    mean = float((density * middle.relu()).sum())
    found, shared = pooled("relu", "none", 1.0, window, 0.0)
    assert found == pytest.approx(square / 0.5, rel=0.02)
    assert shared == pytest.approx(mean**2 / square, abs=0.01)


def test_max_pooling_of_equal_values_changes_nothing():
    for symmetry in ("none", "mirrored", "odd", "centred"):
        assert pooled("relu", symmetry, 1.0, 4, 1.0) == pytest.approx(
            (1, 1), abs=0.35 if symmetry == "centred" else 1e-6
        )
