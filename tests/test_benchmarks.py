"""The benchmarks run; only the smallest is run here."""

import json

from benchmarks import signal_propagation


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
