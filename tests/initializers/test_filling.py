"""Calling an initializer on any tensor: dtypes, memory formats, blocks, padding, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_init import fans, initializers
from lightning_init.fans import Block, Fans, Layout
from lightning_init.initializers import (
    Constant,
    KaimingNormal,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    XavierUniform,
    Zeros,
)

NAMES = [name for name in initializers.names() if name != "torch_default" and not initializers.get(name).needs_model]
MATRIX_ONLY = ("eye", "identity", "sparse")
CONVOLUTION_ONLY = ("dirac", "delta_orthogonal")
LOW = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
SIZES = st.integers(1, 6)


def shape_for(name):
    return (6, 4) if name in MATRIX_ONLY else (6, 4, 3, 2)


def seeded(initializer, tensor, **kwargs):
    return initializer(tensor, generator=torch.Generator().manual_seed(1), **kwargs)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_is_drawn_in_float32_and_then_cast(name, dtype):
    initializer, shape = initializers.get(name), shape_for(name)
    expected = seeded(initializer, torch.empty(shape)).to(dtype)
    filled = seeded(initializer, torch.empty(shape, dtype=dtype))
    assert torch.equal(filled.float(), expected.float())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.complex32], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_complex_parameters_are_filled(name, dtype):
    filled = seeded(initializers.get(name), torch.full(shape_for(name), math.nan, dtype=dtype))
    assert filled.to(torch.complex64).isfinite().all()


@settings(deadline=None, max_examples=10)
@given(shape=st.tuples(SIZES, SIZES, SIZES, SIZES))
@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*MATRIX_ONLY, *CONVOLUTION_ONLY)])
def test_values_do_not_depend_on_the_memory_format(name, shape):
    initializer = initializers.get(name)
    expected = seeded(initializer, torch.empty(shape))
    channels_last = torch.empty(shape).to(memory_format=torch.channels_last)
    permuted = torch.empty(shape[::-1]).permute(3, 2, 1, 0)
    strided = torch.empty(*shape[:-1], 2 * shape[-1])[..., ::2]
    for tensor in (channels_last, permuted, strided):
        strides = tensor.stride()
        assert torch.equal(seeded(initializer, tensor), expected)
        assert tensor.stride() == strides


def test_what_lies_between_the_entries_of_a_strided_tensor_stays():
    base = torch.zeros(4, 10)
    seeded(Ones(), base[:, ::2])
    assert torch.equal(base, torch.tensor([1.0, 0.0] * 5).expand(4, 10))


@pytest.mark.parametrize("name", NAMES)
def test_the_tensor_itself_is_returned_and_needs_no_graph(name):
    parameter = nn.Parameter(torch.empty(shape_for(name)))
    assert initializers.get(name)(parameter) is parameter
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert parameter.grad_fn is None


@pytest.mark.parametrize("name", NAMES)
def test_with_a_generator_the_global_stream_is_not_touched(name):
    state = torch.get_rng_state()
    seeded(initializers.get(name), torch.empty(shape_for(name)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_values_on_any_number_of_threads(name):
    shape = (130, 70) if name in MATRIX_ONLY else (130, 70, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = seeded(initializers.get(name), torch.empty(shape))
        torch.set_num_threads(4)
        four = seeded(initializers.get(name), torch.empty(shape))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, four)


@pytest.mark.parametrize("name", NAMES)
def test_one_element(name):
    shape = (1, 1) if name in MATRIX_ONLY else (1, 1, 1)
    initializer = initializers.get(name)
    assert initializer(torch.full(shape, math.nan)).isfinite().all()
    assert math.isfinite(initializer.target_std(shape, Fans(1, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_zero_elements_are_left_alone(name):
    for shape in [(0, 4), (4, 0), (0, 0)] if name in MATRIX_ONLY else [(0, 0, 3), (4, 0, 3), (4, 4, 0)]:
        initializer = initializers.get(name)
        assert initializer(torch.empty(shape)).shape == shape
        assert math.isfinite(initializer.target_std(shape, fans.torch_layout(shape).fans))


@pytest.mark.parametrize("name", NAMES)
def test_without_memory_it_is_refused(name):
    with pytest.raises(ValueError, match="is on the meta device"):
        initializers.get(name)(torch.empty(shape_for(name), device="meta"))


def test_lazy_parameters_are_refused():
    with pytest.raises(ValueError, match="lazy module has no shape yet"):
        Normal()(nn.LazyLinear(3).weight)


@pytest.mark.parametrize("tensor", [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 3, dtype=torch.bool)])
def test_integers_are_refused(tensor):
    with pytest.raises(TypeError, match=f"floating-point or complex tensors, got {tensor.dtype}"):
        Ones()(tensor)
    assert not tensor.any()


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"fills a torch.Tensor, got list"):
        Ones()([1.0, 2.0])


@pytest.mark.parametrize("name", ["xavier_uniform", "he_normal", "lecun_normal", "variance_scaling", "uniform_rule"])
def test_fans_are_needed_and_a_vector_has_none(name):
    vector = torch.full((3,), 7.0)
    with pytest.raises(ValueError, match=r"need a weight of at least 2 dimensions, got shape \(3,\)"):
        initializers.get(name)(vector)
    with pytest.raises(ValueError, match="needs fan_in and fan_out"):
        initializers.get(name).check((3,), None)
    with pytest.raises(ValueError, match="needs fan_in"):
        initializers.get(name).target_std((3,), None)
    assert (vector == 7).all()


def test_a_vector_may_have_what_needs_no_fans():
    for initializer in (Normal(), Uniform(), Zeros(), Ones(), Constant(2.0), TruncatedNormal()):
        assert initializer(torch.full((3,), math.nan)).isfinite().all()


def test_a_generator_of_the_wrong_kind_leaves_the_tensor_untouched():
    weight = torch.full((3, 3), 7.0)
    with pytest.raises(TypeError):
        KaimingNormal()(weight, generator=3)
    assert (weight == 7).all()


class TestBlocks:
    def test_elementwise_initializers_fill_blocks_of_equal_fans_in_one_go(self):
        module = nn.LSTM(8, 16)
        layout = fans.layout(module, "weight_ih_l0", (64, 8))
        filled = seeded(Normal(std=0.1), torch.empty(64, 8), layout=layout)
        assert torch.equal(filled, seeded(Normal(std=0.1), torch.empty(64, 8)))

    def test_fans_are_those_of_a_gate_not_of_the_stack(self):
        module = nn.LSTM(512, 1024)
        layout = fans.layout(module, "weight_ih_l0", (4096, 512))
        weight = seeded(XavierUniform(), module.weight_ih_l0, layout=layout)
        assert weight.max().item() == pytest.approx(math.sqrt(6 / (512 + 1024)), rel=1e-3)

    def test_blocks_of_unequal_fans_get_their_own_std(self):
        layout = Layout((Block(1000, Fans(100, 1000)), Block(500, Fans(400, 500))))
        weight = seeded(KaimingNormal("linear"), torch.empty(1500, 1000), layout=layout)
        assert weight[:1000].std().item() == pytest.approx(0.1, rel=5e-3)
        assert weight[1000:].std().item() == pytest.approx(0.05, rel=5e-3)

    def test_the_fans_of_a_transposed_convolution_are_the_modules(self):
        module = nn.ConvTranspose2d(256, 16, 4, stride=2)
        layout = fans.layout(module, "weight", module.weight.shape)
        weight = seeded(KaimingNormal(), module.weight, layout=layout)
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 16 / 4)), rel=2e-2)

    @pytest.mark.parametrize("name", ["normal", "uniform", "he_normal", "orthogonal", "ones", "truncated_normal"])
    @pytest.mark.parametrize("padding_idx", [0, 3, -1])
    def test_only_the_padding_row_is_zero(self, name, padding_idx):
        module = nn.Embedding(10, 4, padding_idx=padding_idx)
        seeded(initializers.get(name), module.weight, layout=fans.layout(module, "weight", (10, 4)))
        assert module.weight.any(dim=1).tolist() == [row != padding_idx % 10 for row in range(10)]

    def test_structured_initializers_see_transposed_blocks_as_out_in(self):
        module = nn.ConvTranspose1d(6, 4, 3)
        weight = seeded(Orthogonal(), module.weight, layout=fans.layout(module, "weight", (6, 4, 3))).detach()
        rows = weight.transpose(0, 1).reshape(4, 18)
        assert torch.allclose(rows @ rows.T, torch.eye(4), atol=1e-5)

    def test_columns_of_a_transposed_block_are_its_inputs(self):
        module = nn.Embedding(6, 10)
        weight = seeded(Sparse(0.7), module.weight, layout=fans.layout(module, "weight", (6, 10)))
        assert (weight == 0).sum(1).tolist() == [7] * 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_values_are_drawn_there(name):
    shape = (130, 70) if name in MATRIX_ONLY else (130, 70, 3)
    generator = torch.Generator("cuda").manual_seed(0)
    initializer = initializers.get(name)
    weight = initializer(torch.full(shape, math.nan, device="cuda"), generator=generator)
    assert weight.device.type == "cuda"
    assert weight.isfinite().all()
    target = initializer.target_std(shape, fans.torch_layout(shape).fans)
    assert weight.std(correction=0).item() == pytest.approx(target, rel=0.05, abs=1e-9)
