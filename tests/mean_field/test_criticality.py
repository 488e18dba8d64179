"""The edge of chaos and the critical point: published figures, what they keep, and nonlinearities that have none."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_init.nonlinearities import Nonlinearity, resolve
from lightning_init.theory import (
    CriticalPoint,
    chi,
    critical_point,
    edge_of_chaos,
    variance_fixed_points,
    variance_map,
    variance_slope,
)


@pytest.mark.parametrize(
    ("name", "sigma_b", "sigma_w"),
    [
        ("tanh", 0.05, 1.1225),
        ("tanh", 0.2, 1.3041),
        ("tanh", 0.5, 1.5497),
        ("tanh", 1.0, 1.8556),
        ("elu", 0.1, 1.1761),
        ("elu", 0.2, 1.2293),
        ("relu", 0.0, 1.4142),
        ("tanh", 0.0, 1.0),
    ],
)
def test_edges_of_chaos(name: str, sigma_b: float, sigma_w: float) -> None:
    assert edge_of_chaos(name, sigma_b=sigma_b).sigma_w == pytest.approx(sigma_w, abs=6e-5)


def test_critical_variance_of_tanh() -> None:
    assert edge_of_chaos("tanh", sigma_b=math.sqrt(0.05)).sigma_w ** 2 == pytest.approx(1.76095, abs=6e-6)


@pytest.mark.parametrize(
    ("name", "weight_variance", "bias_variance", "q"),
    [("silu", 1.988005, 0.555143, 14.32017), ("gelu", 1.983058, 0.172922, 3.561553)],
)
def test_critical_points(name: str, weight_variance: float, bias_variance: float, q: float) -> None:
    found = critical_point(name)
    assert found.sigma_w**2 == pytest.approx(weight_variance, abs=6e-7)
    assert found.sigma_b**2 == pytest.approx(bias_variance, abs=6e-7)
    assert found.q == pytest.approx(q, abs=6e-6)
    assert variance_map(name, found.q, sigma_w=found.sigma_w, sigma_b=found.sigma_b) == pytest.approx(found.q)
    assert chi(name, found.q, sigma_w=found.sigma_w) == pytest.approx(1)
    assert variance_slope(name, found.q, sigma_w=found.sigma_w) == pytest.approx(1)


@pytest.mark.parametrize("name", ["tanh", "elu", "gelu", "silu", "mish", "hardtanh", "selu"])
@pytest.mark.parametrize("sigma_b", [0.1, 0.4])
def test_the_edge_of_chaos_is_where_gradients_are_kept(name: str, sigma_b: float) -> None:
    try:
        edge = edge_of_chaos(name, sigma_b=sigma_b)
    except ValueError as error:
        assert (name, sigma_b) in {("gelu", 0.1), ("silu", 0.1)}, error  # noqa: PT017 (the parameters say where it is expected)
        return
    points = variance_fixed_points(name, sigma_w=edge.sigma_w, sigma_b=sigma_b)
    point = min(points, key=lambda point: abs(point.q - edge.q))
    assert point.q == pytest.approx(edge.q, rel=1e-6)
    assert point.chi == pytest.approx(1, rel=1e-6)
    assert point.slope == pytest.approx(edge.slope, rel=1e-6)


@pytest.mark.parametrize("name", ["relu", "gelu", "softshrink", torch.abs])
def test_a_critical_point_is_a_fixed_point_at_which_gradients_are_kept(name: Nonlinearity) -> None:
    point = critical_point(name)
    kept = variance_map(name, point.q, sigma_w=point.sigma_w, sigma_b=point.sigma_b)
    assert kept == pytest.approx(point.q, rel=1e-9)
    assert chi(name, point.q, sigma_w=point.sigma_w) == pytest.approx(1, rel=1e-9)


def test_scale_invariant_and_saturating_functions_are_critical_without_biases() -> None:
    assert (critical_point("relu").sigma_w, critical_point("relu").q) == (pytest.approx(math.sqrt(2)), 1.0)
    assert critical_point(nn.LeakyReLU(0.2)).sigma_w == pytest.approx(math.sqrt(2 / 1.04))
    for name in ("tanh", "sin", "softsign", "hardtanh"):
        assert (critical_point(name).sigma_w, critical_point(name).q) == (pytest.approx(1.0), 0.0)


@pytest.mark.parametrize("search", [critical_point, edge_of_chaos])
@pytest.mark.parametrize("name", ["hardshrink", torch.sign])
def test_functions_without_a_slope_have_no_critical_point(
    name: Nonlinearity, search: Callable[[Nonlinearity], CriticalPoint]
) -> None:
    with pytest.raises(ValueError, match=rf"^{resolve(name).label} has no"):
        search(name)


def test_a_pole_is_no_fixed_point() -> None:
    with pytest.raises(ValueError, match="softshrink has no edge of chaos"):
        edge_of_chaos("softshrink")


def test_what_has_no_edge_of_chaos_or_critical_point_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_b must be finite and not negative, got -1"):
        edge_of_chaos("tanh", sigma_b=-1)
    with pytest.raises(ValueError, match=r"relu has no edge of chaos at sigma_b=0\.1"):
        edge_of_chaos("relu", sigma_b=0.1)
    with pytest.raises(ValueError, match=r"gelu has no edge of chaos at sigma_b=0: .* or critical_point"):
        edge_of_chaos("gelu")
    for name in ("sigmoid", "softplus"):
        with pytest.raises(ValueError, match=f"{name} has no critical point"):
            critical_point(name)
    with pytest.raises(ValueError, match="is not known; closest: tanh"):
        edge_of_chaos("tanhh")
