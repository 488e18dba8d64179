"""A calibration in InitCallback: it looks at the training data, and training sees nothing of that."""

import copy
import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_init import InitCallback, initialize
from lightning_init.auto import Auto
from lightning_init.calibration import DenoisingAutoencoders, Krahenbuhl, Lsuv

pytestmark = pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`")
X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Lit(LightningModule):
    """Remembers the weights it starts with and the batches and dropout masks that it sees."""

    def __init__(self, net=None, own_data=False):
        super().__init__()
        self.net = net or nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 1))
        self.seen, self.first, self.own_data = [], None, own_data

    def on_train_start(self):
        self.first = copy.deepcopy(self.state_dict())
        self.gradients = [parameter.grad for parameter in self.parameters()]
        self.modes = [module.training for module in self.net.modules()]

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self.net(x)
        self.seen.append((x, y, torch.rand(3), np.random.rand()))
        self.log("loss", output.mean())
        return nn.functional.mse_loss(output, y)

    def train_dataloader(self):
        return self.loader() if self.own_data else None

    def loader(self):
        first, _ = torch.utils.data.random_split(TensorDataset(X, Y), [32, 32])  # from the global stream
        return DataLoader(first, batch_size=8, shuffle=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class WithForward(Lit):
    def forward(self, x):
        return self.net(x)


class Noisy(Dataset):
    """Augments from streams of its own."""

    def __init__(self):
        self.noise, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def __len__(self):
        return 32

    def __getitem__(self, i):
        return X[i] * self.noise.random() + torch.rand(8, generator=self.torch), Y[i]


class Counting(IterableDataset):
    """Goes on where it was left."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 32:
            self.at += 1
            yield X[self.at], Y[self.at]


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0] + torch.rand(8), Y[0]


def shuffled(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True, **options)


LOADERS = {
    "global stream": shuffled,
    "a generator": lambda: shuffled(generator=torch.Generator().manual_seed(1)),
    "workers": lambda: shuffled(num_workers=1, persistent_workers=True),
    "streams in the data": lambda: DataLoader(Noisy(), batch_size=8),
    "an iterable that counts": lambda: DataLoader(Counting(), batch_size=8),
}


def fit(tmp_path, module, *callbacks, data=None, **options):
    torch.manual_seed(0)
    np.random.seed(0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    runner = Trainer(
        max_epochs=2,
        limit_train_batches=4,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        **quiet,
    )
    runner.fit(module, data, **options)
    return runner


def callback(initializer="lsuv", **options):
    return InitCallback(initializer, **{"seed": 0, "monitor": False, **options})


@pytest.mark.parametrize("data", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("kind", [Lit, WithForward])
def test_training_sees_the_same_batches_and_random_numbers_as_without(tmp_path, data, kind):
    calibrated, plain = kind(), kind()
    fit(tmp_path, calibrated, callback(), data=data())
    fit(tmp_path, plain, callback("orthogonal"), data=data())
    assert len(plain.seen) >= 4
    drawn = calibrated.seen[-len(plain.seen) :]  # before these, the step may have stood in for forward
    for (x, y, z, n), (a, b, c, d) in zip(drawn, plain.seen, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
        assert torch.equal(z, c)
        assert n == d
    assert not torch.equal(calibrated.first["net.0.weight"], plain.first["net.0.weight"])


@pytest.mark.parametrize("kind", [Lit, WithForward])
def test_a_pretraining_takes_several_batches_and_training_sees_the_same(tmp_path, kind):
    def module():
        return kind(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)))

    with_it, without, init = module(), module(), callback(DenoisingAutoencoders(batches=3, epochs=2))
    fit(tmp_path, with_it, init, data=shuffled())
    fit(tmp_path, without, data=shuffled())
    assert "in 6 steps" in init.report.entries[0].why
    for one, other in zip(with_it.seen[-len(without.seen) :], without.seen, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_data_hooks_that_draw_are_not_noticed_either(tmp_path):
    calibrated, plain = WithForward(own_data=True), WithForward(own_data=True)
    fit(tmp_path, calibrated, callback())
    fit(tmp_path, plain, callback("orthogonal"))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(calibrated.seen, plain.seen, strict=True))


@pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode")
def test_variances_are_set_and_everything_else_stays(tmp_path):
    module = WithForward(nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 64)))
    module.net[2].eval()
    runner = callback()
    fit(tmp_path, module, runner, data=DataLoader(TensorDataset(X, Y.expand(-1, 64)), batch_size=32))
    net = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 64))
    net.load_state_dict({name.removeprefix("net."): value for name, value in module.first.items()})
    assert net[0](X[:32]).var(correction=0).item() == pytest.approx(1, abs=0.05)
    assert net(X[:32]).var(correction=0).item() == pytest.approx(1, abs=0.05)
    assert module.first["net.1.running_mean"].eq(0).all()
    assert module.first["net.1.num_batches_tracked"] == 0
    assert module.gradients == [None] * 6
    assert "Lsuv: output variance" in runner.report.entries[0].why
    assert runner.settings()["initializer"] == "lsuv"


def test_the_start_is_the_plan_and_rules_are_kept(tmp_path):
    module = WithForward()
    before = module.net[4].weight.detach().clone()
    fit(tmp_path, module, callback(Krahenbuhl(rounds=0), rules={"net.4.*": None}), data=shuffled())
    assert torch.equal(module.first["net.4.weight"], before)
    assert module.first["net.0.weight"].std() > 0


def test_a_restored_checkpoint_is_not_calibrated(tmp_path):
    class Refusing(WithForward):
        def forward(self, x):
            assert self.first is not None, "the calibration ran"
            return super().forward(x)

    trained = WithForward()
    saved = fit(tmp_path, trained, data=shuffled())
    trained.net[0].weight.data.fill_(0.25)
    saved.save_checkpoint(tmp_path / "trained.ckpt")
    module = Refusing()
    fit(tmp_path, module, callback(), data=shuffled(), ckpt_path=tmp_path / "trained.ckpt")
    assert torch.equal(module.net[0].weight, trained.net[0].weight)


def test_endless_data_are_fine(tmp_path):
    module = WithForward(nn.Sequential(nn.Linear(8, 1)))
    fit(tmp_path, module, callback(), data=DataLoader(Endless(), batch_size=8))
    assert module.first is not None


class Once(IterableDataset):
    def __init__(self):
        self.rows = ((x, y) for x, y in zip(X, Y, strict=True))

    def __iter__(self):
        return self.rows


class Explodes(nn.Module):
    def forward(self, x):
        return x * math.nan


def dead():
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.constant_(net[0].bias, -100.0)
    return net


@pytest.mark.parametrize(
    ("net", "data", "message"),
    [
        (None, lambda: DataLoader(TensorDataset(X[:0], Y[:0]), batch_size=8), "the training data are empty"),
        (None, lambda: DataLoader(Once(), batch_size=8), "reads its rows only once"),
        (None, lambda: iter([(X, Y)]), "can be read only once"),
        (None, lambda: None, "needs training data"),
        (None, lambda: [(X * math.nan, Y)], "batch must be finite"),
        (None, lambda: [("a", "b")], "the forward pass fails in layer net.0"),
        (dead, shuffled, "layer net.2: its output is constant over the batch"),
        (lambda: nn.Sequential(Explodes(), nn.Linear(8, 1)), shuffled, "layer net.1: its output is not finite"),
    ],
)
def test_bad_input_is_said_in_one_sentence_and_the_model_is_as_it_was(tmp_path, net, data, message):
    module = WithForward(net() if net else None)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises((ValueError, TypeError), match=message):
        fit(tmp_path, module, callback(bias=None), data=data())
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert "configure_model" not in vars(module)


def test_a_layer_that_never_runs_is_reported(tmp_path):
    module = WithForward(nn.Sequential(nn.Linear(8, 1)))
    module.idle = nn.Linear(2, 2)
    module.net[0].register_module("idle", None)
    runner = callback()
    fit(tmp_path, module, runner, data=shuffled())
    assert runner.report.entries[2].name == "idle.weight"
    assert runner.report.entries[2].achieved_std == pytest.approx(math.sqrt(0.5), rel=0.5)


def test_a_training_step_that_optimizes_by_itself_is_refused(tmp_path):
    module = Lit()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="has no forward, and its training_step optimizes by itself"):
        fit(tmp_path, module, callback(), data=shuffled())
    assert "log" not in vars(module)


def test_initialize_says_what_to_use_instead():
    with pytest.raises(ValueError, match=r"lsuv needs data and the whole model: use lightning_init.calibrate\("):
        initialize(nn.Linear(2, 2), "lsuv")
    with pytest.raises(ValueError, match="needs data and the whole model"):
        initialize(nn.Linear(2, 2), "he_normal", rules={"*": Lsuv()})
    with pytest.raises(ValueError, match="needs data and the whole model"):
        Lsuv()(torch.empty(2, 2))


def test_a_collection_of_loaders_is_one_batch_of_each(tmp_path):
    class Both(WithForward):
        def forward(self, batches):
            return self.net(batches["a"][0] + batches["b"][0])

        def training_step(self, batch, batch_idx):
            return self(batch).mean()

    module = Both(nn.Sequential(nn.Linear(8, 32)))
    fit(tmp_path, module, callback(), data={"a": shuffled(), "b": shuffled()})
    assert module.first is not None


class Named(Dataset):
    """Batches whose keys no forward names."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return {"image": X[index], "number": Y[index]}


@pytest.mark.parametrize("kind", ["lsuv", Auto(correct=True), DenoisingAutoencoders(batches=2, epochs=1)])
def test_a_dict_that_forward_does_not_know_is_taken_as_training_takes_it(tmp_path, kind):
    class Picks(WithForward):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["image"], batch["number"]), batch_idx)

    module, plain = Picks(), Lit()
    fit(tmp_path, module, callback(kind), data=DataLoader(Named(), batch_size=32))
    fit(tmp_path, plain, callback(kind), data=DataLoader(TensorDataset(X, Y), batch_size=32))
    assert [name for name, value in module.first.items() if not torch.equal(value, plain.first[name])] == []
