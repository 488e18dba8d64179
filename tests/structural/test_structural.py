"""Structure-aware initializers: each keeps what its paper is about, and refuses where it does not apply."""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision import models

from lightning_init import diagnose, initialize
from lightning_init.initializers import names
from lightning_init.structural import Fixup, Mup, SkipInit, TFixup, coordinate_check

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual branch with the biases and the multiplier of Fixup (or SkipInit's)."""

    def __init__(self, width=16, scalar=True):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(1)) if scalar else 1.0

    def forward(self, x):
        return x + self.scale * self.two(self.one(x).relu())


def residual(depth, **options):
    return nn.Sequential(nn.Linear(16, 16), *[Block(**options) for _ in range(depth)], nn.Linear(16, 4))


def change_by_steps(model, x, lr, steps, trained):
    """How much the network's function moves in `steps` of training, root mean square."""
    before = model(x).detach()
    target = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    training = torch.optim.SGD(trained, lr=lr)
    for _ in range(steps):
        training.zero_grad()
        (model(x) * target).mean(0).sum().backward()
        training.step()
    return (model(x).detach() - before).square().mean().sqrt().item()


def test_fixup_is_the_formula():
    model = residual(16)
    report = initialize(model, Fixup(), seed=0)
    assert not model[-1].weight.any()
    for block in model[1:-1]:
        assert not block.two.weight.any()
        assert block.one.weight.std().item() == pytest.approx(math.sqrt(2 / 16) * 16**-0.5, rel=0.2)
        assert block.scale == 1
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.2)
    entry = next(entry for entry in report.entries if entry.name == "1.two.weight")
    assert "ends one of 16 residual branches: zero" in entry.why


def test_under_fixup_training_moves_the_function_by_as_much_at_any_depth():
    def moved(initializer, depth):
        model = residual(depth)
        initialize(model, initializer, seed=0)
        return change_by_steps(model, X, lr=0.02, steps=4, trained=model.parameters())

    shallow, deep = moved("fixup", 4), moved("fixup", 64)
    assert 1 / 4 < deep / shallow < 4
    assert moved("he_normal", 64) / moved("he_normal", 4) > 100 or math.isnan(moved("he_normal", 64))


def test_fixup_refuses_what_it_is_not_for():
    with pytest.raises(ValueError, match="fixup replaces normalization, and ResNet has some"):
        initialize(models.resnet18(), "fixup")
    with pytest.raises(ValueError, match="has no residual branch"):
        initialize(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "fixup")
    with pytest.raises(ValueError, match="fixup looks at the whole model"):
        initialize(nn.Linear(2, 2), "zeros", rules={"*": "fixup"})


class Bent(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.one(x).relu()


def test_a_branch_that_no_layer_ends_is_refused():
    before = copy.deepcopy(model := nn.Sequential(Bent(), nn.Linear(4, 2))).state_dict()
    with pytest.raises(ValueError, match=r"no layer ends the one of 0\.one"):
        initialize(model, "fixup")
    with pytest.raises(ValueError, match=r"nothing multiplies the residual branch of 0\.one"):
        initialize(model, "skip_init")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("scalar", [True, False])
def test_skip_init_starts_with_the_shortcuts_alone(scalar):
    model = residual(8, scalar=scalar)
    initialize(model, "skip_init", seed=0)
    assert torch.equal(model(X), model[-1](model[0](X)))
    for block in model[1:-1]:
        off = block.scale if scalar else block.two.weight
        assert not off.any()
        assert block.one.weight.any()
        assert block.two.weight.any() == scalar
    energies = [layer.gradient_energy for layer in diagnose(model, X).profile.spine if layer.name in ("0", "9")]
    plain = nn.Sequential(model[0], model[-1])
    assert energies[0] == pytest.approx(diagnose(plain, X).profile.spine[0].gradient_energy, rel=1e-4)


def test_skip_init_zeroes_the_scale_of_a_last_normalization():
    model = models.resnet18()
    report = initialize(model, SkipInit("he_normal"), seed=0)
    zero = [name for name, p in model.named_parameters() if "bn" in name and name.endswith("weight") and not p.any()]
    assert zero == [f"layer{i}.{j}.bn2.weight" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert sum("switches off one of 8 branches" in entry.why for entry in report.entries) == 8


def encoder(depth, norm=False):
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    stack = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    for module in () if norm else stack.layers:
        module.norm1 = module.norm2 = nn.Identity()
    return nn.Sequential(nn.Embedding(20, 16), stack, nn.Linear(16, 4))


@pytest.mark.parametrize("norm", [False, True])
def test_skip_init_switches_off_the_branches_of_torchs_transformer_layers(norm):
    model = encoder(3, norm)
    report = initialize(model, "skip_init", seed=0)
    assert sum("switches off one of 6 branches" in entry.why for entry in report.entries) == 6
    embedded = model[0](torch.arange(20).view(2, 10))
    expected = nn.functional.layer_norm(embedded, (16,)) if norm else embedded
    assert torch.allclose(model[1](embedded), expected, atol=1e-4)


def test_fixup_says_what_is_for_transformers():
    with pytest.raises(ValueError, match=r"transformer layers \(1\.layers\.0\): use t_fixup or skip_init"):
        initialize(encoder(2), "fixup")


def test_tfixup_is_the_formula():
    model = encoder(16)
    report = initialize(model, "tfixup", seed=0)
    factor = 0.67 * 16**-0.25
    layer = model[1].layers[3]
    bound = math.sqrt(6 / 32)
    q, _, v = layer.self_attn.in_proj_weight.chunk(3)
    assert q.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert v.abs().max().item() == pytest.approx(bound * factor, rel=0.02)
    assert layer.self_attn.out_proj.weight.abs().max().item() == pytest.approx(bound * factor, rel=0.02)
    assert layer.linear1.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 48) * factor, rel=0.02)
    assert model[0].weight.std().item() == pytest.approx(16**-0.5 * (9 * 16) ** -0.25, rel=0.1)
    assert any("one of 16 layers (x 0.335)" in entry.why for entry in report.entries)


