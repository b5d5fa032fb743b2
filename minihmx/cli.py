"""The door: arguments in, exit code out. `python -m minihmx` and `minihmx` both come here.

A command is a function that adds its arguments and a function that runs it, in COMMANDS below.
Torch is imported by what runs, never here: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from minihmx import __version__
from minihmx.config import FIELDS, MODELS
from minihmx.errors import Failure, UserError, explain

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a model may say what the terminal cannot show
            stream.reconfigure(errors="replace")
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        return COMMANDS[options.command].run(options)
    except Failure as failure:
        print(f"minihmx: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        print("minihmx: stopped at once; the same command continues.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        sys.stderr.close()
        return 0
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        print(f"minihmx: {explained}", file=sys.stderr)
        return explained.code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises UserError for an unknown option, naming the nearest one."""
    parser = argparse.ArgumentParser(
        prog="minihmx", description="The HMX-feel experiment from scratch.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"minihmx {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    known: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.help,
            description=command.help,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(sub)
        known[name] = [flag for action in sub._actions for flag in action.option_strings]
    options, unknown = parser.parse_known_args(arguments)
    for flag in unknown:
        near = difflib.get_close_matches(flag.split("=")[0], known[options.command], 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"{flag} is no option of `minihmx {options.command}`{hint}")
    return options


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
    from minihmx.display import Lines
    from minihmx.run import prepare
    from minihmx.train import Ended, train

    asked: list[int] = []

    def interrupt(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        # print could meet itself, if the signal comes in the middle of another print
        os.write(2, b"\nfinishing this step, then saving; once more to stop at once\n")

    # nothing is to be saved before a run stands, so until then Ctrl-C stops at once
    run = prepare({name: value for name, value in vars(options).items() if name in FIELDS})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    lines, last = Lines(), None
    for event in train(run, should_stop=lambda: bool(asked)):
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
    from minihmx.talk import talk

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
    from minihmx.export import export

    for line in export(options.run, options.merge, options.out, options.model, options.dtype):
        print(line, flush=True)
    return 0


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of train, so that its whole command line can be asked about."""
    train_arguments(parser)
    parser.add_argument("--gpu", type=float, metavar="GIB", help="plan for a GPU of this memory")
    parser.add_argument("--judge", metavar="MODEL", help="instead: is this model a usable judge?")
    parser.add_argument("--samples", type=int, default=5, help="with --judge: verdicts sampled (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run_doctor(options: argparse.Namespace) -> int:
    """Print the whole report, then fail with the first thing that would stop the run."""
    from minihmx import doctor, probe

    flags = {name: value for name, value in vars(options).items() if name in FIELDS}
    if options.judge is not None:
        if "model" in flags:
            raise UserError(f"Two models, {flags['model']} and --judge {options.judge}; give one.")
        report = probe.probe(flags | {"model": options.judge}, options.samples)
        lines = probe.lines(report)
    else:
        report = doctor.examine(flags, options.gpu)
        lines = doctor.lines(report)
    for line in [json.dumps(report, sort_keys=True)] if options.json else lines:
        print(line, flush=True)
    if report["problems"]:
        raise UserError(report["problems"][0])
    return 0


class Command(NamedTuple):
    """arguments adds a command's own to its parser; run returns the exit code."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "train": Command(
        "train a LoRA on the model's own judgement of its answers", train_arguments, run_train
    ),
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
