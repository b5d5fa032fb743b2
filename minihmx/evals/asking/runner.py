"""Asks a model the items of a benchmark, scores its answers and keeps every sample.

Batches hold requests of similar length; a batch that does not fit is halved. Each batch's samples
are on the disk before the next begins, so a run that was killed goes on where it was. Only this
file, likelihood.py and session.py need torch in evals/.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minihmx.engine.memory import Limit, take_notices
from minihmx.engine.sampling import generate
from minihmx.errors import Diverged, UserError
from minihmx.evals.asking.likelihood import Pair, encode_pair, loglikelihoods
from minihmx.evals.asking.results import Results, Settings, sample_line
from minihmx.evals.benchmark import Answer, Benchmark, Choices, Dialogue, Item, Request
from minihmx.models import chat
from minihmx.models.decoder import Decoder
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Completion, Message, Segment

WINDOW = 256  # requests encoded ahead of the model


@dataclass(frozen=True)
class Progress:
    """done of total samples stand on the disk; notices: what was repaired or made smaller.

    result: what result.json holds, once it is there.
    """

    done: int
    total: int
    notices: list[str]
    result: dict[str, Any] | None = None


@dataclass(frozen=True)
class Machine:
    """A loaded model and how much of it goes together."""

    decoder: Decoder
    tokenizer: Tokenizer
    token_limit: Limit
    row_limit: Limit


@dataclass(frozen=True)
class Task:
    """One request on its way to the model."""

    item: Item
    sample: int
    request: Request


Batches = Iterator[tuple[Sequence[Task], list[Answer]]]


def evaluate(machine: Machine, results: Results) -> Iterator[Progress]:
    """Ask what is not yet on disk, then write result.json; yields after every batch.

    Raises Diverged, naming the item, when the model's numbers are not finite.
    """
    benchmark, settings = results.benchmark, results.settings
    done, notices = results.begin(
        lambda item, request, answer: truncates(machine, Task(item, 0, request), answer, settings)
    )
    total, finished = len(results.wanted), done.total()
    yield Progress(finished, total, notices)
    tasks = [
        Task(item, sample, benchmark.ask(item, settings.switches))
        for item, sample in results.wanted
        if sample >= done[item["id"]]
    ]
    tasks.sort(key=lambda task: -request_size(task.request))  # what may not fit comes first
    for kind, answer in ((Choices, ask_choices), (Dialogue, ask_replies)):
        of_kind = [task for task in tasks if isinstance(task.request, kind)]
        for batch, answers in answer(machine, benchmark, of_kind, settings):
            lines = []
            for task, said in zip(batch, answers, strict=True):
                score = benchmark.score(task.item, said, settings.switches)
                lines.append(
                    sample_line(benchmark, task.item, task.sample, task.request, said, score)
                )
            results.add(lines)
            finished += len(batch)
            yield Progress(finished, total, take_notices(machine.token_limit, machine.row_limit))
    yield Progress(total, total, [], results.finish())


def request_size(request: Request) -> int:
    """Characters, close enough to sort by."""
    if isinstance(request, Choices):
        return len(request.context) + max(map(len, request.continuations))
    return sum(map(len, request.turns)) + sum(len(shot.content) for shot in request.shots)


def truncates(machine: Machine, task: Task, answer: Answer, settings: Settings) -> bool:
    """Whether the prompts of a task lost their first tokens, given what was answered."""
    if isinstance(task.request, Choices):
        text = task.request.context + max(task.request.continuations, key=len)
        # no more tokens than bytes, of which NFC makes three of one; encoding all takes minutes
        if not settings.chat and 12 * len(text) < machine.decoder.config.max_positions:
            return False
        return any(pair.truncated for pair in encode_choices(machine, task, settings))
    talk = Exchange(machine, task.request, settings)
    for turn in range(len(answer.replies)):
        talk.replies = list(answer.replies[:turn])
        talk.prompt(turn)
    return talk.truncated


def check_room(machine: Machine, results: Results) -> None:
    """Raises UserError, before anything is asked, where no prompt or no reply could fit."""
    settings, context = results.settings, machine.decoder.config.max_positions
    if settings.chat:
        turns = [Message("user", "")]  # a base model has no family, and so no chat
        chat.render(machine.tokenizer.family, turns, date=settings.date)
    for item in results.items[:1]:
        request = results.benchmark.ask(item, settings.switches)
        if isinstance(request, Dialogue) and request.max_new_tokens >= context:
            raise UserError(
                f"{results.benchmark.name} allows replies of {request.max_new_tokens} tokens, and "
                f"the model's context is only {context}; take a model with a longer one."
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
    """One pair per choice: a blank before it, or with chat the turn's beginning."""
    assert isinstance(task.request, Choices)
    context, delimiter = [Segment(task.request.context, False)], " "
    if settings.chat:
        turns = [Message("user", task.request.context)]
        family = machine.tokenizer.family
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


