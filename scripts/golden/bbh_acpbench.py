"""Golden prompts and verdicts of BIG-Bench Hard and ACPBench, made by lm-evaluation-harness itself.

    pip install -e '.[bench]'
    python scripts/golden/bbh_acpbench.py ../shared tests/evals/golden_bbh_acpbench.json

Its own task files read the first published item of each of the 27 and 14 sets, and replies of our
own. Of a prompt that holds published text only the length and the sha256 are kept. Nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import tokenizers
import transformers

TEMPLATES = {"qwen3": "qwen3", "gemma2": "gemma2-it", "llama3": "llama-3.2-3b-instruct"}
BOS = {"gemma2": "<bos>", "llama3": "<|begin_of_text|>"}
DATE = "26 Jul 2024"
# The set whose task file scores the replies, and by target what a model might say.
REPLIES: dict[str, dict[str, list[str]]] = {
    "bbh snarks": {
        "(A)": [
            "So the answer is (A).",
            "So the answer is (A)",
            "So the answer is (A). ",
            "So the answer is (A).\n",
            "So the answer is (A).\nSo the answer is (B).",
            "So the answer is (B).\nNo, the answer is (A).",
            "So the answer is (A). I am sure.",
            "So the answer is **(A)**.",
            "The answer is (A).",
            "the answer is  (A) .",
            "the answer is\n(A).",
            "the answer is (a).",
            "the answer is A.",
            "the answer is (A)..",
            "the answer is x",
            "the answer is ",
            "the answer is",
            "the answer is the answer is (A).",
            "the answer is not the answer is (A).",
            "(A)",
            "",
            " \n",
            "the answer is (A).\u2028b",
            "the answer is (A)\u3002",
            "the answer is \u00a0(A)\u00a0.",
        ],
        "False": ["So the answer is False.", "So the answer is False", "the answer is false."],
    },
    "acpbench app_bool": {
        "yes": [
            "**Final Answer**: Yes.",
            "**Final Answer**: Yes",
            "**Final Answer**: Yes. ",
            "**Final Answer**: yes!!",
            "**Final Answer**:\nYes.",
            "**final answer**: yes.",
            "There is no truck, so it can. **Final Answer**: Yes.",
            "There is no truck.\n**Final Answer**: Yes.",
            "Nothing is known. **Final Answer**: Yes.",
            "The answer is yes.",
            "The answer is yes",
            "The answer is **Yes**.",
            "the answer is YES.",
            "Step 1: ... The answer: Yes.",
            "The final answer: Yes.",
            "The final answer is Yes.",
            "**Answer**: Yes.",
            "**answer**: Yes.",
            "my answer is: Yes.",
            "The answer is Y",
            "The answer is ",
            "The answer is  .",
            "The answer is Yes. No doubt.",
            "The answer is no. Or rather, the answer is yes.",
            "YES",
            "yes",
            "Yes\n",
            "Yesterday",
            "yes_no",
            "It is, yes, possible",
            "true",
            "",
            "**Final Answer**: [Yes].",
            "**Final Answer**: Y,e-s.",
            "__Final Answer__: Yes.",
        ],
        "no": [
            "There is no truck. **Final Answer**: Yes.",
            "**Final Answer**: No.",
            "The answer is No, not yes.",
        ],
    },
    "acpbench app_mcq": {
        "A": [
            "**Final Answer**: A.",
            "**Final Answer**: A",
            "**Final Answer**: B. Because Action C fails, not Deterministic",
            "**Final Answer**: the first.",
            "nothing here but text",
            "a label and a text",
            "text, then label",
            "TEXT",
            "te-xt",
            "A",
            "(A)",
            "[A]",
            "a",
            "I choose A because it works",
            "The answer is: A\n",
            "AB",
            "BA",
            "",
            "**Final Answer**: none",
            "**Final Answer**: a.",
            "x: A then **Final Answer**: b",
            "Answer: A. **Final Answer**: z",
        ],
        "B": [
            "**Final Answer**: B.",
            "**Final Answer**: b.",
            "**Final Answer**: b",
            "**Final Answer**: b, so it is.",
            "**Answer**: b.",
            "**answer**: b.",
            "xxAnswerxx: b.",
            "a label",
            "text label",
            "la\u2014bel",
            "[B]",
            "B\nC",
            "C\nB",
            ' "B" ',
            "\\B",
            "x: B, then **answer**: y",
            "\u0412",
            "**Final Answer**: \u3000.",
        ],
        "D": [
            "**Final Answer**: B. Because Action C fails, not Deterministic",
            "A. one B. two C. three D. four",
            "D. Then A is wrong",
            "I think D",
            "Done",
        ],
    },
}
OPTIONS = {"text": ["one", "two", "three", "four"], "label": ["A", "B", "C", "D"]}


def sets(shared: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of a set -> (lm-eval's file of its task, its first published item)."""
    found = {}
    for path in sorted((shared / "data" / "bbh").glob("*.json")):
        row = json.loads(path.read_text("utf-8"))["examples"][0]
        found[f"bbh {path.stem}"] = (f"bbh/cot_fewshot/{path.stem}.yaml", row)
    for path in sorted((shared / "data" / "acpbench").glob("*.test.*.json.gz")):
        task, _, kind = path.name.split(".")[:3]
        row = json.loads(gzip.decompress(path.read_bytes()))[0]
        file = f"{'boolq' if kind == 'bool' else kind}_cot_2shot"
        place = f"acpbench/{file}/{'act_reach' if task == 'areach' else task}.yaml"
        found[f"acpbench {task}_{kind}"] = (place, row)
    return found


