"""`python -m tools.docs_site [--out DIR] [--work DIR] [--repository URL] [--small]`: build the site."""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from tools.docs_site.build import Options, build
from tools.docs_site.pages import ROOT, SiteError

NEEDED = ("sphinx", "furo", "myst_parser", "sphinx_copybutton")


def main(arguments: list[str] | None = None) -> int:
    """Build the site and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs_site", description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder of the site")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "site-work", help="folder that the next build reuses"
    )
    parser.add_argument(
        "--repository", default="", help="address of the repository's files; without it the site has source pages"
    )
    parser.add_argument("--small", action="store_true", help="run the lessons with tiny settings")
    given = parser.parse_args(arguments)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        sys.stderr.write(f"{', '.join(missing)} is missing: pip install 'glassgpt[docs]'\n")
        return 2
    started = time.monotonic()
    try:
        build(Options(given.out.resolve(), given.work.resolve(), given.repository, given.small))
    except SiteError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{given.out / 'index.html'} ({time.monotonic() - started:.0f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
