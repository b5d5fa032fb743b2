"""Dialogues with a model: their prompts, and replies decoded in rows that are refilled at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from minihmx.engine.memory import Limit, free_memory
from minihmx.engine.sampling import Decoding, GenerationRequest, complete
from minihmx.evals.asking.settings import Settings, paragraphs
from minihmx.evals.asking.task import Batches, Machine, Task, check_finite
from minihmx.evals.benchmark import Answer, Benchmark, Dialogue, Request
from minihmx.instruments.estimate import kv_bytes
from minihmx.models import chat
from minihmx.records import Completion, Message, Segment

AHEAD = 1024  # dialogues in one window; towards a window's end some rows have no work left


def ask_replies(
    machine: Machine, benchmark: Benchmark, tasks: Sequence[Task], settings: Settings
) -> Batches:
    """A reply to every turn. A row that has its reply is given to the next task at once."""
    first = 0
    while first < len(tasks):
        window = tasks[first : first + AHEAD]
        # Dialogues of several turns go on side by side, and a crash loses all unfinished ones, so
        # there are fewer of them in a window.
        if max(map(turns_of, window)) > 1:
            window = window[: 4 * machine.row_limit.rows]
        first += len(window)
        dialogues = [Exchange(machine, task.request, settings) for task in window]
        ready = InOrder(window)
        for turn in range(max(map(turns_of, window))):
            talking = [i for i, task in enumerate(window) if turn < turns_of(task)]
            for i, completion in replies_of(machine, benchmark, window, dialogues, talking, turn):
                check_finite(benchmark, window[i], completion.logprobs, settings)
                dialogues[i].hear(turn, completion)
                if turn + 1 == turns_of(window[i]) and (done := ready.add(i)):
                    yield [window[k] for k in done], [dialogues[k].answer() for k in done]


def turns_of(task: Task) -> int:
    """How many replies it asks for."""
    assert isinstance(task.request, Dialogue)
    return len(task.request.turns)


def replies_of(
    machine: Machine,
    benchmark: Benchmark,
    window: Sequence[Task],
    dialogues: Sequence[Exchange],
    talking: Sequence[int],
    turn: int,
) -> Iterator[tuple[int, Completion]]:
    """(place in the window, reply) for each place in `talking`, in the order of finishing."""
    settings, requests = dialogues[0].settings, []
    for i in talking:
        request, prompt = dialogues[i].request, dialogues[i].prompt(turn)
        name = noise(benchmark, window[i], turn, settings)
        ends = request.until, request.complete
        requests.append((GenerationRequest(prompt, request.max_new_tokens, name, *ends), i))
    # Prompts that begin alike stand side by side, so that what they share is computed once.
    requests.sort(key=lambda pair: (list(pair[0].prompt), pair[1]))
    how = Decoding(
        machine.decoder,
        machine.tokenizer.decode,
        machine.decoder.config.eos_ids,
        settings.temperature,
        machine.token_limit.rows,
    )
    wanted = [request for request, _ in requests]
    for index, completion in complete(how, wanted, row_limit(machine, wanted)):
        yield requests[index][1], completion


def row_limit(machine: Machine, requests: Sequence[GenerationRequest]) -> Limit:
    """The machine's limit, or a lower one if the cache of that many rows would take more than half
    of the free memory. On a CPU no error would come first: the process would simply be killed."""
    device, limit = machine.decoder.device, machine.row_limit
    token = kv_bytes(machine.decoder.config, str(machine.decoder.dtype).removeprefix("torch."))
    row = token * max(len(request.prompt) + request.max_new_tokens for request in requests)
    most = max(1, free_memory(device)[0] // 2 // row)
    return limit if limit.rows <= most else Limit(limit.flag, most)


class InOrder:
    """Holds a sample back until the item's earlier samples are there, because samples.jsonl has the
    samples of an item in order."""

    def __init__(self, window: Sequence[Task]):
        self.window, self.early = window, set[int]()
        self.next: dict[str, deque[int]] = {}
        for i, task in enumerate(window):
            self.next.setdefault(task.item["id"], deque()).append(i)

    def add(self, i: int) -> list[int]:
        """Place i is done: the places in the window that may be written now, in their order."""
        self.early.add(i)
        queue, done = self.next[self.window[i].item["id"]], []
        while queue and queue[0] in self.early:
            done.append(queue.popleft())
        return done


def noise(benchmark: Benchmark, task: Task, turn: int, settings: Settings) -> tuple[object, ...]:
    """The name of one reply's random stream. It is the same for base, forward and reverse, so that
    their replies differ by the model alone."""
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
        """The token ids before the next reply. If they do not fit, the first ones are left out."""
        request, tokenizer = self.request, self.machine.tokenizer
        said = [*request.shots, Message("user", request.turns[0])]
        for reply, asked in zip(self.replies, request.turns[1 : turn + 1], strict=True):
            said += [Message("assistant", reply), Message("user", asked)]
        prefill = request.prefill if turn == 0 else ""
        if self.settings.chat:
            family = tokenizer.family
            # without a place for it, the benchmark's own is dropped, as lm-eval does
            own = request.system if chat.has_system_turn(family) else ""
            said = chat.with_system(family, said, paragraphs(self.settings.system, own))
            segments = chat.render(family, said, date=self.settings.date)
            ids = tokenizer.encode([*segments, Segment(prefill, False)])
        else:
            text = plain_text(request, said, prefill, self.settings.system)
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


def plain_text(request: Dialogue, said: Sequence[Message], prefill: str, system: str = "") -> str:
    """A prompt without chat, joined as lm-evaluation-harness does: system texts, shots, turns. The
    first messages of `said` are the shots."""
    shots = len(request.shots)
    pairs = zip(said[:shots:2], said[1:shots:2], strict=True)
    worked = [ask.content + request.delimiter + reply.content for ask, reply in pairs]
    asked = [message.content for message in said[shots:]]
    text = paragraphs(system, request.system.rstrip("\n"), *worked, *asked)
    return text + request.delimiter + prefill if prefill else text
