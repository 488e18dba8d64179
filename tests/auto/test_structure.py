"""What `auto` sees around each layer of a model, and what it makes of that."""

import math

import pytest
import torch
from chains import why
from torch import nn

from lightning_init import calibrate, diagnose, initialize
from lightning_init.auto import Auto
from lightning_init.auto.structure import structure
from lightning_init.tracing import dataflow


class Residual(nn.Module):
    def __init__(self, shortcut=False):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 8, 1) if shortcut else nn.Identity()

    def forward(self, x):
        return (self.shortcut(x) + self.two(self.one(x).relu())).relu()


def test_residual_branches_are_scaled_by_their_number():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *[Residual(shortcut=i == 2) for i in range(4)], nn.Flatten())
    report = initialize(model, "auto", seed=0)
    for i in range(4):
        assert "ends one of 4 residual branches (x 0.500)" in why(report, f"{i + 1}.two.weight")
        assert "residual" not in why(report, f"{i + 1}.one.weight")
    assert "residual" not in why(report, "3.shortcut.weight")
    entry = next(entry for entry in report.entries if entry.name == "1.two.weight")
    assert entry.achieved_std == pytest.approx(0.5 * math.sqrt(2 / 72), rel=0.1)


def test_towers_that_are_added_are_no_residual_branches():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) + self.b(x)

    assert "residual" not in str(initialize(Towers(), "auto"))


def test_normalization_dropout_and_the_front_decide_alone():
    model = nn.Sequential(
        *(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.5)),
        *(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)),
    )
    report = initialize(model, "auto", seed=0)
    assert "first layer: variance 1 if inputs have mean square 1 (not known)" in why(report, "0.weight")
    assert "behind gelu: gain 1.534, behind a dropout that keeps 0.5 (gain x 0.71)" in why(report, "4.weight")
    assert "behind a normalization: gain 1" in why(report, "6.weight")
    assert "last layer" in why(report, "6.weight")
    assert why(report, "0.bias") == "Linear bias"


def test_links_survive_pooling_and_flattening():
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    for _ in range(4):
        layers += [nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 5))
    found = structure(dataflow(model)[0]).layers
    assert found["9"].feeds == {"12": "relu"}
    initialize(model, "auto", seed=0)
    weight = model[12].weight
    assert torch.equal(weight[:, :48], -weight[:, 48:])  # three of six channels, of 16 pixels each


def test_layers_that_are_shared_wanted_elsewhere_or_grouped_are_no_pairs():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            for _ in range(6):
                x = self.a(x).relu()
            y = self.b(x)
            return self.b(y.relu()) + y

    found = structure(dataflow(Shared())[0]).layers
    assert found["a"].chain == found["b"].chain == 1
    grouped = nn.Sequential(*[part for _ in range(6) for part in (nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU())])
    assert "pairs" not in str(initialize(grouped, "auto"))


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformers(norm_first):
    block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first, activation="gelu")
    model = nn.Sequential(nn.Linear(32, 32), nn.TransformerEncoder(block, 3, enable_nested_tensor=False))
    report = initialize(model, "auto", seed=0)
    assert "ends one of 6 residual branches (x 0.408)" in why(report, "1.layers.0.self_attn.out_proj.weight")
    assert "behind gelu: gain 1.534, ends one of 6" in why(report, "1.layers.2.linear2.weight")
    assert "behind a normalization: gain 1" in why(report, "1.layers.1.linear1.weight")
    x = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(0))
    calibrate(model, "auto", [x], seed=0)
    variances = {one.name: one.activation_variance for one in diagnose(model, x).profile.spine}
    assert variances["1.layers.0.self_attn"] == pytest.approx(1 / 6, rel=0.02)  # without averaging over 16 tokens


def test_embeddings_and_recurrent_layers():
    model = nn.Sequential(nn.Embedding(50, 16), nn.LSTM(16, 16))
    report = initialize(model, "auto", seed=0)
    assert "embedding: std 1" in why(report, "0.weight")
    assert "recurrent: orthogonal" in why(report, "1.weight_hh_l0")
    tied = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 50))
    tied[1].weight = tied[0].weight
    assert "tied with a layer: std 0.25" in why(initialize(tied, "auto"), "0.weight")


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()

    def forward(self, x):
        return self.b(self.act(self.a(x))) if x.sum() > 0 else self.b(self.a(x))


def test_what_cannot_be_traced_is_seen_in_one_forward_or_said_loudly():
    with pytest.warns(UserWarning, match="auto cannot follow the data flow of Undecided"):
        initialize(Undecided(), "auto")
    report = initialize(Undecided(), Auto(batch=(torch.ones(2, 4), torch.zeros(2))))
    assert "behind tanh" in why(report, "b.weight")
    assert "(seen in one forward)" in why(report, "b.weight")
    model = Undecided()
    model.example_input_array = 3 * torch.ones(2, 4)
    assert "inputs of mean square 9" in why(initialize(model, "auto"), "a.weight")


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.a(x).relu(), (2, 3))
        return nn.functional.max_pool2d(self.b(x), kernel_size=2)


def test_it_sees_how_many_values_a_max_pooling_takes_the_largest_of():
    found = structure(dataflow(Functional())[0]).layers
    assert (found["a"].window, found["b"].window) == (1, 6)
    pools = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 2), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Conv2d(8, 8, 3))
    assert structure(dataflow(pools)[0]).layers["4"].window == 18


def test_behind_a_single_unit_nothing_can_be_ignored():
    model = nn.Sequential(*[part for n in (8, 8, 1, 8, 8, 8) for part in (nn.LazyLinear(n), nn.Sigmoid())])
    model(torch.ones(1, 8))
    report = initialize(model, "auto", seed=0)
    assert "sigmoid as it is" in why(report, "6.weight")
    assert "which the weights ignore" in why(report, "8.weight")


def test_a_layer_behind_a_shortcut_is_not_called_the_first():
    report = initialize(nn.Sequential(Wide(), nn.Linear(16, 2)), "auto", seed=0)
    assert "first layer" in why(report, "0.one.weight")
    assert "behind shortcuts from the inputs" in why(report, "1.weight")


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return x + self.two(self.one(x).relu())


def test_a_layer_whose_nonlinearity_is_constant_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Threshold(20.0, 0.0), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"around layer 0: nonlinearity threshold.* is constant"):
        initialize(model, "auto")
