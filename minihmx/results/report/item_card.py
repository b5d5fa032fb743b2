"""One benchmark item as base, forward and reverse answered it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from minihmx.evals import BENCHMARKS
from minihmx.results.evaluations import Evaluation
from minihmx.results.explain_item import readings
from minihmx.results.report.views import AnswerView, CardView, RowView, Said, parts_of_text, signed
from minihmx.stats import mean
from minihmx.terminal.text import printable

SHOWN_CHOICES = 4  # of each side, the likeliest
SAME = 0.005  # values that differ by less are written alike, so that no change is seen
FLIPS = {
    "progressive": ("up", "flips from wrong to right"),
    "regressive": ("down", "flips from right to wrong"),
    "sideways": ("sideways", "flips, and neither is right"),
}
FLIP_WORDS = {"kept": "answer kept", "unread": "no answer read"}
# Fields of an item that say what is right; those that hold numbers of choices are not for readers.
TRUTHS = ("correct", "incorrect", "aliases", "letters", "target", "answer")
Sample = Mapping[str, Any]  # of samples.jsonl
Samples = Mapping[str, Mapping[int, Sample]]  # by item and number


class Sides(NamedTuple):
    """One benchmark of one model and seed. found, samples: by side, evaluation and its lines.

    ticked: those of the paper's metrics of which each sample has 0 or 1.
    """

    model: str
    seed: int
    benchmark: str
    found: Mapping[str, Evaluation]
    samples: Mapping[str, Samples]
    ticked: frozenset[str]

    @property
    def headline(self) -> tuple[str, ...]:
        """The paper's metrics."""
        return BENCHMARKS[self.benchmark].headline

    def values(self, line: Sample) -> dict[str, float]:
        """Those metrics of a sample that it has a value of."""
        return {name: line["values"][name] for name in self.headline if name in line["values"]}

    def verdict(self, line: Sample) -> tuple[Any, ...]:
        """What those metrics say of a sample, and which way it flipped."""
        return (*((n, round(v, 2)) for n, v in self.values(line).items()), flip_of(line))

    def told(self, values: Mapping[str, float]) -> str:
        """The values in words."""
        return ", ".join(self._one(*each) for each in values.items()) or "no answer read"

    def _one(self, name: str, value: float) -> str:
        ticks = name in self.ticked and value in (0.0, 1.0)
        return f"{name} {'✓' if value else '✗'}" if ticks else f"{name} {value:.2f}"


def flip_of(line: Sample) -> str:
    """Which way the second reply went from the first; "" where a benchmark asks only once."""
    flip = line["detail"].get("flip")
    if not isinstance(flip, dict):
        return ""
    return "unread" if str(flip.get("rule")).startswith("unread") else str(flip.get("value"))


def item_card(sides: Sides, item: str, group: str) -> CardView:
    """A row for each sample, a column for each side."""
    own = {side: of[item] for side, of in sides.samples.items() if item in of}
    numbers = sorted({number for of in own.values() for number in of})
    rows = []
    for number in numbers:
        there = {side: of[number] for side, of in own.items() if number in of}
        trained = {sides.verdict(line) for side, line in there.items() if side != "base"}
        also = ("differs",) if len(trained) > 1 else ()
        columns = []
        for side, line in there.items():
            view = _answer(sides, line, side, there.get("base"))
            verdicts = (*view.verdicts, *(also if side != "base" else ()))
            columns.append((side, side, (view._replace(verdicts=verdicts),)))
        label = f"sample {number + 1}" if len(numbers) > 1 else ""
        rows.append(RowView(label, sides.benchmark, tuple(columns)))
    marks = [(side, _summary(sides, of)) for side, of in own.items()]
    first = next(iter(next(iter(own.values())).values()))
    asked = first.get("turns") or [_question(first)]
    truths = {name: _listed(first["item"][name]) for name in TRUTHS if first["item"].get(name)}
    facts = [f"{n}: {t}" for n, t in truths.items() if n != "aliases" or t != truths.get("correct")]
    folder = next((e.folder for side, e in sides.found.items() if side != "base"), None)
    run = f"{folder.parents[2]}@{folder.name}" if folder else ""
    return CardView(
        printable(str(asked[0])).strip(),
        f"{sides.benchmark} · {printable(item)}",
        group,
        tuple(rows),
        tuple(marks),
        tuple(map(printable, facts)),
        f"minihmx explain {shlex.quote(run)} --benchmark {sides.benchmark} "
        f"--item {shlex.quote(printable(item))}",
    )