# --- generated replies ----------------------------------------------------------------------------


def ask_replies(
    machine: Machine, benchmark: Benchmark, tasks: Sequence[Task], settings: Settings
) -> Batches:
    """A reply to every turn, each turn of a whole batch at once."""
    rows = machine.row_limit.rows
    for first in range(0, len(tasks), rows):
        batch = tasks[first : first + rows]
        dialogues = [Exchange(machine, task.request, settings) for task in batch]
        for turn in range(max(len(dialogue.request.turns) for dialogue in dialogues)):
            talking = [i for i, d in enumerate(dialogues) if turn < len(d.request.turns)]
            caps = sorted({dialogues[i].request.max_new_tokens for i in talking})
            for cap in caps:  # rows with one cap go together
                going = [i for i in talking if dialogues[i].request.max_new_tokens == cap]
                completions = generate(
                    machine.decoder,
                    machine.tokenizer.decode,
                    [dialogues[i].prompt(turn) for i in going],
                    max_new_tokens=cap,
                    stop_ids=machine.decoder.config.eos_ids,
                    temperature=settings.temperature,
                    noise=[noise(benchmark, batch[i], turn, settings) for i in going],
                    limit=machine.row_limit,
                )
                for i, completion in zip(going, completions, strict=True):
                    check_finite(benchmark, batch[i], completion.logprobs, settings)
                    dialogues[i].hear(turn, completion)
        yield batch, [dialogue.answer() for dialogue in dialogues]


def noise(benchmark: Benchmark, task: Task, turn: int, settings: Settings) -> tuple[object, ...]:
    """Names the random stream of one reply; the same for base, forward and reverse."""
    return "benchmark", settings.seed, benchmark.name, task.item["id"], task.sample, turn


class Exchange:
    """One dialogue as it goes: what was said, and whether it still fits."""

    def __init__(self, machine: Machine, request: Request, settings: Settings):
        assert isinstance(request, Dialogue)
        self.machine, self.request, self.settings = machine, request, settings
        self.replies: list[str] = []
        self.finish: list[str] = []
        self.truncated = False

    def prompt(self, turn: int) -> list[int]:
        """Token ids up to where the next reply begins, the first ones left out where too many."""
        request, tokenizer = self.request, self.machine.tokenizer
        said = [*request.shots, Message("user", request.turns[0])]
        for reply, asked in zip(self.replies, request.turns[1 : turn + 1], strict=True):
            said += [Message("assistant", reply), Message("user", asked)]
        prefill = request.prefill if turn == 0 else ""
        if self.settings.chat:
            if request.system:
                said = [Message("system", request.system), *said]
            if not chat.has_system_turn(tokenizer.family):  # then it is dropped, as lm-eval does
                said = [message for message in said if message.role != "system"]
            segments = chat.render(tokenizer.family, said, date=self.settings.date)
            ids = tokenizer.encode([*segments, Segment(prefill, False)])
        else:
            text = plain_text(request, said, prefill)
            ids = [*tokenizer.before_text, *tokenizer.encode_text(text)]
        room = self.machine.decoder.config.max_positions - request.max_new_tokens
        self.truncated |= len(ids) > room
        return ids[-room:]

    def hear(self, turn: int, completion: Completion) -> None:
        """Add the reply to a turn, up to the first stop text."""
        text, finish = completion.text, str(completion.finish_reason)
        for stop in self.request.until:
            if stop in text:
                text, finish = text.split(stop)[0], "stop"
        self.replies.append((self.request.prefill if turn == 0 else "") + text)
        self.finish.append(finish)

    def answer(self) -> Answer:
        return Answer(
            replies=tuple(self.replies), finish=tuple(self.finish), truncated=self.truncated
        )


def plain_text(request: Dialogue, said: Sequence[Message], prefill: str) -> str:
    """A prompt without chat, as lm-eval joins one; said begins with the shots."""
    shots = len(request.shots)
    pairs = zip(said[:shots:2], said[1:shots:2], strict=True)
    worked = [ask.content + request.delimiter + reply.content for ask, reply in pairs]
    texts = [request.system.rstrip("\n"), *worked, *(message.content for message in said[shots:])]
    text = "\n\n".join(text for text in texts if text)
    return text + request.delimiter + prefill if prefill else text


def check_finite(
    benchmark: Benchmark, task: Task, values: Sequence[float], settings: Settings
) -> None:
    """Raises Diverged, naming the item, for log-probs that are not finite."""
    if not all(map(math.isfinite, values)):
        advice = "try --dtype bfloat16 or float32"
        if settings.dtype == "float32":
            advice = "the model or its adapter seems damaged, so fetch it again"
        raise Diverged(
            f"{benchmark.name}, item {task.item['id']}: the model's log-probs are not finite in "
            f"{settings.dtype}, so no score would mean anything; {advice}. What was finished is "
            "kept."
        )
