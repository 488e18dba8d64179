"""InitCallback initializes once, at the right moment, whatever the Trainer does around it."""

import copy
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import InitCallback, SignalMonitor, initialize
from lightning_init.initializers import Normal

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def loader(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(32, 8, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)


class Lit(LightningModule):
    """Layers built in `__init__`, `setup` or `configure_model`; remembers its weights before the first step."""

    def __init__(self, build="__init__", lr=0.1):
        super().__init__()
        self.build, self.lr, self.first = build, lr, None
        if build == "__init__":
            self.make()

    def make(self):
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def setup(self, stage):
        if self.build == "setup" and not hasattr(self, "net"):
            self.make()

    def training_step(self, batch, batch_idx):
        if self.first is None:
            self.first = weights(self)
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx) if self.first else 0.0)

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class LateLit(Lit):
    def __init__(self, build="configure_model", lr=0.1):
        super().__init__(build, lr)

    def configure_model(self):
        if not hasattr(self, "net"):
            self.make()


def weights(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def expected(initializer="orthogonal", seed=3):
    module = Lit()
    initialize(module, initializer, seed=seed)
    return weights(module)


@pytest.fixture
def trainer(tmp_path):
    def make(*callbacks, **options):
        quiet = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "accelerator": "cpu",
            "max_epochs": 1,
        }
        return Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **{**quiet, **options})

    return make


def callback(**options):
    return InitCallback("orthogonal", **{"seed": 3, "monitor": False, **options})


@pytest.mark.parametrize("module", [Lit(), Lit("setup"), LateLit()], ids=["__init__", "setup", "configure_model"])
def test_layers_are_initialized_wherever_they_are_built(trainer, module):
    module = copy.deepcopy(module)
    init = callback()
    trainer(init).fit(module, loader())
    assert same(module.first, expected())
    assert "configure_model" not in vars(module)
    assert init.report.seed == 3
    assert len(init.report.entries) == 4


def test_a_second_fit_never_initializes_again(trainer):
    module, init = Lit(), callback()
    trainer(init).fit(module, loader())
    trained = weights(module)
    module.first = None
    trainer(init).fit(module, loader())
    assert same(module.first, trained)


