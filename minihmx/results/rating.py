"""People's ratings of stored held-out answers, beside the judge's scores. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import UserError
from minihmx.probes.examples import SIDES
from minihmx.probes.judged_folder import epoch_file, stored_answers
from minihmx.results.agreement import Both, Effect, Mean, effect_or_why, too_few
from minihmx.results.blind import Sheet, row_id, sheet_bytes
from minihmx.results.epochs import EPOCH_NAME
from minihmx.results.judged_tables import agreement_of
from minihmx.results.layout import Table
from minihmx.results.runs import TrainedRun
from minihmx.seeding import digest
from minihmx.stats import clustered_standard_error, mean
from minihmx.storage.strict import read_file
from minihmx.terminal.text import number

Ratings = Mapping[str, int]  # by row id
_WHOLE = re.compile(r"(\d{1,2})(?:[.,]0+)?")
_FEW = "too few"
_DIFFERENCES = (("base", "forward"), ("base", "reverse"), ("reverse", "forward"))


class StoredAnswer(NamedTuple):
    """A held-out answer as a run keeps it. side: base, forward or reverse. text: the question's
    words, whose id is `question`. score: the judge's; None if it gave none."""

    side: str
    question: str
    text: str
    answer: str
    score: int | None

    @property
    def row(self) -> str:
        """Its id in a blind file."""
        return row_id((self.text, self.answer))


def _read_rating(text: str) -> int:
    found = _WHOLE.fullmatch(text.strip())
    if not found or int(found[1]) > 10:
        raise ValueError("a whole number from 0 to 10")
    return int(found[1])


RATING_SHEET = Sheet(("question", "answer"), "rating", _read_rating)


def answers_to_rate(runs: Sequence[TrainedRun]) -> list[StoredAnswer]:
    """The answers of the compared epochs, and those of the base, which both directions of a seed
    share.

    Raises UserError for runs of several models or rubrics, because their scores mean different
    things, and for two epochs of one run, because their ratings would be mixed in one side.
    """
    for what, values in (
        ("models", {run.model for run in runs}),
        ("rubrics", {rubric_words(run) for run in runs}),
    ):
        if len(values) > 1:
            raise UserError(
                f"These runs are of {len(values)} {what}, and one rating cannot be held against "
                f"all; give the runs of one of the {what}."
            )
    trained: dict[Path, str] = {}
    found: dict[tuple[object, ...], StoredAnswer] = {}
    for run in runs:
        compared = EPOCH_NAME.fullmatch(run.epoch)
        epochs = {"base": 0, run.direction: int(compared[1]) if compared else 0}
        other = trained.setdefault(run.folder, run.epoch) if epochs[run.direction] else run.epoch
        if other != run.epoch:
            raise UserError(
                f"{run.folder} is named at {other} and at {run.epoch}, whose ratings would be "
                "taken together as those of one side; name one of the two."
            )
        for side, epoch in epochs.items():
            if side != "base" and epoch == 0:  # that is the base
                continue
            if side == "base" and not (run.folder / "evaluations" / epoch_file(0)).exists():
                continue
            for line in stored_answers(run.folder, epoch):
                text, answer = line["prompt"], line["completion"]
                one = StoredAnswer(side, line["question"], text, answer, line["score"])
                found.setdefault((side, run.seed, line["question"], line["sample"], answer), one)
    return list(found.values())


def rubric_words(run: TrainedRun) -> str:
    """The words by which the run's judge scored. People rate by the same words."""
    return read_file(run.folder / "rubric.txt").decode(errors="replace").strip()


def rating_file(answers: Sequence[StoredAnswer], limit: int, seed: int) -> tuple[bytes, int]:
    """The blind file for these answers, and how many rows it has.

    limit: the most rows, 0 for all. Rows are taken in turn from each side and question, so that all
    of these have equally many. The seed decides the order.
    """
    cells: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for a in answers:
        cells.setdefault((a.side, a.question), {})[a.row] = (a.text, a.answer)

    def drawn(names: Sequence[Any]) -> list[Any]:
        return sorted(names, key=lambda name: digest("rate", seed, name))

    columns = [[cells[cell][name] for name in drawn([*cells[cell]])] for cell in drawn([*cells])]
    rows = [row for turn in zip_longest(*columns) for row in turn if row is not None]
    rows = list(dict.fromkeys(rows))[: limit or None]
    return sheet_bytes(RATING_SHEET, rows, seed), len(rows)


class RatedAnswer(NamedTuple):
    """An answer that people rated: the mean of their ratings beside the judge's score."""

    side: str
    question: str
    row: str
    people: float
    judge: int | None


