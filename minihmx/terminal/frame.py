"""What stands in the live view, as rows: how far a run is, its curves, its last answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from minihmx.instruments.metrics import STAGES
from minihmx.instruments.work import under_way
from minihmx.run import Run
from minihmx.terminal.answers import TWO_ABREAST, JudgedAnswer, aim_style, side_rows
from minihmx.terminal.bars import BAD, CARE, bar
from minihmx.terminal.chart import POINT, chart_rows, spark_row
from minihmx.terminal.lines import SHARES, STOPPING, Lines
from minihmx.terminal.text import duration, number

HELD_OUT = 12  # scores in a row at most
BARS = 20  # columns of the bar of the whole run
CHART = (2, 6)  # rows of the curve, at least and at most
ANSWERS = 8  # rows that the curve leaves to two answers, if they are one below the other
LONG = 2.0  # seconds from which a step has a bar of its own


class Frame:
    """The rows of one run. ended: it goes on no more, so what only a run under way has is left
    out. interrupted: the foot answers a Ctrl-C."""

    def __init__(self, lines: Lines, console: Console) -> None:
        self.lines, self.console = lines, console
        self.run: Run | None = None
        self.answers: list[JudgedAnswer] = []  # best and worst of the last step
        self.laid_out: tuple[object, tuple[int, int], list[Text]] = None, (0, 0), []
        self.peak_gib: float | None = None
        self.interrupted = self.ended = False

    def frame(self, width: int, height: int) -> list[Text]:
        """At most so many rows of so many cells; the curve and the answers share what is left."""
        assert self.run is not None
        config = self.run.config
        title = f"── {self.run.source.run_name}, {config.direction}, seed {config.seed} ──"
        head = [Text(title, "bold"), *flow(self.place(), width)]
        if not self.ended:
            head += flow(self.stages(), width)
        tail = [self.kl(width), *flow(self.shares(), width), *self.scores(width)]
        foot = self.foot(width)
        room = height - len(head) - len(tail) - len(foot)
        abreast = width + 1 >= TWO_ABREAST
        for_answers = 0 if self.ended else ANSWERS // 2 if abreast else ANSWERS
        shown = [*head, *self.reward(width, room - for_answers), *tail]
        if not self.ended:
            shown += self.two_answers(width, height - len(shown) - len(foot))
        shown = [*shown[: max(height - len(foot), 0)], *foot]
        for row in shown:
            row.truncate(width, overflow="ellipsis")
        return shown

    def foot(self, width: int) -> list[Text]:
        """What a Ctrl-C does, or did."""
        if self.ended:
            return []
        if self.interrupted:
            return flow([Text(part, "bold reverse") for part in STOPPING], width)
        return [Text("Ctrl-C: finish what is under way, save, stop", "dim")]

    def two_answers(self, width: int, rows: int) -> list[Text]:
        """Best and worst of the last step. They are most of a frame's work, done once a step."""
        if self.laid_out[0] is not self.answers or self.laid_out[1] != (rows, width):
            laid = side_rows(self.answers, width, rows, self.console)
            self.laid_out = self.answers, (rows, width), laid
        return self.laid_out[2]

    def place(self) -> Iterator[Text]:
        """How far the run is, and what it needs."""
        assert self.run is not None
        done, per_epoch, epochs = self.done, self.run.steps_per_epoch, self.run.config.epochs
        yield bar(done / self.run.total_steps, BARS)
        yield Text(f"step {done} of {self.run.total_steps}", "bold")
        yield Text(f"epoch {min(done // per_epoch + 1, epochs)} of {epochs}")
        if not self.ended:
            yield Text(f"eta {duration(self.seconds_left())}", "bold")
        if self.peak_gib is not None:
            yield Text(f"peak {self.peak_gib:.2f} GiB")

    def stages(self) -> Iterator[Text]:
        """The stages of the present step or evaluation, and for how long it is in the last."""
        assert self.run is not None
        clock = self.run.clock
        (now, seconds), stages, laps = clock.stage(), clock.stages, clock.laps
        kind = self.kind
        rates = self.lines.eta.rates(kind)
        yield Text(f"{kind}:")
        share, left = self.of_stages(rates)
        if share is not None:
            yield bar(share, BARS // 2)
        if left is not None:
            yield Text(f"eta {duration(left)}")
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

    @property
    def kind(self) -> str:
        """Of what goes on: step or evaluation."""
        assert self.run is not None
        return "evaluation" if "measure" in self.run.clock.stages else "step"

    def of_stages(self, rates: Mapping[str, float]) -> tuple[float | None, float | None]:
        """How much of the present step or evaluation is done, from 0 to 1, and its seconds left.

        From the stages' usual times; the first one has none yet, and goes by the answers that are
        there, of the present stage alone.
        """
        assert self.run is not None
        clock, work = self.run.clock, under_way()
        now, seconds = clock.stage()
        whole = sum(rates.values())
        if now not in STAGES[self.kind]:
            return None, None
        if whole and whole < LONG:
            return None, None
        if whole:
            behind = sum(rates[stage] for stage in rates if stage in clock.laps)
            behind += min(seconds, rates.get(now, 0.0))
            return behind / whole, whole - behind
        if work is None:
            return None, None
        return work.share, work.seconds_left()

    def reward(self, width: int, rows: int) -> list[Text]:
        """The reward's course over the whole run with the held-out points, or in one row."""
        assert self.run is not None
        run, last = self.run, self.lines.steps[-1] if self.lines.steps else {}
        rewards = [m["reward"] for m in self.lines.steps]
        label = f"reward  {number(last.get('reward'), '+.2f')}"
        label += f" std {number(last.get('reward_std'), '.2f')}" if last else ""
        height = min(rows - 3, CHART[1])  # beside the label and the lower axis
        if height < CHART[0] or not rewards:
            return [spark_row(label, rewards, run.total_steps, "+.1f", width)]
        sign = 1 if run.config.direction == "forward" else -1
        points = {
            m["epoch"] * run.steps_per_epoch: None if m["score"] is None else sign * m["score"]
            for m in self.lines.evaluations
        }
        ticks = {n * run.steps_per_epoch: str(n) for n in range(run.config.epochs + 1)}
        drawn = chart_rows(rewards, points, run.total_steps, ticks, "+.1f", (width, height + 2))
        legend = Text.assemble(label, "  ", ("●", POINT), " held-out, by epoch")
        return [legend, *drawn]

    def kl(self, width: int) -> Text:
        """How far the policy went from the reference."""
        assert self.run is not None
        values = [m["kl"] for m in self.lines.steps]
        label = f"kl      {number(values[-1] if values else None, '.4f')}"
        return spark_row(label, values, self.run.total_steps, ".4f", width)

    def shares(self) -> Iterator[Text]:
        """What of the last step is worth, or taught, less than it seems."""
        last = self.lines.steps[-1] if self.lines.steps else {}
        yield Text("shares")
        for name, words in {"degenerate": "odd", **SHARES}.items():
            share = last.get(name)
            style = "dim" if not share else BAD if share > 0.5 else CARE
            yield Text(f"{number(share, '.0%')} {words}", style)

    def scores(self, width: int) -> list[Text]:
        """The held-out score by epoch in two rows; of many epochs the first and the last ones."""
        evaluations = self.lines.evaluations
        direction = self.lines.run.config.direction
        parts = [Text("held-out")] + [
            Text.assemble(
                (number(m["score"], ".2f"), aim_style(m["score"], direction)),
                f" ({m['epoch'] or 'start'})",
            )
            for m in evaluations[:1] + evaluations[1:][-HELD_OUT:]
        ]
        while len(rows := flow(parts, width)) > 2 and len(parts) > 4:
            parts[2:4] = [Text("…")]
        return rows


def flow(parts: Sequence[Text] | Iterator[Text], width: int) -> list[Text]:
    """The parts one after the other, in as few rows as they need."""
    rows: list[Text] = []
    for part in parts:
        if rows and rows[-1].cell_len + 2 + part.cell_len <= width:
            rows[-1] = Text.assemble(rows[-1], "  ", part)
        else:
            rows.append(part.copy())
    return rows


def brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