@pytest.mark.parametrize("copied", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_nor_does_another_callback_or_a_copy_of_the_module(trainer, copied):
    module = Lit()
    trainer(callback()).fit(module, loader())
    module = copied(module)
    trained, module.first = weights(module), None
    other = InitCallback("zeros", monitor=False)
    trainer(other).fit(module, loader())
    assert same(module.first, trained)
    assert other.report.seed == 3  # what the model really got


def test_one_callback_initializes_each_of_several_modules(trainer):
    init = callback()
    for _ in range(2):
        module = Lit()
        trainer(init).fit(module, loader())
        assert same(module.first, expected())


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_other_stages_do_not_initialize(trainer, stage):
    module = Lit()
    before = weights(module)
    getattr(trainer(callback()), stage)(module, loader(), **({} if stage == "predict" else {"verbose": False}))
    assert same(weights(module), before)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_other_stages_after_fit_leave_trained_weights(trainer, stage):
    module = Lit()
    runner = trainer(callback())
    runner.fit(module, loader(), loader())
    trained = weights(module)
    getattr(runner, stage)(module, loader(), **({} if stage == "predict" else {"verbose": False}))
    assert same(weights(module), trained)


def test_a_checkpoint_wins(trainer, tmp_path):
    runner = trainer(callback())
    runner.fit(Lit(), loader())
    runner.save_checkpoint(tmp_path / "trained.ckpt")
    saved = torch.load(tmp_path / "trained.ckpt", weights_only=True)["state_dict"]
    for module in (Lit(), Lit("setup"), LateLit()):
        trainer(callback(), max_epochs=2).fit(module, loader(), ckpt_path=tmp_path / "trained.ckpt")
        assert same(module.first, saved)


def test_the_learning_rate_finder_leaves_initial_weights_and_no_trace(trainer, tmp_path):
    module, init = Lit(), callback()
    runner = trainer(init, max_epochs=1)
    Tuner(runner).lr_find(module, loader(), num_training=3, update_attr=False)
    assert same(weights(module), expected())
    module.first = None
    runner.fit(module, loader())
    assert same(module.first, expected())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_batch_size_finder_leaves_initial_weights(trainer):
    class Sized(Lit):
        batch_size = 2

        def train_dataloader(self):
            return DataLoader(loader().dataset, batch_size=self.batch_size)

        val_dataloader = train_dataloader

    module = Sized()
    runner = trainer(callback())
    Tuner(runner).scale_batch_size(module, max_trials=2, steps_per_trial=1)
    assert same(weights(module), expected())


def test_an_exception_while_building_leaves_no_wrapper(trainer):
    class Broken(Lit):
        def setup(self, stage):
            raise RuntimeError("no data")

    module = Broken()
    with pytest.raises(RuntimeError, match="no data"):
        trainer(callback()).fit(module, loader())
    assert "configure_model" not in vars(module)


def test_an_impossible_plan_stops_before_training_and_leaves_everything(trainer):
    module = Lit()
    before = weights(module)
    with pytest.raises(ValueError, match=r"net.0.weight \(16, 8\) of Linear"):
        trainer(InitCallback("dirac")).fit(module, loader())
    assert same(weights(module), before)
    assert module.first is None
    assert "configure_model" not in vars(module)
    with pytest.raises(ValueError, match=r"the closest names are: net\.0"):
        trainer(InitCallback("zeros", rules={"net.O.*": None})).fit(module, loader())


def test_the_data_order_and_dropout_do_not_depend_on_the_initializer(trainer):
    class Noisy(Lit):
        def training_step(self, batch, batch_idx):
            seen.append((batch[0].clone(), nn.functional.dropout(torch.ones(50))))
            return super().training_step(batch, batch_idx)

    runs = []
    for name in ("orthogonal", "he_normal", "zeros", "torch_default"):
        seen = []
        torch.manual_seed(11)
        shuffled = DataLoader(loader().dataset, batch_size=8, shuffle=True)
        trainer(InitCallback(name, monitor=SignalMonitor(alerts=False))).fit(Noisy(), shuffled)
        runs.append(torch.cat([torch.cat([x.flatten(), mask]) for x, mask in seen]))
    assert all(torch.equal(runs[0], run) for run in runs)


def test_the_seed_defaults_to_the_global_one(trainer):
    torch.manual_seed(21)
    init = InitCallback("orthogonal", monitor=False)
    module = Lit()
    trainer(init).fit(module, loader())
    assert init.report.seed == 21
    assert same(module.first, expected(seed=21))


def test_two_init_callbacks_are_refused(trainer):
    with pytest.raises(ValueError, match="a Trainer takes one InitCallback"):
        trainer(callback(), InitCallback("zeros")).fit(Lit(), loader())


def test_callbacks_returned_from_configure_callbacks_count(trainer):
    class Own(Lit):
        def configure_callbacks(self):
            return [callback()]

    module = Own()
    trainer().fit(module, loader())
    assert same(module.first, expected())


def test_the_monitor_is_added_once_and_only_if_asked(trainer):
    for monitor, count in ((True, 1), (False, 0), (SignalMonitor(), 1)):
        runner = trainer(InitCallback("normal", monitor=monitor))
        for _ in range(2):
            runner.fit(Lit(), loader())
        assert sum(isinstance(c, SignalMonitor) for c in runner.callbacks) == count
    own = SignalMonitor()
    runner = trainer(InitCallback("normal"), own)
    runner.fit(Lit(), loader())
    assert [c for c in runner.callbacks if isinstance(c, SignalMonitor)] == [own]
    with pytest.warns(UserWarning, match="does not use the SignalMonitor of its argument monitor"):
        trainer(InitCallback("normal", monitor=SignalMonitor()), own).fit(Lit(), loader())


def test_the_report_is_in_tensorboards_text_tab(trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(callback(), logger=logger).fit(Lit(), loader())
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    (text,) = [tag for tag in events.Tags()["tensors"] if tag.startswith("initialization")]
    written = events.Tensors(text)[0].tensor_proto.string_val[0].decode()
    assert "| net.0.weight | 16x8 | orthogonal |" in written
    assert "4 parameters initialized, 0 kept, seed 3" in written


def test_unknown_weights_are_pointed_out(trainer):
    class Stranger(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(8, 8))

        def forward(self, x):
            return x @ self.kernel

    module = Lit()
    module.net.insert(0, Stranger())
    with pytest.warns(UserWarning, match=r"left net.0.kernel as constructed"):
        trainer(callback()).fit(module, loader())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"initializer": "xavier_unifrom"}, ValueError, "closest are: xavier_uniform"),
        ({"monitor": 1}, TypeError, "monitor must be True, False or a SignalMonitor, got 1"),
        ({"frozen": "yes"}, ValueError, "frozen must be"),
        ({"rules": {"a": "zreos"}}, ValueError, "closest are: zeros"),
        ({"nonlinearity": "reul"}, ValueError, "relu"),
        ({"seed": "1"}, TypeError, "seed must be"),
    ],
)
def test_bad_arguments_are_refused_at_construction(options, error, message):
    with pytest.raises(error, match=message):
        InitCallback(**{"initializer": "normal", **options})


def test_it_pickles_and_copies():
    init = InitCallback(Normal(std=0.02), rules={"head.*": "zeros"}, seed=0)
    for clone in (pickle.loads(pickle.dumps(init)), copy.deepcopy(init)):
        assert clone.initializer == init.initializer
        assert clone.rules == init.rules
