"""A run on an object store: uploaded so that it is complete at every moment, and copied back to any machine.

A checkpoint's manifest is uploaded behind its other files, and `latest` behind all checkpoints; so whoever follows
`latest` finds a complete one, whenever the connection was lost. Copies are verified like any checkpoint before use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.data.remote.store import ObjectStore, WrongURLError
from glassgpt.training.checkpoint_layout import MANIFEST, checkpoint_step, list_checkpoints
from glassgpt.training.run_folder import RunFolder

CHECKPOINT_FILE = re.compile(r"checkpoints/(step-\d+)/[A-Za-z0-9][A-Za-z0-9._-]*")
POINTERS = ("best", "healthy", "latest")
"""In the order in which they are uploaded."""
REMOTE_NAME = "remote.txt"
"""File of a run that holds the URL it is uploaded to."""
Version = tuple[int, int]


def _plain_files(run: RunFolder) -> list[Path]:
    """Return the files of a run beside its checkpoints that belong on the store, in a fixed order."""
    return [
        run.config, run.tokenizer, run.base, run.chat_template, run.drawing, run.metrics, run.abandoned, run.layers,
        run.events, run.curve, run.report,
    ]  # fmt: skip


class RunUpload:
    """Uploads what has changed in a run since it was last called.

    Args:
        run: the run.
        store: where it goes.
    """

    def __init__(self, run: RunFolder, store: ObjectStore) -> None:
        self._run, self._store = run, store
        self._sent: dict[str, Version] = {}
        self._is_known = False

    def missing(self) -> list[str]:
        """Return the names of files that are not on the store in their newest version."""
        return [name for name, path in self._wanted() if self._sent.get(name) != _version(path)]

    def sync(self) -> None:
        """Upload what is missing, pointers last, then delete the checkpoints on the store that were deleted here.

        Raises:
            RemoteError: the store cannot be written, after several attempts; the next call continues.
        """
        self._learn_complete()
        if self._run.exists():
            write_atomically(self._run.path / REMOTE_NAME, self._store.url.encode() + b"\n")
        for name, path in self._wanted():
            if self._sent.get(name) == (version := _version(path)) or version is None:
                continue
            try:
                is_sent = self._send_pointer(path, name) if path.name in POINTERS else self._send(path, name)
            except FileNotFoundError:  # an old checkpoint was deleted here meanwhile
                continue
            if is_sent:
                self._sent[name] = version
        # Only what was here: a folder that lacks a checkpoint for another reason must not delete it there.
        gone = [name for name in self._sent if CHECKPOINT_FILE.fullmatch(name) and not (self._run.path / name).exists()]
        self._store.delete(sorted(gone, key=lambda name: not name.endswith(MANIFEST)))  # what remains is incomplete
        for name in gone:
            del self._sent[name]

    def _send(self, path: Path, name: str) -> bool:
        self._store.upload(path, name)
        return True

    def _send_pointer(self, path: Path, name: str) -> bool:
        """Upload a pointer, unless it names a checkpoint that is not there yet: one that was completed meanwhile."""
        content = read_regular(path)
        if f"checkpoints/{content.decode(errors='replace').strip()}/{MANIFEST}" not in self._sent:
            return False
        self._store.write(name, content)
        return True

    def _wanted(self) -> list[tuple[str, Path]]:
        """Return names on the store and files here, in the order in which to upload them."""
        files = [path for path in _plain_files(self._run) if path.is_file()]
        for checkpoint in list_checkpoints(self._run):
            if (checkpoint / MANIFEST).is_file():
                with suppress(FileNotFoundError):  # an old one that is being deleted
                    files += sorted(checkpoint.iterdir(), key=lambda path: path.name == MANIFEST)
        files += [path for name in POINTERS if (path := self._run.checkpoints / name).is_file()]
        return [(path.relative_to(self._run.path).as_posix(), path) for path in files]

    def _learn_complete(self) -> None:
        """Find out, once, which checkpoints an earlier process uploaded: those whose manifest is the same."""
        if self._is_known:
            return
        stored = self._store.sizes()
        for checkpoint in list_checkpoints(self._run):
            manifest = checkpoint / MANIFEST
            name = f"checkpoints/{checkpoint.name}/{MANIFEST}"
            if name in stored and manifest.is_file() and self._store.read(name) == manifest.read_bytes():
                for path in checkpoint.iterdir():
                    self._sent[f"checkpoints/{checkpoint.name}/{path.name}"] = _version(path) or (0, 0)
        self._is_known = True


def _version(path: Path) -> Version | None:
    """Return what changes when a file does; None if it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def stored_steps(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the names of the files of each complete checkpoint, by step.

    Args:
        names: of all files of a run on a store, such as its `sizes`.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        if match := CHECKPOINT_FILE.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    complete = {name: files for name, files in found.items() if f"checkpoints/{name}/{MANIFEST}" in files}
    return {checkpoint_step(Path(name)): files for name, files in complete.items()}


def download_run(store: ObjectStore, folder: Path, *, named_only: bool = False) -> RunFolder:
    """Copy a run from a store, or what of it is not here yet.

    Args:
        store: the folder of the run.
        folder: of this machine; files there that have another content are replaced.
        named_only: copy the checkpoints that `best`, `healthy` and `latest` name, instead of all.

    Raises:
        WrongURLError: there is no run.
        RemoteError: the store cannot be read.
    """
    run, sizes = RunFolder(folder), store.sizes()
    if run.config.name not in sizes:
        raise WrongURLError(f"there is no run at {store.url}: it lacks {run.config.name}")
    pointers = [name for pointer in POINTERS if (name := f"checkpoints/{pointer}") in sizes]
    steps = stored_steps(sizes)
    if named_only:
        named = {checkpoint_step(Path(store.read(name).decode().strip())) for name in pointers}
        steps = {step: files for step, files in steps.items() if step in named}
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    for _, files in sorted(steps.items()):
        for name in sorted(files, key=lambda name: name.endswith(MANIFEST)):
            _copy(store, name, folder / name, sizes[name])
    config, *others = [path.relative_to(folder).as_posix() for path in _plain_files(run)]
    write_atomically(folder / REMOTE_NAME, store.url.encode() + b"\n")
    for name in (*others, *pointers, config):  # the configuration last: with it, the folder is a run
        if name in sizes:
            _copy(store, name, folder / name, sizes[name], again=True)
    return run


def _copy(store: ObjectStore, name: str, path: Path, size: int, *, again: bool = False) -> None:
    """Copy a file, unless it is here in this size; with `again`, in any case."""
    if not again and path.is_file() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        store.download(name, part, size)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def uploaded_to(run: RunFolder) -> str:
    """Return the URL that a run of this machine was uploaded to or copied from; empty if there is none."""
    marker = run.path / REMOTE_NAME
    return read_regular(marker).decode(errors="replace").strip() if marker.is_file() else ""
