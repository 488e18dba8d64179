"""Batches and losses of every form are taken; a batch or a model that nothing can be said of is refused."""

import pytest
import torch
from patients import batch, mlp
from torch import nn
from torch.nn import functional as F

from lightning_init.diagnosis import diagnose


def test_batches_of_every_form():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(32, 4)

        def forward(self, x, scale=1.0):
            return {"logits": self.net(x) * scale}

    x, y = batch(), torch.zeros(32, dtype=torch.long)
    loss = lambda output, target: F.cross_entropy(output["logits"], target)
    for form in ((x, y), [x, y], {"x": x, "labels": y}):
        found = diagnose(Two(), form, loss)
        assert found.profile.loss is not None
        assert found.verdict == "healthy"
    assert diagnose(Two(), x, lambda output: output["logits"].mean()).verdict == "healthy"
    assert diagnose(Two(), {"x": x}).profile.loss is None


@pytest.mark.parametrize(
    ("form", "loss", "error", "match"),
    [
        ("text", None, TypeError, "batch must be a tensor, a tuple or list .*, or a dict, got str"),
        ((), None, ValueError, "batch is empty"),
        ({}, None, ValueError, "batch is empty"),
        (torch.full((4, 32), torch.nan), None, ValueError, "batch must be finite, but 128 of the 128 values"),
        (torch.ones(0, 32), None, ValueError, r"batch holds an empty tensor of shape \(0, 32\)"),
        (torch.ones(4, 31), None, ValueError, r"forward pass fails in layer 0 \(Linear, weight 96x32\): RuntimeError"),
        (torch.ones(4, 32), F.mse_loss, ValueError, "batch holds no target: give"),
        (torch.ones(4, 32), lambda o: o, ValueError, r"scalar tensor, got a tensor of shape \(4, 96\)"),
        (torch.ones(4, 32), lambda o: o.detach().sum(), ValueError, "depend on the parameters"),
        ((torch.ones(4, 32), torch.ones(3)), F.cross_entropy, ValueError, "the loss fails on the model's output"),
    ],
)
def test_what_is_refused(form, loss, error, match):
    with pytest.raises(error, match=match):
        diagnose(mlp(depth=2), form, loss)


def test_models_that_cannot_run_are_refused():
    with pytest.raises(ValueError, match=r"0.weight has no shape yet \(a lazy parameter\)"):
        diagnose(nn.Sequential(nn.LazyLinear(3)), batch())
    with pytest.raises(ValueError, match=r"0.weight is on the meta device"):
        diagnose(nn.Sequential(nn.Linear(32, 3, device="meta")), batch())
    broken = mlp(depth=2)
    broken[2].weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"2.weight holds values that are not finite"):
        diagnose(broken, batch())
    with pytest.raises(ValueError, match="no layer of Flatten ran"):
        diagnose(nn.Flatten(), batch())
