"""Names of a package that are imported when they are first used. A base module: it imports nothing of this package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def lazy_attribute(package: str, modules: Mapping[str, str], name: str, hint: str = "") -> Any:
    """Return an attribute of a package, from the module that defines it.

    Args:
        package: name of the package.
        modules: full name of the module by attribute.
        name: of the attribute.
        hint: text after the message of the error.

    Raises:
        AttributeError: the package has no such attribute.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
    return getattr(import_module(modules[name]), name)
