"""With InitCallback and a monitor, TensorBoard shows what was planned and predicted beside what was measured."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import InitCallback, SignalMonitor, initialize
from lightning_init.signals import pictures

TAG = "predicted_and_measured/text_summary"
X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


class Lit(LightningModule):
    def __init__(self, lr=0.1):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
        )
        self.lr, self.calls = lr, 0

    def training_step(self, batch, batch_idx):
        self.calls += 1
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class ByHand(Lit):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        self.optimizers().step()


def fit(root, module, *callbacks, steps=2, tune=False, logger=True, **options):
    torch.manual_seed(0)
    trainer = Trainer(
        max_steps=steps,
        logger=TensorBoardLogger(root, name="", version="run") if logger else False,
        callbacks=list(callbacks),
        default_root_dir=root,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    data = DataLoader(TensorDataset(X), batch_size=32)
    if tune:
        Tuner(trainer).lr_find(module, data, num_training=4)
    trainer.fit(module, data)
    return module


def table(root):
    """Layer -> (planned, measured, ratio, predicted, measured, ratio), as text; None without the event."""
    events = EventAccumulator(str(root / "run")).Reload()
    if TAG not in events.Tags()["tensors"]:
        return None
    (event,) = events.Tensors(TAG)
    assert event.step == 0
    lines = event.tensor_proto.string_val[0].decode().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows}


def scalar(root, tag):
    return EventAccumulator(str(root / "run")).Reload().Scalars(tag)[0].value


@pytest.mark.parametrize("kind", [Lit, ByHand])
def test_the_text_of_step_0_has_both_for_every_layer(tmp_path, kind):
    fit(tmp_path, kind(), InitCallback("he_normal", seed=0))
    rows = table(tmp_path)
    assert list(rows) == ["net.0", "net.3", "net.5"]
    for name, fan_in in (("net.0", 8), ("net.3", 64), ("net.5", 64)):
        plan, weight, _, prediction, activation, ratio = rows[name]
        assert float(plan) == pytest.approx(2 / fan_in, rel=1e-3)
        assert float(weight) == pytest.approx(scalar(tmp_path, f"weight_variance/{name}"), rel=1e-3)
        assert float(activation) == pytest.approx(scalar(tmp_path, f"activation_variance/{name}"), rel=1e-3)
        assert float(ratio) == pytest.approx(float(activation) / float(prediction), rel=1e-2)
    measured, square = float(rows["net.0"][1]), X[:32].square().mean().item()
    assert float(rows["net.0"][3]) == pytest.approx(measured * 8 * square, rel=1e-3)  # Var[W] fan_in E[x^2]
    before = float(rows["net.0"][3]) / 2 / 0.9  # of a Gaussian behind relu and dropout
    assert float(rows["net.3"][3]) == pytest.approx(float(rows["net.3"][1]) * 64 * before, rel=1e-3)


def test_training_is_the_same_and_no_forward_is_added(tmp_path):
    shown = fit(tmp_path / "a", Lit(), InitCallback("he_normal", seed=0))
    plain = fit(tmp_path / "b", Lit(), InitCallback("he_normal", seed=0, monitor=False), logger=False)
    assert shown.calls == plain.calls == 2
    assert all(torch.equal(a, b) for a, b in zip(shown.parameters(), plain.parameters(), strict=True))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in shown.modules())


def test_tags_stay_those_of_the_contract(tmp_path):
    def scalars(root, callback):
        fit(root, Lit(), callback)
        return EventAccumulator(str(root / "run")).Reload().Tags()["scalars"]

    assert scalars(tmp_path / "a", InitCallback("he_normal")) == scalars(tmp_path / "b", SignalMonitor())


def test_a_monitor_of_trained_or_foreign_weights_has_no_plan_to_show(tmp_path):
    module = Lit()
    initialize(module, "he_normal")
    fit(tmp_path / "alone", module, SignalMonitor())
    assert table(tmp_path / "alone") is None
    module = fit(tmp_path / "first", Lit(), InitCallback("he_normal"))
    fit(tmp_path / "second", module, InitCallback("he_normal"))
    assert table(tmp_path / "first") is not None
    assert table(tmp_path / "second") is None
    module = fit(tmp_path / "unseen", Lit(), InitCallback("he_normal", monitor=False))
    fit(tmp_path / "seen", module, SignalMonitor())
    assert table(tmp_path / "seen") is None


def test_after_a_learning_rate_finder_the_initial_network_is_still_the_one_of_the_plan(tmp_path):
    fit(tmp_path, Lit(), InitCallback("he_normal", seed=0), tune=True)
    assert float(table(tmp_path)["net.0"][2]) == pytest.approx(1, rel=0.25)


def test_a_forward_that_fails_leaves_no_watch_behind(tmp_path):
    module = Lit()
    module.net[3] = nn.Linear(63, 64)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(tmp_path, module, InitCallback("he_normal", seed=0))
    assert not any(one._forward_pre_hooks or one._forward_hooks for one in module.modules())
    assert torch.overrides._get_current_function_mode() is None


def test_the_depth_profile_draws_what_was_expected(tmp_path):
    monitor = SignalMonitor(images=True)
    fit(tmp_path, Lit(), InitCallback("he_normal", monitor=monitor, seed=0))
    for series in ("activation_variance", "weight_variance"):
        (axes,) = monitor.depth_profile(series).axes
        (line,) = [line for line in axes.get_lines() if line.get_label() == "expected at step 0"]
        drawn = list(line.get_ydata())
        assert drawn == [value for tag, value in monitor.expected.items() if tag.startswith(f"{series}/")]
    history = {"gradient_norm/a": {0: 1.0}, "gradient_norm/b": {0: 1.0}}
    (axes,) = pictures.depth_profile(history, "gradient_norm", monitor.expected).axes
    assert len(axes.get_lines()) == 1
    assert "depth_profile/activation_variance" in EventAccumulator(str(tmp_path / "run")).Reload().Tags()["images"]
