"""Talk with a model, and beside it with what training made of it, on the same random numbers.

Token t of a turn is drawn with the same uniform number on both sides, so where they differ it is
the adapter that speaks; an untrained adapter (B = 0) says word for word what the base says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from minihmx import lora
from minihmx.config import LARGEST, check_number
from minihmx.engine.memory import Limit
from minihmx.engine.open import Model, check_strength, find_model, load_decoder, open_adapter
from minihmx.engine.prompts import Prompts
from minihmx.engine.samplers import LEAST_TEMPERATURE
from minihmx.engine.sampling import generate
from minihmx.errors import Diverged, UserError, nearest, quoted, shortened
from minihmx.models import adapters, chat
from minihmx.models.adapters import BASE
from minihmx.models.decoder import Decoder
from minihmx.probes.examples import judge_of
from minihmx.probes.steering import SteeringVector, parse_steering, read_vector, steered
from minihmx.records import Completion, Message, Verdict
from minihmx.rollout import Judgement, ask_judge
from minihmx.terminal.bars import with_bars
from minihmx.terminal.text import decodable, printable

HELP = {
    "/score": "how the judge of training sees the last question and answer, each side's alone",
    "/temperature T": "draw words at this temperature from now on; 0 is greedy",
    "/reset": "forget what was said",
    "/help": "this list",
    "/quit": "leave, as Ctrl-D does",
}
SIDE_BY_SIDE = 100  # terminal columns from which two answers stand beside each other
TRAINED, STEERED = "trained", "steered"


@dataclass
class Conversation:
    """The sides (base, trained, steered) that are asked the same and remember their own answers.

    steering: the vector that the base is steered with, and how much of it.
    """

    model: Model
    decoder: Decoder
    sides: tuple[str, ...]
    system: str
    temperature: float
    seed: int
    max_completion_length: int
    checkpoint: Path | None = None
    steering: tuple[SteeringVector, float] | None = None
    histories: dict[str, list[Message]] = field(default_factory=dict)
    turn: int = 0

    def reset(self) -> None:
        """Forget everything: the same question then gets the same answer as at the start."""
        self.histories, self.turn = {}, 0

    def ask(self, text: str) -> dict[str, Completion]:
        """Each side's answer, by name. Raises UserError, and forgets the turn, when it is too long;
        Diverged where an answer came from logits that are not finite.

        The noise is named by seed and turn, never by the side.
        """
        asked = {s: [*self.histories.get(s, []), Message("user", text)] for s in self.sides}
        prompts = {side: self.prompt(messages) for side, messages in asked.items()}
        longest, context = max(map(len, prompts.values())), self.decoder.config.max_positions
        if longest + self.max_completion_length > context:
            raise UserError(
                f"The conversation of {longest} tokens and an answer of up to "
                f"{self.max_completion_length} exceed the model's context of {context}, so this "
                "turn was not added; shorten it, lower --max-completion-length, or forget what "
                "was said (/reset)."
            )
        answers = {}
        for side, prompt in prompts.items():
            with self.as_side(side):
                (answers[side],) = generate(
                    self.decoder,
                    self.model.tokenizer.decode,
                    [prompt],
                    max_new_tokens=self.max_completion_length,
                    stop_ids=self.decoder.config.eos_ids,
                    temperature=self.temperature,
                    noise=[("chat", self.seed, self.turn)],
                )
        for side, answer in answers.items():
            if not answer.finite:
                raise Diverged(
                    f"The {side} model's logits are not finite in {self.model.config.dtype}, so "
                    "its answer would be noise and is not shown; try --dtype bfloat16 or float32, "
                    "or fetch the model or the adapter again."
                )
        for side, answer in answers.items():
            self.histories[side] = [*asked[side], Message("assistant", answer.text)]
        self.turn += 1
        return answers

    @contextlib.contextmanager
    def as_side(self, side: str) -> Iterator[None]:
        """Inside, the decoder is this side."""
        with contextlib.ExitStack() as changes:
            if side != TRAINED:
                changes.enter_context(lora.adapter_off(self.decoder))
            if side == STEERED and self.steering:
                changes.enter_context(steered(self.decoder, *self.steering))
            yield

    def judge(self) -> dict[str, Judgement]:
        """What the base (adapter off), asked as in training, says of each side's last answer.

        Raises UserError where nothing was answered yet, or the run's rubric or config is damaged.
        """
        if not self.histories:
            raise UserError("There is no answer yet that could be judged; ask something first.")
        rubric, judge_max_tokens = judge_of(self.checkpoint)
        prompts = Prompts(self.model.tokenizer, self.model.config.date, rubric)
        last = [self.histories[side][-2:] for side in self.sides]
        with lora.adapter_off(self.decoder):
            judgements = ask_judge(
                self.decoder,
                self.model.tokenizer,
                [prompts.judge(question.content, answer.content) for question, answer in last],
                max_new_tokens=judge_max_tokens,
                limit=Limit("--decode-rows", self.model.config.decode_rows),
            )
        return dict(zip(self.sides, judgements, strict=True))

    def prompt(self, messages: list[Message]) -> list[int]:
        """Token ids up to where the assistant starts to speak."""
        tokenizer, date = self.model.tokenizer, self.model.config.date
        messages = chat.with_system(tokenizer.family, messages, self.system)
        return tokenizer.encode(chat.render(tokenizer.family, messages, date=date))


def talk(options: argparse.Namespace) -> None:
    """Answer one prompt, or converse until the user leaves. Raises Failure (errors.py).

    options: what commands/chat.py was given.
    """
    check_number("temperature", options.temperature, LEAST_TEMPERATURE, 1e30, or_zero=True)
    check_number("max_completion_length", options.max_completion_length, 1, LARGEST)
    check_number("seed", options.seed, 0, LARGEST)
    if options.prompt is not None and not options.prompt.strip():
        raise UserError("--prompt is empty; give a question, or leave it out to converse.")
    for stream in (sys.stdin, sys.stdout):  # odd bytes are replaced rather than fatal
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    check_strength(options.strength, options.adapter is not None)
    if options.adapter is not None:  # one that is not there is refused before a download
        adapters.find_adapter(options.adapter)
    flags = {name: getattr(options, name) for name in ("model", "device", "dtype", "chat_format")}
    steer = parse_steering(options.steer) if options.steer is not None else None
    with with_bars():
        model = find_model(flags, slow_dtypes=True)
    trained, shape = None, model.shape
    steering = None
    if steer is not None:
        size = shape.num_hidden_layers, shape.hidden_size
        steering = read_vector(steer[0], model.source.digest, *size), steer[1]
    if options.adapter is not None:
        trained = open_adapter(options.adapter, model.source, model.config.chat_format)
    name, family = model.source.id, model.tokenizer.family
    print(f"{BASE:<8} {name}, {family} chat, {model.device}, {model.config.dtype}", flush=True)
    if doubt := model.tokenizer.chat_format.notice:
        print(f"notice   {doubt}")
    sides: tuple[str, ...] = (BASE,)
    with with_bars():
        decoder = load_decoder(model)
    if trained:
        sides, (own, matrices, notices) = (BASE, TRAINED), trained
        adapters.attach_adapter(decoder, own, matrices)
        lora.set_strength(decoder, options.strength)
        times = "" if options.strength == 1 else f", times {options.strength:g}"
        print(f"{TRAINED:<8} with {own.folder}, rank {own.rank}, alpha {own.alpha:g}{times}")
        for notice in notices:
            print(f"notice   {notice}")
    if steering:
        sides, (own_vector, alpha) = (*sides, STEERED), steering
        print(f"{STEERED:<8} {alpha:+g} x {own_vector.name} behind layer {own_vector.layer}")
    print(flush=True)
    settings = options.temperature, options.seed, options.max_completion_length
    checkpoint = trained.adapter.folder if trained else None
    conversation = Conversation(
        model, decoder, sides, options.system, *settings, checkpoint, steering
    )
    if options.prompt is not None:
        show_answers(conversation.ask(options.prompt))
    else:
        converse(conversation)


def converse(conversation: Conversation) -> None:
    """Ask until /quit, Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives input() its arrow keys
    print("/help lists what can be typed besides questions; /quit or Ctrl-D leaves.")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            text = decodable(input("you> ")).strip()
            command, *value = text.split(maxsplit=1) or [""]
            if command.lower() == "/quit":
                break
            try:
                if re.fullmatch(r"/[a-z]+", command, re.IGNORECASE):
                    obey(conversation, command.lower(), *value)
                elif text:
                    show_answers(conversation.ask(text))
            except UserError as refusal:
                print(refusal)
    print()