def published_task(folder: Path, file: str, row: dict[str, Any]) -> Any:
    """lm-eval's own task, told to read one row of ours."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    data = folder / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n")
    changes = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / file),
        "task": "ours",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
    }
    path = folder / "ours.yaml"
    path.write_text(json.dumps(changes))
    return TaskManager(include_defaults=False).load([str(path)])["tasks"]["ours"]


def templates(shared: Path) -> dict[str, Any]:
    """By family, lm-eval's own function that applies a chat template."""
    from lm_eval.models.huggingface import HFLM

    raw = gzip.decompress((shared / "tokenizers" / "qwen3" / "tokenizer.json.gz").read_bytes())
    found, make = {}, cast(Any, transformers.PreTrainedTokenizerFast)
    for family, file in TEMPLATES.items():
        tokenizer = make(
            tokenizer_object=tokenizers.Tokenizer.from_buffer(raw),
            bos_token=BOS.get(family),
            chat_template=(shared / "templates" / f"{file}.jinja").read_text("utf-8"),
        )
        options = {"enable_thinking": False, "date_string": DATE}
        model = SimpleNamespace(tokenizer=tokenizer, chat_template_args=options)
        found[family] = lambda said, model=model, **flags: HFLM.apply_chat_template(
            model, said, **flags
        )
    return found


def mark(text: str) -> dict[str, Any]:
    """What is kept of a published text."""
    return {"length": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def prompts(task: Any, formats: dict[str, Any]) -> dict[str, Any]:
    """Without chat ("") and with each family's template, the examples being turns of their own."""
    doc, shots = next(iter(task.test_docs())), task.config.num_fewshot
    found = {"": mark(task.fewshot_context(doc, shots))}
    for family, template in formats.items():
        text = task.fewshot_context(
            doc, shots, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=template
        )
        found[family] = mark(text)
    return found


def verdicts(task: Any, replies: dict[str, list[str]], target: str) -> list[dict[str, Any]]:
    """What the task's filters take out of each reply, and whether that is right."""
    from lm_eval.api.instance import Instance

    found = []
    for gold, texts in replies.items():
        doc = {target: gold, "choices": OPTIONS}
        asked = [Instance("generate_until", doc, ("",), i, resps=[t]) for i, t in enumerate(texts)]
        task._instances = asked
        task.apply_filters()
        for reply, instance in zip(texts, asked, strict=True):
            (said,) = instance.filtered_resps.values()
            score = task.process_results(doc, [said])["exact_match"]
            found.append({"gold": gold, "reply": reply, "said": said, "right": float(score)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="holds data/, templates/ and tokenizers/")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    packages = ("lm_eval", "transformers", "datasets")
    golden: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": DATE,
        "prompts": {},
        "generation": {},
        "verdicts": {},
    }
    formats = templates(options.shared)
    for name, (file, row) in sets(options.shared).items():
        with tempfile.TemporaryDirectory() as scratch:
            task = published_task(Path(scratch), file, row)
            golden["prompts"][name] = prompts(task, formats)
            golden["generation"][name] = task.config.generation_kwargs
            if name in REPLIES:
                target = "target" if name.startswith("bbh") else "answer"
                golden["verdicts"][name] = verdicts(task, REPLIES[name], target)
    options.out.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
