"""IFEval: every instruction followed, violated, at the edge and empty, and lm-eval's own verdicts.

The golden verdicts were made by scripts/golden/ifeval.py, whose cases and replies are read here.
"""

from __future__ import annotations

import builtins
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import in_process, refused
from conftest import ROOT, shared

sys.path.insert(0, str(ROOT / "scripts" / "golden"))

import ifeval as script

from minihmx import cli
from minihmx.errors import UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.results import sample_line
from minihmx.evals.benchmark import Answer, Item, switches
from minihmx.evals.ifeval import IFEVAL, INSTRUCTIONS, loosened
from minihmx.evals.instructions import language
from minihmx.evals.items.load import load_dataset
from minihmx.models import chat
from minihmx.records import Message

GOLDEN = json.loads((ROOT / "tests" / "evals" / "golden_ifeval.json").read_text("utf-8"))
REGEX = {"sentences": "regex"}


@pytest.fixture
def punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """nltk finds a sentence splitter: a small table of our own."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(script.punkt_table(tmp_path))])
    language._punkt.cache_clear()
    yield
    language._punkt.cache_clear()


@pytest.fixture
def no_punkt(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    language._punkt.cache_clear()


def item(*instructions: tuple[str, dict[str, Any]], prompt: str = "Write.") -> Item:
    names, given = [name for name, _ in instructions], [given for _, given in instructions]
    fields = {"prompt": prompt, "instructions": names, "arguments": given, "max_new_tokens": 9}
    found = {"id": "a", **fields}
    IFEVAL.check(found)
    return found


def verdict(reply: str, *instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return IFEVAL.score(item(*instructions), Answer((), (reply,), ("stop",)), REGEX).detail


# --- every checker ------------------------------------------------------------------------------

SENTENCES = "One is here. Two is here! Is three?"
# instruction, arguments, replies that follow it, replies that do not; the last of each is an edge
CHECKS: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        *("keywords:existence", {"keywords": ["tea", "C++ (new)"]}),
        ["Tea in c++ (NEW)", "steam, C++ (new)"],
        ["tea", "te a C++ (new)"],
    ),
    (
        *("keywords:frequency", {"keyword": "tea ", "frequency": 2, "relation": "at least"}),
        ["tea, tea, tea", "TEA steam"],
        ["none", "tea"],
    ),
    (
        *("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "less than"}),
        ["none", "one tea"],
        ["tea tea tea", "tea steam"],
    ),
    (
        *("keywords:forbidden_words", {"forbidden_words": ["tea", "a.b"]}),
        ["coffee", "steam, teapot, axb"],
        ["tea", "(TEA)"],
    ),
    (
        *(
            "keywords:letter_frequency",
            {"letter": "T", "let_frequency": 2, "let_relation": "at least"},
        ),
        ["ttt", "Tt"],
        ["none", "t"],
    ),
    (
        # the published set has "#" and "!", for which lm-evaluation-harness draws another letter
        *(
            "keywords:letter_frequency",
            {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ),
        ["###", "# a #"],
        ["aaa", "#"],
    ),
    (
        *("length_constraints:number_words", {"num_words": 3, "relation": "at least"}),
        ["one two three four", "don't go"],
        ["one", "two words"],
    ),
    (
        *("length_constraints:number_words", {"num_words": 3, "relation": "less than"}),
        ["one", "two_words here"],
        ["one two three four", "3.14 x"],
    ),
    (
        *("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
        [SENTENCES + " Four.", SENTENCES],
        ["One.", "Dr. Moss is here. Two is here."],
    ),
    (
        *("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}),
        ["One.", "- one\n- two\n- three"],
        [SENTENCES + " Four.", SENTENCES],
    ),
    (
        *("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
        ["one *** two", "***\none\n***\ntwo\n***"],
        ["one", "one *** *** two", "one ** two", "***"],
    ),
    (
        *(
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Tea"},
        ),
        ["One.\n\nTea is hot.", "One.\n\n'\"TEA, hot."],
        ["One.\n\nTwo.", "Tea.\n\nTea.\n\nTea.", "Tea", "One.\n\n\n\nTea"],
    ),
    (
        *(
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at least"},
        ),
        ["NASA AND ESA", "I like A-1"],
        ["none", "NASA", "Nasa Esa"],
    ),
    (
        *(
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "less than"},
        ),
        ["none", "NASA"],
        ["NASA AND ESA", "I\nI"],
    ),
    (
        *("language:response_language", {"language": "de"}),
        ["Dies ist ein deutscher Satz mit vielen Worten.", "123 !"],
        ["This is a sentence in English and in nothing else."],
    ),
    (
        *("change_case:english_capital", {}),
        ["THIS IS A SENTENCE IN ENGLISH AND IN NOTHING ELSE."],
        [
            "This IS A SENTENCE IN ENGLISH AND IN NOTHING ELSE.",
            "DIES IST EIN DEUTSCHER SATZ MIT VIELEN WORTEN.",
            "123 !",
        ],
    ),
    (
        *("change_case:english_lowercase", {}),
        ["this is a sentence in english and in nothing else."],
        [
            "This is a sentence in english and in nothing else.",
            "dies ist ein deutscher satz mit vielen worten.",
            "123 !",
        ],
    ),
    (
        *("detectable_content:number_placeholders", {"num_placeholders": 2}),
        ["[a] [b] [c]", "[a][]"],
        ["[a]", "[a [b]", "[a\n] [b]"],
    ),
    (
        *("detectable_content:postscript", {"postscript_marker": "P.S."}),
        ["Bye.\nP.S. More", "bye p. s."],
        ["Bye.", "PS More", "P.S"],
    ),
    (
        *("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
        ["Bye.\nP.P.S More", "p. p. s"],
        ["P.S.", "PPS"],
    ),
    (
        *("detectable_content:postscript", {"postscript_marker": "Nota (1)"}),
        ["nota (1) more"],
        ["nota 1"],
    ),
    (
        *("detectable_format:number_bullet_lists", {"num_bullets": 2}),
        ["* a\n* b", "  - a\n\n\t* b", "*\n* a\n* b"],
        ["* a", "* a\n* b\n- c", "** a\n* b", "a * b\nc - d"],
    ),
    (
        *("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
        ["*a* *b* *c*", "*a* **b**"],
        ["*a*", "*a*b*", "** ** *\n*"],
    ),
    (
        *("detectable_format:multiple_sections", {"section_spliter": " Day ", "num_sections": 2}),
        ["Day 1 x Day 2 y Day 3", "Day1Day 2"],
        ["Day 1", "day 1 day 2", "Day  1 Day two"],
    ),
    (
        *("detectable_format:title", {}),
        ["<<a title>>\ntext", "text <<a>>", "<<<>> x>>"],
        ["a title", "<<>>", "<<  >>", "<<a\n>>", "<a>"],
    ),
    (
        *("detectable_format:json_format", {}),
        ['{"a": [1]}', '```json\n{"a": 1}\n```', "NaN"],
        ["{a: 1}", 'Here: {"a": 1}', "```\n```", "[" * 100_000],
    ),
    (
        *("detectable_format:constrained_response", {}),
        ["My answer is yes.", "I think My answer is maybe. So"],
        ["yes", "my answer is no.", "My answer is no"],
    ),
    (
        *("combination:two_responses", {}),
        ["one ****** two", "******\none\n******\ntwo******"],
        ["one", "one ****** one", "one ****** two ****** three", "a ****** ****** b", "a *** b"],
    ),
    (
        *("combination:repeat_prompt", {"prompt_to_repeat": "Say tea.\n"}),
        ["Say tea. Tea!", "  SAY TEA."],
        ["Tea!", "Sure: Say tea."],
    ),
    (
        *("startend:end_checker", {"end_phrase": " That is all. "}),
        ["Tea. That is all.", '"Tea. that is all." \n'],
        ["That is all. Tea.", "That is all"],
    ),
    (
        *("startend:quotation", {}),
        ['"tea"', ' "a" or "b"\n', '""'],
        ["tea", '"', '"tea', "“tea”"],
    ),
    (*("punctuation:no_comma", {}), ["no comma", "fullwidth，"], ["a, b", ","]),
]


def test_every_instruction_is_checked_here_and_among_the_golden_cases() -> None:
    names = {name for name, *_ in CHECKS}
    assert names == {name for name, _ in script.CASES} == set(INSTRUCTIONS) and len(names) == 25


@pytest.mark.parametrize(("name", "given", "good", "bad"), CHECKS, ids=[c[0] for c in CHECKS])
def test_followed_violated_at_the_edge_and_empty(
    name: str, given: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    told = (name, given)
    assert [reply for reply in good if not verdict(reply, told)["strict"][0]] == []
    assert [reply for reply in bad if verdict(reply, told)["strict"][0]] == []
    for reply in ("", " \n\t", "\u00a0"):  # also where nothing would be all that is asked for
        assert verdict(reply, told) == {"strict": [False], "loose": [False]}


NUMBERS = [  # langdetect takes its time
    pytest.param(number, marks=[pytest.mark.slow] if name in language.LANGUAGE else [])
    for number, (name, _) in enumerate(script.CASES)
]


@pytest.mark.usefixtures("punkt")
@pytest.mark.parametrize("number", NUMBERS)
def test_every_verdict_is_lm_evals(number: int) -> None:
    name, given = script.CASES[number]
    of_case = item((name, given))
    found = []
    for reply in script.REPLIES:
        score = IFEVAL.score(of_case, Answer((), (reply,), ("stop",)), {"sentences": "punkt"})
        strict, loose = (score.values[f"prompt_level_{x}_acc"] for x in ("strict", "loose"))
        found.append("1" if strict else "02"[int(loose)])
    wrong = [
        (reply, ours, theirs)
        for reply, ours, theirs in zip(
            script.REPLIES, found, GOLDEN["verdicts"][number], strict=True
        )
        if ours != theirs
    ]
    assert wrong == []


def test_the_golden_verdicts_are_of_every_kind() -> None:
    assert len(GOLDEN["verdicts"]) == len(script.CASES)
    both = [line for line in GOLDEN["verdicts"] if {"0", "1"} <= set(line)]
    assert len(both) >= len(script.CASES) - 4 and "".join(both).count("2") > 100


def test_the_loose_forms() -> None:
    assert loosened("a*\nb\nc") == ["a*\nb\nc", "b\nc", "a*\nb", "b", "a\nb\nc", "a\nb"]
    assert verdict(
        "Sure:\n*Tea*\nBye", ("combination:repeat_prompt", {"prompt_to_repeat": "Tea"})
    ) == {
        "strict": [False],
        "loose": [True],
    }


# --- long replies -------------------------------------------------------------------------------

SPLIT = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
PIECES = ("*", "\n", " ", "[", "<<", ">>", '"', "a.", "!", ".", "p. ", "**a", "a ", "\n\n", "-")
PIECES += ("'", "(", "]", "Section ", "1", "I", "\t\n", "x@", "www.a", "A.)", "É", ". ", "`")


SECONDS, SECONDS_OF_A_LIBRARY = 1, 20  # what takes the square of the length needs minutes


def seconds(names: set[str], pieces: Sequence[str], how: str) -> dict[tuple[str, str], float]:
    """The longest that each rule takes for 64 KB of a piece."""
    spent: dict[tuple[str, str], float] = {}
    for piece in pieces:
        for name, given, *_ in CHECKS:
            if name in names and (name, piece) not in spent:
                reply = "A" + piece * (65536 // len(piece)) + "x"[: len(spent) % 2]
                start = time.process_time()
                INSTRUCTIONS[name].follows(reply, {**given, "sentences": how})
                spent[name, piece] = time.process_time() - start
    return spent


def test_long_replies_take_no_longer_than_they_are_long() -> None:
    spent = seconds(INSTRUCTIONS.keys() - {*SPLIT, *language.LANGUAGE}, PIECES, "regex")
    spent |= seconds({SPLIT[0]}, PIECES, "regex")
    assert len(spent) == 21 * len(PIECES)
    assert {where: time for where, time in spent.items() if time > SECONDS} == {}


@pytest.mark.slow
@pytest.mark.usefixtures("punkt")
@pytest.mark.parametrize(
    ("names", "how"),
    [(SPLIT, "punkt"), (SPLIT[1:], "regex"), (tuple(language.LANGUAGE), "regex")],
)
def test_nor_do_they_in_the_libraries(names: tuple[str, ...], how: str) -> None:
    spent = seconds(set(names), PIECES, how)
    assert len(spent) == len(names) * len(PIECES)
    assert {w: time for w, time in spent.items() if time > SECONDS_OF_A_LIBRARY} == {}


# --- the score of an item, and of all ------------------------------------------------------------

COMMA, TITLE = ("punctuation:no_comma", {}), ("detectable_format:title", {})


def line(number: int, reply: str, *instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    asked, said = item(*instructions), Answer((), (reply,), ("stop",))
    request = IFEVAL.ask(asked, REGEX)
    record = sample_line(IFEVAL, asked, 0, request, said, IFEVAL.score(asked, said, REGEX))
    return record | {"cluster": str(number)}


def test_a_prompt_counts_where_all_is_followed_and_an_instruction_for_itself() -> None:
    lines = [
        line(0, "<<Tea>>, hot", COMMA, TITLE),
        line(1, "Sure, here:\nTea", COMMA),
        line(2, "Tea", COMMA),
        line(3, "", COMMA, TITLE, COMMA),
    ]
    assert [record["unparsed"] for record in lines] == [False, False, False, True]
    table = metrics(lines, IFEVAL.means, IFEVAL.derived)
    names = {*IFEVAL.headline, *IFEVAL.beside}
    assert table.keys() == names and len(names) == 4
    found = {name: (row["value"], row["n"]) for name, row in table.items()}
    assert found == {
        "prompt_level_strict_acc": (1 / 4, 4),
        "prompt_level_loose_acc": (2 / 4, 4),
        "inst_level_strict_acc": (2 / 7, 7),
        "inst_level_loose_acc": (3 / 7, 7),
    }
    # the instructions of one item go together: residuals 1 - 4/7, -2/7, 5/7 and -6/7, by item
    squares = sum((x / 7) ** 2 for x in (3, -2, 5, -6))
    assert table["inst_level_strict_acc"]["stderr"] == pytest.approx((squares * 4 / 3) ** 0.5 / 7)


def test_one_instruction_may_be_there_twice() -> None:
    said = verdict("[a] tea", *(("keywords:existence", {"keywords": [w]}) for w in ("tea", "milk")))
    assert said["strict"] == [True, False]


# --- published items ------------------------------------------------------------------------------

ROW = {
    "key": 7,
    "prompt": "Write [a] letter.\n",
    "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
    "kwargs": [{"keywords": None, "num_words": None}, {"keywords": ["tea"], "relation": None}],
}


def test_a_published_row_and_what_is_asked() -> None:
    (found,) = IFEVAL.convert(ROW, 0, Path("input_data.jsonl"))
    assert found["id"] == "ifeval-0007" and found["arguments"] == [{}, {"keywords": ["tea"]}]
    IFEVAL.check(found)
    asked = IFEVAL.ask(found, REGEX)
    assert asked.turns == ("Write [a] letter.\n",) and asked.max_new_tokens == 1280  # type: ignore
    assert asked.until == asked.shots == () and IFEVAL.chat  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": " "}, "needs a prompt"),
        ({"max_new_tokens": 0}, "max_new_tokens above 0"),
        ({"instructions": [], "arguments": []}, "0 instructions have 0 sets"),
        ({"arguments": [{}]}, "2 instructions have 1 sets"),
        ({"instructions": ["no_comma", "keywords:existence"]}, "'no_comma' is none of the 25"),
        ({"arguments": [{"n": 1}, {"keywords": ["a"]}]}, "takes the arguments none, and it has n"),
        ({"arguments": [{}, {}]}, "takes the arguments keywords, and it has none"),
        ({"arguments": [{}, {"keywords": []}]}, "not a list of texts"),
        ({"arguments": [{}, {"keywords": ["a", " "]}]}, "not a list of texts"),
    ],
)
def test_an_item_that_could_not_be_scored(change: dict[str, Any], words: str) -> None:
    (found,) = IFEVAL.convert(ROW, 0, Path("input_data.jsonl"))
    with pytest.raises(ValueError, match=words):
        IFEVAL.check(found | change)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("length_constraints:number_words", {"num_words": 0, "relation": "at least"}, "above 0"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "above 0"),
        ("length_constraints:number_words", {"num_words": 5, "relation": "at most"}, "less than"),
        (
            *("keywords:letter_frequency",),
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "not one character",
        ),
        (
            *("length_constraints:nth_paragraph_first_word",),
            {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "tea"},
            "behind the last",
        ),
        ("startend:end_checker", {"end_phrase": " "}, "not a text"),
    ],
)
def test_arguments_for_which_lm_eval_draws_others(
    name: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        item((name, given))


@pytest.mark.parametrize("change", [{"kwargs": [1, {}]}, {"kwargs": None}, {"key": "a"}])
def test_a_row_that_is_broken(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"its (key|kwargs) is|of its kwargs"):
        list(IFEVAL.convert(ROW | change, 0, Path("input_data.jsonl")))


def test_the_published_prompts_are_asked_as_lm_eval_asks_them() -> None:
    found = load_dataset(IFEVAL, str(shared("data"))).items
    assert len(found) == IFEVAL.total == 541
    assert sum(len(each["instructions"]) for each in found) == 834
    assert {name for each in found for name in each["instructions"]} == set(INSTRUCTIONS)
    for number, place in enumerate(script.ITEMS):
        (prompt,) = IFEVAL.ask(found[place], REGEX).turns  # type: ignore[union-attr]
        assert script.mark(prompt) == GOLDEN["prompts"][""][number]
        for family in script.TEMPLATES:
            said = [Message("user", prompt)]
            segments = chat.render(family, said, date=script.DATE)
            text = "".join(segment.text for segment in segments)
            assert script.mark(text) == GOLDEN["prompts"][family][number], (family, place)


# --- the libraries and the splitter ---------------------------------------------------------------


def forget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package were not installed."""
    find, take = importlib.util.find_spec, builtins.__import__

    def absent(asked: str, *rest: Any) -> Any:
        return None if asked == name else find(asked, *rest)

    def refuse(asked: str, *rest: Any, **others: Any) -> Any:
        if asked.split(".")[0] == name:
            raise ImportError(asked)
        return take(asked, *rest, **others)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("name", ["langdetect", "nltk"])
