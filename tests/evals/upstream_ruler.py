"""RULER's items, drawn from the very random numbers of lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import sys
from random import Random
from typing import Any

import pytest
from conftest import ROOT

from minihmx.evals import ruler
from minihmx.evals.benchmark import Item, Tokens
from minihmx.evals.making import lengths

sys.path[:0] = [str(ROOT / "scripts" / "tiny"), str(ROOT / "scripts" / "golden")]


def golden_script() -> Any:
    spec = importlib.util.spec_from_file_location("golden_ruler", ROOT / "scripts/golden/ruler.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = golden_script()
TEXTS, sample_ruler = SCRIPT.texts(), SCRIPT.sample_ruler


def upstream_items(
    task: str, tokens: Tokens, count: int, monkeypatch: pytest.MonkeyPatch
) -> list[Item]:
    """So many of a task. One stream of random numbers is for the search and all items there."""
    stream = Random(SCRIPT.SEED)
    with monkeypatch.context() as patch:
        patch.setattr(lengths, "Random", lambda seed: stream)
        maker, _ = ruler.maker(task, tokens, "", SCRIPT.LENGTH, SCRIPT.WORDS, TEXTS)
        return list(lengths.make_items(task, maker, tokens, "", SCRIPT.LENGTH, count))
