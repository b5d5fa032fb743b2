"""A bar with a time to go for whatever takes long and says how far it is (instruments/work.py).

A terminal gets a bar below what is printed, and it stays when it is full. A pipe or a log gets a
line now and then. Both come on stderr, as stdout may be for a program.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from minihmx.engine import ranks
from minihmx.instruments.work import Work, under_way
from minihmx.terminal.text import duration

REFRESH = 0.25  # seconds between frames
UNSHOWN = 1.0  # seconds that work may take before anything is shown of it
EVERY = 10.0  # seconds between two lines where nobody watches
GOOD, CARE, BAD = "green", "yellow", "red"  # where training aims, what to look at, what is lost
WIDEST = 40  # columns of a bar


def possible(stream: TextIO) -> bool:
    """Is it a terminal that a person watches and that can move its cursor?

    Notebooks (JPY_PARENT_PID) and CI logs pretend to be one.
    """
    environment = os.environ
    return (
        stream.isatty()
        and (stream.encoding or "").lower().replace("-", "") == "utf8"
        and environment.get("TERM", "") not in ("", "dumb", "unknown")
        and not environment.keys() & {"CI", "JPY_PARENT_PID"}
    )


def bar(share: float, width: int) -> Text:
    """So much of it is done: green to there, dim from there on."""
    halves = round(2 * width * share)
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return Text.assemble((full, GOOD), ("─" * (width - len(full)), "dim"))


def work_row(work: Work, width: int) -> Text:
    """The bar of a piece of work, how much of it is done, and how long the rest takes."""
    left = work.seconds_left()
    full = work.done >= work.total
    time_told = f"in {duration(work.seconds())}" if full else f"eta {duration(left)}"
    if left is None and not full:
        time_told = f"for {duration(work.seconds())}"
    words = f"  {work.done:,} of {work.total:,}  {time_told}"
    room = width - len(work.what) - len(words) - 3
    row = Text.assemble(f"  {work.what} ", bar(work.share, max(min(room, WIDEST), 4)), words)
    row.truncate(width, overflow="ellipsis")
    return row


@contextlib.contextmanager
def with_bars() -> Iterator[None]:
    """While the block is at work, stderr shows how far it is, once that has taken a second.

    Of several processes that share a run (engine/ranks.py) the first alone speaks.
    """
    if ranks.rank():
        yield
        return
    ended = threading.Event()
    draw = _draw if possible(sys.stderr) else _tell
    thread = threading.Thread(target=draw, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _draw(ended: threading.Event) -> None:
    """A thread's work: a bar for each piece of work in turn; a terminal that has gone sees none."""
    console = Console(file=sys.stderr, force_terminal=True)
    with contextlib.suppress(OSError):
        while not ended.wait(REFRESH):
            work = under_way()
            if work is None or work.seconds() < UNSHOWN:
                continue
            live = Live(
                console=console,
                auto_refresh=False,
                redirect_stdout=sys.stdout.isatty(),  # what is printed meanwhile stands above it
            )
            with live:
                console.show_cursor(True)  # so that even kill -9 leaves it visible
                live.update(work_row(work, console.width - 1), refresh=True)
                while under_way() is work and not ended.wait(REFRESH):
                    live.update(work_row(work, console.width - 1), refresh=True)
                live.update(work_row(work, console.width - 1), refresh=True)


def _tell(ended: threading.Event) -> None:
    """A thread's work: a line every ten seconds."""
    told = time.monotonic()
    while not ended.wait(REFRESH):
        work, now = under_way(), time.monotonic()
        if work is None or now - max(told, work.begun) < EVERY:
            continue
        told = now
        left = work.seconds_left()
        eta = "" if left is None else f", eta {duration(left)}"
        with contextlib.suppress(OSError):
            print(f"  {work.what}: {work.done:,} of {work.total:,}{eta}", file=sys.stderr)
