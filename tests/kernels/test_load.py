"""Kernels are loaded where Numba works; where it does not, nobody is stopped by it."""

import sys
from unittest.mock import Mock

import pytest

from lightning_init import kernels


@pytest.mark.parametrize("error", [ImportError("Numba needs NumPy 1"), OSError("libllvmlite.so is missing")])
def test_a_numba_that_does_not_work_is_told_of_and_done_without(monkeypatch, error):
    monkeypatch.setattr("importlib.import_module", Mock(side_effect=error))
    with pytest.warns(UserWarning, match=f"Numba cannot be used.*{error}"):
        assert kernels.load.__wrapped__("moments") is None


def test_a_numba_that_is_told_not_to_compile_is_done_without(monkeypatch):
    config = pytest.importorskip("numba").config
    monkeypatch.setattr(config, "DISABLE_JIT", True)
    for name in [name for name in sys.modules if name.startswith("lightning_init.kernels.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(UserWarning, match="Numba cannot be used.*NUMBA_DISABLE_JIT is set"):
        assert kernels.load.__wrapped__("moments") is None


def test_without_numba_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kernels.load.__wrapped__("moments") is None


def test_a_kernel_that_cannot_be_kept_on_disk_is_compiled_all_the_same(monkeypatch):
    memory = pytest.importorskip("lightning_init.kernels.memory")

    def njit(signature, *, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (signature, function)

    monkeypatch.setattr(memory, "njit", njit)
    assert memory.compiled("void()")(len) == ("void()", len)
