"""A kernel finds the values of the tensors that it may read, and of no others."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

tensors = pytest.importorskip("lightning_init.kernels.tensors")


def lying(tensor):
    return tensors.lying(tensors.TORCH, id(tensor))


def offsets(tensor):
    """Where each value lies, behind the first."""
    places = itertools.product(*map(range, tensor.shape))
    return sorted(sum(i * step for i, step in zip(place, tensor.stride(), strict=True)) for place in places)


def strided():
    memory = torch.zeros(200)
    for sizes in ((), (0,), (1,), (5,), (2, 3), (1, 4), (0, 3), (3, 3), (2, 1, 3), (2, 3, 2), (2, 2, 2, 2)):
        for steps in itertools.product((0, 1, 2, 3, 4, 6, 8), repeat=len(sizes)):
            yield memory.as_strided(sizes, steps, 7)


def test_all_that_lies_together_in_any_order_is_found():
    found = 0
    for tensor in strided():
        dense = offsets(tensor) == list(range(tensor.numel()))
        assert lying(tensor)[1] == (tensor.numel() if dense else -1)
        found += dense
    assert found > 100


def test_a_mutant_that_counts_places_alone_is_wrong():
    """As many values as places from the first to the last, and yet some share one."""
    overlapping = torch.zeros(9).as_strided((3, 3), (2, 2))
    assert max(offsets(overlapping)) + 1 == overlapping.numel()
    assert lying(overlapping)[1] == -1


OTHERS = {
    "bfloat16": lambda: torch.ones(2, dtype=torch.bfloat16),
    "float64": lambda: torch.ones(2, dtype=torch.float64),
    "int32": lambda: torch.ones(2, dtype=torch.int32),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "meta": lambda: torch.ones(2, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "mkldnn": lambda: torch.ones(2, 3).to_mkldnn(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_refused_and_leave_no_error_behind(kind):
    assert lying(OTHERS[kind]())[1] == -1
    assert lying(torch.ones(3))[1] == 3


@pytest.mark.parametrize("transform", [torch.func.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())])
def test_tensors_inside_of_torch_func_are_refused(transform):
    seen = []
    transform(lambda x: (seen.append(lying(x)), x)[1])(torch.ones(3))
    assert [size for _, size in seen] == [-1]


def test_parameters_gradients_and_views_are_found():
    weight = nn.Parameter(torch.randn(4, 5))
    (weight * 2).sum().backward()
    for tensor in (weight, weight.grad, weight[1:], weight.T, weight * 1, weight.detach()[2]):
        assert lying(tensor) == (tensor.data_ptr(), tensor.numel())


def test_what_another_process_has_compiled_works_here():
    """Addresses of functions are others in each process; none may be part of what is kept on disk."""
    code = (
        "import torch; from lightning_init.kernels import tensors; x = torch.ones(3, 4)\n"
        "print(tensors.lying(tensors.TORCH, id(x)) == (x.data_ptr(), 12))"
    )
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert [one.stdout.strip() for one in done] == ["True"] * 2