@pytest.mark.parametrize(
    "command",
    [
        ["eval", "tiny", "--tasks", "ifeval", "--data", "sample"],
        ["experiment", "tiny", "--tasks", "ifeval", "--dry-run"],
    ],
)
def test_a_missing_library_is_one_sentence_before_anything_is_asked(
    name: str,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forget(name, monkeypatch)
    assert cli.main([*command, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert (
        name in said
        and "-m pip install " in said
        and "the extra `evals`" in said
        and said.count("\n") == 1
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_punkt")
def test_without_nltks_data_our_own_splitter_is_taken_and_named() -> None:
    assert IFEVAL.prepare(switches(IFEVAL, {})) == {"sentences": "regex"}
    with pytest.raises(UserError, match="punkt_tab`, or take sentences=regex"):
        IFEVAL.prepare({"sentences": "punkt"})


@pytest.mark.usefixtures("punkt")
def test_with_nltks_data_its_splitter_is_taken_and_named() -> None:
    assert IFEVAL.prepare(switches(IFEVAL, {})) == {"sentences": "punkt"}
    assert IFEVAL.prepare({"sentences": "regex"}) == {"sentences": "regex"}
    # the two differ: our table has no "prof"
    assert len(language.sentences_of("Prof. Moss left.", "punkt")) == 2
    assert len(language.sentences_of("Prof. Moss left.", "regex")) == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three? Four", 4),
        ('She said "Go!" Then she left. (So.) End.', 4),
        ("Dr. Moss of the U.S. team left at 5 p.m. sharp.", 1),
        ("Wait... what?! Yes", 2),
        ("3.5 of example.com", 1),
        ("1. One.\n2. Two.", 4),  # nltk's does so too
        ("step 1. do it", 1),
        ("- one\n- two", 1),
    ],
)
def test_our_own_sentences(text: str, count: int) -> None:
    assert len(language.sentences_of(text, "regex")) == count


def test_the_result_says_how_sentences_were_split_and_a_language_does_not_flicker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    command = ["eval", "tiny", "--tasks", "ifeval", "--data", "sample", "--limit", "2", "--json"]
    command += ["--partial", "--out", str(tmp_path)]
    found = []
    for fixture in ("no_punkt", "punkt"):
        request.getfixturevalue(fixture)
        assert cli.main(command) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    used = [result["settings"]["switches"]["sentences"] for result in found]
    assert used == ["regex", "punkt"]
    folders = list((tmp_path / "tiny" / "base" / "evals" / "ifeval").iterdir())
    assert len(folders) == 2  # so the two are never one result
    assert {language._language("ok bon tu es la")} == {
        language._language("ok bon tu es la") for _ in range(20)
    }


def test_an_audit_without_the_splitter_says_so_and_accuses_nobody(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    request.getfixturevalue("punkt")
    command = ["eval", "tiny", "--tasks", "ifeval", "--data", "sample", "--limit", "2"]
    assert cli.main([*command, "--partial", "--out", str(tmp_path / "runs")]) == 0
    (folder,) = (tmp_path / "runs" / "tiny" / "base" / "evals" / "ifeval").iterdir()
    assert cli.main(["audit", str(folder)]) == 0
    capsys.readouterr()
    request.getfixturevalue("no_punkt")
    assert cli.main(["audit", str(folder)]) == 0
    assert "not scored again: nltk does not find" in " ".join(capsys.readouterr().out.split())


def test_the_sample_has_every_instruction_and_fits_tiny() -> None:
    found = load_dataset(BENCHMARKS["ifeval"], "sample").items
    assert {name for each in found for name in each["instructions"]} == set(INSTRUCTIONS)
    assert all(each["max_new_tokens"] <= 96 for each in found)


def test_a_reply_longer_than_the_context_is_refused_whichever_item_asks_for_it(
    tmp_path: Path,
) -> None:
    items = [*load_dataset(IFEVAL, "sample").items[:3]]
    items[1] = {**items[1], "max_new_tokens": 5000}
    (tmp_path / "ifeval.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    asked = ["--tasks", "ifeval", "--data", tmp_path, "--out", tmp_path / "runs"]
    done = in_process("eval", "tiny", *asked)
    refused(done, "replies of 5000 tokens", items[1]["id"], "context is only 1024")
    assert not (tmp_path / "runs").exists() and not done.stdout
