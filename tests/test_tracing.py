"""What follows each layer: torchvision's models, every way to write an activation, and forwards that resist."""

import copy
import cProfile
import math
import pickle
import random
from collections import Counter
from collections.abc import Callable

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import Tensor, nn

from lightning_init.gains import gain
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.tracing import Follower, complaint, followers


def _found(model: nn.Module, batch: object = None) -> dict[str, Nonlinearity | None]:
    found = followers(model, batch)
    assert complaint(found) is None
    return {name: follower.nonlinearity for name, follower in found.items()}


class Two(nn.Module):
    """Two layers with whatever `between` does in the middle."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Deciding(nn.Module):
    """Reorders the batch, and cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(0) if bool((x == x).all()) else x


# --- torchvision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("alexnet", {"relu": 7, None: 1}),
        ("vgg11", {"relu": 10, None: 1}),
        ("resnet18", {"relu": 20, None: 1}),
        ("mobilenet_v2", {"relu6": 35, None: 18}),
        ("convnext_tiny", {"gelu": 18, None: 41}),
        ("vit_b_16", {"gelu": 12, None: 38}),
        ("densenet121", {"relu": 120, None: 1}),
        ("efficientnet_b0", {"silu": 49, "sigmoid": 16, None: 17}),
        ("swin_t", {"gelu": 12, None: 41}),
    ],
)
def test_torchvision(name: str, counts: dict[str | None, int]) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    assert Counter(_found(model).values()) == counts


def test_layers_of_torchvision_by_name() -> None:
    with torch.device("meta"):
        resnet, vit = torchvision.models.resnet18(), torchvision.models.vit_b_16()
    found = followers(resnet)
    assert found["layer1.0.conv2"] == Follower("relu", "followed by ReLU `layer1.0.relu` (traced)")  # through the sum
    assert found["layer2.0.downsample.0"].nonlinearity == "relu"
    assert found["fc"] == Follower(None, "last layer (traced)")
    inside = followers(vit)
    block = "encoder.layers.encoder_layer_0"
    assert inside[f"{block}.mlp.0"].reason == f"followed by GELU `{block}.mlp.1` (traced)"
    assert inside[f"{block}.self_attention"].reason == "attention: products and a softmax are inside"
    assert inside[f"{block}.self_attention.out_proj"].reason == f"followed by the layer `{block}.mlp.0` (traced)"


def test_a_recorded_forward_says_the_same_as_tracing() -> None:
    for name, size in (("resnet18", 64), ("mobilenet_v3_small", 64), ("shufflenet_v2_x0_5", 64)):
        model = torchvision.models.get_model(name, weights=None)
        recorded = followers(nn.Sequential(Deciding(), model), torch.zeros(2, 3, size, size))
        traced = followers(model)
        assert {f"1.{layer}": follower.nonlinearity for layer, follower in traced.items()} == {
            layer: follower.nonlinearity for layer, follower in recorded.items()
        }
        assert all("(seen in one forward)" in follower.reason for follower in recorded.values())


# --- every way to write it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "nonlinearity"),
    [
        (F.relu, "relu"),
        (torch.relu, "relu"),
        (torch.relu_, "relu"),
        (lambda x: x.tanh(), "tanh"),
        (F.gelu, "gelu"),
        (lambda x: F.dropout(F.silu(x), 0.1), "silu"),
        (lambda x: F.relu(F.layer_norm(x, (4,)).reshape(-1, 2, 2).flatten(1)), "relu"),
        (lambda x: F.softplus(x), "softplus"),
        (F.logsigmoid, "logsigmoid"),
        (nn.ReLU(inplace=True), "relu"),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Mish()), "mish"),
        (nn.Sequential(nn.Identity(), nn.LayerNorm(4)), None),
        (lambda x: x, None),
        (lambda x: 2 * x + 1, None),
        (lambda x: x.softmax(-1), None),
        (nn.Softmax(-1), None),
        (lambda x: F.relu(x) + x.mean(0), "relu"),
        (lambda x: torch.cat([F.elu(x[:, :2]), F.elu(x[:, 2:])], 1), "elu"),
        (lambda x: F.normalize(x, dim=-1), None),
        (lambda x: x / x.norm(dim=-1, keepdim=True), None),
        (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), None),  # an RMS norm
        (lambda x: x * x.mean(-1, keepdim=True).sigmoid(), None),  # a gate on the whole vector
    ],
)
@pytest.mark.parametrize("way", ["traced", "seen in one forward"])
def test_ways_to_write_an_activation(between: Callable[[Tensor], Tensor], nonlinearity: str | None, way: str) -> None:
    model = Two(between)
    if way != "traced":
        model = nn.Sequential(Deciding(), model)
    found = followers(model, torch.randn(3, 4))
    assert [follower.nonlinearity for follower in found.values()] == [nonlinearity, None]
    assert all(follower.certain and f"({way})" in follower.reason for follower in found.values())


