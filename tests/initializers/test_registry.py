"""Names, settings, and the ways into a configuration file and back."""

import copy
import dataclasses
import json
import pickle

import jsonargparse
import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from lightning_init import initializers
from lightning_init.initializers import (
    HeNormal,
    Initializer,
    KaimingNormal,
    Normal,
    Orthogonal,
    VarianceScaling,
    XavierUniform,
)

EVERY = [initializers.get(name) for name in initializers.names()]
CHANGED = [
    Normal(0.5, 0.02),
    KaimingNormal("leaky_relu", "fan_out", 0.2),
    VarianceScaling(2.0, "fan_geo_avg", "uniform"),
    Orthogonal(1.4),
    initializers.Sparse(0.5, 0.1),
]


def test_names_are_sorted_strings_and_all_of_them_work():
    names = initializers.names()
    assert names == sorted(set(names))
    assert all(isinstance(name, str) for name in names)
    assert all(isinstance(initializer, Initializer) for initializer in EVERY)


@pytest.mark.parametrize("law", ["uniform", "normal", "truncated_normal"])
def test_both_spellings_are_the_same(law):
    assert initializers.get(f"glorot_{law}") == initializers.get(f"xavier_{law}")
    assert initializers.get(f"he_{law}") == initializers.get(f"kaiming_{law}")


def test_aliases_are_assignments():
    assert initializers.HeNormal is initializers.KaimingNormal
    assert initializers.HeUniform is initializers.KaimingUniform
    assert initializers.HeTruncatedNormal is initializers.KaimingTruncatedNormal
    assert initializers.GlorotNormal is initializers.XavierNormal
    assert initializers.GlorotUniform is initializers.XavierUniform
    assert initializers.GlorotTruncatedNormal is initializers.XavierTruncatedNormal
    assert initializers.Identity is initializers.Eye


def test_get():
    assert initializers.get("glorot_uniform") == XavierUniform()
    assert initializers.get("xavier_uniform", gain=2) == XavierUniform(gain=2.0)
    assert initializers.get("small_random", mean=1.0) == Normal(mean=1.0, std=0.01)
    instance = Normal(std=0.02)
    assert initializers.get(instance) is instance


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "match"),
    [
        (("xavier_unifrom",), {}, ValueError, "initializer must be one of .* got 'xavier_unifrom'; .* xavier_uniform"),
        (("",), {}, ValueError, "initializer must be one of"),
        ((None,), {}, TypeError, "initializer must be a name or an Initializer .* got None"),
        ((3,), {}, TypeError, "initializer must be a name or an Initializer"),
        ((Normal,), {}, TypeError, "an instance"),
        ((nn.init.normal_,), {}, TypeError, "initializer must be a name or an Initializer"),
        (("normal",), {"sd": 1.0}, TypeError, "normal has no setting sd; it takes mean, std"),
        (("zeros",), {"value": 1.0}, TypeError, "zeros has no setting value; it takes none"),
        (("normal",), {"std": -1.0}, ValueError, "std of Normal must be .* at least 0, got -1.0"),
        ((Normal(),), {"std": 2.0}, TypeError, "settings std go with a name"),
    ],
)
def test_what_get_refuses(arguments, settings, error, match):
    with pytest.raises(error, match=match):
        initializers.get(*arguments, **settings)


@pytest.mark.parametrize("initializer", EVERY + CHANGED, ids=str)
def test_round_trips(initializer):
    config = initializer.to_config()
    assert initializers.from_config(json.loads(json.dumps(config))) == initializer
    assert initializers.get(config["name"]).__class__ is initializer.__class__
    assert pickle.loads(pickle.dumps(initializer)) == initializer
    assert copy.deepcopy(initializer) == initializer
    assert hash(copy.deepcopy(initializer)) == hash(initializer)
    assert eval(repr(initializer), {**vars(initializers), type(initializer).__name__: type(initializer)}) == initializer  # noqa: S307 (our own repr)
    assert {initializer: 1}[initializer] == 1


@pytest.mark.parametrize("initializer", EVERY, ids=str)
def test_settings_are_frozen(initializer):
    with pytest.raises(dataclasses.FrozenInstanceError):
        initializer.anything = 1.0


@pytest.mark.parametrize("config", [{}, {"name": 3}, "normal", None, {"std": 1.0}])
def test_a_config_without_a_name_is_refused(config):
    with pytest.raises(TypeError, match="config must be a mapping with a 'name'"):
        initializers.from_config(config)


def test_a_nonlinearity_that_torch_has_a_name_for_is_kept_as_that_name():
    assert KaimingNormal(nn.ReLU()) == HeNormal() == KaimingNormal(torch.relu)
    assert KaimingNormal(nn.LeakyReLU(0.2)) == KaimingNormal("leaky_relu", a=0.2)
    assert KaimingNormal(nn.GELU()).to_config()["nonlinearity"] == "gelu"


def test_a_nonlinearity_without_a_name_cannot_be_written_down():
    initializer = KaimingNormal(lambda x: x.relu() ** 2)
    assert initializer.gain == pytest.approx((2 / 3) ** 0.5, rel=1e-6)
    with pytest.raises(TypeError, match=r"nonlinearity=.* has no plain form"):
        initializer.to_config()


@pytest.mark.parametrize("initializer", EVERY + CHANGED, ids=str)
def test_hydra_instantiates_every_class(initializer):
    settings = {key: value for key, value in initializer.to_config().items() if key != "name"}
    assert instantiate({"_target_": path(initializer), **settings}) == initializer


def path(initializer):
    """Where users find the class: in the folder's own namespace."""
    return f"{'.'.join(type(initializer).__module__.split('.')[:2])}.{type(initializer).__name__}"


def configured(initializer: str | Initializer = "zeros") -> str | Initializer:
    return initializer


@pytest.mark.parametrize("initializer", EVERY + CHANGED, ids=str)
def test_jsonargparse_instantiates_every_class(initializer):
    settings = {key: value for key, value in initializer.to_config().items() if key != "name"}
    config = {"class_path": path(initializer), "init_args": settings}
    assert jsonargparse.CLI(configured, args=[f"--initializer={json.dumps(config)}"]) == initializer


def test_jsonargparse_passes_names_through():
    assert jsonargparse.CLI(configured, args=["--initializer=he_normal"]) == "he_normal"
