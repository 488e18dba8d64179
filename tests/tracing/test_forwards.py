"""Forwards that resist: Lightning modules, decisions on data, failures; and the model is left as it was."""

import copy
import cProfile
import random

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Deciding, Two, nonlinearities
from torch import Tensor, nn

from lightning_init.tracing import Follower, complaint, followers


class Lit(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
        self.save_hyperparameters()

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.net(x), -1)


def test_a_lightning_module_attached_to_a_trainer() -> None:
    module = Lit()
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=1)
    trainer.strategy.connect(module)
    module.trainer = trainer
    found = followers(module)
    assert found["net.0"] == Follower("gelu", "followed by GELU `net.1` (traced)")
    assert found["net.2"].reason == "enters log_softmax, which is no function of one number (traced)"
    assert module.trainer is trainer


def test_a_lightning_module_without_forward_is_followed_through_its_parts() -> None:
    class Bare(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
            self.activation = nn.Tanh()
            self.head = nn.Linear(2, 1)

    found = followers(Bare())
    assert found["encoder.0"] == Follower("gelu", "followed by GELU `encoder.1` (traced)")
    assert (found["encoder.2"].nonlinearity, found["encoder.2"].certain) == ("tanh", False)
    assert found["encoder.2"].reason.startswith("assumed, since Tanh `activation` is registered next (ends `encoder`")
    assert not found["head"].certain
    message = complaint(found)
    assert message is not None
    assert "not certain what follows 2 of 3 layers; give a batch" in message
    assert "Bare.forward cannot be traced" in message


class Three(nn.Module):
    """Three layers, which forwards use as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)


class Decides(Three):
    """Traceable only with data."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = F.relu(x) if x.sum() > 1e9 else torch.tanh(x)
        for row in x:
            x = x + F.silu(self.b(row))
        return self.c(x)


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 4), (torch.zeros(2, 4), 3), [torch.zeros(2, 4)], {"x": torch.zeros(2, 4)}]
)
def test_forwards_that_decide_by_their_data_are_recorded(batch: object) -> None:
    assert nonlinearities(Decides(), batch) == {"a": "tanh", "b": "silu", "c": None}


def test_the_example_input_is_used() -> None:
    model = Decides()
    model.example_input_array = torch.zeros(2, 4)
    assert followers(model)["a"] == Follower("tanh", "followed by F.tanh (seen in one forward)")


def test_without_data_the_guess_is_marked() -> None:
    found = followers(Decides())
    assert {name: follower.nonlinearity for name, follower in found.items()} == {"a": "tanh", "b": "silu", "c": None}
    assert not any(follower.certain for follower in found.values())
    assert "guessed at what depends on data: Decides.forward cannot be traced: TraceError" in found["a"].reason


def test_a_condition_is_no_follower() -> None:
    class Conditions(Three):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if x.sum() > 1e9 or (x.abs() > 1e9).all() or not x.isfinite().all():
                x = -x
            x = self.b(x)
            if x.relu().max().item() >= 1e9:
                x = -x
            return self.c(x * torch.sigmoid(x))

    guessed, seen = followers(Conditions()), followers(Conditions(), torch.zeros(2, 4))
    for found, how in ((guessed, "guessed at what depends on data"), (seen, "seen in one forward)")):
        assert found["a"].reason.startswith(f"followed by the layer `b` ({how}")
        assert found["b"].reason.startswith(f"followed by mul(x, sigmoid(x)) ({how}")
        assert found["c"].reason.startswith(f"last layer ({how}")
        assert [follower.nonlinearity is None for follower in found.values()] == [True, False, True]


