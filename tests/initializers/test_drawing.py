"""What the kernel draws is what torch draws, to the bit, and so is the generator that it leaves behind."""

import pytest
import torch
from torch import nn

from lightning_init import initialize, kernels
from lightning_init.initializers import KaimingNormal, drawing

LARGE = drawing._LARGE
SIZES = [LARGE, LARGE + 1, 624 * 30, 624 * 30 + 16, 8 * 624 * 5, 8 * 624 * 5 - 1, 100_003]
LAWS = [
    ("uniform", -0.1, 0.1),
    ("uniform", 0.0, 3.0),
    ("normal", 0.0, 1.0),
    ("normal", 2.0, 1e-3),
    ("normal", 0.0, 0.0),
]


class Own(torch.Tensor):
    """May keep its values elsewhere."""


@pytest.fixture
def twister(monkeypatch):
    kernel = kernels.load("twister")
    if kernel is None:
        pytest.skip("Numba is not installed: pip install lightning-init[fast]")
    monkeypatch.setattr(drawing, "_twister", kernel)
    compare = drawing._equals_torch
    compare.cache_clear()
    yield kernel
    compare.cache_clear()


@pytest.fixture
def equal(twister):
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        pytest.skip("torch may make its normal numbers in another way on this processor")


def streams(seed=0, before=0):
    """Two generators in the same state, after so many numbers."""
    pair = [torch.Generator().manual_seed(seed) for _ in range(2)]
    for generator in pair:
        torch.rand(before, generator=generator)
    return pair


def refuse(monkeypatch):
    """Let the kernel fail whoever uses it."""

    def fail(*args):
        raise AssertionError("drawn by the kernel")

    monkeypatch.setattr(drawing, "_fill", fail)


@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_the_kernel_draws_what_torch_draws_on_this_processor(equal, law):
    assert drawing._equals_torch(law)


@pytest.mark.parametrize(("law", "a", "b"), LAWS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("before", [0, 1, 623, 624, 1000])
def test_values_and_generator_are_those_of_torch(equal, law, a, b, size, before):
    ours, theirs = torch.empty(2, size)
    mine, other = streams(size, before)
    for _ in range(2):
        getattr(drawing, f"{law}_")(ours, a, b, mine)
        getattr(theirs, f"{law}_")(a, b, generator=other)
        assert torch.equal(ours, theirs)
        assert torch.equal(mine.get_state(), other.get_state())
    assert torch.equal(torch.randn(3, generator=mine), torch.randn(3, generator=other))


def test_a_normal_number_that_the_generator_has_in_store_stays_there(equal):
    mine, other = streams()
    for generator in (mine, other):
        torch.randn(1, generator=generator)  # the second of the pair waits
    drawing.normal_(torch.empty(LARGE), 0.0, 1.0, mine)
    torch.empty(LARGE).normal_(generator=other)
    assert torch.equal(torch.randn(1, generator=mine), torch.randn(1, generator=other))


def test_the_kernel_is_used(equal, monkeypatch):
    refuse(monkeypatch)
    monkeypatch.setattr(drawing, "_equals_torch", lambda law: True)
    for law in ("uniform_", "normal_"):
        with pytest.raises(AssertionError, match="drawn by the kernel"):
            getattr(drawing, law)(nn.Parameter(torch.empty(LARGE), requires_grad=False), -1.0, 1.0, streams()[0])


OTHERS = {
    "small": lambda: torch.empty(LARGE - 1),
    "float64": lambda: torch.empty(LARGE, dtype=torch.float64),
    "bfloat16": lambda: torch.empty(LARGE, dtype=torch.bfloat16),
    "transposed": lambda: torch.empty(128, 256).T,
    "every other": lambda: torch.empty(2 * LARGE)[::2],
    "of a subclass": lambda: torch.empty(LARGE).as_subclass(Own),
    "of inference": lambda: torch.inference_mode()(torch.empty)(LARGE),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_torch_draws_what_the_kernel_cannot(twister, monkeypatch, kind):
    refuse(monkeypatch)
    monkeypatch.setattr(drawing, "_equals_torch", lambda law: True)
    mine, other = streams()
    with torch.inference_mode(kind == "of inference"):
        ours, theirs = OTHERS[kind](), OTHERS[kind]()
        drawing.normal_(ours, 0.0, 1.0, mine)
        theirs.normal_(generator=other)
    assert torch.equal(ours, theirs)


def test_torch_draws_from_the_global_stream(twister, monkeypatch):
    refuse(monkeypatch)
    torch.manual_seed(3)
    ours = torch.empty(LARGE)
    drawing.uniform_(ours, -1.0, 1.0, None)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.empty(LARGE).uniform_(-1, 1))


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (16777216.0, 16777220.0), (-3e38, 3e38)])
def test_torch_draws_where_a_number_may_be_rounded_up_to_the_bound(twister, monkeypatch, low, high):
    refuse(monkeypatch)
    mine, other = streams()
    ours, theirs = torch.empty(2, LARGE)
    try:
        theirs.uniform_(low, high, generator=other)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=str(error)[:20]):
            drawing.uniform_(ours, low, high, mine)
    else:
        drawing.uniform_(ours, low, high, mine)
        assert torch.equal(ours, theirs)


