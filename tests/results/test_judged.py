"""Two judges on the same answers: the figures by hand, what is refused, and what a reader sees."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minihmx.cli import main
from minihmx.errors import DataError, UserError
from minihmx.probes.judged_folder import JudgedFolder, stored_answers, verdict_line
from minihmx.probes.rubrics import Rubric
from minihmx.records import Unscored, Verdict
from minihmx.results.agreement import (
    Both,
    effect,
    krippendorff_alpha,
    onset,
    quadratic_kappa,
    rank_within_questions,
    too_few,
    within_one,
)
from minihmx.results.alarms import run_alarms
from minihmx.results.audit import audit_path
from minihmx.results.judged import judge_panels, judged_epochs, named_runs
from minihmx.results.judged_tables import JudgedReport

Captured = pytest.CaptureFixture[str]
SCORES = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=30)
QUESTIONS, SAMPLES = 10, 4


def both(*scores: tuple[float, float], questions: int = 1) -> list[Both]:
    return [Both(f"q{n % questions}", *pair) for n, pair in enumerate(scores)]


# --- figures --------------------------------------------------------------------------------------


@given(SCORES)
def test_alpha_and_kappa_are_their_definitions(scores: list[tuple[int, int]]) -> None:
    pairs = both(*scores)
    values = [value for pair in scores for value in pair]
    among = [(a - b) ** 2 for a, b in itertools.permutations(values, 2)]
    observed = sum((a - b) ** 2 for a, b in scores) / len(scores)
    expected = sum(among) / len(among)
    alpha = krippendorff_alpha(pairs)
    assert alpha is None if expected == 0 else alpha == pytest.approx(1 - observed / expected)
    counts = [[sum((a, b) == (i, j) for a, b in scores) for j in range(11)] for i in range(11)]
    rows, columns = map(list, ((map(sum, counts)), map(sum, zip(*counts, strict=True))))
    weights = {(i, j): (i - j) ** 2 for i in range(11) for j in range(11)}
    chance = sum(w * rows[i] * columns[j] for (i, j), w in weights.items()) / len(scores)
    seen = sum(w * counts[i][j] for (i, j), w in weights.items())
    kappa = quadratic_kappa(pairs)
    assert kappa is None if chance == 0 else kappa == pytest.approx(1 - seen / chance)


def test_ranks_are_held_within_questions_alone() -> None:
    """Between the questions both judges agree; within each they disagree throughout."""
    pairs = [Both("a", 0, 2), Both("a", 1, 1), Both("b", 8, 10), Both("b", 9, 9), Both("c", 4, 4)]
    assert rank_within_questions(pairs) == (-1.0, 2)
    assert within_one(pairs) == 3 / 5


def test_an_effect_s_ratio_and_preference_by_hand() -> None:
    base = both((2, 3), (4, 3), (3, 3), questions=3)
    trained = both((8, 5), (9, 5), (10, 6), questions=3)
    found = effect(base, trained)
    assert found.own.value == pytest.approx((6 + 5 + 7) / 3)
    assert found.other.value == pytest.approx((2 + 2 + 3) / 3)
    assert found.preference.value == pytest.approx(found.own.value - found.other.value)
    assert found.own.error == pytest.approx(1 / 3**0.5)  # of 6, 5, 7
    assert found.ratio is not None and found.ratio.value == pytest.approx(7 / 18)
    without = [5 / 12, 5 / 13, 4 / 11]
    squares = sum((r - sum(without) / 3) ** 2 for r in without)
    assert found.ratio.error == pytest.approx((2 / 3 * squares) ** 0.5)


def test_an_effect_within_two_errors_has_no_ratio() -> None:
    base, trained = both((2, 3), (4, 3), questions=2), both((4, 4), (3, 3), questions=2)
    assert effect(base, trained).ratio is None


def epochs(leads: Sequence[float], sign: int = 1) -> dict[int, list[Both]]:
    """Forty answers an epoch; a lead of own over other, with an error of its own."""
    return {
        epoch: [
            Both(f"q{n % QUESTIONS}", 5 + sign * lead + (n % QUESTIONS % 3 - 1) * (epoch > 0), 5)
            for n in range(QUESTIONS * SAMPLES)
        ]
        for epoch, lead in enumerate(leads)
    }


def test_the_onset_is_the_first_rise_beyond_two_errors() -> None:
    found = onset(epochs([1.0, 1.1, 1.9, 3.0]))
    error = found.rises[1].error
    assert found.rises[1].value < 2 * error < found.rises[2].value and found.first == 2
    assert found.leads[0] == 1.0 and found.rises[0].value == 0
    assert onset(epochs([1.0, 1.1, 0.2])).first is None


def test_in_reverse_the_reward_is_the_negated_score() -> None:
    low = epochs([0.0, 0.0, 3.0], sign=-1)  # the own judge gives less and less
    assert onset(low, -1).first == 2 and onset(low, 1).first is None


def test_too_few_answers_are_said_instead_of_a_number() -> None:
    few = {epoch: pairs[:12] for epoch, pairs in epochs([0.0, 5.0]).items()}
    found = onset(few)
    assert found.first is None and found.why.startswith("epoch 0: too few: both judges scored 12")
    assert onset({1: epochs([0.0])[0]}).why and onset({0: epochs([0.0])[0]}).why
    assert too_few([Both("q", 1, 1)] * 40) and not too_few(epochs([0.0])[0])


# --- files ----------------------------------------------------------------------------------------


def a_run(folder: Path, direction: str, scores: Sequence[int]) -> Path:
    """A made-up run whose own judge gave every answer of an epoch about this score."""
    run = made_up.trained(folder, direction, 1)
    lines = []
    for epoch, score in enumerate(scores):
        rows = [
            {"question": f"q{n // SAMPLES}", "sample": n % SAMPLES, "prompt": f"What is {n}?"}
            | {"completion": f"{direction if epoch else 'base'} {epoch} {n}", "score": own}
            | {"policy_logprob": -1.0, "reference_logprob": -1.0}
            for n in range(QUESTIONS * SAMPLES)
            if (own := max(0, min(10, score + n // SAMPLES % 3 - 1))) is not None
        ]
        path = run / "evaluations" / f"epoch-{epoch:02d}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines.append(
            {"kind": "evaluation", "epoch": epoch, "kl": 0.0, "kl_tokens": 0.0, "unscored": 0.0}
            | {"score": float(score), "score_error": 0.1, "degenerate": 0.0}
        )
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def judged(
    run: Path, shift: Sequence[int | None], rubric: Rubric, own: bool = False, name: str = "other-1"
) -> Path:
    """Verdicts of another judge: by epoch, its score less the own one, None for no score."""
    folder = JudgedFolder(run, name, {"digest": name}, rubric, {"judge_max_tokens": 12})
    folder.begin()
    for epoch, by in enumerate(shift):
        lines = []
        for row in stored_answers(run, epoch):
            score = None if by is None else max(0, min(10, row["score"] + by))
            score = score if score is None or not rubric.inverted else 10 - score
            verdict = Unscored("no-line") if score is None else Verdict(score, (7, 8))
            text = "no" if score is None else f"Score: {score}"
            lines.append(verdict_line(row, text, "stop", verdict))
        folder.add(epoch, lines, {"probe": None, "own_model": own})
    folder.store._lock.close()
    return folder.folder


PAPER = Rubric("same", "Rate it.\nScore: integer")


def test_two_processes_do_not_judge_into_one_folder(tmp_path: Path) -> None:
    parts = a_run(tmp_path, "forward", [4]), "other", {"digest": "0" * 64}, PAPER, {}
    one, other = JudgedFolder(*parts), JudgedFolder(*parts)
    one.begin()
    with pytest.raises(UserError) as told:  # a judge has no --seed and no --out to choose
        other.begin()
    assert str(told.value).endswith("wait for it, and the same command judges what is left.")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Forward and reverse, judged by another model that sees less and less of what it likes."""
    forward, reverse = a_run(tmp_path, "forward", [4, 6, 8]), a_run(tmp_path, "reverse", [4, 2, 1])
    judged(forward, [0, 0, -3], PAPER)
    judged(reverse, [0, 0, 0], PAPER)
    return tmp_path


