"""The command line: single runs, sweeps, resuming, and what a user gets to read after a mistake."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from making import TINY, command

from examples import arguments, names, plans
from examples.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = [
    *("run", "initializer", "model", "data", "seed", "status"),
    *("val_accuracy", "best_val_accuracy", "train_loss", "seconds"),
]


@pytest.fixture
def train(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        flags = [a for a in arguments if a.startswith("-")]
        command(monkeypatch, *flags, *TINY, *(a for a in arguments if a not in flags))

    return run


def test_a_single_run_writes_below_its_output_directory(train, tmp_path, capsys):
    train("initializer=he_normal")
    (result,) = tmp_path.rglob("result.json")
    assert result.parent.relative_to(tmp_path).parts[0] == "outputs"
    assert list(result.parent.glob("events.out.tfevents.*"))
    assert not list(tmp_path.rglob("version_*"))
    assert "he_normal: " in capsys.readouterr().out


def test_a_sweep_keeps_failed_and_diverged_runs_and_compares(train, tmp_path, capsys):
    sweep = tmp_path / "s"
    train("-m", "initializer=he_normal,eye", "optimizer=sgd", "optimizer.lr=0.01,1e30", "seed=0,1",
          "model.width=8", "data=digits", "init.bias=zeros,nonsense", f"hydra.sweep.dir={sweep}")  # fmt: skip
    runs = pd.read_csv(sweep / "runs.csv")
    assert list(runs.columns) == [*DOCUMENTED, "init.bias", "optimizer.lr"]
    assert len(runs) == 16
    failed = runs[runs["init.bias"] == "nonsense"]
    assert set(failed["status"]) == {"failed"}
    assert failed["val_accuracy"].isna().all()
    rest = runs[runs["init.bias"] == "zeros"]
    assert set(rest[rest["optimizer.lr"] == 1e30]["status"]) == {"diverged"}
    assert set(rest[rest["optimizer.lr"] == 0.01]["status"]) == {"ok"}
    table = pd.read_csv(sweep / "comparison.csv")
    assert list(table.columns[:10]) == [
        "initializer", "model", "data", "init.bias", "optimizer.lr",
        "runs", "failed", "val_accuracy_mean", "val_accuracy_low", "val_accuracy_high",
    ]  # fmt: skip
    assert table["runs"].tolist() == [2] * 8
    assert table["failed"].sum() == 8
    assert {p.suffix for p in sweep.iterdir() if p.is_file()} >= {".csv", ".md", ".png"}
    printed = capsys.readouterr().out
    assert "Comparison, best first" in printed
    assert f"tensorboard --logdir {sweep}" in printed
    assert "16/16" in printed


def test_an_interrupted_sweep_goes_on_where_it_stopped(train, tmp_path, capsys):
    arguments = ("-m", "initializer=zeros,he_normal", "seed=0,1", "monitor=off")
    train(*arguments, f"hydra.sweep.dir={tmp_path / 'whole'}")
    train(*arguments, f"hydra.sweep.dir={tmp_path / 'cut'}")
    kept, *_, lost = sorted((tmp_path / "cut").glob("*/result.json"))
    before = kept.stat().st_mtime_ns
    lost.unlink()  # as if killed in the middle of this run, whose first events are there
    (tmp_path / "cut" / "runs.csv").unlink()
    capsys.readouterr()
    train(*arguments, f"hydra.sweep.dir={tmp_path / 'cut'}")
    assert capsys.readouterr().out.count("(was finished)") == 3
    assert kept.stat().st_mtime_ns == before
    assert len(list(lost.parent.glob("events.out.tfevents.*"))) == 2  # training and hyperparameters, no leftovers
    for name in ("runs.csv", "comparison.csv"):
        whole, cut = (pd.read_csv(tmp_path / d / name) for d in ("whole", "cut"))
        times = [column for column in whole if "seconds" in column]
        pd.testing.assert_frame_equal(whole.drop(columns=times), cut.drop(columns=times))


def test_two_sweeps_into_one_directory_share_the_work(train, tmp_path):
    """As jobs on two machines do, which were started with the same command."""
    context = multiprocessing.get_context("fork")
    arguments = ("-m", "initializer=zeros,he_normal", "seed=0,1,2", f"hydra.sweep.dir={tmp_path / 's'}")
    both = [context.Process(target=train, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    directories = [file.parent for file in (tmp_path / "s").glob("*/result.json")]
    assert len(directories) == 6
    for directory in directories:
        assert len(list(directory.glob("events.out.tfevents.*"))) == 2  # training and hyperparameters, once
    assert len(list((tmp_path / "s/aggregate").rglob("events.out.tfevents.*"))) == 2


def test_a_run_of_another_configuration_is_not_overwritten(train, tmp_path):
    train("-m", "seed=0", f"hydra.run.dir={tmp_path / 'r'}", f"hydra.sweep.dir={tmp_path / 's'}", "monitor=off")
    train("seed=0", f"hydra.run.dir={tmp_path / 'r'}", "monitor=off")
    before = (tmp_path / "r/result.json").read_bytes()
    with pytest.raises(SystemExit, match=r"seed\); nothing was overwritten"):
        train("seed=1", f"hydra.run.dir={tmp_path / 'r'}", "monitor=off")
    assert (tmp_path / "r/result.json").read_bytes() == before


def test_a_failing_single_run_ends_in_one_sentence_and_is_recorded(train, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: model.depth=-1 is impossible: it must be") as end:
        train("model.depth=-1", f"hydra.run.dir={tmp_path / 'r'}")
    assert "\n" not in str(end.value)
    recorded = json.loads((tmp_path / "r/result.json").read_text())
    assert recorded["status"] == "failed"
    assert recorded["error"].startswith("UsageError: model.depth=-1 is impossible")
    assert "Traceback" in (tmp_path / "r/train.log").read_text()


def test_a_sweep_in_which_every_run_fails_ends_with_an_error(train, tmp_path):
    with pytest.raises(SystemExit, match="every run failed"):
        train("-m", "model.depth=0", "seed=0,1", f"hydra.sweep.dir={tmp_path / 's'}")
    assert pd.read_csv(tmp_path / "s/runs.csv")["status"].tolist() == ["failed", "failed"]


def test_a_baseline_that_is_not_there_costs_no_comparison(train, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: unknown baseline 'zero': did you mean zeros") as end:
        train("-m", "initializer=zeros,eye", "hydra.callbacks.sweep.baseline=zero", f"hydra.sweep.dir={tmp_path / 's'}")
    assert "\n" not in str(end.value)
    assert len(pd.read_csv(tmp_path / "s/comparison.csv")) == 2


@pytest.mark.parametrize("arguments", [["hydra.run.dir=file/in"], ["-m", "seed=0,1", "hydra.sweep.dir=file/in"]])
def test_a_directory_that_cannot_be_made_is_refused_in_one_sentence(train, tmp_path, arguments):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"^error: nothing can be written into file/in \(Not a directory\)"):
        train(*arguments)


def test_an_impossible_target_is_refused_before_anything_runs(train, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: target=90 is impossible"):
        train("-m", "initializer=zeros,eye", "hydra.callbacks.sweep.target=90", f"hydra.sweep.dir={tmp_path / 's'}")
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize("seed", ["0.5", "one", "-1"])
def test_an_impossible_seed_is_refused_again_when_the_sweep_is_repeated(train, tmp_path, seed):
    for _ in range(2):
        train("-m", f"seed={seed},0", f"hydra.sweep.dir={tmp_path / 's'}")
    assert sorted(pd.read_csv(tmp_path / "s/runs.csv")["status"]) == ["failed", "ok"]
    assert f"seed={seed} is impossible" in (tmp_path / "s/comparison.md").read_text()


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("initializer=he_norml", "unknown initializer 'he_norml': did you mean he_normal"),
        ("initializer=zeros,xavier_unifrom", "did you mean xavier_uniform"),
        ("model=cmn", "did you mean cnn"),
        ("data=mnis", "did you mean mnist"),
        ("experiment=udacty", "did you mean udacity"),
        ("optimizer=zzz", "choose one of adam, adamw, sgd"),
    ],
)
def test_an_unknown_choice_names_the_closest_and_writes_nothing(train, tmp_path, argument, sentence):
    with pytest.raises(SystemExit, match=sentence) as end:
        train("-m", argument)
    assert "\n" not in str(end.value)
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("examples.arguments._installed", lambda plugin: False)
    with pytest.raises(UsageError, match="pip install hydra-joblib-launcher"):
        arguments.check(["hydra/launcher=joblib"])


def test_the_size_of_a_sweep_is_known_beforehand():
    grid = arguments.grid(["a=1,2", "b=range(3)", "c=5", "+d=[1,2]", "e=interval(0,1)"])
    assert grid == {"a": ["1", "2"], "b": ["0", "1", "2"], "c": ["5"], "+d": ["[1,2]"], "e": None}
    assert plans.plan(grid, 7).total == 7
    del grid["e"]
    assert plans.plan(grid).total == 6
    assert arguments.grid(["seed=0,1,2", "seed=7"]) == {"seed": ["7"]}
    assert arguments.grid(["seed=0,1,0"]) == {"seed": ["0", "1"]}  # equal runs have one directory


def test_run_names_are_unique_and_fit_into_a_directory():
    assert names.run_name(["model=mlp", "seed=0"]) == "model=mlp,seed=0"
    long = [f"model.width=[{i}]" for i in range(100)]
    assert len(names.run_name(long)) < 200
    assert names.run_name(long) != names.run_name([*long[:-1], "model.width=[7]"])
    assert names.run_name(["a=x/y"]) != names.run_name(["a=x:y"])
    assert re.fullmatch(r"[\w.=,+-]+", names.run_name(["initializer=published/uniform_half", "k={a: 'b c'}"]))


def test_the_documented_command_runs_as_a_process(tmp_path):
    """A sweep over every accepted spelling of options, from another process, into the default directory."""
    python = [sys.executable, "-m"]
    (tmp_path / "srun").touch(mode=0o755)  # as where Slurm is installed, of which Lightning warns in every run
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    environment["PATH"] = path
    sweep = [*python, "examples.train", "-m", "initializer=normal", "initializer.std=0.02,0.5", "seed=0", *TINY]
    done = subprocess.run(sweep, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr, done.stderr
    (runs,) = (tmp_path / "multirun").rglob("runs.csv")
    assert pd.read_csv(runs)["initializer.std"].tolist() == [0.02, 0.5]
    assert "One seed only" in done.stdout
    again = [*python, "examples.compare", str(tmp_path / "multirun")]
    done = subprocess.run(again, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (tmp_path / "multirun/comparison.md").exists()
    assert done.stderr == ""


def test_the_processes_of_ddp_leave_one_run(tmp_path):
    """Lightning starts the others with the same command line; they join the first and record nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    ddp = ["trainer=ddp", "trainer.devices=2", "trainer.max_epochs=1", "monitor=off"]
    train = [sys.executable, "-m", "examples.train", *TINY, *ddp]
    subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    (result,) = tmp_path.rglob("result.json")
    (directory,) = tmp_path.glob("outputs/*/*")
    assert result.parent == directory
    recorded = json.loads(result.read_text())
    assert recorded["status"] == "ok"
    assert recorded["history"]["step"] == [2]  # 64 samples in batches of 32, which the two processes share
    assert {path.parent for path in tmp_path.rglob("events.out.tfevents.*")} == {directory}


def test_the_tasks_of_slurm_leave_one_run(tmp_path):
    """srun starts them all with the same command line, and tells them apart by variables of its own."""
    shared = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0, "JOB_ID": os.getpid(), "JOB_NAME": "train"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment |= {"MASTER_ADDR": "127.0.0.1", **{f"SLURM_{name}": str(value) for name, value in shared.items()}}
    train = [sys.executable, "-m", "examples.train", *TINY, "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=1",
             "monitor=off", f"hydra.run.dir={tmp_path / 'r'}"]  # fmt: skip
    both = [
        subprocess.Popen(train, cwd=tmp_path, env=environment | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        for rank in "01"
    ]
    assert [task.wait(timeout=100) for task in both] == [0, 0]
    recorded = json.loads((tmp_path / "r/result.json").read_text())
    assert recorded["history"]["step"] == [2]  # 64 samples in batches of 32, which the two tasks share
    assert (
        len(list((tmp_path / "r").glob("events.out.tfevents.*"))) == 2
    )  # training and hyperparameters, of one process
