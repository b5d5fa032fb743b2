"""The door: arguments in, exit code out. `python -m minihmx` and `minihmx` both come here."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from minihmx import __version__
from minihmx.config import FIELDS, MODELS
from minihmx.errors import Failure, UserError, explain

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        return run_train(options)
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


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by field name. Raises UserError for an unknown one."""
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    for flag in unknown:
        known = [f"--{name.replace('_', '-')}" for name in FIELDS]
        near = difflib.get_close_matches(flag.split("=")[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"{flag} is no option of `minihmx {options.command}`{hint}")
    return {name: value for name, value in vars(options).items() if name in FIELDS}


def build_parser() -> argparse.ArgumentParser:
    """Every config field is a flag, so that a default stands in one place."""
    parser = argparse.ArgumentParser(
        prog="minihmx", description="The HMX-feel experiment from scratch.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"minihmx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    train = commands.add_parser(
        "train",
        help="train a LoRA on the model's own judgement of its answers",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="models:\n"
        + "\n".join(
            f"  {name:<12} {info.parameters:>5}  {info.repo or 'bundled, no download'}"
            + (" (gated: needs HF_TOKEN)" if info.gated else "")
            for name, info in MODELS.items()
        )
        + "\n  or a local path, or a hub id of one of these three families",
    )
    train.add_argument("model", nargs="?", help="short name, local path or hub id (tiny)")
    for name, field in FIELDS.items():
        if name != "model":
            train.add_argument(
                f"--{name.replace('_', '-')}",
                type=type(field.default),
                metavar="|".join(field.metadata["choices"] or (type(field.default).__name__,)),
                help=f"{field.metadata['help']} (default {field.default!r}, "
                f"{field.metadata['source']})".replace("%", "%%"),
            )
    return parser


def run_train(flags: dict[str, Any]) -> int:
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

    run = prepare(flags)  # there is nothing to save yet, so Ctrl-C still stops at once
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    lines, last = Lines(), None
    for event in train(run, should_stop=lambda: bool(asked)):
        for line in lines.render(event):
            print(line, flush=True)
        last = event
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is saved
    return INTERRUPTED if last == Ended("interrupted") else 0
