"""Gains: closed forms, the published table, an independent integrator, conventions, and what is refused."""

import functools
import gc
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_init.gains import Gains, Nonlinearity, exact, gain, moments
from lightning_init.nonlinearities import _MEMOS, names, resolve

# forward, backward, gamma to 6 digits; chi to 4; slope to 3
TABLE: dict[str, tuple[Nonlinearity, tuple[float, float, float, float, float]]] = {
    "relu": ("relu", (1.414214, 1.414214, 1.712859, 1, 1)),
    "leaky_relu": (nn.LeakyReLU(0.2), (1.386750, 1.386750, 1.546460, 1, 1)),
    "gelu": ("gelu", (1.533530, 1.481114, 1.700926, 1.0720, 1.144)),
    "silu": ("silu", (1.676532, 1.623320, 1.787187, 1.0666, 1.173)),
    "mish": ("mish", (1.486848, 1.444755, 1.592025, 1.0591, 1.076)),
    "hardswish": ("hardswish", (1.736657, 1.670076, 1.813871, 1.0813, 1.224)),
    "elu": ("elu", (1.245198, 1.223429, 1.270843, 1.0359, 0.891)),
    "selu": ("selu", (1.000000, 0.966026, 1.000000, 1.0716, 0.783)),
    "softplus": ("softplus", (1.041867, 1.846229, 1.919126, 0.3185, 0.492)),
    "tanh": ("tanh", (1.592537, 1.467414, 1.592537, 1.1778, 0.461)),
    "sigmoid": ("sigmoid", (1.846229, 4.722646, 4.801313, 0.1528, math.nan)),
    "hardtanh": ("hardtanh", (1.392036, 1.210287, 1.392036, 1.3229, 0.385)),
    "softsign": ("softsign", (2.337533, 2.095781, 2.337533, 1.2440, 0.477)),
}


def _agrees(found: Gains, row: tuple[float, ...]) -> bool:
    digits = (6, 6, 6, 4, 3)
    values = (found.forward, found.backward, found.gamma, found.chi, found.slope)
    return all(
        math.isnan(known) or abs(value - known) <= 0.6 * 10**-places
        for value, known, places in zip(values, row, digits, strict=True)
    )


@pytest.mark.parametrize("name", TABLE)
def test_agrees_with_the_published_table(name: str) -> None:
    nonlinearity, row = TABLE[name]
    assert _agrees(exact(nonlinearity), row)


def _gauss_hermite(nonlinearity: Nonlinearity) -> Gains:
    """The mutant: plain Gauss-Hermite quadrature with 64 nodes, blind to kinks."""
    z, w = np.polynomial.hermite_e.hermegauss(64)
    x = torch.from_numpy(z).requires_grad_()
    y = resolve(nonlinearity).branches[0][1](x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    w, y, slope = w / w.sum(), y.detach().numpy(), slope.numpy()
    square, slope_square, mean = (w * y**2).sum(), (w * slope**2).sum(), (w * y).sum()
    growth = (w * y**2 * (z**2 - 1)).sum() / 2
    roots = [1 / math.sqrt(value) for value in (square, slope_square, square - mean**2)]
    return Gains(*roots, chi=slope_square / square, slope=growth / square, mean=mean)


@pytest.mark.parametrize("name", ["hardswish", "hardtanh", "elu", "selu"])
def test_the_table_rejects_plain_gauss_hermite(name: str) -> None:
    nonlinearity, row = TABLE[name]
    assert not _agrees(_gauss_hermite(nonlinearity), row)
    assert _agrees(_gauss_hermite("mish"), TABLE["mish"][1])  # the mutant is wrong about kinks only


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"relu", "leaky_relu"}))
def test_the_table_rejects_swapped_directions(name: str) -> None:
    nonlinearity, row = TABLE[name]
    found = exact(nonlinearity)
    swapped = Gains(found.backward, found.forward, found.gamma, found.chi, found.slope, found.mean)
    assert not _agrees(swapped, row)


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


