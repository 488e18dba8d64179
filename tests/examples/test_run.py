"""One run: what it leaves behind, that it repeats itself, and that the initializer changes nothing but the weights."""

import math

import lightning as pl
import pytest
import torch
from making import composed, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from examples import run
from examples.classifier import Classifier
from examples.errors import UsageError
from examples.result import Result

CHOICES = {"initializer": "x", "model": "mlp", "data": "digits", "optimizer": "adam"}


def executed(directory, *overrides, in_sweep=True) -> Result:
    config = tiny(*overrides)
    result = run.start(config, CHOICES, list(overrides))
    run.execute(config, result, directory, in_sweep=in_sweep)
    return result


def scalars(directory):
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def test_the_result_equals_the_event_files(tmp_path):
    result = executed(tmp_path, "initializer=he_normal")
    events = scalars(tmp_path)
    assert result.status == "ok"
    assert result.layers == ["model.linear1", "model.linear2", "model.head"]
    for metric in ("val_accuracy", "val_loss", "train_loss"):
        assert [e.value for e in events[metric]] == pytest.approx(result.history[metric], rel=1e-6)
    assert len(events["weight_variance/model.head"]) == 4  # 64 samples in batches of 32, two epochs
    for when, position in (("first", 0), ("last", -1)):
        for signal, values in result.profile[when].items():
            assert values == [events[f"{signal}/{layer}"][position].value for layer in result.layers]


def test_the_profile_describes_the_untouched_network(tmp_path):
    result = executed(tmp_path, "initializer=ones")
    assert result.profile["first"]["weight_variance"] == [0, 0, 0]
    assert max(result.profile["last"]["weight_variance"]) > 0


def test_hyperparameters_carry_real_metrics(tmp_path):
    executed(tmp_path, "initializer=zeros", "seed=3", "optimizer.lr=0.25")
    summary = EventAccumulator(str(tmp_path)).Reload().summary_metadata
    start = HParamsPluginData.FromString(summary["_hparams_/session_start_info"].plugin_data.content).session_start_info
    assert start.hparams["optimizer.lr"].number_value == 0.25
    assert start.hparams["seed"].number_value == 3
    events = scalars(tmp_path)
    assert "_hparams_/session_start_info" in summary
    assert "hp_metric" not in events
    assert events["final/val_accuracy"][0].value == events["val_accuracy"][-1].value


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_config_gives_the_same_numbers(tmp_path, seed):
    first, second = (executed(tmp_path / name, f"seed={seed}", "model.dropout=0.3") for name in "ab")
    assert first.history == second.history
    assert first.profile == second.profile


def test_seeds_differ_and_zero_is_one_of_them(tmp_path):
    losses = [executed(tmp_path / str(s), f"seed={s}").history["train_loss"] for s in (0, 1)]
    assert losses[0] != losses[1]


@pytest.fixture
def drawn(monkeypatch):
    """Record the labels of each training batch and the dropout masks, in order."""
    record = []
    step = Classifier.training_step

    def training_step(self, batch, index):
        record.append(batch[1].tolist())
        return step(self, batch, index)

    def dropout(self, x):
        if not self.training:
            return x
        mask = nn.functional.dropout(torch.ones_like(x), self.p)
        record.append((mask != 0).flatten().tolist())
        return x * mask

    monkeypatch.setattr(Classifier, "training_step", training_step)
    monkeypatch.setattr(nn.Dropout, "forward", dropout)
    return record


def test_the_initializer_changes_neither_the_order_of_the_data_nor_the_dropout_masks(tmp_path, drawn):
    records = []
    for name in ("zeros", "he_normal", "orthogonal", "torch_default", "sparse"):
        drawn.clear()
        executed(tmp_path / name, f"initializer={name}", "model.dropout=0.5")
        records.append(list(drawn))
    assert len(records[0]) == 4 * 3
    assert all(record == records[0] for record in records)
    drawn.clear()
    executed(tmp_path / "other", "seed=1", "model.dropout=0.5")
    assert drawn != records[0]


def test_neither_the_monitor_nor_the_second_validation_changes_the_training(tmp_path):
    plain = executed(tmp_path / "a", "model.dropout=0.5", "monitor=off")
    watched = executed(tmp_path / "b", "model.dropout=0.5", "validate_with_dropout=true")
    for metric in ("train_loss", "val_accuracy"):
        assert plain.history[metric] == watched.history[metric]
    assert plain.profile == {"first": {}, "last": {}}
    assert "val_accuracy_dropout" in watched.history


