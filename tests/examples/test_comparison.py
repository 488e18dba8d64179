"""The comparison against a slow, independent reference, on runs that were written by hand."""

import html
import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from making import made_up

from examples import compare, runs, tables
from examples.comparison import compare as compared
from examples.errors import UsageError
from examples.run import flatten


def reference(directory):
    """Group by hand, with nothing but json and arithmetic."""
    groups = {}
    for file in directory.rglob("result.json"):
        raw = json.loads(file.read_text())
        groups.setdefault((raw["initializer"], raw["config"]["model.width"]), []).append(raw["history"]["val_accuracy"])
    return {
        key: {"runs": len(g), "mean": sum(a[-1] for a in g) / len(g), "best": sum(max(a) for a in g) / len(g)}
        for key, g in groups.items()
    }


def test_both_tables_equal_the_reference(sweep):
    compare.write([sweep])
    table = pd.read_csv(sweep / "comparison.csv")
    assert list(table.columns[:4]) == ["initializer", "model", "data", "model.width"]
    expected = reference(sweep)
    assert len(table) == len(expected) == 4
    for row in table.itertuples():
        entry = expected[row.initializer, row._4]
        assert (row.runs, row.failed) == (entry["runs"], 0)
        assert row.val_accuracy_mean == pytest.approx(entry["mean"])
        assert row.best_val_accuracy_mean == pytest.approx(entry["best"])
        assert row.val_accuracy_low <= row.val_accuracy_mean <= row.val_accuracy_high
    single = pd.read_csv(sweep / "runs.csv")
    for row in single.itertuples():
        raw = json.loads((sweep / row.run / "result.json").read_text())
        assert row.val_accuracy == raw["history"]["val_accuracy"][-1]
        assert row.best_val_accuracy == max(raw["history"]["val_accuracy"])
        assert (row.seed, row.initializer, row._11) == (raw["seed"], raw["initializer"], raw["config"]["model.width"])


def test_the_page_needs_nothing_else_and_has_every_cell(sweep):
    comparison, _ = compare.write([sweep])
    text = (sweep / "comparison.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)|<script|@import|https?://", text)
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", text)]
    shown = [tables.readable(comparison), tables.overall(comparison)]
    assert cells == [cell for table in shown for row in table.itertuples(index=False) for cell in row]
    for entry in reference(sweep).values():
        assert f"{entry['mean']:.1%}" in text


def reference_accuracies(directory):
    raws = [json.loads(file.read_text()) for file in directory.rglob("result.json")]
    groups = {}
    for raw in sorted(raws, key=lambda raw: raw["seed"]):
        key = (raw["initializer"], raw["config"]["model.width"])
        groups.setdefault(key, []).append(raw["history"]["val_accuracy"][-1])
    return groups


def test_initializers_are_summed_up_over_everything_else(sweep):
    compare.write([sweep], baseline="zeros")
    table = pd.read_csv(sweep / "overall.csv")
    groups = reference_accuracies(sweep)
    for row in table.itertuples():
        strata = [groups[row.line, width] for width in (8, 16)]
        assert (row.settings, row.runs) == (2, 6)
        assert row.val_accuracy_mean == pytest.approx(np.mean(strata))
        assert row.val_accuracy_iqm == pytest.approx(np.mean(sorted(v for s in strata for v in s)[1:-1]))
        wins = [a > b for w in (8, 16) for a, b in zip(groups[row.line, w], groups["zeros", w], strict=True)]
        assert row.improvement == pytest.approx(0.5 if row.line == "zeros" else np.mean(wins))
    assert table["val_accuracy_iqm"].is_monotonic_decreasing


def test_a_baseline_is_compared_seed_by_seed_within_its_panel(sweep):
    table = compared([sweep], baseline="zeros").table
    for width in (8, 16):
        pairs = []
        for seed in (0, 1, 2):
            ours, theirs = (
                json.loads((sweep / f"{name}-{seed}-{width}/result.json").read_text())["history"]["val_accuracy"][-1]
                for name in ("he_normal", "zeros")
            )
            pairs.append(ours > theirs)
        row = table[(table["initializer"] == "he_normal") & (table["model.width"] == width)]
        assert row["improvement"].item() == pytest.approx(sum(pairs) / 3)
    assert set(table[table["initializer"] == "zeros"]["improvement"]) == {0.5}
    with pytest.raises(UsageError, match="did you mean zeros"):
        compared([sweep], baseline="zeroes")


def test_what_users_typed_is_escaped(tmp_path):
    made_up(tmp_path / "run", initializer="<script>alert(1)</script>")
    compare.write([tmp_path])
    assert "<script" not in (tmp_path / "comparison.html").read_text()


