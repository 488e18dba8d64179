"""LooksLinear: mirrored rows and columns, the std that was asked for, and nothing where there are no pairs."""

import pytest
import torch

from lightning_init.initializers import LooksLinear


@pytest.mark.parametrize(("outputs", "inputs", "kernel"), [(8, 8, ()), (7, 9, ()), (5, 12, (3, 3)), (12, 4, (3,))])
def test_looks_linear(outputs, inputs, kernel):
    generator = torch.Generator().manual_seed(0)
    initializer = LooksLinear(1.5, rows=True, columns=inputs // 2)
    weight = initializer(torch.empty(outputs, inputs, *kernel), generator=generator)
    half, columns = outputs // 2, inputs // 2
    assert torch.equal(weight[:half], -weight[half : 2 * half])
    assert torch.equal(weight[:, :columns], -weight[:, columns : 2 * columns])
    assert not weight[:, 2 * columns :].any()
    target = initializer.target_std(weight.shape, None)
    assert weight.square().mean().sqrt().item() == pytest.approx(target, rel=0.2)
    centred = LooksLinear(centred=True)(torch.empty(outputs, inputs, *kernel), generator=generator)
    assert centred.sum(1).abs().max() < 1e-5
    assert centred.square().sum((*range(1, centred.ndim),)).mean().item() == pytest.approx(1, rel=1e-5)


def test_looks_linear_refuses_what_has_no_pairs():
    with pytest.raises(ValueError, match="needs more units than"):
        LooksLinear(columns=3)(torch.empty(4, 5))
    with pytest.raises(ValueError, match="columns of LooksLinear"):
        LooksLinear(columns=-1)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        LooksLinear()(torch.empty(4))