@pytest.mark.parametrize(
    ("between", "same"),
    [
        (lambda x: F.leaky_relu(x, 0.2), nn.LeakyReLU(0.2)),
        (lambda x: F.elu(x, alpha=2.0), nn.ELU(2.0)),
        (lambda x: F.gelu(x, approximate="tanh"), nn.GELU("tanh")),
        (lambda x: F.hardtanh(x, -2, 2), nn.Hardtanh(-2, 2)),
        (nn.LeakyReLU(0.3), nn.LeakyReLU(0.3)),
        (nn.PReLU(init=0.1), nn.LeakyReLU(0.1)),
        (lambda x: F.threshold(x, 0.1, 0.0), nn.Threshold(0.1, 0.0)),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: x * F.sigmoid(1.702 * x), lambda x: x * torch.sigmoid(1.702 * x)),
        (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "gelu"),
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: torch.maximum(x, torch.zeros(())), "relu"),
        (lambda x: torch.where(x > 0, x, 0.1 * x), nn.LeakyReLU(0.1)),
        (lambda x: F.relu(x).square(), "relu"),  # the first nonlinearity of a chain
        (lambda x: torch.sin(30 * x), lambda x: torch.sin(30 * x)),
        (lambda x: x + torch.sin(x) ** 2, lambda x: x + torch.sin(x) ** 2),
        (lambda x: x / (1 + x.abs()), "softsign"),
    ],
)
def test_settings_and_handwritten_formulas_are_understood(
    between: Callable[[Tensor], Tensor], same: Nonlinearity
) -> None:
    model = Two(between)
    (first, last) = followers(model).values()
    assert first.nonlinearity is not None
    assert first.certain
    assert gain(first.nonlinearity) == pytest.approx(gain(same), rel=1e-6)
    assert last.nonlinearity is None
    assert gain(copy.deepcopy(first.nonlinearity)) == pytest.approx(gain(same), rel=1e-6)


def test_handwritten_formulas_are_shown_and_can_be_pickled() -> None:
    found = followers(Two(lambda x: x * x.sigmoid()))["first"]
    assert found.reason == "followed by mul(x, sigmoid(x)) (traced)"
    assert gain(pickle.loads(pickle.dumps(found.nonlinearity))) == pytest.approx(gain("silu"))


def test_activations_of_the_users_own() -> None:
    class Swish(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beta = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.beta * x)

    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

    found = followers(Two(nn.Sequential(Scale(), Swish())))
    assert gain(found["first"].nonlinearity) == pytest.approx(gain("silu"), rel=1e-6)
    assert found["first"].reason == "followed by Swish `between.1` (traced)"


# --- structures -----------------------------------------------------------------------------------------------------


