"""The report of `probe on-policy`, held against its settings and against itself. No torch.

The distances between two ways of computing depend on the machine. They are believed as long as they
can belong together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minihmx.probes.checkpoints import REPORT_FILE
from minihmx.probes.two_ways import PAIRS, SHOWN_SETTINGS, verdict_of_steps
from minihmx.results.findings import ABSENT, Audit, Place, Words


def check_on_policy(audit: Audit, folder: Path, settings: Mapping[str, Any]) -> None:
    """Check report.json: the settings that it repeats, the causes that it found, and its bounds."""
    path = folder / REPORT_FILE
    loaded = audit.json(path) if path.exists() else None
    if loaded is None:
        return
    report, place = loaded[0], Place(path)
    told = {name: settings.get(name, ABSENT) for name in SHOWN_SETTINGS}
    told["model"] = {"digest": settings.get("model", ABSENT)}
    audit.compare_tree("identity", (path, loaded[1]), report, told)
    try:
        answers, replayed, samples = report["answers"], report["replayed"], settings["samples"]
        whole = type(answers) is int and answers >= 2 and answers % samples == 0
        rule = "as many for each question as were asked for"
        audit.require("bounds", place, "answers", answers, whole, rule)
        rule = "a share of the tokens"
        audit.require("bounds", place, "replayed", replayed, 0 <= replayed <= 1, rule)
        if [(pair["one"], pair["other"], pair["claim"]) for pair in report["pairs"]] != [*PAIRS]:
            audit.note(f"{path}: its pairs are of another version, so what they claim is believed")
        for pair in report["pairs"]:
            _check_pair(audit, place, pair, report)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        rule = Words(f"what the probe found ({type(error).__name__}: {error})")
        audit.find("probes", Place(path, 1), "text", Words("another"), rule)


def _check_pair(
    audit: Audit, place: Place, pair: Mapping[str, Any], report: Mapping[str, Any]
) -> None:
    """Make a pair's verdict again from its steps, and check each step's suspects and numbers."""
    ways, steps = f"{pair['one']} : {pair['other']}", pair["steps"]
    for name, value in verdict_of_steps(steps).items():
        audit.compare("probes", place, f"{ways}, {name}", pair[name], value)
    off = [step["off"] for step in steps]
    known = off[0] is None and len(set(off)) == len(off) and {*off[1:]} <= report["suspects"].keys()
    audit.require("probes", place, f"{ways}, off", off, known, "nothing, then one suspect more")
    for step in steps:
        same = (step["first"] is None, step["place"] is None, step["differing"] == 0)
        rule = "in as many tokens as its stage, of which there is none where nothing differs"
        holds = len(set(same)) == 1
        audit.require("probes", place, f"{ways}, differing", step["differing"], holds, rule)
        if step["largest"] is not None:  # null means that it was not finite
            rule = "the gap that equal tokens, mean and weights tell"
            holds = _may_be(step, report["tokens"])
            audit.require("bounds", place, f"{ways}, largest", step["largest"], holds, rule)


def _may_be(step: Mapping[str, Any], tokens: int) -> bool:
    """Whether a step's numbers can all describe the same gaps between two ways."""
    (low, high), largest, equal = step["weights"], step["largest"], step["equal_tokens"]
    from_weights = max(abs(math.log(low)), abs(math.log(high)))
    nearly = 1 + 1e-9
    return (
        type(equal) is int
        and 0 <= equal <= tokens
        and (equal == tokens) == (largest == 0)
        and (step["first"] is not None or largest == 0)
        and 0 <= step["mean"] <= largest * nearly
        and math.isclose(largest, from_weights, rel_tol=1e-6, abs_tol=1e-12)
        and low / nearly <= step["ratio"] <= high * nearly
        and 0 < step["answer_weights"][0] <= step["answer_weights"][1]
    )
