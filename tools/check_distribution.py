"""Check the wheel and the source archive in a folder: `make dist`.

Both must hold every file of the package; the source archive also what is needed to read the docs and run the tests.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WITH_SOURCE = ("README.md", "README.ko.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml",
               "constraints.txt", "requirements-data.txt", "tools/check_distribution.py", "tests/conftest.py",
               "docs/tour.md", "benchmarks/cpu.py")  # fmt: skip


def package_files(root: Path = ROOT) -> set[str]:
    """Return the files of the package, relative to the folder that holds it: code, presets, catalogue, page, py.typed."""
    source = root / "src"
    files = (path for path in source.rglob("glassgpt/**/*") if path.is_file())
    return {str(path.relative_to(source)) for path in files if path.parent.name != "__pycache__"}


def missing_from_wheel(wheel: Path, files: set[str]) -> list[str]:
    """Return the files that a wheel lacks."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(files - set(archive.namelist()))


def missing_from_source(archive: Path, files: set[str]) -> list[str]:
    """Return the files that a source archive lacks; its names begin with the folder NAME-VERSION."""
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    return sorted({*(f"src/{file}" for file in files), *WITH_SOURCE} - names)


def check(folder: Path, files: set[str]) -> list[str]:
    """Return a line for each problem of the distributions in a folder."""
    wheels, archives = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(archives) != 1:
        return [f"{folder} has {len(wheels)} wheels and {len(archives)} source archives; it must have one of each"]
    return [
        *(f"{wheels[0].name} lacks {name}" for name in missing_from_wheel(wheels[0], files)),
        *(f"{archives[0].name} lacks {name}" for name in missing_from_source(archives[0], files)),
    ]


if __name__ == "__main__":
    found = check(Path(sys.argv[1]), package_files())
    sys.exit("\n".join(found) or 0)
