"""Folders of pictures and sounds: the text of each is in a file beside it, or is the name of its folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.json_rows import require_characters
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.walk import leads_out, walk
from glassgpt.errors import DataError, WrongDataError
from glassgpt.multimodal import audio_files, image_files
from glassgpt.multimodal.media import MODALITIES, Modality
from glassgpt.multimodal.sources import MediaSource, SourceDocument, SourceTurn

SUFFIXES: dict[Modality, tuple[str, ...]] = {"image": image_files.SUFFIXES, "audio": audio_files.SUFFIXES}
CAPTION_SUFFIXES = (".txt", ".TXT")
CAPTION_BYTES = 1 << 20
REPORTED_SUFFIXES = 3


def modality_of(path: Path) -> Modality | None:
    """Return what a file should be by its suffix, or None."""
    suffix = path.suffix.lower()
    return next((modality for modality in MODALITIES if suffix in SUFFIXES[modality]), None)


def read_folder(
    folder: Path, bad_rows: BadRows, observer: PrepareObserver, *, follow_links: bool
) -> Iterator[SourceDocument]:
    """Yield a document for each picture or sound in a folder; those of one name are one document.

    `x.png` has the text in `x.txt` beside it, or without one, the name of the folder that it is in.

    Args:
        folder: the folder; in itself, files without a text have no label.
        bad_rows: receives the files that cannot be used.
        observer: is told about files of other kinds.
        follow_links: follow links that lead out of the folder.

    Raises:
        WrongDataError: it has no picture and no sound.
        DataError: a folder cannot be read, or there are too many bad files.
    """
    groups = _groups(folder, observer, follow_links=follow_links)
    for stem, members in groups.items():
        media = sorted(members, key=lambda path: (MODALITIES.index(modality_of(path) or "audio"), path))
        origin = str(media[0])
        try:
            text = _text(stem, folder, follow_links=follow_links)
        except DataError as error:
            bad_rows.skip(origin, error)
            continue
        sources = tuple(MediaSource(modality_of(path) or "audio", path) for path in media)
        yield SourceDocument((SourceTurn(sources, learned=False), SourceTurn((text,))), origin)


def _groups(folder: Path, observer: PrepareObserver, *, follow_links: bool) -> dict[Path, list[Path]]:
    """Return the media of a folder by their path without suffix, in order."""
    groups: dict[Path, list[Path]] = {}
    ignored: Counter[str] = Counter()
    links = 0
    for path, is_hidden in walk(folder, follow_links):
        if is_hidden or not path.is_file():
            continue
        if path.is_symlink() and not follow_links and leads_out(path, folder):
            links += 1
        elif modality_of(path) is not None:
            groups.setdefault(path.with_suffix(""), []).append(path)
        elif path.suffix not in CAPTION_SUFFIXES:
            ignored[path.suffix] += 1
    if links:
        observer.on_note(
            f"links that lead out of {folder} are not followed: {links:,}; follow them with --follow-links"
        )
    if not groups:
        raise WrongDataError(
            f"{folder} contains no picture ({', '.join(image_files.SUFFIXES)}) and no sound ({', '.join(audio_files.SUFFIXES)})"
        )
    if rows := ignored.pop(".jsonl", 0):
        observer.on_note(f"rows in {folder} are not read: {rows:,} .jsonl; name each of these files as a source")
    if ignored:
        suffixes = ", ".join(suffix for suffix, _ in ignored.most_common(REPORTED_SUFFIXES) if suffix)
        observer.on_note(f"files of other types in {folder} are not read: {ignored.total():,} ({suffixes})")
    return dict(sorted(groups.items()))


def _text(stem: Path, folder: Path, *, follow_links: bool) -> str:
    """Return the text of the media with a path without suffix.

    Raises:
        DataError: it has none, it cannot be read, or it is outside of the folder.
    """
    captions = [stem.with_name(stem.name + suffix) for suffix in CAPTION_SUFFIXES]
    caption = next((path for path in captions if os.path.lexists(path)), captions[0])
    if not os.path.lexists(caption):
        if stem.parent == folder:
            raise DataError(
                f"{stem} has no text; write it to {caption.name}, or put it into a folder named for its label"
            )
        return require_characters(stem.parent.name, str(stem))  # names of files may be of any bytes
    if caption.is_symlink() and not follow_links and leads_out(caption, folder):
        raise DataError(f"{caption} is a link that leads out of {folder}; remove it, or follow it with --follow-links")
    try:
        if not caption.is_file() or caption.stat().st_size > CAPTION_BYTES:
            raise DataError(f"{caption} is not a file of text of at most {CAPTION_BYTES >> 20} MB")
        text = caption.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{caption} cannot be read: {error}") from error
    if not text:
        raise DataError(f"{caption} is empty, so that nothing can be learned")
    return text
