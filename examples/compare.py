"""Compare finished runs: python -m examples.compare DIR...

Writes runs.csv, comparison.csv, comparison.md, comparison.html, the plots and, for TensorBoard, a run `aggregate` into
the first DIR; overall.csv too where more than initializers and seeds were swept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from examples import aggregate, files, page, plots, progress, tables
from examples import comparison as comparison_
from examples.comparison import Comparison
from examples.errors import UsageError


def write(
    directories: Sequence[Path], *, baseline: str | None = None, target: float | None = None
) -> tuple[Comparison, list[Path]]:
    """Compare the runs below `directories`, write everything into the first, and return what was written."""
    comparison = comparison_.compare(directories, baseline=baseline, target=target)
    place = directories[0]
    with files.alone(place):
        return comparison, _write(comparison, place)


def _write(comparison: Comparison, place: Path) -> list[Path]:
    pictures = plots.draw(comparison, place)
    contents = {
        "runs.csv": comparison.runs.to_csv(index=False),
        "comparison.csv": comparison.table.to_csv(index=False),
        "comparison.md": tables.page(comparison, [picture.name for picture in pictures]),
        "comparison.html": page.html(comparison, pictures),
    }
    if len(comparison.overall):
        contents["overall.csv"] = comparison.overall.to_csv(index=False)
    else:
        (place / "overall.csv").unlink(missing_ok=True)
    for name, content in contents.items():
        files.write(place / name, content)
    aggregate.write(comparison, place)
    return [*(place / name for name in contents), *pictures]


def show(comparison: Comparison, files: Sequence[Path], directory: Path) -> None:
    """Print the table, the notes, the files and how to go on in TensorBoard."""
    console = Console(highlight=False)
    table = tables.terminal(comparison)
    console.print()
    console.print(table, width=max(console.width, console.measure(table).minimum), crop=False)
    if len(comparison.overall):
        overall = tables.markdown(tables.overall(comparison))
        console.print(f"\nover all settings\n{overall}\n", markup=False, soft_wrap=True)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for warning in tables.warnings(comparison):
        console.print(f"monitor: {warning}", markup=False, soft_wrap=True)
    for file in files:
        console.print(f"written: {file}", markup=False, soft_wrap=True)
    console.print(progress.inspection(directory), markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="output of runs or of sweeps")
    parser.add_argument("--baseline", metavar="INITIALIZER", help="also tell how probably each setting beats this one")
    parser.add_argument("--target", type=float, metavar="ACCURACY", help="count the steps to this fraction")
    options = parser.parse_args(arguments)
    try:
        written = write(options.directories, baseline=options.baseline, target=options.target)
        show(*written, options.directories[0])
    except UsageError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
