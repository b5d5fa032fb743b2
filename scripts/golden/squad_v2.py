"""Golden prompts and scores of SQuAD 2.0.

    pip install 'lm-eval==0.4.13' 'transformers<5' datasets jinja2
    python scripts/golden/squad_v2.py ../shared tests/evals/golden_squad_v2.json

The prompts are made by lm-evaluation-harness's own task. Its metric is the script of SQuAD's
authors, which it fetches as "squad_v2"; transformers 4 has the same script as `squad_evaluate`, so
that nothing is downloaded. Questions and replies are of our own; of the published questions only
length and sha256 of each prompt are kept.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import asked, template

CONTEXT = "The old bridge of Varn was built in 1642 by the mason Elsa Krum, with five arches. "


def row(number: int, question: str, *answers: str) -> dict[str, Any]:
    """As the hub has it."""
    return {
        "id": f"ours-{number}",
        "title": "Old_bridge",
        "context": CONTEXT,
        "question": question,
        "answers": {"text": list(answers), "answer_start": [0] * len(answers)},
    }


ROWS = [
    row(0, "Who built it?", "Elsa Krum", "the mason Elsa Krum", "Elsa Krum"),
    row(1, " When did «it» burn? ", *()),
    row(2, "What did they say?", "The.", "a", "..."),  # answers without words
    row(3, "How many arches?", "five", "The five arches"),
    row(4, "Où?", "l'Île-d'Or", "A – B"),
    row(5, "Which words?", "the cat, the hat and a cat"),
]
REPLIES: list[tuple[int, str]] = [
    *((0, text) for text in (" Elsa Krum", "elsa krum.", "The mason, Elsa Krum!", "Krum", "Elsa")),
    *((0, text) for text in ("", " ", "unanswerable", "Elsa Elsa Krum", "ElsaKrum", "Els-a Krum")),
    *(
        (0, text)
        for text in ("It was built by Elsa Krum in 1642", "an Elsa a Krum the", "\u00a0Krum")
    ),
    *(
        (1, text)
        for text in ("", " ", "unanswerable", "the", "The a an.", "...", "…", "1642", "\t")
    ),
    *((2, text) for text in ("", "The", "a", "...", "them", "nothing")),
    *((3, text) for text in ("five", "Five", "5", "five arches", "the five arches of Varn")),
    *((3, text) for text in ("five five", "arches five", "theatre five", "<b>five</b>", "a-five")),
    *((4, text) for text in ("lÎledOr", "l’Île-d’Or", "L'ÎLE D'OR", "A B", "– b", "a", "B – A")),
    *((5, text) for text in ("cat hat cat", "cat cat cat", "hat", "the the the", "cathat and cat")),
]


def questions(shared: Path) -> Iterator[dict[str, Any]]:
    """The published ones, as the hub has them."""
    path = shared / "data" / "squad_v2" / "dev-v2.0.cs224n-half.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    for article in articles:
        for paragraph in article["paragraphs"]:
            for each in paragraph["qas"]:
                texts = [answer["text"] for answer in each["answers"]]
                starts = [answer["answer_start"] for answer in each["answers"]]
                yield {
                    "id": each["id"],
                    "title": article["title"],
                    "context": paragraph["context"],
                    "question": each["question"],
                    "answers": {"text": texts, "answer_start": starts},
                }


def local_task(rows: list[dict[str, Any]]) -> Any:
    """lm-eval's own task, told to read our rows."""
    import datasets
    from lm_eval.tasks.squadv2.task import SQuAD2

    class Ours(SQuAD2):  # type: ignore[misc]
        def download(self, *given: Any, **options: Any) -> None:
            found = datasets.Dataset.from_list(rows)
            self.dataset = datasets.DatasetDict(train=found, validation=found)

    return Ours()


def scores(asked: list[tuple[Mapping[str, Any], str]]) -> dict[str, float]:
    """What the metric says of these (question, reply), in percent."""
    from transformers.data.metrics.squad_metrics import squad_evaluate

    examples, replies = [], {}
    for number, (question, reply) in enumerate(asked):
        answers = [{"text": text} for text in question["answers"]["text"]]
        examples.append(SimpleNamespace(qas_id=str(number), answers=answers))
        replies[str(number)] = reply
    found = squad_evaluate(examples, replies, dict.fromkeys(replies, 1.0))
    names = ("f1", "exact", "HasAns_f1", "HasAns_exact", "NoAns_f1", "NoAns_exact")
    return {name: found[name] for name in names if name in found}


def published_reply(number: int, question: Mapping[str, Any]) -> str:
    """Some words of the paragraph, one of the answers, or nothing."""
    texts = [*question["answers"]["text"], ""]
    words = question["context"].split()
    start = number * 7 % len(words)
    some = " ".join(words[start : start + number % 5])
    return (texts[0], some, f"{texts[-2:][0]} it is")[number % 3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="holds data/, tokenizers/ and templates/")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    packages = ("lm_eval", "transformers")
    golden: dict[str, Any] = {name: importlib.metadata.version(name) for name in packages}
    task = local_task(ROWS)
    golden |= {"rows": ROWS, "plain": asked(task)}
    golden["chat"] = [prompt for prompt, _ in asked(task, template(options.shared))]
    golden["replies"] = [
        [number, reply, scores([(ROWS[number], reply)])] for number, reply in REPLIES
    ]
    golden["all"] = scores([(ROWS[number], reply) for number, reply in REPLIES])
    published = list(questions(options.shared))
    replies = [published_reply(number, each) for number, each in enumerate(published)]
    golden["published"] = {"scores": scores(list(zip(published, replies, strict=True)))}
    golden["published"]["prompts"] = [
        [len(prompt), hashlib.sha256(prompt.encode()).hexdigest()]
        for prompt, _ in asked(local_task(published[::500]))
    ]
    options.out.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
