"""Every file in conf/ does what it says."""

import importlib
import importlib.util
import logging.config
import re

import lightning as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from making import composed
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from examples import arguments, fashion_mnist, initializer
from examples.arguments import CONF, PLUGINS
from examples.errors import UsageError
from lightning_init import SignalMonitor, initializers

ROOT = CONF.parent
SHAPES = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_group_initializer_is_every_accepted_name_with_its_options():
    files = {
        name: OmegaConf.to_container(OmegaConf.load(CONF / f"initializer/{name}.yaml"))
        for name in options("initializer")
    }
    assert files == initializer.group(), "run python -m examples.initializer"


@pytest.mark.parametrize("name", initializers.names())
def test_every_initializer_is_built_from_its_file(name):
    assert initializer.build(composed(f"initializer={name}").initializer) == initializers.get(name)


def test_initializers_take_options_and_nested_files_have_labels():
    assert initializer.build(composed("initializer=normal", "initializer.std=0.02").initializer).std == 0.02
    half = composed("initializer=published/uniform_half").initializer
    assert initializer.build(half) == initializers.get("uniform", low=-0.5, high=0.5)
    assert initializer.label(half) == "uniform(-0.5, 0.5)"


@pytest.mark.parametrize("path", sorted((CONF / "initializer/published").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_published_initializer_is_built_and_labelled(path):
    config = composed(f"initializer=published/{path.stem}").initializer
    assert initializer.build(config)
    assert initializer.label(config) == config.label


def test_the_size_chooses_between_two_values():
    assert composed("experiment=he2015").trainer.max_epochs == 2
    assert composed("experiment=he2015", "size=full").trainer.max_epochs == 10
    with pytest.raises(UsageError, match="unknown size 'ful': did you mean full"):
        arguments.check(["experiment=he2015", "size=ful"])
    with pytest.raises(InterpolationResolutionError, match="unknown size 'ful'"):
        _ = composed("experiment=he2015", "size=ful").trainer.max_epochs


def test_an_initializer_of_your_own_is_a_target():
    config = OmegaConf.create({"_target_": "lightning_init.initializers.Normal", "std": 0.5})
    assert initializer.build(config) == initializers.get("normal", std=0.5)
    assert initializer.label(config) == "Normal"


def test_an_option_that_an_initializer_does_not_take_is_named():
    with pytest.raises(TypeError, match="gain"):
        initializer.build(OmegaConf.create({"name": "zeros", "gain": 2.0}))


@pytest.mark.parametrize("shape", sorted(set(SHAPES.values())), ids=str)
@pytest.mark.parametrize("name", options("model"))
def test_every_model_maps_images_to_logits(name, shape):
    model = instantiate(composed(f"model={name}").model, input_shape=shape, num_classes=10, _convert_="all")
    assert model.train()(torch.randn(2, *shape)).shape == (2, 10)


def test_digits_and_fashion_mnist_are_instantiated(tmp_path):
    for name in ("digits", "fashion_mnist") if fashion_mnist.FOLDER.is_dir() else ("digits",):
        config = composed(f"data={name}").data
        data = instantiate(config, seed=0, **({} if name == "digits" else {"root": str(tmp_path)}))
        images, labels = next(iter(data.train_dataloader()))
        assert images.shape == (config.batch_size, *SHAPES[name])
        assert labels.shape == (config.batch_size,)


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"digits"}))
def test_a_missing_data_set_without_network_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path / "no debian")
    root = tmp_path / "root"
    with pytest.raises(InstantiationException) as failure:
        instantiate(composed(f"data={name}", f"data.root={root}").data, seed=0)
    sentence = str(failure.value.__cause__)
    assert "use data=digits, which needs no network" in sentence
    assert "\n" not in sentence
    assert list(root.iterdir()) == []


def _no_network(*args, **kwargs):
    raise OSError("no network in tests")


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_is_instantiated(name):
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert isinstance(instantiate(composed(f"optimizer={name}").optimizer)([parameter]), torch.optim.Optimizer)


@pytest.mark.parametrize("name", options("trainer"))
def test_every_trainer_is_instantiated(name, monkeypatch):
    if name == "gpu" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert isinstance(instantiate(composed(f"trainer={name}").trainer, logger=False), pl.Trainer)


@pytest.mark.parametrize("name", options("monitor"))
def test_every_monitor_is_instantiated(name):
    config = composed(f"monitor={name}").monitor
    assert isinstance(instantiate(config), SignalMonitor) if config else name == "off"


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_is_composed_and_sweeps(name):
    try:
        arguments.check([f"experiment={name}"])
    except UsageError as missing:
        pytest.skip(str(missing))
    config = composed(f"experiment={name}")
    assert config.data.batch_size > 0
    raw = OmegaConf.load(CONF / f"experiment/{name}.yaml")
    assert raw.hydra.mode == "MULTIRUN"
    if config.report:
        module, _, function = config.report.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("group", ["model", "data", "optimizer", "trainer", "monitor", "experiment"])
def test_the_page_about_the_examples_names_every_option(group):
    (row,) = (
        line for line in (ROOT / "docs" / "examples.md").read_text().splitlines() if line.startswith(f"| `{group}`")
    )
    assert set(options(group)) <= set(re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_launchers_and_sweepers_are_those_of_the_plugins(group, name):
    found = importlib.util.find_spec("hydra_plugins")
    if found is None or importlib.util.find_spec(f"hydra_plugins.{PLUGINS[group, name]}") is None:
        pytest.skip(f"{PLUGINS[group, name]} is not installed")
    arguments.check([f"{group}={name}"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"{group}={name}"], return_hydra_config=True)
    assert get_class(config.hydra[group.partition("/")[2]]._target_)


def test_jobs_stay_in_the_directory_from_which_they_are_started():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[], return_hydra_config=True)
    assert not config.hydra.job.chdir


@pytest.mark.parametrize("group", ["job_logging", "hydra_logging"])
def test_logging_is_calm(group, tmp_path):
    raw = OmegaConf.to_container(OmegaConf.load(CONF / f"hydra/{group}/calm.yaml"))
    assert raw["handlers"]["console"]["level"] == "WARNING"
    raw.get("handlers", {}).get("file", {}).pop("filename", None)
    raw["handlers"] = {k: v for k, v in raw["handlers"].items() if k == "console"}
    raw["root"]["handlers"] = ["console"]
    logging.config.DictConfigurator(raw)
