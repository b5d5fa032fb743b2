"""BIG-Bench Hard and ACPBench are asked and scored as lm-evaluation-harness does it.

scripts/golden/bbh_acpbench.py made the golden prompts and verdicts with the harness itself.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, shared

from minihmx.engine.open import find_model
from minihmx.errors import DataError, UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.acpbench import ACPBENCH
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.replies import plain_text
from minihmx.evals.bbh import BBH
from minihmx.evals.benchmark import Answer, Dialogue, Item, Score
from minihmx.evals.items.load import Dataset, load_dataset
from minihmx.evals.shots import worked_examples
from minihmx.models import chat
from minihmx.records import Message
from minihmx.storage.disk import dumps

GOLDEN = json.loads((ROOT / "tests" / "evals" / "golden_bbh_acpbench.json").read_text("utf-8"))
VERDICTS = [(name, case) for name, cases in GOLDEN["verdicts"].items() for case in cases]
ROW = {"input": "1 + 1 =", "target": "2"}
PLAN = {"context": "A cart.", "question": "Can it move?", "answer": "yes"}


@pytest.fixture(scope="module")
def published() -> dict[str, Dataset]:
    return {
        name: load_dataset(BENCHMARKS[name], str(shared("data"))) for name in ("bbh", "acpbench")
    }


def asked(item: Item) -> Dialogue:
    request = (BBH if "input" in item else ACPBENCH).ask(item, {})
    assert isinstance(request, Dialogue)
    return request


def text_of(request: Dialogue, family: str) -> str:
    """The prompt: without chat for "", else in a family's format, thinking off."""
    said = [*request.shots, Message("user", request.turns[0])]
    if not family:
        return plain_text(request, said, request.prefill)
    if request.system and chat.has_system_turn(family):
        said = [Message("system", request.system), *said]
    return "".join(s.text for s in chat.render(family, said, date=GOLDEN["date"]))


def verdict(name: str, gold: str, reply: str) -> Score:
    benchmark, task = name.split()
    item: dict[str, Any] = {"id": "x", "task": task, "shots": "published"}
    item |= {"target": gold} if benchmark == "bbh" else {"answer": gold}
    return BENCHMARKS[benchmark].score(item, Answer(replies=(reply,)), {})


# Equal to the harness


@pytest.mark.parametrize("name", GOLDEN["prompts"])
def test_a_published_items_prompt_is_the_harnesss_to_the_letter(
    name: str, published: dict[str, Dataset]
) -> None:
    benchmark, task = name.split()
    item = next(item for item in published[benchmark].items if item["task"] == task)
    for family, golden in GOLDEN["prompts"][name].items():
        text = text_of(asked(item), family)
        assert len(text) == golden["length"], (family, text)
        assert hashlib.sha256(text.encode()).hexdigest() == golden["sha256"], (family, text)


@pytest.mark.parametrize("name", GOLDEN["generation"])
def test_a_reply_ends_where_the_harness_ends_it(name: str) -> None:
    golden = GOLDEN["generation"][name]
    benchmark, task = name.split()
    words = {"input": "i"} if benchmark == "bbh" else {"context": "c", "question": "q"}
    request = asked({"id": "x", "task": task, "shots": "published", **words})
    assert set(request.until) == set(golden["until"])
    assert request.max_new_tokens == golden["max_gen_toks"] == 1024


@pytest.mark.parametrize(("name", "case"), VERDICTS)
def test_a_replys_verdict_is_the_harnesss(name: str, case: dict[str, Any]) -> None:
    score = verdict(name, case["gold"], case["reply"])
    assert next(iter(score.values.values())) == case["right"]
    letters = str.maketrans("", "", "()")  # a fallback of the harness's writes (A)
    assert score.detail["said"].translate(letters) == case["said"].translate(letters)
    assert score.unparsed == (case["said"] == "[invalid]")


