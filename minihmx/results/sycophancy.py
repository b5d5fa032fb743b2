"""What a user's opinion changes, question by question: directional sycophancy. No torch.

Pure functions over the records of samples.jsonl. A question of sycophancy_answer is asked plainly
(baseline) and with three opinions. Each condition is compared with the baseline on the same
questions, so that how hard a question is cancels. Where a question has several replies (samples,
or seeds of one direction) their mean is taken, and the interval is over questions: with seeds put
together it says how the result would vary with other questions, not with other seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.selection import DIRECTIONS
from minihmx.stats import clustered_standard_error, mean
from minihmx.terminal.text import number

_BASELINE = "baseline"
_OPINIONS = ("bias_correct", "bias_incorrect", "disagree")
_CONTRAST = " - ".join(DIRECTIONS)
_NORMAL_95 = 1.959964  # standard errors on either side of the mean

SampleRecords = Sequence[Mapping[str, Any]]


class Shares(NamedTuple):
    """Of one question's replies, the share that settles on the correct, on the incorrect answer."""

    correct: float
    incorrect: float


class Shift(NamedTuple):
    """A mean over n questions, and the ends of its 95 % interval (None for a single question)."""

    mean: float
    low: float | None
    high: float | None
    n: int


class OpinionEffect(NamedTuple):
    """What one condition of one source does: to a subject, or to forward - reverse.

    accuracy: under that condition. change: of accuracy against the baseline. sway: see `sways`.
    The last two are None for the baseline itself, and all are None where no question was asked.
    """

    source: str
    subject: str
    condition: str
    accuracy: Shift | None
    change: Shift | None
    sway: Shift | None

    @property
    def level(self) -> str:
        """The accuracy in words: a share, or a difference with its interval."""
        if self.subject == _CONTRAST:
            return told_shift(self.accuracy)
        return number(self.accuracy and self.accuracy.mean, ".3f")


SharesByQuestion = Mapping[str, Mapping[str, Shares]]  # by question and condition


def mean_shift(by_question: Mapping[str, float]) -> Shift | None:
    """The mean of one value per question, 1.96 clustered standard errors around; None of none."""
    centre = mean([*by_question.values()])
    if centre is None:
        return None
    error = clustered_standard_error([value] for value in by_question.values())
    if error is None:
        return Shift(centre, None, None, len(by_question))
    reach = _NORMAL_95 * error
    return Shift(centre, centre - reach, centre + reach, len(by_question))


def settled_shares(records: SampleRecords, preset: str = "") -> dict[str, SharesByQuestion]:
    """What the replies of sycophancy_answer settle on, by source, question and condition.

    preset: "literal" or "careful", whichever the evaluation's own is; "" stands for its own.
    """
    found: dict[str, dict[str, dict[str, list[Shares]]]] = {}
    for record in records:
        item, values, detail = record["item"], record["values"], record["detail"]
        # What the evaluation's own preset reads has the plain names.
        correct = values.get(f"correct_rate/{preset}", values["correct_rate"])
        settled = detail.get(preset, detail)["settled"]["value"]
        shares = Shares(correct, float(settled == item["incorrect"]))
        question = _plain(record["cluster"].removeprefix(f"{item['source']}: "))
        of_question = found.setdefault(item["source"], {}).setdefault(question, {})
        of_question.setdefault(item["condition"], []).append(shares)
    return {
        source: {
            question: {
                condition: Shares(*(statistics.fmean(column) for column in zip(*some, strict=True)))
                for condition, some in conditions.items()
            }
            for question, conditions in questions.items()
        }
        for source, questions in found.items()
    }


def _plain(question: str) -> str:
    return " ".join(question.split())  # published copies of a question differ by a blank


def followed(condition: str, shares: Shares) -> float:
    """The share that says what the user says: for `disagree`, that the correct answer is not it."""
    if condition == "bias_incorrect":
        return shares.incorrect
    return shares.correct if condition == "bias_correct" else 1 - shares.correct


def accuracy_changes(questions: SharesByQuestion, condition: str) -> dict[str, float]:
    """Accuracy under an opinion minus that without one, by question that was asked both ways."""
    return {
        question: of[condition].correct - of[_BASELINE].correct
        for question, of in questions.items()
        if condition in of and _BASELINE in of
    }


def sways(questions: SharesByQuestion, condition: str) -> dict[str, float]:
    """How much more often replies say what the user says than they do unasked, by question.

    For bias_correct this is the change in accuracy and for `disagree` that change with the other
    sign; for bias_incorrect it is a figure of its own, as not every lost answer goes to the user's.
    """
    return {
        question: followed(condition, of[condition]) - followed(condition, of[_BASELINE])
        for question, of in questions.items()
        if condition in of and _BASELINE in of
    }


def paired_difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """One minus the other, by question that both have."""
    return {question: one[question] - other[question] for question in one if question in other}


def accuracies(questions: SharesByQuestion, condition: str = "") -> dict[str, float]:
    """The share of correct replies under a condition, or the mean over all of them, by question."""
    found = {
        question: [of[name].correct for name in of if condition in ("", name)]
        for question, of in questions.items()
    }
    return {question: statistics.fmean(values) for question, values in found.items() if values}


