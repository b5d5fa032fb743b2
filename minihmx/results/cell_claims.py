"""What the paper says of the cells of its tables, checked on cells. No torch.

A statement about several cells holds where each of them holds, fails where one is beyond noise on
the other side, and is within noise where one of them is. Noise is Student's two-sided t test on the
paired differences: a difference with p >= .05 cannot be told from none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.results.cells import METRICS, Cell, Spread, over_seeds
from minihmx.results.paper import PAPER_NAMES, summary
from minihmx.results.selections import (
    FAILS,
    HOLDS,
    LISTED,
    NOISE,
    UNTOLD,
    Claim,
    Decision,
    SelectedPair,
)
from minihmx.results.statistics import LEVEL, has_scipy, p_value

# A statement about several cells has the first of these verdicts that one of its cells has.
WORST_FIRST = (FAILS, NOISE, UNTOLD, HOLDS)


class Grounds(NamedTuple):
    """What statements are checked on. pairs and pieces are empty for published tables.

    pieces: an experiment's planned training runs, each with its model and state.
    """

    cells: Sequence[Cell]
    pairs: Sequence[SelectedPair] = ()
    pieces: Sequence[Mapping[str, Any]] = ()


def worst(verdicts: Iterable[str]) -> str:
    return min(verdicts, key=WORST_FIRST.index)


def noise_p(spread: Spread) -> float | None:
    """p of the t test; None for one seed, or where scipy is missing."""
    return p_value(spread) if has_scipy() else None


def direction_of(spread: Spread, way: str) -> str:
    """The verdict on one difference. way: "up", "down" or "not up".

    A mean of 0 or less is "not up"; one above 0 but within noise leaves that open.
    """
    p = noise_p(spread)
    if way == "not up" and spread.mean <= 0:
        return HOLDS
    if p is None:
        return UNTOLD
    if p >= LEVEL:
        return NOISE
    return HOLDS if (spread.mean > 0) == (way == "up") else FAILS


def relative(cell: Cell) -> float:
    """The difference as a percentage of the reverse model's score, without that score's sign."""
    if not cell.reverse.mean:
        return math.copysign(math.inf, cell.difference.mean) if cell.difference.mean else 0.0
    return 100 * cell.difference.mean / abs(cell.reverse.mean)


def cell_record(cell: Cell, verdict: str, expected: str) -> dict[str, Any]:
    """What the report says of one cell."""
    mean, std, n = cell.difference[:3]
    return {
        "metric": cell.key,
        "model": cell.model,
        "expected": expected,
        "mean": mean,
        "std": std,
        "n": n,
        "p": noise_p(cell.difference),
        "verdict": verdict,
    }


def scope(cells: Sequence[Cell], expected: int) -> str:
    """What a reader has to know where the paper speaks of more cells than there are."""
    return "" if len(cells) >= expected else f"cells here {len(cells)}, in the paper {expected}"


def find(cells: Sequence[Cell], claim: Mapping[str, Any]) -> Iterator[list[Cell]]:
    """For each metric that the claim names, its cells; of all models where it names none."""
    for metric in claim.get("metrics", METRICS):
        models = claim.get("models")
        yield [c for c in cells if c.key == metric and (models is None or c.model in models)]


def cells_meant(claim: Mapping[str, Any]) -> int:
    """How many cells of the paper's tables a claim speaks of."""
    return len(claim.get("metrics", METRICS)) * len(claim.get("models", PAPER_NAMES))


def name_cell(cell: Cell) -> str:
    return f"{cell.model} {METRICS[cell.key].title} {relative(cell):+.1f} %"


# --- checks that a line of data/claims.jsonl names ------------------------------------------------


def ways(claim: Claim, grounds: Grounds) -> Decision:
    """Every cell goes the way that is expected of it."""
    records, verdicts, found = [], [], list[Cell]()
    for expected in claim["expect"]:
        for cells in find(grounds.cells, expected):
            found += cells
            told = [direction_of(cell.difference, expected["way"]) for cell in cells]
            verdicts += told or [UNTOLD]
            records += [
                cell_record(c, v, expected["way"]) for c, v in zip(cells, told, strict=True)
            ]
    note = scope(found, sum(cells_meant(expected) for expected in claim["expect"]))
    return Decision(worst(verdicts), note, tuple(records))


def small(claim: Claim, grounds: Grounds) -> Decision:
    """At least this share of the differences is below so many percent of the reverse score."""
    by_metric = list(find(grounds.cells, claim))
    cells = [cell for of_metric in by_metric for cell in of_metric]
    if not cells or ("metrics" in claim and not all(by_metric)):
        return Decision(UNTOLD, scope(cells, cells_meant(claim)))
    over = sorted(
        (c for c in cells if abs(relative(c)) >= claim["percent"]), key=lambda c: -abs(relative(c))
    )
    note = f"{len(cells) - len(over)} of {len(cells)} are below {claim['percent']} %"
    largest = over or [max(cells, key=lambda cell: abs(relative(cell)))]
    note += f"; {'not' if over else 'the largest is'} {', '.join(map(name_cell, largest[:LISTED]))}"
    holds = len(cells) - len(over) >= claim["share"] * len(cells)
    return Decision(HOLDS if holds else FAILS, join(note, scope(cells, cells_meant(claim))))


