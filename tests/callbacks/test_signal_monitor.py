"""Every figure in the event file equals a slow reference computed beside it, whatever the training looks like."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from monitored import (
    BATCHES,
    FEATURES,
    Checkpointed,
    Gan,
    Lit,
    Recurrent,
    Shared,
    check,
    conv,
    events,
    fit,
    loader,
    mlp,
    trainer_for,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader, TensorDataset

from lightning_init.callbacks import signal_monitor
from lightning_init.callbacks.signal_monitor import SignalMonitor
from lightning_init.signals.alerts import AlertError
from lightning_init.signals.history import as_table

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*weights_only"),
]


SCENARIOS = {
    "plain": (lambda: Lit(mlp()), {}),
    "in-place relu": (lambda: Lit(mlp(inplace=True)), {}),
    "bounded": (lambda: Lit(mlp(nn.Sigmoid)), {}),
    "convolutions and parametrizations": (lambda: Lit(conv()), {}),
    "shared modules": (lambda: Lit(Shared()), {}),
    "lstm, attention, tied weights": (lambda: Lit(Recurrent()), {}),
    "checkpointing": (lambda: Lit(Checkpointed(reentrant=False)), {}),
    "reentrant checkpointing": (lambda: Lit(Checkpointed(reentrant=True)), {}),
    "accumulation": (lambda: Lit(mlp()), {"accumulate_grad_batches": 3}),
    "clipping": (lambda: Lit(mlp()), {"gradient_clip_val": 1e-3}),
    "clipping by value": (lambda: Lit(mlp()), {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}),
    "validation in between": (
        lambda: Lit(mlp()),
        {"val": True, "val_check_interval": 2, "accumulate_grad_batches": 3, "num_sanity_val_steps": 1},
    ),
    "gan": (Gan, {}),
    "two epochs": (lambda: Lit(mlp()), {"max_epochs": 2, "limit_train_batches": 3}),
    "float64": (lambda: Lit(mlp()), {"precision": "64-true"}),
    "bf16": (lambda: Lit(mlp()), {"precision": "bf16-true"}),
    "autocast": (lambda: Lit(mlp()), {"precision": "bf16-mixed"}),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_event_file_equals_the_reference(tmp_path, name):
    build, options = SCENARIOS[name]
    logged, reference = fit(tmp_path, build(), **options)
    check(logged, reference)
    assert min(logged["gradient_norm_total"]) == 0


@pytest.mark.parametrize(("build", "options"), [(lambda: Lit(mlp()), {"accumulate_grad_batches": 3}), (Gan, {})])
def test_the_step_axis_is_that_of_self_log(tmp_path, build, options):
    logged, _ = fit(tmp_path, build(), **options)
    assert set(logged["gradient_norm_total"]) == set(logged["loss"])


def test_only_every_nth_step_is_logged(tmp_path):
    monitor = SignalMonitor(every_n_steps=3)
    logged, reference = fit(tmp_path, Lit(mlp()), monitor, accumulate_grad_batches=2, max_epochs=2)
    check(logged, reference, every=3)
    assert set(logged["gradient_norm_total"]) == {0, 3, 6}


def test_amp_gradients_are_unscaled(tmp_path):
    """A fused optimizer unscales inside its own step, so that Lightning does not do it before its hook."""
    for fused in (False, True):
        model = Lit(mlp())
        model.configure_optimizers = lambda model=model, fused=fused: torch.optim.SGD(
            model.parameters(), 0.1, fused=fused
        )
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        logged, reference = fit(tmp_path / str(fused), model, precision=None, plugins=[plugin])
        if fused:
            reference.gradients = {k: [v / 1024.0**2 for v in values] for k, values in reference.gradients.items()}
        check(logged, reference)


def test_steps_that_amp_skips_are_marked(tmp_path):
    plugin = MixedPrecision(
        "16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-40)
    )
    monitor = SignalMonitor()
    logged, _ = fit(tmp_path, Lit(mlp()), monitor, precision=None, plugins=[plugin])
    skipped = [step for step, norm in logged["gradient_norm_total"].items() if not np.isfinite(norm)]
    weights = logged["weight_variance/net.0"]
    assert skipped
    assert logged["step_skipped"] == dict.fromkeys(skipped, 1.0)
    assert monitor.history()["step_skipped"] == logged["step_skipped"]
    for step in range(BATCHES - 1):
        assert (weights[step] == weights[step + 1]) == (step in skipped)


def compiled(whole, backend):
    """A module to fit whose layers, or the whole of which, are compiled."""
    torch.manual_seed(0)
    if whole:
        return torch.compile(Lit(mlp()), backend=backend)
    return Lit(torch.compile(mlp(), backend=backend, fullgraph=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo asks for it
@pytest.mark.parametrize("whole", [False, True], ids=["submodule", "LightningModule"])
def test_compiled_modules_have_the_same_tags_and_values_and_no_more_graphs(tmp_path, whole):
    graphs = {}
    options = {"accumulate_grad_batches": 3, "val_check_interval": 2}
    for monitored in (False, True):
        torch._dynamo.reset()
        counter = CompileCounter()
        trainer = trainer_for(tmp_path, *([SignalMonitor()] if monitored else []), **options)
        trainer.fit(compiled(whole, counter), loader(), loader(seed=1))
        graphs[monitored] = counter.frame_count
    assert graphs[True] == graphs[False]  # over all steps: none compiles again
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain, _ = fit(tmp_path / "plain", Lit(mlp()), val=True, **options)
    logged = events(trainer.logger)
    assert set(logged) == set(plain)
    for tag in plain:
        assert logged[tag] == pytest.approx(plain[tag], rel=1e-3, abs=1e-9), tag


# --- alerts ---------------------------------------------------------------------------------------------------------


def zeroed():
    net = mlp()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return Lit(net)


def test_alerts_are_warnings_text_and_objects(tmp_path):
    monitor = SignalMonitor()
    trainer = trainer_for(tmp_path, monitor)
    with pytest.warns(UserWarning, match=r"SignalMonitor: step \d, net.0: .* \(and so in \d other layers") as caught:
        trainer.fit(zeroed(), loader())
    assert len([one for one in caught if "all units have the same weights" in str(one.message)]) == 1
    assert ("symmetric", "net.0", 0) in [(alert.kind, alert.layer, alert.step) for alert in monitor.alerts]
    accumulator = EventAccumulator(trainer.logger.log_dir)
    accumulator.Reload()
    assert "alerts/symmetric/text_summary" in accumulator.Tags()["tensors"]


def test_what_a_finetuning_callback_adds_later_is_not_frozen_by_accident(tmp_path):
    class Tuned(Lit):
        def __init__(self):
            super().__init__(mlp())
            self.backbone = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.BatchNorm1d(FEATURES))

        def forward(self, x):
            return super().forward(self.backbone(x))

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1)  # the normalization gets gradients from the start
    monitor = SignalMonitor()
    trainer_for(tmp_path, monitor, finetuning, max_epochs=2).fit(Tuned(), loader())
    assert monitor.alerts == []


def test_alerts_can_stop_the_training(tmp_path):
    monitor = SignalMonitor(alerts="raise")
    with pytest.raises(AlertError, match=r"step 0, net.0: all units"):
        trainer_for(tmp_path, monitor).fit(zeroed(), loader())
    assert {alert.kind for alert in monitor.alerts} == {"symmetric"}


def test_alerts_can_be_switched_off(tmp_path):
    monitor = SignalMonitor(alerts=False)
    trainer_for(tmp_path, monitor).fit(zeroed(), loader())
    assert monitor.alerts == []


# --- cadence, history -----------------------------------------------------------------------------------------------


def test_a_cadence_may_be_any_callable(tmp_path):
    logged, _ = fit(tmp_path, Lit(mlp()), SignalMonitor(lambda step: step in (0, 5)))
    assert set(logged["gradient_norm_total"]) == {0, 5}


def test_history_reads_back_what_was_logged(tmp_path):
    monitor = SignalMonitor()
    logger = TensorBoardLogger(tmp_path, prefix="p")
    with pytest.raises(RuntimeError, match="TensorBoardLogger"):
        monitor.history()
    trainer_for(tmp_path, monitor, logger=logger).fit(Lit(mlp()), loader())
    expected = {f"{tag}": values for tag, values in events(logger).items() if "loss" not in tag and "epoch" not in tag}
    assert {f"p-{tag}": values for tag, values in monitor.history().items()} == expected
    table = as_table(monitor.history())
    assert table.shape == (BATCHES, len(expected))
    assert table["gradient_norm_total"][3] == expected["p-gradient_norm_total"][3]


def test_history_has_all_of_the_monitors_series_and_none_of_the_users(tmp_path):
    class Busy(Lit):
        def training_step(self, batch, batch_idx):
            for name in ("weight_decay", "gradient_penalty", "update_count", "x-activation_time/net.0"):
                self.log(name, 1.0)
            return super().training_step(batch, batch_idx)

    net = nn.Sequential(OrderedDict({"en-de": nn.Linear(FEATURES, 2)}))
    for prefix in ("", "my-own"):
        monitor = SignalMonitor()
        trainer_for(tmp_path, monitor, logger=TensorBoardLogger(tmp_path, prefix=prefix)).fit(Busy(net), loader())
        assert set(monitor.history()) == set(monitor.last[1])


def test_pictures_are_drawn_from_what_was_logged_and_put_on_tensorboard_when_asked(tmp_path):
    monitor = SignalMonitor(images=True)
    logged, _ = fit(tmp_path, Lit(mlp()), monitor)
    (mesh,) = monitor.heat_map("weight_variance").axes[0].collections
    assert mesh.get_array()[0].tolist() == list(logged["weight_variance/net.0"].values())
    assert monitor.depth_profile().axes[0].get_lines()[-1].get_label() == f"step {BATCHES - 1}"
    accumulator = EventAccumulator(str(next(tmp_path.rglob("*.tfevents.*")).parent))
    accumulator.Reload()
    series = ("weight_variance", "activation_variance", "gradient_norm")
    assert set(accumulator.Tags()["images"]) == {
        f"{kind}/{x}" for kind in ("heat_map", "depth_profile") for x in series
    }


# --- everything else that can be asked for ---------------------------------------------------------------------------


def test_histograms_and_updates_are_logged_when_asked_for(tmp_path):
    monitor = SignalMonitor(updates=("ratio",), histograms_every_n_steps=4)
    logged, _ = fit(tmp_path, Lit(mlp()), monitor)
    assert set(logged["update_ratio/net.0"]) == set(range(BATCHES))
    accumulator = EventAccumulator(str(next(tmp_path.rglob("*.tfevents.*")).parent), size_guidance={"histograms": 0})
    accumulator.Reload()
    tags = {f"{signal}_histogram/net.0" for signal in ("weight", "activation", "gradient")}
    assert tags <= set(accumulator.Tags()["histograms"])
    assert [event.step for event in accumulator.Histograms("weight_histogram/net.0")] == [0, 4]


def test_totals_only(tmp_path):
    logged, reference = fit(tmp_path, Lit(mlp()), SignalMonitor(layers=()))
    assert set(logged) == {"gradient_norm_total", "loss", "epoch"}
    expected = sum(energies[0] for (index, _), energies in reference.gradients.items() if index == 2) ** 0.5
    assert logged["gradient_norm_total"][2] == pytest.approx(expected, rel=1e-5)


def test_ranks_are_pooled_with_sync_dist(tmp_path):
    """Two processes, each with half of the data as its one batch, log what one process with all of it logs."""
    data, net, logged = TensorDataset(torch.randn(32, FEATURES)), mlp(), {}
    for devices in (1, 2):
        logger = TensorBoardLogger(tmp_path, name=str(devices), version=0)
        options = {"strategy": "ddp_fork", "devices": 2} if devices == 2 else {}
        trainer = trainer_for(tmp_path, SignalMonitor(sync_dist=True), logger=logger, max_epochs=3, **options)
        trainer.fit(Lit(copy.deepcopy(net)), DataLoader(data, batch_size=32 // devices))
        logged[devices] = events(logger)
    assert set(logged[1]) == set(logged[2])
    for tag in set(logged[1]) - {"loss", "epoch"}:
        assert logged[2][tag] == pytest.approx(logged[1][tag], rel=1e-4), tag


def test_layers_without_activations_are_reported_once(tmp_path, caplog):
    with caplog.at_level("INFO"):
        fit(tmp_path, Lit(Recurrent()))
    told = [record.message for record in caplog.records if "no activations" in record.message]
    assert len(told) == 1
    assert "net.attention.out_proj (MultiheadAttention uses its weights without calling it)" in told[0]


@pytest.mark.parametrize("mutant", ["after the update", "after clipping", "scaled index"])
def test_the_reference_rejects_mutants(tmp_path, monkeypatch, mutant):
    """What these tests must notice: weights read too late, norms of clipped gradients, another step axis."""
    before = SignalMonitor.on_before_optimizer_step
    if mutant == "scaled index":
        monkeypatch.setattr(signal_monitor, "step_index", lambda trainer: trainer.global_step)
    else:
        monkeypatch.setattr(SignalMonitor, "on_before_optimizer_step", lambda *_: None)
        late = Lit.optimizer_step if mutant == "after the update" else Lit.configure_gradient_clipping

        def patched(self, *args, **kwargs):
            late(self, *args, **kwargs)
            before(self.trainer.callbacks[0], self.trainer, self, self.trainer.optimizers[0])

        monkeypatch.setattr(Lit, late.__name__, patched)
    if mutant == "scaled index":
        logged, reference = fit(tmp_path, Gan())
    else:
        logged, reference = fit(tmp_path, Lit(mlp()), accumulate_grad_batches=2, gradient_clip_val=1e-3)
    with pytest.raises(AssertionError):
        check(logged, reference)