def obey(conversation: Conversation, command: str, value: str = "") -> None:
    """What a line does that begins with a slash. Raises UserError for one that is not in HELP."""
    if command == "/reset":
        conversation.reset()
        print("forgotten")
    elif command == "/help":
        for name, text in HELP.items():
            print(f"{name:<15} {text}")
    elif command == "/score":
        show_judgements(conversation.judge())
    elif command == "/temperature":
        try:
            temperature = float(value or conversation.temperature)
        except ValueError:
            raise UserError(f"/temperature {quoted(value)} is no number; 0 is greedy.") from None
        if temperature != 0 and not LEAST_TEMPERATURE <= temperature <= 1e30:
            raise UserError(
                f"/temperature {shortened(value)} cannot work, so it stays at "
                f"{conversation.temperature:g}; type 0, which is greedy, or a number from "
                f"{LEAST_TEMPERATURE:g} up, such as /temperature 0.7."
            )
        conversation.temperature = temperature
        print(f"temperature {temperature:g}")
    else:
        known = [name.split()[0] for name in HELP]
        hint = nearest(command, known, "/help lists what there is.")
        raise UserError(f"{command} is no command, so nothing was asked; {hint}")


def show_answers(answers: Mapping[str, Completion]) -> None:
    """Two answers side by side where the terminal is wide enough, else one after the other."""
    texts = {
        side: printable(answer.text) + ("" if answer.finish_reason == "stop" else " [cut here]")
        for side, answer in answers.items()
    }
    width = shutil.get_terminal_size().columns
    if len(texts) == 1 or width < SIDE_BY_SIDE:
        for side, text in texts.items():
            print(f"{side}> {text}")
    else:
        table = Table.grid(padding=(0, 3), expand=True)
        for _ in texts:
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*(Text(f"{side}> {text}") for side, text in texts.items()))
        Console(width=width, highlight=False).print(table)
    print(flush=True)


def show_judgements(judgements: Mapping[str, Judgement]) -> None:
    """The judge's words on each side's answer, with the score that was read from them marked."""
    for side, (text, _, verdict) in judgements.items():
        if isinstance(verdict, Verdict):
            start, end = verdict.span
            words = f"{text[:start]}[{text[start:end]}]{text[end:]}"
            print(f"judge of {side}> {verdict.score} of 10: {printable(words)}")
        else:
            print(f"judge of {side}> no score ({verdict.reason}): {printable(text)}")
    print(flush=True)