@pytest.mark.parametrize("residual", [False, True])
def test_the_work_grows_with_the_number_of_layers_and_not_with_its_square(residual: bool) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, device="meta")

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return x + y * y.sigmoid()

    def calls(layers: int) -> int:
        blocks = [Residual() for _ in range(layers)]
        plain = [part for _ in range(layers) for part in (nn.Linear(4, 4, device="meta"), nn.ReLU())]
        profile = cProfile.Profile()
        profile.runcall(followers, nn.Sequential(*(blocks if residual else plain)))
        return sum(entry.callcount for entry in profile.getstats())

    calls(1)  # what is cached
    fewer, more = calls(50), calls(200)
    assert more < 4.4 * fewer


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyError("k"), RecursionError(), ValueError("")])
def test_forwards_that_fail_are_reported(failure: Exception) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(4, 4)
            self.act = nn.ReLU()
            self.fc2 = nn.Linear(4, 4)

        @property
        def example_input_array(self) -> Tensor:
            raise failure

        def forward(self, x: Tensor) -> Tensor:
            raise failure

    found = followers(Fails(), torch.zeros(1, 4))
    assert found["fc1"].reason.startswith("assumed, since ReLU `act` is registered next")
    assert (found["fc1"].certain, found["fc2"].certain, found["fc2"].nonlinearity) == (False, False, None)
    assert type(failure).__name__ in found["fc2"].reason


def test_unused_layers_are_reported() -> None:
    class Unused(Two):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    assert followers(Unused(F.relu))["last"] == Follower(None, "not used by forward", certain=False)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_wrappers() -> None:
    compiled = followers(nn.Sequential(torch.compile(Two(F.gelu)), nn.ReLU()))
    assert compiled["0._orig_mod.first"] == Follower("gelu", "followed by F.gelu (traced)")
    assert compiled["0._orig_mod.last"] == Follower("relu", "followed by ReLU `1` (traced)")
    for wrapped, prefix in ((torch.compile(Two(F.gelu)), "_orig_mod"), (nn.DataParallel(Two(F.gelu)), "module")):
        assert nonlinearities(wrapped) == {f"{prefix}.first": "gelu", f"{prefix}.last": None}
    assert followers(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))) == {}  # its layers are not torch.nn's


def test_properties_of_tensors_are_followed() -> None:
    between = lambda x: (x.T.relu().T * x.shape[0]).data
    assert nonlinearities(Two(between)) == {"first": "relu", "last": None}
    assert nonlinearities(nn.Sequential(Deciding(), Two(between)), torch.zeros(4, 4)) == {
        "1.first": "relu",
        "1.last": None,
    }


def test_exponentials_at_the_end_are_no_activations() -> None:
    assert nonlinearities(nn.Sequential(Two(F.relu), Two(torch.exp)))["1.first"] is None


# --- leaving no trace -----------------------------------------------------------------------------------------------


class Meddles(nn.Module):
    """Does everything that a forward should not do."""

    def __init__(self, *, decide: bool) -> None:
        super().__init__()
        self.decide = decide
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.last = nn.utils.spectral_norm(nn.Linear(4, 4))
        self.register_buffer("count", torch.zeros(()))
        self.calls, self.seen = 0, [1]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        self.count += 1
        self.count.add_(1)
        with torch.no_grad():
            self.layer.weight.mul_(2)
            self.layer.weight.data.clamp_(-1e-3, 1e-3)
        x = F.relu(self.norm(self.layer(x))) + torch.rand(()) + random.random() + np.random.rand()
        if self.decide and x.sum() > 1e9:
            x = -x
        return self.last(F.dropout(x, training=self.training))


@pytest.mark.parametrize("decide", [False, True])
def test_the_model_and_the_random_streams_are_left_as_they_were(decide: bool) -> None:
    model = Meddles(decide=decide)
    model.norm.eval()
    fired = []
    handle = model.layer.register_forward_hook(lambda *_: fired.append(1))
    state = copy.deepcopy(model.state_dict())
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = followers(model, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    assert [follower.nonlinearity for follower in found.values()] == ["relu", None]
    assert "seen in one forward" in found["layer"].reason if decide else "traced" in found["layer"].reason
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.calls, model.seen, fired) == (0, [1], [])
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert torch.equal(streams[0], torch.get_rng_state())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == streams[1:]
    assert len(model.layer._forward_hooks) == 1
    handle.remove()
    assert not model.layer._forward_hooks
    model(torch.randn(8, 4))  # still works
    assert model.calls == 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_on_the_meta_device_is_run_there() -> None:
    class Checks(Two):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(len(x)):
                x = self.between(self.first(x))
            return self.last(x)

    with torch.device("meta"):
        model = Checks(F.relu)
    assert nonlinearities(model, torch.zeros(2, 4)) == {"first": "relu", "last": None}
