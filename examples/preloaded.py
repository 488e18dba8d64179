"""What the process imports that the workers of a sweep are forked from: all that runs and pictures need.

It starts no thread and leaves the GPU alone, neither of which would survive a fork.
"""

import atexit
import os

from examples.imports import heavy

heavy("examples.job", "examples.compare")

from lightning_init.signals import fast  # noqa: E402  (imported above, while the garbage collector rested)

fast.prepare()  # compiles the monitor's kernel, once for all workers
atexit.register(os._exit, 0)  # ends this process at once; to end in good order it would take torch apart first
