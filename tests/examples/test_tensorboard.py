"""A real TensorBoard in a real browser: the runs, the charts and the numbers of a small sweep are there."""

import json
import os
import re
import subprocess
import sys

import pytest
from browser import CHROMIUM, Browser

from examples.result import Result

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")
ONCE = ["--load_fast=false", "--reload_task=blocking", "--reload_interval=0"]  # everything is read before it serves


@pytest.fixture(scope="module")
def sweep(finished_sweep):
    return finished_sweep


@pytest.fixture(scope="module")
def board(sweep):
    """The address of a TensorBoard that shows the sweep."""
    tensorboard = [sys.executable, "-m", "tensorboard.main", "--logdir", sweep, "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen([*tensorboard, *ONCE], stderr=subprocess.PIPE, text=True, env=environment)
    addresses = (re.search(r"http://127.0.0.1:\d+", line) for line in process.stderr)
    yield next(filter(None, addresses)).group()
    process.terminate()
    process.wait(60)
    process.stderr.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def results(sweep):
    return {file.parent.name: Result.read(file.parent) for file in sweep.glob("*/result.json")}


def test_hparams_shows_the_settings_and_real_metrics(browser, board, sweep):
    runs = results(sweep)
    assert len(runs) == 12
    browser.open(f"{board}/#hparams")
    accuracies = [f" {result.last('val_accuracy'):#.5g} " for result in runs.values()]
    text = browser.wait_for("final/val_accuracy", "model.depth", "he_normal", "zeros", *runs, *accuracies)
    assert "hp_metric" not in text
    assert "-1.0000" not in text
    assert "Number of matching session groups: 12" in text


def test_custom_scalars_draws_signals_and_margins(browser, board, sweep):
    browser.open(f"{board}/#custom_scalars")
    text = browser.wait_for(
        "signals", "weight_variance", "activation_variance", "gradient_norm",
        "mean and 95 % interval over seeds", "validation accuracy", "training loss", *["Matches (4)"] * 3,
        "aggregate/he_normal, depth=2", "aggregate/zeros, depth=3", *results(sweep),
    )  # fmt: skip
    assert text.count("Matches (4)") == 3  # each margin chart has a band for each of four settings


def test_the_margins_are_mean_and_interval_over_seeds(browser, board, sweep):
    browser.open(f"{board}/#custom_scalars")
    for depth in (2, 3):
        finals = [
            result.history["val_accuracy"]
            for name, result in results(sweep).items()
            if result.initializer == "he_normal" and result.config["model.depth"] == depth
        ]
        for part, value in (("mean", lambda v: sum(v) / 3), ("lower", min), ("upper", max)):
            query = f"run=aggregate/he_normal, depth={depth}&tag=val_accuracy/{part}"
            points = browser.evaluate(f"fetch(encodeURI({json.dumps(f'{board}/data/plugin/scalars/scalars?{query}')}))"
                                      ".then(answer => answer.json())")  # fmt: skip
            assert [point[1] for point in points] == [16, 32]  # 512 samples in batches of 32
            assert [point[2] for point in points] == pytest.approx(
                [value(epoch) for epoch in zip(*finals, strict=True)]
            )


def test_scalars_groups_each_signal(browser, board):
    browser.open(f"{board}/#scalars")
    groups = ["activation_variance", "gradient_norm", "weight_variance", "val_accuracy"]
    text = browser.wait_for(*groups, "aggregate/zeros, depth=2")
    assert all(group in text for group in groups)


def test_the_page_of_the_comparison_fits_a_phone(browser, sweep):
    browser.open((sweep / "comparison.html").as_uri())
    browser.wait_for("Comparison: mlp on digits")
    for width in (1400, 390):
        browser._send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        # letters of 10 points at 150 dots per inch are 21 dots high in a picture of 8 inches
        assert browser.evaluate("Math.min(...[...document.images].map(i => i.width / i.naturalWidth * 21))") > 9
    browser._send("Emulation.clearDeviceMetricsOverride")
