"""The monitor's hooks, files and axis over its life: several fits, loggers, exceptions, checkpoints, copies."""

import copy
import csv
import pickle
from pathlib import Path

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from monitored import BATCHES, Lit, events, fit, loader, mlp, trainer_for, var
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch import nn

from lightning_init.callbacks.signal_monitor import SignalMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*weights_only"),
]


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


def test_the_step_that_failed_is_logged_as_far_as_it_came(tmp_path):
    class Failing(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 3:
                raise FloatingPointError("planned")
            return loss

    monitor = SignalMonitor()
    trainer = trainer_for(tmp_path, monitor)
    with pytest.raises(FloatingPointError, match="planned"):
        trainer.fit(Failing(mlp()), loader())
    logged = events(trainer.logger)
    assert set(logged["activation_variance/net.3"]) == set(logged["weight_variance/net.3"]) == {0, 1, 2, 3}
    assert set(logged["gradient_norm_total"]) == {0, 1, 2}


def test_layers_that_are_replaced_between_epochs_are_measured_as_they_are(tmp_path):
    class Growing(Lit):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[3] = nn.Linear(8, 5)
                self.trainer.strategy.setup_optimizers(self.trainer)

    class Looks(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.seen = float(var(pl_module.net[3].weight)), float(pl_module.net[3].weight.grad.norm())

    model, monitor, looks = Growing(mlp()), SignalMonitor(gradients=("max_abs", "norm")), Looks()
    old = model.net[3]
    trainer_for(tmp_path, monitor, looks, max_epochs=2).fit(model, loader())
    assert monitor.last[1]["weight_variance/net.3"] == pytest.approx(looks.seen[0], rel=1e-5)
    assert monitor.last[1]["gradient_norm/net.3"] >= looks.seen[1]
    assert "activation_variance/net.3" in monitor.last[1]
    assert hooks(model) == len(old._forward_hooks) == 0


@pytest.mark.parametrize("arguments", [{"images": True}, {"histograms_every_n_steps": 5}])
def test_pictures_without_a_logger_that_shows_them_are_refused(tmp_path, arguments):
    for logger, has in ((CSVLogger(tmp_path), "CSVLogger"), (False, "no logger")):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}: only TensorBoard .* has {has}"):
            trainer_for(tmp_path, SignalMonitor(**arguments), logger=logger).fit(Lit(mlp()), loader())
    trainer_for(tmp_path, SignalMonitor(**arguments), fast_dev_run=True).fit(Lit(mlp()), loader())


def test_layers_that_thaw_have_their_place_in_depth_all_the_same(tmp_path):
    class Thawing(Lit):
        def on_train_batch_start(self, batch, batch_idx):
            self.net[0].requires_grad_(batch_idx > 2)

    monitor = SignalMonitor()
    trainer_for(tmp_path, monitor).fit(Thawing(mlp()), loader())
    norms = {tag: list(points) for tag, points in monitor.history().items() if tag.startswith("gradient_norm/")}
    assert [*norms] == ["gradient_norm/net.0", "gradient_norm/net.2", "gradient_norm/net.3"]
    assert norms["gradient_norm/net.0"] == list(range(3, BATCHES))


def test_the_layout_has_a_line_also_for_layers_that_are_frozen_at_first(tmp_path):
    model = Lit(mlp())
    model.net[0].requires_grad_(False)
    trainer = trainer_for(tmp_path, SignalMonitor(), max_steps=1)
    trainer.fit(model, loader())
    (file,) = Path(trainer.logger.log_dir).glob("*.tfevents.*")
    layout = next(raw for raw in RawEventFileLoader(str(file)).Load() if b"custom_scalars__config__" in raw)
    assert b"^gradient_norm/net" in layout
    assert layout.count(b"gradient_norm/") == 3


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


@pytest.mark.parametrize("layers", [3, [3], ("net.*", None)])
def test_layers_are_globs(layers):
    with pytest.raises(TypeError, match="layers must be globs"):
        SignalMonitor(layers=layers)


def test_a_string_is_not_taken_for_a_sequence_of_statistics():
    with pytest.raises(TypeError, match="weights must be a sequence"):
        SignalMonitor(weights="variance")
