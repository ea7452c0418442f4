"""Compile the C kernels of this package with the machine's compiler, once, and load them.

PyTorch has no fast product with 4-bit weights on x86 for several vectors (docs/log.md), so there is one in C. It is compiled
when it is first needed, which takes a second, and kept in the user's cache folder under the checksum of its source and
command. Without a compiler, or on another processor, callers get None and use a slower kernel.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-fPIC", "-fno-math-errno", "-Wno-psabi")
OPENMP = ("-fopenmp",)
COMPILE_SECONDS = 120


def cache_folder() -> Path:
    """Return the folder for compiled kernels, which need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "glassgpt" / "kernels"


@functools.cache
def load_library(name: str) -> ctypes.CDLL | None:
    """Return the compiled library of `NAME.c`, or None if it cannot be compiled or loaded here."""
    compiler = _compiler()
    if compiler is None:
        return None
    for openmp in (OPENMP, ()):  # without threads if the compiler has none, or not those that PyTorch has loaded
        library = _compile_and_load(SOURCES / f"{name}.c", [compiler, *FLAGS, *openmp])
        if library is not None:
            return library
    return None


def _compiler() -> str | None:
    candidates = (os.environ.get("CC", ""), *COMPILERS)
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def _compile_and_load(source: Path, command: list[str]) -> ctypes.CDLL | None:
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.c")))  # one may include another
    key = hashlib.sha256(sources + "\0".join(command).encode()).hexdigest()[:32]
    target = cache_folder() / f"{source.stem}-{key}.so"
    try:
        if not is_mine(target):
            target = _compile(source, command, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None


def is_mine(file: Path) -> bool:
    """Return whether a file of the cache exists that nobody else can have written."""
    try:
        states = [os.lstat(path) for path in (file.parent, file)]
    except OSError:
        return False
    return all(state.st_uid == os.getuid() and not state.st_mode & 0o022 for state in states)


def _compile(source: Path, command: list[str], target: Path) -> Path:
    """Compile a source file to `target`, or, if its folder cannot be written, to a temporary folder.

    Raises:
        OSError: nothing can be written.
        subprocess.SubprocessError: the compiler failed.
    """
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(target.parent, 0o700)
        folder = Path(tempfile.mkdtemp(dir=target.parent))
    except OSError:
        folder = Path(tempfile.mkdtemp())
        target = folder / target.name
    try:
        built, made = folder / "kernel.o", folder / "kernel.so"
        # Linked without OpenMP: PyTorch has loaded the library that provides it, and a second one would have threads of its own.
        for line in (
            [*command, "-c", str(source), "-o", str(built)],
            [command[0], "-shared", str(built), "-o", str(made)],
        ):
            subprocess.run(line, check=True, capture_output=True, timeout=COMPILE_SECONDS, stdin=subprocess.DEVNULL)
        made.chmod(0o700)
        os.replace(made, target)
        built.unlink()
    finally:
        if folder != target.parent:
            shutil.rmtree(folder, ignore_errors=True)
    return target
