"""docs/api.md runs as it is written, and names what is there."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from conftest import ROOT

from minihmx.errors import UserError
from minihmx.storage.history import load_rows

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")


def test_the_sessions_run_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"^```.*$", "", PAGE, flags=re.MULTILINE)  # a fence would be taken for output
    test = doctest.DocTestParser().get_doctest(text, {}, "docs/api.md", "docs/api.md", 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    result = runner.run(test, out=said.append)
    assert result.attempted > 30 and result.failed == 0, "".join(said)


def test_every_function_of_the_table_is_there_and_in_a_session() -> None:
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    named = re.findall(r"`([\w.]+)\.(\w+)`", table)
    assert 10 <= len(named) <= 15
    for module, name in named:
        assert callable(getattr(importlib.import_module(f"minihmx.{module}"), name))
        assert re.search(rf"^>>> from minihmx\.{re.escape(module)} import .*\b{name}\b", PAGE, re.M)


def test_rows_of_what_is_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no rollouts/step-\*\.jsonl"):
        list(load_rows(tmp_path, "step"))
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "epoch-03.jsonl").write_text('{"score": 1}\n{"sc')
    assert list(load_rows(str(tmp_path), "evaluation")) == [{"epoch": 3, "score": 1}]
