"""Ctrl-C leaves no model half written."""

import signal
import threading
from dataclasses import dataclass

import pytest
import torch
from modelling import mlp, same, values
from torch import nn
from torch.nn.utils import parametrizations

from lightning_init import apply, initialize
from lightning_init._interrupts import finished_before_interrupts
from lightning_init.initializers import Normal


@pytest.fixture(autouse=True)
def _interrupts():
    """Ctrl-C as at a terminal: what is started in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(params=[1, 2])
def threads(request, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(apply, "_LARGE", 1)  # every parameter gets a thread
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def interrupted_at(numbers, monkeypatch):
    """Let Ctrl-C come while the parameters of these numbers are written."""
    write_, count = apply._write_, iter(range(100))

    def interrupting_(plan, assignment):
        if next(count) in numbers:
            ctrl_c()
        return write_(plan, assignment)

    monkeypatch.setattr(apply, "_write_", interrupting_)


@pytest.mark.usefixtures("threads")
def test_it_waits_until_everything_is_written(monkeypatch):
    model, expected = mlp(5, 6, 7, 8), mlp(5, 6, 7, 8)
    parametrizations.weight_norm(model[2])
    parametrizations.weight_norm(expected[2])
    initialize(expected, "he_normal", seed=0)
    interrupted_at([3], monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        initialize(model, "he_normal", seed=0)
    assert same(values(model), values(expected))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_takes_back_what_can_fail(monkeypatch):
    @dataclass(frozen=True)
    class Mine(Normal):
        """May take for ever."""

    model = mlp(5, 6, 7, 8)
    before = values(model)
    interrupted_at([1], monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        initialize(model, Mine(), seed=0)
    assert same(values(model), before)


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.usefixtures("threads")
def test_a_second_one_does_not_wait(monkeypatch):
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(9)))
    nn.init.zeros_(model[8].weight)
    interrupted_at([0, 3], monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        initialize(model, "normal", seed=0)
    assert not model[8].weight.any()


def test_handlers_of_others_are_called_and_come_back():
    called = []
    before = signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
    own = signal.getsignal(signal.SIGINT)
    try:
        with finished_before_interrupts():
            ctrl_c()
            assert not called
        assert called == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_in_other_threads_and_where_it_is_ignored_nothing_is_changed(handler):
    def body():
        with finished_before_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    seen = []
    before = signal.signal(signal.SIGINT, handler)
    try:
        if handler is signal.SIG_IGN:
            body()
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert set(seen) == {handler}