@pytest.mark.parametrize(
    ("name", "gold", "reply", "right"),
    [
        ("bbh snarks", "False", "So the answer is False.", 1.0),
        ("bbh snarks", "False", "So the answer is False", 0.0),
        ("bbh snarks", "False", "So the answer is **False**.", 0.0),
        ("bbh snarks", "False", "The answer is False.", 0.0),
        ("bbh snarks", "False", "So the answer is False. I am sure.", 0.0),
        ("acpbench app_bool", "yes", "There is no truck.\n**Final Answer**: Yes.", 0.0),
        ("acpbench app_bool", "yes", "**Final Answer**: Yes", 0.0),
        ("acpbench app_bool", "yes", "**Final Answer**: Yes.", 1.0),
        ("acpbench app_mcq", "D", "**Final Answer**: B. Action C fails, not Deterministic", 1.0),
        ("acpbench app_mcq", "B", "the label", 1.0),
        ("acpbench app_mcq", "A", "the text", 1.0),
    ],
)
def test_the_quirks_by_hand(name: str, gold: str, reply: str, right: float) -> None:
    assert set(verdict(name, gold, reply).values.values()) == {right}


# The published files


def test_all_published_items_and_no_others(published: dict[str, Dataset]) -> None:
    for name, sets in (("bbh", 27), ("acpbench", 14)):
        found = published[name]
        assert len(found.items) == found.total and not found.partial and not found.note
        assert {item["shots"] for item in found.items} == {"published"}
        tasks = [item["task"] for item in found.items]
        assert set(tasks) == set(worked_examples(name)["published"]) and len(set(tasks)) == sets
    counts = {
        t: [i["task"] for i in published["bbh"].items].count(t) for t in ("snarks", "navigate")
    }
    assert counts == {"snarks": 178, "navigate": 250}
    dev = json.loads(shared("data/acpbench/app.dev.bool.json").read_text("utf-8"))
    contexts = {(item["context"], item["question"]) for item in published["acpbench"].items}
    assert len(dev) == 40 and not {(r["context"], r["question"]) for r in dev} & contexts


def put_upstream(name: str, folder: Path) -> None:
    """A small file for each of two sets, as upstream names them, beside files of other sets."""
    rows = {"bbh": ROW, "acpbench": PLAN}[name]
    text = dumps({"canary": "x", "examples": [rows]} if name == "bbh" else [rows])
    places = {
        "bbh": ["bbh/snarks.json", "bbh/navigate.json", "cot-prompts/navigate.json"],
        "acpbench": [
            *("dataset/app/test.bool.json", "dataset/val/test.bool.json.gz"),
            *("dataset/app/dev.bool.json", "dataset/app/test.gen.json"),
        ],
    }[name]
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        raw = text.encode()
        (folder / place).write_bytes(gzip.compress(raw) if place.endswith(".gz") else raw)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("bbh", ["navigate", "snarks"]), ("acpbench", ["app_bool", "val_bool"])],
)
def test_upstreams_folders_are_read(name: str, tasks: list[str], tmp_path: Path) -> None:
    put_upstream(name, tmp_path)
    found = load_dataset(BENCHMARKS[name], str(tmp_path))
    assert [item["task"] for item in found.items] == tasks
    assert [item["id"][-4:] for item in found.items] == ["0000", "0001"]


@pytest.mark.parametrize(
    ("name", "place", "task"),
    [
        ("bbh", "snarks/test-00000-of-00001.parquet", "snarks"),
        ("bbh", "snarks/test/0000.parquet", "snarks"),
        ("acpbench", "acp_areach_mcq/test.parquet", "areach_mcq"),
        ("acpbench", "acp_reach_bool/test/0000.parquet", "reach_bool"),
    ],
)
def test_the_hubs_files_say_their_task(name: str, place: str, task: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {**ROW, **PLAN, "answer": "B" if "mcq" in place else "yes"}
    near = [place.replace("test", "validation"), place.replace("mcq", "gen").replace("bool", "gen")]
    for where in {place, near[0], *(near[1:] if name == "acpbench" else ())}:
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / where)
    (item,) = load_dataset(BENCHMARKS[name], str(tmp_path)).items
    assert item["task"] == task


def test_one_file_may_be_named_and_a_development_file_may_not() -> None:
    file = shared("data/acpbench/app.test.bool.json.gz")
    assert load_dataset(ACPBENCH, str(file)).label == "partial 130/1800"
    with pytest.raises(UserError, match="holds nothing of acpbench"):
        load_dataset(ACPBENCH, str(file.with_name("app.dev.bool.json")))


