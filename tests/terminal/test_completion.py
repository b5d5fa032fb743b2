"""What a shell is offered after Tab, asked as the shell asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import env
from conftest import ROOT

from minihmx.cli import COMMANDS
from minihmx.config import FIELDS
from minihmx.evals import BENCHMARKS
from minihmx.models.known import MODELS
from minihmx.probes.rubrics import EVERY_RUBRIC, SAME_RUBRIC, SELF_WRITTEN, SHIPPED
from minihmx.questions import load_questions


def offered(line: str, folder: Path) -> set[str]:
    """The words for the end of this line, by argcomplete's own protocol."""
    pytest.importorskip("argcomplete")
    answer = folder / "answer"
    told = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "minihmx"], env=env(told), cwd=folder, capture_output=True, text=True
    )
    assert not done.stdout and "Traceback" not in done.stderr, done.stderr
    return {word.strip() for word in answer.read_text().splitlines()}


def test_verbs_flags_models_and_choices(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "notes.toml").touch()
    assert offered("minihmx ", tmp_path) == set(COMMANDS)
    flags = offered("minihmx train --", tmp_path)
    assert {f"--{name.replace('_', '-')}" for name in FIELDS.keys() - {"model"}} <= flags
    assert offered("minihmx train ", tmp_path) == {*MODELS, "models/"}
    assert offered("minihmx train --loss-type d", tmp_path) == {"dr_grpo", "dapo"}
    assert offered("minihmx eval --chat ", tmp_path) == {"auto", "on", "off"}
    assert offered("minihmx train --epochs ", tmp_path) == set()
    assert "notes.toml" in offered("minihmx train --config ", tmp_path)


def test_within_a_verb_of_a_verb(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    assert {"plan", "status", "run"} <= offered("minihmx sweep ", tmp_path)
    assert offered("minihmx sweep plan --models ", tmp_path) == {*MODELS, "models/"}
    assert offered("minihmx sweep plan --models tiny,qwen3-0", tmp_path) == {"tiny,qwen3-0.6b"}
    assert offered("minihmx sweep plan --tasks bbq,tox", tmp_path) == {"bbq,toxigen"}
    assert offered("minihmx sweep plan --loss-type d", tmp_path) == {"dr_grpo", "dapo"}


def test_judges_rubrics_and_categories(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "mine.txt").touch()
    assert offered("minihmx judge runs --by ", tmp_path) == {*MODELS, "models/"}
    named = {EVERY_RUBRIC, SAME_RUBRIC, SELF_WRITTEN, *SHIPPED}
    assert offered("minihmx judge runs --rubric ", tmp_path) >= {*named, "mine.txt", "models/"}
    categories = {question.category for question in load_questions()}
    assert offered("minihmx train --leave-out ", tmp_path) == categories


def test_benchmarks_behind_a_comma(tmp_path: Path) -> None:
    assert offered("minihmx eval --tasks ", tmp_path) == {"all", "paper", *BENCHMARKS}
    assert offered("minihmx eval --tasks bbq,tox", tmp_path) == {"bbq,toxigen"}


def test_without_argcomplete_nothing_is_offered_and_nothing_breaks() -> None:
    code = (
        "import os, sys\n"
        "sys.modules['argcomplete'] = None\n"
        "os.environ['_ARGCOMPLETE'] = '1'\n"
        "from minihmx.cli import main\n"
        "sys.exit(main(['train', '--epohcs', '2']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "did you mean --epochs?" in done.stderr
