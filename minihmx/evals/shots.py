"""Worked examples that are too long for code: data/shots/<benchmark>.json, licence included.

"published" are the examples with which the published items are asked. "sample" are short ones of
our own that fit the bundled model's context, and only items of the built-in sample name them.
"""

import functools
import json
from importlib.resources import files
from typing import Any

# The most tokens of a reply after these shots. The published 1024 would fill the bundled model's
# context.
LONGEST_REPLY = {"published": 1024, "sample": 64}


@functools.cache
def worked_examples(benchmark: str) -> dict[str, dict[str, Any]]:
    """The contents of the benchmark's file: by "published" or "sample", and by task."""
    path = files("minihmx") / "data" / "shots" / f"{benchmark}.json"
    found = json.loads(path.read_text("utf-8"))
    return {name: found[name] for name in LONGEST_REPLY}


def check_task(benchmark: str, shots: str, task: str) -> None:
    """Raises ValueError for an item whose task has no worked examples."""
    by_task = worked_examples(benchmark).get(shots)
    if by_task is None:
        raise ValueError(f"its shots are {shots!r:.60}, neither published nor sample")
    if task not in by_task:
        raise ValueError(f"its task is {task!r:.60}, none of the {len(by_task)} that have shots")
