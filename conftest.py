"""Which files pytest leaves alone: those that import what is not installed here (`pip install -e '.[sweeps]'`)."""

from importlib.util import find_spec

NEEDS = {"ray": "examples/sturdy_ray.py", "submitit": "examples/sturdy_submitit.py"}
collect_ignore = [file for package, file in NEEDS.items() if find_spec(package) is None]
