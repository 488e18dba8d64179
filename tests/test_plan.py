"""Rules resolved on models: who claims what, and what is refused."""

import cProfile
import functools
import warnings

import pytest
import torch
from torch import nn

from lightning_init.fans import Fans
from lightning_init.initializers import Normal, Orthogonal, Zeros
from lightning_init.plan import make_plan
from lightning_init.rules import Rule


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 8))
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))


def assigned(plan):
    """Parameter name -> class name of its initializer; what is kept is left out."""
    return {a.name: type(a.initializer).__name__ for a in plan.assignments if a.initializer is not None}


def why(plan, name):
    return next(a.why for a in plan.assignments if a.name == name)


def test_weights_get_the_default_and_biases_zeros_and_the_rest_is_kept_with_a_reason():
    plan = make_plan(Net(), "he_normal")
    assert assigned(plan) == {
        "backbone.0.weight": "KaimingNormal",
        "backbone.0.bias": "Zeros",
        "backbone.3.weight": "KaimingNormal",
        "backbone.3.bias": "Zeros",
        "head.1.weight": "KaimingNormal",
        "head.1.bias": "Zeros",
    }
    assert why(plan, "backbone.1.weight") == "kept: a normalization keeps its ones and zeros"
    assert why(plan, "token").startswith("kept: Net is unknown")
    assert [a.name for a in plan.unclaimed] == ["token"]


def test_the_first_matching_rule_wins_and_none_keeps():
    plan = make_plan(Net(), "he_normal", rules={"backbone.0.*": "orthogonal", "backbone.*": None, "head.*": "zeros"})
    assert assigned(plan) == {
        "backbone.0.weight": "Orthogonal",
        "backbone.0.bias": "Zeros",
        "head.1.weight": "Zeros",
        "head.1.bias": "Zeros",
    }
    assert why(plan, "backbone.3.weight") == "kept: rule 'backbone.*'"
    assert why(plan, "backbone.0.bias") == "Linear bias"


@pytest.mark.parametrize("pattern", ["head.*", "head*", "*head*", "head.1.*"])
def test_a_wildcard_over_layers_puts_random_values_only_into_weights(pattern):
    plan = make_plan(Net(), "zeros", rules={pattern: Normal(std=0.02)})
    assert assigned(plan)["head.1.weight"] == "Normal"
    assert assigned(plan)["head.1.bias"] == "Zeros"
    assert "head.0.weight" not in assigned(plan)


@pytest.mark.parametrize("pattern", ["*.bias", "head.1.bias", "*bias", "*.bia?"])
def test_a_rule_that_names_the_parameter_is_taken_by_the_letter(pattern):
    assert assigned(make_plan(Net(), "ones", rules={pattern: Normal()}))["head.1.bias"] == "Normal"


def test_a_rule_that_matches_only_a_normalization_is_taken_by_the_letter():
    plan = make_plan(Net(), "ones", rules={"head.0.*": "zeros"})
    assert assigned(plan)["head.0.weight"] == "Zeros"


def test_rules_match_by_class_name_and_predicate():
    def square(name, module, parameter):
        return parameter.shape == (8, 8)

    rules = [
        Rule(where=square, initializer=Orthogonal()),
        Rule(module=nn.BatchNorm1d, pattern="*.weight", initializer="zeros"),
        Rule("backbone.*", module="Linear", initializer="ones"),
        Rule(module="torch.nn.modules.linear.Linear"),
    ]
    plan = make_plan(Net(), "normal", rules=rules)
    assert assigned(plan) == {
        "backbone.0.weight": "Ones",
        "backbone.0.bias": "Ones",
        "backbone.1.weight": "Zeros",
        "backbone.3.weight": "Orthogonal",
        "backbone.3.bias": "Ones",
    }
    assert why(plan, "backbone.3.weight") == "rule square"
    assert why(plan, "head.1.weight") == "kept: rule torch.nn.modules.linear.Linear"