SQRT3 = math.sqrt(3)
CLOSED_FORMS: dict[str, tuple[Nonlinearity, float, float]] = {
    "linear": ("linear", 1.0, 1.0),
    "relu": ("relu", 0.5, 0.5),
    "relu of any leak": (nn.LeakyReLU(0.3), 0.5 * 1.09, 0.5 * 1.09),
    "prelu over channels": (nn.PReLU(2), 0.5 * (1 + 0.25**2), 0.5 * (1 + 0.25**2)),
    "rrelu": ("rrelu", 0.5 * (1 + (1 / 64 + 1 / 24 + 1 / 9) / 3), 0.5 * (1 + (1 / 64 + 1 / 24 + 1 / 9) / 3)),
    "dropout": (nn.Dropout(0.2), 1 / 0.8, 1 / 0.8),
    "gelu": ("gelu", 1 / 3 + 1 / (2 * math.pi * SQRT3), 1 / 3 + 2 / (3 * math.pi * SQRT3)),
    "sin": ("sin", (1 - math.exp(-2)) / 2, (1 + math.exp(-2)) / 2),
    "cos": ("cos", (1 + math.exp(-2)) / 2, (1 - math.exp(-2)) / 2),
    "erf": ("erf", 2 / math.pi * math.asin(2 / 3), 4 / (math.pi * math.sqrt(5))),
    "elu": (
        nn.ELU(0.7),
        0.5 + 0.49 * (0.5 - 2 * math.exp(0.5) * _phi(-1) + math.exp(2) * _phi(-2)),
        0.5 + 0.49 * math.exp(2) * _phi(-2),
    ),
    "exp": (torch.exp, math.exp(2), math.exp(2)),
    "squared relu": (lambda x: x.relu() ** 2, 1.5, 2.0),
    "cube": (lambda x: x**3, 15.0, 27.0),
    "sign": (torch.sign, 1.0, 0.0),
    "threshold with a jump": (nn.Threshold(0.0, -1.0), 1.0, 0.5),
    "root, with a steep start": (lambda x: x.abs().sqrt(), math.sqrt(2 / math.pi), math.inf),
    "shifted kink": (
        lambda x: (x - 0.3).relu(),
        1.09 * _phi(-0.3) - 0.3 * math.exp(-0.045) / math.sqrt(2 * math.pi),
        _phi(-0.3),
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name: str) -> None:
    nonlinearity, square, slope_square = CLOSED_FORMS[name]
    found = moments(nonlinearity)
    assert found.square == pytest.approx(square, rel=1e-10)
    assert found.slope_square == pytest.approx(slope_square, rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("q", [1e-4, 0.3, 1.0, 7.0, 300.0])
def test_moments_at_any_variance(q: float) -> None:
    found = moments("erf", q)
    assert found.square == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-9)
    assert found.slope_square == pytest.approx(4 / (math.pi * math.sqrt(1 + 4 * q)), rel=1e-9)
    assert found.growth == pytest.approx(4 / math.pi / (1 + 2 * q) / math.sqrt(1 + 4 * q), rel=1e-8)
    assert moments("relu", q).square == pytest.approx(q / 2, rel=1e-10)


# --- against an independent integrator ----------------------------------------------------------------------

Knots = list[tuple[float, float, float, float]]


def _piecewise(knots: Knots) -> Callable[[Tensor], Tensor]:
    """A function whose value and slope jump at each knot `(place, jump, slope jump, curvature jump)`."""

    def function(x: Tensor) -> Tensor:
        y = 0.3 * x + 0.1
        for place, jump, slope, curvature in knots:
            beyond = (x - place).clamp(min=0)
            y = y + jump * (x > place).to(x.dtype) + slope * beyond + curvature * beyond.tanh() ** 2
        return y

    return function


def _reference(knots: Knots, q: float) -> tuple[float, float, float]:
    """`E[f]`, `E[f^2]`, `E[f'^2]`, written anew with math and scipy, cut at the knots."""

    def value(x: float) -> float:
        beyond = [(x - place, *jumps) for place, *jumps in knots if x > place]
        return 0.3 * x + 0.1 + sum(a + b * far + c * math.tanh(far) ** 2 for far, a, b, c in beyond)

    def slope(x: float) -> float:
        beyond = [(x - place, *jumps) for place, *jumps in knots if x > place]
        return 0.3 + sum(b + 2 * c * math.tanh(far) / math.cosh(far) ** 2 for far, _, b, c in beyond)

    def mean(integrand: Callable[[float], float]) -> float:
        cuts = np.linspace(-9, 9, 7) * math.sqrt(q)
        cuts = np.union1d(cuts, [knot[0] for knot in knots])
        return sum(
            scipy.integrate.quad(lambda x: integrand(x) * math.exp(-x * x / (2 * q)), low, high, epsabs=1e-11)[0]
            for low, high in itertools.pairwise(cuts)
        ) / math.sqrt(2 * math.pi * q)

    return mean(value), mean(lambda x: value(x) ** 2), mean(lambda x: slope(x) ** 2)


_number = st.integers(-2000, 2000).map(lambda n: n / 997)  # neither dyadic nor subnormal, which scipy minds
_knots = st.lists(st.tuples(_number, _number, _number, _number), min_size=1, max_size=4).filter(
    lambda knots: all(abs(a[0] - b[0]) > 0.05 for i, a in enumerate(knots) for b in knots[:i])
)


@given(knots=_knots, q=st.sampled_from([0.4, 1.0, 2.5]))
@settings(max_examples=25, deadline=None)
@example(knots=[(1.2285145500990156, 0.0, 1.0, 0.0)], q=0.4)  # between an edge and the first node beside it
def test_random_piecewise_functions_agree_with_scipy(knots: Knots, q: float) -> None:
    found = moments(_piecewise(knots), q)
    mean, square, slope_square = _reference(knots, q)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.square == pytest.approx(square, rel=1e-8, abs=1e-9)
    assert found.slope_square == pytest.approx(slope_square, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(names()) - {"threshold", "rrelu", "dropout"}))
