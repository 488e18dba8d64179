"""Sweeps of Ray's, whose workers are not started here."""

import pandas as pd
import pytest
from making import TINY, command

ray = pytest.importorskip("ray", reason="needs hydra-ray-launcher, of the extra sweeps")
pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs hydra-ray-launcher")


def test_a_job_that_ray_loses_is_recorded_as_failed_and_the_sweep_goes_on(monkeypatch, tmp_path):
    from hydra_plugins.hydra_ray_launcher import _core, _launcher_util

    from examples import sturdy_ray

    def get(job):
        context, config, task = job
        if config.seed == 1:
            raise ray.exceptions.WorkerCrashedError
        return _launcher_util._run_job(context, config, task, {})

    monkeypatch.setattr(_core, "start_ray", lambda settings: None)
    monkeypatch.setattr(_core, "launch_job_on_ray", None)
    monkeypatch.setattr(_core, "ray", None)
    monkeypatch.setattr(
        sturdy_ray, "launch_job_on_ray", lambda context, _, config, task, __: Job((context, config, task))
    )
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr("hydra.core.singleton.Singleton.set_state", lambda state: None)
    command(monkeypatch, "-m", *TINY, "seed=0,1,2", "hydra/launcher=ray", f"hydra.sweep.dir={tmp_path / 's'}")
    assert pd.read_csv(tmp_path / "s/runs.csv")["status"].tolist() == ["ok", "failed", "ok"]
    assert "Ray lost the job: The worker died" in (tmp_path / "s/comparison.md").read_text()


class Job(tuple):
    """Stands for the reference that Ray gives."""

    __hash__ = object.__hash__
