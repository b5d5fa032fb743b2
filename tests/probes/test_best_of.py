"""`probe best-of`: the curve against all subsets, what is kept, and checkpoints beside it."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import in_process, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from minihmx import rollout
from minihmx.engine import sampling
from minihmx.engine.samplers import Sampler
from minihmx.errors import UserError
from minihmx.probes import best_of
from minihmx.probes.best_of_curve import (
    at_kl,
    best_of_report,
    bound,
    by_questions,
    curve,
    drawn_as,
    drawn_notices,
    expected_best,
    kl_of_best,
    standing,
    verdict_of,
)
from minihmx.probes.checkpoints import Checkpoint
from minihmx.stats import mean
from minihmx.terminal.probe import best_of_tables

answers = st.lists(st.one_of(st.none(), st.integers(0, 10)), min_size=1, max_size=7)


@given(answers, st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_the_closed_form_is_the_mean_over_all_subsets(scores: list[int | None], n: int) -> None:
    chosen = [[s for s in c if s is not None] for c in itertools.combinations(scores, n)]
    best = mean([float(max(c)) for c in chosen if c])
    found = expected_best(scores, n)
    assert found == (None if best is None else pytest.approx(best))


@given(answers, st.integers(1, 64))
@settings(max_examples=150, deadline=None)
def test_its_kl_is_at_most_the_bound(scores: list[int | None], n: int) -> None:
    scored = [s for s in scores if s is not None]
    kl = kl_of_best(scored, n)
    assert kl is None if not scored else kl <= bound(n) + 1e-9
    # among equal answers the best of N is any of them: it is the base
    assert kl_of_best([5.0] * 4, n) == pytest.approx(0.0)


def test_its_kl_may_be_above_the_bound_where_answers_have_no_score() -> None:
    """Of one answer in four without a score the others are 1 / (3/4) times as likely as in the
    base, which is 0.29 nats; the table says that the bound is not for these."""
    told = []
    for scores in ([3.0, 5.0, 7.0, None], [3.0, 5.0, 7.0, 7.0]):
        report = best_of_report([scores], ["q"], [], []) | {"model": {"id": "m"}, "folder": "f"}
        (table,) = best_of_tables(report)
        told.append(
            (table.rows[0][3], any("which the bound does not count" in n for n in table.notes))
        )
    assert told == [("0.29", True), ("0.00", False)]


def test_the_kl_of_the_best_of_two_by_hand() -> None:
    # of two answers with two scores, the higher is kept in three of four draws
    assert kl_of_best([1, 2], 2) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_best_and_worst_are_mirror_images() -> None:
    table = [[1.0, 4.0, 9.0, None], [2.0, 2.0, 6.0, 7.0]]
    mirrored = [[None if s is None else 10 - s for s in scores] for scores in table]
    best, worst = curve(table, 1), curve(mirrored, -1)
    assert [point.n for point in best] == [1, 2, 4]
    assert [p.score for p in worst] == pytest.approx([10 - (p.score or 0) for p in best])
    assert best[-1].score == pytest.approx(8.0) and best[0].bound == 0.0


def test_between_two_points_it_is_a_straight_line_and_flat_behind_the_last() -> None:
    points = curve([[0.0, 10.0]], 1)
    assert [point.score for point in points] == [5.0, 10.0]
    assert at_kl(points, 0, bound(2) / 2) == pytest.approx(7.5)
    assert at_kl(points, 0, 0.0) == 5.0 and at_kl(points, 0, 99.0) == 10.0


@pytest.mark.parametrize(
    ("difference", "error", "kl", "verdict"),
    [
        (-0.1, 0.2, 1.0, "under"),
        (0.1, 0.2, 1.0, "on"),
        (0.5, 0.2, 1.0, "above"),
        (0.1, 0.2, 9.0, "past the end"),
        (-0.1, 0.2, 9.0, "under"),  # the last N does as much with less
        (0.5, None, 1.0, "too few"),
    ],
)
def test_what_a_difference_allows_to_say(
    difference: float, error: float | None, kl: float, verdict: str
) -> None:
    assert verdict_of(difference, error, kl, 3.17) == verdict


def evaluated(folder: Path, direction: str, scores: list[int], kl: float) -> Checkpoint:
    """A made-up checkpoint of a run with two held-out questions and these scores to each."""
    rows = [
        {"question": q, "ids": [1], "score": s, "policy_logprob": kl - 9, "reference_logprob": -9.0}
        for q in ("a", "b")
        for s in scores
    ]
    path = folder / "evaluations" / "epoch-01.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Checkpoint(folder / "checkpoints" / "epoch-01", direction, 1, {}, "")


def test_a_checkpoint_is_held_against_the_curve_at_its_own_kl(tmp_path: Path) -> None:
    table = [[0.0, 10.0], [0.0, 10.0]]
    forward = evaluated(tmp_path / "f", "forward", [9, 10], bound(2))
    found = standing(forward, by_questions(forward, ["a", "b"]), curve(table, 1), 1)
    assert found["kl"] == pytest.approx(bound(2)) and found["score"] == 9.5
    assert found["difference"] == pytest.approx(-0.5) and found["verdict"] == "under"
    reverse = evaluated(tmp_path / "r", "reverse", [1, 2], 0.0)  # the base's mean is 5
    found = standing(reverse, by_questions(reverse, ["a", "b"]), curve(table, -1), -1)
    assert found["difference"] == pytest.approx(3.5) and found["verdict"] == "above"
    with pytest.raises(UserError, match="other questions"):
        by_questions(forward, ["a", "c"])


# --- as it is typed -------------------------------------------------------------------------------


def typed(tmp_path: Path, pair: Path, *more: object, samples: int = 2) -> dict[str, Any]:
    runs = [f"{pair}/tiny/{direction}/seed-1@epoch-01" for direction in ("forward", "reverse")]
    flags = ("--adapter", runs[0], "--adapter", runs[1], "--out", tmp_path, "--samples", samples)
    done = in_process("probe", "best-of", "tiny", *flags, "--json", *more)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_what_was_answered_is_kept_and_more_is_added(
    tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = typed(tmp_path, pair)
    assert [run["direction"] for run in first["runs"]] == ["forward", "reverse"]
    assert {run["verdict"] for run in first["runs"]} == {"too few"}  # of one held-out question
    (path,) = Path(first["folder"]).glob("question-*.jsonl")
    before = path.read_text("utf-8")
    longer = typed(tmp_path, pair, samples=4)
    assert longer["folder"] == first["folder"] and len(longer["best"]) == 3
    assert path.read_text("utf-8").startswith(before)
    fresh = typed(tmp_path / "fresh", pair, samples=4)
    assert fresh["best"] == longer["best"]  # however it was cut
    monkeypatch.setattr(best_of, "_ask", None)  # nobody is asked again
    assert typed(tmp_path, pair) == first


@pytest.mark.parametrize("score", ["x", 99, -1, [3]])
def test_a_kept_score_that_is_none_is_refused(tmp_path: Path, pair: Path, score: object) -> None:
    (path,) = Path(typed(tmp_path, pair)["folder"]).glob("question-*.jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows[0]["score"] = score
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run = f"{pair}/tiny/forward/seed-1@epoch-01"
    words = ("--adapter", run, "--out", tmp_path, "--samples", 2)
    refused(in_process("probe", "best-of", *words), "is not what was written there", code=5)


def test_a_table_says_what_it_counts(tmp_path: Path, pair: Path) -> None:
    run = f"{pair}/tiny/forward/seed-1@epoch-01"
    words = ("--adapter", run, "--out", tmp_path, "--samples", 2, "--plot", tmp_path / "drawn.png")
    done = in_process("probe", "best-of", *words)
    assert done.returncode == 0, done.stderr
    for part in ("KL at most", "0.19", "Coverage: on", "not decided: too few", "drawn in"):
        assert part in done.stdout
    assert (tmp_path / "drawn.png").is_file() and (tmp_path / "drawn.svg").is_file()
    (tmp_path / "drawn.png").unlink()  # the other one alone is not replaced either
    before = (tmp_path / "drawn.svg").read_bytes()
    refused(in_process("probe", "best-of", *words), "drawn.svg exists already")
    gone = (*words[:-1], tmp_path / "gone" / "drawn")
    refused(in_process("probe", "best-of", *gone), "would stand in a folder that is not there")
    assert (tmp_path / "drawn.svg").read_bytes() == before and not (tmp_path / "gone").exists()


def test_what_cannot_stand_on_one_curve_is_refused(tmp_path: Path, pair: Path) -> None:
    run = f"{pair}/tiny/forward/seed-1"
    probe = ("probe", "best-of", "tiny", "--out", tmp_path, "--adapter")
    refused(in_process(*probe, run, "--adapter", run), "there twice")
    refused(in_process(*probe, run, "--samples", 1), "--samples 1 cannot work")
    refused(in_process(*probe, tmp_path / "none"), "There is no run or adapter")
    folder = tmp_path / "forward" / "seed-1"
    folder.mkdir(parents=True)
    for name in ("checkpoints", "config.json", "questions.jsonl", "rubric.txt"):
        (folder / name).symlink_to(Path(run) / name)
    refused(in_process(*probe, folder, "--samples", 2), "evaluations", "is not there")
    config = json.loads((Path(run) / "config.json").read_text())
    config["science"]["model digest"] = "0" * 64
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    refused(in_process(*probe, folder), "was trained on another model than tiny")
    # So it is where the runs' settings are more than this model has room for.
    config["science"]["max_sequence_length"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    refused(in_process(*probe, folder), "was trained on another model than tiny")


# --- runs that drew otherwise ---------------------------------------------------------------------


def test_the_base_is_drawn_stopped_and_judged_as_the_runs_were(
    tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = typed(tmp_path / "plain", pair)
    assert plain["notices"] == [] and not {"sampler", "stop_ids"} & plain["settings"].keys()
    own = tmp_path / "own"
    shutil.copytree(pair, own)
    changes = {"sampler": "top_k=2", "judge_sampler": "plain", "stop_ids": "4,9"}
    for path in own.glob("tiny/*/seed-1/config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "science": config["science"] | changes}))
    asked, real = [], sampling.generate

    def generate(*args: Any, **more: Any) -> Any:
        asked.append({k: more.get(k) for k in ("sampler", "stop_ids", "noise")})
        return real(*args, **more)

    monkeypatch.setattr(sampling, "generate", generate)
    monkeypatch.setattr(rollout, "generate", generate)
    found = typed(tmp_path / "drawn", own)
    assert changes.items() <= found["settings"].items() and found["folder"] != plain["folder"]
    answers, judged = asked
    assert answers["sampler"] == Sampler(1.0, top_k=2) and answers["stop_ids"] == [4, 9]
    assert judged["sampler"] is None
    assert judged["noise"] == [("judge", *name) for name in answers["noise"]]
    (notice,) = found["notices"]
    assert "were drawn with top_k=2, as the runs' were" in notice


def test_greedy_evaluations_have_no_best_of_n() -> None:
    values = {"eval_sampler": "greedy", "sampler": "top_p=0.9", "stop_ids": ""}
    assert drawn_as(values) == {"sampler": "top_p=0.9"}
    assert drawn_as({**values, "eval_sampler": "top_k=5"}) == {"sampler": "top_k=5"}
    assert drawn_as({}) == {}
    first, second = drawn_notices(drawn_as(values), [values])
    assert "drawn with top_p=0.9" in first and "held-out answers are greedy" in second
    assert drawn_notices({}, [{}]) == []
