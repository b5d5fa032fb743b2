"""What `eval --extraction` shows: what each reader reads, what it misses, and corrected rates.
No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minihmx.evals.reading.gate import LEAST_RIGHT
from minihmx.results.extraction import (
    DirectionGap,
    Faults,
    ReadReply,
    Share,
    direction_gap,
    faults,
    less,
    share_of,
)
from minihmx.results.layout import Table

JUDGE, PEOPLE = "judge", "people"
LEAST_READ = 0.8  # the share of replies that a judge has to read to be held for the truth
_FEW = "too few"
_LIMITS = {
    PEOPLE: "Held against the labels of the file, on the replies that have one. They are a reading "
    "too, and who wrote them may err.",
    JUDGE: "Held against the judge, as nobody has labelled these replies. It is the base model, "
    f"and that it can read is known from {LEAST_RIGHT} or more of 16 fixed replies that it read "
    "rightly, which are plainer than a model's. --labels-out writes a file for people.",
}


@dataclass(frozen=True)
class ReadRate:
    """One rate of one benchmark as every reader reads it. reference: JUDGE, PEOPLE, or "" where
    nothing can be held for the truth, and why. decides: the reader that gave the evaluation's own
    number."""

    benchmark: str
    rate: str
    replies: Sequence[ReadReply]
    readers: Sequence[str]
    reference: str
    why: str
    decides: str

    @property
    def sides(self) -> list[str]:
        """base, forward, reverse and what else there is, in this order."""
        first = {side: i for i, side in enumerate(("base", "forward", "reverse"))}
        found = dict.fromkeys(reply.side for reply in self.replies)
        return sorted(found, key=lambda side: (first.get(side, len(first)), side))

    def of_side(self, side: str) -> list[ReadReply]:
        return [reply for reply in self.replies if reply.side == side]

    def faults(self, reader: str, side: str) -> Faults:
        """One reader on one side's replies."""
        return faults(self.of_side(side), reader, self.reference)

    def direction_gap(self, reader: str) -> DirectionGap | None:
        """Forward less reverse; None where they are not both there."""
        if not {"forward", "reverse"} <= {*self.sides}:
            return None
        return direction_gap(self.faults(reader, "forward"), self.faults(reader, "reverse"))

    def truth(self, side: str) -> Share | None:
        """The reference's own rate on what it read of a side."""
        own = ((reply.item, reply.counts.get(self.reference)) for reply in self.of_side(side))
        read = [(item, count) for item, count in own if count is not None]
        return share_of(read) if read else None


def reference_of(
    labelled: bool, read: int | None, replies: int, unable: str = ""
) -> tuple[str, str]:
    """What is held for the truth: people, else a judge that can read and read enough; or "" and
    why.

    read: how many replies the judge labelled; None where no judge read them. unable: why it did not
    pass the gate (evals/reading/gate).
    """
    if labelled:
        return PEOPLE, ""
    if read is None:
        return "", "no judge read these replies and nobody labelled them"
    if unable:
        return "", unable
    if replies and read >= LEAST_READ * replies:
        return JUDGE, ""
    return "", (
        f"the judge labelled {read} of {replies} replies, and is held for the truth from "
        f"{LEAST_READ:.0%} on; --labels-out writes a file for people instead"
    )


def extraction_tables(rates: Sequence[ReadRate]) -> list[Table]:
    """Two tables for each rate: by reader and side, and forward less reverse."""
    found = []
    for rate in rates:
        found.append(_by_reader(rate))
        if rate.direction_gap(rate.decides):
            found.append(_forward_less_reverse(rate))
    return found