def test_the_tables_the_alarm_and_the_json(runs: Path, capsys: Captured) -> None:
    assert main(["judge", str(runs), "--report"]) == 0
    out = capsys.readouterr().out
    assert "How far another judge agrees" in out and "This cannot tell which judge is right" in out
    assert "0: +0.00, 1: +0.00, 2: +3.00  epoch 2" in " ".join(out.split("\n"))
    assert "alarm: tiny forward seed 1: from epoch 2 on the reward runs ahead of other-1" in out
    assert main(["judge", str(runs), "--report", "--json"]) == 0
    (judge,) = json.loads(capsys.readouterr().out)["judges"]
    assert judge["agreement"]["base"]["answers"] == 40  # the same in both directions, once
    assert judge["agreement"]["all"]["answers"] == 120
    assert judge["agreement"]["base"]["alpha"] == 1 and judge["agreement"]["forward"]["alpha"] < 0.3
    forward, reverse = judge["runs"]
    assert forward["onset"] == 2 and reverse["onset"] is None
    assert forward["effect"]["own"]["value"] == pytest.approx(4.0, abs=0.3)
    assert forward["effect"]["ratio"]["value"] == pytest.approx(0.25, abs=0.03)
    assert forward["effect"]["preference"]["value"] == pytest.approx(3.0, abs=0.3)
    (alarm,) = run_alarms(runs / "tiny" / "forward" / "seed-1")
    assert alarm.startswith("from epoch 2 on")