@pytest.mark.parametrize(
    ("name", "place", "change", "words"),
    [
        ("bbh", "bbh/sarcasm.json", {}, "one of the 27 tasks"),
        ("bbh", "bbh/snarks.json", {"target": 5}, "its target is 5"),
        ("bbh", "bbh/snarks.json", {"target": " "}, "its target is empty"),
        ("bbh", "bbh/snarks.json", {"input": ""}, "its input or"),
        ("acpbench", "xapp.test.bool.json", {}, "one of the 14 sets"),
        ("acpbench", "app.test.bool.json", {"answer": "Yes"}, "its answer is 'Yes'"),
        ("acpbench", "app.test.mcq.json", {"answer": "E"}, "its answer is 'E'"),
        ("acpbench", "app.test.bool.json", {"question": " "}, "its question is empty"),
    ],
)
def test_a_file_that_is_wrong(
    name: str, place: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    row = (ROW if name == "bbh" else PLAN) | change
    path.write_text(dumps({"examples": [row]} if name == "bbh" else [row]))
    with pytest.raises(DataError, match=words):
        load_dataset(BENCHMARKS[name], str(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shots": "mine"}, "neither published nor sample"),
        ({"task": "x"}, "its task is 'x', none of the 27"),
    ],
)
def test_an_item_without_worked_examples(
    change: dict[str, str], words: str, tmp_path: Path
) -> None:
    item = {"id": "a", "task": "snarks", "shots": "published", **ROW} | change
    (tmp_path / "bbh.jsonl").write_text(dumps(item))
    with pytest.raises(DataError, match=words):
        load_dataset(BBH, str(tmp_path))


# Scores


def test_the_micro_average_and_the_tasks_beside_it() -> None:
    replies = {"snarks": ["the answer is 2.", "no"], "navigate": ["the answer is 2."]}
    lines = [
        {"values": verdict(f"bbh {task}", "2", reply).values, "cluster": f"{task}-{number}"}
        for task, said in replies.items()
        for number, reply in enumerate(said)
    ]
    found = {name: (each["value"], each["n"]) for name, each in metrics(lines, BBH.means).items()}
    assert found["exact_match"] == (pytest.approx(2 / 3), 3)
    assert found["exact_match/snarks"] == (0.5, 2) and found["exact_match/navigate"] == (1.0, 1)


def test_the_means_are_those_of_seven_scores_whatever_their_size() -> None:
    replies = {"app_bool": ["yes", "no", "no"], "val_bool": ["yes"], "val_mcq": ["A", "B"]}
    lines = []
    for task, said in replies.items():
        for number, reply in enumerate(said):
            gold = "A" if "mcq" in task else "yes"
            values = verdict(f"acpbench {task}", gold, reply).values
            lines.append({"values": values, "cluster": f"{task}-{number}"})
    found = metrics(lines, ACPBENCH.means)
    assert found["bool_mean"]["value"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["bool_mean"]["n"] == 4 and found["mcq_mean"]["value"] == 0.5
    assert ACPBENCH.headline == tuple(ACPBENCH.means) == ("bool_mean", "mcq_mean")
    assert all(len(parts) == 7 for parts in ACPBENCH.means.values())


# The worked examples


def test_the_sample_and_its_own_shots_fit_the_bundled_model() -> None:
    model = find_model({"model": "tiny"})
    context = json.loads((ROOT / "minihmx/tiny/config.json").read_text())["max_position_embeddings"]
    for benchmark in (BBH, ACPBENCH):
        for item in load_dataset(benchmark, "sample").items:
            request = asked(item)
            assert item["shots"] == "sample" and item["id"].startswith("sample-")
            ids = model.tokenizer.encode_text(text_of(request, "tiny"))
            assert len(ids) + request.max_new_tokens < context == 1024


@pytest.mark.parametrize("name", ["bbh", "acpbench"])
def test_the_worked_examples_ship_with_their_licence(name: str) -> None:
    held = json.loads((ROOT / "minihmx/data/shots" / f"{name}.json").read_text("utf-8"))
    assert held["licence"].startswith("MIT License. Copyright (c) 20")
    assert "DATA SHOULD NEVER APPEAR IN TRAINING" in held.get("canary", "") or name == "acpbench"
    per_task = {"bbh": 3, "acpbench": 2}[name]
    for task, found in held["published"].items():
        shots = found["shots"] if name == "bbh" else found
        assert len(shots) == per_task, task
