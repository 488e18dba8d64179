"""What the user can put right: shown as one sentence, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake on the command line or in a config; its text names the argument, the rule broken and the fix."""


def unknown(what: str, name: str, choices: Iterable[str]) -> UsageError:
    """Return the error for a `name` that is not among `choices`, with the closest ones first."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
    return UsageError(f"unknown {what} '{name}': {hint}")


def check_target(target: float | None) -> None:
    """Raise UsageError for a target that is no accuracy; None is one that is chosen later."""
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"target={target} is impossible: an accuracy is a fraction in (0, 1]")
