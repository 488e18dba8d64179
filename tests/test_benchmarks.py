"""The benchmarks run; only the smallest is run here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import signal_propagation

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