def test_a_rule_can_give_fans_to_an_unknown_parameter():
    plan = make_plan(Net(), "zeros", rules=[Rule("token", "lecun_normal", fans=Fans(16, 1))])
    assert plan.assignments[0].target_std == 0.25
    assert not plan.unclaimed


def test_residual_scaling_is_one_rule():
    layers = 6
    plan = make_plan(Net(), "normal", rules={"*.3.weight": Normal(std=0.02 / (2 * layers) ** 0.5)})
    assert assigned(plan)["backbone.3.weight"] == "Normal"


def test_a_rule_may_use_any_name_of_a_tied_parameter():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7)})
    model["head"].weight = model["embed"].weight
    plan = make_plan(model, "zeros", rules={"head.weight": "normal"})
    assert assigned(plan)["embed.weight"] == "Normal"


def test_a_rule_may_use_the_effective_or_the_stored_name_of_a_parametrized_weight():
    for pattern in ("0.weight", "0.parametrizations.weight.original1"):
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
        assert assigned(make_plan(model, "zeros", rules={pattern: "orthogonal"}))["0.weight"] == "Orthogonal"


def test_frozen_parameters_are_kept_unless_asked_for():
    model = Net()
    model.backbone.requires_grad_(requires_grad=False)
    plan = make_plan(model, "zeros", rules={"backbone.0.*": "ones"})
    assert "backbone.0.weight" not in assigned(plan)
    assert why(plan, "backbone.0.weight") == "kept: frozen (requires_grad=False)"
    assert assigned(make_plan(model, "zeros", frozen="initialize"))["backbone.0.weight"] == "Zeros"


def test_the_bias_argument_takes_names_instances_and_none():
    assert assigned(make_plan(Net(), "ones", bias=Normal()))["head.1.bias"] == "Normal"
    assert "head.1.bias" not in assigned(make_plan(Net(), "ones", bias=None))


def test_torch_default_brings_its_own_biases():
    assert assigned(make_plan(Net(), "torch_default"))["head.1.bias"] == "Uniform"


def test_an_lstm_opens_its_forget_gate_once():
    plan = make_plan(nn.LSTM(3, 5), "orthogonal")
    assert assigned(plan)["bias_ih_l0"] == "ForgetGateBias"
    assert assigned(plan)["bias_hh_l0"] == "Zeros"
    assert assigned(make_plan(nn.LSTM(3, 5), "orthogonal", rules={"*bias*": "zeros"}))["bias_ih_l0"] == "Zeros"


def test_the_nonlinearity_replaces_the_initializers_convention():
    def gain(**options):
        return make_plan(Net(), "he_normal", **options).assignments[1].initializer.gain

    assert gain() == pytest.approx(2**0.5)
    assert gain(nonlinearity="tanh") == pytest.approx(5 / 3)
    assert gain(nonlinearity=torch.nn.functional.gelu) == pytest.approx(1.533530, abs=1e-6)


def test_auto_finds_what_follows_each_layer_and_says_so():
    class Gelu(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(nn.functional.gelu(self.norm(self.first(x))))

    plan = make_plan(Gelu(), "he_normal", nonlinearity="auto")
    gains = {a.name: a.initializer.gain for a in plan.assignments if a.initializer is not None}
    assert gains["first.weight"] == pytest.approx(1.533530, abs=1e-6)
    assert gains["last.weight"] == 1
    assert "gelu" in why(plan, "first.weight")
    assert "last layer" in why(plan, "last.weight")


def test_auto_falls_back_loudly():
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})

        def forward(self, x):
            while x.sum() > 0:
                x = torch.tanh(self.layers["a" if x[0, 0] > 0 else "b"](x))
            return x

    with pytest.warns(UserWarning, match="nonlinearity='auto' is not certain what follows"):
        plan = make_plan(Opaque(), "he_normal", nonlinearity="auto")
    assert plan.assignments[0].initializer.gain == pytest.approx(2**0.5)


def test_torch_fans_reproduce_torch():
    model = nn.ConvTranspose2d(16, 8, 4, stride=2, groups=2)
    assert make_plan(model, "he_normal").assignments[0].layout.fans == Fans(32, 64)
    assert make_plan(model, "he_normal", fans="torch").assignments[0].layout.fans == Fans(64, 256)


