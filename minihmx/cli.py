"""The door: arguments in, exit code out. `python -m minihmx` and `minihmx` both come here.

A command is a function that adds its arguments and a function that runs it, in COMMANDS below.
Torch is imported by what runs, never here: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, NoReturn

from minihmx import __version__
from minihmx.config import FIELDS, MODELS
from minihmx.errors import Failure, UserError, explain

INTERRUPTED = 130
LONGEST = 2000  # characters of a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a model may say what the terminal cannot show
            stream.reconfigure(errors="replace")
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see __main__.py
        options = parse(sys.argv[1:] if arguments is None else arguments)
        return COMMANDS[options.command].run(options)
    except Failure as failure:
        return refuse(failure)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third Ctrl-C has nothing left to stop
        print(f"minihmx: stopped at once; this goes on:\n  {typed()}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        sys.stderr.close()
        return 0
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        return refuse(explained)


def refuse(failure: Failure) -> int:
    """Print the sentence; what it quotes from a file neither floods nor commands the terminal."""
    text = "".join(c if c.isprintable() else " " for c in str(failure))
    if len(text) > LONGEST:  # the end says what to do
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    print(f"minihmx: {text}", file=sys.stderr)
    return failure.code


def typed() -> str:
    """The command line that started this process, for a shell."""
    return shlex.join(sys.orig_argv)


class Parser(argparse.ArgumentParser):
    """One whose refusals are sentences, as all others are."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        for kind, name in ((int, "whole number"), (float, "number")):
            self.register("type", kind, functools.partial(as_number, kind, name))

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise UserError(f"{message}; `{self.prog} --help` says what it takes.")


