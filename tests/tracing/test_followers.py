"""What follows each layer: torchvision's models, every way to write an activation, and forwards that resist."""

import copy
import math
import pickle
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import Deciding, Two, nonlinearities
from torch import Tensor, nn

from lightning_init.gains import gain
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.tracing import Follower, complaint, followers

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
    assert Counter(nonlinearities(model).values()) == counts


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

    found = nonlinearities(nn.Sequential(Block(), Block(), nn.Flatten(), nn.LazyLinear(2)))
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

    found = nonlinearities(Sequence())
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
        assert nonlinearities(Follows(), batch) == {"recurrent": nonlinearity, "head": None}


def test_weights_used_by_functions_belong_to_their_owner() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4))
            self.tied = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.tanh(x @ self.kernel.t()), self.tied.weight)

    for batch in (None, torch.randn(2, 4)):
        assert nonlinearities(nn.Sequential(Custom(), nn.GELU()), batch) == {"0": "tanh", "0.tied": "gelu"}


def test_a_layer_used_twice_and_parametrized_layers() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(F.relu(self.layer(x)))

    assert nonlinearities(Tied()) == {"layer": "relu"}


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

    assert nonlinearities(Optional()) == {"a": "relu", "b": None}


def test_a_layer_alone_is_the_last() -> None:
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))):
        (follower,) = followers(model).values()
        assert follower == Follower(None, "last layer (traced)")
    assert followers(nn.ReLU()) == {}
