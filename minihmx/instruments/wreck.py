"""Whether a run ended wrecked, by its last evaluation. No torch.

A wrecked run is whole on the disk, but its scores say nothing about feeling: there are none, or the
scored texts are no answers. A low score is no wreck, because reverse training aims at it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.errors import Failure
from minihmx.storage import strict

MOST_DEGENERATE = 0.5  # share of answers; above it nobody could talk with the trained model
REMEDIES = {
    "truncated": "give a larger --max-completion-length",
    "unscored": "read the judge's words in evaluations/, and give a model that can judge or "
    "another --rubric",
    "degenerate": "give a lower --learning-rate or a larger --beta",
}


def wreck_signs(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The faults of an evaluation's answers, by the metric that shows them; {} if there are none.

    evaluation: its line of metrics.jsonl, which lacks "degenerate" if older code wrote it.
    """
    found = {}
    if evaluation.get("truncated") == 1:
        found["truncated"] = "every held-out answer ran into the cap"
    if evaluation["unscored"] == 1:
        found["unscored"] = "no held-out answer got a score"
    share = evaluation.get("degenerate") or 0.0
    if share > MOST_DEGENERATE:
        found["degenerate"] = (
            f"{share:.0%} of the held-out answers look degenerate (one word, repeats or another "
            "script)"
        )
    return found


def wreck_sentence(folder: Path, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on a run that ended wrecked, and which flags to try; "" for any other run.

    evaluations: their lines of metrics.jsonl, from epoch 0 on.
    """
    signs = wreck_signs(evaluations[-1]) if evaluations else {}
    if not signs:
        return ""
    first, *_, last = evaluations
    before = wreck_signs(first).keys() & signs.keys()
    already = ", as it was before training" if before and first is not last else ""
    sound = [line["epoch"] for line in evaluations[1:] if not wreck_signs(line)]
    still = f" {folder}@epoch-{sound[-1]:02d} was the last that is sound." if sound else ""
    return (
        f"{folder} ended wrecked: {', '.join(signs.values())}{already}, so its scores say "
        f"nothing about feeling; all of it is on the disk.{still} To try again, "
        f"{'; '.join(REMEDIES[sign] for sign in signs)}, with another --out."
    )


def is_wrecked(folder: Path) -> bool:
    """Whether a run is finished and the last line of metrics.jsonl, an evaluation, shows a wreck.

    False for files that cannot be read. Whoever needs those files reports that.
    """
    with contextlib.suppress(Failure, OSError, LookupError, TypeError, ValueError):
        sealed = (folder / "manifest.json").is_file()
        last = strict.parse(strict.read_file(folder / "metrics.jsonl").splitlines()[-1])
        return sealed and last["kind"] == "evaluation" and bool(wreck_signs(last))
    return False
