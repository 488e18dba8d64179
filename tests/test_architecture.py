"""Imports run one way; only the callbacks know Lightning; nothing in the package knows Hydra (DESIGN, section 4)."""

import ast
import re
import sys
from pathlib import Path

import pytest

import lightning_init

PACKAGE = Path(lightning_init.__file__).parent
# Each may import what stands in the layers before it, and its own.
LAYERS = [
    {"_suggest", "_names", "_running", "_interrupts", "kernels"},
    {"nonlinearities", "_evaluation", "_quadrature", "_roots"},
    {"fans", "gains"},
    {"mean_field"},
    {"theory"},
    {"initializers"},
    {"placement", "tracing"},
    {"report", "rules", "parameter_roles"},
    {"assignment", "options"},
    {"plan"},
    {"apply"},
    {"calibration"},
    {"functional"},
    {"auto"},
    {"signals"},
    {"structural"},
    {"event_writer"},
    {"diagnosis"},
    {"callbacks"},
    {"__init__"},
]
CORE = {"torch", "lightning", "tensorboard", "numpy", "typing_extensions", "google"}  # google: tensorboard's protobuf
OPTIONAL = {"kernels": {"numba", "llvmlite"}}  # loaded by name, where Numba is installed
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Every dotted name that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        yield from _names(node)


def _names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_every_file_has_its_layer():
    assert {part(path) for path in FILES} <= set().union(*LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    level = next(i for i, layer in enumerate(LAYERS) if part(path) in layer)
    allowed = set().union(*LAYERS[: level + 1])
    for name in imported(path):
        root, *rest = name.split(".")
        if root == "lightning_init":
            assert rest[0] in allowed, f"{name} is above {path.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_importing_needs_only_the_core_dependencies(path):
    top = ast.Module([n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    names = {name for node in top.body for name in _names(node)}
    extra = OPTIONAL.get(part(path), set())
    assert {name.split(".")[0] for name in names} <= CORE | extra | {"lightning_init"} | sys.stdlib_module_names
    assert part(path) == "kernels" or not any(name.startswith("lightning_init.kernels.") for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_callbacks_import_lightning_and_nothing_imports_hydra(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"hydra", "omegaconf"}
    if part(path) != "callbacks":
        assert not roots & {"lightning", "pytorch_lightning"}


SUPPRESSIONS = [
    (r"# noqa(?!: [A-Z]+\d+(, [A-Z]+\d+)* +[(\w-])", "a code and a reason"),
    (
        r"# type: ?ignore(?!\[(no-untyped-call|import-untyped)\]|\[[a-z-]+\] +# )",
        "a code and, unless torch is untyped, a reason",
    ),
]


@pytest.mark.parametrize(("pattern", "wanted"), SUPPRESSIONS, ids=["noqa", "type"])
def test_what_is_suppressed_has_a_reason_beside_it(pattern, wanted):
    folders = (PACKAGE, PACKAGE.parent / "examples", PACKAGE.parent / "benchmarks", PACKAGE.parent / "tests")
    lines = [
        f"{path.name}:{number}: {line.strip()}"
        for folder in folders
        for path in folder.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line) and path != Path(__file__)
    ]
    assert lines == [], f"wants {wanted}"
