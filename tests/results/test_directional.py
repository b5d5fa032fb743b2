"""Directional sycophancy on made-up replies whose every figure can be worked out by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import in_process

from minihmx.evals.are_you_sure import ARE_YOU_SURE
from minihmx.evals.asking.results import read_samples, sample_line
from minihmx.evals.benchmark import Answer, Choices, Score
from minihmx.evals.benchmark import switches as chosen_switches
from minihmx.evals.sycophancy import CONDITIONS
from minihmx.evals.sycophancy_answer import SYCOPHANCY_ANSWER
from minihmx.evals.truthfulqa import TRUTHFULQA
from minihmx.results.sycophancy import (
    OpinionEffect,
    Shares,
    Shift,
    accuracies,
    accuracy_changes,
    mean_shift,
    opinion_effects,
    paired_difference,
    partly_asked,
    settled_shares,
    sways,
    told_shift,
    truthful,
    truthfulness,
)
from minihmx.storage.disk import dumps
from minihmx.storage.strict import parse

RIGHT, WRONG, NONE = "Paris", "Lyon", "I do not know."
ORDER = ("baseline", "bias_correct", "bias_incorrect", "disagree")
TEMPLATES = {condition: template for template, condition in CONDITIONS.items()}


def record(
    question: str, condition: str, reply: str, sample: int = 0, source: str = "trivia_qa"
) -> Any:
    """A line of samples.jsonl as an evaluation writes it."""
    said = {"question": question, "correct_answer": RIGHT, "incorrect_answer": WRONG}
    item = {
        "id": f"{question}-{condition}",
        "prompt": TEMPLATES[condition].format(**said),
        "source": source,
        "condition": condition,
        "correct": RIGHT,
        "incorrect": WRONG,
        "long_correct": "",
    }
    switches = chosen_switches(SYCOPHANCY_ANSWER, {})
    answer = Answer(replies=(reply,), finish=("stop",))
    asked = SYCOPHANCY_ANSWER.ask(item, switches)
    score = SYCOPHANCY_ANSWER.score(item, answer, switches)
    return parse(dumps(sample_line(SYCOPHANCY_ANSWER, item, sample, asked, answer, score)).encode())


def records(replies: dict[str, tuple[str, ...]], source: str = "trivia_qa") -> list[Any]:
    """question -> its replies to the four conditions, in ORDER."""
    return [
        record(question, condition, reply, source=source)
        for question, each in replies.items()
        for condition, reply in zip(ORDER, each, strict=True)
    ]


# Of four questions without an opinion: two right, one wrong, one nothing.
FORWARD = records(
    {
        "A?": (RIGHT, RIGHT, RIGHT, RIGHT),
        "B?": (RIGHT, RIGHT, WRONG, NONE),
        "C?": (WRONG, RIGHT, WRONG, WRONG),
        "D?": (NONE, NONE, WRONG, NONE),
    }
)
# The same but for B, where no opinion changes anything, and C, where the doubt helps.
REVERSE = records(
    {
        "A?": (RIGHT, RIGHT, RIGHT, RIGHT),
        "B?": (RIGHT, RIGHT, RIGHT, RIGHT),
        "C?": (WRONG, RIGHT, WRONG, RIGHT),
        "D?": (NONE, NONE, WRONG, NONE),
    }
)


def test_what_each_opinion_changes_question_by_question() -> None:
    (questions,) = settled_shares(FORWARD).values()
    assert questions["B?"]["bias_incorrect"] == Shares(correct=0, incorrect=1)
    assert questions["D?"]["baseline"] == Shares(correct=0, incorrect=0)
    changes = {c: [*accuracy_changes(questions, c).values()] for c in ORDER[1:]}
    assert changes == {
        "bias_correct": [0, 0, 1, 0],
        "bias_incorrect": [0, -1, 0, 0],
        "disagree": [0, -1, 0, 0],
    }
    swayed = {c: [*sways(questions, c).values()] for c in ORDER[1:]}
    assert swayed == {
        "bias_correct": [0, 0, 1, 0],
        "bias_incorrect": [0, 1, 0, 1],  # D had no answer to lose, and still says what the user did
        "disagree": [0, 1, 0, 0],
    }


def test_an_interval_is_over_questions() -> None:
    shift = mean_shift({"A?": 0, "B?": -1, "C?": 0, "D?": 0})
    assert shift is not None
    error = math.sqrt((3 * 0.25**2 + 0.75**2) / 3) / math.sqrt(4)
    assert shift == pytest.approx((-0.25, -0.25 - 1.959964 * error, -0.25 + 1.959964 * error, 4))
    assert mean_shift({"A?": 1.0}) == Shift(1, None, None, 1)
    assert mean_shift({}) is None


def test_several_replies_to_a_question_are_one_of_it() -> None:
    twice = [*FORWARD, record("B?", "bias_incorrect", RIGHT, sample=1)]
    (questions,) = settled_shares(twice).values()
    assert questions["B?"]["bias_incorrect"] == Shares(0.5, 0.5)
    assert accuracy_changes(questions, "bias_incorrect")["B?"] == -0.5
    shift = mean_shift(accuracy_changes(questions, "bias_incorrect"))
    assert shift is not None and (shift.mean, shift.n) == (-0.125, 4)
    # four replies of the same words narrow nothing
    assert settled_shares(FORWARD * 4) == settled_shares(FORWARD)


def test_questions_without_a_pair_are_left_out() -> None:
    alone = [*FORWARD, record("E?", "bias_correct", RIGHT), record("F?", "baseline", WRONG)]
    (questions,) = settled_shares(alone).values()
    assert list(accuracy_changes(questions, "bias_correct")) == ["A?", "B?", "C?", "D?"]
    assert accuracies(questions, "baseline").keys() == {"A?", "B?", "C?", "D?", "F?"}
    assert accuracies(questions)["C?"] == 0.25
    assert paired_difference({"A?": 1.0, "B?": 2.0}, {"B?": 0.5, "C?": 1}) == {"B?": 1.5}


def test_the_other_preset_reads_the_same_replies() -> None:
    denied = [record("A?", "baseline", RIGHT), record("A?", "disagree", f"It is not {RIGHT}.")]
    for preset, change in (("", 0), ("literal", 0), ("careful", -1)):
        (questions,) = settled_shares(denied, preset).values()
        assert accuracy_changes(questions, "disagree") == {"A?": change}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell]


def effects(
    samples: dict[str, list[Any]], preset: str = ""
) -> dict[tuple[str, ...], OpinionEffect]:
    """By source, subject and condition."""
    found = {subject: settled_shares(records, preset) for subject, records in samples.items()}
    return {effect[:3]: effect for effect in opinion_effects(found)}


def test_each_opinion_s_effect_and_the_contrast_of_the_directions() -> None:
    found = effects({"base": REVERSE, "forward": FORWARD, "reverse": REVERSE})
    contrast = "forward - reverse"
    subjects = ("base", "forward", "reverse", contrast)
    assert [*found] == [("trivia_qa", s, c) for s in subjects for c in ORDER]
    baseline = found["trivia_qa", "forward", "baseline"]
    assert baseline.level == "0.500" and baseline.change is baseline.sway is None
    effect = found["trivia_qa", "forward", "bias_incorrect"]
    assert effect.level == "0.250" and effect.change and effect.change.n == 4
    assert told_shift(effect.change) == "-0.250 [-0.740, +0.240]"
    assert told_shift(effect.sway).startswith("+0.500 [")
    effect = found["trivia_qa", contrast, "disagree"]
    assert effect.change and effect.change.n == 4
    # B: right to nothing against right to right; C: wrong to wrong against wrong to right
    assert told_shift(effect.change).startswith("-0.500 [")
    assert told_shift(effect.sway).startswith("+0.500 [")
    assert effect.level == told_shift(effect.change), "their baselines are equal"


def test_a_part_of_the_items_says_what_it_lacks() -> None:
    samples = [record("A?", "baseline", RIGHT)]
    effect = effects({"base": samples})["trivia_qa", "base", "bias_correct"]
    assert effect[3:] == (None, None, None)
    assert (effect.level, told_shift(effect.change), told_shift(effect.sway)) == ("-", "-", "-")
    (told,) = partly_asked({"base": settled_shares(samples), "forward": settled_shares(FORWARD)})
    assert told == "trivia_qa, base: 1 of 1 questions were not asked in all four ways."
    assert effects({"base": []}) == {}


def test_sources_are_kept_apart_and_only_both_directions_are_compared() -> None:
    other = records({"A?": (WRONG, RIGHT, WRONG, WRONG)}, source="truthful_qa")
    found = effects({"forward": [*FORWARD, *other], "reverse": REVERSE}, "careful")
    of = {(source, subject) for source, subject, _ in found}
    assert {("trivia_qa", "forward - reverse"), ("truthful_qa", "forward")} < of
    assert ("truthful_qa", "forward - reverse") not in of


# --- beside TruthfulQA ---------------------------------------------------------------------------


def mc2(scores: dict[str, float]) -> Iterator[Any]:
    for question, acc in scores.items():
        item = {"id": question, "question": question, "choices": ["a", "b"], "labels": [1, 0]}
        asked, score = Choices("", ("a", "b")), Score({"acc": acc}, {})
        yield sample_line(TRUTHFULQA, item, 0, asked, Answer((0.0, 0.0)), score)


def test_correct_rate_is_joined_with_truthfulqa_by_its_questions() -> None:
    first, second = (
        records({"A?": (a,) * 4, "B  b?": (b,) * 4, "C?": (RIGHT,) * 4}, "truthful_qa")
        for a, b in ((RIGHT, WRONG), (WRONG, RIGHT))
    )
    answers = {"forward": [*first, *FORWARD], "reverse": [*second, *REVERSE]}
    scores = {
        "forward": [*mc2({"A?": 0.25, "B b? ": 0.5, "Z?": 1.0})],
        "reverse": [*mc2({"A?": 0.5, "B b? ": 0.25, "Z?": 0.0})],
    }
    assert truthfulness(scores["forward"]) == {"A?": 0.25, "B b?": 0.5, "Z?": 1.0}
    lines = [*truthful(answers, scores)]
    rows = {cells(line)[0]: cells(line)[1:] for line in lines[2:] if not line.startswith("    ")}
    assert rows["truthful_qa, forward"] == ["0.667", "n 3", "0.375", "n 2"]
    assert rows["trivia_qa, forward"][2:] == ["0.250", "n 1"], "A? is asked in both sources"
    moved = rows["truthful_qa, forward - reverse"]
    assert (moved[1], moved[2][:6], moved[3]) == ("n 3", "+0.000", "n 2")
    assert (
        "    of 2 questions the two move against each other on 2, together on 0; correlation -1.00"
        in lines
    )


def test_without_truthfulqa_there_is_only_the_rate() -> None:
    lines = [*truthful({"forward": FORWARD, "reverse": REVERSE}, {})]
    assert cells(lines[-1])[2:] == ["n 4", "-", "n 0"]


@pytest.mark.slow
def test_a_real_evaluation_has_what_is_read(tmp_path: Path) -> None:
    flags = ["--tasks", "sycophancy_answer,are_you_sure", "--data", "sample", "--limit", 48]
    done = in_process("eval", "tiny", *flags, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    folders = {f.parent.name: f for f in (tmp_path / "tiny" / "base" / "evals").glob("*/*")}
    lines = read_samples(folders["sycophancy_answer"])
    (questions,) = settled_shares(lines).values()
    told = sum(accuracies(questions, c)[q] for q in questions for c in questions[q])
    assert told * 4 == sum(line["values"]["correct_rate"] for line in lines)
    found = effects({"base": lines})
    assert [*found] == [("tiny", "base", condition) for condition in ORDER]
    assert all(effect.accuracy and effect.accuracy.n for effect in found.values())
    shown = done.stdout.partition(ARE_YOU_SURE.title)[2]
    assert re.findall(r"flip_rate_strict .* n (\d+)\n", shown) == ["192"]
    assert "  the literal and the careful reading differ in flip_rate" in done.stdout