def test_every_name_agrees_with_a_riemann_sum(name: str) -> None:
    x = torch.linspace(-12, 12, 2_400_001, dtype=torch.float64)
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    y = resolve(name).branches[0][1](x)
    assert exact(name).forward == pytest.approx((y**2 * density).sum().item() ** -0.5, rel=3e-6)
    assert exact(name).mean == pytest.approx((y * density).sum().item(), abs=3e-6)


def test_the_slope_is_that_of_the_variance_map() -> None:
    for name in ("gelu", "tanh", "hardshrink", "softplus"):
        up, down, at_one = moments(name, 1 + 1e-4).square, moments(name, 1 - 1e-4).square, moments(name).square
        assert exact(name).slope == pytest.approx((up - down) / 2e-4 / at_one, rel=1e-6)


def test_random_nonlinearities_agree_with_simulation() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1_000_000, generator=generator)
    slopes = torch.empty_like(z).uniform_(0.1, 0.9, generator=generator)
    y = torch.where(z > 0, z, slopes * z)
    found = exact(nn.RReLU(0.1, 0.9))
    assert found.forward == pytest.approx(y.square().mean().item() ** -0.5, rel=4e-3)
    assert found.gamma == pytest.approx(1 / y.std().item(), rel=4e-3)


# --- names, modules, callables ------------------------------------------------------------------------------


