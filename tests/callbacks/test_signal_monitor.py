"""Every figure in the event file equals a slow reference computed beside it, whatever the training looks like."""

import copy
import csv
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_init.callbacks import signal_monitor
from lightning_init.callbacks.signal_monitor import SignalMonitor, step_index
from lightning_init.signals.alerts import AlertError
from lightning_init.signals.history import as_table

FEATURES, BATCHES = 6, 8
pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*weights_only"),
]


# --- what is trained ------------------------------------------------------------------------------------------------


class Lit(LightningModule):
    """Trains `net` on the mean square of its output."""

    def __init__(self, net, lr=0.1):
        super().__init__()
        self.net, self.lr = net, lr

    def forward(self, x):
        output = self.net(x)
        return output[0] if isinstance(output, tuple) else output

    def training_step(self, batch, batch_idx):
        loss = self(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(100 * batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Gan(LightningModule):
    """Two optimizers, manual optimization; the discriminator takes two steps for one of the generator."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = mlp(), mlp()

    def training_step(self, batch, batch_idx):
        generator, discriminator = self.optimizers()
        for _ in range(2):
            loss = (self.discriminator(batch[0]) - self.discriminator(self.generator(batch[0]).detach())).mean()
            discriminator.zero_grad()
            self.manual_backward(loss)
            discriminator.step()
        loss = self.discriminator(self.generator(batch[0])).square().mean()
        generator.zero_grad()
        self.manual_backward(loss)  # leaves gradients in the discriminator too, which nobody steps on
        generator.step()
        self.log("loss", loss)

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.05) for net in (self.generator, self.discriminator)]


class Shared(nn.Module):
    """One layer and one nonlinearity, each called three times."""

    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(FEATURES, FEATURES), nn.Tanh()

    def forward(self, x):
        for _ in range(3):
            x = self.act(self.layer(x))
        return x


class Recurrent(nn.Module):
    """Outputs that are tuples: LSTM and attention; an embedding whose weight the decoder shares."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, FEATURES, batch_first=True)
        self.attention = nn.MultiheadAttention(FEATURES, 2, batch_first=True)
        self.inner = nn.Linear(FEATURES, FEATURES)
        self.outer = nn.Linear(FEATURES, FEATURES)
        self.outer.weight = self.inner.weight

    def forward(self, x):
        x = self.lstm(x[:, None])[0]
        return self.outer(self.inner(self.attention(x, x, x)[0]))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.net, self.reentrant = mlp(), reentrant

    def forward(self, x):
        return checkpoint(self.net, x.requires_grad_(), use_reentrant=self.reentrant)


def mlp(act=nn.ReLU, **kwargs):
    return nn.Sequential(nn.Linear(FEATURES, 8), act(**kwargs), nn.LayerNorm(8), nn.Linear(8, FEATURES))


def conv():
    return nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(inplace=True),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 2, 3)),
        nn.PReLU(),
        nn.Flatten(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(2 * (FEATURES - 2), 3)),
    )


# --- the reference --------------------------------------------------------------------------------------------------


def leaves(module):
    """The layer's own stored parameters."""
    yield from module.parameters(recurse=False)
    if hasattr(module, "parametrizations"):
        yield from module.parametrizations.parameters()


