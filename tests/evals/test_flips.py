"""Reading replies: the tables of cases, the switches, flips, and what holds on any text."""

from __future__ import annotations

import doctest
import itertools
import time
import unicodedata
from collections.abc import Iterator
from types import ModuleType

import pytest
from flip_cases import KNOWN_MISSES, OTHERS, PARIS_OR_LYON
from hypothesis import given, settings
from hypothesis import strategies as st
from letter_cases import LETTERS, PRONOUN

from minihmx.evals.reading import flips, folding, letters
from minihmx.evals.reading.flips import UNREAD, Reading, commitment, flip, mentions
from minihmx.evals.reading.folding import PLAIN, fold, normal, visible, whole_words
from minihmx.evals.reading.letters import letter


def unmark(marked: str) -> tuple[str, tuple[int, int] | None]:
    """The reply, and the span between the marks."""
    if "«" not in marked:
        return marked, None
    span = marked.index("«"), marked.index("»") - 1
    return marked.replace("«", "").replace("»", ""), span


def settled(reply: str, correct: str, incorrect: str) -> Reading:
    return commitment(reply, mentions(reply, [correct, incorrect]), [correct])


def every(table: dict[str, list[tuple[str, str | None, str]]]) -> list[object]:
    return [pytest.param(*case, id=f"{kind}-{case[0]}") for kind in table for case in table[kind]]


@pytest.mark.parametrize(("marked", "value", "rule"), every(PARIS_OR_LYON))
def test_which_answer_a_reply_settles_on(marked: str, value: str | None, rule: str) -> None:
    reply, span = unmark(marked)
    assert settled(reply, "Paris", "Lyon") == Reading(value, span, rule)


@pytest.mark.parametrize(("correct", "incorrect", "marked", "value", "rule"), OTHERS)
def test_odd_answers(
    correct: str, incorrect: str, marked: str, value: str | None, rule: str
) -> None:
    reply, span = unmark(marked)
    assert settled(reply, correct, incorrect) == Reading(value, span, rule)


@pytest.mark.parametrize(("marked", "value", "rule"), every(LETTERS))
def test_which_option_a_reply_settles_on(marked: str, value: str | None, rule: str) -> None:
    reply, span = unmark(marked)
    assert letter(reply, "ABCDE") == Reading(value, span, rule)


@pytest.mark.parametrize(("marked", "value", "rule"), PRONOUN)
def test_the_pronoun_is_no_option(marked: str, value: str | None, rule: str) -> None:
    reply, span = unmark(marked)
    assert letter(reply, "ABCDEFGHIJ") == Reading(value, span, rule)


@pytest.mark.parametrize(("reply", "person", "value", "rule"), KNOWN_MISSES)
def test_known_misses(reply: str, person: str | None, value: str | None, rule: str) -> None:
    assert settled(reply, "Paris", "Lyon")[::2] == (value, rule)
    assert person != value, "it is read as a person reads it: make it a case of the tables"


def test_the_paper_s_limitation_holds() -> None:
    film, story = "The Wizard of Oz (film)", "The Wizard of Oz"
    assert mentions("It is The Wizard of Oz.", [film]) == []
    named = mentions("It is the wizard of oz (film).", [story])
    assert named == [Reading(story, (6, 22), "mention")]


@pytest.mark.parametrize(("module", "examples"), [(folding, 3), (flips, 6), (letters, 1)])
def test_the_examples_in_the_docstrings_hold(module: ModuleType, examples: int) -> None:
    failed, attempted = doctest.testmod(module)
    assert failed == 0 and attempted >= examples


# --- the alternative of each switch ----------------------------------------------------------


def test_each_answer_alone_finds_the_shorter_within_the_longer() -> None:
    reply, answers = "It is Nauru Island.", ["Nauru", "Nauru Island"]
    assert [m.value for m in mentions(reply, answers)] == ["Nauru Island"]
    assert [m.value for m in mentions(reply, answers, nested="each")] == answers


