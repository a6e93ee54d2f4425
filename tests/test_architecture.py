"""The folders are the ladder: imports between packages go down, and no package has a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A package imports packages of higher lines only, never one beside it; single files stand on the first line.
LADDER = [
    ["_checks", "compiling", "files", "mat_files", "plotting", "records"],
    ["networks"],
    ["approximators"],
    ["steady_state"],
    ["analysis", "certificates", "data"],
    ["training"],
    ["export"],
    ["cli"],
]
FLOOR_OF = {package: floor for floor, packages in enumerate(LADDER) for package in packages}
FILES = set(LADDER[0])
OWNERS = {
    "diffrax": {"steady_state"},
    "optimistix": {"steady_state"},
    "optax": {"training"},
    "safetensors": {"export", "files"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "nir": {"export"},
    "h5py": {"mat_files"},
    "torch": {"export"},
    "matplotlib": {"plotting"},
    "tyro": {"cli"},
}
MOST_PACKAGES = MOST_FILES = 8
MOST_LINES = 330  # of a module


def name_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def names_of(path: Path) -> set[str]:
    """What an `__init__` imports, and thereby offers."""
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a file imports: `from package import module` names the module, unless the name is offered."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = modules.get(node.module)
            offered = names_of(inside) if inside else set()
            names = {f"{node.module}.{alias.name}" for alias in node.names if alias.name not in offered}
            imported |= (names & set(modules)) or {node.module}
    return imported


def circles_of(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"a circle: {' -> '.join(error.args[1])}"]
    return []


def violations(root: Path) -> list[str]:
    """What breaks the rules in a checkout."""
    paths = {f"rnn2ff.{name_of(path, root / 'rnn2ff')}": path for path in sorted((root / "rnn2ff").rglob("*.py"))}
    paths.pop("rnn2ff.__init__", None)
    problems, graph = [], {}
    for module, path in paths.items():
        package = module.split(".")[1]
        if package not in FLOOR_OF:
            problems.append(f"{module} is on no line of the ladder")
            continue
        imports = imports_of(path, paths)
        graph[module] = {imported for imported in imports if imported in paths and imported != module}
        for imported in sorted(imports):
            library, _, rest = imported.partition(".")
            if package not in OWNERS.get(library, {package}):
                problems.append(f"{module} imports {library}, which belongs to {OWNERS[library]}")
            other = rest.partition(".")[0]
            if library != "rnn2ff" or other not in FLOOR_OF or other == package:
                continue
            if FLOOR_OF[other] > FLOOR_OF[package] or (FLOOR_OF[other] == FLOOR_OF[package] and other not in FILES):
                problems.append(f"{module} imports {imported}, which is not below it")
            if "." in rest:
                problems.append(f"{module} imports {imported}, a module inside another package")
    problems += circles_of(graph)
    for folder in ("experiments", "benchmarks"):
        paths = {f"{folder}.{name_of(path, root / folder)}": path for path in sorted((root / folder).rglob("*.py"))}
        graph = {}
        for module, path in paths.items():
            imports = imports_of(path, paths)
            graph[module] = {imported for imported in imports if imported in paths and imported != module}
            inside = sorted(
                imported for imported in imports if imported.startswith("rnn2ff.") and imported.count(".") > 1
            )
            problems += [f"{module} imports {imported}, a module inside a package" for imported in inside]
        problems += circles_of(graph)
    return problems


def test_imports_go_down_the_ladder_and_libraries_stay_with_their_owners():
    assert violations(ROOT) == []


def test_the_library_shows_few_packages_and_few_files_none_of_them_long():
    entries = [entry for entry in (ROOT / "rnn2ff").iterdir() if not entry.name.startswith("__pycache__")]
    assert sum(entry.is_dir() for entry in entries) <= MOST_PACKAGES
    assert sum(entry.suffix == ".py" for entry in entries) <= MOST_FILES
    folders = "rnn2ff", "experiments", "benchmarks"
    lengths = {path: len(path.read_text().splitlines()) for name in folders for path in (ROOT / name).rglob("*.py")}
    assert {name for name, length in lengths.items() if length > MOST_LINES} == set()


@pytest.mark.parametrize(
    ("module", "planted", "message"),
    [
        ("rnn2ff/networks/base.py", "import diffrax", "rnn2ff.networks.base imports diffrax"),
        ("rnn2ff/networks/base.py", "from rnn2ff.training import train", "which is not below it"),
        ("rnn2ff/data/pairs.py", "from rnn2ff.certificates import certify", "which is not below it"),
        ("rnn2ff/analysis/newton.py", "from rnn2ff.networks.base import residual", "a module inside another package"),
        ("rnn2ff/files.py", "from rnn2ff import networks", "which is not below it"),
        ("rnn2ff/utils.py", "", "is on no line of the ladder"),
        ("experiments/one.py", "from rnn2ff.training.loop import train", "a module inside a package"),
    ],
)
def test_a_forbidden_import_is_found(module, planted, message, tmp_path):
    (tmp_path / module).parent.mkdir(parents=True)
    (tmp_path / module).write_text(planted)
    for package in ("networks", "training", "certificates"):
        (tmp_path / "rnn2ff" / package).mkdir(parents=True, exist_ok=True)
        (tmp_path / "rnn2ff" / package / "__init__.py").touch()
    assert any(message in problem for problem in violations(tmp_path))


@pytest.mark.parametrize("folder", ["rnn2ff/networks", "benchmarks"])
def test_a_circle_is_found(folder, tmp_path):
    package = folder.replace("/", ".")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "one.py").write_text(f"from {package}.two import b")
    (tmp_path / folder / "two.py").write_text(f"from {package} import one")
    (tmp_path / folder / "__init__.py").touch()
    assert any("a circle" in problem for problem in violations(tmp_path))


def test_every_public_name_is_where_the_package_says():
    import rnn2ff

    for name in rnn2ff.__all__:
        assert getattr(rnn2ff, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rnn2ff.nothing
