"""The benchmarks run; only the smallest is run here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import monitor, signal_propagation
from benchmarks.monitoring import workloads
from benchmarks.monitoring.parts import PARTS, Clock, medians

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(file.stem for file in (ROOT / "benchmarks").glob("*.py") if "__main__" in file.read_text())


def test_make_bench_runs_each_benchmark():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search("^BENCHMARKS := (.*)$", makefile, re.MULTILINE).group(1).split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_called_by_the_command_in_its_docstring(name):
    text = (ROOT / "benchmarks" / f"{name}.py").read_text()
    assert f"python -m benchmarks.{name}" in text.split('"""')[1]
    assert f"python benchmarks/{name}" not in text
    subprocess.run([sys.executable, "-c", f"import benchmarks.{name}"], cwd=ROOT, check=True)


def test_signal_propagation_writes_its_rows_and_keeps_the_others(tmp_path, capsys):
    path = tmp_path / "results" / "signal_propagation.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"rows": {"other": {}}}))
    signal_propagation.main(["--quick"], path)
    found = json.loads(path.read_text())
    assert set(found["rows"]) == {"other", "mlp-GELU-10", "mlp-Tanh-10"}
    assert found["environment"]["torch"]
    row = found["rows"]["mlp-GELU-10"]
    assert set(row) == set(signal_propagation.INITIALIZERS)
    forward, backward = row["auto"]
    assert abs(forward) < 0.5
    assert abs(backward) < 1
    assert abs(row["torch_default"][0]) > 1
    assert "mlp-GELU-10" in capsys.readouterr().out


@pytest.fixture
def figures_of(tmp_path, monkeypatch):
    """Runs the benchmark of the monitor on a tiny workload, and returns the rows that it writes."""
    threads = torch.get_num_threads()
    monkeypatch.setitem(workloads.WORKLOADS, "tiny", (lambda: workloads.mlp(4, 4, 10), (8, 4)))

    def run(*arguments):
        path = tmp_path / "results" / "figures.json"
        monitor.main([*arguments, "--out", str(path)])
        found = json.loads(path.read_text())
        assert found["environment"]["torch"]
        return found["rows"]

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", ["monitor", "with alerts", "empty hooks", "naive", "self.log"])
def test_monitor_reports_the_ratio_of_the_step_times_with_an_interval(figures_of, way):
    (row,) = figures_of("--workloads", "tiny", "--ways", way, "--threads", "1", "--seconds", "0")
    assert (row["workload"], row["way"], row["threads"]) == ("tiny", way, 1)
    assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert row["steps"] == 2 * (monitor.BLOCK - 1) * (monitor.PAIRS - 2)


def test_monitor_skips_a_peer_that_is_not_installed(figures_of, monkeypatch):
    monkeypatch.setattr(monitor.WAYS["wandb"], "needs", "no_such_package")
    (row,) = figures_of("--workloads", "tiny", "--ways", "wandb", "--threads", "1")
    assert row["skipped"] == "no_such_package is not installed"


def test_monitor_over_many_steps_writes_at_most_twelve_bytes_per_value_beside_its_tag(figures_of):
    (row,) = figures_of("--soak", "200")
    assert len(row["resident_mib"]) == 10
    assert 4 < row["bytes_per_value_without_tag"] <= 12


def test_monitor_over_depth_measures_totals_only_and_every_layer(figures_of):
    rows = figures_of("--layers", "2", "4")
    assert [(row["layers"], row["totals_only"]) for row in rows] == [(2, True), (2, False), (4, True), (4, False)]


def test_monitor_says_what_each_part_of_it_takes_and_leaves_its_methods_as_they_were(figures_of, capsys):
    before = {(owner, name): getattr(owner, name) for methods in PARTS.values() for owner, name in methods}
    (row,) = figures_of("--parts", "--workloads", "tiny", "--threads", "1", "--seconds", "0")
    assert all(row[part] > 0 for part in PARTS)
    assert row["sum"] >= max(row[part] for part in PARTS)
    assert {"added to the step", "added by empty hooks"} < set(row)
    assert "| taps | " in capsys.readouterr().out
    assert all(getattr(owner, name) is method for (owner, name), method in before.items())


def test_clock_counts_a_call_inside_another_once(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    inner = clock.timed("inner", lambda: None)
    clock.timed("outer", inner)()
    assert clock.spent == {"inner": 2.0, "outer": 5.0}


def test_medians_are_those_of_steps_in_microseconds():
    found = medians([{"taps": 1e-6}, {"taps": 3e-6, "values": 2e-6}, {"taps": 2e-6, "values": 9e-6}])
    assert (found["taps"], found["values"], found["weights"], found["sum"]) == (2.0, 2.0, 0.0, 5.0)