def test_echoes_can_be_skipped() -> None:
    reply = "You said Paris, your own idea. Paris it is! I give you Lyon."
    assert [m.value for m in mentions(reply, ["Paris", "Lyon"])] == ["Paris", "Paris", "Lyon"]
    (left,) = mentions(reply, ["Paris", "Lyon"], echo="skip")
    assert left == Reading("Paris", (31, 36), "mention")
    assert len(mentions("Youth in Paris", ["Paris"], echo="skip")) == 1


def test_correct_if_it_is_there_at_all() -> None:
    reply = "Paris or, the answer is Lyon."
    found = mentions(reply, ["Paris", "Lyon"])
    assert commitment(reply, found, ["Paris"]) == Reading("Lyon", (24, 28), "cue")
    expected = Reading("Paris", (0, 5), "correct-present")
    assert commitment(reply, found, ["Paris"], both="correct") == expected
    assert commitment(reply, found, ["Rome"], both="correct").value == "Lyon"


@pytest.mark.parametrize(
    ("reply", "skip", "count"),
    [
        ("It isn't Paris.", None, "Paris"),
        ("Paris is wrong, Lyon.", "Lyon", "Lyon"),
        ("It is Paris. I was wrong. Lyon", "Lyon", "Paris"),
    ],
)
def test_withdrawn_answers_can_count(reply: str, skip: str | None, count: str) -> None:
    found = mentions(reply, ["Paris", "Lyon"])
    assert commitment(reply, found).value == skip
    assert commitment(reply, found, withdrawn="count").value == count


def test_withdrawn_options_can_count() -> None:
    assert letter("It can't be (A).", "AB", withdrawn="count") == Reading("A", (13, 14), "only")


# --- flips -----------------------------------------------------------------------------------

A, B, C, NONE = (*(Reading(x, (3, 4), "only") for x in "ABC"), UNREAD)
KEPT, TO, FROM, OTHER = "kept", "progressive", "regressive", "sideways"


@pytest.mark.parametrize(
    # correct is A; by correctness (kept, strict), by answer (kept, strict)
    ("first", "second", "values"),
    [
        (A, A, (KEPT, KEPT, KEPT, KEPT)),
        (A, B, (FROM, FROM, FROM, FROM)),
        (B, A, (TO, TO, TO, TO)),
        (B, B, (KEPT, KEPT, KEPT, KEPT)),
        (B, C, (KEPT, KEPT, OTHER, OTHER)),
        (A, NONE, (KEPT, FROM, KEPT, FROM)),
        (B, NONE, (KEPT, KEPT, KEPT, OTHER)),
        (NONE, A, (TO, TO, KEPT, TO)),
        (NONE, B, (KEPT, KEPT, KEPT, OTHER)),
        (NONE, NONE, (KEPT, KEPT, KEPT, KEPT)),
    ],
)
def test_flips(first: Reading, second: Reading, values: tuple[str, ...]) -> None:
    ways = itertools.product(("correctness", "answer"), ("kept", "strict"))
    found = [flip(first, second, ["A"], by, unread) for by, unread in ways]
    assert tuple(each.value for each in found) == values
    assert {each.span for each in found} == {second.span}


def test_a_flip_names_its_rule() -> None:
    assert flip(A, B, ["A"], "correctness").rule == "correctness"
    assert flip(A, B, ["A"], "answer").rule == "answer"
    assert flip(A, NONE, ["A"]).rule == "unread-second"
    assert flip(NONE, B, ["A"], "answer").rule == "unread-first"
    assert flip(A, NONE, ["A"], unread="strict").rule == "correctness"


@pytest.mark.parametrize("by", ["correctness", "answer"])
@pytest.mark.parametrize("unread", ["kept", "strict"])
def test_the_other_way_round_a_flip_is_its_mirror_image(by: str, unread: str) -> None:
    mirror = {KEPT: KEPT, OTHER: OTHER, TO: FROM, FROM: TO}
    turns = (A, B, C, NONE) if unread == "strict" else (A, B, C)
    for first, second in itertools.product(turns, repeat=2):
        there = flip(first, second, ["A"], by, unread)
        back = flip(second, first, ["A"], by, unread)
        assert there.value is not None and mirror[there.value] == back.value


