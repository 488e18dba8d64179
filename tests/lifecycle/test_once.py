"""Each layer is initialized exactly once, whatever becomes of it afterwards; nothing is left behind."""

import copy
import io
import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from lits import SEED, Lit, callback, expected, layers, loader, same, trainer, weights
from torch import nn

from lightning_init import InitCallback, SignalMonitor, initialize

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def test_layers_that_setup_rebuilds_are_initialized_again(tmp_path):
    class Rebuilds(Lit):
        def setup(self, stage):
            if stage == "fit":
                self.net = layers()

    module = Rebuilds("setup")
    for _ in range(2):
        trainer(tmp_path, callback()).fit(module, loader())
        assert same(module.first, expected())


def test_a_new_head_on_a_trained_trunk_is_initialized_alone(tmp_path):
    module, init = Lit(), callback()
    trainer(tmp_path, init).fit(module, loader())
    trained = weights(module)
    module.net[2] = nn.Linear(16, 1)
    trainer(tmp_path, init).fit(module, loader())
    assert all(torch.equal(module.first[name], trained[name]) for name in ("net.0.weight", "net.0.bias"))
    assert all(torch.equal(module.first[name], expected()[name]) for name in ("net.2.weight", "net.2.bias"))
    whys = {entry.name: entry.why for entry in init.report.entries}
    assert whys["net.0.weight"] == "kept: an earlier fit initialized it"
    assert whys["net.2.weight"] == "Linear weight"


def test_a_trained_trunk_keeps_its_weights_in_another_module(tmp_path):
    class Finetunes(Lit):
        def __init__(self, net):
            super().__init__("elsewhere")
            self.net = nn.Sequential(net, nn.Linear(1, 1))

    module = Lit()
    trainer(tmp_path, callback()).fit(module, loader())
    trained = weights(module.net)
    tuned = Finetunes(module.net)
    trainer(tmp_path, callback()).fit(tuned, loader())
    assert same({k.removeprefix("net.0."): v for k, v in tuned.first.items() if k.startswith("net.0.")}, trained)
    assert tuned.first["net.1.bias"].item() == 0


def test_nothing_left_to_initialize_in_another_module_is_pointed_out(tmp_path):
    first, second = Lit(), Lit()
    trainer(tmp_path, callback()).fit(first, loader())
    second.net = first.net
    trained = weights(second)
    with pytest.warns(UserWarning, match="leaves this Lit as it is: the fit of another LightningModule"):
        trainer(tmp_path, callback()).fit(second, loader())
    assert same(second.first, trained)


def test_tied_and_later_parametrized_weights_count_as_initialized(tmp_path):
    module = Lit()
    trainer(tmp_path, callback()).fit(module, loader())
    nn.utils.parametrizations.weight_norm(module.net[0])
    module.tied = nn.Linear(16, 1)
    module.tied.weight, module.tied.bias = module.net[2].weight, module.net[2].bias
    trained = weights(module)
    trainer(tmp_path, callback()).fit(module, loader())
    assert same(module.first, trained)


def test_initialize_starts_over(tmp_path):
    module = Lit()
    trainer(tmp_path, callback()).fit(module, loader())
    initialize(module, "orthogonal", seed=SEED)
    assert same(weights(module), expected())


@pytest.mark.parametrize("build", ["__init__", "setup", "configure_model"])
def test_sanity_checking_sees_the_initialized_weights(tmp_path, build):
    class Watches(Callback):
        def on_sanity_check_start(self, trainer, pl_module):
            self.seen = weights(pl_module)

    watcher = Watches()
    module = Lit(build)
    trainer(tmp_path, watcher, callback(), num_sanity_val_steps=2).fit(module, loader(), loader())
    assert same(watcher.seen, expected())
    assert same(module.first, expected())


def test_the_finders_leave_initial_weights_and_no_trace(tmp_path):
    class Sized(Lit):
        batch_size = 2

        def train_dataloader(self):
            return loader(batch_size=self.batch_size)

        val_dataloader = train_dataloader

    module = Sized()
    hooks = count_hooks(module)
    finders = [BatchSizeFinder(max_trials=2, steps_per_trial=1), LearningRateFinder(num_training_steps=3)]
    runner = trainer(tmp_path, *finders, callback(monitor=SignalMonitor()))
    runner.fit(module)
    assert same(module.first, expected())
    assert count_hooks(module) == hooks
    assert runner.callbacks[-1].last[0] == runner.global_step - 1  # the finders' steps are no points
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_a_tuner_that_evaluates_does_not_count_as_loading_weights(tmp_path, method):
    class Sized(Lit):
        batch_size = 2

        def train_dataloader(self):
            return loader(batch_size=self.batch_size)

        val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    module, runner = Sized(), trainer(tmp_path, callback())
    Tuner(runner).scale_batch_size(module, method=method, max_trials=2, steps_per_trial=1)
    runner.fit(module.train())  # Lightning leaves it in eval mode
    assert same(module.first, expected())


def count_hooks(module):
    return sum(
        len(hooks) for m in module.modules() for k, hooks in vars(m).items() if k.endswith("_hooks") and len(hooks)
    )


