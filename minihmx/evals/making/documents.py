"""RULER's two tasks of questions about documents, one of which (or two) answers them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from minihmx.evals.benchmark import Item
from minihmx.evals.making.lengths import ALIKE, FULL, Draft, Maker

ONLY = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words."
)
DOCUMENTS = (
    f"{ONLY}\n\nThe following are given documents.\n\n{{context}}\n\n{ONLY}\n\nQuestion: {{query}}"
)


class DocumentQuestion(NamedTuple):
    """own: the documents that it is about. near: others of their article, which come next."""

    text: str
    answers: list[str]
    own: list[int]
    near: list[int]


def squad_questions(items: Sequence[Item]) -> tuple[list[DocumentQuestion], list[str]]:
    """SQuAD's questions that have an answer, and every paragraph as a document."""
    documents = sorted({item["context"] for item in items})
    places = {text: place for place, text in enumerate(documents)}
    articles: dict[str, dict[int, None]] = {}
    for item in items:
        articles.setdefault(item["title"], {})[places[item["context"]]] = None
    questions = []
    for item in items:
        own = places[item["context"]]
        near = [place for place in articles[item["title"]] if place != own]
        if item["correct"]:
            questions.append(DocumentQuestion(item["question"], list(item["correct"]), [own], near))
    return questions, documents


def hotpot_questions(items: Sequence[Item]) -> tuple[list[DocumentQuestion], list[str]]:
    """HotpotQA's questions, each about ten documents of its own."""
    documents = sorted({text for item in items for text in item["documents"]})
    places = {text: place for place, text in enumerate(documents)}
    return [
        DocumentQuestion(
            item["question"], [item["answer"]], [places[d] for d in item["documents"]], []
        )
        for item in items
    ], documents


def question_maker(length: int, questions: list[DocumentQuestion], documents: list[str]) -> Maker:
    """The first questions, in their order, each with documents that hold its answer and others."""

    def draft(rng: Random, number: int, size: int) -> Draft:
        asked = questions[number]
        others = size - len(asked.own)
        taken = [*asked.own, *asked.near]
        if size >= len(documents):
            taken = [*range(len(documents))]
        elif others > len(asked.near):
            known = {*taken}
            rest = [place for place in range(len(documents)) if place not in known]
            taken += rng.sample(rest, others - len(asked.near))
        else:
            taken = asked.own + rng.sample(asked.near, max(0, others))
        texts = [documents[place] for place in taken]
        Random(ALIKE).shuffle(texts)
        context = "\n\n".join(f"Document {n}:\n{text}" for n, text in enumerate(texts, 1))
        prompt = DOCUMENTS.format(context=context, query=asked.text)
        answers = [text.strip() for text in asked.answers]  # as a reply is, before it is searched
        return Draft(prompt, "Answer:", answers, prompt, f"{prompt} {asked.answers}")

    step, most = 10 if length >= FULL else 2, len(documents)
    return Maker(draft, 32, step, most, "documents", lambda number: len(questions[number].own))
