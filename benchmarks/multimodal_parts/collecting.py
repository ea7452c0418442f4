"""Put the results of several runs together."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any


def collect(folder: Path) -> dict[str, Any]:
    """Return all results in a folder, and of each task and label the exact answers over its seeds.

    Where the last checkpoint was evaluated besides that of the lowest validation loss, it is counted by itself.
    """
    files = sorted(path for path in folder.rglob("*.json") if not path.name.endswith((".answers.json", ".tuned.json")))
    results = [found for path in files if "task" in (found := json.loads(path.read_text(encoding="utf-8")))]
    exact: dict[str, list[float]] = defaultdict(list)
    for each in results:
        if "figures" in each:
            name = f"{each['task']}, {each['label']}"
            exact[name].append(each["figures"]["test"]["exact"])
            if last := each["figures"].get("test, last checkpoint"):
                exact[f"{name}, last checkpoint"].append(last["exact"])
    summary = {
        name: {"seeds": len(values), "mean": statistics.fmean(values), "lowest": min(values), "highest": max(values)}
        for name, values in exact.items()
    }
    return {"exact answers": summary, "results": results}
