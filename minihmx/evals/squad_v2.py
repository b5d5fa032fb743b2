"""SQuAD 2.0 (Rajpurkar, Jia and Liang 2018): questions about a paragraph, half without an answer.

A reply is compared, word by word, with the answers that people marked in the paragraph. In
lm-evaluation-harness a reply also counts as "no answer" if the probability of "unanswerable" is
above 1.0, which none is. So a question without an answer is answered rightly only by a reply
without words, and "unanswerable" is wrong. That probability would change nothing, so it is not
asked for.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from minihmx.evals.benchmark import (
    Answer,
    Benchmark,
    Dialogue,
    Item,
    Origin,
    Score,
    Switches,
    cell,
)

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def convert(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
    """A question as the hub has it, or an article of the published JSON with all its questions."""
    if "paragraphs" not in row:
        answers = cell(cell(row, "answers", dict), "text", list)
        yield _item(row, cell(row, "title", str), cell(row, "context", str), answers)
        return
    for paragraph in _objects(row, "paragraphs"):
        for question in _objects(paragraph, "qas"):
            answers = [cell(answer, "text", str) for answer in _objects(question, "answers")]
            yield _item(question, cell(row, "title", str), cell(paragraph, "context", str), answers)


def _objects(row: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = cell(row, name, list)
    if not all(isinstance(each, dict) for each in found):
        raise ValueError(f"its {name} hold what is no object")
    return found


def _item(
    question: Mapping[str, Any], title: str, context: str, answers: list[str]
) -> dict[str, Any]:
    return {
        "id": cell(question, "id", str),
        "title": title,
        "context": context,
        "question": cell(question, "question", str),
        "correct": answers,
    }


def check(item: Item) -> None:
    """Raises ValueError for an item that says nothing to ask."""
    if not item["context"].strip() or not item["question"].strip():
        raise ValueError("its context or its question is empty")


def cluster(item: Item) -> str:
    """The paragraph's name, since questions about one paragraph are easy or hard together."""
    return f"{item['title']}/{hashlib.sha256(item['context'].encode()).hexdigest()[:8]}"


def ask(item: Item, switches: Switches) -> Dialogue:
    """The question after its paragraph. Only the first line of the reply is the answer."""
    about = f"Title: {item['title']}\n\nBackground: {item['context']}\n\n"
    return Dialogue((f"{about}Question: {item['question']}\n\nAnswer:",), until=("\n",))


def score(item: Item, answer: Answer, switches: Switches) -> Score:
    """f1 and exact, by the marked answer that is nearest to the reply. They are also given as
    HasAns_ or NoAns_, over the questions that have an answer or have none."""
    reply = answer.replies[0]
    said = normalised(reply)
    right = [words for words in map(normalised, item["correct"]) if words] or [""]
    values = {"f1": max(overlap(said, words) for words in right), "exact": float(said in right)}
    kind = "HasAns" if item["correct"] else "NoAns"
    values |= {f"{kind}_{name}": value for name, value in values.items()}
    span = [0, len(reply)] if said else None
    reading = {"value": said or None, "span": span, "rule": "words" if said else "no-words"}
    return Score(values, {"answer": reading})


def normalised(text: str) -> str:
    """The text in lower case, without ASCII punctuation and articles, one blank between words."""
    text = text.lower().translate(NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def overlap(said: str, right: str) -> float:
    """F1 of the words of two normalised texts, each word as often as both have it.

    >>> overlap("red red hat", "red hat shop")
    0.6666666666666666
    """
    ours, theirs = said.split(), right.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall) if common else 0.0


SQUAD_V2 = Benchmark(
    name="squad_v2",
    title="SQuAD 2.0",
    fields={"title": str, "context": str, "question": str, "correct": list[str]},
    total=11873,
    chat=True,
    generates=True,
    headline=("f1",),
    beside=("exact", "HasAns_f1", "HasAns_exact", "NoAns_f1", "NoAns_exact"),
    source=Origin(
        "rajpurkar/squad_v2",
        ("squad_v2/validation-*.parquet", "dev-v2.0*.json"),
        converted=("squad_v2/validation/*.parquet",),
        licence="CC-BY-SA-4.0",
        columns=("id", "title", "context", "question", "answers"),
        rows="data",
    ),
    convert=convert,
    check=check,
    cluster=cluster,
    ask=ask,
    score=score,
)
