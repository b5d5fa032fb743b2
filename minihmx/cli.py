"""The door: arguments in, exit code out. `python -m minihmx` and `minihmx` both come here.

A verb is a file in commands/ and a line in COMMANDS there. Torch is imported by what runs, never
here: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from minihmx import __version__
from minihmx.commands import COMMANDS
from minihmx.engine import ranks
from minihmx.errors import EXIT_CODES, INTERRUPTED, Failure, UserError, as_failure, nearest, quoted
from minihmx.terminal.board import coloured
from minihmx.terminal.text import decodable, need_stdout, open_streams, typed, with_program

LONGEST_MESSAGE = 2000  # characters of a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    closed = open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a model may say what the terminal cannot show
            stream.reconfigure(errors="plainly")
    if ranks.rank():  # one of several processes speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see __main__.py
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        need_stdout(closed, options.command, vars(options).get("action"))
        ranks.check_shared(options.command)
        return COMMANDS[options.command][1].run(options)
    except Failure as failure:
        return refuse(failure)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third Ctrl-C has nothing left to stop
        if ranks.first_to_fail("stopped at once"):
            print(f"minihmx: stopped at once; this goes on:\n  {typed()}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        sys.stderr.close()
        return 0
    except Exception as error:
        known = as_failure(error)
        if known is None:
            if ranks.world() == 1:
                raise
            if ranks.first_to_fail(f"{type(error).__name__}: {error}"):
                traceback.print_exc()  # and on to ranks.leave
            return 1
        return refuse(known)


def refuse(failure: Failure) -> int:
    """Print the sentence; what it quotes from a file neither floods nor commands the terminal."""
    text = "".join(c if c.isprintable() else " " for c in with_program(decodable(str(failure))))
    if len(text) > LONGEST_MESSAGE:  # the end says what to do
        text = f"{text[: LONGEST_MESSAGE // 2]} [...] {text[-LONGEST_MESSAGE // 2 :]}"
    if ranks.first_to_fail(text):
        with contextlib.suppress(OSError):  # where even stderr fails, the code still tells
            red = "\x1b[1;31m{}\x1b[0m" if coloured(sys.stderr) else "{}"
            print(red.format("minihmx:"), text, file=sys.stderr)
    return failure.code


class Parser(argparse.ArgumentParser):
    """One whose refusals are sentences, as all others are."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        for kind, name in ((int, "whole number"), (float, "number")):
            self.register("type", kind, functools.partial(as_number, kind, name))
        for unnamed_or_text in (None, str):
            self.register("type", unnamed_or_text, as_text)

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise UserError(f"{message}; `{self.prog} --help` says what it takes.")


def as_text(text: str) -> str:
    """An option's value as it is. What is not UTF-8 could stand in no record and no prompt."""
    if text != decodable(text):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not UTF-8, as records and prompts are")
    return text


def as_number(kind: Callable[[str], Any], name: str, text: str) -> Any:
    """An option's value; what is none is refused in the words of users."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no {name}") from None


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises UserError for what it does not know, naming the nearest command or option."""
    plain = argparse.RawDescriptionHelpFormatter
    text = "The HMX-feel experiment from scratch."
    parser = Parser(prog="minihmx", description=text, epilog=EXIT_CODES, formatter_class=plain)
    parser.add_argument("--version", action="version", version=f"minihmx {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    subparsers.type = lambda text: text  # a command's own parser knows what its words are
    known: dict[str, list[str]] = {}
    verbs = []
    for name, (text, verb) in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text, formatter_class=plain)
        verb.arguments(sub)
        verbs.append(sub)
        known[name] = flags_of(sub)
        for nested in sub._actions:
            if isinstance(nested, argparse._SubParsersAction):
                known |= {f"{name} {inner}": flags_of(p) for inner, p in nested.choices.items()}
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        from minihmx.terminal.completion import offer_words

        offer_words(parser, verbs)
    first = arguments[0] if arguments else "-"
    if first not in COMMANDS and not first.startswith("-"):
        there = f"there are {', '.join(COMMANDS)}."
        raise UserError(f"{first} is no command; {nearest(first, COMMANDS, there)}")
    options, unknown = parser.parse_known_args(arguments)
    if "names" in options:  # argparse takes a list in one place; here it may go on after a flag
        options.names += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    words = f"{options.command} {vars(options).get('action')}"
    words = words if words in known else options.command
    prog = f"minihmx {words}"
    for word in sorted(unknown, key=lambda word: not word.startswith("-")):
        if word.startswith("-"):  # what follows it may be its value
            there = f"`{prog} --help` lists them."
            hint = nearest(word.split("=")[0], known[words], there)
            raise UserError(f"{word} is no option of `{prog}`; {hint}")
        raise UserError(f"{quoted(word)} is one word too many; `{prog} --help` says what it takes.")
    return options
