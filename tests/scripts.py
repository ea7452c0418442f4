"""Import scripts of benchmarks and tools, which find their parts in their own folder."""

import importlib.util
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TOOLS = Path(__file__).parents[1] / "tools"


def load_script(name, patch):
    """Return `benchmarks/NAME.py` as a module; its folder stays on sys.path until `patch` is undone."""
    patch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def load_tool(name):
    """Return `tools/NAME.py` as a module; its folder is on sys.path only while it is imported."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(TOOLS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module
