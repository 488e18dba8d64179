"""`auto`: what it sees in a model, what it chooses, and what signals do in networks that it initialized."""

import itertools
import math

import pytest
import torch
from torch import nn

from lightning_init import calibrate, diagnose, initialize
from lightning_init.auto import Auto
from lightning_init.auto.structure import structure
from lightning_init.auto.theory import BUDGET, pooled, recurrent_square, setting
from lightning_init.initializers import LooksLinear, VarianceScaling
from lightning_init.tracing import dataflow

TWELVE = (
    *("ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU"),
    *("Mish", "Softplus", "Tanh", "Sigmoid", "Softsign", "Hardtanh"),
)


def mlp(nonlinearity, depth, width=64):
    widths = [32, *[width] * (depth - 1), 10]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nonlinearity())][:-1])


def decades(model, x):
    """log10 of last / first: variance of the activations forward, energy of the gradient backward."""
    spine = diagnose(model, x).profile.spine
    forward = [layer.activation_variance for layer in spine]
    backward = [layer.gradient_energy for layer in spine]
    return math.log10(forward[-1] / forward[0] + 1e-300), math.log10(backward[0] / backward[-1] + 1e-300)


def why(report, name):
    return next(entry.why for entry in report.entries if entry.name == name)


@pytest.mark.parametrize("depth", [10, 100])
@pytest.mark.parametrize("name", TWELVE)
def test_deep_chains_keep_signals_both_ways(name, depth):
    model, x = mlp(getattr(nn, name), depth), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    initialize(model, Auto(batch=x, correct=False), seed=0)
    forward, backward = decades(model, x)
    assert abs(forward) < 0.5
    assert abs(backward) < 1.0


def test_without_pairs_relu_scatters_by_the_root_of_five_times_depth_over_width():
    """The standard deviation of the logarithm, over networks; docs/auto.md says so."""
    depth, width, networks = 10, 100, 400
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(networks, width, 1, generator=generator)
    start = x.square().mean((1, 2))
    for _ in range(depth):
        x = torch.randn(networks, width, width, generator=generator) * math.sqrt(2 / width) @ x.relu()
    scatter = (x.square().mean((1, 2)) / start).log().std().item()
    assert scatter == pytest.approx(math.sqrt(5 * depth / width), rel=4 / math.sqrt(2 * networks))


def test_the_bounds_would_not_hold_without_pairs_or_isometries():
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    for name in ("GELU", "Softplus", "Sigmoid"):
        model = mlp(getattr(nn, name), 100)
        initialize(model, "orthogonal", nonlinearity="auto", seed=0)
        assert max(map(abs, decades(model, x))) > 1


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "softplus", "hardswish"])
def test_pairs_make_these_nonlinearities_exactly_linear(name):
    found = setting(name, 1000)
    assert (found.symmetry, found.q) == ("mirrored", 1.0)
    assert found.chi == pytest.approx(1, abs=1e-9)
    assert found.slope == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softsign", "elu", "selu", "mish", "hardtanh"])
def test_the_variance_of_a_chain_is_the_largest_within_the_budget(name):
    found = {depth: setting(name, depth) for depth in (10, 200)}
    assert found[200].q < found[10].q or found[10].q == 1
    for depth, one in found.items():
        assert abs(math.log10(one.chi)) * depth <= BUDGET
        assert one.slope < 1


def test_a_network_of_pairs_is_an_isometry():
    model = mlp(nn.SiLU, 30)
    initialize(model, Auto(), bias="zeros", seed=0)
    x = torch.randn(4, 32)
    hidden = model[:-1](x)
    assert torch.allclose(model(2 * x), 2 * model(x), rtol=1e-3, atol=1e-5)
    assert torch.allclose(hidden[:, :32] - hidden[:, 32:], model[:-2](x)[:, :32], atol=1e-5)


