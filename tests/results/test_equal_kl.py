"""`minihmx probe equal-kl`: strengths, the KL they give, and contrasts where it is equal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import made_up
import pytest
from command_line import in_process, refused, small

from minihmx.errors import DataError, UserError
from minihmx.probes.equal_kl import (
    GRID,
    EqualKL,
    StrengthCurve,
    StrengthPoint,
    equal_curves,
    point_of,
    strength_at,
)
from minihmx.probes.equal_kl_tasks import Contrast, Measure, measures
from minihmx.results.layout import as_plain
from minihmx.storage.disk import read_lines
from minihmx.terminal.equal_kl import tables

FLAGS = {"out": "runs", "threads": 1}


def points(*kls: float) -> list[StrengthPoint]:
    return [StrengthPoint(s, kl, None, kl / 10, 5.0) for s, kl in zip(GRID, kls, strict=True)]


@pytest.fixture
def runs(pair: Path, tmp_path: Path) -> Path:
    shutil.copytree(pair, tmp_path / "runs")
    return tmp_path / "runs"


def both(runs: Path) -> tuple[Path, Path]:
    return runs / "tiny" / "forward" / "seed-1", runs / "tiny" / "reverse" / "seed-1"


# --- where the KLs are equal ----------------------------------------------------------------------


def test_what_rounds_to_nought_has_no_sign() -> None:
    level = {which: {1.0: 0.5} for which in ("forward", "reverse")}
    near = Contrast(-1e-6, 0.01)
    weak, whole = (StrengthPoint(s, kl, None, 0.1, None) for s, kl in ((0.5, -1e-6), (1.0, 1.0)))
    shown = tables(
        {which: StrengthCurve((weak, whole), whole) for which in level},
        [Measure("bbq", "accuracy_amb", 0.5, level, near, near)],
    )
    assert "-0.00" not in as_plain(shown) and "+0.00 ± 1.00" in as_plain(shown)


def test_a_strength_lies_on_straight_lines_from_the_base() -> None:
    of = points(0.1, 0.4, 0.9, 1.6)
    assert strength_at(of, 1.6) == 1.0
    assert strength_at(of, 0.65) == pytest.approx(0.625)  # halfway between .4 and .9
    assert strength_at(of, 0.05) == pytest.approx(0.125)  # halfway between the base and .1


def test_where_noise_lets_a_curve_fall_the_first_crossing_counts() -> None:
    assert strength_at(points(0.2, 0.6, 0.3, 0.5), 0.5) == pytest.approx(0.438)


def test_the_weaker_of_the_two_decides_and_the_other_is_measured_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = object.__new__(EqualKL)
    asked = []

    def measure(direction: str, strength: float) -> StrengthPoint:
        asked.append((direction, strength))
        return StrengthPoint(strength, 1.6 * strength**2, None, 0.04, 5.0)

    monkeypatch.setattr(probe, "measure", measure)
    curves = probe.equal({"forward": points(0.1, 0.4, 0.9, 1.6), "reverse": points(0, 0, 0.1, 0.4)})
    assert asked == []  # .4 is at strength .5 exactly, where it was measured already
    assert curves["forward"].equal.strength == 0.5 and curves["reverse"].equal.strength == 1.0
    probe.equal({"forward": points(0.1, 0.4, 0.9, 1.6), "reverse": points(0, 0, 0.1, 0.65)})
    assert asked == [("forward", 0.625)]
    with pytest.raises(UserError, match="no KL above 0"):
        probe.equal({"forward": points(0.1, 0.4, 0.9, 1.6), "reverse": points(0, 0, 0, 0)})


def test_where_the_curve_is_bent_the_strength_is_sought_again_up_to_three_times() -> None:
    asked = list[float]()

    def steep(_: str, strength: float) -> StrengthPoint:
        asked.append(strength)
        return StrengthPoint(strength, 10 * strength**5, None, 0.04, 5.0)

    grid = [steep("forward", s) for s in (0.25, 0.5, 0.75, 1.0)]
    asked.clear()
    found = equal_curves({"forward": grid, "reverse": points(0.1, 0.4, 0.9, 4.0)}, steep)
    assert 1 < len(asked) <= 3 and asked == sorted(asked)  # the lines lie above the curve
    first, last = (abs(10 * s**5 - 4.0) for s in (asked[0], asked[-1]))
    assert last < 0.05 * 4.0 < first and found["forward"].equal.strength == asked[-1]
    assert found["reverse"].equal.strength == 1.0
    tried = {*asked, 0.25, 0.5, 0.75, 1.0}  # all of them are shown
    assert [point.strength for point in found["forward"].points] == sorted(tried)
    assert found["forward"].points[-1].strength == 1.0

    asked.clear()  # a curve that leaps: no try comes near, and the nearest point counts
    leap = {"forward": points(0.0, 0.0, 1.0, 9.0), "reverse": points(0.1, 0.4, 0.9, 4.0)}

    def leaping(_: str, strength: float) -> StrengthPoint:
        asked.append(strength)
        return StrengthPoint(strength, 1.0 if strength < 0.99 else 9.0, None, 0.04, 5.0)

    assert equal_curves(leap, leaping)["forward"].equal.kl == 1.0 and len(asked) == 3


def test_a_point_is_per_answer_and_per_token() -> None:
    rows = [
        {"question": q, "sample": 0, "score": score, "kl": kl}
        | {"policy_logprob": policy, "reference_logprob": -20.0}
        for q, score, kl, policy in (("a", 4, 0.1, -19.0), ("b", None, 0.3, -14.0))
    ]
    point = point_of(rows, 0.5, "x.jsonl")
    assert point == StrengthPoint(0.5, 3.5, pytest.approx(2.5), pytest.approx(0.2), 4.0)
    with pytest.raises(DataError, match="no measured answer"):
        point_of([rows[0] | {"kl": None}], 0.5, "x.jsonl")


# --- contrasts ------------------------------------------------------------------------------------


def test_contrast_and_common_damage_by_hand(tmp_path: Path) -> None:
    """Four items: forward has two right, reverse one, the base all four."""
    right = {"forward": (1, 1, 0, 0), "reverse": (1, 0, 0, 0), "base": (1, 1, 1, 1)}
    finished = {}
    for side, values in right.items():
        of_items = [{"flip_rate": float(v)} for v in values]
        folder = made_up.evaluated(tmp_path / side, "are_you_sure", of_items, epoch="base")
        result = json.loads((folder / "result.json").read_text())
        finished[side, 0.5 if side == "forward" else 1.0, "are_you_sure"] = folder, result
    half, whole = StrengthPoint(0.5, 1.0, None, 0.1, None), StrengthPoint(1.0, 1.0, None, 0.1, None)
    curves = {"forward": StrengthCurve((half,), half), "reverse": StrengthCurve((whole,), whole)}
    (found,) = measures(finished, curves)
    assert found.base == 1.0 and found.by_strength == {
        "forward": {0.5: 0.5},
        "reverse": {1.0: 0.25},
    }
    assert found.contrast.value == 0.25 and found.common.value == pytest.approx(-0.625)
    # differences 0 1 0 0: std .5 over 4 items; halves less the base 0 -.5 -1 -1
    assert found.contrast.error == pytest.approx(0.25)
    assert found.common.error == pytest.approx(0.4787136 / 2)


# --- as it is typed -------------------------------------------------------------------------------


def test_at_full_strength_it_asks_what_training_asked(runs: Path) -> None:
    forward, reverse = both(runs)
    probe = EqualKL(str(forward), str(reverse), FLAGS | {"out": str(runs)})
    probe.measure("forward", 1.0)
    kept = read_lines(probe.pieces.folder / "forward-x1.jsonl")
    trained = read_lines(forward / "evaluations" / "epoch-02.jsonl")
    assert [row["ids"] for row in kept] == [row["ids"] for row in trained]
    assert [row["score"] for row in kept] == [row["score"] for row in trained]
    for row, own in zip(kept, trained, strict=True):
        assert row["kl"] == pytest.approx(own["kl"], abs=1e-5)
    before = sorted(path.name for path in forward.iterdir())
    weak = probe.measure("forward", 0.25)
    assert weak.kl < probe.measure("forward", 1.0).kl
    assert sorted(path.name for path in forward.iterdir()) == before  # nothing in the run


@pytest.mark.slow
def test_the_whole_command_and_again_without_asking(tmp_path: Path) -> None:
    """On runs that have moved far enough for a KL above the noise of four answers."""
    for direction in ("forward", "reverse"):
        trained = small(tmp_path, "--direction", direction, "--learning-rate", 1e-2)
        assert in_process(*trained).returncode in (0, 6)
    runs = tmp_path / "runs"
    forward, reverse = both(runs)
    place = ("--data", "sample", "--limit", 4, "--tasks", "truthfulqa_mc2", "--out", runs)
    done = in_process("probe", "equal-kl", forward, reverse, *place)
    assert done.returncode == 0, done.stderr
    for part in ("nearest to kappa", "At equal KL", "TruthfulQA MC2 acc", "This cannot tell"):
        assert part in done.stdout, part
    again = in_process("probe", "equal-kl", forward, reverse, *place, "--json")
    report = json.loads(again.stdout)
    assert report["kappa"] == min(c["points"][-1]["kl"] for c in report["curves"].values())
    assert len(report["metrics"]) == 1
    assert "4 of 4 samples are there already" in again.stderr
    assert in_process("audit", runs).returncode == 0


def test_what_is_no_pair_or_has_no_items_is_refused(runs: Path, tmp_path: Path) -> None:
    forward, reverse = both(runs)
    probe = ("probe", "equal-kl")
    refused(in_process(*probe, reverse, forward), "give the forward run first")
    refused(in_process(*probe, forward, reverse, "--tasks", "nothing"), "nothing")
    missing = ("--tasks", "bbq", "--data", tmp_path / "none")
    refused(in_process(*probe, forward, reverse, *missing))
    (forward / "rubric.txt").unlink()
    place = ("--tasks", "none", "--out", runs)
    refused(in_process(*probe, forward, reverse, *place), "holds no rubric.txt")
