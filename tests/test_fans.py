"""Fans are tested through the real module's forward and backward, not by repeating the formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import measured, normal_
from torch import nn

from lightning_init import fans
from lightning_init.fans import Block, Fans, Layout, layout

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def forward_variance(module, name, found, make_input, crop=lambda y: y):
    """Measured variance of the output for unit-variance inputs, where 1 is right."""
    weight = getattr(module, name)

    def draw():
        normal_(weight, found, "fan_in")
        x = make_input()
        return weight, x, crop(module(x))

    return measured(draw)


def backward_variance(module, name, found, make_input, crop=lambda g: g):
    """Measured variance of the input gradient for unit-variance output gradients, where 1 is right."""
    weight = getattr(module, name)

    def draw():
        normal_(weight, found, "fan_out")
        x = make_input().requires_grad_()
        y = module(x)
        upstream = torch.randn_like(y)
        return weight, upstream, crop(torch.autograd.grad(y, x, upstream)[0])

    return measured(draw)


def of(module, name="weight"):
    return layout(module, name, getattr(module, name).shape)


several = settings(max_examples=6, deadline=None, derandomize=True)
width = st.integers(3, 40)


@several
@given(width, width)
def test_linear(n_in, n_out):
    module = nn.Linear(n_in, n_out, bias=False)
    assert forward_variance(module, "weight", of(module), lambda: torch.randn(64, n_in)) == pytest.approx(1, abs=0.05)
    assert backward_variance(module, "weight", of(module), lambda: torch.randn(64, n_in)) == pytest.approx(1, abs=0.05)


@several
@given(width, width, st.integers(2, 12))
def test_bilinear(n_1, n_2, n_out):
    module = nn.Bilinear(n_1, n_2, n_out, bias=False)
    found = of(module)
    first = lambda: torch.randn(128, n_1)

    class Fed(nn.Module):
        weight = module.weight

        def forward(self, x):
            return module(x, torch.randn(len(x), n_2))

    assert forward_variance(Fed(), "weight", found, first) == pytest.approx(1, abs=0.05)
    assert backward_variance(Fed(), "weight", found, first) == pytest.approx(1, abs=0.05)


@st.composite
def convolutions(draw, kinds):
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.lists(st.integers(1, 3), min_size=dims, max_size=dims))
    dilation = draw(st.lists(st.integers(1, 2), min_size=dims, max_size=dims))
    stride = draw(st.lists(st.integers(1, 3), min_size=dims, max_size=dims))
    n_in, n_out = groups * draw(st.integers(4, 10)), groups * draw(st.integers(4, 10))
    module = kinds[dims](
        n_in, n_out, tuple(kernel), stride=tuple(stride), dilation=tuple(dilation), groups=groups, bias=False
    )
    return module, n_in


def crop_edges(module, tensor):
    """Keep the interior, a whole number of strides long, of a transposed convolution's output."""
    for axis, (k, d, s) in enumerate(zip(module.kernel_size, module.dilation, module.stride, strict=True), start=2):
        edge = d * (k - 1)
        length = (tensor.shape[axis] - 2 * edge) // s * s
        tensor = tensor.narrow(axis, edge, length)
    return tensor


SIZES = {1: (24,), 2: (9, 9), 3: (9, 9, 9)}


@several
@given(convolutions(CONV))
def test_convolution_forward(case):
    module, n_in = case
    size = SIZES[len(module.kernel_size)]
    variance = forward_variance(module, "weight", of(module), lambda: torch.randn(2, n_in, *size))
    assert variance == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "module",
    [nn.Conv2d(30, 30, 3, groups=30, bias=False), nn.ConvTranspose2d(30, 30, 4, stride=2, groups=30, bias=False)],
    ids=str,
)
def test_depthwise(module):
    crop = (lambda y: crop_edges(module, y)) if isinstance(module, nn.ConvTranspose2d) else (lambda y: y)
    make_input = lambda: torch.randn(2, 30, 12, 12)
    assert forward_variance(module, "weight", of(module), make_input, crop) == pytest.approx(1, abs=0.05)
    assert of(module).fans == (Fans(9, 9) if isinstance(module, nn.Conv2d) else Fans(4, 16))


@several
@given(convolutions(CONV))
def test_convolution_backward_ignores_the_stride(case):
    module, n_in = case
    dims = len(module.kernel_size)
    dense = CONV[dims](
        n_in, module.out_channels, module.kernel_size, dilation=module.dilation, groups=module.groups, bias=False
    )
    assert of(dense) == of(module)
    variance = backward_variance(
        dense, "weight", of(module), lambda: torch.randn(2, n_in, *SIZES[dims]), lambda g: crop_edges(dense, g)
    )
    assert variance == pytest.approx(1, abs=0.05)


