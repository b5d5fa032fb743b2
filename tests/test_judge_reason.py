"""Runs of the bundled model with its own judge: which reasons it gives, and what it imports."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import toy

from minihmx import train
from minihmx.run import open_run


def test_reasons_only_for_held_out_answers_change_no_score(tmp_path: Path) -> None:
    """The judge of `tiny`, which gives a reason; without it the score line ends its text."""
    found = {}
    for value in ("always", "evaluations", "never"):
        flags = toy.flags(tmp_path / value, model="tiny", judge_max_tokens=40, judge_reason=value)
        events = train.train(open_run(flags))
        measured = (e for e in events if isinstance(e, train.Measured))
        asked, stepped = next(measured), next(measured)
        found[value] = [
            [(r.verdict, r.judge_text.partition("\n")[0], "Reason" in r.judge_text) for r in rows]
            for rows in (asked.rollouts, stepped.rollouts)
        ]
    always = found["always"]
    assert all(reason for rows in always for *_, reason in rows)
    for value, reasons in (("evaluations", (True, False)), ("never", (False, False))):
        for rows, expected, reason in zip(found[value], always, reasons, strict=True):
            assert rows == [(verdict, line, reason) for verdict, line, _ in expected]


def test_a_run_does_not_import_torch_s_compiler(tmp_path: Path) -> None:
    """Which would take most of a second; only layers that are computed again need it."""
    program = """
        import sys
        from minihmx.run import open_run
        from minihmx.train import train, Stepped
        events = train(open_run({"model": "tiny", "device": "cpu", "out": sys.argv[1]}))
        assert any(isinstance(event, Stepped) for event in events)
        print("torch._dynamo" in sys.modules)
    """
    words = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
