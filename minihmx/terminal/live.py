"""The live view: the lines that are to stay scroll by, and below them stands what goes on now.

A thread of its own draws, four times a second. The training thread only hands over text and
numbers, so a slow or halted terminal holds up no step, and a Ctrl-C never meets half a frame. The
cursor stays visible, and the frame has no right edge: whatever ends or narrows the view, nothing in
the terminal has to be repaired. The last frame stays, without what only a run under way has.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections import deque
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from minihmx.terminal.answers import extremes
from minihmx.terminal.bars import BAD, CARE, GOOD, REFRESH
from minihmx.terminal.board import mark_parts
from minihmx.terminal.frame import Frame
from minihmx.terminal.lines import SAMPLER_GAP, Lines
from minihmx.terminal.text import Copied, folded
from minihmx.train import Ended, Evaluated, Event, Started, Stepped

STYLES = (  # of lines that stay, by how they begin; the first that fits
    (r"wrecked:|.*SKIPPED", f"bold {BAD}"),
    (r"complete:|next:", f"bold {GOOD}"),
    (r" *warning ", CARE),
    (r" *notice |resume |interrupted;", "cyan"),
    (r"evaluation ", "bold"),
    (r"  best ", GOOD),
    (r"  worst ", BAD),
)


class View(Frame):
    """Shows the events of one training run on a terminal, as a context around its loop."""

    def __init__(self, lines: Lines, console: Console | None = None) -> None:
        super().__init__(lines, console or Console(file=sys.stdout, force_terminal=True))
        self.closing: list[str] = []  # what is told below the last frame
        self.waiting: deque[str] = deque()  # lines still to be printed
        self.live = Live(
            self,
            console=self.console,
            auto_refresh=False,
            redirect_stderr=sys.stderr.isatty(),  # a library's warning scrolls by, too
        )
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.draw_until_ended, daemon=True)

    def __enter__(self) -> View:
        self.live.start()
        self.console.show_cursor(True)  # so that even kill -9 leaves it visible
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        self.ended = True
        with contextlib.suppress(OSError):
            try:
                self.draw()
            finally:
                self.live.stop()
            self.print(self.closing)

    def show(self, event: Event) -> None:
        """Take in an event. A step's line stays only if something about it is to be told."""
        self.lines.width = self.console.width - 1
        told = list(self.lines.render(event))
        if isinstance(event, Started):
            self.run = event.run
        elif isinstance(event, Stepped):
            m = event.metrics
            if len(told) == 1 and not m["not_finite"] and (m["sampler_gap"] or 0) <= SAMPLER_GAP:
                told = []
            self.answers = extremes(event.rollouts, self.lines.run.config.direction)
            self.peak_gib = event.timings["peak_gib"]
        elif isinstance(event, Evaluated):
            self.peak_gib = event.timings["peak_gib"]
        elif isinstance(event, Ended):
            self.closing, told = told, []
        self.waiting.extend(told)

    def draw_until_ended(self) -> None:
        """The thread's work; when the terminal has gone, the run goes on unseen."""
        with contextlib.suppress(OSError):
            while not self.stopped.wait(REFRESH):
                self.draw()

    def draw(self) -> None:
        """Print what waits, and the frame below it."""
        told = [self.waiting.popleft() for _ in range(len(self.waiting))]
        if told:
            self.print(told)
        else:
            self.live.refresh()

    def print(self, lines: Sequence[str]) -> None:
        """Lines that stay, each broken between its words where the terminal ends."""
        rows = [styled(line, self.console.width - 1) for line in lines]
        if rows:  # soft_wrap: a path or a command that is too long is copied as it was
            self.console.print(Text("\n").join(rows), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints: one column stays free, for the ^C that a terminal echoes."""
        width, height = console.size
        rows = self.frame(width - 1, height - 1) if self.run else [Text("starting")]
        yield Text("\n", no_wrap=True).join(rows)


def styled(line: str, width: int) -> Text:
    """A line that stays, folded and coloured by what it says, its marks (board.py) reversed."""
    style = next((style for begin, style in STYLES if re.match(begin, line)), "")
    if isinstance(line, Copied):
        style = "bold"
    parts = mark_parts(folded(line, width))
    text = Text.assemble(*((part, "bold reverse" if mark else "") for part, mark in parts))
    text.stylize_before(style)
    return text
