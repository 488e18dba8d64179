"""What the process imports that the workers of a sweep are forked from: all that runs and pictures need.

It starts no thread and leaves the GPU alone, neither of which would survive a fork. It ends with the process that
started it, and its children with it, however that one ends: nothing else would tell them of a SIGKILL. Linux only.
"""

import ctypes
import os
import signal

from examples.imports import for_good, heavy
from examples.launch import PARENT

PR_SET_PDEATHSIG = 1  # linux/prctl.h; what a child inherits of it is nothing


def end_with(parent: int) -> None:
    """Let the system kill this process as soon as `parent` has ended, which may be now."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _forked() -> None:
    """Bind the children of the server to it; what they fork themselves is theirs."""
    global _server
    if _server is not None:
        end_with(_server)
        _server = None


_server: int | None = os.getpid()
os.register_at_fork(after_in_child=_forked)
if PARENT in os.environ:
    end_with(int(os.environ.pop(PARENT)))

with for_good():
    heavy("examples.job", "examples.compare")
    from lightning_init.signals import fast

    fast.prepare()  # compiles the monitor's kernel, once for all workers
