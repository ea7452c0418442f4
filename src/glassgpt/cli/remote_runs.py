"""Runs on object stores, for commands that take the folder of a run: where it is on this machine. Free of torch."""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt import console
from glassgpt.data.remote.store import ObjectStore, remote_url
from glassgpt.errors import UsageError

if TYPE_CHECKING:
    from glassgpt.training.observers import Observer


def training_folder(out: Path, *, resume: bool, is_first: bool = True) -> tuple[Path, ObjectStore | None]:
    """Return the folder of this machine to train in for `--out`, and the store to upload to, if it is a URL.

    With `resume` the run is copied there from the store, unless what is here is newer. Of several processes only the
    first copies and uploads.

    Raises:
        UsageError: the store has a run already, and it is not resumed; or the folder here is another run.
        RemoteError: the store cannot be read.
    """
    url = remote_url(out)
    if url is None:
        return out, None
    from glassgpt.training.checkpoint_layout import checkpoint_step, list_checkpoints
    from glassgpt.training.remote_run import download_run, stored_steps, uploaded_to
    from glassgpt.training.run_folder import RunFolder

    store, run = ObjectStore(url), RunFolder(Path("runs") / url.rpartition("/")[2])
    if not is_first:
        return run.path, None
    stored = store.sizes()
    is_there = run.config.name in stored
    if is_there and not resume:
        raise UsageError(f"{url} holds a run already; resume it with --resume, or choose another --out")
    if resume and run.exists() and uploaded_to(run) != url:
        raise UsageError(f"{run.path} is not a copy of {url}; move it away, or resume it with --out {run.path}")
    if resume and (is_there or not run.exists()):
        here = [checkpoint_step(path) for path in list_checkpoints(run)]
        if not here or max(stored_steps(stored), default=0) > here[-1]:
            console.info(f"copying {url} to {run.path}")
            download_run(store, run.path)
    return run.path, store


@contextmanager
def uploading(folder: Path, store: ObjectStore | None) -> Generator[tuple[Observer, ...]]:
    """Upload the run in a folder while it is trained within a `with` block, and what is left behind it.

    Yields:
        The observers that a trainer needs for this.
    """
    if store is None:
        yield ()
        return
    from glassgpt.training.remote_run import RunUpload
    from glassgpt.training.run_folder import RunFolder
    from glassgpt.training.upload import BackgroundUpload

    run = RunFolder(folder)
    upload = BackgroundUpload(RunUpload(run, store), console.warn)
    try:
        yield (upload,)
    finally:
        if run.exists():
            console.info(f"uploading what is left to {store.url}")
        missing, problem = upload.finish()
        if missing:
            console.warn(
                f"{len(missing)} files of {folder} are not at {store.url}, the first is {missing[0]} ({problem}); "
                f"upload them with: glassgpt train --resume --out {shlex.quote(store.url)}"
            )
        elif run.exists():
            console.info(
                f"the run is at {store.url}; resume it on any machine with: glassgpt train --resume --out {shlex.quote(store.url)}"
            )


def copied_run(url: str) -> Path:
    """Return a folder of this machine with the best and the newest checkpoint of a run on an object store.

    Raises:
        RemoteError: there is no run, or it cannot be read.
    """
    from glassgpt.data.remote.mirror import cache_folder
    from glassgpt.training.remote_run import download_run

    return download_run(ObjectStore(url), cache_folder("runs", url), named_only=True).path
