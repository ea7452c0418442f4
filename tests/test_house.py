"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import glassgpt

SOURCE = Path(glassgpt.__file__).parent
# In the order of the data's way: a room may import itself and the rooms before it.
ROOMS = ["data", "model", "training", "generation", "evaluation", "diagnosis", "inspection", "interchange", "serving"]
GROUND = {"errors", "console"}
SEE_EVERYTHING = {"config", "cli", "api", "demo", "__init__", "__main__"}


def imported_parts(path: Path) -> set[str]:
    """First part below `glassgpt` of everything that a file imports, at its top or inside functions."""
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "glassgpt":
            below = node.module.split(".")[1:]
            parts |= {below[0]} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts |= {name.name.split(".")[1] for name in node.names if name.name.startswith("glassgpt.")}
    return parts


def room_files() -> list[Path]:
    return sorted(path for room in ROOMS for path in (SOURCE / room).rglob("*.py"))


@pytest.mark.parametrize("path", room_files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_downward_only(path):
    room = path.relative_to(SOURCE).parts[0]
    allowed = GROUND | set(ROOMS[: ROOMS.index(room) + 1])
    assert imported_parts(path) <= allowed


def imported_files(path: Path) -> set[str]:
    """Every module of ours that a file imports from, at its top or inside functions, for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("glassgpt."):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_circles_within_a_room():
    names = {".".join(("glassgpt", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in room_files()}
    waiting = {name: imported_files(path) & names.keys() for name, path in names.items()}
    while ready := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}
    assert waiting == {}


def test_the_ground_floor_imports_nothing_of_ours():
    for name in GROUND:
        assert imported_parts(SOURCE / f"{name}.py") == set()


def test_every_file_is_in_a_room_or_named():
    top = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {
        *ROOMS
    }
    assert top == GROUND | SEE_EVERYTHING
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - SEE_EVERYTHING <= {*ROOMS, "configs", "settings"}


@pytest.mark.parametrize(
    "code",
    [
        "import glassgpt",
        "import glassgpt; glassgpt.load_config('nano')",
        "import glassgpt; glassgpt.data.load_tokenizer('bytes')",
        "from glassgpt.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from glassgpt.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
        "from glassgpt.cli import main\ntry: main(['train', 'no-preset', '--data', 'x'])\nexcept SystemExit: pass",
    ],
)
def test_torch_stays_out(code):
    check = "\nimport sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code + check], stdout=subprocess.DEVNULL).returncode == 0


def test_what_is_exported_is_there():
    for name in glassgpt.__all__:
        assert getattr(glassgpt, name) is not None
    assert set(dir(glassgpt)) == set(glassgpt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = glassgpt.nothing