def as_number(kind: Callable[[str], Any], name: str, text: str) -> Any:
    """An option's value; what is none is refused in the words of users."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no {name}") from None


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises UserError for what it does not know, naming the nearest command or option."""
    parser = Parser(prog="minihmx", description="The HMX-feel experiment from scratch.")
    parser.add_argument("--version", action="version", version=f"minihmx {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    known: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.help,
            description=command.help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(sub)
        known[name] = [flag for action in sub._actions for flag in action.option_strings]
    first = arguments[0] if arguments else "-"
    if first not in COMMANDS and not first.startswith("-"):
        there = f"there are {', '.join(COMMANDS)}."
        raise UserError(f"{first} is no command; {nearest(first, COMMANDS, there)}")
    options, unknown = parser.parse_known_args(arguments)
    if "names" in options:  # argparse takes a list in one place; here it may go on behind a flag
        options.names += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    prog = f"minihmx {options.command}"
    for word in sorted(unknown, key=lambda word: not word.startswith("-")):
        if word.startswith("-"):  # what follows it may be its value
            hint = nearest(
                word.split("=")[0], known[options.command], f"`{prog} --help` lists them."
            )
            raise UserError(f"{word} is no option of `{prog}`; {hint}")
        raise UserError(f"{word!r} is one word too many; `{prog} --help` says what it takes.")
    return options


def nearest(word: str, known: Collection[str], otherwise: str) -> str:
    """The end of a sentence about a word that is not known."""
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else otherwise


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Every config field is a flag, so that a default stands in one place."""
    parser.epilog = "\n".join(
        [
            "models:",
            *(
                f"  {name:<12} {info.parameters:>5}  {info.repo or 'bundled, no download'}"
                + (" (gated: needs HF_TOKEN)" if info.gated else "")
                for name, info in MODELS.items()
            ),
            "  or a local path, or a hub id of one of these three families",
        ]
    )
    no_default = argparse.SUPPRESS  # only flags that were given may go before a model's own row
    parser.add_argument(
        "model", nargs="?", default=no_default, help="short name, local path or hub id (tiny)"
    )
    for name, field in FIELDS.items():
        if name == "model":
            continue
        kind, choices = type(field.default), field.metadata["choices"]
        source = field.metadata["source"]
        text = f"{field.metadata['help']} (default {field.default!r}, {source})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=no_default,
            metavar="|".join(choices or (kind.__name__,)),
            help=text.replace("%", "%%"),
        )


def show(line: str) -> None:
    """Print; when the reader of a pipe has left, as `head` does, the run goes on unseen."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_train(options: argparse.Namespace) -> int:
    """Train and print; the first Ctrl-C or SIGTERM saves and stops, a second stops at once."""
    from minihmx.run import prepare
    from minihmx.terminal import live
    from minihmx.terminal.lines import STOPPING, Lines
    from minihmx.train import Ended, train

    asked: list[int] = []

    def interrupt(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        if view:
            view.interrupted = True
        else:  # print could meet itself, if the signal comes in the middle of another print
            os.write(2, f"\n{' '.join(STOPPING)}\n".encode())

    # nothing is to be saved before a run stands, so until then Ctrl-C stops at once
    run = prepare({name: value for name, value in vars(options).items() if name in FIELDS})
    lines, last = Lines(typed()), None
    view = live.View(lines) if live.possible() else None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    with view or contextlib.nullcontext():
        for event in train(run, should_stop=lambda: bool(asked)):
            if view:
                view.show(event)
            else:
                for line in lines.render(event):
                    show(line)
            last = event
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is saved
    return INTERRUPTED if last == Ended("interrupted") else 0


def chat_arguments(parser: argparse.ArgumentParser) -> None:
    """What to talk with, and how it draws its words."""
    parser.add_argument("model", nargs="?", default="tiny", help="as for train (default tiny)")
    parser.add_argument(
        "--adapter", metavar="RUN", help="a run's folder, RUN@epoch-03, or an adapter's folder"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and leave; else converse")
    parser.add_argument("--system", metavar="TEXT", default="", help="system prompt (none)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (1.0)")
    parser.add_argument("--seed", type=int, default=1, help="names the noise of both sides (1)")
    parser.add_argument(
        "--max-completion-length", type=int, default=256, metavar="N", help="tokens (256)"
    )
    for name in ("device", "dtype"):
        choices = FIELDS[name].metadata["choices"]
        parser.add_argument(f"--{name}", default="auto", choices=choices)


def run_chat(options: argparse.Namespace) -> int:
    """One answer to --prompt, else a conversation until the user leaves."""
    from minihmx.terminal.talk import talk

    talk(**{name: value for name, value in vars(options).items() if name != "command"})
    return 0


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Which adapter, and where its merged model goes."""
    parser.add_argument("run", help="a run's folder, RUN@epoch-03, or an adapter's folder")
    parser.add_argument("--merge", action="store_true", help="add the adapter to its base model")
    parser.add_argument("--out", metavar="DIR", help="new folder (merged/ in the run's folder)")
    parser.add_argument("--model", help="the base model, where the adapter does not name it")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="to store (the base's own)"
    )


def run_export(options: argparse.Namespace) -> int:
    """Write and print what was rounded."""
    from minihmx.models.export import export

    for line in export(options.run, options.merge, options.out, options.model, options.dtype):
        print(line, flush=True)
    return 0


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of train, so that its whole command line can be asked about."""
    train_arguments(parser)
    parser.add_argument("--gpu", type=float, metavar="GIB", help="plan for a GPU of this memory")
    parser.add_argument("--judge", metavar="MODEL", help="instead: is this model a usable judge?")
    parser.add_argument("--samples", type=int, help="with --judge: verdicts sampled (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run_doctor(options: argparse.Namespace) -> int:
    """Print the whole report, then fail with the first thing that would stop the run."""
    from minihmx import probe
    from minihmx.commands import doctor

    flags = {name: value for name, value in vars(options).items() if name in FIELDS}
    if options.judge is not None:
        if "model" in flags:
            raise UserError(f"Two models, {flags['model']} and --judge {options.judge}; give one.")
        if options.gpu is not None:
            raise UserError("--gpu plans a run, and --judge judges on this machine; give one.")
        samples = 5 if options.samples is None else options.samples
        report = probe.probe(flags | {"model": options.judge}, samples)
        lines = probe.lines(report)
    else:
        if options.samples is not None:
            raise UserError("--samples counts a judge's verdicts; give --judge MODEL with it.")
        report = doctor.examine(flags, options.gpu)
        lines = doctor.lines(report)
    for line in [json.dumps(report, sort_keys=True)] if options.json else lines:
        print(line, flush=True)
    if report["problems"]:
        raise UserError(report["problems"][0])
    return 0


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which adapters on it, which benchmarks, and how they are asked."""
    parser.add_argument("model", nargs="?", default="tiny", help="as for train (default tiny)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="RUN",
        help="a run's folder, RUN@epoch-03, an adapter's folder, or base; may be given several "
        "times, for one loaded base (default base)",
    )
    parser.add_argument(
        "--tasks", default="", help="benchmarks, separated by commas; paper or all: every one"
    )
    parser.add_argument(
        "--data", default="hub", metavar="hub|sample|DIR", help="where the items are (hub)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="a random part (all)")
    parser.add_argument("--chat", choices=("auto", "on", "off"), default="auto")
    parser.add_argument(
        "--samples", type=int, default=0, metavar="N", help="replies an item (1; sample: 4)"
    )
    parser.add_argument("--temperature", type=float, help="of replies (0, greedy; sample: 1)")
    parser.add_argument(
        "--switch", action="append", default=[], metavar="NAME=VALUE", help="see docs/decisions.md"
    )
    parser.add_argument("--partial", action="store_true", help="let --tasks paper take parts")
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="tokens together (8192)"
    )
    for name in ("seed", "out", "revision", "device", "dtype", "threads", "decode_rows", "date"):
        field, flag = FIELDS[name], f"--{name.replace('_', '-')}"
        kind, text = type(field.default), f"{field.metadata['help']} ({field.default!r})"
        no_default, choices = argparse.SUPPRESS, field.metadata["choices"]
        parser.add_argument(flag, type=kind, default=no_default, choices=choices, help=text)
    parser.add_argument("--json", action="store_true", help="each result.json on a line instead")


def run_eval(options: argparse.Namespace) -> int:
    """Ask, score and print; what is finished stays, and the same command goes on."""
    from minihmx.evals.session import Options, prepare
    from minihmx.terminal.scoreboard import Board, as_json

    flags = {name: value for name, value in vars(options).items() if name in FIELDS}
    temperature = flags.pop("temperature", None)
    session = prepare(
        flags,
        Options(
            options.tasks,
            options.adapter,
            options.data,
            options.limit,
            options.chat,
            options.samples,
            temperature,
            options.switch,
            options.partial,
            options.batch_tokens,
        ),
    )
    lines = as_json(session) if options.json else Board(sys.stdout.isatty()).watch(session)
    for line in lines:
        show(line)
    return 0


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which benchmarks' items."""
    parser.add_argument(
        "action",
        choices=("get", "list", "check"),
        help="fetch from the hub, name every source, or read and count what is there",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (all)")
    no_default = argparse.SUPPRESS  # an action refuses what belongs to another
    parser.add_argument(
        "--data", default=no_default, metavar="hub|sample|DIR", help="check: where to look (hub)"
    )
    parser.add_argument(
        "--force", action="store_true", default=no_default, help="get: fetch what is there already"
    )
    parser.add_argument(
        "--json", action="store_true", default=no_default, help="list, check: JSON instead of text"
    )


def run_data(options: argparse.Namespace) -> int:
    """Print a line for each benchmark; the exit code is the worst of theirs."""
    from minihmx.commands import data as inventory

    given, names = vars(options), options.names
    for flag, actions in {"data": ["check"], "force": ["get"], "json": ["list", "check"]}.items():
        if flag in given and options.action not in actions:
            raise UserError(f"--{flag} belongs to `minihmx data {' and '.join(actions)}`.")
    if options.action == "get":
        outcomes = inventory.get(names, "force" in given)
    elif options.action == "list":
        outcomes = inventory.listing(names, "json" in given)
    else:
        outcomes = inventory.check(names, given.get("data", "hub"), "json" in given)
    worst = 0
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            print(f"minihmx: {outcome}", file=sys.stderr, flush=True)
            worst = max(worst, outcome.code)
        else:
            show(outcome)
    return worst


class Command(NamedTuple):
    """arguments adds a command's own to its parser; run returns the exit code."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "train": Command(
        "train a LoRA on the model's own judgement of its answers", train_arguments, run_train
    ),
    "eval": Command(
        "run benchmarks on a model and on what training made of it", eval_arguments, run_eval
    ),
    "data": Command("get, list or check the benchmarks' published items", data_arguments, run_data),
    "chat": Command(
        "talk with a model, and with what training made of it beside it", chat_arguments, run_chat
    ),
    "export": Command(
        "write base and adapter as one Hugging Face checkpoint", export_arguments, run_export
    ),
    "doctor": Command(
        "say what a run needs, before anything is downloaded", doctor_arguments, run_doctor
    ),
}
