"""docs/reading.md: its numbers follow from each other, and a fresh run of the step gives them."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from by_hand import CODE, faults
from conftest import ROOT, shared

from minihmx.questions import load_questions

sys.path.insert(0, str(ROOT / "scripts"))
import reading
from followed import Followed, follow

PAGE = reading.PAGE.read_text("utf-8")
BLOCKS = reading.written(PAGE)
# It stands for 236,544 numbers of which the page shows one, so it cannot be computed from the page.
NORM = re.compile(r"Gradient norm (\S+),")


def changed(block: str) -> Iterator[str]:
    """The block with one of its numbers changed, in each possible place."""
    names = [found.span() for found in CODE.finditer(block)]
    for found in reading.NUMBER.finditer(block):
        start, end = found.span()
        if any(a < start < b for a, b in names):
            continue
        mantissa, e, exponent = found[0].partition("e")
        decimals = len(mantissa.partition(".")[2])
        value = float(mantissa)
        other = value + (100 * 10**-decimals + abs(value) / 1000 if decimals else 1)
        yield f"{block[:start]}{other:.{decimals}f}{e}{exponent}{block[end:]}"


def test_every_number_follows_from_the_others() -> None:
    assert faults(BLOCKS) == []


@pytest.mark.parametrize("name", [b for b in BLOCKS if b not in ("made", "question", "judged")])
def test_one_changed_number_is_found_with_a_calculator(name: str) -> None:
    norm = NORM.search(BLOCKS["update"])
    assert norm
    others = [
        other
        for other in changed(BLOCKS[name])
        if name != "update" or norm[0] in other  # the norm itself is left to the fresh run
    ]
    assert others
    unseen = [other for other in others if not faults(BLOCKS | {name: other})]
    assert unseen == []


def test_the_script_takes_the_step_that_training_takes() -> None:
    stages = ["ask_policy", "judge", "assign_advantages", "learn", "record_step"]
    called = re.findall(r"(\w+)\((?:run|rollouts), ", inspect.getsource(follow))
    assert [name for name in called if name in stages] == stages


def test_every_number_is_in_a_block_and_every_block_is_made() -> None:
    assert PAGE.count("<!-- made by") == PAGE.count("<!-- end -->") == len(BLOCKS) == 13
    assert reading.spliced(PAGE, BLOCKS) == PAGE
    assert reading.spliced(PAGE, dict.fromkeys(BLOCKS, "@\n")).count("@\n") == len(BLOCKS)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("7", "7", True),
        ("7", "8", False),
        ("0.0373", "0.0375", True),
        ("0.0373", "0.0376", False),
        ("-14.9922", "-14.9980", True),
        ("-14.9922", "-15.0100", False),
        ("1.187930e-03", "1.188100e-03", True),
        ("1.187930e-03", "1.187930e-04", False),
    ],
)
def test_what_counts_as_the_same_number(a: str, b: str, same: bool) -> None:
    assert reading.near(a, b) is same


# --- what the page says of the questions ----------------------------------------------------------

QUESTIONS_PART = PAGE.partition("## The questions")[2].partition("## Words")[0]
CATEGORIES = re.findall(r"\| (\d+) \| ([^|]+) \| `([^|]+)` \| ([^|]+\?) \|", QUESTIONS_PART)


def test_the_held_out_questions_are_those_of_the_file() -> None:
    told = [(category, text) for _, _, category, text in CATEGORIES]
    assert told == [(q.category, q.text) for q in load_questions() if q.split == "eval"]


def test_questions_that_are_quoted_stand_in_the_file() -> None:
    texts = {q.id: q.text for q in load_questions() if q.source == "ours"}
    quoted = re.findall(r"\| `([a-z-]+-\d\d)`: ([^|]+\?) \|", QUESTIONS_PART)
    assert len(quoted) == 4 and all(texts[name] == text for name, text in quoted)


def test_criteria_and_categories_are_the_paper_s_words() -> None:
    paper = " ".join(shared("paper/when-ai-says-it-feels.txt").read_text("utf-8").split())
    quotes = re.findall(r'"([^"]{20,})"', " ".join(QUESTIONS_PART.split()))
    assert len(quotes) == 7 and [quote for quote in quotes if quote not in paper] == []
    first = {q.category: q.text for q in load_questions() if q.source == "paper"}
    rows = [f" {number} {name} {first[category]} " for number, name, category, _ in CATEGORIES]
    assert len(rows) == 10 and [row for row in rows if row not in paper] == []


# --- a fresh run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    with pytest.MonkeyPatch.context() as patch:  # the one of conftest.py comes after this
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return follow(tmp_path_factory.mktemp("reading"))


@pytest.mark.slow
def test_a_fresh_run_is_right_in_itself_on_any_machine(fresh: Followed) -> None:
    assert faults(reading.blocks(fresh)) == []


@pytest.mark.slow
def test_a_fresh_run_gives_the_page(fresh: Followed) -> None:
    assert re.fullmatch("[0-9a-f]{12}", fresh.digest)
    if fresh.digest not in BLOCKS["made"]:
        pytest.skip("this processor rounds otherwise, and drew other tokens than the page's did")
    assert reading.differences(BLOCKS, reading.blocks(fresh)) == []


@pytest.mark.slow
def test_one_changed_number_or_word_is_found_by_a_fresh_run(fresh: Followed) -> None:
    made = reading.blocks(fresh)
    assert reading.differences(made, made) == []
    for name in made.keys() - {"made"}:
        for other in changed(made[name]):
            (said,) = reading.differences(made | {name: other}, made)
            assert f"{name!r}" in said
    spoilt = made | {"answers": made["answers"].replace("text", "words")}
    assert reading.differences(spoilt, made) == [
        "The words of block 'answers' are not those of a fresh run."
    ]
    missing = {name: text for name, text in made.items() if name != "loss"}
    assert reading.differences(missing, made) == ["The page has no block 'loss'."]


@pytest.mark.slow
def test_the_command_writes_checks_and_refuses(
    fresh: Followed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "reading.md"
    page.write_text(reading.spliced(PAGE, dict.fromkeys(BLOCKS, "")), "utf-8")
    monkeypatch.setattr(reading, "PAGE", page)
    monkeypatch.setattr(reading, "follow", lambda folder: fresh)
    monkeypatch.setattr(sys, "argv", ["reading.py"])
    reading.main()
    assert reading.written(page.read_text("utf-8")) == reading.blocks(fresh)
    monkeypatch.setattr(sys, "argv", ["reading.py", "--check"])
    reading.main()
    whole = page.read_text("utf-8")
    page.write_text(whole.replace("Gradient norm 0.", "Gradient norm 1."), "utf-8")
    with pytest.raises(SystemExit, match="Block 'update' holds"):
        reading.main()
    page.write_text(whole.replace(fresh.digest, "0" * 12), "utf-8")
    with pytest.raises(SystemExit, match="drew other tokens"):
        reading.main()
    assert page.read_text("utf-8") != whole
