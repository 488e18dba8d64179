"""What takes seconds to import is imported once, without the garbage collector, and survives a fork."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from examples import imports

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that notes whether the garbage collector was at work while it was imported."""
    (tmp_path / "brought.py").write_text("import gc\nCOLLECTED = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brought", raising=False)
    yield "brought"
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize("switch", [gc.enable, gc.disable])
def test_the_garbage_collector_rests_during_imports_and_then_is_as_it_was(module, switch):
    switch()
    before = gc.isenabled()
    imports.heavy(module)
    assert not sys.modules[module].COLLECTED
    assert gc.isenabled() == before


def test_what_comes_after_the_imports_is_collected(module):
    class Node:
        pass

    for _ in range(2):  # the second time nothing is left to import, and nothing more is kept
        imports.heavy(module)
        node = Node()
        node.itself, gone = node, weakref.ref(node)
        imports.heavy(module)
        del node
        gc.collect()
        assert gone() is None


def test_the_process_that_is_forked_has_one_thread_and_no_gpu():
    """A thread of it would be missing in its children; CUDA cannot be used in children of a process that used it."""
    script = (
        "import json, os, examples.preloaded, sys, torch; sys.stdout.write(json.dumps("
        "[len(os.listdir('/proc/self/task')), torch.cuda.is_initialized(), 'lightning_init' in sys.modules])); "
        "sys.stdout.flush()"
    )
    if not Path("/proc/self/task").is_dir():
        pytest.skip("there is no /proc to look into")
    environment = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PATH": ""}  # as `launch` sets it
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, False, True]