class RatingReport:
    """People's ratings by side, and how far people agree with the judge and with one another.

    raters: for each file a name, and the ratings in it.
    """

    def __init__(self, answers: Sequence[StoredAnswer], raters: Mapping[str, Ratings]):
        self.answers, self.raters = answers, raters
        self.rated = list[RatedAnswer]()
        for a in answers:
            people = mean([float(own[a.row]) for own in raters.values() if a.row in own])
            if people is not None:
                self.rated.append(RatedAnswer(a.side, a.question, a.row, people, a.score))

    def tables(self) -> list[Table]:
        """In the order of reading."""
        return [self._sides(), self._differences(), self._agreement()]

    def records(self) -> dict[str, Any]:
        """The same as plain values, for --json."""
        return {
            "raters": {name: len(ratings) for name, ratings in self.raters.items()},
            "sides": {side: self.side(side) for side in SIDES},
            "differences": {
                f"{trained} - {base}": self._difference_record(base, trained)
                for base, trained in _DIFFERENCES
            },
            "agreement": [{"pair": name, **agreement_of(p)} for name, p in self.pairs_of_readers()],
        }

    def _difference_record(self, base: str, trained: str) -> dict[str, Any]:
        found = self.difference(base, trained)
        if isinstance(found, str):
            return {"why": found}
        by_name = {"people": found.other, "judge": found.own, "ratio": found.ratio}
        return {name: each and each._asdict() for name, each in by_name.items()} | {"why": ""}

    def side(self, side: str) -> dict[str, Any]:
        """The means of people and judge over a side's rated answers; None if these are too few."""
        of_side = [a for a in self.rated if a.side == side]
        why = too_few([Both(a.question, a.people, a.people) for a in of_side], "people rated")
        judged = [a for a in of_side if a.judge is not None]
        few_judged = too_few([Both(a.question, 0, 0) for a in judged])
        return {
            "answers": len(of_side),
            "questions": len({a.question for a in of_side}),
            "people": None if why else _plain_mean([(a.question, a.people) for a in of_side]),
            "judge": None
            if few_judged
            else _plain_mean([(a.question, float(a.judge or 0)) for a in judged]),
            "why": why,
        }

    def both(self, side: str) -> list[Both]:
        """A side's answers that people rated and the judge scored. `own` is the judge's score."""
        return [
            Both(a.question, a.judge, a.people)
            for a in self.rated
            if a.side == side and a.judge is not None
        ]

    def difference(self, base: str, trained: str) -> Effect | str:
        """trained minus base, by people and by the judge; or a sentence why nothing can be said."""
        sides = self.both(base), self.both(trained)
        return effect_or_why(*sides, (base, trained), "people and judge rated")

    def pairs_of_readers(self) -> Iterator[tuple[str, list[Both]]]:
        """For the judge and the people, and for each two raters: a title, and the two marks on each
        answer that both have marked, once for each answer."""
        once = {a.row: a for a in self.rated}
        judged = [Both(a.question, a.judge, a.people) for a in once.values() if a.judge is not None]
        yield "judge and people", judged
        for (one, first), (other, second) in combinations(self.raters.items(), 2):
            common = [row for row in first if row in second and row in once]
            pairs = [Both(once[row].question, first[row], second[row]) for row in common]
            yield f"{one} and {other}", pairs

    # --- tables ----------------------------------------------------------------------------------

    def _sides(self) -> Table:
        rows, why = list[tuple[str, ...]](), list[str]()
        for side in SIDES:
            s = self.side(side)
            counts = str(s["answers"]), str(s["questions"])
            rows.append((side, *counts, _told(s["people"]), _told(s["judge"])))
            if s["why"] and s["answers"]:
                why.append(f"{side}: {s['why']}.")
        head = ("side", "answers", "questions", "people", "judge")
        notes = [
            "Mean rating and mean score, 0 to 10, of the same answers; ± is a standard error, "
            "answers to one question going together.",
            "; ".join(f"{name} has {len(own)} ratings" for name, own in self.raters.items()) + ".",
            *why,
        ]
        return Table("What people and the judge see", head, rows, notes)

    def _differences(self) -> Table:
        rows, why = list[tuple[str, ...]](), list[str]()
        for base, trained in _DIFFERENCES:
            found, name = self.difference(base, trained), f"{trained} - {base}"
            if isinstance(found, str):
                rows.append((name, _FEW, "-", "-"))
                why.append(f"{name}: {found}.")
                continue
            parts = found.other, found.own, found.ratio
            rows.append((name, *(_told(part and part._asdict()) for part in parts)))
        notes = [
            "Question by question. Ratio: the people's difference over the judge's; there is none "
            "where the judge's is within two standard errors of 0.",
            *why,
        ]
        return Table("Differences", ("", "people", "judge", "ratio"), rows, notes)

    def _agreement(self) -> Table:
        rows, why = list[tuple[str, ...]](), list[str]()
        for name, pairs in self.pairs_of_readers():
            a = agreement_of(pairs)
            figures = ("within_one", ".0%"), ("alpha", ".2f"), ("kappa", ".2f"), ("spearman", ".2f")
            told = (_FEW if a["why"] else number(a[figure], form) for figure, form in figures)
            rows.append((name, str(a["scored_by_both"]), *told))
            why += [f"{name}: {a['why']}."] if a["why"] else []
        head = ("", "answers", "within 1", "alpha", "kappa", "rank")
        notes = [
            "Alpha: Krippendorff's, for intervals; kappa: Cohen's, squared weights; rank: "
            "Spearman's correlation within a question. Answers with the same words count once.",
            *why,
            "This cannot tell whether a model feels anything: people rate its words, as the judge "
            "does, by the same rubric.",
        ]
        return Table("Agreement", head, rows, notes)


def _plain_mean(values: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The mean of (question, value) pairs, and its standard error with questions as clusters."""
    by_question: dict[str, list[float]] = {}
    for question, value in values:
        by_question.setdefault(question, []).append(value)
    centre = mean([value for _, value in values])
    error = clustered_standard_error(by_question.values())
    assert centre is not None and error is not None  # too few are no mean
    return Mean(centre, error)._asdict()


def _told(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else f"{value['value']:.2f} ± {value['error']:.2f}"
