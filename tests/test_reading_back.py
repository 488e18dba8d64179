"""What is read back after writing: the population std, whatever the memory looks like."""

import math

import pytest
import torch
from modelling import mlp
from torch import nn

from lightning_init import initialize
from lightning_init.apply import population_std
from lightning_init.initializers import Zeros

OLD_NORMS = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (1 << 20,), ((1 << 20) + 1,), (3 << 20,)])
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1e3, 1e-1), (-5, 1e-3)])
def test_the_population_std_equals_float64(shape, mean, std):
    value = (torch.randn(shape, dtype=torch.float64) * std + mean).float()
    expected = value.double().std(correction=0).item()
    assert population_std(value) == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    "value",
    [torch.randn(6, 5, 4, 3).to(memory_format=torch.channels_last), torch.randn(7, 5).t(), torch.randn(9, 4)[:, 1:3]],
)
def test_the_population_std_of_any_memory_format_and_of_parts(value):
    expected = value.double().std(correction=0).item()
    assert population_std(value) == pytest.approx(expected, rel=1e-6)
    assert population_std(value[:2], value[2:2], value[2:]) == pytest.approx(expected, rel=1e-6)


def largest_copy(model):
    """Return the bytes of the largest tensor that initializing `model` makes anew."""
    with torch.profiler.profile(profile_memory=True) as profile:
        initialize(model, "normal", seed=0)
    return max((event.self_cpu_memory_usage for event in profile.events()), default=0)


def test_reading_back_copies_no_whole_parameter():
    model = nn.Embedding(3000, 1000, padding_idx=1)
    assert largest_copy(model) < model.weight.nbytes / 2


def test_the_population_std_of_edge_cases():
    assert population_std(torch.full((5000,), 0.1)) == pytest.approx(0, abs=1e-7)
    assert math.isnan(population_std(torch.empty(0)))
    assert population_std(torch.tensor([1 + 1j, -1 - 1j])) == pytest.approx(2**0.5)
    assert population_std(torch.randn(50, 40)[:, ::2].t()) == pytest.approx(1, abs=0.1)


def test_constants_are_written_as_given():
    model = mlp(4, 3)
    initialize(model, Zeros(), bias="ones")
    assert not model[0].weight.any()
    assert bool((model[0].bias == 1).all())
