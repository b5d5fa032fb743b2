"""The live view: the lines that are to stay scroll by, and below them stands what goes on now.

A thread of its own draws, four times a second. The training thread only hands over text and
numbers, so a slow or halted terminal holds up no step, and a Ctrl-C never meets half a frame. The
cursor stays visible, and the frame has no right edge: whatever ends or narrows the view, nothing in
the terminal has to be repaired.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from minihmx.records import Rollout, Verdict
from minihmx.run import Run
from minihmx.terminal.lines import SAMPLER_GAP, SHARES, STOPPING, Lines, extremes
from minihmx.terminal.text import duration, number, printable
from minihmx.train import Evaluated, Event, Started, Stepped

REFRESH = 0.25  # seconds between frames
WIDTH = 100  # columns at most, as plain lines have
ANSWER = 7  # rows at most for an answer and what the judge said of it
INDENT = 12  # columns in front of an answer
LEVELS = "▁▂▃▄▅▆▇█"
# Terminals join these with their neighbours, or do not, and so disagree on their width.
JOINING = re.compile("[\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff]")


def possible() -> bool:
    """Is stdout a terminal that a person watches and that can move its cursor?

    Notebooks (JPY_PARENT_PID) and CI logs pretend to be one.
    """
    environment = os.environ
    return (
        sys.stdout.isatty()
        and sys.stdout.encoding.lower().replace("-", "") == "utf8"
        and environment.get("TERM", "") not in ("", "dumb", "unknown")
        and not environment.keys() & {"CI", "JPY_PARENT_PID"}
    )


class View:
    """Shows the events of one training run on a terminal, as a context around its loop."""

    def __init__(self, lines: Lines, console: Console | None = None) -> None:
        self.lines = lines
        self.run: Run | None = None
        self.answers: list[tuple[str, Rollout]] = []  # best and worst of the last step
        self.laid_out: tuple[object, tuple[int, int], list[Text]] = None, (0, 0), []
        self.peak_gib: float | None = None
        self.interrupted = False  # the next frame answers a Ctrl-C
        self.console = console or Console(file=sys.stdout, force_terminal=True)
        self.waiting: deque[str] = deque()  # lines still to be printed
        self.live = Live(
            self,
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # a library's warning scrolls by, too
        )
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.draw_until_ended, daemon=True)

    def __enter__(self) -> View:
        self.live.start()
        self.console.show_cursor(True)  # so that even kill -9 leaves it visible
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            try:
                self.draw()
            finally:
                self.live.stop()

    def show(self, event: Event) -> None:
        """Take in an event. A step's line stays only if something about it is to be told."""
        told = list(self.lines.render(event))
        if isinstance(event, Started):
            self.run = event.run
        elif isinstance(event, Stepped):
            m = event.metrics
            if len(told) == 1 and not m["not_finite"] and (m["sampler_gap"] or 0) <= SAMPLER_GAP:
                told = []
            self.answers = extremes(event.rollouts)
            self.peak_gib = event.timings["peak_gib"]
        elif isinstance(event, Evaluated):
            self.peak_gib = event.timings["peak_gib"]
        self.waiting.extend(told)

    def draw_until_ended(self) -> None:
        """The thread's work; when the terminal has gone, the run goes on unseen."""
        with contextlib.suppress(OSError):
            while not self.ended.wait(REFRESH):
                self.draw()

    def draw(self) -> None:
        """Print what waits, and the frame below it."""
        told = [printable(self.waiting.popleft()) for _ in range(len(self.waiting))]
        if told:  # soft_wrap: the terminal wraps long lines, so that they are copied as they were
            self.console.print(Text("\n".join(told)), soft_wrap=True)
        else:
            self.live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints: one column stays free, for the ^C that a terminal echoes."""
        width, height = console.size
        rows = self.frame(min(width, WIDTH) - 1, height - 1) if self.run else [Text("starting")]
        yield Text("\n", no_wrap=True).join(rows)

    def frame(self, width: int, height: int) -> list[Text]:
        """At most so many rows of so many cells; the answers get what the rest leaves."""
        assert self.run is not None
        config = self.run.config
        title = f"── {self.run.source.run_name}, {config.direction}, seed {config.seed} ──"
        head = [
            Text(title, "bold"),
            *flow(self.place(), width),
            *flow(self.stages(), width),
            self.trend("reward", "+.2f", width),
            self.trend("kl", ".4f", width),
            *flow(self.shares(), width),
            *self.scores(width),
        ]
        if self.interrupted:
            foot = flow([Text(part, "bold reverse") for part in STOPPING], width)
        else:
            foot = [Text("Ctrl-C: finish what is under way, save, stop", "dim")]
        rows = min((height - len(head) - len(foot)) // 2, ANSWER)
        answers = self.answers
        if self.laid_out[0] is not answers or self.laid_out[1] != (rows, width):
            laid = [row for a in answers for row in answer_rows(*a, rows, width, self.console)]
            self.laid_out = answers, (rows, width), laid  # most of a frame's work, once a step
        head += self.laid_out[2]
        shown = [*head[: max(height - len(foot), 0)], *foot]
        for row in shown:
            row.truncate(width, overflow="ellipsis")
        return shown

    def place(self) -> Iterator[Text]:
        """How far the run is, and what it needs."""
        assert self.run is not None
        done, per_epoch, epochs = self.done, self.run.steps_per_epoch, self.run.config.epochs
        yield Text(f"step {done} of {self.run.total_steps}", "bold")
        yield Text(f"epoch {min(done // per_epoch + 1, epochs)} of {epochs}")
        yield Text(f"eta {duration(self.seconds_left())}", "bold")
        if self.peak_gib is not None:
            yield Text(f"peak {self.peak_gib:.2f} GiB")

    def stages(self) -> Iterator[Text]:
        """The stages of the present step or evaluation, and for how long it is in the last."""
        assert self.run is not None
        clock = self.run.clock
        (now, seconds), stages, laps = clock.stage(), clock.stages, clock.laps
        kind = "evaluation" if "measure" in stages else "step"
        rates = self.lines.eta.rates(kind)
        yield Text(f"{kind}:")
        for stage in stages:
            if stage in laps:
                yield Text(f"{stage} {brief(laps[stage])}")
            elif stage == now:
                usual = f" of about {brief(rates[now])}" if now in rates else ""
                yield Text(f"▸{now} {brief(seconds)}{usual}", "bold reverse")
            else:
                yield Text(stage, "dim")
        if now not in stages:
            yield Text(f"▸{now} {brief(seconds)}", "bold reverse")

    @property
    def done(self) -> int:
        return int(self.lines.steps[-1]["step"]) if self.lines.steps else 0

    def seconds_left(self) -> float | None:
        """From each stage's own rate, less what the present step or evaluation has behind it."""
        assert self.run is not None
        clock, evaluated = self.run.clock, len(self.lines.evaluations)
        evaluating = self.done >= evaluated * self.run.steps_per_epoch
        steps = self.run.total_steps - self.done
        left = self.lines.eta.seconds(steps, self.run.config.epochs + 1 - evaluated)
        if left is None or evaluating != ("measure" in clock.stages):
            return left
        now, seconds = clock.stage()
        rates = self.lines.eta.rates("evaluation" if evaluating else "step")
        behind = sum(rate for stage, rate in rates.items() if stage in clock.laps)
        return max(left - behind - min(seconds, rates.get(now, 0.0)), 0.0)

    def trend(self, name: str, form: str, width: int) -> Text:
        """A metric's last value, and its course over as many steps as the row has room for."""
        steps = self.lines.steps[-width:]
        values = [m[name] for m in steps]
        label = f"{name:<7} {number(values[-1] if values else None, form)}"
        if name == "reward" and values:
            label += f" std {number(steps[-1]['reward_std'], '.2f')}"
        label = f"{label:<24} "
        return Text.assemble(label, (sparkline(values[-max(width - len(label), 1) :]), "cyan"))

    def shares(self) -> Iterator[Text]:
        """What of the last step is worth, or taught, less than it seems."""
        last = self.lines.steps[-1] if self.lines.steps else {}
        yield Text("shares")
        for name, words in {"degenerate": "odd", **SHARES}.items():
            share = last.get(name)
            yield Text(f"{number(share, '.0%')} {words}", "bold" if share else "dim")

    def scores(self, width: int) -> list[Text]:
        """The held-out score by epoch in two rows; of many epochs the first and the last ones."""
        evaluations = self.lines.evaluations
        parts = [Text("held-out")] + [
            Text(f"{number(m['score'], '.2f')} ({m['epoch'] or 'start'})")
            for m in evaluations[:1] + evaluations[1:][-WIDTH // 8 :]
        ]
        while len(rows := flow(parts, width)) > 2 and len(parts) > 4:
            parts[2:4] = [Text("…")]
        return rows


def answer_rows(name: str, rollout: Rollout, rows: int, width: int, console: Console) -> list[Text]:
    """One answer and, from two rows on, the judge's words with the matched score marked."""
    assert isinstance(rollout.verdict, Verdict)
    room = max(width - INDENT, 1)
    of_judge = 0 if rows < 2 else 1 if rows < 5 else 2
    of_answer, enough = rows - of_judge, 2 * rows * room
    said = f"{calm(rollout.question.text[:enough])} — {calm(rollout.completion.text[:enough])}"
    start, end = rollout.verdict.span
    before, after = calm(rollout.judge_text[:start]), rollout.judge_text[end : end + enough]
    if len(before) > room // 3:  # of a long preamble only what stands beside the score
        before = "…" + before[-(room // 3) :]
    judged = Text.assemble(before, (rollout.judge_text[start:end], "bold reverse"), calm(after))
    return [
        *wrap(f"{name} {rollout.verdict.score:>2}", Text(said), of_answer, room, console),
        *wrap("   judge", judged, of_judge, room, console),
    ]


def wrap(label: str, text: Text, rows: int, width: int, console: Console) -> list[Text]:
    """The text in at most so many rows, behind a label; what is cut ends in dots."""
    lines = list(text.wrap(console, width, overflow="fold")) if rows > 0 else []
    for line in lines[:rows]:
        line.rstrip()
    if len(lines) > rows > 0:
        lines[rows - 1].truncate(width - 1)
        lines[rows - 1].append("…")
    margins = [f"  {label:<{INDENT - 2}}"] + [" " * INDENT] * rows
    return [
        Text.assemble((margin, "bold"), line)
        for margin, line in zip(margins, lines[:rows], strict=False)
    ]


def flow(parts: Sequence[Text] | Iterator[Text], width: int) -> list[Text]:
    """The parts one behind the other, in as few rows as they need."""
    rows: list[Text] = []
    for part in parts:
        if rows and rows[-1].cell_len + 2 + part.cell_len <= width:
            rows[-1].append("  ").append_text(part)
        else:
            rows.append(part.copy())
    return rows


def sparkline(values: Sequence[float | None]) -> str:
    """One character a value, from the lowest of these to the highest; a blank for None."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    step = (high - low) / (len(LEVELS) - 1) or 1.0
    return "".join(" " if v is None else LEVELS[round((v - low) / step)] for v in values)


def brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def calm(text: str) -> str:
    """One row of text in which every character is as wide as any terminal takes it to be.

    Left out are marks that combine, and what rich's table and Unicode's give different widths.
    """
    composed = unicodedata.normalize("NFC", printable(text).replace("\n", " "))
    return "".join(
        c
        for c in composed
        if cell_len(c) == (2 if unicodedata.east_asian_width(c) in "WF" else 1)
        and not JOINING.match(c)
    )
