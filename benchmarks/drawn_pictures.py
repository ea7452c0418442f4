"""Name drawn pictures by what they resemble among the drawings of others: no model, no learning, some seconds on a CPU.

    python benchmarks/drawn_pictures.py drawings/drawings.jsonl --others google.jsonl [--others more.jsonl] [--tune facebook.jsonl]
        [--originals twitter.jsonl] [--question "English:"] --out result.json

The rows are those of `prepare --format multimodal`, or of `generate --draw` into a folder: `image` and `text`. Each name is as far
from a picture as the nearest drawing that has it. Compared are the directions of edges (Dalal & Triggs 2005) and the colors, both
coarse enough that a line may be elsewhere. How much colors count is chosen on rows to tune on, which must be neither the drawn
pictures nor those that they were learned from.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.errors import UsageError
from glassgpt.multimodal.image_files import decode_image
from multimodal_parts.machine import description

SIZE, BEST = 32, 5
DIRECTIONS = 9
COLOR_WEIGHTS = (0.0, 0.5, 0.8, 1.2, 1.6)
WITHOUT_TUNING = 0.8


class Named(NamedTuple):
    """Pictures (N, S, S, 3) and the name of each."""

    pictures: NDArray[np.uint8]
    names: list[str]


def read_rows(paths: Sequence[Path], question: str) -> Named:
    """Return the pictures and names of rows, of those with a prompt only the ones with this question."""
    pictures: list[NDArray[np.uint8]] = []
    names: list[str] = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("prompt", question) == question:
                pictures.append(decode_image((path.parent / row["image"]).read_bytes(), SIZE, "pad"))
                names.append(row["text"].strip())
    if not names:
        raise UsageError(f"{', '.join(map(str, paths))} has no rows for {question!r}")
    return Named(np.stack(pictures), names)


def edges(pictures: NDArray[np.uint8]) -> Tensor:
    """Return how strong edges of each direction are around each point, (N, features) of length 1."""
    x = _floats(pictures)
    across, down = x.diff(dim=3, append=x[..., -1:]), x.diff(dim=2, append=x[:, :, -1:])
    strength, channel = torch.hypot(across, down).max(dim=1, keepdim=True)  # of the color that changes most
    angle = torch.atan2(down.gather(1, channel), across.gather(1, channel)) % torch.pi / torch.pi * DIRECTIONS
    share = angle - (lower := angle.floor())
    lower = lower.long() % DIRECTIONS
    found = torch.zeros(len(x), DIRECTIONS, *x.shape[2:])
    found.scatter_add_(1, lower, strength * (1 - share))
    found.scatter_add_(1, (lower + 1) % DIRECTIONS, strength * share)
    cells = F.avg_pool2d(found, 6, stride=3, padding=1).sqrt()
    return F.normalize((cells / (cells.norm(dim=1, keepdim=True) + 0.1)).flatten(1), dim=1)


def colors(pictures: NDArray[np.uint8]) -> Tensor:
    """Return how far from white each part is, (N, features) of length 1."""
    return F.normalize((F.avg_pool2d(_floats(pictures), 5, stride=3, padding=1) - 1).flatten(1), dim=1)


def _floats(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def shares(asked: Named, others: Named, color_weight: float) -> dict[str, float]:
    """Return how often the nearest name is the right one, and how often it is among the first five."""
    names = sorted(set(others.names))
    number = {name: at for at, name in enumerate(names)}
    of_other = torch.tensor([number[name] for name in others.names])
    alike = edges(asked.pictures) @ edges(others.pictures).T
    alike += color_weight**2 * colors(asked.pictures) @ colors(others.pictures).T
    of_name = torch.full((len(alike), len(names)), -torch.inf)
    of_name.scatter_reduce_(1, of_other.expand(len(alike), -1), alike, "amax")
    right = torch.tensor([number.get(name, -1) for name in asked.names])  # none of the others may have the name
    best = of_name.topk(min(BEST, len(names)), dim=1).indices == right[:, None]
    return {
        "pictures": len(right),
        "first": best[:, 0].float().mean().item(),
        "first five": best.any(1).float().mean().item(),
    }


def chosen_weight(tuned: Named | None, others: Named) -> tuple[float, dict[str, float]]:
    """Return the weight of colors at which most names are among the first five, and the shares at all weights."""
    if tuned is None:
        return WITHOUT_TUNING, {}
    found = {weight: shares(tuned, others, weight)["first five"] for weight in COLOR_WEIGHTS}
    return max(found, key=found.__getitem__), {str(weight): share for weight, share in found.items()}


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("drawings", type=Path, nargs="+", help="rows of drawn pictures")
    parser.add_argument("--others", type=Path, action="append", required=True, help="rows of the drawings of others")
    parser.add_argument("--tune", type=Path, help="rows on which the weight of colors is chosen")
    parser.add_argument("--originals", type=Path, help="rows of what the drawn pictures were learned from")
    parser.add_argument(
        "--question", default="English:", help="prompt of the rows with names in the language of the captions"
    )
    parser.add_argument("--out", type=Path, help="file for the figures")
    arguments = parser.parse_args(given)
    start = time.perf_counter()
    others = read_rows(arguments.others, arguments.question)
    tuned = read_rows([arguments.tune], arguments.question) if arguments.tune else None
    weight, tried = chosen_weight(tuned, others)
    asked = {str(path): path for path in (*arguments.drawings, *filter(None, [arguments.originals]))}
    result = {
        "machine": description(),
        "command": shlex.join(["python", "benchmarks/drawn_pictures.py", *(sys.argv[1:] if given is None else given)]),
        "drawings of others": len(others.names),
        "names": len(set(others.names)),
        "weight of colors": weight,
        "first five of the rows to tune on, by weight": tried,
        "named": {name: shares(read_rows([path], arguments.question), others, weight) for name, path in asked.items()},
        "seconds": time.perf_counter() - start,
    }
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return result


if __name__ == "__main__":
    main()
