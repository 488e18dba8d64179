"""Values of torch.nn.init, to the bit, on plain weights and the same generator state."""

import math

import pytest
import torch
from torch import nn
from torch.nn import init

from lightning_init import fans, initializers
from lightning_init.initializers import (
    Constant,
    Dirac,
    Eye,
    KaimingNormal,
    KaimingUniform,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncNormal,
    Uniform,
    XavierNormal,
    XavierUniform,
    Zeros,
)

MATRICES = [(1, 1), (1, 7), (7, 1), (2, 3), (16, 16), (17, 33), (300, 100), (100, 300), (512, 256)]
CONVOLUTIONS = [(4, 3, 5), (8, 8, 1), (3, 8, 2), (16, 3, 3, 3), (5, 16, 4, 2), (6, 4, 3, 3, 3)]

PAIRS = [
    (Uniform(), lambda w, g: init.uniform_(w, generator=g)),
    (Uniform(-0.3, 0.7), lambda w, g: init.uniform_(w, -0.3, 0.7, generator=g)),
    (Normal(), lambda w, g: init.normal_(w, generator=g)),
    (Normal(1.5, 0.02), lambda w, g: init.normal_(w, 1.5, 0.02, generator=g)),
    (TruncNormal(), lambda w, g: init.trunc_normal_(w, generator=g)),
    (TruncNormal(0.1, 0.02), lambda w, g: init.trunc_normal_(w, 0.1, 0.02, generator=g)),
    (TruncNormal(0.0, 2.0, 0.5, 1.0), lambda w, g: init.trunc_normal_(w, 0.0, 2.0, 0.5, 1.0, generator=g)),
    (XavierUniform(), lambda w, g: init.xavier_uniform_(w, generator=g)),
    (XavierUniform(1.7), lambda w, g: init.xavier_uniform_(w, 1.7, generator=g)),
    (XavierNormal(), lambda w, g: init.xavier_normal_(w, generator=g)),
    (XavierNormal(0.3), lambda w, g: init.xavier_normal_(w, 0.3, generator=g)),
    (KaimingUniform(), lambda w, g: init.kaiming_uniform_(w, generator=g)),
    (KaimingNormal(), lambda w, g: init.kaiming_normal_(w, generator=g)),
    (
        KaimingUniform("leaky_relu", a=math.sqrt(5)),
        lambda w, g: init.kaiming_uniform_(w, a=math.sqrt(5), generator=g),
    ),
    (
        KaimingNormal("leaky_relu", "fan_out", 0.2),
        lambda w, g: init.kaiming_normal_(w, 0.2, "fan_out", "leaky_relu", generator=g),
    ),
    *(
        (
            Kaiming(nonlinearity, mode),
            lambda w, g, f=function, n=nonlinearity, m=mode: f(w, mode=m, nonlinearity=n, generator=g),
        )
        for Kaiming, function in [(KaimingUniform, init.kaiming_uniform_), (KaimingNormal, init.kaiming_normal_)]
        for nonlinearity in ("relu", "tanh", "sigmoid", "selu", "linear", "conv2d")
        for mode in ("fan_in", "fan_out")
    ),
    (Orthogonal(), lambda w, g: init.orthogonal_(w, generator=g)),
    (Orthogonal(1.3), lambda w, g: init.orthogonal_(w, 1.3, generator=g)),
    (Constant(0.25), lambda w, g: init.constant_(w, 0.25)),
    (Zeros(), lambda w, g: init.zeros_(w)),
    (Ones(), lambda w, g: init.ones_(w)),
]


def ids(pairs):
    return [str(initializer) for initializer, _ in pairs]


@pytest.fixture(autouse=True)
def one_thread():
    """torch's own orthogonal_ rounds differently for every number of threads; ours is that of one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=ids(PAIRS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_values_as_torch_with_a_generator(ours, theirs, dtype):
    for shape in MATRICES + CONVOLUTIONS:
        mine, expected = generator(), generator()
        assert torch.equal(
            ours(torch.full(shape, math.nan, dtype=dtype), generator=mine),
            theirs(torch.full(shape, math.nan, dtype=dtype), expected),
        )
        assert torch.equal(mine.get_state(), expected.get_state())


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=ids(PAIRS))
def test_same_values_as_torch_from_the_global_stream_and_through_the_module(ours, theirs):
    for layer in (nn.Linear(20, 30), nn.Conv1d(6, 4, 3), nn.Conv2d(3, 8, 3), nn.Conv3d(2, 4, 3)):
        layout = fans.layout(layer, "weight", layer.weight.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            theirs(layer.weight, None)
            expected = layer.weight.detach().clone()
            torch.manual_seed(11)
            ours(layer.weight, layout=layout)
        assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("extra", [-1, 0, 1, 15, 16, 17, 1 << 18])
def test_what_is_drawn_in_parts_is_what_torch_draws_at_once(dtype, extra):
    size, mine, expected = 2 * (1 << 18) + extra, generator(), generator()
    drawn = torch.empty(size, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    init.normal_(drawn, 0.5, 0.1, generator=expected)
    assert torch.equal(Normal(0.5, 0.1)(torch.empty(size, dtype=dtype), generator=mine), drawn.to(dtype))
    assert torch.equal(mine.get_state(), expected.get_state())


@pytest.mark.parametrize("shape", MATRICES)
def test_eye_is_torchs(shape):
    assert torch.equal(Eye()(torch.empty(shape)), init.eye_(torch.empty(shape)))
    assert torch.equal(Eye(gain=-3.0)(torch.empty(shape)), -3 * init.eye_(torch.empty(shape)))


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_dirac_is_torchs(shape):
    assert torch.equal(Dirac()(torch.empty(shape)), init.dirac_(torch.empty(shape)))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_dirac_takes_its_groups_from_the_module(convolution, groups):
    layer = convolution(12, 18, 3, groups=groups)
    expected = init.dirac_(torch.empty_like(layer.weight), groups)
    assert torch.equal(Dirac()(layer.weight, layout=fans.layout(layer, "weight", layer.weight.shape)), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", MATRICES)
def test_sparse_is_torchs_from_one_stream(shape, sparsity):
    """torch takes the zeros' places from the global stream, whatever its `generator` is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = init.sparse_(torch.empty(shape), sparsity, 0.3)
        torch.manual_seed(6)
        state = torch.get_rng_state()
        assert torch.equal(Sparse(sparsity, 0.3)(torch.empty(shape), generator=generator()), expected)
        assert torch.equal(torch.get_rng_state(), state)


def test_every_function_of_torch_has_a_name():
    functions = {name.removesuffix("_") for name in init.__all__ if name.endswith("_")}
    assert functions <= set(initializers.names())
