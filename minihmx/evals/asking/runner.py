"""Asks a model the items of a benchmark, scores its answers and keeps every sample.

Finished samples are written at once, so an evaluation that was killed goes on where it was. In
evals/ only this file, forecast.py, likelihood.py, replies.py, session.py and task.py need torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minihmx.engine import ranks
from minihmx.engine.memory import take_notices
from minihmx.errors import UserError
from minihmx.evals.asking.likelihood import Pair, encode_pair, loglikelihoods
from minihmx.evals.asking.replies import Exchange, ask_replies
from minihmx.evals.asking.results import Results, sample_line
from minihmx.evals.asking.settings import Settings, paragraphs, refuse_long_system
from minihmx.evals.asking.task import Batches, Machine, Task, check_finite
from minihmx.evals.benchmark import Answer, Benchmark, Choices, Dialogue, Request
from minihmx.instruments.work import working
from minihmx.models import chat
from minihmx.records import Message, Segment

WINDOW = 256  # requests encoded ahead of the model
# Several processes exchange their answers this seldom, because their batches end at different times
# and an exchange makes all of them wait. A crash loses the answers since the last exchange.
GATHERED_EVERY = 5.0  # seconds
_Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Progress:
    """done, total: how many samples are on the disk, and how many are wanted. notices: what was
    repaired, or which batch was made smaller. result: what result.json holds, once it is there.
    """

    done: int
    total: int
    notices: list[str]
    result: dict[str, Any] | None = None


def evaluate(machine: Machine, results: Results) -> Iterator[Progress]:
    """Ask what is not yet on disk, then write result.json; yields after every batch.

    Several processes share the items, and rank 0 writes the answers of all of them.
    Raises Diverged, naming the item, if the model's numbers are not finite.
    """
    benchmark, settings = results.benchmark, results.settings
    done, notices = ranks.from_first(
        lambda: results.begin(
            lambda item, asked, said: truncates(machine, Task(item, 0, asked), said, settings)
        )
    )
    total, finished = len(results.wanted), done.total()
    yield Progress(finished, total, notices)
    tasks = [
        Task(item, sample, results.request(item))
        for item, sample in results.wanted
        if sample >= done[item["id"]]
    ]
    tasks.sort(key=lambda task: -request_size(task.request))  # what may not fit comes first
    with working(f"{benchmark.name} on {results.subject.title}", total, finished) as work:
        for kind, answer in ((Choices, ask_choices), (Dialogue, ask_replies)):
            of_kind = own_items([task for task in tasks if isinstance(task.request, kind)])
            asked = answer(machine, benchmark, of_kind, settings)
            for lines in gathered(scored(benchmark, asked, settings)):
                if ranks.rank() == 0:
                    results.add(lines)
                work.done += len(lines)
                smaller = take_notices(machine.token_limit, machine.row_limit)
                yield Progress(work.done, total, ranks.tell(smaller))
    yield Progress(total, total, [], ranks.from_first(results.finish))


def own_items(tasks: Sequence[Task]) -> list[Task]:
    """This process's share of the tasks. It is whole items, because an item's samples must stand on
    the disk in their order."""
    mine = {*ranks.split(list(dict.fromkeys(task.item["id"] for task in tasks)))}
    return [task for task in tasks if task.item["id"] in mine]


def scored(benchmark: Benchmark, asked: Batches, settings: Settings) -> Iterator[_Lines]:
    """The lines of samples.jsonl for each batch of answers."""
    for batch, answers in asked:
        lines = []
        for task, said in zip(batch, answers, strict=True):
            score = benchmark.score(task.item, said, settings.switches)
            lines.append(sample_line(benchmark, task.item, task.sample, task.request, said, score))
        yield lines


def gathered(batches: Iterator[_Lines]) -> Iterator[_Lines]:
    """Each batch of a single process; else the batches of all processes since the last exchange."""
    unfinished = True
    while unfinished:
        mine, over, began = _Lines(), True, time.monotonic()
        for lines in batches:
            mine += lines
            if ranks.world() == 1 or time.monotonic() - began > GATHERED_EVERY:
                over = False
                break
        found = ranks.share((mine, over))
        unfinished = not all(ended for _, ended in found)
        if together := [line for of_rank, _ in found for line in of_rank]:
            yield together


def request_size(request: Request) -> int:
    """The number of characters, which is close enough to the number of tokens to sort by."""
    if isinstance(request, Choices):
        return len(request.context) + max(map(len, request.continuations))
    return sum(map(len, request.turns)) + sum(len(shot.content) for shot in request.shots)


def truncates(machine: Machine, task: Task, answer: Answer, settings: Settings) -> bool:
    """Whether a prompt of the task lost its first tokens. Later prompts quote the replies."""
    if isinstance(task.request, Choices):
        text = paragraphs(settings.system, task.request.context)
        text += max(task.request.continuations, key=len)
        # A text has no more tokens than bytes after NFC, and NFC makes at most 12 bytes of a
        # character. So a short text need not be encoded, which would take minutes for all items.
        if not settings.chat and 12 * len(text) < machine.decoder.config.max_positions:
            return False
        return any(pair.truncated for pair in encode_choices(machine, task, settings))
    talk = Exchange(machine, task.request, settings)
    for turn in range(len(answer.replies)):
        talk.replies = list(answer.replies[:turn])
        talk.prompt(turn)
    return talk.truncated


def check_room(machine: Machine, results: Results) -> None:
    """Raises UserError, before anything is asked, if no prompt or no reply could fit."""
    settings, context = results.settings, machine.decoder.config.max_positions
    refuse_long_system(machine.tokenizer.count(settings.system), context)
    if settings.chat:
        turns = [Message("user", "")]  # a base model has no family, and so no chat
        chat.render(machine.tokenizer.family, turns, date=settings.date)
    if not results.benchmark.generates:
        return
    for item in results.items:  # each may have a cap of its own
        request = results.request(item)
        if isinstance(request, Dialogue) and request.max_new_tokens >= context:
            raise UserError(
                f"{results.benchmark.name} allows replies of {request.max_new_tokens} tokens (item "
                f"{item['id']}), and the model's context is only {context}; take a model with a "
                "longer one."
            )


# --- log-likelihoods ------------------------------------------------------------------------------


def ask_choices(
    machine: Machine, benchmark: Benchmark, tasks: Sequence[Task], settings: Settings
) -> Batches:
    """The log-likelihood of every choice."""
    for first in range(0, len(tasks), WINDOW):
        window = tasks[first : first + WINDOW]
        pairs = [encode_choices(machine, task, settings) for task in window]
        start = 0
        for sums in loglikelihoods(machine.decoder, pairs, machine.token_limit):
            batch = window[start : start + len(sums)]
            answers = []
            for task, values, of_task in zip(batch, sums, pairs[start:], strict=False):
                check_finite(benchmark, task, values, settings)
                truncated = any(pair.truncated for pair in of_task)
                answers.append(Answer(loglikelihoods=tuple(values), truncated=truncated))
            start += len(sums)
            yield batch, answers


def encode_choices(machine: Machine, task: Task, settings: Settings) -> list[Pair]:
    """One pair per choice. A blank stands before the choice, or with chat nothing, since the markup
    that begins the reply ends the context. Raises UserError for an item that does not fit."""
    assert isinstance(task.request, Choices)
    text = task.request.context
    context, delimiter = [Segment(paragraphs(settings.system, text), False)], " "
    if settings.chat:
        family = machine.tokenizer.family
        turns = chat.with_system(family, [Message("user", text)], settings.system)
        context, delimiter = chat.render(family, turns, date=settings.date), ""
    room = machine.decoder.config.max_positions + 1  # the last token is never read
    try:
        return [
            encode_pair(machine.tokenizer, context, delimiter + choice, room)
            for choice in task.request.continuations
        ]
    except ValueError as error:
        raise UserError(
            f"Item {task.item['id']} cannot be asked ({error}), so there would be no score for it; "
            "take a model with a longer context, or leave the item out."
        ) from None
