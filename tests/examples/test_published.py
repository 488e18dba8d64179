"""The published experiments: each runs at its smallest, and what it measures is what it says."""

import math

import pytest
import torch
from making import command, made_up
from torch import nn

from examples import models
from examples.classifier import Classifier
from examples.comparison import compare
from examples.data import digits
from examples.published import (
    claims,
    glorot2010,
    hayou2019,
    nielsen,
    pretraining,
    probing,
    saxe2013,
    schoenholz2017,
    selu,
)
from examples.published.claims import Claim
from lightning_init import initialize

SMALL = ["data=digits", "data.train_samples=64", "model.width=8", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
SMALLEST = {
    "glorot2010": ["seed=0", "initializer=uniform_rule"],
    "hayou2019": ["seed=0", "model.depth=2"],
    "he2015": ["seed=0", "model.depth=22", "initializer=he_normal"],
    "he2015_convolutions": ["seed=0", "model.depth=22", "initializer=he_normal"],
    "nielsen": ["seed=0", "model.depth=1,3", "initializer=lecun_normal"],
    "pretraining": ["seed=0", "initializer=uniform_rule,published/pretrained_dae"],
    "saxe2013": ["seed=0", "model.depth=1,3", "initializer=orthogonal"],
    "schoenholz2017": ["seed=0", "model.depth=2", "initializer.sigma_w=1.0"],
    "selu": ["seed=0", "model.depth=8", "initializer=published/selu_1"],
}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_experiment_ends_in_a_table(name, monkeypatch, tmp_path, capsys):
    overrides = [*SMALL, *SMALLEST[name], *(["data.shrink=2"] if name == "saxe2013" else [])]
    command(monkeypatch, f"experiment={name}", *overrides, f"hydra.sweep.dir={tmp_path}")
    text = (tmp_path / "published.md").read_text()
    assert text.startswith(f"## {name}\n")
    rows = [line for line in text.splitlines() if line.endswith(("| yes          |", "| NO           |"))]
    assert rows
    assert not any("| -   " in row.split("| ")[-2] for row in rows)  # something was measured for each
    assert f"figures within the expected range. Made by `python -m examples.train experiment={name}`" in text
    assert "published and measured here" in capsys.readouterr().out


class Data:
    """What a measurement needs of a data module."""

    def __init__(self):
        self.train = digits(seed=0, batch_size=10, validation=0.2, standardize=False).train


def network(initializer, **options):
    torch.manual_seed(0)
    net = models.mlp((1, 8, 8), 10, **options)
    initialize(net, initializer, seed=0)
    return Classifier(net, torch.optim.SGD, 10)


def test_hidden_layers_are_what_autograd_finds():
    module, data = network("lecun_normal", width=6, depth=2, nonlinearity="sigmoid"), Data()
    images, labels = probing.sample(module, data, 5)
    net = module.model
    first = net.linear1(images.flatten(1)).detach().requires_grad_()
    hidden = first.sigmoid()
    second = net.linear2(hidden)
    loss = nn.functional.cross_entropy(net.head(second.sigmoid()), labels, reduction="sum")
    (delta,) = torch.autograd.grad(loss, first)
    one, two = probing.hidden_layers(module, images, labels)
    torch.testing.assert_close(one.activation, hidden.detach())
    torch.testing.assert_close(two.activation, second.sigmoid().detach())
    torch.testing.assert_close(one.delta, delta)
    torch.testing.assert_close(one.weight_gradient, delta.T @ images.flatten(1) / 5)
    torch.testing.assert_close(one.bias_gradient, delta.mean(0))


def test_singular_values_are_those_of_the_jacobians():
    module, data = network("glorot_uniform", width=7, depth=5, nonlinearity="tanh"), Data()
    images, _ = probing.sample(module, data, glorot2010.JACOBIANS)
    values = []
    for image in images:
        z = image.flatten()
        for i in range(1, 6):
            layer = module.model.get_submodule(f"linear{i}")
            if i > 1:
                jacobian = torch.autograd.functional.jacobian(lambda z, layer=layer: layer(z).tanh(), z)
                values.append(torch.linalg.svdvals(jacobian).mean().item())
            z = layer(z).tanh().detach()
    found = glorot2010.measure(module, data)
    assert found[glorot2010.SINGULAR] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_the_gradients_ratio_is_per_layer():
    module, data = network("lecun_normal", width=6, depth=3, nonlinearity="sigmoid"), Data()
    layers = probing.hidden_layers(module, *probing.sample(module, data, nielsen.SAMPLES))
    norms = [layer.bias_gradient.norm().item() for layer in layers]
    ratios = norms[1] / norms[0] * norms[2] / norms[1]
    assert nielsen.measure(module, data)[nielsen.RATIO] == pytest.approx(math.sqrt(ratios))


def test_the_regression_is_the_least_squares_fit_on_whitened_pixels():
    images, labels = torch.rand(50, 1, 2, 2), torch.arange(50) % 10
    target = saxe2013.regression(images, labels)
    pixels = images.flatten(1).double()
    outputs = nn.functional.one_hot(labels).double()
    centred, wanted = pixels - pixels.mean(0), outputs - outputs.mean(0)
    fit = centred @ torch.linalg.lstsq(centred, wanted).solution
    assert target.square().sum().item() == pytest.approx(fit.square().sum().item() / 50, rel=1e-4)


@pytest.mark.parametrize(("rate", "expected"), [(0.5, 3), (1.0, 1), (0.1, 19), (0.001, math.inf), (5.0, math.inf)])
def test_steps_of_one_layer_have_a_closed_form(rate, expected):
    """The gap shrinks by (1 - rate)^2 with each step."""
    net = nn.Sequential(nn.Linear(4, 3, bias=False))
    assert saxe2013.steps(net, torch.randn(3, 4), rate, limit=200) == expected


def test_theory_agrees_with_the_published_figures():
    class Empty:
        settings = ()

    pairs = hayou2019.measured(Empty())
    assert len(pairs) == len(hayou2019.EDGE)
    assert [claim.setting for claim, got in pairs if not claim.holds(got)] == []


def test_a_trained_depth_is_the_deepest_that_learned(monkeypatch, tmp_path):
    found = {}
    monkeypatch.setattr(claims, "report", lambda name, about, pairs, directory, **_: found.update(pairs=pairs))
    monkeypatch.setattr(schoenholz2017, "TRAINED", -1.0)  # every depth counts
    options = [*SMALL, "seed=0", "model.depth=2,3", "initializer.sigma_w=1.0", f"hydra.sweep.dir={tmp_path}"]
    command(monkeypatch, "experiment=schoenholz2017", *options)
    (scale, got), (_, share) = found["pairs"]
    assert scale.holds(got)
    assert share == pytest.approx(3 / (6 * got))


def test_selu_measures_the_layers_it_names():
    module, data = network("lecun_normal", width=8, depth=8, nonlinearity="selu"), Data()
    layers = probing.hidden_layers(module, *probing.sample(module, data, selu.SAMPLES))
    assert selu.measure(module, data) == {"activation std, layer 8": layers[7].activation.std().item()}


def test_sigma_w_is_read_off_the_weights():
    module = network("zeros", width=200, depth=2, nonlinearity="tanh")
    for layer in (module.model.linear1, module.model.linear2):
        nn.init.normal_(layer.weight, std=1.5 / math.sqrt(layer.in_features))
    assert hayou2019.measure(module, None)[hayou2019.SIGMA_W] == pytest.approx(1.5, rel=0.02)


def test_an_open_range_is_written_in_words():
    assert Claim("a", "q", "-", 20, math.inf, "{:.0f}").expected() == "20 or more"


def test_the_gain_of_pretraining_is_the_least_over_pairs_of_one_seed(tmp_path):
    curves = {
        ("uniform_rule", 0): [0.1, 0.6],
        ("uniform_rule", 1): [0.3, 0.2],
        ("RBMs", 0): [0.5, 0.7],
        ("RBMs", 1): [0.6, 0.9],
        ("RBMs", 2): [0.0, 0.0],  # has no partner
    }
    for (name, seed), accuracy in curves.items():
        made_up(tmp_path / f"{name}{seed}", initializer=name, seed=seed, accuracy=accuracy)
    pairs = pretraining.measured(compare([tmp_path]))
    assert [(claim.setting, claim.quantity) for claim, _ in pairs] == [
        ("RBMs", "least gain in accuracy over uniform_rule, after epoch 1"),
        ("RBMs", "least gain in accuracy over uniform_rule, at the end"),
    ]
    assert [got for _, got in pairs] == pytest.approx([0.3, 0.1])
