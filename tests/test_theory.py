"""Mean field theory: published figures, closed forms, simulation, and consistency of the functions with each other."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_init.gains import exact, moments
from lightning_init.nonlinearities import Nonlinearity, resolve
from lightning_init.theory import (
    CriticalPoint,
    Layer,
    chi,
    correlation_map,
    correlation_slope,
    critical_point,
    depth_scales,
    edge_of_chaos,
    predict,
    variance_fixed_points,
    variance_map,
    variance_slope,
)

# --- published figures ----------------------------------------------------------------------------------------------


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
    ("weight_variance", "xi_c"), [(1.0, 3.63), (1.5, 15.8), (1.7, 74.9), (2.0, 25.2), (2.5, 11.8), (4.0, 6.98)]
)
def test_depth_scales_of_tanh(weight_variance: float, xi_c: float) -> None:
    found = depth_scales("tanh", sigma_w=math.sqrt(weight_variance), sigma_b=math.sqrt(0.05))
    assert found.xi_c == pytest.approx(xi_c, rel=2e-3)
    assert (found.c == 1) == (weight_variance < 1.76095) == (found.chi < 1)


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


def _stds(name: str, sigma_w: float, layers: list[int]) -> list[float]:
    """Return the std of the activations after each of `layers`."""
    profile = predict([Layer("linear", sigma_w)] + [Layer(name, sigma_w)] * max(layers))
    at = [moments(name, profile[layer - 1].variance) for layer in layers]
    return [math.sqrt(found.square - found.mean**2) for found in at]


def test_selu_normalizes_itself_with_gain_one_only() -> None:
    assert _stds("selu", 1.0, [8, 32, 64]) == pytest.approx([1, 1, 1], abs=0.001)
    assert _stds("selu", 0.75, [8, 32, 64]) == pytest.approx([0.36, 0.22, 0.19], rel=0.06)
    # far from the fixed point a finite width lags behind the theory: 13.9 and 45.8 were measured
    assert _stds("selu", math.sqrt(2), [8, 32]) == pytest.approx([3.3, 13.9], rel=0.03)


def test_consequences_of_the_gains_in_fifty_layers() -> None:
    tanh = predict([Layer("linear", 1.0)] + [Layer("tanh", 5 / 3)] * 50)
    assert tanh[-1].variance == pytest.approx(1.18, abs=0.005)
    assert tanh[0].gradient == pytest.approx(1.6e4, rel=0.05)  # measured at width 512
    gelu = predict([Layer("linear", 1.0)] + [Layer("gelu", math.sqrt(2))] * 10)
    assert gelu[-1].variance < 0.03  # dies
    for name, away in (("gelu", 100), ("silu", 1e4)):  # repelled by q = 1
        sigma_w = exact(name).forward
        assert predict([Layer(name, sigma_w)] * 50, q=1.05)[-1].variance > away
        assert predict([Layer(name, sigma_w)] * 50, q=0.95)[-1].variance < 0.2


# --- closed forms ---------------------------------------------------------------------------------------------------


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


# --- consistency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh", "gelu", "hardtanh"])
def test_slopes_are_derivatives_of_the_maps(name: str) -> None:
    q, c, step = 0.8, 0.4, 1e-4
    up, down = (variance_map(name, q + d, sigma_w=1.4, sigma_b=0.3) for d in (step, -step))
    assert variance_slope(name, q, sigma_w=1.4) == pytest.approx((up - down) / (2 * step), rel=1e-6)
    sigma_w = math.sqrt(q / moments(name, q).square)  # so that q is a fixed point
    up, down = (correlation_map(name, c + d, q, sigma_w=sigma_w) for d in (step, -step))
    assert correlation_slope(name, c, q, sigma_w=sigma_w) == pytest.approx((up - down) / (2 * step), rel=1e-6)
    assert correlation_slope(name, 1.0, q, sigma_w=1.4) == pytest.approx(chi(name, q, sigma_w=1.4))


@pytest.mark.parametrize(
    ("name", "sigma_w", "sigma_b"), [("tanh", 1.2, 0.3), ("tanh", 2.0, 0.2), ("softsign", 1.5, 0.5)]
)
def test_deviations_decay_with_the_depth_scales(name: str, sigma_w: float, sigma_b: float) -> None:
    found = depth_scales(name, sigma_w=sigma_w, sigma_b=sigma_b)
    gaps = [found.c - 1e-3]
    for _ in range(3):
        gaps.append(correlation_map(name, gaps[-1], found.q, sigma_w=sigma_w, sigma_b=sigma_b))
    decay = (gaps[3] - found.c) / (gaps[2] - found.c)
    assert decay == pytest.approx(math.exp(-1 / found.xi_c), rel=3e-3)
    q = found.q + 1e-6
    for _ in range(2):
        q = variance_map(name, q, sigma_w=sigma_w, sigma_b=sigma_b)
    assert (q - found.q) / 1e-6 == pytest.approx(math.exp(-2 / found.xi_q), rel=1e-3)


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


def test_fixed_points_and_their_stability() -> None:
    gelu = variance_fixed_points("gelu", sigma_w=exact("gelu").forward)
    assert [(round(point.q, 6), point.stable) for point in gelu] == [(0.0, True), (1.0, False)]
    assert gelu[0].slope == pytest.approx(exact("gelu").forward ** 2 / 4)
    assert [point.q for point in variance_fixed_points("relu", sigma_w=1.3)] == [0.0]
    (biased,) = variance_fixed_points("relu", sigma_w=1.0, sigma_b=1.0)
    assert (biased.q, biased.stable) == (pytest.approx(2.0), True)
    assert variance_fixed_points("relu", sigma_w=1.5, sigma_b=1.0) == []


def test_scale_invariant_and_saturating_functions_are_critical_without_biases() -> None:
    assert (critical_point("relu").sigma_w, critical_point("relu").q) == (pytest.approx(math.sqrt(2)), 1.0)
    assert critical_point(nn.LeakyReLU(0.2)).sigma_w == pytest.approx(math.sqrt(2 / 1.04))
    for name in ("tanh", "sin", "softsign", "hardtanh"):
        assert (critical_point(name).sigma_w, critical_point(name).q) == (pytest.approx(1.0), 0.0)


# --- a whole network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_predictions_agree_with_a_network(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    widths = [1000, 2000, 1000, 1500]
    sigma_w, sigma_b = 1.6, 0.4
    function = resolve(name).branches[0][1]
    outputs = [torch.randn(16, widths[0], generator=generator)]
    layers = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        x = outputs[-1] if i == 0 else function(outputs[-1])
        weight = torch.randn(n_out, n_in, generator=generator) * sigma_w / math.sqrt(n_in)
        x = x @ weight.T + sigma_b * torch.randn(n_out, generator=generator)
        outputs.append(x.requires_grad_() if i == 0 else x)
        layers.append(Layer("linear" if i == 0 else name, sigma_w, sigma_b, sigma_w * math.sqrt(n_out / n_in)))
    upstream = torch.randn(outputs[-1].shape, generator=generator)
    gradients = torch.autograd.grad(outputs[-1], outputs[1:], upstream)
    for output, gradient, expected in zip(outputs[1:], gradients, predict(layers), strict=True):
        assert output.square().mean().item() == pytest.approx(expected.variance, rel=0.1)
        assert gradient.square().mean().item() == pytest.approx(expected.gradient, rel=0.1)
    swapped = predict([Layer(layer.nonlinearity, layer.sigma_w, layer.sigma_b) for layer in layers])  # fans ignored
    assert gradients[0].square().mean().item() != pytest.approx(swapped[0].gradient, rel=0.1)


def test_a_dead_signal_is_followed_to_the_end() -> None:
    assert predict([Layer("relu", 1e-20)] * 20)[-1].variance == pytest.approx(0, abs=1e-60)
    assert predict([Layer("softplus", 1e-20), Layer("softplus", 1.0)])[-1].variance == pytest.approx(math.log(2) ** 2)
    assert predict([]) == []


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_w must be positive and finite, got 0"):
        variance_map("relu", 1.0, sigma_w=0)
    with pytest.raises(ValueError, match="sigma_b must be finite and not negative, got -1"):
        edge_of_chaos("tanh", sigma_b=-1)
    with pytest.raises(ValueError, match="c must be a correlation in"):
        correlation_map("tanh", 1.1, 1.0, sigma_w=1)
    with pytest.raises(ValueError, match="q must be a positive, finite variance, got -1"):
        variance_map("tanh", -1.0, sigma_w=1)
    with pytest.raises(ValueError, match=r"no variance above 0 is stable for tanh with sigma_w=0\.9"):
        depth_scales("tanh", sigma_w=0.9)
    with pytest.raises(ValueError, match=r"relu has no edge of chaos at sigma_b=0\.1"):
        edge_of_chaos("relu", sigma_b=0.1)
    with pytest.raises(ValueError, match=r"gelu has no edge of chaos at sigma_b=0: .* or critical_point"):
        edge_of_chaos("gelu")
    for name in ("sigmoid", "softplus"):
        with pytest.raises(ValueError, match=f"{name} has no critical point"):
            critical_point(name)
    with pytest.raises(ValueError, match="is not known; closest: tanh"):
        edge_of_chaos("tanhh")


@pytest.mark.parametrize("name", ["relu", "gelu", "softshrink", torch.abs])
def test_a_critical_point_is_a_fixed_point_at_which_gradients_are_kept(name: Nonlinearity) -> None:
    point = critical_point(name)
    kept = variance_map(name, point.q, sigma_w=point.sigma_w, sigma_b=point.sigma_b)
    assert kept == pytest.approx(point.q, rel=1e-9)
    assert chi(name, point.q, sigma_w=point.sigma_w) == pytest.approx(1, rel=1e-9)


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


def test_functions_of_torch_are_called_as_users_call_them() -> None:
    assert resolve(torch.square).label == "square"
