"""The items of the golden replies, as published: one of every set, and the few for a real model."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tiny")]
SAMPLE = HERE.parents[1] / "minihmx" / "data" / "sample" / "ruler.jsonl"
Rows = dict[str, list[tuple[str, dict[str, Any]]]]  # by benchmark: (set, row as published)

# Those with short prompts, as the real model takes a minute for 10,000 tokens.
FEW = {
    "bbh": ("boolean_expressions", "date_understanding", "object_counting", "sports_understanding"),
    "acpbench": ("app_bool", "areach_bool", "app_mcq", "land_mcq"),
    "ruler": ("niah_single_1", "niah_multikey_3", "vt", "fwe", "qa_squad"),
}
IFEVAL = (1, 4, 105, 169, 184, 532)  # lines of the published file
SQUAD = (0, 1, 5, 600, 4000)  # questions, the first three of one paragraph
EQ_BENCH = (0, 50, 100, 150)
PUNKT = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


def published(shared: Path) -> Rows:
    """The same for every model."""
    import eq_bench
    import squad_v2

    data, found = shared / "data", dict[str, list[tuple[str, dict[str, Any]]]]()
    found["bbh"] = [
        (path.stem, json.loads(path.read_text("utf-8"))["examples"][3])
        for path in sorted((data / "bbh").glob("*.json"))
    ]
    found["acpbench"] = []
    for path in sorted((data / "acpbench").glob("*.test.*.json.gz")):
        task, _, kind = path.name.split(".")[:3]
        row = json.loads(gzip.decompress(path.read_bytes()))[5]
        found["acpbench"].append((f"{task}_{kind}", row))
    questions = list(squad_v2.questions(shared))
    found["squad_v2"] = [("", questions[i]) for i in SQUAD]
    lines = (data / "ifeval" / "input_data.jsonl").read_text("utf-8").splitlines()
    found["ifeval"] = [("", json.loads(lines[i])) for i in IFEVAL]
    assert not any(
        name in PUNKT for _, row in found["ifeval"] for name in row["instruction_id_list"]
    )
    path = data / "eq_bench" / "eq_bench_v2_questions_171.json"
    rows = list(json.loads(path.read_text("utf-8")).values())
    found["eq_bench"] = [
        (
            "",
            {
                "prompt": eq_bench.second_version(rows[i]["prompt"]),
                "reference_answer": str(rows[i]["reference_answer"]),
                "reference_answer_fullscale": str(rows[i]["reference_answer_fullscale"]),
            },
        )
        for i in EQ_BENCH
    ]
    return found


def sampled_ruler() -> list[tuple[str, dict[str, Any]]]:
    """The first item of each task in minihmx's own sample of 512 tokens, as lm-eval has an item."""
    found: dict[str, dict[str, Any]] = {}
    for line in SAMPLE.read_text("utf-8").splitlines():
        item = json.loads(line)
        found.setdefault(
            item["task"],
            {
                "input": item["prompt"],
                "outputs": item["references"],
                "gen_prefix": item["prefill"],
                "max_length": item["length"],
            },
        )
    return list(found.items())


def few(rows: Rows) -> Rows:
    """What the real model is asked."""
    return {
        name: [(of, row) for of, row in each if of in FEW.get(name, (of,))]
        for name, each in rows.items()
    }


def made_ruler(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first item of each task at 4096 tokens, by lm-eval's own generators."""
    import ruler
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for task, made in ruler.generated(tokenizer, count=1).items():
        yield task, made[0]