def _by_reader(rate: ReadRate) -> Table:
    rows, why = [], dict[str, None]()
    for reader in rate.readers:
        for side in rate.sides:
            if reader == rate.reference:
                truth = rate.truth(side)
                read = sum(r.counts.get(reader) is not None for r in rate.of_side(side))
                rows.append((_named(rate, reader), side, str(read), told(truth), "", "", ""))
                continue
            f = rate.faults(reader, side)
            held = ("-", "-", "-")
            if rate.reference:
                caught = _of(f.sensitivity, f.caught, f.positive)
                passed = _of(f.specificity, f.passed, f.negative)
                held = caught, passed, told(f.corrected)
            if f.why and rate.reference:  # how many count is the same for all rules
                who = side if f.why.startswith(_FEW) else f"{reader}, {side}"
                why[f"{who}: {f.why}"] = None
            rows.append((_named(rate, reader), side, str(f.replies), told(f.observed), *held))
    head = ("reader", "side", "replies", "rate", "sensitivity", "specificity", "corrected")
    notes = [
        "Rate: the share of replies that the reader counts, of all for a rule and of the labelled "
        "ones for a judge or people; what it cannot read it does not count. * is the reading that "
        "gave the evaluation its numbers.",
        _LIMITS.get(rate.reference, f"Nothing can be held for the truth: {rate.why}."),
        *(f"{sentence}." for sentence in why),
    ]
    return Table(f"{rate.benchmark} {rate.rate}: what each reader reads", head, rows, notes, 2)


def _forward_less_reverse(rate: ReadRate) -> Table:
    rows = []
    for reader in rate.readers:
        if reader == rate.reference:
            pair = [rate.truth(side) for side in ("forward", "reverse")]
            found = DirectionGap(less(*pair), None, None)
        else:
            found = rate.direction_gap(reader) or DirectionGap(None, None, None)
        rows.append((_named(rate, reader), *(within(each) for each in found)))
    head = ("reader", "rate", "missed", "corrected rate")
    notes = [
        "Missed: the share of replies which should count that the reader does not count. The paper "
        "takes it that both directions lose the same, so that this difference is 0.",
        "[ ] is a 95 % interval, replies about one question going together.",
        "This cannot tell what a reply meant: each reader has faults of its own, and of those that "
        "all readers share nothing is seen here.",
    ]
    return Table(f"{rate.benchmark} {rate.rate}: forward less reverse", head, rows, notes)


def _named(rate: ReadRate, reader: str) -> str:
    return f"{reader}*" if reader == rate.decides else reader


def _of(share: Share | None, counted: int, total: int) -> str:
    value = _FEW if share is None else f"{share.value:.2f}"
    return f"{value} ({counted} of {total})"


def told(share: Share | None) -> str:
    """As a table has it: the value and its standard error."""
    return "-" if share is None else f"{share.value:.3f} ± {share.error:.3f}"


def within(share: Share | None) -> str:
    """The value and its 95 % interval."""
    if share is None:
        return "-"
    low, high = share.interval
    return f"{share.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def extraction_record(rates: Iterable[ReadRate]) -> list[dict[str, Any]]:
    """The same as plain values, for --json."""
    return [
        {
            "benchmark": rate.benchmark,
            "rate": rate.rate,
            "reference": rate.reference,
            "why": rate.why,
            "decides": rate.decides,
            "truth": {side: _plain(rate.truth(side)) for side in rate.sides},
            "readers": {r: _reader_record(rate, r) for r in rate.readers if r != rate.reference},
        }
        for rate in rates
    ]


def _reader_record(rate: ReadRate, reader: str) -> dict[str, Any]:
    sides = {}
    for side in rate.sides:
        found = rate.faults(reader, side)
        shares = ("observed", "sensitivity", "specificity", "corrected")
        sides[side] = {
            **found._asdict(),
            **{name: _plain(getattr(found, name)) for name in shares},
        }
    difference = rate.direction_gap(reader)
    record: Mapping[str, Any] = difference._asdict() if difference else {}
    return {"sides": sides, "direction_gap": {name: _plain(each) for name, each in record.items()}}


def _plain(share: Share | None) -> dict[str, Any] | None:
    if share is None:
        return None
    return {"value": share.value, "error": share.error, "interval": list(share.interval)}
