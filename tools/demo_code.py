"""Train a small code model on Python's standard library and fill gaps in three functions: `make demo-code`.

`python tools/demo_code.py OUT [SOURCE …] [SETTING=VALUE …]`; folders of Python files replace the standard library.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from glassgpt import api, console
from glassgpt.code.gap import Gap
from glassgpt.code.show import show_candidates
from glassgpt.config import load_config
from glassgpt.data import PrepareOptions
from glassgpt.data.show import prepare_and_show
from glassgpt.demo import check_demo

GAPS = (
    Gap("def read_lines(path):\n    with open(path) as file:\n        ", "\n\n\ndef main():\n    pass\n"),
    Gap(
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
        "\n    def __len__(self):\n        return len(self.items)\n",
    ),
    Gap(
        "def clamp(value, low, high):\n    if value < low:\n        return low\n    ",
        "\n        return high\n    return value\n",
    ),
)


LEFT_OUT = ("site-packages", "dist-packages", "test", "__pycache__")
"""Folders beside the standard library that are other packages, or tests."""


def standard_library() -> tuple[str, ...]:
    """Return its files and folders, without the packages that are installed among them."""
    entries = sorted(Path(sysconfig.get_path("stdlib")).iterdir())
    is_code = [entry.suffix == ".py" or (entry / "__init__.py").is_file() for entry in entries]
    return tuple(
        str(entry) for entry, is_it in zip(entries, is_code, strict=True) if is_it and entry.name not in LEFT_OUT
    )


def main(out: Path, sources: tuple[str, ...], settings: dict[str, str]) -> None:
    """Prepare, train and complete; an earlier run of this demo is replaced."""
    check_demo(out, force=True)
    data = out.with_name(f"{out.name}-data")
    prepare_and_show(
        PrepareOptions(sources, data, "bpe:4096", format="code", pattern="code", suffixes=(".py",), force=True)
    )
    if out.exists():
        shutil.rmtree(out)
    api.train(load_config("demo-code", {"data": str(data), **settings}), out)
    model = api.load(out)
    for gap in GAPS:
        candidates = api.complete(
            model, gap.prefix, gap.suffix, name="gap.py", num_samples=5, temperature=0.4, max_tokens=48, seed=1
        )
        show_candidates(gap, candidates[:2], [])
    console.info(f"\nfill gaps of your own files: glassgpt complete FILE --at LINE --model {out}")


if __name__ == "__main__":
    words = sys.argv[1:]
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    main(Path(names[0]), tuple(names[1:]) or standard_library(), pairs)