def test_autograd_learns_of_what_was_written(equal):
    weight, x = torch.ones(LARGE), torch.ones(LARGE, requires_grad=True)
    loss = (weight * x).sum()
    drawing.normal_(weight, 0.0, 1.0, streams()[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_leaf_that_requires_a_gradient_is_refused_as_by_torch(twister):
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        drawing.normal_(torch.empty(LARGE, requires_grad=True), 0.0, 1.0, streams()[0])


@pytest.mark.parametrize("std", [-1.0, float("nan")])
def test_a_std_that_torch_refuses_is_refused(equal, std):
    with pytest.raises(RuntimeError, match="normal expects std"):
        drawing.normal_(torch.empty(LARGE), 0.0, std, streams()[0])


TRANSFORMS = {
    "vmap": lambda fill, x: torch.func.vmap(fill, randomness="different")(x[None]),
    "grad": lambda fill, x: torch.func.grad(lambda x: fill(x).sum())(x),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_torch_draws_inside_of_its_transforms(equal, transform):
    def ours(x):
        values = x.clone()
        drawing.normal_(values, 0.0, 1.0, streams()[0])
        return values * x

    def theirs(x):
        return x.clone().normal_(generator=streams()[0]) * x

    x = torch.ones(LARGE)
    assert torch.equal(TRANSFORMS[transform](ours, x), TRANSFORMS[transform](theirs, x))


MUTANTS = {
    "another order of operations": lambda values: values.mul_(3.0).div_(3.0),
    "one number in 65,541": lambda values: values[-1].add_(1e-3),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_a_kernel_that_draws_other_numbers_is_not_used(equal, monkeypatch, law, mutant):
    fill = drawing._fill

    def wrong(law, values, generator, a, b):
        fill(law, values, generator, a, b)
        MUTANTS[mutant](values)

    monkeypatch.setattr(drawing, "_fill", wrong)
    assert not drawing._equals_torch(law)
    mine, other = streams()
    ours, theirs = torch.empty(2, LARGE)
    getattr(drawing, f"{law}_")(ours, -1.0, 1.0, mine)
    getattr(theirs, f"{law}_")(-1.0, 1.0, generator=other)
    assert torch.equal(ours, theirs)


def test_a_kernel_that_leaves_another_state_is_not_used(twister, monkeypatch):
    fill = drawing._fill

    def wrong(law, values, generator, a, b):
        fill(law, values, generator, a, b)
        torch.rand(1, generator=generator)

    monkeypatch.setattr(drawing, "_fill", wrong)
    assert not drawing._equals_torch("uniform")


def test_generators_with_another_state_are_left_to_torch(twister, monkeypatch):
    monkeypatch.setattr(drawing, "_STATE", 5000)
    assert not drawing._equals_torch("uniform")


def test_it_is_loaded_for_large_models_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(drawing, "_twister", None)
    monkeypatch.setattr(kernels, "load", asked.append)
    initialize(nn.Linear(100, 100), "normal")
    assert asked == []
    monkeypatch.setattr(drawing, "_WORTH", 10_000)
    initialize(nn.Linear(100, 100), "normal")
    assert asked == ["twister"]


def test_it_is_not_loaded_for_what_lies_on_a_device(monkeypatch):
    asked = []
    monkeypatch.setattr(drawing, "prepare", asked.append)
    model = nn.Linear(100, 100)
    monkeypatch.setattr(nn.Parameter, "is_cpu", False, raising=False)
    initialize(model, "normal")
    assert asked == [0]


def test_a_model_has_the_same_weights_with_and_without(equal, monkeypatch):
    def made():
        model = nn.Sequential(nn.Conv2d(3, 200, 7), nn.Linear(300, 400), nn.LSTM(100, 150), nn.Linear(300, 100))
        initialize(model, KaimingNormal(), seed=5)
        return model.state_dict()

    ours = made()
    monkeypatch.setattr(drawing, "_twister", None)
    for name, theirs in made().items():
        assert torch.equal(ours[name], theirs), name
