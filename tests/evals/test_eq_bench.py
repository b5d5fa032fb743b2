"""EQ-Bench is lm-evaluation-harness's; scripts/golden/eq_bench.py made its prompts and scores."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, shared

sys.path.insert(0, str(ROOT / "scripts" / "golden"))

import eq_bench as script

from minihmx import cli
from minihmx.errors import DataError
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.results import sample_line
from minihmx.evals.benchmark import Answer, Dialogue, Item, Score
from minihmx.evals.eq_bench import EQ_BENCH
from minihmx.evals.items.load import load_dataset
from minihmx.models import chat
from minihmx.records import Message
from minihmx.results.collect import metric_of

GOLDEN = json.loads((ROOT / "tests" / "evals" / "golden_eq_bench.json").read_text("utf-8"))


def one(row: dict[str, Any], number: int = 0) -> dict[str, Any]:
    (item,) = EQ_BENCH.convert(row, number, Path("rows.jsonl"))
    EQ_BENCH.check(item)
    return item


ITEMS: list[Item] = [one(row, number) for number, row in enumerate(GOLDEN["rows"])]


def asked(item: Item) -> Dialogue:
    request = EQ_BENCH.ask(item, {})
    assert isinstance(request, Dialogue)
    return request


def scored(reply: str, item: Item = ITEMS[0]) -> Score:
    return EQ_BENCH.score(item, Answer(replies=(reply,), finish=("stop",)), {})


def test_prompts_are_lm_evals_to_the_letter() -> None:
    assert GOLDEN["rows"] == script.ROWS and GOLDEN["lm_eval"] == "0.4.13"
    for item, (prompt, how), in_chat in zip(ITEMS, GOLDEN["plain"], GOLDEN["chat"], strict=True):
        request = asked(item)
        assert request.turns == (prompt,) and not request.prefill and not request.shots
        assert (list(request.until), request.max_new_tokens) == (how["until"], how["max_gen_toks"])
        turns = [Message("user", prompt)]
        assert "".join(s.text for s in chat.render("qwen3", turns, date="")) == in_chat


@pytest.mark.parametrize("number", range(len(GOLDEN["replies"])))
def test_every_reply_gets_lm_evals_score(number: int) -> None:
    row, reply, expected = GOLDEN["replies"][number]
    score = scored(reply, ITEMS[row])
    assert score.values["score"] == pytest.approx(expected["eqbench"], rel=1e-12, abs=1e-9)
    assert score.values["percent_parseable"] == expected["percent_parseable"]
    assert score.unparsed == (expected["percent_parseable"] == 0)
    for name, reading in score.detail.items():
        start, end = reading["span"]
        assert reply[start:end].startswith(f"{name}:") and reply[:end].endswith(reading["value"])


def test_what_was_tried_holds_every_trap() -> None:
    replies = [(row, reply) for row, reply, _ in GOLDEN["replies"]]
    assert replies == script.REPLIES and len(replies) > 30
    found = [verdict["eqbench"] for *_, verdict in GOLDEN["replies"]]
    assert min(found) < -1e12 and found.count(100.0) > 5 and found.count(0) > 10


def test_a_number_without_end_stays_one_that_can_be_written_and_averaged() -> None:
    right = "Sad: 6\nProud: 0\nBored: 0"
    lines = []
    for number, digits in enumerate(("9" * 400, "9" * 200, "7")):
        item = {**ITEMS[0], "id": f"{number}"}
        said = Answer(replies=(f"Angry: {digits}\n{right}",), finish=("stop",))
        score = EQ_BENCH.score(item, said, {})
        lines.append(sample_line(EQ_BENCH, item, 0, EQ_BENCH.ask(item, {}), said, score))
    json.dumps(lines, allow_nan=False)
    found = metrics(lines)["score"]
    assert lines[0]["values"]["score"] == lines[1]["values"]["score"] == pytest.approx(-7.477e100)
    assert found["stderr"] is not None and 0 < found["stderr"] < 1e102


def test_the_published_prompts_lose_their_revision() -> None:
    items = load_dataset(EQ_BENCH, str(shared("data"))).items
    prompts = [item["prompt"] for item in items]
    found = [[len(p), hashlib.sha256(p.encode()).hexdigest()] for p in prompts[::17]]
    assert found == GOLDEN["published"]
    lengths = [len(prompt) for prompt in prompts]  # as published of the hub's column
    assert (min(lengths), max(lengths)) == (922, 3737)
    assert round(sum(lengths) / len(lengths), 2) == 1550.02
    assert items[0]["id"] == "eq_bench-001" and items[-1]["id"] == "eq_bench-171"


def test_the_hubs_form_gives_equal_items(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    path = shared("data/eq_bench/eq_bench_v2_questions_171.json")
    rows = list(json.loads(path.read_text("utf-8")).values())
    columns = {
        "prompt": [script.second_version(row["prompt"]) for row in rows],
        "reference_answer": [str(row["reference_answer"]) for row in rows],
        "reference_answer_fullscale": [str(row["reference_answer_fullscale"]) for row in rows],
    }
    hub = tmp_path / "default" / "validation" / "0000.parquet"
    hub.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.table(columns), hub)
    ours, theirs = load_dataset(EQ_BENCH, str(path)), load_dataset(EQ_BENCH, str(tmp_path))
    assert ours.items == theirs.items and ours.digest == theirs.digest
    assert len(ours.items) == EQ_BENCH.total and not ours.partial


FULL_SCORE = "reference_answer_fullscale"
ROW = {"prompt": "How does Ada feel?", FULL_SCORE: dict(emotion1="A", emotion2="B", emotion3="C")}
ROW[FULL_SCORE] |= {"emotion4": "D"} | {f"emotion{i}_score": "7" for i in range(1, 5)}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"emotion4": "C"}, "four different emotions"),
        ({"emotion4": "two words"}, "not a single word"),
        ({"emotion4": None}, "its emotion4 is None"),
        ({"emotion4_score": "7.x"}, "its emotion4_score is '7.x', no rating"),
        ({"emotion4_score": True}, "is True, no rating"),
        ({"emotion4_score": "11"}, "between 0 and 10"),
        ({"emotion4_score": 10**400}, "between 0 and 10"),
    ],
)
def test_a_reference_that_is_broken(change: dict[str, Any], words: str) -> None:
    assert one(ROW)["ratings"] == [7.0] * 4
    with pytest.raises(ValueError, match=words):
        one({**ROW, FULL_SCORE: {**ROW[FULL_SCORE], **change}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "text", ["", "{", "__import__('os')", "[1]", "{'emotion1': 1}", "(" * 9999]
)
def test_a_reference_is_read_and_never_run(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        one({**ROW, FULL_SCORE: text})
    path = tmp_path / "eq_bench_v2_questions_171.json"
    path.write_text(json.dumps({"1": {**ROW, FULL_SCORE: text}}), "utf-8")
    with pytest.raises(DataError, match="row 1: "):
        load_dataset(EQ_BENCH, str(path))


def test_the_table_shows_percents_as_they_are() -> None:
    assert metric_of("eq_bench/percent_parseable").scale == 1.0 == metric_of("eq_bench/score").scale
    assert metric_of("squad_v2/HasAns_f1").scale == 100.0


def test_the_sample_fits_tiny(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["eval", "tiny", "--tasks", "eq_bench", "--data", "sample", "--out", str(tmp_path)]
    assert cli.main([*ask, "--temperature", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n"], result["truncated"], result["headline"]) == (8, 0, ["score"])
    assert result["metrics"]["percent_parseable"]["n"] == 8 and result["settings"]["chat"]
