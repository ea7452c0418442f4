"""The pages of the API reference, which autodoc fills from docstrings. Free of torch and Sphinx."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from tools.docs_site.pages import ROOT, SiteError
from tools.docs_site.staging import built

MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "glassgpt": ("The package", ("glassgpt",)),
    "api": ("One function per command", ("glassgpt.api",)),
    "data": ("Data", ("glassgpt.data", "glassgpt.data.shards", "glassgpt.data.batches")),
    "model": (
        "Model",
        (
            "glassgpt.model.config",
            "glassgpt.model.transformer",
            "glassgpt.model.attention",
            "glassgpt.model.cache",
            "glassgpt.model.gpt2",
            "glassgpt.model.modern",
            "glassgpt.model.llama",
            "glassgpt.model.build",
        ),
    ),
    "training": (
        "Training",
        (
            "glassgpt.training.config",
            "glassgpt.training.loss",
            "glassgpt.training.optimizers",
            "glassgpt.training.schedule",
            "glassgpt.training.step",
            "glassgpt.training.loop",
            "glassgpt.training.observers",
        ),
    ),
    "generation": (
        "Generation",
        (
            "glassgpt.generation.options",
            "glassgpt.generation.strategy_options",
            "glassgpt.generation.plain",
            "glassgpt.generation.processors.base",
            "glassgpt.generation.processors.pipeline",
            "glassgpt.generation.engine.sampling",
            "glassgpt.generation.engine.engine",
            "glassgpt.generation.engine.output",
        ),
    ),
    "inspection": (
        "Inspection",
        ("glassgpt.inspection.trace", "glassgpt.inspection.analysis", "glassgpt.inspection.interventions"),
    ),
    "errors": ("Errors", ("glassgpt.errors",)),
}
"""By page: its title and its modules."""
INDEX = "reference/index"
KOREAN = Path(__file__).with_name("reference.ko.toml")
KOREAN_HEAD = """# API 레퍼런스
공개된 클래스와 함수를 한 줄씩 소개합니다. 이름을 누르면 독스트링에서 만든 자세한 설명으로 가는데, 인자와 모양과 오류까지 적은 그 설명은
영어입니다. 쓰는 예는 [파이썬 API](../api.md)에 있습니다.
"""
TABLE_ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)
NAMES = (INDEX, *(f"reference/{page}" for page in MODULES))


def reference_pages() -> dict[str, str]:
    """Return the pages by name. An object that several modules offer is described on the first page that has it."""
    listed = "\n".join(f"- [{title}]({page}.md)" for page, (title, _) in MODULES.items())
    names = "\n".join(MODULES)
    index = (
        f"# API reference\nWritten from the docstrings. Examples are on the page [Python API](../api.md).\n\n{listed}\n"
    )
    pages = {INDEX: f"{index}\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"}
    described: dict[Exported, str] = {}
    for page, (title, modules) in MODULES.items():
        pages[f"reference/{page}"] = f"# {title}\n" + "".join(_module(name, page, described) for name in modules)
    return pages


def korean_page() -> str:
    """Return the Korean page: headings and one line per object, each linked to its full description in English.

    Raises:
        SiteError: an object has no Korean line.
    """
    texts = tomllib.loads(KOREAN.read_text(encoding="utf-8"))
    texts["api"] |= dict(TABLE_ROW.findall((ROOT / "docs" / "api.ko.md").read_text(encoding="utf-8")))
    parts = [KOREAN_HEAD]
    described: set[Exported] = set()
    for page, (_, modules) in MODULES.items():
        lines, text = texts[page], ["| 이름 | 하는 일 |", "|---|---|"]
        for module in modules:
            for name, exported in public_members(module):
                if exported in described:
                    continue
                described.add(exported)
                if name not in lines:
                    raise SiteError(f"add {name} to [{page}] in {KOREAN.relative_to(ROOT)}")
                link = built("en", f"reference/{page}", INDEX, f"#{module}.{name}")
                text.append(f"| [`{name}`]({link}) | {lines[name]} |")
        parts.append(f"## {lines['title']}\n{lines['intro']}\n\n" + "\n".join(text) + "\n")
    return "\n".join(parts)


def _module(module: str, page: str, described: dict[Exported, str]) -> str:
    directives = [f".. automodule:: {module}\n   :no-members:\n"]
    elsewhere: list[str] = []
    for name, exported in public_members(module):
        if exported in described:
            elsewhere.append(f"[`{name}`]({described[exported]}.md)")
        else:
            described[exported] = page
            directives.append(f".. auto{exported.kind}:: {module}.{name}\n")
    also = f"\nDescribed elsewhere: {', '.join(elsewhere)}.\n" if elsewhere else ""
    return f"\n## `{module}`\n```{{eval-rst}}\n{chr(10).join(directives)}```\n{also}"


@dataclass(frozen=True)
class Exported:
    """A class or function, by the module that defines it."""

    kind: Literal["class", "function"]
    module: str
    name: str


def public_members(module: str) -> list[tuple[str, Exported]]:
    """Return the public classes and functions of a module by name, in the order of the source.

    Those of a package are what `__all__` lists and this project defines; of another module, those that it defines.
    """
    path = ROOT / "src" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise SiteError(f"tools/docs_site/reference.py lists {module}, which does not exist")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if path.is_dir():
        return [(name, found) for name in _listed(tree) if (found := _export(module, name))]
    return [
        (node.name, Exported("class" if isinstance(node, ast.ClassDef) else "function", module, node.name))
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]


def _listed(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.startswith("__")]
    return []


def _export(module: str, name: str) -> Exported | None:
    found = getattr(import_module(module), name)
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not found.__module__.startswith("glassgpt"):
        return None
    return Exported("class" if inspect.isclass(found) else "function", found.__module__, found.__name__)