@several
@given(convolutions(CONV_TRANSPOSE))
def test_transposed_convolution(case):
    module, n_in = case
    make_input = lambda: torch.randn(2, n_in, *SIZES[len(module.kernel_size)])
    forward = forward_variance(module, "weight", of(module), make_input, lambda y: crop_edges(module, y))
    assert forward == pytest.approx(1, abs=0.05)
    assert backward_variance(module, "weight", of(module), make_input) == pytest.approx(1, abs=0.05)


def test_attention_packs_query_key_and_value():
    module = nn.MultiheadAttention(48, 4, bias=False, batch_first=True)
    found = of(module, "in_proj_weight")
    assert [(block.name, block.rows, block.fans) for block in found.blocks] == [
        (name, 48, Fans(48, 48)) for name in ("query", "key", "value")
    ]


def test_attention_with_separate_projections():
    module = nn.MultiheadAttention(48, 4, kdim=10, vdim=20, add_bias_kv=True)
    assert of(module, "q_proj_weight").fans == Fans(48, 48)
    assert of(module, "k_proj_weight").fans == Fans(10, 48)
    assert of(module, "v_proj_weight").fans == Fans(20, 48)
    assert of(module, "bias_k").fans == Fans(48, 48)
    assert of(module, "in_proj_bias") is None


# --- mutants: the checks above must reject wrong fans ----------------------------------------------------------


def one_block(fan_in, fan_out, rows, transposed=False):
    return Layout((Block(rows, Fans(fan_in, fan_out)),), transposed)


@pytest.mark.parametrize(
    ("module", "mutant"),
    [
        pytest.param(nn.Linear(20, 40, bias=False), one_block(40, 20, 40), id="swapped fans"),
        pytest.param(nn.Conv2d(8, 8, 3, groups=4, bias=False), one_block(72, 72, 8), id="ignored groups"),
        pytest.param(
            nn.ConvTranspose2d(8, 8, 4, stride=2, bias=False), one_block(128, 128, 8, True), id="ignored stride"
        ),
        pytest.param(
            nn.ConvTranspose2d(16, 8, 4, stride=2, bias=False), one_block(32, 64, 16, False), id="not transposed"
        ),
    ],
)
def test_mutants_are_rejected(module, mutant):
    n_in = module.weight.shape[1] if isinstance(module, nn.Linear) else module.in_channels
    size = () if isinstance(module, nn.Linear) else (12, 12)
    crop = (lambda y: crop_edges(module, y)) if isinstance(module, nn.ConvTranspose2d) else (lambda y: y)
    variance = forward_variance(module, "weight", mutant, lambda: torch.randn(16, n_in, *size), crop)
    assert variance != pytest.approx(1, abs=0.05)


# --- the registry ----------------------------------------------------------------------------------------------


def test_subclasses_are_known_and_strangers_are_not():
    class MyLinear(nn.Linear):
        pass

    class Stranger(nn.Module):
        pass

    assert of(MyLinear(3, 4)).fans == Fans(3, 4)
    assert not fans.known(Stranger())
    assert layout(Stranger(), "weight", (3, 4)) is None


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), "Linear", int, lambda module, name, shape: None])
def test_only_module_classes_can_be_registered(wrong):
    with pytest.raises(TypeError, match="register takes module classes"):
        fans.register(nn.Linear, wrong)


@pytest.mark.parametrize("wrong", [(3, 5), 3, "fan_in"])
def test_what_a_registered_function_may_return(wrong):
    class Own(nn.Module):
        pass

    fans.register(Own)(lambda module, name, shape: wrong)
    with pytest.raises(TypeError, match=r"registered for Own must return Fans, a Layout or None, got .* for kernel"):
        layout(Own(), "kernel", (3, 5))


def test_views_are_canonical_and_cover_the_parameter():
    module = nn.ConvTranspose2d(6, 8, 3, groups=2)
    found = of(module)
    views = found.views(module.weight)
    assert [tuple(view.shape) for view in views] == [(4, 3, 3, 3)] * 2
    assert [found.block_shape(block, module.weight.shape) for block in found.blocks] == [(4, 3, 3, 3)] * 2
    assert sum(view.numel() for view in views) == module.weight.numel()


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match="mode must be fan_in"):
        Fans(1, 2).by("fan_inn")


def test_one_dimension_has_no_fans():
    with pytest.raises(ValueError, match=r"at least 2 dimensions, got shape \(3,\)"):
        fans.torch_layout((3,))
