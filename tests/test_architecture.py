"""The rules of DESIGN.md's structure that a machine can check."""

import ast
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import glassgpt

SOURCE = Path(glassgpt.__file__).parent
# In the order in which data flows: a package may import itself and the packages before it.
PACKAGES = [
    "data", "model", "training", "generation", "evaluation", "code", "diagnosis", "sweep", "inspection", "adaptation", "compression",
    "interchange", "retrieval", "multimodal", "serving", "learn",
]  # fmt: skip
BASE_MODULES = {"errors", "console", "device", "lazy", "openmp", "plugin"}
BASE_PACKAGES = {"locale", "schema"}
TOP_LEVEL = {"config", "cli", "api", "demo", "__init__", "__main__"}


@cache
def imports(path: Path) -> list[ast.stmt]:
    """Return the import statements of a file, at its top or inside functions."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported_parts(path: Path) -> set[str]:
    """Return the subpackages of `glassgpt` that a file imports, at its top or inside functions."""
    parts: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "glassgpt":
            below = node.module.split(".")[1:]
            parts |= {below[0]} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts |= {name.name.split(".")[1] for name in node.names if name.name.startswith("glassgpt.")}
    return parts


def package_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (SOURCE / package).rglob("*.py"))


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_packages_import_only_packages_before_them(path):
    package = path.relative_to(SOURCE).parts[0]
    allowed = BASE_MODULES | BASE_PACKAGES | set(PACKAGES[: PACKAGES.index(package) + 1])
    assert imported_parts(path) <= allowed


def imported_files(path: Path) -> set[str]:
    """Return every module of ours that a file imports from, at its top or inside functions, for types too."""
    found: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("glassgpt."):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_modules_of_a_package_have_no_import_cycles():
    names = {".".join(("glassgpt", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in package_files()}
    waiting = {name: imported_files(path) & names.keys() for name, path in names.items()}
    while ready := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}
    assert waiting == {}


def test_base_modules_import_nothing_but_errors():
    for name in BASE_MODULES:
        assert imported_parts(SOURCE / f"{name}.py") <= {"errors"}
    for name in BASE_PACKAGES:
        for path in (SOURCE / name).rglob("*.py"):
            assert imported_parts(path) <= {"errors", name}


def test_every_module_is_a_package_a_base_module_or_top_level():
    modules = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert modules - {*PACKAGES} == BASE_MODULES | BASE_PACKAGES | TOP_LEVEL
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - TOP_LEVEL <= {*PACKAGES, *BASE_PACKAGES, "configs"}


@pytest.mark.parametrize(
    "code",
    [
        "import glassgpt, glassgpt.api",
        "import glassgpt; glassgpt.load_config('nano')",
        "import glassgpt; glassgpt.data.load_tokenizer('bytes')",
        "from glassgpt.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from glassgpt.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
        "from glassgpt.cli import main\ntry: main(['train', 'no-preset', '--data', 'x'])\nexcept SystemExit: pass",
    ],
)
def test_torch_is_not_imported(code):
    check = "\nimport sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code + check], stdout=subprocess.DEVNULL).returncode == 0


def test_preparing_text_imports_only_what_it_needs():
    """Each of these took 5 to 30 ms of a start-up of 300: servers, mail headers, settings of generation."""
    code = "import sys, glassgpt.cli.data, glassgpt.data.show; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "glassgpt.data.preparation" in imported
    assert set(imported) & {"torch", "http.client", "email.parser", "glassgpt.generation"} == set()


@pytest.mark.skipif(find_spec("fla") is not None, reason="the kernels of linear attention are marked for the compiler")
def test_compiler_is_not_imported_before_it_is_used():
    code = "import sys, glassgpt.training.loop; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_exported_names_exist():
    for name in glassgpt.__all__:
        assert getattr(glassgpt, name) is not None
    assert set(dir(glassgpt)) == set(glassgpt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = glassgpt.nothing