class Reference(Callback):
    """Copies everything in float64 while it happens; computes when asked."""

    def __init__(self):
        self.outputs = defaultdict(list)  # (index, layer) -> copies
        self.weights = {}  # (index, name) -> copy before the first update of that index
        self.gradients = defaultdict(list)  # (index, layer) -> one energy per optimizer step that reached it
        self.index, self.in_step = 0, False

    def on_fit_start(self, trainer, pl_module):
        for name, module in pl_module.named_modules():
            if not name.endswith("parametrizations.weight"):
                module.register_forward_hook(self.hook(name.replace("_orig_mod.", "")))

    def hook(self, name):
        def keep(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            recomputed = torch._C._current_graph_task_id() != -1
            if self.in_step and not recomputed and isinstance(output, torch.Tensor):
                self.outputs[self.index, name].append(output.detach().double().clone().numpy().ravel())

        return keep

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.index, self.in_step = step_index(trainer), True

    def on_train_batch_end(self, *_):
        self.in_step = False

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        claimed = set()
        for name, module in pl_module.named_modules():
            if "parametrizations" in name:
                continue
            name = name.replace("_orig_mod.", "")
            tied = id(module._parameters.get("weight")) in claimed
            mine = [p for p in leaves(module) if id(p) in stepped - claimed and p.grad is not None]
            claimed |= {id(p) for p in leaves(module)}
            if mine:
                self.gradients[self.index, name].append(sum(p.grad.double().square().sum().item() for p in mine))
            for weight, value in [] if tied else self.weights_of(name, module):
                self.weights.setdefault((self.index, weight), value)

    def weights_of(self, name, module):
        if isinstance(module, nn.LSTM):
            return [(f"{name}.{k}", var(p)) for k, p in module.named_parameters() if "bias" not in k]
        if isinstance(module, nn.MultiheadAttention):
            return [(f"{name}.in_proj_weight", var(module.in_proj_weight))]
        if name and any(True for _ in leaves(module)):
            training = module.training
            weight = module.eval().weight  # eval: reading must not iterate spectral_norm
            module.train(training)
            return [(name, var(weight))]
        return []


def var(*arrays):
    arrays = [a.detach().double().numpy().ravel() if isinstance(a, torch.Tensor) else a for a in arrays]
    return np.concatenate(arrays).var()


def events(logger):
    """What TensorBoard reads in the logger's directory: tag -> {step: value}."""
    accumulator = EventAccumulator(str(logger.log_dir), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: {e.step: e.value for e in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]}


def loader(batches=BATCHES, seed=0):
    x = torch.randn(4 * batches, FEATURES, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x), batch_size=4)


def trainer_for(tmp_path, *callbacks, logger=None, **kwargs):
    kwargs = {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False, "log_every_n_steps": 1, **kwargs}
    logger = TensorBoardLogger(tmp_path) if logger is None else logger
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(callbacks=list(callbacks), logger=logger, **quiet, **kwargs)


def fit(tmp_path, model, monitor=None, *, val=False, **kwargs):
    """Train `model`; return what the event file says and what it should say."""
    reference = Reference()
    trainer = trainer_for(tmp_path, monitor or SignalMonitor(), reference, **kwargs)
    trainer.fit(model, loader(), loader(seed=1) if val else None)
    return events(trainer.logger), reference


def check(logged, reference, every=1):
    """The event file holds exactly the reference's values, at exactly its indices."""
    expected = defaultdict(dict)
    for (index, name), values in reference.outputs.items():
        tag = f"activation_variance/{name}"
        if tag in logged:
            expected[tag][index] = var(*values)
    for (index, name), value in reference.weights.items():
        expected[f"weight_variance/{name}"][index] = value
    totals = defaultdict(float)
    for (index, name), energies in reference.gradients.items():
        expected[f"gradient_norm/{name}"][index] = np.sqrt(np.mean(energies))
        totals[index] += np.mean(energies)
    expected["gradient_norm_total"] = {index: np.sqrt(total) for index, total in totals.items()}
    ours = {tag: values for tag, values in logged.items() if tag.startswith(("weight_", "activation_", "gradient_"))}
    assert set(ours) == set(expected)
    for tag, values in expected.items():
        wanted = {index: value for index, value in values.items() if index % every == 0}
        assert ours[tag] == pytest.approx(wanted, rel=1e-4, abs=1e-12), tag


# --- the figures ----------------------------------------------------------------------------------------------------

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


def raw_events(logger):
    """The events of the logger's file that carry scalars or a layout: (step, tags)."""
    (file,) = Path(logger.log_dir).glob("*.tfevents.*")
    every = (Event.FromString(raw) for raw in RawEventFileLoader(str(file)).Load())
    return [(event.step, [value.tag for value in event.summary.value]) for event in every]


