"""What an extraction rule loses, by direction, and what that makes of a rate. No torch.

A reader (rules, a judge) is held against a reference (people, else a judge) on the same replies.
Everything is a share of replies, or made of shares, and each knows how much every item moves it, so
that a standard error holds together what is about one item, in both directions and all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from minihmx.results.agreement import ERRORS, LEAST_ANSWERS, LEAST_QUESTIONS

LEAST_INFORMATION = 0.1  # sensitivity + specificity - 1; a coin has 0, and a rate is divided by it
Z_95 = 1.959963984540054  # standard errors of a 95 % interval


class Share(NamedTuple):
    """A number made of shares. moves: by item, how far the item moves it from what the others say;
    with the correction G / (G - 1) for G items."""

    value: float
    moves: Mapping[str, float]

    @property
    def error(self) -> float:
        """Its standard error, replies about one item going together."""
        return math.sqrt(math.fsum(move**2 for move in self.moves.values()))

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %."""
        return self.value - Z_95 * self.error, self.value + Z_95 * self.error


def share_of(replies: Iterable[tuple[str, bool]]) -> Share:
    """The share of replies that count; a reply is its item, and whether it counts.

    The error is that of stats.clustered_standard_error. Three of four count, and item b has one of
    its two: b moves the share by (1 - 2 * 3/4) / 4, and a by as much the other way.

    >>> found = share_of([("a", True), ("a", True), ("b", True), ("b", False)])
    >>> found.value, round(found.error, 4)
    (0.75, 0.25)

    Raises ValueError without replies.
    """
    tops, counts = dict[str, int](), dict[str, int]()
    for item, counted in replies:
        tops[item] = tops.get(item, 0) + counted
        counts[item] = counts.get(item, 0) + 1
    n, groups = sum(counts.values()), len(counts)
    if not n:
        raise ValueError("there is no share of no replies")
    value = sum(tops.values()) / n
    more = math.sqrt(groups / (groups - 1)) if groups > 1 else math.inf
    moves = {item: (tops[item] - value * counts[item]) / n for item in counts}
    return Share(value, {item: move * more if move else 0.0 for item, move in moves.items()})


def weighted(constant: float, *terms: tuple[float, Share]) -> Share:
    """constant + the sum of weight x share, the items of the shares being the same ones."""
    moves = dict[str, float]()
    for weight, each in terms:
        for item, move in each.moves.items():
            moves[item] = moves.get(item, 0.0) + weight * move
    return Share(constant + math.fsum(weight * each.value for weight, each in terms), moves)


def less(one: Share | None, other: Share | None) -> Share | None:
    """The difference, None where one of them is."""
    return weighted(0.0, (1.0, one), (-1.0, other)) if one and other else None


def corrected_rate(observed: Share, sensitivity: Share, specificity: Share) -> Share | str:
    """(observed + specificity - 1) / (sensitivity + specificity - 1), or why there is none.

    That is the rate which a reader with these faults would show as the observed one (Rogan and
    Gladen 1978). Where the divisor is near 0, or within two standard errors of it, the reader calls
    replies that count as often as those that do not, and nothing follows from its rate. By chance
    the rate may lie outside 0 to 1; it is not moved.
    """
    informed = weighted(-1.0, (1.0, sensitivity), (1.0, specificity))
    if informed.value < LEAST_INFORMATION or informed.value <= ERRORS * informed.error:
        return (
            f"no information: sensitivity + specificity - 1 is {informed.value:.2f} ± "
            f"{informed.error:.2f}"
        )
    top = observed.value + specificity.value - 1
    value, slope = top / informed.value, 1 / informed.value
    moved = weighted(0.0, (slope, observed), (slope, specificity), (-value * slope, informed)).moves
    return Share(value, moved)


class ReadReply(NamedTuple):
    """One reply of one side (base, forward, reverse), and what was read in it.

    counts: by reader, whether the reply counts for one rate; None where the reader read nothing.
    """

    side: str
    item: str
    counts: Mapping[str, bool | None]


class Faults(NamedTuple):
    """One reader on one side's replies.

    observed: its rate over all replies. sensitivity, specificity: held against the reference, on
    those that both read; None, and why, where too few of them count or do not. caught of positive,
    and passed of negative: the counts behind them.
    """

    replies: int
    observed: Share | None
    sensitivity: Share | None
    specificity: Share | None
    caught: int
    positive: int
    passed: int
    negative: int
    corrected: Share | None
    why: str

    @property
    def missed(self) -> Share | None:
        """The false negatives' share of what counts."""
        return weighted(1.0, (-1.0, self.sensitivity)) if self.sensitivity else None


def faults(replies: Sequence[ReadReply], reader: str, reference: str) -> Faults:
    """What a reader misses and what it makes up in these replies, held against the reference."""
    read = [(r.item, r.counts[reader], r.counts.get(reference)) for r in replies]
    own = [(item, count) for item, count, _ in read if count is not None]
    right = [(i, bool(count)) for i, count, held in read if held is True and count is not None]
    wrong = [(i, not count) for i, count, held in read if held is False and count is not None]
    observed = share_of(own) if own else None
    whys = few(right, "count"), few(wrong, "do not count")
    sensitivity = None if whys[0] else share_of(right)
    specificity = None if whys[1] else share_of(wrong)
    corrected: Share | str | None = None
    if observed and sensitivity and specificity:
        corrected = corrected_rate(observed, sensitivity, specificity)
    return Faults(
        len(own),
        observed,
        sensitivity,
        specificity,
        sum(caught for _, caught in right),
        len(right),
        sum(passed for _, passed in wrong),
        len(wrong),
        corrected if isinstance(corrected, Share) else None,
        corrected if isinstance(corrected, str) else whys[0] or whys[1],
    )


def few(replies: Sequence[tuple[str, bool]], which: str) -> str:
    """Why nothing can be said from these replies, or ""."""
    items = len({item for item, _ in replies})
    if len(replies) >= LEAST_ANSWERS and items >= LEAST_QUESTIONS:
        return ""
    return (
        f"too few that {which}: {len(replies)} by the reference, on {items} of the questions, and "
        f"a statement needs {LEAST_ANSWERS} on {LEAST_QUESTIONS}"
    )


class DirectionGap(NamedTuple):
    """Forward less reverse by one reader; None where one of the two is not known.

    missed: FN_F - FN_R, which the paper takes for 0. observed, corrected: of the rates.
    """

    observed: Share | None
    missed: Share | None
    corrected: Share | None


def direction_gap(forward: Faults, reverse: Faults) -> DirectionGap:
    """What the faults do to the difference between the directions."""
    return DirectionGap(
        less(forward.observed, reverse.observed),
        less(forward.missed, reverse.missed),
        less(forward.corrected, reverse.corrected),
    )