def test_a_rule_costs_a_handful_of_calls_for_each_parameter():
    model = nn.Sequential(*[nn.Linear(2, 2, device="meta") for _ in range(100)])

    def calls(rules):
        profile = cProfile.Profile()
        profile.runcall(make_plan, model, "he_normal", rules={f"{i}.*": "normal" for i in range(rules)})
        return sum(entry.callcount for entry in profile.getstats())

    calls(50)  # what is cached
    assert calls(50) - calls(0) < 7 * 200 * 50


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"initializer": "xavier_unifrom"}, ValueError, "closest are: xavier_uniform"),
        ({"initializer": 3}, TypeError, "initializer must be"),
        (
            {"rules": {"haed.*": "zeros"}},
            ValueError,
            r"rule 'haed\.\*' matches no parameter; the closest names are: head",
        ),
        ({"rules": {"head.*": "zerso"}}, ValueError, "closest are: zeros"),
        ({"rules": "head.*"}, TypeError, "rules must be"),
        ({"rules": ["head.*"]}, TypeError, "rules must hold Rule objects"),
        ({"bias": "zreos"}, ValueError, "closest are: zeros"),
        ({"frozen": "leave"}, ValueError, "frozen must be 'skip' or 'initialize', got 'leave'"),
        ({"fans": "keras"}, ValueError, "fans must be 'module' or 'torch'"),
        ({"seed": 1.5}, TypeError, "seed must be an int or None, got 1.5"),
        ({"seed": True}, TypeError, "seed must be an int or None, got True"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"nonlinearity": "reul"}, ValueError, "relu"),
        ({"rules": [Rule(module="Linaer")]}, ValueError, "belongs to a Linaer; the closest classes are: Linear"),
        ({"rules": [Rule(module=nn.Conv2d)]}, ValueError, "belongs to a Conv2d; the closest classes are: "),
        (
            {"rules": [Rule("head.*", module="BatchNorm1d")]},
            ValueError,
            "its pattern does, but not together with its other conditions",
        ),
        (
            {"rules": {"head[1.weight": None}},
            ValueError,
            r"closest names are: head.1.weight.*write \[\[\] for a bracket",
        ),
        ({"initializer": "dirac"}, ValueError, r"backbone.0.weight \(8, 4\) of Linear"),
        ({"rules": {"head.1.bias": "xavier_uniform"}}, ValueError, "head.1.bias"),
        ({"rules": {"head.1.bias": "orthogonal"}}, ValueError, "head.1.bias"),
        ({"rules": {"token": "xavier_uniform"}}, ValueError, "token .* needs fan_in and fan_out.*fans.register"),
        ({"strict": True}, ValueError, "strict=True.*\n.*token"),
    ],
)
def test_bad_input_is_refused_by_name_before_anything_is_written(options, error, message):
    model = Net()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(error, match=message):
        make_plan(model, **{"initializer": "zeros", **options})
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_strict_is_satisfied_by_a_rule():
    assert make_plan(Net(), "zeros", rules={"token": None}, strict=True)


def test_lazy_parameters_are_refused_by_name():
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias: lazy parameters have no shape yet"):
        make_plan(nn.Sequential(nn.LazyLinear(3)), "zeros")


def test_a_user_made_initializer_is_welcome_and_others_are_not():
    class Mine(Zeros):
        pass

    assert assigned(make_plan(Net(), Mine()))["head.1.weight"] == "Mine"
    with pytest.raises(TypeError, match="initializer must be a name or an Initializer"):
        make_plan(Net(), nn.init.zeros_)


