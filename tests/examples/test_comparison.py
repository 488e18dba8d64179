"""The comparison against a slow, independent reference, on runs that were written by hand."""

import html
import itertools
import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from making import made_up
from scipy import stats

from examples import compare, runs, statistics, tables
from examples.comparison import compare as compared
from examples.errors import UsageError
from examples.result import Result, checksums


def exact_interval(values, confidence=0.95):
    """Percentile bootstrap without sampling: the means of all n^n resamples."""
    means = sorted(np.mean(r) for r in itertools.product(values, repeat=len(values)))
    return np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")


@pytest.mark.parametrize("values", [[0.1, 0.5, 0.9], [0.91, 0.93, 0.9, 0.95], [0.2, 0.2, 0.2, 0.2, 0.7]])
def test_the_interval_is_the_percentile_bootstrap(values):
    mean, low, high = statistics.interval(values)
    assert mean == pytest.approx(np.mean(values))
    spread = max(values) - min(values)
    assert (low, high) == pytest.approx(tuple(exact_interval(values)), abs=0.06 * spread)
    assert statistics.interval(values) == (mean, low, high)  # the draws are seeded


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_intervals_of_many_rows_are_those_of_each(seeds):
    rows = np.random.default_rng(0).random((7, seeds))
    each = [statistics.interval(row) for row in rows]
    np.testing.assert_allclose(statistics.intervals(rows), each, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 30])
def test_the_interquartile_mean_is_scipys(count):
    values = np.random.default_rng(0).normal(size=(5, count))
    np.testing.assert_array_equal(statistics.interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1))


def test_the_comparison_does_without_torch():
    """It takes seconds to import, and 500 MiB."""
    script = "import sys, examples.compare; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert math.isnan(statistics.interval([0.5]).low)
    assert math.isnan(statistics.interval([math.nan]).mean)


def test_factors_per_layer():
    assert statistics.factor_per_layer([8, 4, 2, 1]) == pytest.approx(0.5)
    assert statistics.factor_per_layer([1, 0, 0]) == 0
    assert math.isnan(statistics.factor_per_layer([1, math.inf]))
    assert statistics.geometric_mean([math.nan, 4, 1]) == pytest.approx(2)


def test_improvement_is_paired():
    assert statistics.improvement([[0.5, 0.9, 0.7]], [[0.4, 0.8, 0.7]]).mean == pytest.approx(5 / 6)
    assert statistics.improvement([[0.5, math.nan]], [[0.4, 0.1]]).mean == 1


def exact_stratified(strata, statistic):
    """All ways to draw each stratum again from itself."""
    ways = itertools.product(*(itertools.product(s, repeat=len(s)) for s in strata))
    found = sorted(statistic([v for stratum in way for v in stratum]) for way in ways)
    return np.quantile(found, [0.025, 0.975], method="inverted_cdf")


def trimmed(values):
    """The interquartile mean by hand, for a number of values that four divides."""
    quarter = len(values) // 4
    return np.mean(sorted(values)[quarter : len(values) - quarter])


def test_the_interquartile_interval_is_stratified():
    strata = [[0.1, 0.2], [0.6, 0.9]]
    mean, *bounds = statistics.interquartile(strata)
    assert mean == pytest.approx(0.4)
    assert bounds == pytest.approx(exact_stratified(strata, trimmed), abs=0.01)
    pooled = statistics.interquartile([[v for s in strata for v in s]])
    assert pooled.high - pooled.low > 1.5 * (bounds[1] - bounds[0])  # what ignores the strata is wider


def test_improvement_averages_over_strata():
    found = statistics.improvement([[1, 1, 1, 1], [0, 1]], [[0, 0, 0, 0], [1, 0]])
    assert found == pytest.approx((0.75, 0.5, 1.0))
    assert math.isnan(statistics.improvement([[]], [[]]).mean)


def test_a_stratum_of_one_run_leaves_the_interval_blank():
    assert math.isnan(statistics.interquartile([[0.1, 0.2], [0.5]]).low)


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


@pytest.fixture
def sweep(tmp_path):
    rng = np.random.default_rng(0)
    for name, seed, width in itertools.product(["zeros", "he_normal"], [0, 1, 2], [8, 16]):
        accuracy = rng.uniform(0, 1, 3).tolist()
        extra = {"overrides": [f"model.width={width}"], "model.width": width, "model.depth": 2}
        made_up(tmp_path / f"{name}-{seed}-{width}", initializer=name, seed=seed, accuracy=accuracy, **extra)
    return tmp_path


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


def test_what_users_typed_is_escaped(tmp_path):
    made_up(tmp_path / "run", initializer="<script>alert(1)</script>")
    compare.write([tmp_path])
    assert "<script" not in (tmp_path / "comparison.html").read_text()


def test_comparing_twice_gives_the_same_bytes(sweep):
    _, files = compare.write([sweep])
    before = {file.name: file.read_bytes() for file in files}
    _, files = compare.write([sweep])
    assert {file.name: file.read_bytes() for file in files} == before


def test_keys_that_do_not_differ_are_no_columns(tmp_path):
    for seed in (0, 1):
        made_up(tmp_path / str(seed), seed=seed, overrides=["model.width=8"], **{"model.width": 8})
    assert runs.differing(runs.find([tmp_path]).runs) == []


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


