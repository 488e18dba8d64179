"""Effective weights are found and written where they live."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lightning_init import initialize
from lightning_init.placement import places
from lightning_init.signals.probe import Probe

OLD = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


def weight_place(model):
    return next(place for place in places(model) if place.leaf == "weight")


class Halved(nn.Module):
    """A parametrization that a user might write."""

    def forward(self, stored):
        return stored / 2

    def right_inverse(self, value):
        return value * 2


def halved(module):
    parametrize.register_parametrization(module, "weight", Halved())
    return module


def pruned(module):
    prune.random_unstructured(module, "weight", amount=0.5)
    return module


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda m: m, id="plain"),
        pytest.param(parametrizations.weight_norm, id="weight_norm"),
        pytest.param(nn.utils.weight_norm, id="old weight_norm", marks=OLD),
        pytest.param(halved, id="user-made"),
    ],
)
@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: nn.ConvTranspose2d(4, 6, 3)])
def test_what_is_written_is_what_the_module_uses(wrap, make):
    model = nn.Sequential(wrap(make()))
    place = weight_place(model)
    value = torch.randn(place.shape)
    place.write_(value)
    torch.testing.assert_close(place.read(), value)
    x = torch.randn(2, 6) if isinstance(model[0], nn.Linear) else torch.randn(2, 4, 5, 5)
    model(x)  # hooks recompute the weight here
    torch.testing.assert_close(model[0].weight.detach(), value)
    assert not place.read().requires_grad


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm_divides_by_the_new_weights_largest_singular_value(norm, training):
    model = nn.Sequential(norm(nn.Linear(30, 20))).train(training)
    place = weight_place(model)
    value = torch.randn(20, 30) * 7
    place.write_(value)
    assert torch.linalg.matrix_norm(place.read(), 2).item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(place.parameter.detach(), value)
    assert model.training == training
    assert all(module.training == training for module in model.modules())


def test_a_pruning_mask_is_respected():
    model = nn.Sequential(pruned(nn.Linear(30, 20)))
    place = weight_place(model)
    place.write_(torch.ones(20, 30))
    assert torch.equal(place.read(), model[0].weight_mask)


def test_reading_does_not_advance_power_iterations():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(30, 20)))
    before = copy.deepcopy(list(model.buffers()))
    weight_place(model).read()
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert model[0].parametrizations.weight[0].training


def test_tied_parameters_are_one_place_under_the_first_name():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    (place,) = places(model)
    assert (place.name, place.also) == ("embed.weight", ("head.weight",))
    assert place.names == ("embed.weight", "head.weight")


def test_a_module_used_twice_is_one_place():
    shared = nn.Linear(3, 3)
    assert [place.name for place in places(nn.Sequential(shared, nn.ReLU(), shared))] == ["0.weight", "0.bias"]


def test_every_parameter_is_behind_exactly_one_place():
    model = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(4, 4)), pruned(nn.Linear(3, 3)), nn.LSTM(3, 4), nn.BatchNorm1d(3)
    )
    stored = [name for place in places(model) for name in place.stored]
    assert sorted(stored) == sorted(name for name, _ in model.named_parameters())


def test_names_are_those_of_the_model_before_compilation():
    model = nn.Sequential(nn.Linear(3, 3))
    assert [place.name for place in places(torch.compile(model))] == [place.name for place in places(model)]


class Remembering(nn.Module):
    """A parametrization whose right_inverse keeps something in an attribute."""

    scale = 1.0

    def forward(self, stored):
        return stored * self.scale

    def right_inverse(self, value):
        self.scale = value.std().item()
        return value / self.scale


def remembering(module):
    parametrize.register_parametrization(module, "weight", Remembering())
    return module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        nn.utils.spectral_norm,
        pruned,
        remembering,
    ],
)
def test_a_snapshot_restores_everything(wrap):
    model = nn.Sequential(wrap(nn.Linear(6, 5)))
    before = copy.deepcopy(model.state_dict())
    place = weight_place(model)
    effective = place.read().clone()
    restore = place.snapshot()
    place.write_(torch.randn(5, 6))
    restore()
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(place.read(), effective)


def test_a_raw_name_for_a_layers_weight_comes_first_and_the_layer_says_what_it_is():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(200, 300)
            self.shared = self.head.weight

    model = Tied()
    report = initialize(model, "he_normal", seed=0, strict=True)
    weight, bias = report.entries
    assert (weight.name, weight.module, weight.fan_in, bias.name) == ("shared", "head", 200, "head.bias")
    assert weight.why == "Linear weight; tied with head.weight"
    assert model.head.weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    rule = initialize(model, "he_normal", rules={"head.weight": "zeros"}, seed=0)
    assert rule.entries[0].initializer is not None
    assert not model.shared.any()
    assert [list(layer.weights) for layer in Probe(model).layers] == [[], ["head"]]


@pytest.mark.parametrize(("part", "columns"), [("original0", 1), ("original1", 3)])
def test_a_weight_tied_to_a_part_of_another_is_written_once_under_the_first_name(part, columns):
    plain, normed = nn.Linear(columns, 3, bias=False), parametrizations.weight_norm(nn.Linear(3, 3, bias=False))
    setattr(normed.parametrizations.weight, part, plain.weight)
    model = nn.ModuleDict({"a": plain, "b": normed})
    other = {"original0": "original1", "original1": "original0"}[part]
    before = getattr(normed.parametrizations.weight, other).clone()
    report = initialize(model, "normal", seed=0)
    initialize(alone := nn.ModuleDict({"a": nn.Linear(columns, 3, bias=False)}), "normal", seed=0)
    assert torch.equal(plain.weight, alone["a"].weight)
    assert torch.equal(getattr(normed.parametrizations.weight, other), before)
    assert {entry.name: entry.why.split(";")[-1 if entry.name == "a.weight" else 0] for entry in report.entries} == {
        "a.weight": f" tied with b.parametrizations.weight.{part}",
        f"b.parametrizations.weight.{other}": "kept: b.weight shares a.weight, and the first name wins",
    }


def test_parameters_of_the_same_memory_are_written_once():
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight.data = model["a"].weight.data
    report = initialize(model, "normal", seed=0)
    initialize(alone := nn.ModuleDict({"a": nn.Linear(3, 3, bias=False)}), "normal", seed=0)
    assert torch.equal(model["b"].weight, alone["a"].weight)
    assert [entry.name for entry in report.entries] == ["a.weight", "b.weight"]
    assert report.entries[1].why == "kept: b.weight shares a.weight, and the first name wins"


def test_a_weight_and_its_transpose_are_one():
    model = nn.ModuleDict({"encoder": nn.Linear(5, 3, bias=False), "decoder": nn.Linear(3, 5, bias=False)})
    model["decoder"].weight = nn.Parameter(model["encoder"].weight.t())
    report = initialize(model, "he_normal", seed=0)
    initialize(alone := nn.ModuleDict({"encoder": nn.Linear(5, 3, bias=False)}), "he_normal", seed=0)
    assert torch.equal(model["decoder"].weight.t(), alone["encoder"].weight)
    assert report.entries[1].why == "kept: decoder.weight shares encoder.weight, and the first name wins"


def test_a_part_of_a_computed_weight_that_comes_first_is_written_with_it():
    plain, normed = nn.Linear(3, 3, bias=False), parametrizations.weight_norm(nn.Linear(3, 3, bias=False))
    plain.weight = normed.parametrizations.weight.original1
    (place,) = places(nn.ModuleDict({"a": normed, "b": plain}))
    assert (place.name, place.also) == ("a.weight", ("b.weight",))


def test_names_that_differ_only_by_a_wrapper_are_refused():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "_orig_mod": nn.ModuleDict({"a": nn.Linear(3, 3)})})
    with pytest.raises(ValueError, match=r"'a.weight' and '_orig_mod.a.weight' are both called 'a.weight': rename"):
        places(model)
    model["_orig_mod"]["a"] = model["a"]  # one and the same
    assert [place.name for place in places(model)] == ["a.weight", "a.bias"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_prefix_of_a_parallel_wrapper_is_taken_off_and_a_child_called_module_is_not():
    net = nn.ModuleDict({"module": nn.ModuleDict({"fc": nn.Linear(3, 3, bias=False)})})
    assert [place.name for place in places(net)] == ["module.fc.weight"]
    assert [place.name for place in places(nn.DataParallel(net))] == ["module.fc.weight"]
    (entry,) = initialize(nn.Sequential(nn.DataParallel(nn.Sequential(nn.Linear(3, 3, bias=False)))), "zeros").entries
    assert entry.name == "0.0.weight"


def test_an_attribute_called_parametrizations_may_be_the_users_own():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.parametrizations = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ReLU()})
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.parametrizations["b"](nn.functional.linear(x, self.parametrizations["a"].weight)))

    model = nn.Sequential(Mine())
    assert [place.name for place in places(model)] == [name for name, _ in model.named_parameters()]
    report = initialize(model, "he_normal", seed=0, nonlinearity="auto")
    assert [entry.module for entry in report.entries] == ["0.parametrizations.a"] * 2 + ["0.fc"] * 2
    assert "ReLU" in report.entries[0].why


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_hooks_around_hooks_are_refused_by_name():
    model = nn.Sequential(nn.utils.spectral_norm(nn.utils.weight_norm(nn.Linear(4, 4)), "weight_v"))
    with pytest.raises(NotImplementedError, match=r"0\.weight is computed by hooks around hooks"):
        places(model)


def test_what_computes_a_weight_may_fail_and_is_named():
    class Fails(nn.Module):
        ready = True

        def forward(self, original):
            if not self.ready:
                raise RuntimeError("not ready")
            return original

        def right_inverse(self, value):
            return value

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    parametrize.register_parametrization(model[1], "weight", Fails())
    Fails.ready = False
    before = model[0].weight.clone()
    with pytest.raises(NotImplementedError, match=r"1.weight is computed by .*, which fails \(not ready"):
        initialize(model, "he_normal")
    assert torch.equal(model[0].weight, before)
    report = initialize(model, "he_normal", rules={"1.weight": None})
    assert [entry.achieved_std is None for entry in report.entries if entry.initializer is None] == [True]
