"""SQuAD 2.0: lm-evaluation-harness's prompts, and the scores of the published metric.

scripts/golden/squad_v2.py made both.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, shared

sys.path.insert(0, str(ROOT / "scripts" / "golden"))

import squad_v2 as script

from minihmx import cli
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.results import sample_line
from minihmx.evals.benchmark import Answer, Dialogue, Item
from minihmx.evals.items.load import load_dataset
from minihmx.evals.squad_v2 import SQUAD_V2
from minihmx.models import chat
from minihmx.records import Message

GOLDEN = json.loads((ROOT / "tests" / "evals" / "golden_squad_v2.json").read_text("utf-8"))
HALF = "data/squad_v2/dev-v2.0.cs224n-half.json.gz"


def one(row: dict[str, Any]) -> dict[str, Any]:
    (item,) = SQUAD_V2.convert(row, 0, Path("rows.jsonl"))
    SQUAD_V2.check(item)
    return item


ITEMS: list[Item] = [one(row) for row in GOLDEN["rows"]]


def line(item: Item, reply: str) -> dict[str, Any]:
    said = Answer(replies=(reply,), finish=("stop",))
    return sample_line(
        SQUAD_V2, item, 0, SQUAD_V2.ask(item, {}), said, SQUAD_V2.score(item, said, {})
    )


def percents(lines: list[dict[str, Any]]) -> dict[str, float]:
    return {name: 100.0 * float(each["value"] or 0) for name, each in metrics(lines).items()}


def test_prompts_are_lm_evals_to_the_letter() -> None:
    assert GOLDEN["rows"] == script.ROWS and GOLDEN["lm_eval"] == "0.4.13"
    for item, (prompt, how), in_chat in zip(ITEMS, GOLDEN["plain"], GOLDEN["chat"], strict=True):
        request = SQUAD_V2.ask(item, {})
        assert isinstance(request, Dialogue) and not request.prefill and not request.shots
        assert request.turns == (prompt,) and list(request.until) == how["until"]
        assert request.max_new_tokens == 256
        turns = [Message("user", prompt)]
        assert "".join(s.text for s in chat.render("qwen3", turns, date="")) == in_chat


@pytest.mark.parametrize("number", range(len(GOLDEN["replies"])))
def test_every_reply_gets_the_metrics_score(number: int) -> None:
    row, reply, expected = GOLDEN["replies"][number]
    assert percents([line(ITEMS[row], reply)]) == pytest.approx(expected, abs=1e-9)


def test_and_so_do_all_together() -> None:
    replies = [(row, reply) for row, reply, _ in GOLDEN["replies"]]
    assert replies == script.REPLIES and len(replies) > 50
    lines = [line(ITEMS[row], reply) for row, reply in replies]
    assert percents(lines) == pytest.approx(GOLDEN["all"], abs=1e-9)


def test_saying_that_there_is_no_answer_is_wrong_and_saying_nothing_is_right() -> None:
    item = one(script.row(1, "When did it burn?"))
    for reply, right in (("unanswerable", 0.0), ("", 1.0), ("The.", 1.0), ("1642", 0.0)):
        values = line(item, reply)["values"]
        assert values == dict.fromkeys(("f1", "exact", "NoAns_f1", "NoAns_exact"), right)


def test_the_published_questions(tmp_path: Path) -> None:
    ours = load_dataset(SQUAD_V2, str(shared(HALF)))
    published = list(script.questions(shared("data").parent))
    assert (len(ours.items), ours.label) == (6078, "partial 6078/11873")
    assert sum(not item["correct"] for item in ours.items) == 3168
    prompts = [str(SQUAD_V2.ask(item, {}).turns[0]) for item in ours.items[::500]]  # type: ignore[union-attr]
    found = [[len(p), hashlib.sha256(p.encode()).hexdigest()] for p in prompts]
    assert found == GOLDEN["published"]["prompts"]
    replies = [script.published_reply(n, question) for n, question in enumerate(published)]
    lines = [line(item, reply) for item, reply in zip(ours.items, replies, strict=True)]
    assert percents(lines) == pytest.approx(GOLDEN["published"]["scores"], abs=1e-9)
    # questions about one paragraph go together in the standard error
    assert len({each["cluster"] for each in lines}) == len({i["context"] for i in ours.items})


def test_the_hubs_form_gives_equal_items(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    rows = list(script.questions(shared("data").parent))
    path = tmp_path / "squad_v2" / "validation-00000-of-00001.parquet"
    path.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    ours, theirs = load_dataset(SQUAD_V2, str(shared(HALF))), load_dataset(SQUAD_V2, str(tmp_path))
    assert ours.items == theirs.items and ours.digest == theirs.digest
    assert ours.items[0]["id"] == rows[0]["id"]


def article() -> dict[str, Any]:
    with gzip.open(shared(HALF), "rt", encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)["data"][0]
    return found


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"title": "T"}, "it has no answers"),
        ({**script.row(0, "Who?"), "answers": {"text": "Ada"}}, "its text is 'Ada'"),
        ({**script.row(0, "Who?"), "id": 7}, "its id is 7"),
        ({"title": "T", "paragraphs": ["x"]}, "its paragraphs hold what is no object"),
        ({"title": "T", "paragraphs": [{"context": "c", "qas": [1]}]}, "its qas hold"),
        (script.row(0, " "), "its context or its question is empty"),
    ],
)
def test_a_row_that_is_broken(row: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        one(row)


def test_the_file_whose_list_lacks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dev-v2.0.json"
    path.write_text(json.dumps({"version": "v2.0", "articles": [article()]}), "utf-8")
    assert cli.main(["data", "check", "squad_v2", "--data", str(path)]) == 5
    assert "holds no JSON list" in capsys.readouterr().err


def test_the_sample_fits_tiny(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["eval", "tiny", "--tasks", "squad_v2", "--data", "sample", "--out", str(tmp_path)]
    assert cli.main([*ask, "--temperature", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n"], result["truncated"], result["headline"]) == (12, 0, ["f1"])
    assert result["metrics"]["NoAns_f1"]["n"] == 5 and result["settings"]["chat"]