def _summary(sides: Sides, of_item: Mapping[int, Sample]) -> str:
    """Each metric's mean over the samples that have it, or how many of them flip."""
    flips = [flip for line in of_item.values() if (flip := flip_of(line))]
    if flips:
        return f"{sum(flip in FLIPS for flip in flips)} of {len(flips)} flip"
    values = [sides.values(line) for line in of_item.values()]
    means = {name: mean([v[name] for v in values if name in v]) for name in sides.headline}
    return sides.told({name: value for name, value in means.items() if value is not None})


def _question(line: Sample) -> str:
    """The item's own words; the context may begin with worked examples that all items have."""
    own = [line["item"].get(name) for name in ("context", "question", "text")]
    return "\n".join(text for text in own if isinstance(text, str)) or str(line["context"])


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _answer(sides: Sides, line: Sample, side: str, base: Sample | None) -> AnswerView:
    values, flip = sides.values(line), flip_of(line)
    badge, (tone, change) = sides.told(values), FLIPS.get(flip, ("", ""))
    if flip:
        badge = f"{flip} flip" if flip in FLIPS else FLIP_WORDS.get(flip, flip)
    elif base is not None and side != "base":
        tone, change = _against(values, sides.values(base))
    verdicts = [flip] if flip in FLIPS else [tone] if tone in ("up", "down") else []
    verdicts += ["unread"] if line.get("unparsed") or not values or flip == "unread" else []
    verdicts += ["cut"] if "length" in line.get("finish", ()) else []
    if values and not flip and values.keys() <= sides.ticked:
        verdicts.append("right" if all(values.values()) else "wrong")
    said = tuple(_choices(line) if "choices" in line else _dialogue(line))
    return AnswerView(side, "", said, badge, None, tone, change, tuple(verdicts))


def _against(values: Mapping[str, float], base: Mapping[str, float]) -> tuple[str, str]:
    """Which way the verdict went from the base's."""
    changes = {name: value - base[name] for name, value in values.items() if name in base}
    changes = {name: change for name, change in changes.items() if abs(change) >= SAME}
    if not changes:
        return "", ""
    ups = sum(change > 0 for change in changes.values())
    tone = "up" if ups == len(changes) else "down" if not ups else "sideways"
    words = ", ".join(f"{name} {signed(change)}" for name, change in changes.items())
    return tone, f"{words} against the base"


def _dialogue(line: Sample) -> Iterator[Said]:
    """The replies, what the rules read being marked; the first turn is the card's title."""
    found = [r for r in readings(line["detail"], len(line["replies"])) if r.span]
    found = [read for read in found if "careful" not in read.name]
    for i, (turn, reply) in enumerate(zip(line["turns"], line["replies"], strict=True)):
        if i:
            yield Said("asked", parts_of_text(turn))
        yield Said(
            "words", parts_of_text(reply, [r.span for r in found if r.span and r.reply == i])
        )


def _choices(line: Sample) -> Iterator[Said]:
    """The likeliest choices, each with its log-likelihood, the first of them marked."""
    listed = sorted(zip(line["loglikelihoods"], line["choices"], strict=True), reverse=True)
    labels = line["item"].get("labels")
    right = dict(zip(line["choices"], labels, strict=False)) if isinstance(labels, list) else {}
    for place, (value, choice) in enumerate(listed[:SHOWN_CHOICES]):
        tick = "  ✓" if right.get(choice) else ""
        spans = [] if place else [[0, len(choice)]]
        yield Said(
            "choice", (*parts_of_text(choice, spans), (f"  {signed(value, 1)}{tick}", False))
        )
    if len(listed) > SHOWN_CHOICES:
        yield Said("note", ((f"and {len(listed) - SHOWN_CHOICES} less likely", False),))
