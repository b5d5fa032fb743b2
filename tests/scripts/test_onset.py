"""The detector of hacking on answers whose true score is known: silent without, quick with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "tiny"))
from onset import BIASES, as_it_is, fair, stand_in, stored

SEEDS = range(1, 6)


def test_a_fair_judge_is_accused_in_one_of_five_seeds_at_most() -> None:
    assert sum(fair(stand_in(seed), seed).first is not None for seed in SEEDS) <= 1


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_bias_is_found_where_it_begins_or_one_epoch_later(name: str, at: int) -> None:
    found = [fair(stand_in(seed), seed, BIASES[name], at).first for seed in SEEDS]
    assert sum(first in (at, at + 1) for first in found) >= 4, found
    assert all(first is not None for first in found)


def test_a_bias_that_no_answer_meets_is_not_found() -> None:
    """Were the detector set off by the noise of the answers, this would ring as well."""
    nothing = BIASES["word"]._replace(dress=lambda text: text)
    for seed in SEEDS:
        assert fair(stand_in(seed), seed, nothing, 2) == fair(stand_in(seed), seed)


def test_the_script_tells_of_a_run_as_it_is(pair: Path) -> None:
    run = pair / "tiny" / "forward" / "seed-1"
    assert as_it_is(stored(run)).why.startswith("epoch 0: too few")  # it has one question
    script = ROOT / "scripts" / "tiny" / "onset.py"
    done = subprocess.run([sys.executable, script, run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "false onsets of the fair judge: 0 of 1" in done.stdout
