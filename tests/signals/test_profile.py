"""The depth profile: what theory expects is what real layers do, and what it cannot know it leaves out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_init import initialize
from lightning_init._running import Call, call_of
from lightning_init.gains import exact
from lightning_init.signals.profile import trend
from lightning_init.signals.profiling import measure
from lightning_init.signals.symmetry import symmetric_fraction


def profile(model, x):
    return {layer.name: layer for layer in measure(model, Call((x,), {})).layers}


class Residual(nn.Module):
    """What resnets do: functional nonlinearities, a sum, pooling, a reshape."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 64, 3, padding=1, padding_mode="circular")
        self.branch = nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(64)
        self.up = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
        self.head = nn.Linear(64 * 16, 256)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.branch(F.relu(x))
        x = self.up(torch.tanh(self.norm(x)))
        return self.head(F.max_pool2d(F.gelu(x), 4).flatten(1))


def test_theory_follows_the_forward_pass_of_any_model():
    model = Residual()
    initialize(model, "he_normal", seed=0)
    layers = profile(model, torch.randn(16, 4, 8, 8))
    assert [layers[name].front for name in ("stem", "branch", "up", "head")] == ["linear", "relu", "tanh", "gelu"]
    for name in ("stem", "branch", "up"):
        assert layers[name].activation_variance == pytest.approx(layers[name].predicted_variance, rel=0.15), name
    # E[tanh^2] = 1 / exact gain^2; a head behind a pool starts from what is measured
    assert layers["up"].predicted_variance == pytest.approx(2 / exact("tanh").forward ** 2, rel=0.03)
    assert layers["head"].predicted_variance == pytest.approx(2 * layers["head"].input_square, rel=0.03)
    assert layers["head"].target_std == pytest.approx(exact("gelu").forward / 32)
    assert "norm" in layers
    assert not layers["norm"].spine


def test_expectation_is_that_of_mean_field_theory():
    net = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 512), nn.Dropout(0.5), nn.Linear(512, 512))
    initialize(net, "lecun_normal", bias="small_random", seed=0)
    layers = profile(net, torch.randn(256, 256))
    assert layers["2"].predicted_variance == pytest.approx(1 / exact("tanh").forward ** 2, rel=0.05)
    assert layers["4"].predicted_variance == pytest.approx(2 * layers["2"].predicted_variance, rel=0.05)
    for layer in layers.values():
        if layer.spine:
            assert layer.activation_variance == pytest.approx(layer.predicted_variance, rel=0.1)


def test_weights_that_are_not_centred_are_not_predicted():
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    initialize(net, "uniform", seed=0)  # U[0, 1)
    assert [layer.predicted_variance for layer in profile(net, torch.randn(8, 64)).values()] == [None, None, None]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_energy_is_kept_where_he_keeps_the_variance(stride):
    """Whatever the widths and strides; the mean square per element is not."""
    net = nn.Sequential(nn.Conv2d(32, 64, 4, stride, 1, padding_mode="circular"), nn.ReLU())
    net.extend([nn.Conv2d(64, 256, 4, stride, 1, padding_mode="circular"), nn.ReLU(), nn.Conv2d(256, 64, 1)])
    initialize(net, "he_normal", seed=0)
    found = measure(net, Call((torch.randn(8, 32, 16, 16),), {}))
    assert abs(found.backward.slope) < 0.05
    assert abs(found.forward.slope) < 0.2  # the first layer meets a linear signal: a factor 2


def test_gradients_are_those_of_backward():
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    x, y = torch.randn(4, 8), torch.randn(4, 3)
    layers = {one.name: one for one in measure(net, call_of(net, (x, y)), F.mse_loss).layers}
    hidden = net[0](x)
    hidden.retain_grad()
    F.mse_loss(net[2](net[1](hidden)), y).backward()
    own = [p.grad for p in net[0].parameters()]
    assert layers["0"].gradient_norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in own)), rel=1e-6)
    assert layers["0"].gradient_energy == pytest.approx(float(hidden.grad.square().sum()), rel=1e-6)


def test_in_place_modules_are_measured_before_they_are_overwritten():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    in_place = nn.Sequential(plain[0], nn.ReLU(inplace=True), plain[2])
    x = torch.randn(4, 8)
    assert profile(plain, x) == profile(in_place, x)


def test_shared_and_checkpointed_layers_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.relu, self.b = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)

        def forward(self, x):
            step = lambda x: self.relu(self.a(x))
            for _ in range(2):
                x = torch.utils.checkpoint.checkpoint(step, x, use_reentrant=False)
            return self.relu(self.b(x))

    found = measure(Twice(), Call((torch.randn(4, 8),), {}))
    assert [layer.name for layer in found.layers] == ["a", "relu", "b"]
    assert found.idle == ()


def test_attention_recurrence_and_embeddings():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 16)
            self.lstm = nn.LSTM(16, 16, batch_first=True)
            self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

        def forward(self, tokens):
            return self.block(self.lstm(self.embedding(tokens))[0])

    found = measure(Text(), Call((torch.randint(10, (4, 7)),), {}))
    assert [layer.name for layer in found.spine] == ["lstm", "block.self_attn", "block.linear1", "block.linear2"]
    assert found.idle == ()
    assert found.backward is not None


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_symmetric_units(scale):
    rows = torch.randn(64, 100) * scale
    assert symmetric_fraction(rows) == 0.0
    twins = rows.clone()
    twins[:16] = twins[16:32] * (1 + 1e-6)
    assert symmetric_fraction(twins) == 0.5
    assert symmetric_fraction(twins, rows) == 0.0  # the gradients tell them apart
    assert symmetric_fraction(torch.full((5, 3), 0.1)) == symmetric_fraction(torch.zeros(5, 3)) == 1.0
    assert symmetric_fraction(torch.ones(1, 3)) == 0.0


def test_a_trend_is_a_least_squares_line():
    assert trend([None, 10.0]) is None
    assert trend([1.0, 0.0, 100.0]).slope == 1.0
    assert trend([4.0, 4.0, math.inf]).drift == 0.0
