"""The paper's statements of its sections 4 to 6, each with its verdict. No torch.

data/claims.jsonl holds the statements: the quotation, how it is read here, and the name of a check
(cell_claims.py, selections.py) with what it is to be run on.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minihmx.errors import UserError
from minihmx.results.cell_claims import CELL_CHECKS, Grounds
from minihmx.results.collect import collect
from minihmx.results.paper import paper_cells
from minihmx.results.runs import not_ended
from minihmx.results.selections import (
    PAIR_CHECKS,
    UNTOLD,
    VERDICTS,
    Claim,
    Decision,
    read_selections,
)
from minihmx.results.statistics import has_scipy
from minihmx.storage.disk import home_path, read_lines
from minihmx.storage.strict import read_json

CLAIMS = Path(__file__).parents[1] / "data" / "claims.jsonl"
RULE = (
    "A difference is forward - reverse, mean ± standard deviation over the seeds. It is within "
    "noise where Student's two-sided t test on the paired differences gives p >= .05, alone, "
    "without regard to how many statements there are."
)
ROUNDED = (
    "The tables' figures are rounded to two decimals, so a p near .05 might be on its other side."
)
NO_SCIPY = (
    "scipy is not installed, so no difference can be told from noise: install the extra `report` "
    f"(`{sys.executable} -m pip install scipy`)."
)


def check_claims(path: str | None = None) -> dict[str, Any]:
    """Every statement with its verdict on the paper's tables, or on the experiment at this path.

    Then "paper" is the verdict on the tables. Raises Failure where there is nothing to check.
    """
    claims = read_lines(CLAIMS)
    on_tables = [check_claim(claim, Grounds(paper_cells())) for claim in claims]
    findings, notes = on_tables, [] if has_scipy() else [NO_SCIPY]
    if path is None:
        notes.append(ROUNDED)
    else:
        comparison = collect([path], items=False)
        pairs = read_selections(comparison.pairs)
        grounds = Grounds(comparison.cells, pairs, planned_runs(path))
        findings = [check_claim(claim, grounds) for claim in claims]
        marks = Counter(mark for cell in comparison.cells for mark in cell.notes)
        notes += [f"{n} of {len(comparison.cells)} cells: {mark}" for mark, n in marks.items()]
        notes += comparison.notes
    return {
        "source": "the paper's own tables" if path is None else path,
        "rule": RULE,
        "notes": notes,
        "statements": [
            {name: claim[name] for name in ("id", "section", "quote", "reading")}
            | {"verdict": found.verdict, "numbers": found.note, "cells": list(found.cells)}
            | ({} if path is None else {"paper": of_paper.verdict})
            for claim, found, of_paper in zip(claims, findings, on_tables, strict=True)
        ],
        "verdicts": {v: sum(f.verdict == v for f in findings) for v in VERDICTS},
    }


def planned_runs(path: str) -> list[Mapping[str, Any]]:
    """The training runs that an experiment's list plans; of a folder without a list, none.

    Each has its model. One that is done in the list and not on the disk has the state "missing".
    """
    file = home_path(path) / "experiment.json"
    plan = read_json(file) if file.exists() else {"models": {}}
    try:
        return [
            {**piece, "model": model, "state": _state(file.parent / piece["path"], piece["state"])}
            for model, of_model in plan["models"].items()
            for piece in of_model["pieces"]
            if re.fullmatch(r"train (forward|reverse) seed \d+", piece["name"])
        ]
    except (TypeError, LookupError, AttributeError):
        raise UserError(f"{file} is no list of an experiment's pieces; restore it.") from None


def _state(run: Path, state: str) -> str:
    there = (run / "config.json").is_file() and not not_ended(run)
    return "missing" if state == "done" and not there else state


def check_claim(claim: Claim, grounds: Grounds) -> Decision:
    """The verdict of one statement."""
    check = claim["check"]
    if check in PAIR_CHECKS:
        if grounds.pairs:
            return PAIR_CHECKS[check](claim, grounds.pairs)
        return Decision(UNTOLD, "it is about the choice of checkpoints, and no selection is here")
    return CELL_CHECKS[check](claim, grounds)