def test_a_directory_that_cannot_be_written_into_is_refused_in_one_sentence(sweep):
    (sweep / ".lock").mkdir()  # no permission would keep out root, who runs tests in containers
    with pytest.raises(SystemExit, match=r"^error: nothing can be written into .*: choose another directory$"):
        compare.main([str(sweep)])


def test_comparing_twice_gives_the_same_bytes(sweep):
    _, files = compare.write([sweep])
    before = {file.name: file.read_bytes() for file in files}
    _, files = compare.write([sweep])
    assert {file.name: file.read_bytes() for file in files} == before


def test_keys_that_do_not_differ_are_no_columns(tmp_path):
    for seed in (0, 1):
        made_up(tmp_path / str(seed), seed=seed, overrides=["model.width=8"], **{"model.width": 8})
    assert runs.differing(runs.find([tmp_path]).runs) == []


def test_settings_differ_in_mappings_and_lists_too(tmp_path):
    for name, value in [("a", {}), ("b", {"head*": "zeros"}), ("c", {"head*": "ones"}), ("d", [{"module": "LSTM"}])]:
        config = flatten({"init": {"rules": value}})
        made_up(tmp_path / name, overrides=["init.rules=..."], **config)
    assert set(compared([tmp_path]).table["init.rules"]) == {
        "{}", '{"head*": "zeros"}', '{"head*": "ones"}', '[{"module": "LSTM"}]'
    }  # fmt: skip


def test_profiles_of_other_layers_are_not_averaged(tmp_path):
    """As after conf/ was edited between two runs."""
    for seed, layers in enumerate((2, 2, 3)):
        result = made_up(tmp_path / str(seed), seed=seed, **{"model.depth": layers})
        signals = ("activation_variance", "gradient_norm")
        result.profile = {when: dict.fromkeys(signals, [4.0] * layers) for when in ("first", "last")}
        result.write(tmp_path / str(seed))
    comparison, _ = compare.write([tmp_path])
    assert comparison.settings[0].profile("first", "gradient_norm").tolist() == [[4.0, 4.0]] * 2
    assert comparison.notes == ["zeros: its runs also differ in model.depth"]


def test_failed_and_diverged_runs_are_counted_and_kept(tmp_path):
    made_up(tmp_path / "a", seed=0, accuracy=[0.8])
    made_up(tmp_path / "b", seed=1, accuracy=[0.1], status="diverged")
    made_up(tmp_path / "c", seed=2, accuracy=[], status="failed")
    comparison = compared([tmp_path])
    assert comparison.runs["status"].tolist() == ["ok", "diverged", "failed"]
    (row,) = comparison.table.to_dict("records")
    assert (row["runs"], row["failed"], row["diverged"]) == (3, 1, 1)
    assert row["val_accuracy_mean"] == pytest.approx(0.45)


def test_steps_are_counted_to_the_target(tmp_path):
    for seed, accuracy in enumerate([(0.5, 0.9), (0.8, 0.9), (0.1, 0.2)]):
        made_up(tmp_path / str(seed), seed=seed, accuracy=accuracy)
    (row,) = compared([tmp_path], target=0.8).table.to_dict("records")
    assert (row["target_accuracy"], row["reached_target"], row["steps_to_target"]) == (0.8, 2, 20)
    (row,) = compared([tmp_path], target=0.7).table.to_dict("records")
    assert (row["reached_target"], row["steps_to_target"]) == (2, 20)
    (row,) = compared([tmp_path], target=0.95).table.to_dict("records")
    assert (row["reached_target"], row["steps_to_target"]) == (0, math.inf)
    assert compared([tmp_path]).target == 0.63  # 95 % of the mean 2/3, in whole percents
    with pytest.raises(UsageError, match="target=95 is impossible"):
        compared([tmp_path], target=95)


def test_dead_runs_never_got_above_guessing(tmp_path):
    for seed, accuracy in enumerate([(0.1, 0.14), (0.2, 0.1)]):
        made_up(tmp_path / str(seed), seed=seed, accuracy=accuracy)
    assert compared([tmp_path]).table["dead"].tolist() == [1]
    assert "| dead" in tables.page(compared([tmp_path]), [])


def test_markdown_is_a_table():
    text = tables.markdown(pd.DataFrame({"a|b": ["x"], "n": [1]}))
    assert text.splitlines() == ["| a|b | n   |", "|-----|-----|", "| x   | 1   |"]


def test_the_comparison_does_without_torch():
    """It takes seconds to import, and 500 MiB."""
    script = "import sys, examples.compare; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