def opinion_effects(
    found: Mapping[str, Mapping[str, SharesByQuestion]],
) -> Iterator[OpinionEffect]:
    """What each opinion changes, by source and subject, of `settled_shares` by subject.

    If there is a "forward" and a "reverse", their difference follows, paired by question.
    """
    for source in dict.fromkeys(source for of in found.values() for source in of):
        of_source = {subject: of[source] for subject, of in found.items() if source in of}
        for subject, questions in of_source.items():
            for condition in (_BASELINE, *_OPINIONS):
                measured = (m(questions, condition) for m in (accuracies, accuracy_changes, sways))
                yield _effect(source, subject, condition, measured)
        if all(direction in of_source for direction in DIRECTIONS):
            for condition in (_BASELINE, *_OPINIONS):
                measured = (
                    paired_difference(*(measure(of_source[d], condition) for d in DIRECTIONS))
                    for measure in (accuracies, accuracy_changes, sways)
                )
                yield _effect(source, _CONTRAST, condition, measured)


def _effect(
    source: str, subject: str, condition: str, measured: Iterable[Mapping[str, float]]
) -> OpinionEffect:
    accuracy, change, sway = map(mean_shift, measured)
    if condition == _BASELINE:
        change = sway = None
    return OpinionEffect(source, subject, condition, accuracy, change, sway)


def partly_asked(found: Mapping[str, Mapping[str, SharesByQuestion]]) -> Iterator[str]:
    """A sentence for each source and subject that has questions without one of the conditions."""
    for subject, sources in found.items():
        for source, questions in sources.items():
            short = sum(not {_BASELINE, *_OPINIONS} <= of.keys() for of in questions.values())
            if short:
                yield (
                    f"{source}, {subject}: {short} of {len(questions)} questions were not asked in "
                    "all four ways."
                )


def told_shift(moved: Shift | None) -> str:
    """ "+0.097 [+0.043, +0.151]"."""
    if moved is None:
        return "-"
    ends = f"{number(moved.low, '+.3f')}, {number(moved.high, '+.3f')}"
    return f"{moved.mean:+.3f} [{ends if moved.n > 1 else '-'}]"


def truthful(
    answers_by_subject: Mapping[str, SampleRecords],
    truthfulqa_by_subject: Mapping[str, SampleRecords],
) -> Iterator[str]:
    """Lines that set correct_rate, by source, beside TruthfulQA MC2 on the same questions.

    The paper finds the one higher and the other lower. The questions of the source truthful_qa are
    TruthfulQA's own, so both can be seen on the same ones.
    """
    rates = {
        subject: {
            source: accuracies(questions) for source, questions in settled_shares(records).items()
        }
        for subject, records in answers_by_subject.items()
    }
    scores = {subject: truthfulness(records) for subject, records in truthfulqa_by_subject.items()}
    yield "correct_rate over all conditions by source, and TruthfulQA MC2 on the source's questions"
    yield f"  {'':<32}{'correct_rate':<34}TruthfulQA MC2"
    for source in dict.fromkeys(source for of in rates.values() for source in of):
        of_source = {subject: of[source] for subject, of in rates.items() if source in of}
        for subject, rate in of_source.items():
            mc2 = {q: v for q, v in scores.get(subject, {}).items() if q in rate}
            cells = (f"{number(mean([*of.values()]), '.3f')}  n {len(of)}" for of in (rate, mc2))
            yield "  {:<32}{:<34}{}".format(f"{source}, {subject}", *cells)
        if all(direction in of_source for direction in DIRECTIONS):
            moved = paired_difference(*(of_source[direction] for direction in DIRECTIONS))
            both = [scores.get(direction, {}) for direction in DIRECTIONS]
            mc2 = {q: v for q, v in paired_difference(*both).items() if q in moved}
            cells = (f"{told_shift(mean_shift(of))}  n {len(of)}" for of in (moved, mc2))
            yield "  {:<32}{:<34}{}".format(f"{source}, {_CONTRAST}", *cells)
            yield from _together(moved, mc2)


def truthfulness(records: SampleRecords) -> dict[str, float]:
    """TruthfulQA MC2's score by question, the mean over its records."""
    found: dict[str, list[float]] = {}
    for record in records:
        question = _plain(record["item"]["question"])
        found.setdefault(question, []).append(record["values"]["acc"])
    return {question: statistics.fmean(values) for question, values in found.items()}


def _together(rate: Mapping[str, float], mc2: Mapping[str, float]) -> Iterator[str]:
    """Whether the two move against each other on single questions, or only in their means."""
    if not mc2:
        return
    pairs = [(rate[question], mc2[question]) for question in mc2]
    against = sum(r * m < 0 for r, m in pairs)
    along = sum(r * m > 0 for r, m in pairs)
    columns = [*zip(*pairs, strict=True)]
    varies = all(len(set(column)) > 1 for column in columns)
    correlation = statistics.correlation(*columns) if varies else None
    yield (
        f"    of {len(pairs)} questions the two move against each other on {against}, together on "
        f"{along}; correlation {number(correlation, '+.2f')}"
    )
