"""The maps of one layer: closed forms, simulation, and slopes that are the derivatives."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_init.gains import moments
from lightning_init.nonlinearities import Nonlinearity, resolve
from lightning_init.theory import chi, correlation_map, correlation_slope, variance_map, variance_slope


@given(c=st.floats(-1, 1), q=st.floats(0.01, 50))
@example(c=-0.0, q=1.0)
@settings(max_examples=20, deadline=None)
def test_correlation_map_of_relu_is_the_arc_cosine_kernel(c: float, q: float) -> None:
    angle = math.acos(c)
    kernel = (math.sin(angle) + (math.pi - angle) * c) / math.pi
    assert correlation_map("relu", c, q, sigma_w=math.sqrt(2)) == pytest.approx(kernel, abs=1e-9)
    assert correlation_slope("relu", c, q, sigma_w=math.sqrt(2)) == pytest.approx(1 - angle / math.pi, abs=1e-9)


@given(c=st.floats(-1, 1), q=st.floats(0.05, 20))
@settings(max_examples=10, deadline=None)
def test_correlation_map_of_erf(c: float, q: float) -> None:
    product = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
    variance = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
    assert correlation_map("erf", c, q, sigma_w=1.3, sigma_b=0.4) == pytest.approx(
        (1.69 * product + 0.16) / (1.69 * variance + 0.16), abs=1e-9
    )
    slope = 1.69 * 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
    assert correlation_slope("erf", c, q, sigma_w=1.3) == pytest.approx(slope, rel=1e-9)


def _correlated(c: float, q: float, generator: torch.Generator, n: int = 1_000_000) -> tuple[Tensor, Tensor]:
    z = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return math.sqrt(q) * z[0], math.sqrt(q) * (c * z[0] + math.sqrt(1 - c * c) * z[1])


@pytest.mark.parametrize(
    "nonlinearity", ["hardswish", "softsign", nn.Threshold(0.3, -1.0), lambda x: torch.tanh(20 * (x - 0.123))]
)
@pytest.mark.parametrize("c", [-0.6, 0.3, 0.98])
def test_correlation_map_agrees_with_simulation(nonlinearity: Nonlinearity, c: float) -> None:
    q = 1.7
    x, other = _correlated(c, q, torch.Generator().manual_seed(1))
    function = resolve(nonlinearity).branches[0][1]
    products = function(x) * function(other)
    simulated = products.mean().item() / moments(nonlinearity, q).square
    error = products.std().item() / 1000 / moments(nonlinearity, q).square
    found = correlation_map(nonlinearity, c, q, sigma_w=1.0)
    assert abs(found - simulated) < 4.5 * error
    assert abs(correlation_map(nonlinearity, c - 0.02, q, sigma_w=1.0) - simulated) > 4.5 * error


def test_dropout_keeps_two_inputs_apart_and_prelu_does_not() -> None:
    """Independent masks: two copies of one input have correlation 1 - p (Schoenholz et al. 2017, section 4)."""
    assert correlation_map(nn.Dropout(0.2), 1.0, 1.0, sigma_w=1.0) == pytest.approx(0.8)
    prelu = nn.PReLU(2)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.0, 1.0]))
    assert correlation_map(prelu, 1.0, 1.0, sigma_w=1.0) == pytest.approx(1)
    assert correlation_map("rrelu", 1.0, 1.0, sigma_w=1.0) < 1 - 1e-4


@pytest.mark.parametrize("name", ["tanh", "gelu", "hardtanh"])
def test_slopes_are_derivatives_of_the_maps(name: str) -> None:
    q, c, step = 0.8, 0.4, 1e-4
    up, down = (variance_map(name, q + d, sigma_w=1.4, sigma_b=0.3) for d in (step, -step))
    assert variance_slope(name, q, sigma_w=1.4) == pytest.approx((up - down) / (2 * step), rel=1e-6)
    sigma_w = math.sqrt(q / moments(name, q).square)  # so that q is a fixed point
    up, down = (correlation_map(name, c + d, q, sigma_w=sigma_w) for d in (step, -step))
    assert correlation_slope(name, c, q, sigma_w=sigma_w) == pytest.approx((up - down) / (2 * step), rel=1e-6)
    assert correlation_slope(name, 1.0, q, sigma_w=1.4) == pytest.approx(chi(name, q, sigma_w=1.4))


def test_functions_of_torch_are_called_as_users_call_them() -> None:
    assert resolve(torch.square).label == "square"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_w must be positive and finite, got 0"):
        variance_map("relu", 1.0, sigma_w=0)
    with pytest.raises(ValueError, match="c must be a correlation in"):
        correlation_map("tanh", 1.1, 1.0, sigma_w=1)
    with pytest.raises(ValueError, match="q must be a positive, finite variance, got -1"):
        variance_map("tanh", -1.0, sigma_w=1)