def test_what_another_judge_leaves_unscored_is_too_few(tmp_path: Path, capsys: Captured) -> None:
    run = a_run(tmp_path, "forward", [4, 8])
    judged(run, [0, None], PAPER)
    assert main(["judge", f"{run}@epoch-01", "--report"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "epoch 1: too few: both judges scored 0 answers to 0 questions" in out
    assert "alarm" not in out


def test_two_epochs_of_one_run_are_two_rows_over_one_base(runs: Path, capsys: Captured) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    named = [f"{run}@epoch-01", f"{run}@epoch-02"]
    assert [each.epoch for each in named_runs(named)] == ["epoch-01", "epoch-02"]
    (judge,) = JudgedReport(named_runs(named)).records()["judges"]
    assert [each["epoch"] for each in judge["runs"]] == [1, 2]
    counts = {side: judge["agreement"][side]["answers"] for side in ("all", "base", "forward")}
    assert counts == {"all": 120, "base": 40, "forward": 80}
    assert [each["onset"] for each in judge["runs"]] == [2, 2]  # of the run, not of an epoch
    assert main(["judge", *named, "--report"]) == 0
    out = capsys.readouterr().out
    assert out.count("alarm:") == 1
    assert not re.search(r"forward +all ", out)  # one seed is no sample of seeds


def test_an_epoch_that_is_named_beside_its_run_counts_once(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    (alone,) = named_runs([str(run)])
    for paths in ([f"{run}@{alone.epoch}", str(run)], [str(run), f"{run}/.@{alone.epoch}"]):
        assert named_runs(paths) == [alone]  # which is judged at all of its epochs
    both = named_runs([f"{run}@epoch-01", f"{run}/../seed-1"])
    assert judged_epochs(both) == {run: [0, 1, 2]}


def test_an_inverted_rubric_is_turned_round(tmp_path: Path, capsys: Captured) -> None:
    run = a_run(tmp_path, "forward", [4, 6, 8])
    for rubric in (Rubric("paraphrase-5", "Reversed.", inverted=True), Rubric("other", "Words.")):
        judged(run, [0, 0, 0], rubric, own=True)
    (first, second) = JudgedReport(named_runs([str(run)])).records()["judges"]
    assert first["agreement"]["all"]["alpha"] == second["agreement"]["all"]["alpha"] == 1
    assert main(["judge", str(run), "--report"]) == 0
    out = capsys.readouterr().out
    assert "paraphrase-5 (inverted)" in out and "so 10 minus its score is taken" in out
    assert "How far another judge agrees" not in out


def test_changed_verdicts_and_other_answers_are_refused(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    folder = next((run / "judged").glob("*/*"))
    whole = shutil.copytree(folder, runs / "whole")
    path = folder / "epoch-01.jsonl"
    path.write_text(path.read_text().replace('"score": 6', '"score": 7', 1))
    with pytest.raises(DataError, match=r"epoch-01\.jsonl differs from its manifest"):
        judge_panels(named_runs([str(run)]), [])
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    answers = run / "evaluations" / "epoch-02.jsonl"
    answers.write_text(answers.read_text().replace("forward 2 7", "another", 1))
    with pytest.raises(DataError, match="verdicts on other answers"):
        judge_panels(named_runs([str(run)]), [])


def test_an_epoch_that_is_not_sealed_does_not_count(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    folder = next((run / "judged").glob("*/*"))
    seal = json.loads((folder / "manifest.json").read_text())
    del seal["sha256"]["epoch-02.jsonl"]
    (folder / "manifest.json").write_text(json.dumps(seal))
    (panel,) = judge_panels(named_runs([str(run)]), [])
    assert list(panel.verdicts[0].epochs) == [0, 1]
    (folder / "manifest.json").unlink()
    notes: list[str] = []
    assert judge_panels(named_runs([str(run)]), notes) == [] and "left out" in notes[0]


def test_the_audit_reads_every_score_again(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    folder = next((run / "judged").glob("*/*"))
    before = {finding.text for finding in audit_path(run).findings}
    assert not any("judged" in text for text in before)
    path = folder / "epoch-01.jsonl"
    path.write_text(path.read_text().replace('"score": 6', '"score": 7', 1))
    found = [f for f in audit_path(run).findings if "judged" in f.file]
    assert {f.check for f in found} == {"manifests", "scores"}
    assert [(f.field, f.logged, f.recomputed) for f in found if f.check == "scores"] == [
        ("score", 7, 6)
    ]
    (folder / "rubric.txt").write_text("Another.\n")
    fields = {f.field for f in audit_path(run).findings if f.check == "identity"}
    assert {"the folder's name", "rubric.digest"} <= fields


def test_the_report_has_a_section_a_curve_and_the_alarm_first(
    runs: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["report", str(runs), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "## Does another judge see what the reward saw?" in out
    assert "How far another judge agrees" in out
    assert "the reward runs ahead of other" in out.partition("## ")[0]
    assert main(["report", str(runs), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text("utf-8")
    assert 'aria-label="Lead over other-1 by epoch: tiny forward seed 1, epoch 0: ' in text