def test_a_step_is_one_event_and_one_call_of_any_other_logger_whatever_the_loggers_interval(tmp_path, monkeypatch):
    calls, log_metrics = [], CSVLogger.log_metrics

    def counted(self, metrics, step=None):
        calls.append((step, set(metrics)))
        return log_metrics(self, metrics, step)

    monkeypatch.setattr(CSVLogger, "log_metrics", counted)
    tensorboard, monitor = TensorBoardLogger(tmp_path), SignalMonitor()
    trainer = trainer_for(tmp_path, monitor, logger=[tensorboard, CSVLogger(tmp_path)], log_every_n_steps=50)
    trainer.fit(Lit(mlp()), loader())
    tags = set(monitor.last[1])
    assert len(tags) == 3 + 4 + 3 + 1  # weights, activations, gradients, total
    points = [(step, set(found)) for step, found in raw_events(tensorboard) if tags & set(found)]
    assert points == [(step, tags) for step in range(BATCHES)]
    assert [call for call in calls if tags & call[1]] == points


def test_the_layout_is_written_once(tmp_path):
    logger, monitor = TensorBoardLogger(tmp_path), SignalMonitor()
    trainer_for(tmp_path, monitor, logger=logger, max_epochs=2).fit(Lit(mlp()), loader())
    assert sum("custom_scalars__config__" in tags for _, tags in raw_events(logger)) == 1


# --- its life -------------------------------------------------------------------------------------------------------


def test_a_second_monitor_is_refused(tmp_path):
    trainer = trainer_for(tmp_path, SignalMonitor(), SignalMonitor(layers=()))
    with pytest.raises(ValueError, match="a Trainer takes one SignalMonitor"):
        trainer.fit(Lit(mlp()), loader())


