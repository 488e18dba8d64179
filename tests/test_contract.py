"""Public names, arguments, defaults, files and commands are those that users and documents lean on."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import lightning_init
from lightning_init import InitCallback, Report, SignalMonitor, calibrate, diagnose, initialize, initializers
from lightning_init.initializers import Constant, Normal, Orthogonal, Sparse, Uniform, VarianceScaling, XavierUniform

ROOT = Path(__file__).parent.parent
REQUIRED = inspect.Parameter.empty
MODEL = {"rules": None, "nonlinearity": None, "bias": "zeros", "frozen": "skip", "seed": None, "strict": False}
FANS = {"fans": "module"}
SIGNATURES = {
    # callable: (what comes by position, what comes by keyword), each name -> default, in order
    InitCallback: ({"initializer": REQUIRED}, {**MODEL, "monitor": True, **FANS}),
    initialize: ({"model": REQUIRED, "initializer": REQUIRED}, {**MODEL, **FANS}),
    diagnose: ({"model": REQUIRED, "batch": REQUIRED, "loss": None}, {}),
    SignalMonitor: (
        {"every_n_steps": 1},
        {
            "weights": ("variance",),
            "activations": ("variance",),
            "gradients": ("norm",),
            "updates": (),
            "layers": None,
            "histograms_every_n_steps": None,
            "sync_dist": False,
            "alerts": True,
            "images": False,
        },
    ),
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_arguments_and_defaults(function):
    found = inspect.signature(function).parameters.values()
    by_position, by_keyword = SIGNATURES[function]
    assert {p.name: p.default for p in found if p.kind is p.POSITIONAL_OR_KEYWORD} == by_position
    assert [(p.name, p.default) for p in found if p.kind is p.KEYWORD_ONLY] == list(by_keyword.items())
    assert len(found) == len(by_position) + len(by_keyword)


@pytest.mark.parametrize(
    ("initializer", "settings"),
    [
        (Uniform, ["low", "high"]),
        (Normal, ["mean", "std"]),
        (Constant, ["value"]),
        (VarianceScaling, ["scale", "mode", "distribution"]),
        (Orthogonal, ["gain"]),
        (XavierUniform, ["gain"]),
        (initializers.KaimingNormal, ["nonlinearity", "mode", "a"]),
        (Sparse, ["sparsity", "std"]),
    ],
    ids=lambda one: one.__name__ if isinstance(one, type) else "",
)
def test_settings_of_initializers(initializer, settings):
    assert [field.name for field in dataclasses.fields(initializer)] == settings
    assert list(inspect.signature(initializer).parameters) == settings


def test_the_package_exports_what_it_names():
    promised = {
        "InitCallback",
        "SignalMonitor",
        "initialize",
        "diagnose",
        "initializers",
        "Rule",
        "Report",
        "calibrate",
    }
    assert promised <= set(lightning_init.__all__)
    for module in (lightning_init, initializers):
        assert sorted(module.__all__) == list(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
    assert initializers.get("glorot_uniform") == XavierUniform()
    with pytest.raises(ValueError, match="xavier_uniform"):
        initializers.get("xavier_unifrom")
    assert callable(calibrate)


def test_the_report_is_that_of_the_callback_and_of_initialize():
    report = initialize(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), "he_normal", seed=0)
    assert isinstance(report, Report)
    found = report.to_dict()
    assert list(found) == ["seed", "parameters"]
    keys = ["name", "module", "shape", "initializer", "fan_in", "fan_out", "gain", "target_std", "achieved_std", "why"]
    assert [list(parameter) for parameter in found["parameters"]] == [keys] * 4  # what is kept is there too
    assert InitCallback("zeros").report is None  # until it has initialized


def test_parameters_of_one_element_have_a_std_of_zero_and_not_nan():
    found = initialize(nn.Sequential(nn.Linear(1, 1), nn.PReLU()), "normal", seed=0).to_dict()["parameters"]
    assert [parameter["achieved_std"] for parameter in found] == [0.0] * 3


def test_a_prior_probability_is_one_rule():
    """A classifier of rare objects starts at their frequency (Lin et al. 2017, section 4.1)."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    prior = Constant(-torch.tensor(0.99 / 0.01).log().item())
    initialize(model, "he_normal", rules={"2.bias": prior}, seed=0)
    assert model[2].bias.sigmoid().tolist() == pytest.approx([0.01] * 3)
    assert model[0].bias.tolist() == [0.0] * 8


GROUPS = {
    "model": {"mlp", "cnn", "deep_mlp", "plain_cnn", "resnet18"},
    "data": {"digits", "fashion_mnist", "mnist", "cifar10"},
    "optimizer": {"adam", "sgd"},
    "trainer": {"auto", "cpu", "gpu", "ddp"},
    "monitor": {"default", "off"},
    "experiment": {"demo", "udacity", "nielsen", "glorot2010", "saxe2013", "he2015", "schoenholz2017", "hayou2019"},
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_groups_of_the_configuration(group):
    assert GROUPS[group] <= {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    assert (ROOT / "conf" / "config.yaml").read_text().count(f"- {group}: ") == 1


def recipes(target):
    """The commands of one target of the Makefile and of its prerequisites that are targets too, variables filled in."""
    text = (ROOT / "Makefile").read_text().replace("$(RUN)", ".venv/bin/python")
    found = re.search(rf"^{target}:(.*)\n((?:\t.*\n)*)", text, re.MULTILINE)
    before = [line for name in found[1].split() if name.isalpha() for line in recipes(name)]
    return [*before, *(line.strip() for line in found[2].splitlines())]


def test_make_does_what_the_readme_shows_as_shell_lines():
    shell = [line.partition("#")[0].strip() for line in (ROOT / "README.md").read_text().splitlines()]
    for target in ("demo", "test"):
        assert recipes(target)
        assert set(recipes(target)) <= set(shell), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_requirements_are_ranges_with_a_floor():
    text = (ROOT / "pyproject.toml").read_text()
    project = text[text.index("[project]") : text.index("[tool.")]
    listed = "\n".join(
        re.findall(r"^(?:dependencies|examples|sweeps|dev) = \[(.*?)\]$", project, re.DOTALL | re.MULTILINE)
    )
    requirements = [one for one in re.findall(r'"([^"]+)"', listed) if not one.startswith("lightning-init")]
    assert {re.split(r"\W", one)[0] for one in requirements} >= {"torch", "lightning", "tensorboard", "hydra", "ruff"}
    assert [one for one in requirements if not re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+", one)] == []
