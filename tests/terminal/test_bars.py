"""Bars for what takes long: on a terminal, in a log, and where nothing is worth one."""

from __future__ import annotations

import io
import sys
import time

import pytest

from minihmx.cli import main
from minihmx.instruments import work as works
from minihmx.instruments.work import Work, under_way, working
from minihmx.terminal import bars
from minihmx.terminal.bars import bar, with_bars, work_row


class Screen(io.StringIO):
    """A terminal of so many columns, as far as the bars ask."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "UNSHOWN", 0.0)
    monkeypatch.setattr(bars, "REFRESH", 0.01)
    monkeypatch.setattr(bars, "EVERY", 0.02)


def test_a_bar_goes_from_empty_to_full() -> None:
    assert bar(0, 4).plain == "────" and bar(1, 4).plain == "━━━━"
    assert bar(0.5, 4).plain == "━━──" and bar(0.375, 4).plain == "━╸──"


def test_work_counts_and_says_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work("loading weights", 10, first=2, done=2)
    assert work.seconds_left() is None and work.share == 0.2
    monkeypatch.setattr(Work, "seconds", lambda _: 8.0)
    for _ in work.counted(range(4)):
        pass
    assert work.done == 6 and work.seconds_left() == 8.0  # what was there already took no time
    assert Work("nothing to do", 0).share == 1.0


def test_the_whole_is_shown_and_not_a_part_of_it() -> None:
    with working("benchmark", 2) as whole, working("answers", 3):
        assert under_way() is whole
    assert under_way() is None
    with pytest.raises(ValueError), working("loading", 2):
        raise ValueError
    assert under_way() is None and works._under_way == []


@pytest.mark.parametrize("width", [20, 60, 100, 140])
def test_a_row_fits_and_says_how_far_and_how_long(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Work, "seconds", lambda _: 30.0)
    row = work_row(Work("loading weights", 4000, done=1000), width)
    assert row.cell_len <= width and row.plain.startswith("  loading weights ")
    if width >= 60:
        assert "━" in row.plain and row.plain.endswith("1,000 of 4,000  eta 0:01:30")
        assert work_row(Work("x", 5, done=5), width).plain.endswith("5 of 5  in 0:00:30")
        assert work_row(Work("x", 5), width).plain.endswith("0 of 5  for 0:00:30")


def test_a_terminal_keeps_the_full_bar(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with with_bars(), working("loading weights", 3) as work:
        for _ in work.counted(range(3)):
            time.sleep(0.05)
    told = screen.getvalue()
    assert "1 of 3" in told and "━" in told
    assert "3 of 3" in [row for row in told.splitlines() if " of 3" in row][-1]  # it stays
    assert told.rfind("\x1b[?25h") > told.rfind("\x1b[?25l")


def test_a_log_gets_lines(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    with with_bars(), working("loading weights", 30) as work:
        for _ in work.counted(range(30)):
            time.sleep(0.01)
    out, err = capsys.readouterr()
    assert out == "" and "\x1b" not in err and "━" not in err
    assert all(line.startswith("  loading weights: ") for line in err.splitlines())
    assert " of 30, eta 0:00:0" in err


def test_what_is_quick_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with with_bars(), working("loading weights", 2) as work:
        list(work.counted(range(2)))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verb", ["probe", "judge"])
def test_what_generates_shows_how_far_it_is(
    verb: str, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from minihmx.probes import panel, rejudge
    from minihmx.results import judged

    def answers(*_: object) -> list[str]:
        with working("answers", 30) as work:
            for _piece in work.counted(range(30)):
                time.sleep(0.01)
        return []

    monkeypatch.setattr(panel, "panel", answers)
    monkeypatch.setattr(rejudge, "judge_again", answers)
    monkeypatch.setattr(judged, "named_runs", lambda _: [])
    words = {"probe": ["probe", "panel", "a", "b"], "judge": ["judge", "a", "--by", "tiny"]}
    assert main([*words[verb], "--json"]) == 0
    assert "answers: " in capsys.readouterr().err


def test_a_refusal_is_red_on_a_terminal_that_wants_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for no_color, head in (("", "\x1b[1;31mminihmx:\x1b[0m "), ("1", "minihmx: ")):
        monkeypatch.setenv("NO_COLOR", no_color)
        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        assert main(["trian"]) == 2 and screen.getvalue().startswith(head + "trian is no command")
