"""The pictures of a comparison, each as PNG and as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from examples import files
from examples.comparison import Comparison
from examples.plots import accuracy_by_depth, depth_profile, final_accuracy, heat_map, learning_curves, overall

KINDS: dict[str, Callable[[Comparison], Figure | None]] = {
    "learning_curves": learning_curves.figure,
    "final_accuracy": final_accuracy.figure,
    "overall": overall.figure,
    "accuracy_by_depth": accuracy_by_depth.figure,
    "depth_profile": depth_profile.figure,
    "depth_profile_end": partial(depth_profile.figure, when="last"),
    "heat_map": heat_map.figure,
}
FORMATS = {"png": {}, "svg": {"metadata": {"Date": None}}}  # without a date: equal runs, equal bytes


def draw(comparison: Comparison, directory: Path) -> list[Path]:
    """Draw everything that the comparison has data for into `directory`; return the PNG files, an SVG beside each.

    Pictures of an earlier comparison that this one has no data for are removed. `joblib.parallel_config` tells how many
    are drawn at once; one, unless it is used.
    """
    names = list(KINDS)[::-1]  # the heat maps take longest
    drawn = Parallel(batch_size=1)(delayed(_draw)(name, comparison, directory) for name in names)
    return [directory / f"{name}.png" for name, any_data in zip(names, drawn, strict=True) if any_data][::-1]


def _draw(name: str, comparison: Comparison, directory: Path) -> bool:
    """Write picture `name` in all formats, or remove it; return whether there were data for it."""
    figure = KINDS[name](comparison)
    if figure is not None:  # the layout takes longest: once for both files
        figure.get_layout_engine().execute(figure)
        figure.set_layout_engine()  # none at all; with "none" each file would be drawn twice
    for suffix, options in FORMATS.items():
        path = directory / f"{name}.{suffix}"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        buffer = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(buffer, format=suffix, **options)
        files.write(path, buffer.getvalue())
    return figure is not None
