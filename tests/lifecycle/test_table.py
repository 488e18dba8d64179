"""The table in docs/lifecycle.md names tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "lifecycle.md"


def test_every_test_in_the_table_exists():
    file, found = None, 0
    for name, test in re.findall(r"`((?:tests/callbacks/)?\w+\.py)?(?:::(test_\w+))?`", PAGE.read_text()):
        file = (ROOT if "/" in name else HERE) / name if name else file
        if file is not None and (name or test):
            assert file.exists(), name
            assert not test or f"def {test}(" in file.read_text(), test
            found += 1
    assert found > 20