def test_several_loggers_and_none(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, prefix="p"), CSVLogger(tmp_path), TensorBoardLogger(tmp_path, "other")]
    monitor = SignalMonitor()
    trainer_for(tmp_path, monitor, logger=loggers).fit(Lit(mlp()), loader())
    index, last = monitor.last
    assert index == BATCHES - 1
    with (Path(loggers[1].log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["gradient_norm_total"]]
    assert [int(row["step"]) for row in rows] == list(range(BATCHES))
    for tag, value in last.items():
        assert float(rows[-1][tag]) == pytest.approx(value)
        assert events(loggers[0])[f"p-{tag}"][index] == pytest.approx(value)
        assert events(loggers[2])[tag][index] == pytest.approx(value)
    for logger in (False, CSVLogger(tmp_path)):
        monitor = SignalMonitor()
        trainer_for(tmp_path, monitor, logger=logger, fast_dev_run=logger is not False).fit(Lit(mlp()), loader())
        assert "gradient_norm_total" in monitor.last[1]


def test_barebones_is_told_that_nothing_is_logged(tmp_path):
    monitor = SignalMonitor()
    trainer = Trainer(barebones=True, max_steps=2, accelerator="cpu", callbacks=[monitor])
    with pytest.warns(UserWarning, match="barebones=True"):
        trainer.fit(Lit(mlp()), loader())
    assert monitor.last is None


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_are_gone_after_fit_and_after_an_exception(tmp_path):
    class Failing(Lit):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise RuntimeError("planned")
            return super().training_step(batch, batch_idx)

    model = Lit(mlp())
    trainer_for(tmp_path, SignalMonitor()).fit(model, loader())
    assert hooks(model) == 0
    model = Failing(mlp())
    trainer = trainer_for(tmp_path, SignalMonitor())
    with pytest.raises(RuntimeError, match="planned"):
        trainer.fit(model, loader())
    assert hooks(model) == 0
    assert set(events(trainer.logger)["gradient_norm_total"]) == {0, 1, 2}


def test_a_second_fit_goes_on_where_the_first_ended(tmp_path):
    model, monitor = Lit(mlp()), SignalMonitor()
    trainer = trainer_for(tmp_path, monitor)
    trainer.fit(model, loader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, loader())
    assert set(events(trainer.logger)["gradient_norm_total"]) == set(range(2 * BATCHES))


@pytest.mark.parametrize("change", ["head", "weight_norm"])
def test_a_second_fit_measures_what_the_module_has_become(tmp_path, change):
    class Looks(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.seen = float(var(pl_module.net[3].weight))

    model, monitor, looks = Lit(mlp()), SignalMonitor(), Looks()
    trainer_for(tmp_path, monitor).fit(model, loader())
    if change == "head":
        model.net[3] = nn.Linear(8, 5)
        model.net.append(nn.Tanh())
    else:
        nn.utils.parametrizations.weight_norm(model.net[3])
    trainer_for(tmp_path, monitor, looks).fit(model, loader())
    assert monitor.last[1]["weight_variance/net.3"] == pytest.approx(looks.seen, rel=1e-5)
    assert ("activation_variance/net.4" in monitor.last[1]) == (change == "head")


@pytest.mark.filterwarnings("ignore:Found 6 module.* in eval mode")
def test_a_model_in_eval_mode_is_named_as_the_reason_for_silence(tmp_path, caplog):
    monitor, model = SignalMonitor(), Lit(mlp()).eval()
    with caplog.at_level("INFO"):
        trainer_for(tmp_path, monitor, max_steps=1).fit(model, loader())
    assert "net.0 (the model is in eval mode)" in caplog.text
    assert "activation_variance/net.0" not in monitor.last[1]


def test_resuming_continues_the_axis(tmp_path):
    first = trainer_for(tmp_path, SignalMonitor())
    first.fit(Lit(mlp()), loader())
    first.save_checkpoint(tmp_path / "model.ckpt")
    trainer = trainer_for(tmp_path, SignalMonitor(), max_epochs=2)
    trainer.fit(Lit(mlp()), loader(), ckpt_path=tmp_path / "model.ckpt")
    assert set(events(trainer.logger)["gradient_norm_total"]) == set(range(BATCHES, 2 * BATCHES))


def test_a_checkpoint_brings_all_points_before_it_to_disk(tmp_path):
    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / "model.ckpt")
            self.seen = set(events(trainer.logger)["gradient_norm_total"])
            assert self.seen == set(range(batch_idx + 1))

    look = Look()
    trainer_for(tmp_path, SignalMonitor(), look, max_steps=3).fit(Lit(mlp()), loader())
    assert look.seen == {0, 1, 2}


def test_the_learning_rate_finder_leaves_no_trace(tmp_path):
    model, monitor = Lit(mlp()), SignalMonitor()
    trainer = trainer_for(tmp_path, monitor, max_epochs=5)
    Tuner(trainer).lr_find(model, loader(), num_training=5, early_stop_threshold=None)
    assert hooks(model) == 0
    assert monitor.last is None
    trainer.fit(model, loader())
    assert set(events(trainer.logger)["gradient_norm_total"]) == set(range(5 * BATCHES))


def restored(thing):
    return pickle.loads(pickle.dumps(thing))


def test_it_can_be_pickled_and_copied_before_during_and_after_fit(tmp_path):
    class Copy(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            self.copies = [copy.deepcopy(monitor), restored(monitor), copy.deepcopy(pl_module)]
            pickle.dumps(pl_module.net)  # hooks and all

    monitor, copier = restored(SignalMonitor(layers="net.*")), Copy()
    trainer_for(tmp_path, monitor, copier, max_steps=2).fit(Lit(mlp()), loader())
    for clone in (*copier.copies[:2], copy.deepcopy(monitor)):
        trainer = trainer_for(tmp_path, clone, max_steps=2)
        trainer.fit(Lit(mlp()), loader())
        assert len(events(trainer.logger)["gradient_norm/net.0"]) == 2


def test_layers_select_and_a_glob_that_matches_nothing_is_refused(tmp_path):
    net = mlp()
    logged, _ = fit(tmp_path, Lit(copy.deepcopy(net)), SignalMonitor(layers=["net.0", "net.3"]))
    assert {tag for tag in logged if tag.startswith("weight")} == {"weight_variance/net.0", "weight_variance/net.3"}
    everything, _ = fit(tmp_path / "all", Lit(copy.deepcopy(net)), SignalMonitor())
    assert logged["gradient_norm_total"] == pytest.approx(everything["gradient_norm_total"])
    with pytest.raises(ValueError, match=r"layers: 'nte.0' matches none of the 4 layers of Lit; .*'net.0'"):
        fit(tmp_path, Lit(mlp()), SignalMonitor(layers="nte.0"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"weights": ("varianec",)}, "weights: 'varianec' is no statistic of weights; the closest are 'variance'"),
        ({"gradients": ("saturation",)}, "gradients: 'saturation' is no statistic of gradients"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        SignalMonitor(**arguments)


def test_a_string_is_not_taken_for_a_sequence_of_statistics():
    with pytest.raises(TypeError, match="weights must be a sequence"):
        SignalMonitor(weights="variance")


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
