"""Which runs a comparison counts: whole ones, each once, from every directory; what is damaged or foreign is named."""

import json

import pandas as pd
import pytest
from making import made_up

from examples import compare
from examples.comparison import compare as compared
from examples.result import Result, checksums


def test_damaged_event_files_are_kept_out_and_named(tmp_path):
    for seed, name in enumerate(("good", "bad", "gone")):
        made_up(tmp_path / name, seed=seed)
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


def test_copies_and_repetitions_of_a_run_count_once(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.9)):
        made_up(tmp_path / f"s/{seed}", seed=seed, accuracy=[accuracy])
        made_up(tmp_path / f"copy/{seed}", seed=seed, accuracy=[accuracy])
    made_up(tmp_path / "copy/0", seed=0, status="failed", accuracy=[])
    alone, both = compared([tmp_path / "s"]), compared([tmp_path / "copy", tmp_path / "s"])
    assert both.table.equals(alone.table)
    assert both.runs["run"].tolist() == ["copy/1", "s/0"]
    assert "Not counted, as they repeat others here: copy/0; s/1" in both.notes


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
