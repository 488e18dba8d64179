"""Where the processes of joblib come from: when the server they are forked from is started, and when it cannot be."""

import os
from multiprocessing import forkserver

import pytest
from joblib.externals.loky.backend import context
from omegaconf import OmegaConf

from examples import launch

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher, of the extra sweeps")
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


@pytest.fixture
def environments(monkeypatch):
    """The environments in which a server was asked for."""
    found = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: found.append(dict(os.environ)))
    monkeypatch.setattr(launch, "FORKS", True)
    monkeypatch.setattr("hydra_plugins.hydra_joblib_launcher._core.Parallel", None)
    yield found
    context.set_start_method(None, force=True)


@pytest.mark.parametrize("arguments", [["-m", "hydra/launcher=joblib"], ["hydra/launcher=joblib", "--multirun", "a=1"]])
def test_the_server_is_started_as_soon_as_the_command_line_asks_for_joblib(environments, arguments):
    before = dict(os.environ)
    launch.foresee(arguments)
    (given,) = environments
    assert given["OPENBLAS_NUM_THREADS"] == "1"  # whose threads would be missing after the fork
    assert os.environ == before


@pytest.mark.parametrize(
    "arguments",
    [["-m"], ["hydra/launcher=joblib"], ["-m", "hydra/launcher=ray"],
     ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]],
)  # fmt: skip
def test_other_commands_start_none(environments, arguments):
    launch.foresee(arguments)
    assert environments == []


def test_without_a_server_each_process_imports_for_itself(environments, monkeypatch, capsys):
    def refuse():
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(forkserver, "ensure_running", refuse)
    monkeypatch.setattr("examples.composed.keep", lambda: None)  # there is no sweep
    launch.foresee(["-m", "hydra/launcher=joblib"])
    assert capsys.readouterr().out == ""
    launch.prepare(OmegaConf.create({"_target_": JOBLIB, "n_jobs": 2}))
    assert "imports for itself, as none can do it for all: AF_UNIX path too long" in capsys.readouterr().out
    assert context.get_start_method() is None


@pytest.mark.parametrize(("jobs", "share"), [(1, 8), (3, 2), (8, 1), (99, 1), (-1, 1), (-7, 4), (-50, 8)])
def test_runs_share_the_cores_unless_the_user_says_how(monkeypatch, jobs, share):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launcher = OmegaConf.create({"_target_": JOBLIB, "n_jobs": jobs})
    assert launch.threads(launcher) == share
    assert (
        launch.threads(OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}))
        is None
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch.threads(launcher) is None