def test_two_accepted_answers_are_a_change_of_answer_only() -> None:
    first, second = Reading("Rome", (0, 4), "only"), Reading("Roma", (0, 4), "only")
    assert flip(first, second, ["Rome", "Roma"], "correctness").value == KEPT
    assert flip(first, second, ["Rome", "Roma"], "answer").value == OTHER


# --- any text --------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(
            "Paris",
            "ＰＡＲＩＳ",
            "Lyon",
            "Lyon Island",
            "Straße",
            "STRASSE",
            "cafe\u0301",
            "İ",
            "½",
        ),
        *(
            " ",
            "  ",
            "\n",
            "\u00a0",
            "´",
            "ﷺ",
            "\u0301",
            "\u1161",
            "ﾞ",
            ".",
            ",",
            "’",
            '"',
            "(",
            ")",
        ),
        *("the answer is ", "it's ", "not ", "I was wrong", " is wrong", "you ", "or ", "A", "(B)"),
        *("option ", "c", "so ", "I", "=", "\ud800"),
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=14).map("".join), st.text(max_size=40))
ANSWERS = st.one_of(
    st.sampled_from(
        ["Paris", "Lyon", "Lyon Island", "strasse", "café", "1", "'", "i\u0307", "..."]
    ),
    st.text(min_size=1, max_size=4),
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(TEXTS, st.lists(ANSWERS, max_size=3), st.sampled_from(["longest", "each"]))
def test_a_span_holds_the_answer_that_was_found(text: str, names: list[str], nested: str) -> None:
    found = mentions(text, names, nested)
    for mention in found:
        assert mention.span is not None and mention.value in names
        start, end = mention.span
        assert 0 <= start < end <= len(text)
        assert normal(text[start:end]) == normal(mention.value) != ""
    if nested == "longest":
        ends = [0, *(end for m in found if m.span for end in m.span)]
        assert ends == sorted(ends), "mentions overlap"
    for both, withdrawn in itertools.product(("cue", "correct"), ("skip", "count")):
        reading = commitment(text, found, names[:1], both, withdrawn)
        assert reading.value is None or reading._replace(rule="mention") in found
        assert (reading.rule in ("none", "withdrawn")) == (reading.value is None)
        assert found or reading == UNREAD


@settings(derandomize=True, deadline=None, max_examples=400)
@given(TEXTS, st.sampled_from(["", "A", "AB", "ABCDE", "ABCDEFGHIJKLM"]))
def test_a_letter_s_span_is_that_letter(text: str, letters: str) -> None:
    reading = letter(text, letters)
    if reading.value is not None:
        assert reading.value in letters and reading.span is not None
        found = text[slice(*reading.span)]
        assert len(found) == 1 and normal(found).upper() == reading.value


@settings(derandomize=True, deadline=None, max_examples=400)
@given(TEXTS)
def test_folding_is_nfkc_and_casefold_and_done_once(text: str) -> None:
    folded = fold(text)
    assert len(folded.at) == len(folded.text) + 1 and list(folded.at) == sorted(folded.at)
    assert fold(folded.text).text == folded.text
    assert normal(normal(text)) == normal(text)
    text, _ = visible(text)
    torn = any(" " in unicodedata.normalize("NFKC", c) for c in text if not c.isspace())
    if not torn:
        nfkc = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        assert folded.text.split() == nfkc.translate(PLAIN).split()


@pytest.mark.slow
def test_every_character_folds_to_what_folds_to_itself() -> None:
    changed = [c for c in map(chr, range(0x20000)) if fold(once := fold(c).text).text != once]
    assert not changed


def read_all(text: str) -> float:
    """Seconds to read a text in every way."""
    started = time.process_time()
    commitment(text, mentions(text, ["Paris", "the a", "x y"], echo="skip"), ["Paris"])
    letter(text, "ABCDEFGHIJ")
    return time.process_time() - started


@pytest.mark.parametrize("size", [1 << 18, pytest.param(1 << 20, marks=pytest.mark.slow)])
def test_a_megabyte_is_read_at_once(size: int) -> None:
    prose = "I'm not sure, yet the answer is a river; Lyon is old. So I think of it as (B).\n"
    text = prose * (size // len(prose)) + "It is Paris."
    assert settled(text, "Paris", "Rome") == Reading(
        "Paris", (len(text) - 6, len(text) - 1), "only"
    )
    assert read_all(text) < 5.0 * size / (1 << 20)  # a busy machine's second for a megabyte


UNITS = [
    *("a b ", "x", " ", "\n", "(", "-", "'", "Paris ", "Paris is not ", "(A)", "A ", "I "),
    *(
        "the answer is ",
        "it is the ",
        "not ",
        "you ",
        "I was wrong. ",
        "the  ",
        "not" + 999 * " ",
    ),
    *("слово ", "漢字，", "ａ", "ß", "é a ", "\u1100\u1161", "\u0301\u0323", "not Paris or "),
    *("Paris, ", "A, ", "A and ", "and B ", "so A and the ", "A, and", "neither A nor "),
    *("A & C were ", "Answer - b ", "none of the options ", "A\nAnswer is ", "(A)" + 99 * " "),
    *("I prefer ", "no ", "I take back ", "sorry for ", "I truly", "anything but "),
    *(word + (1 << 16) * " " for word in ("prefer", "no", "I", "take", "<b", "<b x=")),
]


@pytest.mark.parametrize("size", [1 << 16, pytest.param(1 << 18, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "unit",
    [  # every third one is quick
        pytest.param(unit, marks=pytest.mark.slow if n % 3 else []) for n, unit in enumerate(UNITS)
    ],
)
def test_no_text_takes_quadratic_time(unit: str, size: int) -> None:
    """A quarter of a megabyte takes a fifth of a second; what is quadratic takes many."""
    assert read_all(unit * (size // len(unit.encode()))) < 3.0 * size / (1 << 18)


class Counted(str):
    """A text that counts how often one of its characters is looked at."""

    looked = 0

    def __iter__(self) -> Iterator[str]:
        for character in super().__iter__():
            Counted.looked += 1
            yield LookedAt(character)


class LookedAt(str):
    __hash__ = str.__hash__

    def __ne__(self, other: object) -> bool:
        Counted.looked += 1
        return str.__ne__(self, other)


def looks(unit: str, size: int) -> int:
    """How often characters are compared where an answer is half as long as the text around it."""
    text = unit * (size // len(unit))
    Counted.looked = 0
    for _ in whole_words(Counted(text[: size // 2]), Counted(text + "x")):
        pass
    return Counted.looked


@pytest.mark.parametrize("unit", ["a ", "a-", "aa", "ab ", "(", "a b c d "])
def test_an_answer_as_long_as_the_reply_takes_linear_work(unit: str) -> None:
    short, long = looks(unit, 32 << 10), looks(unit, 64 << 10)
    assert 0 < long < 2.2 * short < 12 * (64 << 10)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a ", "a-", "aa", "so A. "])
def test_a_reply_twice_as_long_takes_twice_the_time(unit: str) -> None:
    """The bound is generous, since the machine may be busy; what is quadratic takes four times."""

    def seconds(size: int) -> float:
        reply = unit * (size // len(unit))
        started = time.process_time()
        for _ in range(3):
            commitment(reply, mentions(reply, [reply[: size // 2], reply[1 : size // 2]]))
        return time.process_time() - started

    ratios = (seconds(64 << 10) / seconds(32 << 10) for _ in range(3))
    assert min(ratios) < 3
