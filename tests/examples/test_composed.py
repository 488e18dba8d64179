"""Configs that Hydra has composed in one process are not composed again in those that run the jobs."""

import pickle

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.types import HydraContext, RunMode
from joblib.externals.loky.backend.reduction import cloudpickle
from omegaconf import OmegaConf

from examples import composed
from examples.arguments import CONF

OVERRIDES = ["initializer=zeros", "seed=3"]


@pytest.fixture
def sweep():
    """Hydra's loader of a sweep, and the config of the sweep."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed.keep()
        hydra = GlobalHydra.instance().hydra
        yield (
            hydra.config_loader,
            hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False),
        )


def elsewhere(loader, config):
    """Return loader and state as they arrive in another process."""
    arguments = composed.lighten(3, OVERRIDES, HydraContext(loader, None), config, None, Singleton.get_state())
    _, _, context, _, _, state = pickle.loads(cloudpickle.dumps(arguments))
    return context.config_loader, state


def test_what_was_composed_is_taken_along_in_place_of_the_loader(sweep):
    loader, config = sweep
    expected = loader.load_sweep_config(master_config=config, sweep_overrides=OVERRIDES)
    light, _ = elsewhere(loader, config)
    assert isinstance(light, composed.Composed)
    found = light.load_sweep_config(config, OVERRIDES)
    assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
    assert found.seed == 3


def test_what_was_not_composed_is_composed_there_as_optunas_sweeper_has_it(sweep):
    loader, config = sweep
    light, _ = elsewhere(loader, config)
    assert type(light) is type(loader.loader)
    assert light.load_sweep_config(config, OVERRIDES).seed == 3


def test_plugins_are_looked_for_once_in_each_process(sweep):
    _, state = elsewhere(*sweep)
    assert state["instances"][Plugins] is Plugins.instance()