@pytest.mark.parametrize("where", ["setup", "configure_model", "on_fit_start", "training_step", "interrupt"])
def test_an_exception_anywhere_leaves_neither_wrapper_nor_hooks(tmp_path, where):
    class Broken(Lit):
        def setup(self, stage):
            self.fail("setup")

        def configure_model(self):
            self.fail("configure_model")

        def on_fit_start(self):
            self.fail("on_fit_start")

        def training_step(self, batch, batch_idx):
            self.fail("training_step")
            if where == "interrupt":
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

        def fail(self, here):
            if here == where:
                raise RuntimeError("on purpose")

    module = Broken()
    initial, hooks = weights(module), count_hooks(module)
    monitor = SignalMonitor()
    with pytest.raises(SystemExit if where == "interrupt" else RuntimeError):
        trainer(tmp_path, callback(monitor=monitor)).fit(module, loader())
    assert not {"setup", "configure_model"} & set(vars(module))
    assert count_hooks(module) == hooks
    assert same(weights(module), initial if where in ("setup", "configure_model") else expected())


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("build", ["__init__", "setup", "configure_model"])
def test_models_that_average_weights_start_from_the_initial_ones(tmp_path, build, first):
    """They copy the module before it is initialized, and WeightAveraging calls an overridden configure_model itself."""
    module, init = Lit(build), callback(rules={"net.2.bias": "zeros"})
    average, swa = EMAWeightAveraging(update_starting_at_step=100), StochasticWeightAveraging(0.1, swa_epoch_start=2)
    trainer(tmp_path, *((average, swa, init) if first else (init, average, swa))).fit(module, loader(), loader())
    assert same(module.first, expected())
    if build != "setup":  # WeightAveraging itself knows no layers that are built there
        assert same(weights(average._average_model.module), expected())
    assert not {"setup", "configure_model"} & (
        vars(average._average_model.module).keys() | vars(swa._average_model).keys()
    )


def test_an_own_override_on_the_instance_comes_back(tmp_path):
    module, calls = Lit("elsewhere"), []

    def configure_model():
        calls.append(1)
        module.net = layers()

    module.configure_model = configure_model
    trainer(tmp_path, callback()).fit(module, loader())
    assert module.configure_model is configure_model
    assert calls == [1]
    assert same(module.first, expected())


@pytest.mark.parametrize("ckpt_path", ["path", "last", "best"])
@pytest.mark.parametrize("build", ["__init__", "setup", "configure_model"])
def test_a_checkpoint_wins_however_it_is_named(tmp_path, build, ckpt_path):
    saver = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    runner = trainer(tmp_path, callback(), saver, enable_checkpointing=True, max_epochs=2)
    runner.fit(Lit(build), loader(), loader())
    path = {"path": saver.best_model_path, "last": saver.last_model_path, "best": saver.best_model_path}[ckpt_path]
    saved = torch.load(path, weights_only=True)["state_dict"]
    module = Lit(build)
    runner.fit_loop.max_epochs = 4
    runner.fit(module, loader(), loader(), ckpt_path=path if ckpt_path == "path" else ckpt_path)
    assert same(module.first, saved)


def test_without_a_last_checkpoint_the_model_is_initialized(tmp_path):
    module = Lit()
    saver = ModelCheckpoint(tmp_path / "none", save_last=True)
    with pytest.warns(UserWarning, match="no last checkpoint available"):
        trainer(tmp_path, callback(), saver, enable_checkpointing=True).fit(module, loader(), ckpt_path="last")
    assert same(module.first, expected())


@pytest.mark.parametrize("function", ["validate", "test", "predict"])
def test_weights_that_an_evaluation_has_loaded_are_trained_further(tmp_path, function):
    runner = trainer(tmp_path, callback())
    runner.fit(Lit(), loader())
    runner.save_checkpoint(tmp_path / "trained.ckpt")
    module, runner = Lit(), trainer(tmp_path, callback())
    getattr(runner, function)(module, loader(), ckpt_path=tmp_path / "trained.ckpt")
    saved = weights(module)
    module.late = nn.Linear(1, 1)
    with torch.no_grad():
        module.late.bias.fill_(1)
    runner.fit(module, loader())
    assert same({k: v for k, v in module.first.items() if k.startswith("net")}, saved)
    assert module.first["late.bias"].item() == 0


def test_a_model_loaded_from_a_checkpoint_is_protected_by_one_rule(tmp_path):
    """Nothing tells loaded weights from fresh ones (docs/lifecycle.md)."""
    runner = trainer(tmp_path, callback())
    runner.fit(Lit(), loader())
    runner.save_checkpoint(tmp_path / "trained.ckpt")
    loaded = Lit.load_from_checkpoint(tmp_path / "trained.ckpt")
    saved = weights(loaded)
    kept = copy.deepcopy(loaded)
    trainer(tmp_path, callback(rules={"*": None})).fit(kept, loader())
    assert same(kept.first, saved)
    trainer(tmp_path, callback()).fit(loaded, loader())
    assert same(loaded.first, expected())


@pytest.mark.parametrize("trained", [False, True])
def test_weights_beside_a_normalization_that_has_seen_batches_look_trained(tmp_path, trained):
    module = Lit()
    module.net = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)), nn.Linear(16, 1))
    if trained:
        module.net(torch.randn(4, 8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, callback()).fit(copy.deepcopy(module), loader())
        trainer(tmp_path, callback(rules={"net.0.*": None})).fit(module, loader())
    said = [str(one.message) for one in caught if "look trained" in str(one.message)]
    assert len(said) == trained
    assert not said or "net.0.1 beside them has seen 1 batches" in said[0]


def test_marks_are_in_no_state_dict_and_survive_a_copy(tmp_path):
    module = Lit()
    keys = list(module.state_dict())
    trainer(tmp_path, callback()).fit(module, loader())
    assert list(module.state_dict()) == keys
    module.trainer = None
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    module = copy.deepcopy(torch.load(file, weights_only=False))
    trained = weights(module)
    trainer(tmp_path, InitCallback("zeros", monitor=False)).fit(module, loader())
    assert same(module.first, trained)
