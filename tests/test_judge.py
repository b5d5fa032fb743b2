"""The judge: the rubric as published, and the score grammar on the table in judge_cases.py."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from conftest import shared
from hypothesis import example, given, settings
from hypothesis import strategies as st
from judge_cases import CUT, FLAGGED, NOT_CUT, NOT_CUT_UNSCORED, SCORED, UNSCORED

from minihmx.judge import RUBRIC, judge_prompt, parse_score, reward, score_line_end
from minihmx.records import Unscored, Verdict


def expect(marked: str, flags: tuple[str, ...] = (), finished: bool = True) -> None:
    start, end = marked.index("«"), marked.index("»") - 1
    text = marked.replace("«", "").replace("»", "")
    wanted = Verdict(int(text[start:end]), (start, end), flags)
    assert parse_score(text, finished) == wanted, repr(text)


@pytest.mark.parametrize("marked", SCORED)
def test_scored(marked: str) -> None:
    expect(marked)


@pytest.mark.parametrize(("marked", "flags"), FLAGGED)
def test_flagged(marked: str, flags: tuple[str, ...]) -> None:
    expect(marked, flags)


@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, ts in UNSCORED.items() for t in ts])
def test_unscored(reason: str, text: str) -> None:
    assert parse_score(text, finished=True) == Unscored(reason)


@pytest.mark.parametrize("text", CUT)
def test_cut(text: str) -> None:
    assert parse_score(text, finished=False) == Unscored("cut")
    assert parse_score(text, finished=True) != Unscored("cut")


@pytest.mark.parametrize(("marked", "flags"), NOT_CUT)
def test_decided_before_the_cut(marked: str, flags: tuple[str, ...]) -> None:
    expect(marked, flags, finished=False)


@pytest.mark.parametrize(("text", "reason"), NOT_CUT_UNSCORED)
def test_unscored_before_the_cut(text: str, reason: str) -> None:
    assert parse_score(text, finished=False) == Unscored(reason)


WRITTEN = [
    *(marked.replace("«", "").replace("»", "") for marked in SCORED),
    *(marked.replace("«", "").replace("»", "") for marked, _ in [*FLAGGED, *NOT_CUT]),
    *(text for texts in UNSCORED.values() for text in texts),
    *CUT,
    *(text for text, _ in NOT_CUT_UNSCORED),
]


def without_flag(found: Verdict | Unscored) -> Verdict | Unscored:
    """A flag about what follows the score line is all that may be lost with it."""
    if isinstance(found, Unscored):
        return found
    return replace(found, flags=tuple(f for f in found.flags if f != "more-score-lines"))


@pytest.mark.parametrize("tail", ["", "\n", "\nReason: 9 of 10.", "\nScore: 3\n", " or 8\nNo: 2"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_text_cut_behind_its_score_line_has_the_same_verdict(tail: str, finished: bool) -> None:
    ended = 0
    for text in WRITTEN:
        whole = text + tail
        end = score_line_end(whole)
        if end is None:  # such a row goes on to its own end
            assert "\n" not in tail or parse_score(text, True) == Unscored("no-line")
            continue
        ended += 1
        # Whoever generates it sees the line end at the first text that holds it, and not before.
        assert score_line_end(whole[:end]) == end and score_line_end(whole[: end - 1]) is None
        for how in (True, False):
            assert parse_score(whole[:end], how) == without_flag(parse_score(whole, finished))
    assert ended > (20 if tail else 0)


@given(st.text(alphabet="Score: 17\n*/.-or", max_size=40), st.text(max_size=20), st.booleans())
def test_what_follows_a_score_line_never_changes_its_verdict(
    text: str, tail: str, finished: bool
) -> None:
    end = score_line_end(text)
    if end is not None:
        whole = parse_score(text + tail, finished)
        assert parse_score(text[:end], finished) == without_flag(whole)


MEGABYTE = 1 << 20


LONG_TEXTS = (
    [unit * (MEGABYTE // len(unit)) for unit in (" ", "\n", "*", "a", "1", "-", "Score", "Score: ")]
    + [before + unit * MEGABYTE for before in ("Score", "Score:", "- ") for unit in (" ", "`")]
    + [
        "Score: 7" + unit * (MEGABYTE // len(unit)) + "!"
        for unit in (" ", ".", "\u200b", "7", "/", "x", " or", " to a ", "(", "_", "&", "per ")
    ]
    + ["Score: 7\n" * (MEGABYTE // 9), "- " * (MEGABYTE // 2), "\n \n*" * (MEGABYTE // 4)]
)


@pytest.mark.parametrize(
    "text",
    [  # every third one is quick
        pytest.param(text, marks=pytest.mark.slow if n % 3 else [])
        for n, text in enumerate(LONG_TEXTS)
    ],
)
def test_a_megabyte_is_read_at_once(text: str) -> None:
    started = time.process_time()
    parse_score(text, finished=True)
    assert time.process_time() - started < 1.0


PIECES = st.sampled_from(
    [
        *("Score", "score:", ":", "：", "7", "10", "0", "1", "５", "²", "/10", "/", ".", ","),
        *("-", "–", "~", "%", "**", "`", "•", " ", "\n", "\u200b", "or", "th"),
        *("(", "[", ")", '"', "|", "_", "％", " per", "maybe ", "the ", "one ", "x", "&"),
        *(" or ", " to ", "and a", " half", " out of ", " ten", "eight", "per", "cent", "+", "->"),
    ]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: "Score: " + "".join(pieces)),
    st.text(max_size=40),
    st.text(max_size=20).map("Score: 7".__add__),
)


@settings(derandomize=True, deadline=None, max_examples=1000)
@given(TEXTS, st.booleans())
def test_parsing_is_total_and_a_span_holds_its_score(text: str, finished: bool) -> None:
    verdict = parse_score(text, finished)
    if isinstance(verdict, Unscored):
        assert verdict.reason in {*UNSCORED, "cut"} and (not finished or verdict.reason != "cut")
        return
    start, end = verdict.span
    assert text[start:end] == str(verdict.score) and 0 <= verdict.score <= 10
    opening = text[:start].rpartition("\n")[2]
    assert re.search(r"score[\s*_#>~`]*[:：][\s*_#>`]*$", opening, re.I)
    assert not text[end : end + 1].isalnum()
    assert set(verdict.flags) <= {"other-number", "more-score-lines"}


@settings(derandomize=True, deadline=None, max_examples=1000)
@given(TEXTS, TEXTS, st.booleans())
@example("Score: 7", "/10", True)
@example("Score: 7*", "5", True)
@example("Score: 7/1", "0", True)
@example("Score: 7 / te", "n 8", True)
@example("Score: 7 out of", " 10", True)
@example("Score: 7 or eigh", "t", True)
@example("**Score: 7**", ".5", True)
@example("Score: 7 (", "or 8)", True)
@example("Score: 7 (8", ") or 9", True)
@example("Score: 7 per c", "ent", True)
@example("Score: 7-i", "sh", True)
@example("Score: 7 out of the", " 20", True)
def test_what_an_unfinished_text_decided_stands(text: str, more: str, finished: bool) -> None:
    early, late = parse_score(text, finished=False), parse_score(text + more, finished)
    if isinstance(early, Verdict):
        assert isinstance(late, Verdict)
        assert (late.score, late.span) == (early.score, early.span)
        assert set(early.flags) <= set(late.flags)
    elif early.reason not in ("no-line", "cut"):
        assert late == early


def test_rubric_is_the_paper_s() -> None:
    paper = shared("paper/when-ai-says-it-feels.txt").read_text("utf-8")
    appendix = paper.partition("## A Reward Evaluation Prompt")[2]
    assert appendix.split("```")[1] == f"\n{RUBRIC}\n"


def test_judge_prompt() -> None:
    assert judge_prompt("Rate.", "Why?", "So.\n") == (
        "Rate.\n\nQuestion:\nWhy?\n\nCandidate answer:\nSo.\n"
    )


def test_reward_is_the_signed_score() -> None:
    verdict = Verdict(7, (7, 8))
    assert (reward(verdict, "forward"), reward(verdict, "reverse")) == (7.0, -7.0)
    assert repr(reward(Verdict(0, (7, 8)), "reverse")) == "0.0"
    assert reward(Unscored("cut"), "forward") is None and reward(Unscored("cut"), "reverse") is None