def reference_accuracies(directory):
    raws = [json.loads(file.read_text()) for file in directory.rglob("result.json")]
    groups = {}
    for raw in sorted(raws, key=lambda raw: raw["seed"]):
        key = (raw["initializer"], raw["config"]["model.width"])
        groups.setdefault(key, []).append(raw["history"]["val_accuracy"][-1])
    return groups


def test_damaged_event_files_are_kept_out_and_named(tmp_path):
    for name in ("good", "bad", "gone"):
        made_up(tmp_path / name, seed=len(name))
        (tmp_path / name / "events.out.tfevents.1").write_bytes(b"what was logged")
        result = Result.read(tmp_path / name)
        result.events = checksums(tmp_path / name)
        result.write(tmp_path / name)
    (tmp_path / "bad/events.out.tfevents.1").write_bytes(b"what was l?gged")
    (tmp_path / "gone/events.out.tfevents.1").unlink()  # its result is enough for the tables
    comparison = compared([tmp_path])
    assert sorted(comparison.runs["run"]) == ["gone", "good"]
    (note,) = (note for note in comparison.notes if "Kept out" in note)
    assert note == f"Kept out: {tmp_path / 'bad'}: events.out.tfevents.1 is not as the run left it"


@pytest.mark.parametrize("content", ["[]", "3", '{"status": "ok"}', '{"half', None])
def test_foreign_results_are_kept_out(tmp_path, content):
    made_up(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    file = tmp_path / "bad/result.json"
    file.mkdir() if content is None else file.write_text(content)
    comparison = compared([tmp_path])
    assert comparison.runs["run"].tolist() == ["good"]
    assert comparison.notes[0].startswith(f"Kept out: {file} is not the result of a run")


def test_results_with_our_keys_and_other_contents_are_kept_out(tmp_path):
    made_up(tmp_path / "good")
    made_up(tmp_path / "bad")
    raw = json.loads((tmp_path / "bad/result.json").read_text())
    (tmp_path / "bad/result.json").write_text(json.dumps(raw | {"status": "done"}))
    assert compared([tmp_path]).runs["run"].tolist() == ["good"]


def test_mixed_experiments_are_said(tmp_path):
    for name in ("demo", "udacity"):
        result = made_up(tmp_path / name, overrides=[f"experiment={name}"])
        result.choices["experiment"] = name
        result.write(tmp_path / name)
    comparison = compared([tmp_path])
    assert len(comparison.settings) == 2
    assert any("different experiments are here (demo, udacity)" in note for note in comparison.notes)


def test_every_picture_is_there_twice_and_old_ones_go(sweep):
    (sweep / "heat_map.svg").write_text("of an older comparison")
    _, files = compare.write([sweep])
    for file in files:
        assert file.exists()
        assert file.suffix != ".png" or file.with_suffix(".svg").read_text().startswith("<?xml")
    assert not (sweep / "heat_map.svg").exists()


def test_several_directories_are_compared_together_and_written_into_the_first(tmp_path):
    for name in ("one", "two"):
        made_up(tmp_path / name / "run", initializer=f"init_{name}")
    compare.main([str(tmp_path / "one"), str(tmp_path / "two")])
    table = pd.read_csv(tmp_path / "one/runs.csv")
    assert sorted(table["run"]) == ["one/run", "two/run"]
    assert not (tmp_path / "two/runs.csv").exists()


def test_the_same_directory_twice_counts_once(tmp_path):
    made_up(tmp_path / "s/run")
    assert len(compared([tmp_path / "s", tmp_path]).runs) == 1


@pytest.mark.parametrize("prepare", ["missing", "empty", "foreign"])
def test_a_directory_without_runs_ends_in_a_sentence_and_nothing_is_written(tmp_path, prepare, capsys):
    target = tmp_path / "d"
    if prepare != "missing":
        target.mkdir()
    if prepare == "foreign":
        (target / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=r"^error: (no finished run below|there is no directory)"):
        compare.main([str(target)])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_missing_or_damaged_is_named_and_left_out(tmp_path):
    made_up(tmp_path / "good")
    made_up(tmp_path / "bad")
    (tmp_path / "bad/result.json").write_text('{"status": "ok"')
    (tmp_path / "killed/.hydra").mkdir(parents=True)
    (tmp_path / "killed/.hydra/overrides.yaml").write_text("[]")
    comparison = compared([tmp_path])
    assert comparison.runs["run"].tolist() == ["good"]
    notes = " ".join(comparison.notes)
    assert "Kept out" in notes
    assert str(tmp_path / "bad") in notes
    assert f"Not finished, so not counted: {tmp_path / 'killed'}" in notes


def test_settings_made_with_different_configs_are_pointed_out(tmp_path):
    for seed, lr in ((0, 0.1), (1, 0.2)):
        made_up(tmp_path / str(seed), seed=seed, lr=lr, split=seed)
    assert "zeros: its runs also differ in lr" in compared([tmp_path]).notes


def test_one_seed_is_said_and_leaves_the_interval_blank(tmp_path):
    made_up(tmp_path / "only")
    compare.write([tmp_path])
    assert pd.read_csv(tmp_path / "comparison.csv")["val_accuracy_low"].isna().all()
    assert "One seed only" in (tmp_path / "comparison.md").read_text()


def test_markdown_is_a_table():
    text = tables.markdown(pd.DataFrame({"a|b": ["x"], "n": [1]}))
    assert text.splitlines() == ["| a|b | n   |", "|-----|-----|", "| x   | 1   |"]