def test_branches() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("gate", "value", "out", "query", "key", "head", "score"):
                self.add_module(name, nn.Linear(4, 4))
            self.table = nn.Embedding(7, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.table(x)
            h = h + self.out(F.silu(self.gate(h)) * self.value(h))  # SwiGLU in a residual branch
            weights = (self.query(h) @ self.key(h).transpose(-1, -2)).softmax(-1)
            return self.head(weights @ h), torch.tanh(self.score(h)).mean(1)

    found = followers(Branches())
    assert {name: follower.nonlinearity for name, follower in found.items()} == {
        **dict.fromkeys(("value", "out", "query", "key", "head", "table")),
        "gate": "silu",
        "score": "tanh",
    }
    assert found["value"].reason == "multiplied by another signal (traced)"
    assert found["query"].reason == "enters matmul, which is no function of one number (traced)"
    assert complaint(found) is None


def test_pre_activation_residuals_reach_the_nonlinearity_behind_the_sum() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
            self.shortcut = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.shortcut(x) + self.conv(F.relu(self.norm(x)))

    found = _found(nn.Sequential(Block(), Block(), nn.Flatten(), nn.LazyLinear(2)))
    assert found["0.conv"] == found["0.shortcut"] == "relu"
    assert found["1.conv"] is found["3"] is None


def test_modules_whose_inside_is_known() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.lstm = nn.RNN(4, 4, nonlinearity="relu"), nn.LSTM(4, 4)
            layer = nn.TransformerEncoderLayer(4, 2, activation="gelu", batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.lstm(self.rnn(x)[0])
            return self.head(self.encoder(out)[:, -1])

    found = _found(Sequence())
    assert (found["rnn"], found["lstm"], found["head"]) == ("relu", None, None)
    assert found["encoder.layers.1.linear1"] == "gelu"
    assert found["encoder.layers.1.linear2"] is found["encoder.layers.0.self_attn.out_proj"] is None


@pytest.mark.parametrize(
    ("make", "nonlinearity"),
    [
        (lambda: nn.RNN(4, 4), "tanh"),
        (lambda: nn.RNN(4, 4, nonlinearity="relu"), "relu"),
        (lambda: nn.RNNCell(4, 4), "tanh"),
        (lambda: nn.LSTM(4, 4), None),
        (lambda: nn.GRUCell(4, 4), None),
    ],
)
def test_what_follows_a_recurrent_module_is_not_what_its_own_weights_meet(
    make: Callable[[], nn.Module], nonlinearity: str | None
) -> None:
    class Follows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = make(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.recurrent(x)
            return self.head(F.gelu(out[0] if isinstance(out, tuple) else out))

    for batch in (None, torch.zeros(3, 4)):
        assert _found(Follows(), batch) == {"recurrent": nonlinearity, "head": None}


def test_weights_used_by_functions_belong_to_their_owner() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4))
            self.tied = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.tanh(x @ self.kernel.t()), self.tied.weight)

    for batch in (None, torch.randn(2, 4)):
        assert _found(nn.Sequential(Custom(), nn.GELU()), batch) == {"0": "tanh", "0.tied": "gelu"}


def test_a_layer_used_twice_and_parametrized_layers() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(F.relu(self.layer(x)))

    assert _found(Tied()) == {"layer": "relu"}


def test_optional_arguments_are_taken_as_absent() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor | None = None, activate: bool = True) -> Tensor:
            x = self.a(x)
            if mask is not None:
                x = x.masked_fill(mask, 0.0).softmax(-1)
            return self.b(F.relu(x) if activate else x)

    assert _found(Optional()) == {"a": "relu", "b": None}


def test_a_layer_alone_is_the_last() -> None:
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))):
        (follower,) = followers(model).values()
        assert follower == Follower(None, "last layer (traced)")
    assert followers(nn.ReLU()) == {}


# --- Lightning ------------------------------------------------------------------------------------------------------


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


class Decides(nn.Module):
    """Traceable only with data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

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
    assert _found(Decides(), batch) == {"a": "tanh", "b": "silu", "c": None}


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
    class Conditions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

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
        assert _found(wrapped) == {f"{prefix}.first": "gelu", f"{prefix}.last": None}
    assert followers(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))) == {}  # its layers are not torch.nn's


def test_properties_of_tensors_are_followed() -> None:
    between = lambda x: (x.T.relu().T * x.shape[0]).data  # noqa: E731
    assert _found(Two(between)) == {"first": "relu", "last": None}
    assert _found(nn.Sequential(Deciding(), Two(between)), torch.zeros(4, 4)) == {"1.first": "relu", "1.last": None}


def test_exponentials_at_the_end_are_no_activations() -> None:
    assert _found(nn.Sequential(Two(F.relu), Two(torch.exp)))["1.first"] is None


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
    assert _found(model, torch.zeros(2, 4)) == {"first": "relu", "last": None}