@pytest.mark.parametrize(("outputs", "inputs", "kernel"), [(8, 8, ()), (7, 9, ()), (5, 12, (3, 3)), (12, 4, (3,))])
def test_looks_linear(outputs, inputs, kernel):
    generator = torch.Generator().manual_seed(0)
    initializer = LooksLinear(1.5, rows=True, columns=inputs // 2)
    weight = initializer(torch.empty(outputs, inputs, *kernel), generator=generator)
    half, columns = outputs // 2, inputs // 2
    assert torch.equal(weight[:half], -weight[half : 2 * half])
    assert torch.equal(weight[:, :columns], -weight[:, columns : 2 * columns])
    assert not weight[:, 2 * columns :].any()
    target = initializer.target_std(weight.shape, None)
    assert weight.square().mean().sqrt().item() == pytest.approx(target, rel=0.2)
    centred = LooksLinear(centred=True)(torch.empty(outputs, inputs, *kernel), generator=generator)
    assert centred.sum(1).abs().max() < 1e-5
    assert centred.square().sum((*range(1, centred.ndim),)).mean().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("width", [2, 3, 17, 65])
def test_the_odd_unit_takes_nothing_from_the_pairs(width):
    model, x = mlp(nn.ReLU, 100, width), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    initialize(model, "auto", seed=0)
    assert max(map(abs, decades(model, x))) < 0.2


class Sign(nn.Module):
    def forward(self, x):
        return x.sign()


@pytest.mark.parametrize("made", [nn.Hardshrink, nn.Softshrink, lambda: nn.Threshold(0.5, 0.0), Sign, nn.Hardsigmoid])
def test_what_lets_nothing_small_through_or_has_no_slope_gets_what_keeps_its_variance(made):
    model, x = mlp(made, 8), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    initialize(model, Auto(batch=x, correct=False), seed=0)
    variances = [layer.activation_variance for layer in diagnose(model, x).profile.spine]
    assert all(0.1 < one < 10 for one in variances)


def test_behind_a_single_unit_nothing_can_be_ignored():
    model = nn.Sequential(*[part for n in (8, 8, 1, 8, 8, 8) for part in (nn.LazyLinear(n), nn.Sigmoid())])
    model(torch.ones(1, 8))
    report = initialize(model, "auto", seed=0)
    assert "sigmoid as it is" in why(report, "6.weight")
    assert "which the weights ignore" in why(report, "8.weight")


def test_looks_linear_refuses_what_has_no_pairs():
    with pytest.raises(ValueError, match="needs more units than"):
        LooksLinear(columns=3)(torch.empty(4, 5))
    with pytest.raises(ValueError, match="columns of LooksLinear"):
        LooksLinear(columns=-1)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        LooksLinear()(torch.empty(4))


# --- what it sees ----------------------------------------------------------------------------------------------------


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


class Recurrent(nn.Module):
    def __init__(self, kind, layers):
        super().__init__()
        self.rnn, self.head = kind(16, 64, layers), nn.Linear(64, 64)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_stands_behind_a_recurrent_layer_gets_its_variance_too(kind, layers):
    model, x = Recurrent(kind, layers), torch.randn(50, 16, 16, generator=torch.Generator().manual_seed(0))
    report = initialize(model, "auto", seed=0)
    assert f"behind {kind.__name__} (mean square" in why(report, "head.weight")
    assert 0.4 < model(x)[-1].var().item() < 2.5


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


@pytest.fixture
def elsewhere():
    """As Lightning builds a model on a GPU in half precision: by default tensors are not float32 on the CPU."""
    for function in (setting, pooled, recurrent_square):
        function.cache_clear()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("way", ["plan", "correction", "krahenbuhl", "diagnose"])
def test_torchs_defaults_of_device_and_type_are_not_asked(way, request):
    layers = [part for i in range(6) for part in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(72, 2))
    recurrent, x = Recurrent(nn.LSTM, 1), torch.randn(4, 3, 10, 10)
    request.getfixturevalue("elsewhere")
    if way == "plan":
        initialize(model, Auto(batch=x, correct=False), seed=0)
        initialize(recurrent, "auto", seed=0)
    elif way == "correction":
        initialize(model, Auto(batch=x), seed=0)
    elif way == "krahenbuhl":
        calibrate(model, "krahenbuhl", [x], seed=0)
    else:
        assert diagnose(model, x).verdict


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


def test_rules_come_first_and_auto_is_none():
    model = mlp(nn.ReLU, 6)
    report = initialize(model, "auto", rules={"10.*": "zeros"}, seed=0)
    assert "rule" in why(report, "10.weight")
    with pytest.raises(ValueError, match="auto looks at the whole model: make it the initializer"):
        initialize(model, "he_normal", rules={"0.*": "auto"})
    with pytest.raises(ValueError, match="needs data and the whole model"):
        initialize(model, Auto(correct=True))


def test_a_correction_sets_the_planned_variances():
    layers = [part for _ in range(6) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    x = torch.randn(8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    initialize(model, "auto", seed=0)
    assert abs(decades(model, x)[0]) > 1  # averaging takes it
    report = calibrate(model, "auto", [x], seed=0)
    planned = setting("tanh", 6).q  # the pool links the last layer, too, but leaves no seventh nonlinearity
    variances = [layer.activation_variance for layer in diagnose(model, x).profile.spine]
    assert variances == pytest.approx([variances[0]] * 7, rel=0.02)
    assert variances[0] == pytest.approx(planned, rel=0.2)
    assert "Auto: output variance" in why(report, "14.weight")
    calibrated = [parameter.clone() for parameter in model.parameters()]
    assert initialize(model, Auto(batch=x), seed=0).to_dict() == report.to_dict()
    assert all(map(torch.equal, model.parameters(), calibrated))


def plain_cnn():
    layers = [part for i in range(20) for part in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), torch.randn(8, 3, 16, 16)


def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(4, 32, 64)


@pytest.mark.parametrize("made", [plain_cnn, lambda: encoder(True), lambda: encoder(False)])
def test_with_a_batch_signals_survive_averages_too(made):
    torch.manual_seed(0)
    model, x = made()
    initialize(model, Auto(batch=x, correct=False), seed=0)
    assert abs(decades(model, x)[0]) > 0.5
    initialize(model, Auto(batch=x), seed=0)
    forward, backward = decades(model, x)
    assert abs(forward) < 0.5
    assert abs(backward) < 1.0


@pytest.mark.parametrize("gain", [0.1, 3.0])
def test_what_an_average_of_equal_values_takes_no_weights_give_back(gain):
    """Forward minus backward is log10(1 + (n - 1) c), whatever the scale of the weights behind it: docs/auto.md."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 256, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 256))
    shared, own = torch.randn(64, 64, 1, 1), torch.randn(64, 64, 7, 7)
    for c in (0.0, 0.5, 1.0):
        x = math.sqrt(c) * shared + math.sqrt(1 - c) * own
        initialize(model, "lecun_normal", rules={"3.weight": VarianceScaling(gain, "fan_in", "normal")}, seed=0)
        forward, backward = decades(model, x)
        assert forward - backward == pytest.approx(math.log10(1 + 48 * c), abs=0.1)


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


@pytest.mark.parametrize("window", [1, 2, 4, 9])
def test_max_pooling_of_independent_values_is_the_law_of_their_largest(window):
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    law = torch.special.ndtr(x) ** window
    density = torch.diff(law)
    middle = (x[1:] + x[:-1]) / 2
    square = float((density * middle.relu() ** 2).sum())
    mean = float((density * middle.relu()).sum())
    found, shared = pooled("relu", "none", 1.0, window, 0.0)
    assert found == pytest.approx(square / 0.5, rel=0.02)
    assert shared == pytest.approx(mean**2 / square, abs=0.01)


def test_max_pooling_of_equal_values_changes_nothing():
    for symmetry in ("none", "mirrored", "odd", "centred"):
        assert pooled("relu", symmetry, 1.0, 4, 1.0) == pytest.approx(
            (1, 1), abs=0.35 if symmetry == "centred" else 1e-6
        )


def pooling_cnn(depth=4):
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (64 >> depth) ** 2, 400))


def test_with_images_max_pooling_is_taken_into_account():
    """Four seeds, whose drifts have a std of 0.12 decades: the mean within four standard errors of none."""
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth = 1 + 0.01 * images

    def drift(initializer, x):
        model, drifts = pooling_cnn(), []
        for seed in range(4):
            report = initialize(model, initializer, seed=seed)
            drifts.append(decades(model, x)[0])
        return sum(drifts) / 4, why(report, "3.weight")

    mean, reason = drift(Auto(batch=images), images)
    assert abs(mean) < 0.24
    assert "behind the largest of 4 values (mean square x 1.7" in reason
    mean, reason = drift(Auto(batch=smooth), smooth)
    assert abs(mean) < 0.24
    assert "largest" not in reason
    mean, reason = drift(Auto(), images)
    assert mean > 0.3
    assert "largest" not in reason


@pytest.mark.parametrize("depth", [2, 4, 10])
def test_gradients_survive_sines_of_high_frequency(depth):
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(30 * x)

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(32 if i == 0 else 64, 64) for i in range(depth)])
            self.last = nn.Linear(64, 10)

        def forward(self, x):
            for layer in self.layers:
                x = torch.sin(30 * layer(x))
            return self.last(x)

    x = torch.randn(64, 32)
    for model in (mlp(Sine, depth + 1), Written()):
        initialize(model, "auto", seed=0)
        assert abs(decades(model, x)[1]) < 1.0
        initialize(model, "lecun_normal", nonlinearity="sin", seed=0)
        assert decades(model, x)[1] > 2.0 * depth


def test_gates_have_their_gain():
    def gates():
        return nn.Sequential(*[part for _ in range(10) for part in (nn.Linear(64, 128), nn.GLU())][:-1])

    x = torch.randn(64, 64)
    report = initialize(model := gates(), "auto", seed=0)
    assert why(report, "2.weight").startswith("Linear weight: behind a gate with sigmoid: gain 1.846")
    assert all(abs(one) < 1.0 for one in decades(model, x))
    initialize(model := gates(), "lecun_normal", seed=0)
    assert decades(model, x)[0] < -4.0


def test_what_is_refused_says_what_to_do():
    with pytest.raises(ValueError, match=r"InitCallback\(Auto\(correct=True\)\)"):
        initialize(nn.Linear(2, 2), Auto(correct=True))
    with pytest.raises(TypeError, match="correct of Auto must be True, False or None, got 'x'"):
        Auto(correct="x")
    with pytest.raises(TypeError, match="batches must be an iterable of batches, got one NoneType"):
        calibrate(nn.Linear(2, 2), "auto", None)

    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with pytest.warns(UserWarning, match="give a batch that its forward takes"):
        initialize(Fails(), Auto(batch=torch.ones(2), correct=False))
    with pytest.raises(ValueError, match="the forward pass fails in layer Fails"), pytest.warns(match="cannot follow"):
        initialize(Fails(), Auto(batch=torch.ones(2)))