def test_under_tfixup_a_step_moves_the_function_by_as_much_at_any_depth():
    tokens = torch.randint(20, (8, 6), generator=torch.Generator().manual_seed(0))

    def moved(initializer, depth):
        model = encoder(depth)
        initialize(model, initializer, seed=0)
        weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]  # the paper has no biases
        return change_by_steps(model, tokens, lr=1e-4, steps=1, trained=weights)

    assert 1 / 2 < moved("tfixup", 32) / moved("tfixup", 2) < 2
    assert moved("xavier_uniform", 8) / moved("xavier_uniform", 2) > 40


def test_tfixup_refuses_normalization_and_other_models():
    with pytest.raises(ValueError, match="tfixup replaces layer normalization"):
        initialize(encoder(2, norm=True), TFixup())
    with pytest.raises(ValueError, match="and Linear has none"):
        initialize(nn.Linear(2, 2), TFixup())


def mlp(width):
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def test_the_coordinate_check_tells_mup_from_the_usual():
    widths = [64, 256, 1024]
    mup = coordinate_check(mlp, widths, X, prepare=lambda model: initialize(model, "mup", seed=0))
    usual = coordinate_check(mlp, widths, X, prepare=lambda model: initialize(model, "he_normal", seed=0))
    large = coordinate_check(mlp, widths, X, prepare=lambda model: initialize(model, "random_normal", seed=0))
    assert [mup[name] for name in "024"] == pytest.approx([0, 0, -0.5], abs=0.12)
    assert [usual[name] for name in "024"] == pytest.approx([0, 0, 0], abs=0.12)
    assert large["2"] == pytest.approx(0.5, abs=0.12)
    with pytest.raises(ValueError, match="at least two"):
        coordinate_check(mlp, [4, 4], X, prepare=lambda model: None)


def test_mup_is_the_usual_at_its_base_width():
    model = mlp(64)
    initialize(model, Mup(base_width=64), seed=0)
    assert model[4].weight.std().item() == pytest.approx(1 / 8, rel=0.15)


@pytest.mark.parametrize("end", [nn.Tanh(), nn.ReLU(), nn.LogSoftmax(-1), nn.Unflatten(1, (2, 2))])
def test_what_stands_behind_the_last_layer_does_not_hide_it(end):
    report = initialize(nn.Sequential(*mlp(64), end), "mup", seed=0)
    assert [entry.name for entry in report.entries if "last layer" in entry.why] == ["4.weight"]


@pytest.mark.parametrize(("end", "zero"), [(nn.Sigmoid(), True), (nn.Tanh(), True), (nn.ReLU(), False)])
def test_fixup_zeroes_a_last_layer_unless_that_would_kill_it(end, zero):
    model = nn.Sequential(*residual(4), end)
    initialize(model, "fixup", seed=0)
    assert bool((model[5].weight == 0).all()) is zero
    model(X).sum().backward()
    assert model[5].weight.grad.any()


def test_what_cannot_be_followed_is_followed_by_an_example():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = residual(2)

        def forward(self, x):
            return self.net(x) if x.mean() > -100 else x

    model = Decides()
    with pytest.raises(ValueError, match=r"fixup must follow .*; set its example_input_array"):
        initialize(model, "fixup", seed=0)
    model.example_input_array = X
    initialize(model, "fixup", seed=0)
    assert not model.net[-1].weight.any()


def test_mup_refuses_tied_outputs():
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="input and output at once"):
        initialize(model, "mup")


def test_all_have_names():
    assert {"fixup", "mup", "skip_init", "tfixup"} <= set(names())
