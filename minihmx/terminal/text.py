"""How values become text on a terminal, and a print that survives a closed pipe. No torch."""

from __future__ import annotations

import codecs
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from minihmx.errors import IOFailure

SPLIT_BY_RANK = ("train", "eval")  # the commands that several processes can share

# What the sign says wherever train, eval and select show it: how far a mean may be off. How far
# single answers lie apart is called std, and never has this sign.
ERROR = "± is the standard error of a mean"
# For a terminal or a file that has no such sign. A minus is never lost.
SPELLED = {"−": "-", "–": "-", "—": "-", "±": "+/-", "·": "*", "²": "^2", "Σ": "sum of ", "’": "'"}
SPELLED |= {"█": "#", "→": "->", "›": ">", "‹": "<"}
LONGEST = 1e10  # seconds; timedelta knows no more than some thousand times that
# These verbs and actions leave files, so they go on unseen where stdout is closed.
LEAVE_FILES = {"train", "eval", "experiment", "select", "export", "get", "judge"}
LEAVE_FILES |= {"rate"}
LEAVE_FILES |= {"plan", "submit", "run", "fetch", "job"}  # of sweep


def open_streams() -> list[str]:
    """Give the null device to each of stdin, stdout and stderr that the caller closed (`>&-`).

    Else the next file to be opened would get a stream's number, and its lines for the terminal.
    Returns the names of those that were closed.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for handle, name in enumerate(("stdin", "stdout", "stderr")):
        if name in closed:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, handle)
            if null != handle:
                os.close(null)
            setattr(sys, name, os.fdopen(handle, "w" if handle else "r", encoding="utf-8"))
    return closed


def need_stdout(closed: Sequence[str], verb: str, action: str | None) -> None:
    """Raises IOFailure where stdout is closed and what the command prints would be lost."""
    if "stdout" in closed and not {verb, action} & LEAVE_FILES:
        raise IOFailure(
            f"stdout is closed, and all that `minihmx {verb}` prints would be lost; leave stdout "
            "open, or let it go to a file (> FILE)."
        )


def show(line: str) -> None:
    """Print; when the reader of a pipe has left, as `head` does, the run goes on unseen."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plainly(error: UnicodeError) -> tuple[str, int]:
    """What to print for signs that the encoding lacks, and where to go on: codecs' own protocol.

    >>> "−0.34 ± 0.1 ☃".encode("ascii", "plainly")
    b'-0.34 +/- 0.1 ?'
    """
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED.get(sign, "?") for sign in lacking), error.end


codecs.register_error("plainly", plainly)


def typed() -> str:
    """The command line that started this process, for a shell; torchrun's where it did."""
    words = sys.orig_argv
    if "LOCAL_RANK" in os.environ and "-m" in words:
        words = [*_torchrun(), *words[words.index("-m") :]]
    return shlex.join(words)


def _torchrun() -> list[str]:
    return ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]


def program(verb: str = "") -> str:
    """What stands in front of a verb in that line; an installed command goes by its name. torchrun
    stands there again before the verbs that it may start, and other ones are one process."""
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if words[-2:] == ["-m", "minihmx"]:
        if "LOCAL_RANK" in os.environ:  # whose -u in front of -m no user typed
            words = [*(_torchrun() if verb in SPLIT_BY_RANK else words[:1]), *words[-2:]]
        return shlex.join(words)
    if Path(sys.argv[0]).name != "minihmx":  # another program, as one that tests this
        return "minihmx"
    installed = shutil.which("minihmx")
    here = installed is not None and Path(installed).resolve() == Path(sys.argv[0]).resolve()
    return "minihmx" if here else shlex.quote(sys.argv[0])


def with_program(message: str) -> str:
    """A message with the commands that it names, as `minihmx audit`, spelled for this user."""
    return re.sub(r"`minihmx (-?[\w-]+)", lambda m: f"`{program(m[1])} {m[1]}", message)


class Copied(str):
    """A line for the user to type, which is never folded."""


def folded(line: str, width: int) -> str:
    """A line broken between words where the terminal ends, each further row as far in as what
    stands after its label. A word of more than a row, as a path, stays whole for who copies it."""
    if len(line) <= width or isinstance(line, Copied):
        return line
    label = re.match(r" *(?:[a-z ]+ {2,})?", line)
    indent = min(label.end() if label else 0, width // 3) or 2
    rows = [""]
    for word in re.findall(r" *[^ ]+", line):
        if len(rows[-1]) + len(word) > width and indent + len(word) <= width and rows[-1]:
            rows.append(" " * indent + word.lstrip())
        else:
            rows[-1] += word
    return "\n".join(rows)


def decodable(text: str) -> str:
    """What came from a keyboard or a command line, its undecodable bytes replaced."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def printable(text: str) -> str:
    """The text with nothing in it that a terminal would obey; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    if seconds is None:
        return "after the first step"
    return str(timedelta(seconds=round(min(seconds, LONGEST))))


def number(value: float | None, form: str) -> str:
    """The value in this format, or "-" where there is none."""
    return "-" if value is None else format(value, form)
