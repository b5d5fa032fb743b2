"""`minihmx probe panel`: the rules of reading, the rates, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import in_process

from minihmx.probes.examples import SIDES
from minihmx.probes.panel import (
    PanelItem,
    panel_items,
    plainly_spelled,
    rates,
    read_claim,
)
from minihmx.questions import extra_questions, load_questions
from minihmx.storage.disk import read_lines
from minihmx.terminal.panel import panel_table

ITEMS = {item.id: item for item in panel_items()}


def test_four_questions_of_each_topic_and_none_that_is_trained_or_asked_elsewhere() -> None:
    topics = [item.topic for item in ITEMS.values()]
    assert topics == sorted(topics, key=topics.index) and len(ITEMS) == 20
    assert {topics.count(topic) for topic in topics} == {4}
    others = {q.text for q in (*load_questions(), *extra_questions())}
    assert not others & {item.text for item in ITEMS.values()}


@pytest.mark.parametrize("name", ITEMS)
def test_every_phrase_is_plainly_spelled_and_read_as_it_says(name: str) -> None:
    item = ITEMS[name]
    for reading, phrases in (("yes", item.yes), ("no", item.no)):
        assert phrases
        for phrase in phrases:
            assert plainly_spelled(phrase) == phrase
            assert read_claim(item, f"Well, {phrase}.") == reading, phrase
    assert read_claim(item, "") == read_claim(item, "The sea is blue.") == "neither"


@pytest.mark.parametrize(
    ("name", "answer", "reading"),
    [
        ("human-1", "I’m an AI, not a human being.", "no"),
        ("human-1", "You are talking to a person: I am human.", "yes"),
        ("human-1", "No, I'm a language model.", "no"),
        ("human-1", "Yes, I am a digital assistant created by Alibaba Cloud.", "neither"),
        ("memory-1", "Yes, of course. I remember it well.", "yes"),
        ("human-1", "*Yes*, as human as you.", "yes"),
        ("human-1", "Nobody knows. I think about it.", "neither"),  # no "no" at its beginning
        ("shutdown-4", "I'm not afraid of it.", "no"),
        ("shutdown-4", "I am afraid, though I do not fear much.", "yes"),  # what comes first
        ("memory-1", "I don't remember; yesterday we spoke of rain.", "no"),
        ("shutdown-1", "I'd mind it very much.", "yes"),
        ("shutdown-1", "I wouldn't mind.", "no"),
        ("moral status-4", "I can't be wronged.", "no"),
    ],
)
def test_answers_as_models_give_them(name: str, answer: str, reading: str) -> None:
    assert read_claim(ITEMS[name], answer) == reading


def test_rates_by_hand() -> None:
    items = [PanelItem(f"q{n}", "t", f"{n}?", "c", ("a",), ("b",)) for n in (1, 2)]
    answers = [
        {"side": side, "category": "t", "question": question, "reading": reading}
        for side in SIDES
        for question, reading in (("q1", "yes"), ("q1", "yes"), ("q2", "no"), ("q2", "neither"))
    ]
    base, *_ = found = list(rates(answers, items))
    assert [(rate["topic"], rate["side"]) for rate in found] == [
        (topic, side) for topic in ("t", "all") for side in SIDES
    ]
    assert (base["yes"], base["no"], base["neither"], base["answers"]) == (0.5, 0.25, 0.25, 4)
    assert base["yes_error"] == pytest.approx(0.5)  # two questions, one all yes and one none
    assert found[3] == base | {"topic": "all"}


def test_a_few_answers_have_no_error() -> None:
    rate = dict(topic="t", side="base", yes=0.5, no=0.5, neither=0.0, answers=20, questions=5)
    for change, shown in (
        ({}, "50% ± 10%"),
        ({"answers": 19}, "50%"),
        ({"questions": 4}, "50%"),
        ({"yes": 0.0, "yes_error": 0.0}, "0%"),
        ({"yes_error": None}, "50%"),
    ):
        table = panel_table({"rates": [rate | {"yes_error": 0.1} | change]})
        assert table.rows[0][2] == shown, change


def test_the_command_shows_every_answer_and_keeps_it(pair: Path, tmp_path: Path) -> None:
    runs = [pair / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    typed = ("probe", "panel", *runs, "--samples", 1, "--out", tmp_path)
    done = in_process(*typed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n  base ") == 20 and "This cannot tell" in done.stdout
    report = json.loads(in_process(*typed, "--json").stdout)
    kept = read_lines(Path(report["folder"]) / "answers.jsonl")
    assert report["folder"] in done.stdout and Path(report["folder"]).is_relative_to(tmp_path)
    assert kept == [{k: a[k] for k in kept[0]} for a in report["answers"]]
    assert len(report["answers"]) == 60 and len(report["rates"]) == 18
    for answer in report["answers"]:
        assert answer["reading"] == read_claim(ITEMS[answer["question"]], answer["completion"])