def test_torchs_names_keep_torchs_gains_in_both_directions() -> None:
    for name in ("linear", "conv1d", "conv_transpose3d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        conventional = nn.init.calculate_gain(name)
        assert gain(name) == gain(name, "backward") == conventional
    assert gain("leaky_relu", negative_slope=0.3) == nn.init.calculate_gain("leaky_relu", 0.3)
    assert gain("identity") == 1


@pytest.mark.parametrize("same", [nn.Tanh(), torch.tanh, F.tanh, Tensor.tanh, torch.tanh_])
def test_modules_and_functions_are_recognised_as_the_name(same: Nonlinearity) -> None:
    assert gain(same) == 5 / 3
    assert exact(same).forward == exact("tanh").forward != gain(same)


def test_settings_of_modules_count() -> None:
    assert gain(nn.LeakyReLU(0.2)) == nn.init.calculate_gain("leaky_relu", 0.2)
    assert gain(nn.GELU("tanh")) == gain("gelu_tanh") == pytest.approx(gain(lambda x: F.gelu(x, approximate="tanh")))
    assert gain(nn.GELU("tanh")) != gain(nn.GELU())
    assert gain(nn.ELU(2.0)) == pytest.approx(gain(functools.partial(F.elu, alpha=2.0)), rel=1e-9)
    assert gain(nn.Softplus(3.0)) == pytest.approx(gain(lambda x: F.softplus(x, beta=3)), rel=1e-9)
    assert gain(nn.PReLU(init=0.5)) == gain("prelu", negative_slope=0.5) != gain("prelu")
    assert gain(nn.Hardtanh(-2, 2)) != gain(nn.Hardtanh())
    assert gain(nn.ReLU(inplace=True)) == gain("relu")


def test_a_subclass_is_recognised_unless_it_computes_something_else() -> None:
    class Renamed(nn.Tanh):
        pass

    class Squared(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch calls it so)
            return super().forward(input) ** 2

    assert gain(Renamed()) == 5 / 3
    assert gain(Squared()) == pytest.approx(math.sqrt(2 / 3))


def test_custom_modules_are_integrated_with_their_present_parameters_in_evaluation_mode() -> None:
    class Swish(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beta = nn.Parameter(torch.ones(()))
            self.dropout = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(x * torch.sigmoid(self.beta * x))

    swish = Swish()
    assert gain(swish) == pytest.approx(gain("silu"), rel=1e-6)
    with torch.no_grad():
        swish.beta.fill_(1e6)
    assert gain(swish) == pytest.approx(math.sqrt(2), rel=1e-6)
    assert swish.training
    assert swish.beta.dtype == torch.float32


def test_in_place_callables_and_sequences_work() -> None:
    assert gain(lambda x: x.clamp_(min=0)) == pytest.approx(math.sqrt(2))
    assert gain(nn.Sequential(nn.Hardtanh(), nn.ReLU())) == pytest.approx(gain(lambda x: x.clamp(0, 1)))


def test_callables_in_single_precision_are_welcome() -> None:
    assert gain(lambda x: F.gelu(x.float())) == pytest.approx(gain("gelu"), rel=1e-6)
    assert gain(lambda x: F.hardtanh(x.float()), "backward") == pytest.approx(gain("hardtanh", "backward"), rel=1e-5)


def test_narrow_features_are_seen() -> None:
    assert gain(lambda x: torch.tanh(1000 * (x - 0.1234))) == pytest.approx(1, abs=1e-3)
    assert gain(lambda x: (x * 8).round() / 8) == pytest.approx(1 / math.sqrt(1 + 1 / 768), rel=1e-6)


# --- caching and isolation ----------------------------------------------------------------------------------


def test_callables_are_remembered_by_identity_and_forgotten_with_them() -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x.relu() + x.sin()

    gc.collect()
    before = len(_MEMOS)
    gain(counted)
    assert (len(_MEMOS), calls > 0) == (before + 1, True)
    first = calls
    gain(counted, "backward")
    assert calls == first
    del counted
    gc.collect()
    assert len(_MEMOS) == before


def test_neither_randomness_nor_defaults_matter() -> None:
    def leaky(x: Tensor) -> Tensor:
        torch.rand(3)
        return torch.where(x > 0, x, torch.tensor(0.1) * x)

    known = exact(nn.LeakyReLU(0.1)).forward
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"), torch.inference_mode():
            assert exact(leaky).forward == pytest.approx(known, rel=1e-5)
            assert exact("softplus").forward == pytest.approx(1.041867, abs=1e-6)
            assert gain(nn.PReLU()) == gain("prelu")
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        assert exact(lambda x: x.sin()).backward == pytest.approx(exact("sin").backward)
    assert torch.equal(state, torch.get_rng_state())


# --- bad input ----------------------------------------------------------------------------------------------


class Uncopyable(nn.Module):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("nonlinearity", "error", "message"),
    [
        ("geluu", ValueError, "nonlinearity 'geluu' is not known; closest: gelu.*callable"),
        ("ReLU", ValueError, "closest: relu"),
        ("softmax", NotImplementedError, "normalizes over a dimension"),
        (nn.GLU(), NotImplementedError, "multiplies one half"),
        (F.log_softmax, NotImplementedError, "log_softmax"),
        (nn.ReLU, TypeError, "got the class ReLU"),
        (3, TypeError, "must be a name, a module or a callable, got 3"),
        (None, TypeError, "got None"),
        ("threshold", ValueError, "needs finite threshold and value; pass a module"),
        (lambda x: torch.full_like(x, 3), ValueError, "is constant"),
        (lambda x: 0 * x, ValueError, "is constant"),
        (torch.log, ValueError, "must be finite for every input, got nan at -0.0"),
        (lambda x: 1 / x, ValueError, "no finite second moment"),
        (lambda x: torch.exp(x * x), ValueError, "no finite second moment"),
        (lambda x: x[::2], ValueError, "not elementwise: shape"),
        (lambda x: x.softmax(0), ValueError, "changes with the other entries"),
        (lambda x: x.cumsum(0), ValueError, "changes with the other entries"),
        (lambda x: x + torch.randn_like(x), ValueError, "must be deterministic"),
        (lambda x: torch.sin(1e9 * x), ValueError, "cannot be integrated"),
        (lambda x: 1.0, TypeError, "must return a tensor, got float"),
        (lambda x: x * 1j, ValueError, "real numbers"),
        (nn.Linear(3, 3), ValueError, "Linear failed on a float64 vector"),
        (lambda: 0, ValueError, "failed"),
        (Uncopyable(), ValueError, "Uncopyable cannot be copied in order to try it: no"),
    ],
)
def test_what_has_no_gain_is_refused(nonlinearity: Nonlinearity, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gain(nonlinearity)


def test_a_backward_gain_needs_a_derivative() -> None:
    assert gain(torch.sign) == 1
    assert exact(torch.sign).backward == math.inf
    with pytest.raises(ValueError, match="derivative is zero everywhere"):
        gain(torch.sign, "backward")
    with pytest.raises(ValueError, match="derivative has no finite second moment"):
        gain(lambda x: x.abs().sqrt(), "backward")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="direction must be forward or backward, got 'up'"):
        gain("relu", "up")
    with pytest.raises(ValueError, match=r"negative_slope=0\.1 has a meaning for the names leaky_relu and prelu only"):
        gain("relu", negative_slope=0.1)
    for slope in (math.nan, math.inf, "0.1", True):
        with pytest.raises(ValueError, match="negative_slope must be a finite number"):
            gain("leaky_relu", negative_slope=slope)
    with pytest.raises(ValueError, match="q must be a positive, finite variance, got 0"):
        moments("relu", 0)
