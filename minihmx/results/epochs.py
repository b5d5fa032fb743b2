"""Which epochs a run has, and which of them was selected by which rule. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minihmx.errors import DataError, UserError, shortened
from minihmx.selection import Rule
from minihmx.storage.strict import read_json

EPOCH_NAME = re.compile(r"epoch-(\d+)")
BELOW = ", below the rule"  # of an epoch that was the best there is


def selected_epoch(folder: Path) -> tuple[str, str]:
    """The epoch of a run that is compared, and how it was chosen."""
    path, epochs = folder / "selected.json", epochs_of(folder)
    if path.exists():
        selected = read_json(path)
        winner = selected.get("winner") if isinstance(selected, dict) else None
        if not isinstance(winner, str) or not EPOCH_NAME.fullmatch(winner):
            raise DataError(
                f"{path} names no epoch as its winner, so it is not known which one to compare; "
                "select again, or give RUN@epoch-03."
            )
        if epochs and winner not in epochs:
            raise DataError(
                f"{path} names {winner} as the winner, but there is {', '.join(epochs)}; select "
                "again, or give RUN@epoch-03."
            )
        how = "selected" if selected.get("qualified", True) else "selected" + BELOW
        rule = selected.get("rule")
        return winner, how + _other_rule(rule if isinstance(rule, dict) else {})
    if not epochs:
        raise UserError(f"{folder} holds no epoch that could be compared; train it to its end.")
    return epochs[-1], "last, as none is selected"


def _other_rule(rule: Mapping[str, Any]) -> str:
    """What of the rule of a selection is not the paper's, or ""."""
    usual = asdict(Rule())
    differing = [
        f"{name.replace('_', ' ')} {shortened(str(rule.get(name)))} instead of {usual[name]}"
        for name in usual
        if rule and rule.get(name) != usual[name]
    ]
    return f", {', '.join(differing)}" if differing else ""


def epochs_of(folder: Path) -> list[str]:
    """The epochs of a run that can be compared, as "epoch-03", in their order."""
    places = [*folder.glob("evaluations/epoch-*.jsonl"), *folder.glob("checkpoints/epoch-*")]
    numbers = {int(found[1]) for place in places if (found := EPOCH_NAME.fullmatch(place.stem))}
    return [f"epoch-{number:02d}" for number in sorted(numbers)]