def test_validation_with_dropout_is_noisier_than_without(tmp_path):
    overrides = ("model.dropout=0.5", "data.train_samples=null", "validate_with_dropout=true", "trainer.max_epochs=3")
    result = executed(tmp_path, *overrides, "model.width=64")
    assert result.last("val_accuracy_dropout") < result.last("val_accuracy") - 0.03


def test_a_diverged_run_ends_early_and_says_so(tmp_path):
    result = executed(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=5")
    assert result.status == "diverged"
    assert len(result.history["train_loss"]) < 5
    assert not math.isfinite(result.last("train_loss"))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("he_normal", 0.96, 0.98), ("xavier_uniform", 0.96, 0.98), ("zeros", 0.09, 0.11), ("ones", 0.09, 0.11)],
)
def test_the_demo_ends_where_the_readme_says(tmp_path, name, low, high):
    """About 97 %, and the 10 % of guessing."""
    config = composed("experiment=demo", f"initializer={name}", "trainer.accelerator=cpu", "monitor=off")
    result = run.start(config, CHOICES, [])
    run.execute(config, result, tmp_path, in_sweep=True)
    assert low <= result.last("val_accuracy") <= high


@pytest.mark.parametrize("seed", ["-1", "1.5", "true", "null", "x"])
def test_impossible_seeds_are_refused(tmp_path, seed):
    with pytest.raises(UsageError, match="seed="):
        executed(tmp_path, f"seed={seed}")


def test_what_is_measured_is_kept_and_changes_nothing(tmp_path):
    overrides = ("model.nonlinearity=tanh", "model.dropout=0.5")
    plain = executed(tmp_path / "a", *overrides)
    measured = executed(tmp_path / "b", *overrides, "measure=examples.published.glorot2010.measure")
    assert measured.history == plain.history
    assert len(measured.measured) == 5
    assert all(map(math.isfinite, measured.measured.values()))
    (value,) = scalars(tmp_path / "b")["measured/activation std, layer 1"]
    assert value.value == pytest.approx(measured.measured["activation std, layer 1"])


def test_a_vision_transformer_is_trained_and_monitored(tmp_path):
    result = executed(tmp_path, "model=vit", "model.depth=1", "model.width=8", "initializer=xavier_uniform")
    assert result.status == "ok"
    assert "model.blocks.block1.linear1" in result.layers


@pytest.mark.parametrize("switch", ["channels_last=true", "trainer.precision=bf16-mixed", "threads=null"])
def test_switches(tmp_path, switch):
    assert executed(tmp_path, switch, "model=cnn", "model.depth=2").status == "ok"


def test_ddp_is_refused_inside_a_sweep(tmp_path):
    with pytest.raises(UsageError, match="cannot run inside a sweep"):
        executed(tmp_path, "trainer.strategy=ddp", "trainer.devices=2")


@pytest.mark.parametrize("way", ["spawn", "fork"])
@pytest.mark.parametrize("in_sweep", [True, False])
def test_ddp_that_leaves_no_result_is_refused(tmp_path, way, in_sweep):
    with pytest.raises(UsageError, match=r"would leave no result.*Use trainer.strategy=ddp$"):
        executed(tmp_path, f"trainer.strategy=ddp_{way}", "trainer.devices=2", in_sweep=in_sweep)


def test_ddp_runs_in_the_tasks_of_a_job_of_slurm(monkeypatch):
    tasks = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NNODES": 1, "JOB_ID": 1}
    for name, value in tasks.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    with pytest.raises(UsageError, match="cannot run inside a sweep"):  # of `srun python -m examples.train -m`
        run._refuse_processes(trainer.strategy, in_sweep=True)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    run._refuse_processes(trainer.strategy, in_sweep=True)


def test_rules_reach_the_callback(tmp_path):
    result = executed(tmp_path, "initializer=ones", "+init.rules={model.head.weight:zeros}")
    first = result.profile["first"]["activation_variance"]
    assert first[-1] == 0 < first[0]


def test_results_are_written_whole_and_read_back(tmp_path):
    result = run.start(tiny("seed=7"), CHOICES, ["seed=7"])
    result.write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert Result.read(tmp_path) == result
    (tmp_path / "result.json").write_text('{"half": ')
    with pytest.raises(ValueError, match="not the result of a run"):
        Result.read(tmp_path)