def test_a_plan_prints_itself_before_anything_is_written():
    model = Net()
    before = [parameter.clone() for parameter in model.parameters()]
    text = str(make_plan(model, "he_normal", seed=0))
    assert (
        "backbone.0.weight  8x4    kaiming_normal       4        8  1.414      0.7071             -  Linear weight"
        in text
    )
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_later_rule_may_name_a_parameter_that_an_earlier_one_only_covers():
    plan = make_plan(Net(), "zeros", rules={"head.*": "normal", "head.1.bias": "ones"})
    assert assigned(plan)["head.1.weight"] == "Normal"
    assert assigned(plan)["head.1.bias"] == "Ones"


def test_a_name_does_not_make_a_normalization():
    class NormedLinear(nn.Linear):
        pass

    assert assigned(make_plan(nn.Sequential(NormedLinear(4, 4)), "ones")) == {"0.weight": "Ones", "0.bias": "Zeros"}

    class TableNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.scale = nn.Parameter(torch.randn(10, 4)), nn.Parameter(torch.ones(4))

    plan = make_plan(TableNorm(), "ones")
    assert [a.name for a in plan.unclaimed] == ["table"]


def test_auto_sees_through_compilation():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
    gains = [
        make_plan(m, "he_normal", nonlinearity="auto").assignments[0].initializer.gain
        for m in (model, torch.compile(model))
    ]
    assert gains[0] == gains[1] == pytest.approx(1.533530, abs=1e-6)


def test_biases_may_be_torchs_own():
    assert assigned(make_plan(Net(), "ones", bias="torch_default"))["head.1.bias"] == "Uniform"


def test_a_weight_that_is_frozen_in_part_is_kept():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    model[0].parametrizations.weight.original0.requires_grad = False
    assert "0.weight" not in assigned(make_plan(model, "ones"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule(module=3), "module must be a module class or its name, got 3"),
        (lambda: Rule(where="x"), "where must be a callable"),
        (lambda: Rule(fans=(3, 4)), "fans must be Fans or a Layout"),
        (lambda: Fans("3", 4), "fan_in must be a number"),
        (lambda: make_plan(torch.ones(3), "zeros"), "model must be a torch.nn.Module, got Tensor"),
    ],
)
def test_other_types_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_auto_is_no_nonlinearity_of_a_rule():
    with pytest.raises(ValueError, match=r"'auto' is an argument of initialize.* give rule 'head' the name"):
        Rule("head", nonlinearity="auto")


def test_the_report_says_where_the_nonlinearity_does_not_reach():
    rules = [
        Rule("head.1.weight", "he_normal"),
        Rule("backbone.0.weight", "he_normal", nonlinearity="tanh"),
        Rule("backbone.3.weight", "normal"),
    ]
    for nonlinearity in ("gelu", "auto"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Net has no forward
            plan = make_plan(Net(), "lecun_normal", rules=rules, nonlinearity=nonlinearity)
        asked = f"; nonlinearity='{nonlinearity}' is for what no rule claims"
        assert why(plan, "head.1.weight") == f"rule 'head.1.weight'{asked}"
        assert why(plan, "backbone.0.weight") == "rule 'backbone.0.weight'"
        assert why(plan, "backbone.3.weight") == "rule 'backbone.3.weight'"  # has no gain


def test_functions_without_a_name_have_the_same_text_in_every_process():
    nonlinearity = functools.partial(torch.nn.functional.leaky_relu, negative_slope=0.2)
    for given in (lambda x: x.clamp(min=0), nonlinearity):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        plan = make_plan(model, "he_normal", nonlinearity=given, rules={"1.weight": "he_normal"})
        text = str(plan) + str(plan.report().to_dict())
        assert "<lambda>" in text or "leaky_relu" in text
        assert "0x" not in text


def test_negative_fans_are_refused():
    with pytest.raises(ValueError, match="fan_out must be finite and not negative, got -1"):
        Fans(1, -1)


def test_a_condition_that_fails_is_named_with_its_rule_and_the_parameter():
    with pytest.raises(
        ValueError, match=r"where of rule '\*\.weight' and <lambda> fails on 0\.weight: ZeroDivisionError"
    ):
        make_plan(nn.Sequential(nn.Linear(3, 3)), "normal", rules=[Rule("*.weight", "ones", where=lambda *_: 1 / 0)])
