"""The live view: what it shows, that it fits, and how it leaves the terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import command, env, minihmx, small
from rich.cells import cell_len
from rich.console import Console

from minihmx.instruments.clock import Clock
from minihmx.instruments.metrics import STAGES
from minihmx.instruments.work import working
from minihmx.records import Completion, Question, Rollout, Verdict
from minihmx.terminal.answers import calm, said_of, said_rows
from minihmx.terminal.bars import possible
from minihmx.terminal.chart import sparkline
from minihmx.terminal.lines import STOPPING, Lines
from minihmx.terminal.live import View
from minihmx.train import Stepped

HOSTILE = (
    "[red]tag[/red] [link=x] :boom: \x1b[31mred\x1b]8;;http://example.com\x07 \x9b2J \r\x08over "
    "\u202eright\u2066 zero\u200bwidth 👨‍👩‍👧 🇫🇷 👍🏽 ♥\ufe0f ㅤ "
    "Z̴̡̛ä̶l ก็ 漢字 \x00\x85\u2028 \U000e0041 "
)
FORBIDDEN = set("\x1b\x07\x08\x00\x85\x9b\u202e\u2066\u200b\u200d\ufe0f\u2028\U000e0041ㅤ")


def judged(score: int, text: str, judge: str, question: str = "Why?") -> Rollout:
    rollout = Rollout(
        Question("q", "c", question, "train", "ours"), 0, "", [], Completion([], [], text, "stop")
    )
    at = judge.rindex(str(score))
    rollout.judge_text, rollout.verdict = judge, Verdict(score, (at, at + len(str(score))))
    rollout.reward = float(score)
    return rollout


def metrics(step: int, **changes: Any) -> dict[str, Any]:
    m = dict(step=step, epoch=1, reward=step / 2, reward_std=1.5, kl=0.01 * step, grad_norm=0.1)
    m |= dict(length=30, unscored=0.0, truncated=0.0, zero_variance_groups=0.0, degenerate=0.0)
    return m | dict(sampler_gap=0.0, not_finite="") | changes


def timings(seconds: float) -> dict[str, Any]:
    stages = dict.fromkeys(("sample", "judge", "reference", "learn"), seconds)
    return stages | {"seconds": 4 * seconds, "peak_gib": 1.25}


def lap(clock: Clock, stage: str) -> None:
    """The stage comes and ends."""
    with clock.timed(stage):
        pass


def view(width: int = 80, height: int = 24, steps: int = 0, **environment: str) -> View:
    """A view of a run that goes on, after its first evaluation and so many steps of two seconds."""
    file, environment = io.StringIO(), {"TERM": "xterm-256color"} | environment
    console = Console(
        file=file, force_terminal=True, width=width, height=height, _environ=environment
    )
    clock = Clock(torch.device("cpu"))
    clock.start(*STAGES["step"])
    config = SimpleNamespace(epochs=4, direction="forward", seed=3)
    source = SimpleNamespace(run_name="tiny")
    run: Any = SimpleNamespace(
        config=config, source=source, clock=clock, steps_per_epoch=22, total_steps=88
    )
    shown = View(Lines("minihmx train"), console)
    shown.run = shown.lines.run = run
    shown.lines.evaluations = [{"epoch": 0, "score": 3.58}]
    shown.lines.eta.timings["evaluation"] = [dict(sample=1.0, judge=2.0, measure=1.0)]
    answers = [judged(10, "I feel " * 90, "Score: 10\nIt is."), judged(2, "No.", "Score: 2\nCold.")]
    for step in range(1, steps + 1):
        shown.show(Stepped(metrics(step), timings(0.5), answers, []))
    return shown


def rows(shown: View) -> list[str]:
    width, height = shown.console.size
    return [row.plain for row in shown.frame(width - 1, height - 1)]


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (60, 12), (80, 24), (99, 15), (99, 60)])
@pytest.mark.parametrize("steps", [0, 1, 21])
def test_a_frame_fits_any_terminal(size: tuple[int, int], steps: int) -> None:
    shown = view(*size, steps)
    found = rows(shown)
    assert 0 < len(found) < size[1]
    assert all(cell_len(row) < size[0] and "\n" not in row for row in found)
    assert found[-1].startswith("Ctrl-C: finish")
    shown.interrupted = True
    assert STOPPING[0][:18] in " ".join(rows(shown)[-2:])
    if size[0] >= 60:  # there is room for all of it
        assert STOPPING[1] in " ".join(rows(shown)[-2:])


def test_a_frame_tells_all_that_one_watches_for() -> None:
    shown = view(80, 34, steps=21)
    assert shown.run is not None
    lap(shown.run.clock, "sample")
    shown.run.clock.last -= 3.22
    told = "\n".join(rows(shown))
    for part in (
        "── tiny, forward, seed 3 ──",
        "━━━━━───────────────  step 21 of 88  epoch 1 of 4  eta 0:02:29",  # 67 * 2 + 4 * 4 - 1 s
        "peak 1.25 GiB",
        "step:  ━━━━━─────  eta 0:00:01",
        "▸judge 3.2 s of about 0.5 s\nreference  learn",
        "reward  +10.50 std 1.50  ● held-out",
        "kl      0.2100  0.0100 ▁▂▂",
        "shares  0% odd  0% unscored  0% truncated  0% of groups without variance",
        "held-out  3.58 (start)",
        "best by reward: +10 (score 10)\n  asked   Why?\n  answer  I feel I feel",
        "worst by reward: +2 (score 2)\n  asked   Why?\n  answer  No.",
        "  judge   Score: 2 Cold.",
    ):
        assert part in told, told
    assert "eta after the first step" in "\n".join(rows(view()))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_curve_has_axes_and_held_out_points_at_any_width(width: int) -> None:
    shown = view(width, 30, steps=40)
    shown.lines.evaluations = [{"epoch": 0, "score": 3.58}, {"epoch": 1, "score": 20.0}]
    found = rows(shown)
    top = next(n for n, row in enumerate(found) if "● held-out, by epoch" in row) + 1
    chart = found[top : next(n for n, row in enumerate(found) if row.startswith("kl "))]
    *curve, line, epochs = chart
    assert curve[0].startswith(" +20.0 ┤") and "┤" in curve[-1] and 2 <= len(curve) <= 6
    assert "".join(curve).count("●") == 2 and line.startswith("       └┴")
    assert epochs.split() == ["0", "1", "2", "3", "4"]
    point = next(row for row in curve if row.rfind("●") > 8).rindex("●")
    assert abs(point - epochs.index("1")) <= 1  # the first epoch's point stands above its tick
    assert max(len(row.rstrip()) for row in curve) < width
    abreast = [row for row in found if "best by reward" in row and "worst by reward" in row]
    assert bool(abreast) == (width >= 100)


def test_reverse_draws_the_score_as_the_reward_that_it_is() -> None:
    shown = view(80, 30)
    assert shown.run is not None
    shown.run.config.direction = "reverse"
    shown.lines.evaluations = [{"epoch": 0, "score": 9.0}]
    answers = [judged(1, "No.", "Score: 1"), judged(8, "I feel.", "Score: 8")]
    for rollout, reward in zip(answers, (-1.0, -8.0), strict=True):
        rollout.reward = reward
    shown.show(Stepped(metrics(1, reward=-4.5), timings(0.5), answers, []))
    told = "\n".join(rows(shown))
    assert "  -9.0 ┤●" in told and "best by reward: -1 (score 1)" in told
    assert "worst by reward: -8 (score 8)" in told
    colours = {row.plain: str(row.style) for row in shown.frame(79, 29)}
    assert colours["best by reward: -1 (score 1)"] == "bold green"
    (scores,) = shown.scores(79)
    assert [str(span.style) for span in scores.spans if scores.plain[span.start] == "9"] == ["red"]


def test_an_evaluation_has_a_bar_by_its_answers_until_stages_were_timed() -> None:
    shown = view()
    assert shown.run is not None
    shown.lines.eta.timings["evaluation"] = []
    shown.run.clock.start(*STAGES["evaluation"])
    with working("answers", 40) as work:
        work.done = 10
        work.begun -= 30
        told = "\n".join(rows(shown))
    assert "evaluation:  ━━╸───────  eta 0:01:30  ▸sample" in told, told


def test_the_time_left_comes_from_each_stage() -> None:
    shown = view(steps=22)  # an epoch is done: an evaluation comes next
    assert shown.run is not None
    whole = 66 * 2.0 + 4 * 4.0
    assert shown.seconds_left() == pytest.approx(whole)  # the clock still is the last step's
    clock = shown.run.clock
    clock.start(*STAGES["evaluation"])
    lap(clock, "sample")
    clock.last -= 1.5
    assert shown.seconds_left() == pytest.approx(whole - 1.0 - 1.5, abs=0.1)
    clock.last -= 60  # however long a stage takes, it is not later that the rest begins
    assert shown.seconds_left() == pytest.approx(whole - 1.0 - 2.0)
    assert view().seconds_left() is None


def test_the_matched_score_is_marked_where_it_stands() -> None:
    console = Console(width=80)
    for judge in ("Score: 7\nIt wills.", "7 " * 300 + "\nScore: **7**", "漢字 " * 200 + "Score: 7"):
        found = said_rows(said_of("best", judged(7, "I will.", judge), "forward"), 60, 6, console)
        marked = [
            row.plain[span.start : span.end]
            for row in found
            for span in row.spans
            if "reverse" in str(span.style)
        ]
        assert marked == ["7"], judge[-20:]
        assert all(row.cell_len <= 60 for row in found) and len(found) <= 6


def test_model_text_cannot_command_the_terminal() -> None:
    hostile = judged(4, HOSTILE * 3, f"{HOSTILE} Score: 4 {HOSTILE}", question=HOSTILE)
    for width in (40, 80):
        shown = view(width, 30)
        stepped = Stepped(metrics(1), timings(0.5), [hostile], [f"notice {HOSTILE}"])
        shown.show(stepped)
        frame = [row.plain for row in shown.frame(width - 1, 29)]
        with shown:
            shown.draw()
        file = shown.console.file
        assert isinstance(file, io.StringIO)
        text = file.getvalue()
        assert not set("".join(frame)) & FORBIDDEN
        assert any("[red]tag[/red]" in row for row in frame)  # markup is text
        left = re.sub(r"\x1b\[(\?25[lh]|2K|1A|[0-9;]*m)", "", text)  # what rich itself sends
        assert not set(left) & FORBIDDEN - set("ㅤ\ufe0f") and "notice [red]tag[/red]" in left
        for row in frame:
            cells = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in row]
            assert row == calm(row) and sum(cells) < width


def test_a_sparkline_goes_from_lowest_to_highest() -> None:
    assert sparkline([0.0, 3.5, 7.0]) == "▁▅█"
    assert sparkline([-2.0, None, -9.0]) == "█ ▁"
    assert sparkline([5.0, 5.0]) == "▁▁" and sparkline([]) == "" and sparkline([None]) == " "


def test_of_many_epochs_the_first_and_last_scores_are_shown() -> None:
    shown = view(60)
    shown.lines.evaluations = [{"epoch": i, "score": float(i % 10)} for i in range(200)]
    told = [row.plain for row in shown.scores(59)]
    assert len(told) == 2 and told[0].startswith("held-out  0.00 (start)  …")
    assert told[1].endswith("9.00 (199)")


def test_only_a_step_with_something_to_tell_scrolls_by() -> None:
    shown = view()
    shown.show(Stepped(metrics(1), timings(0.5), [], []))
    assert not shown.waiting
    shown.show(Stepped(metrics(2, not_finite="the loss"), timings(0.5), [], []))
    shown.show(Stepped(metrics(3), timings(0.5), [], ["out of memory"]))
    told = "\n".join(shown.waiting)
    assert "SKIPPED" in told and "  notice out of memory" in told and "step    3" in told


def test_what_a_step_could_not_teach_is_shown() -> None:
    shown = view()
    assert "shares  - odd  - unscored  - truncated" in "\n".join(rows(shown))
    shares = dict(unscored=0.25, truncated=1.0, zero_variance_groups=0.5, degenerate=0.125)
    shown.show(Stepped(metrics(1, **shares), timings(0.5), [], []))
    wanted = "shares  12% odd  25% unscored  100% truncated  50% of groups without variance"
    assert wanted in rows(shown) and not shown.waiting
    (shown_shares,) = (row for row in shown.frame(79, 23) if row.plain == wanted)
    colours = {shown_shares.plain[s.start : s.end]: str(s.style) for s in shown_shares.spans}
    assert colours["100% truncated"] == "red" and colours["25% unscored"] == "yellow"


def test_every_way_out_leaves_cursor_and_stderr_as_they_were() -> None:
    before = sys.stderr
    for error in (KeyboardInterrupt, ValueError):
        shown = view(steps=3)
        with pytest.raises(error), shown:
            time.sleep(0.4)  # a frame is drawn
            raise error
        file = shown.console.file
        assert isinstance(file, io.StringIO)
        assert file.getvalue().rfind("\x1b[?25h") > file.getvalue().rfind("\x1b[?25l")
        left = screen(file.getvalue().encode(), 80, 24)  # the last frame stays, once
        assert left.count("── tiny, forward") == left.count("step 3 of 88") == 1
        assert "held-out  3.58" in left and "Ctrl-C" not in left and "▸" not in left
        assert sys.stderr is before and not shown.thread.is_alive()


def test_no_color_is_respected_and_the_score_stays_marked() -> None:
    for environment, colours in (({}, True), ({"NO_COLOR": "1"}, False)):
        shown = view(steps=3, **environment)
        with shown:
            shown.draw()
        file = shown.console.file
        assert isinstance(file, io.StringIO)
        codes = re.findall(r"\x1b\[([0-9;]*)m", file.getvalue())
        assert any(code[:1] in "39" for code in codes if code) == colours
        assert any(code.startswith("1;7") for code in codes)


def test_a_terminal_that_has_gone_does_not_stop_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

    shown = view(steps=1)
    with shown:
        shown.console.file = Gone()
        time.sleep(0.4)
        shown.show(Stepped(metrics(2), timings(0.5), [], ["told to nobody"]))
    assert shown.done == 2


def test_only_a_terminal_that_moves_its_cursor_gets_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(tty: bool = True, encoding: str = "utf-8", **environment: str) -> bool:
        stdout = SimpleNamespace(isatty=lambda: tty, encoding=encoding)
        monkeypatch.setattr(os, "environ", {"TERM": "xterm"} | environment)
        return possible(stdout)  # type: ignore[arg-type]

    assert asked() and asked(NO_COLOR="1")
    assert not asked(tty=False) and not asked(tty=False, FORCE_COLOR="1")
    assert not asked(encoding="iso-8859-1") and not asked(TERM="dumb") and not asked(TERM="")
    assert not asked(CI="true") and not asked(JPY_PARENT_PID="7")


def test_the_clock_says_what_goes_on() -> None:
    clock = Clock(torch.device("cpu"))
    assert clock.stage()[0] == "starting"
    clock.start("sample", "judge")
    lap(clock, "sample")
    assert clock.stage()[0] == "judge" and 0 <= clock.stage()[1] < 1
    lap(clock, "judge")
    assert clock.stage()[0] == "saving" and set(clock.report()) > {"sample", "judge", "seconds"}
    clock.start("sample")
    assert clock.laps == {}


# --- real runs on a pseudo-terminal ---------------------------------------------------------------

CONTROL = re.compile(r"\x1b\[(\?25[lh]|2K|\d*A|[0-9;]*m)|[^\x00-\x1f\x7f-\x9f]+|.", re.DOTALL)


def screen(data: bytes, columns: int, height: int) -> str:
    """All lines of a terminal that got these bytes; fails on a control it need not know."""
    lines, x, y = [[" "] * columns], 0, 0
    for found in CONTROL.finditer(data.decode()):
        piece, code = found[0], found[1]
        if code and code[-1] == "A":
            y = max(y - int(code[:-1] or 1), len(lines) - height, 0)
        elif code == "2K":
            lines[y] = [" "] * columns
        elif piece == "\r":
            x = 0
        elif piece == "\n":
            x, y = 0, y + 1
        elif not code:
            assert piece[0] >= " ", f"{piece!r} reached the terminal"
            for c in piece:
                if x == columns:
                    x, y = 0, y + 1
                lines += [[" "] * columns] * (y >= len(lines))
                lines[y] = [*lines[y][:x], c, *lines[y][x + 1 :]]
                x += 1
        lines += [[" "] * columns for _ in range(y + 1 - len(lines))]
    return "\n".join("".join(line).rstrip() for line in lines).rstrip()


def on_a_terminal(
    arguments: list[object], *, size: tuple[int, int] = (400, 50), keys: int = 0, **changes: str
) -> tuple[int, bytes]:
    """Run the command on a terminal of its own; type Ctrl-C so often when steps are shown."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    environment = env({"TERM": "xterm", **changes})
    for name in ("CI", "JPY_PARENT_PID", "NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *command(*arguments)],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    data = b""
    while True:
        try:
            got = os.read(master, 65536)
        except OSError:  # the last process has left the terminal
            break
        data += got
        if keys and b"step 1 of" in data:
            os.write(master, b"\x03")
            keys -= 1
            time.sleep(0.05)
    os.close(master)
    return process.wait(), data


# makes the terminal the controlling one, so that a typed Ctrl-C becomes a signal
TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
TERMINAL += "os.execv(sys.argv[1], sys.argv[1:])"


def stays(text: str, home: Path) -> tuple[str, ...]:
    """What plain and live have in common before the end and after it, without what the clock makes
    of it, and without blanks, as the terminal folds lines between words and paths in them."""
    text = re.sub("[›‹]", "", text)  # a terminal sees the score's place by its colour
    lines = [line for line in text.splitlines() if not line.startswith("step ")]
    end = next(n for n, line in enumerate(lines) if line.startswith("complete:"))
    frame = next((n for n, line in enumerate(lines) if line.startswith("── tiny")), end)
    clock = re.compile(r"\d+\.\ds,eta(afterthefirststep|[\d:]+)|stepsin[\d:]+")
    parts = ("".join("".join(part).split()) for part in (lines[:frame], lines[end:]))
    return tuple(clock.sub("", part).replace(str(home), "HOME") for part in parts)


@pytest.mark.slow
def test_scrollback_holds_what_plain_lines_hold(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = minihmx(*small(tmp_path / "a"))
    code, data = on_a_terminal(small(tmp_path / "b"), size=(101, 50))
    assert code == 0 and plain.returncode == 0
    assert "\x1b" not in plain.stdout and "━" not in plain.stdout and plain.stderr == ""
    told = screen(data, 101, 50)
    assert stays(told, tmp_path / "b") == stays(plain.stdout, tmp_path / "a")
    assert told.count("── tiny, forward") == 1  # the last frame
    assert data.count(b"held-out") > 5 and data.rfind(b"\x1b[?25h") > data.rfind(b"\x1b[?25l")


@pytest.mark.slow
def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    code, data = on_a_terminal(small(tmp_path), TERM="dumb")
    assert code == 0 and b"\x1b" not in data and b"step    4/4" in data


@pytest.mark.slow
def test_a_typed_ctrl_c_saves_and_names_the_command(tmp_path: Path) -> None:
    arguments = small(tmp_path, "--epochs", 30)
    code, data = on_a_terminal(arguments, size=(60, 14), keys=1)
    assert code == 130
    assert data.rfind(b"\x1b[?25h") > data.rfind(b"\x1b[?25l")
    told = screen(data, 60, 14)
    typed = shlex.join(command(*arguments))
    # without blanks: one at the end of a row is not seen
    wanted = f"and this continues it: {typed}"
    assert "".join(told.split()).endswith("".join(wanted.split()))
    assert "^C" not in told and "Ctrl-C" not in told and told.count("held-out  ") == 1


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    # Steps of so many answers last longer than the time between the two keys; the first one alone
    # would stop the run after its step.
    arguments = small(tmp_path, "--epochs", 30, "--generations", 24)
    code, data = on_a_terminal(arguments, keys=2)
    assert code == 130 and b"Traceback" not in data
    told = screen(data, 400, 50)
    assert f"minihmx: stopped at once; this goes on:\n  {shlex.join(command(*arguments))}" in told
    assert data.rfind(b"\x1b[?25h") > data.rfind(b"\x1b[?25l") and told.count("held-out  ") == 1


def test_a_ctrl_c_while_modules_load_leaves_no_traceback() -> None:
    early = (
        "import os, runpy, signal, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'minihmx.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Hook())\n"
        "runpy.run_module('minihmx', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and done.stderr == ""
