"""`InitCallback("auto")` looks at the first training batch, and training sees nothing of that."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import InitCallback
from lightning_init.auto import Auto

X = 3 * torch.ones(16, 4)


class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        (x,) = batch
        self.seen.append(torch.rand(1))
        y = self.a(x)
        return self.b(y.tanh() if x.sum() > 0 else y).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(tmp_path, module, initializer, data=True, **options):
    torch.manual_seed(0)
    callback = InitCallback(initializer, monitor=False, seed=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_epochs=1, callbacks=[callback], default_root_dir=tmp_path, enable_checkpointing=False, **quiet, **options
    )
    trainer.fit(module, DataLoader(TensorDataset(X), batch_size=8, shuffle=True) if data else [])
    return callback


def test_a_training_step_that_decides_by_its_data_is_followed(tmp_path):
    module = Lit()
    report = fit(tmp_path, module, "auto").report
    assert "inputs of mean square 9" in report.entries[0].why
    assert "behind tanh" in report.entries[2].why
    plain = Lit()
    fit(tmp_path, plain, "orthogonal")
    assert torch.equal(torch.cat(module.seen[-2:]), torch.cat(plain.seen))


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_batch_in_another_precision_than_the_module_is_followed_too(tmp_path, precision):
    """Lightning converts the module later than the first batch is looked at."""
    report = fit(tmp_path, Lit(), "auto", precision=precision).report
    assert "behind tanh" in report.entries[2].why


def test_a_correction_is_a_calibration(tmp_path):
    report = fit(tmp_path, Lit(), Auto(correct=True)).report
    assert "Auto: output variance" in report.entries[0].why


def test_a_batch_of_its_own_is_what_it_is_corrected_on(tmp_path):
    module, own = Lit(), torch.linspace(-1, 1, 32).view(8, 4)
    report = fit(tmp_path, module, Auto(batch=(own,))).report
    assert "Auto: output variance" in report.entries[0].why
    assert module.a(own).var(correction=0).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.filterwarnings(
    "ignore:auto cannot follow", "ignore:.*`train_dataloader` has length 0", "ignore:Total length"
)
def test_without_data_it_does_without(tmp_path):
    assert "not followed" in fit(tmp_path, Lit(), "auto", data=False).report.entries[0].why
