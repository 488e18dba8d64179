"""The comparison as one HTML file that needs nothing else: no network, no scripts, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from examples import tables
from examples.comparison import Comparison

TEMPLATE = Path(__file__).with_name("page.html.j2")


def html(comparison: Comparison, pictures: Sequence[Path]) -> str:
    """Return `comparison.html`: the table, how to read it, what was noticed, and the pictures."""
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text())
    return template.render(
        title=f"Comparison: {comparison.subject}".removesuffix(": "),
        tables={"": tables.readable(comparison), "Over all settings": tables.overall(comparison)},
        keys=comparison.keys,
        legend=tables.LEGEND,
        notes=[*comparison.notes, *tables.warnings(comparison)],
        pictures=[(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in pictures],
    )
