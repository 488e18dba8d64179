"""docs/initializers.md: its table has every name and the settings that they have."""

import re
from pathlib import Path

from lightning_init import calibration, initializers, structural
from lightning_init.auto import Auto

PAGE = Path(__file__).parents[2] / "docs" / "initializers.md"


def _made(text, classes):
    return eval(text if "(" in text else f"{text}()", dict(classes))  # noqa: S307 (our own page)


def rows():
    """The accepted names of each row of the table, and the instances that it says they are."""
    classes = {**vars(structural), **vars(calibration), **vars(initializers), "Auto": Auto}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            names, instances = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:3])
            instances = [one.replace("(...)", "()") for one in instances]
            yield names, [_made(one, classes) for one in instances]


def test_the_table_shows_the_defaults():
    for names, instances in rows():
        found = [initializers.get(name) for name in names]
        assert all(one in instances for one in found), names
        assert all(one in found for one in instances), names


def test_the_table_has_every_name_and_no_other():
    rows = [line.split("|")[1:3] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = [name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == initializers.names()
    classes = {name for _, cell in rows for name in re.findall(r"`(\w+)", cell)}
    assert {type(initializers.get(name)).__name__ for name in named} <= classes | {"Normal"}
