"""Every number of the HTML page, computed again from the event files with none of the code that made the page."""

import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples import data

LAYERS = {2: ["linear1", "linear2", "head"], 3: ["linear1", "linear2", "linear3", "head"]}
ROOT = Path(__file__).parents[2]
TARGET, BASELINE = 0.2, "zeros"


class Cells(HTMLParser):
    """Rows of tables as mappings from the name of the column to the cell; and the items of lists."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.items, self._at = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append({})
        self._at = dict(attributes).get("data-name") if tag == "td" else tag if tag == "li" else None

    def handle_data(self, text):
        if self._at == "li":
            self.items.append(text)
        elif self._at:
            self.rows[-1][self._at] = text
        self._at = None


def runs(sweep):
    """(initializer, depth) -> seed -> tag -> [(step, value)], by the names of the directories."""
    found = {}
    for folder in (file.parent for file in sweep.glob("*/result.json")):
        chosen = dict(part.split("=") for part in folder.name.split(","))
        name, depth, seed = chosen["initializer"], chosen["model.depth"], chosen["seed"]
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        series = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        found.setdefault((name, int(depth)), {})[int(seed)] = series
    return {setting: dict(sorted(seeds.items())) for setting, seeds in found.items()}


def final(seeds, tag):
    return [series[tag][-1][1] for series in seeds.values()]


def bounds(strata, statistic):
    """The 95 % interval from every way to draw each stratum again."""
    draws = itertools.product(*(itertools.product(s, repeat=len(s)) for s in strata))
    found = np.sort([statistic(np.concatenate(draw)) for draw in draws])
    return np.quantile(found, [0.025, 0.975], method="inverted_cdf")


def middle_half(values):
    cut = len(values) // 4
    return np.mean(np.sort(values)[cut : len(values) - cut])


def wins(ours, theirs):
    return [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)]


def factor(seeds, signal, layers):
    """The trend over depth: 10 to the slope of a line through the logarithms, geometric mean over seeds."""
    slopes = []
    for series in seeds.values():
        profile = np.array([series[f"{signal}/model.{layer}"][0][1] for layer in layers])
        if (profile == 0).any():
            return "exactly 0"
        slopes.append(np.polyfit(range(len(profile)), np.log10(profile), 1)[0])
    return f"x {10 ** np.mean(slopes):.3g}"


def steps(series):
    """Optimizer steps up to the end of the first epoch that reached the target; Lightning counts them from 0."""
    return next((step + 1 for step, accuracy in series["val_accuracy"] if accuracy >= TARGET), math.inf)


def percent(value, digits=1):
    return f"{value:.{digits}%}"


def span(interval, digits=1):
    return " to ".join(percent(bound, digits) for bound in interval)


def chance():
    labels = data.digits(seed=0, batch_size=32, validation=0.2).val.tensors[1].tolist()
    return max(map(labels.count, set(labels))) / len(labels)


def outcome(groups, rivals, guessing):
    """What both tables say about the runs `groups`, one mapping from seed to series for each stratum."""
    strata = [final(seeds, "val_accuracy") for seeds in groups]
    pairs = [wins(ours, final(theirs, "val_accuracy")) for ours, theirs in zip(strata, rivals, strict=True)]
    best = [max(v for _, v in series["val_accuracy"]) for seeds in groups for series in seeds.values()]
    everything = np.concatenate(strata)
    return {
        "runs": str(everything.size),
        "dead": str(sum(b < 1.5 * guessing for b in best)),
        "validation accuracy": percent(everything.mean()),
        "95 % interval": span(bounds(strata, np.mean)),
        "IQM": percent(middle_half(everything)),
        "IQM interval": span(bounds(strata, middle_half)),
        f"beats {BASELINE}": f"{np.mean(pairs):.0%} ({span(bounds(pairs, np.mean), 0)})",
    }


def expected(found, guessing):
    """The rows of both tables: of each setting, and of each initializer over all depths."""
    settings, overall = [], []
    for (name, depth), seeds in found.items():
        counts = sorted(map(steps, seeds.values()))
        reached = sum(map(math.isfinite, counts))
        loss = np.mean(final(seeds, "train_loss"))
        settings.append(
            {
                "initializer": name,
                "model.depth": str(depth),
                **outcome([seeds], [found[BASELINE, depth]], guessing),
                "steps to 20%": "never" if math.isinf(counts[1]) else str(counts[1]),
                "reached by": f"{reached} of 3",
                "train loss": f"{loss:.3g}",
                "activation variance per layer": factor(seeds, "activation_variance", LAYERS[depth]),
                "gradient norm per layer": factor(seeds, "gradient_norm", LAYERS[depth]),
                "seconds": f"{np.mean(final(seeds, 'final/seconds')):.1f}",
            }
        )
    for name in {name for name, _ in found}:
        groups = [found[name, depth] for depth in LAYERS]
        row = outcome(groups, [found[BASELINE, depth] for depth in LAYERS], guessing)
        overall.append({"initializer": name, "settings": str(len(LAYERS)), **row})
    return settings, overall


def numbers(cell):
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", cell)]


def test_every_number_of_the_page_follows_from_the_event_files(finished_sweep):
    found = runs(finished_sweep)
    shown = [row for row in Cells((finished_sweep / "comparison.html").read_text()).rows if row]
    settings, overall = expected(found, chance())
    assert len(shown) == len(settings) + len(overall)
    for row, table in [(row, overall if "settings" in row else settings) for row in shown]:
        (reference,) = (r for r in table if all(r[k] == row[k] for k in ("initializer", "model.depth") if k in row))
        assert row.keys() == reference.keys()
        for column, cell in row.items():
            # 9,999 draws stand for all that there are; and the last digit is rounded from other floats
            tolerance = 3.0 if "interval" in column or "beats" in column else 0.1 if column == "seconds" else 1e-9
            assert numbers(cell) == pytest.approx(numbers(reference[column]), abs=tolerance), (column, row)
            assert re.sub(r"[\d.]+", "", cell) == re.sub(r"[\d.]+", "", reference[column])
    accuracies = [numbers(row["validation accuracy"])[0] for row in shown if "settings" not in row]
    assert accuracies == sorted(accuracies, reverse=True)


def test_every_alert_on_the_page_is_true(finished_sweep):
    found = runs(finished_sweep)
    alerts = Cells((finished_sweep / "comparison.html").read_text()).items
    assert len(alerts) == 2
    for alert in alerts:
        text = re.match(r"zeros, depth=(\d): step (\d+), (\S+): all units have the same weights", alert)
        depth, step, layer = int(text[1]), int(text[2]), text[3]
        for series in found["zeros", depth].values():
            assert dict(series[f"weight_variance/{layer}"])[step] == 0
            assert step == 0  # what came first, and not what followed from it


def test_the_files_of_a_sweep_are_those_that_the_documentation_names(finished_sweep):
    page = (ROOT / "docs" / "examples.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page[page.index("## The comparison") :], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    files = [file for name in named for file in ([name] if "." in name else [f"{name}.png", f"{name}.svg"])]
    assert len(files) > 15
    assert [file for file in files if not (finished_sweep / file).is_file()] == []
    assert {path.name for path in finished_sweep.iterdir() if path.suffix in (".csv", ".png")} <= set(files)
