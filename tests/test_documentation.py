"""What the documents show is what the code does."""

import doctest
import re
from pathlib import Path

import pytest

from benchmarks import reports

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", list(reports.MODELS))
def test_the_reports_are_those_that_the_command_writes(name):
    """Up to the last digit of an achieved std: that depends on how the CPU sums."""
    shown, printed = ((reports.FOLDER / f"{name}.txt").read_text(), reports.report(name))
    decimal = re.compile(r"\d+\.\d+")
    assert decimal.sub("#", shown) == decimal.sub("#", printed)
    numbers = [[float(one) for one in decimal.findall(text)] for text in (shown, printed)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_print_what_they_show(page):
    assert doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS).failed == 0
