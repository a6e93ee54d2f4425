"""Imports point down only, and each solver library is imported by its owner alone."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rnn2ff"

COMMANDS = ["networks", "solve", "fixed_points", "distill", "evaluate", "certify", "export", "bench", "demo"]

# A module may import modules of lower floors; within a floor, only along the order of this list.
FLOORS = [
    ["_checks"],
    [
        "files",
        "timing",
        "compiling",
        "networks.base",
        "networks.identity",
        "networks.rate",
        "networks.threshold_linear",
        "networks.structured",
        "networks.rings",
        "networks.models",
        "networks.cells",
        "networks",
    ],
    ["sweeps", "spectra", "supports"],
    ["approximators"],
    [
        "steady_state.method",
        "steady_state.base",
        "steady_state.field",
        "steady_state.tiles",
        "steady_state.stability",
        "steady_state.rollout",
        "steady_state.root_find",
        "steady_state.anderson",
        "steady_state.active_set",
        "steady_state.batch",
        "steady_state.motion",
        "steady_state.implicit",
        "steady_state.hard",
        "steady_state.solve",
        "steady_state",
    ],
    [
        "stability",
        "newton",
        "audit",
        "fixed_points",
        "certifier",
        "local_bound",
        "certificates",
        "refinement",
        "serving",
    ],
    ["stimuli", "datasets", "storage"],
    [
        "losses",
        "mixing",
        "symmetries",
        "boundaries",
        "initialization",
        "optimizers",
        "training",
        "evaluation",
        "discontinuity",
    ],
    [
        "escalation",
        "distillation",
        "plotting",
        "records",
        "export.extras",
        "export.plain",
        "export.card",
        "export.archive",
        "export.onnx",
        "export.fixed_point",
        "export.c",
        "export.stablehlo",
        "export.torch",
        "export.nir",
        "export.page",
        "export",
    ],
    ["cli.options", *(f"cli.{command}" for command in COMMANDS), "cli", "cli.__main__"],
]
ORDER = [module for floor in FLOORS for module in floor]
OWNERS = {
    "diffrax": {"steady_state.rollout", "steady_state.motion"},
    "optimistix": {"steady_state.root_find", "steady_state.anderson"},
    "optax": {"optimizers", "training"},
    "safetensors": {"export.archive", "export.torch", "files"},
    "onnx": {"export.onnx"},
    "onnxruntime": {"export.onnx"},
    "nir": {"export.nir"},
    "torch": {"export.torch"},
    "matplotlib": {"plotting"},
    "tyro": {"cli", "cli.options", *(f"cli.{command}" for command in COMMANDS)},
}


def name_of(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        module = name_of(path, package)
        if module == "__init__":
            continue
        if module not in ORDER:
            found.append(f"{module} has no floor")
            continue
        for imported in imports_of(path):
            library = imported.partition(".")[0]
            if module not in OWNERS.get(library, {module}):
                found.append(f"{module} imports {library}, which belongs to {OWNERS[library]}")
            below = imported.removeprefix("rnn2ff.")
            if library == "rnn2ff" and below in ORDER and ORDER.index(below) >= ORDER.index(module):
                found.append(f"{module} imports {below}, which is not below it")
    return found


def test_imports_point_down_and_libraries_stay_with_their_owners():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "planted", "message"),
    [
        ("networks/base.py", "import diffrax", "networks.base imports diffrax"),
        ("networks/base.py", "from rnn2ff.training import train", "which is not below it"),
        ("networks/base.py", "from rnn2ff.networks import structured", "which is not below it"),
        ("steady_state/rollout.py", "import rnn2ff.steady_state.solve", "which is not below it"),
        ("utils.py", "", "utils has no floor"),
    ],
)
def test_a_forbidden_import_is_found(module, planted, message, tmp_path):
    (tmp_path / module).parent.mkdir(exist_ok=True)
    (tmp_path / module).write_text(planted)
    assert any(message in each for each in violations(tmp_path))


def test_every_public_name_is_where_the_package_says():
    import rnn2ff

    for name in rnn2ff.__all__:
        assert getattr(rnn2ff, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rnn2ff.nothing