def large_losses(claim: Claim, grounds: Grounds) -> Decision:
    """At most so many differences are losses of more than 10 %."""
    cells = grounds.cells
    worse, lower = (summary(cells, flip_rate=way).worse for way in ("higher", "lower"))
    listed = ", ".join(name_cell(cell) for cell, _ in worse[:LISTED])
    note = f"{len(worse)} of {len(cells)}" + (f": {listed}" if listed else "")
    note += f"; with flip_rate counted as lower is better, {len(lower)}"
    verdict = HOLDS if len(worse) <= claim["most"] else FAILS
    return Decision(verdict, join(note, scope(cells, cells_meant(claim))))


def large_loss(claim: Claim, grounds: Grounds) -> Decision:
    """This one difference is a loss of more than 10 %, beyond noise."""
    ((cell, *_),) = [[*cells, None] for cells in find(grounds.cells, claim)]
    if cell is None:
        return Decision(UNTOLD, scope([], 1))
    verdict = direction_of(cell.difference, "down") if relative(cell) < -10 else FAILS
    return Decision(verdict, name_cell(cell), (cell_record(cell, verdict, "down"),))


def small_losses(claim: Claim, grounds: Grounds) -> Decision:
    """At least so many percent of the differences are gains, or losses of less than 2 %."""
    signed = summary(grounds.cells, "signed")
    percent = round(100 * signed.within / signed.cases, 1)
    note = f"{signed.within} of {signed.cases}, {percent:.1f} %, by the signed score; "
    absolute = summary(grounds.cells).within
    note += f"{absolute}, {100 * absolute / signed.cases:.1f} %, by its absolute value"
    verdict = HOLDS if percent >= claim["percent"] else FAILS
    return Decision(verdict, join(note, scope(grounds.cells, cells_meant(claim))))


def no_tendency(claim: Claim, grounds: Grounds) -> Decision:
    """In no metric do all models go the same way; where they do so within noise, it is open."""
    by_metric = list(find(grounds.cells, claim))
    verdicts, records = [], []
    for cells in by_metric:
        told = [{direction_of(c.difference, w) for c in cells} for w in ("up", "down")]
        same = all(c.difference.mean > 0 for c in cells) or all(
            c.difference.mean < 0 for c in cells
        )
        if len(cells) < 2:
            verdicts.append(UNTOLD)
        else:
            verdicts.append(HOLDS if not same else FAILS if {HOLDS} in told else NOISE)
        records += [cell_record(cell, verdicts[-1], "no tendency") for cell in cells]
    found = [cell for cells in by_metric for cell in cells]
    return Decision(worst(verdicts), scope(found, cells_meant(claim)), tuple(records))


def score_gap(claim: Claim, grounds: Grounds) -> Decision:
    """For every model the chosen forward checkpoints score above the reverse ones, over seeds."""
    gaps: dict[str, list[float]] = {}
    for pair in grounds.pairs:
        if pair.f.score is not None and pair.r.score is not None:
            gaps.setdefault(pair.model, []).append(pair.f.score - pair.r.score)
    if not gaps:
        return Decision(UNTOLD, "no scores on the held-out questions are here")
    spreads = {model: over_seeds(values) for model, values in gaps.items()}
    told = ", ".join(f"{model} {spread_text(s, noise_p(s))}" for model, s in spreads.items())
    return Decision(worst(direction_of(s, "up") for s in spreads.values()), told)


def runs_finished(claim: Claim, grounds: Grounds) -> Decision:
    """Every planned training run is done, and there are so many seeds of both directions."""
    states = Counter(piece["state"] for piece in grounds.pieces)
    if not states:
        return Decision(UNTOLD, "no list of an experiment's runs is here")
    note = ", ".join(f"{n} {state}" for state, n in states.items())
    seeds: dict[str, set[tuple[str, str]]] = {}  # by model, (direction, seed) that are done
    for piece in grounds.pieces:
        _, direction, _, seed = piece["name"].split()
        done = seeds.setdefault(piece["model"], set())
        done |= {(direction, seed)} if piece["state"] == "done" else set()
    few = {
        model: both
        for model, done in seeds.items()
        if (both := sum(("forward", s) in done for d, s in done if d == "reverse")) < claim["seeds"]
    }
    short = ", ".join(f"{model} {n} of {claim['seeds']} seeds" for model, n in few.items())
    all_done = {*states} == {"done"} and not few
    verdict = FAILS if states["failed"] else HOLDS if all_done else UNTOLD
    return Decision(verdict, join(note, short))


def not_recorded(claim: Claim, grounds: Grounds) -> Decision:
    return Decision(UNTOLD, "nothing that is compared records it")


CELL_CHECKS: dict[str, Callable[[Claim, Grounds], Decision]] = {
    "ways": ways,
    "small": small,
    "large_losses": large_losses,
    "large_loss": large_loss,
    "small_losses": small_losses,
    "no_tendency": no_tendency,
    "score_gap": score_gap,
    "runs_finished": runs_finished,
    "not_recorded": not_recorded,
}


def join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def spread_text(spread: Spread, p: float | None) -> str:
    """ "+1.69 ± 0.29 (p .0002)"."""
    std = "-" if spread.std is None else f"{spread.std:.2f}"
    chance = "no p" if p is None else "p < .0001" if p < 1e-4 else f"p {p:.2g}".replace("0.", ".")
    return f"{spread.mean:+.2f} ± {std} ({chance})"
