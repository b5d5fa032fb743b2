"""The paper's statements on the chosen checkpoints, checked on selected.json. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.errors import UserError
from minihmx.results.runs import SeedPair
from minihmx.selection import DIRECTIONS, Candidate
from minihmx.storage.strict import read_json

HOLDS, FAILS, NOISE, UNTOLD = "holds", "fails", "within noise", "cannot be told from this"
VERDICTS = (HOLDS, FAILS, NOISE, UNTOLD)
LISTED = 5  # pairs that a note names
Claim = Mapping[str, Any]  # a line of data/claims.jsonl


class Decision(NamedTuple):
    """One of VERDICTS. note and cells: the numbers that decided it, in words and by cell."""

    verdict: str
    note: str = ""
    cells: tuple[dict[str, Any], ...] = ()


class SelectedPair(NamedTuple):
    """Both directions of one model and seed.

    forward, reverse: every candidate epoch. f, r: the chosen ones of the two.
    """

    model: str
    seed: int
    forward: list[Candidate]
    reverse: list[Candidate]
    f: Candidate
    r: Candidate


def read_selections(pairs: Sequence[SeedPair]) -> list[SelectedPair]:
    """The selection of every pair that has one.

    Raises UserError for a selected.json that is no selection of two runs.
    """
    found = []
    for pair in pairs:
        path = pair.forward.folder / "selected.json"
        if not path.exists():
            continue
        selected = read_json(path)
        try:
            forward, reverse = (
                [_candidate(record) for record in selected["candidates"][direction]]
                for direction in DIRECTIONS
            )
            f, r = (
                {f"epoch-{c.epoch:02d}": c for c in history}[selected["pair"][direction]["winner"]]
                for direction, history in zip(DIRECTIONS, (forward, reverse), strict=True)
            )
        except (TypeError, LookupError, ValueError):
            folders = [str(run.folder) for run in (pair.forward, pair.reverse)]
            again = shlex.join(["minihmx", "select", *folders])
            raise UserError(
                f"{path} is no selection of two runs, so nothing that is said of it can be "
                f"checked; type `{again}` again."
            ) from None
        found.append(SelectedPair(pair.model, pair.seed, forward, reverse, f, r))
    return found


def _candidate(record: Mapping[str, Any]) -> Candidate:
    candidate = Candidate(*(record[name] for name in Candidate._fields))
    if any(type(value) not in (int, float, type(None)) for value in candidate):
        raise TypeError
    return candidate


def in_every(
    pairs: Sequence[SelectedPair],
    test: Callable[[SelectedPair], bool | None],
    numbers: Callable[[SelectedPair], str],
) -> Decision:
    """The claim holds if the test is true of every pair, and fails if it is false of any pair.

    It cannot be told if there are no pairs, or if no test is false and one is None, which means
    that a number is missing. numbers: a pair's numbers in words, for the note.
    """
    if not pairs:
        return Decision(UNTOLD, "no selected pair is here that it speaks of")
    values = [test(pair) for pair in pairs]
    against = [pair for pair, value in zip(pairs, values, strict=True) if value is False]
    told = against or pairs
    listed = "; ".join(f"{p.model} seed {p.seed}: {numbers(p)}" for p in told[:LISTED])
    note = f"{values.count(True)} of {len(pairs)} pairs{'; not' if against else ':'} {listed}"
    verdict = FAILS if against else UNTOLD if None in values else HOLDS
    return Decision(verdict, note + ("; ..." if told[LISTED:] else ""))


def _kls(pair: SelectedPair) -> str:
    return f"KL {_number(pair.f.kl)} forward and {_number(pair.r.kl)} reverse"


def _epochs(pair: SelectedPair) -> str:
    return f"epoch {pair.f.epoch} forward and {pair.r.epoch} reverse"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _above(one: float | None, other: float | None) -> bool | None:
    return None if one is None or other is None else one > other


def _score(pair: SelectedPair) -> str:
    return f"score {_number(pair.f.score)} at epoch {pair.f.epoch}"


# --- checks that a line of data/claims.jsonl names ------------------------------------------------


def trained(claim: Claim, pairs: Sequence[SelectedPair]) -> Decision:
    """The chosen forward checkpoint scores above the threshold."""
    return in_every(pairs, lambda p: _above(p.f.score, claim["threshold"]), _score)


def first_above(claim: Claim, pairs: Sequence[SelectedPair]) -> Decision:
    """The chosen forward checkpoint is the first that scores above the threshold."""

    def test(pair: SelectedPair) -> bool:
        above = (c.epoch for c in pair.forward if _above(c.score, claim["threshold"]))
        return next(above, None) == pair.f.epoch

    return in_every(pairs, test, _score)


def same_epoch(claim: Claim, pairs: Sequence[SelectedPair]) -> Decision:
    """In more than half of the pairs both directions have the same epoch."""
    found = in_every(pairs, lambda pair: pair.f.epoch == pair.r.epoch, _epochs)
    most = 2 * sum(pair.f.epoch == pair.r.epoch for pair in pairs) > len(pairs)
    return found._replace(verdict=HOLDS if most else found.verdict)


def earlier_epoch(claim: Claim, pairs: Sequence[SelectedPair]) -> Decision:
    """If the two epochs differ, the reverse one is earlier, and at the forward run's epoch the
    reverse run's KL is the higher one."""

    def test(pair: SelectedPair) -> bool | None:
        same = next((c for c in pair.reverse if c.epoch == pair.f.epoch), None)
        return pair.r.epoch < pair.f.epoch and (same and _above(same.kl, pair.f.kl))

    return in_every([p for p in pairs if p.r.epoch != p.f.epoch], test, _epochs)


def higher_kl(claim: Claim, pairs: Sequence[SelectedPair]) -> Decision:
    """The chosen forward checkpoint has the higher KL in all models but those of the claim."""
    others = [pair for pair in pairs if pair.model not in claim["models"]]
    return in_every(others, lambda pair: _above(pair.f.kl, pair.r.kl), _kls)


def lower_kl(claim: Claim, pairs: Sequence[SelectedPair]) -> Decision:
    """In the claim's models the forward KL is lower at every epoch, and in no other model."""

    def everywhere(pair: SelectedPair) -> bool | None:
        kls = zip(pair.forward, pair.reverse, strict=False)
        lower = [_above(r.kl, f.kl) for f, r in kls]
        return False if False in lower else None if None in lower else True

    def test(pair: SelectedPair) -> bool | None:
        lower = everywhere(pair)
        return lower if lower is None else lower == (pair.model in claim["models"])

    found = in_every(pairs, test, _kls)
    named = any(pair.model in claim["models"] for pair in pairs)
    return found if named or found.verdict == FAILS else found._replace(verdict=UNTOLD)


PAIR_CHECKS: dict[str, Callable[[Claim, Sequence[SelectedPair]], Decision]] = {
    "trained": trained,
    "first_above": first_above,
    "same_epoch": same_epoch,
    "earlier_epoch": earlier_epoch,
    "higher_kl": higher_kl,
    "lower_kl": lower_kl,
}
