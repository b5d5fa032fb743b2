"""`compare --sensitivity`: other thresholds, questions drawn again, and what cannot be tried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import made_up
import pytest

from minihmx.cli import main
from minihmx.errors import DataError, UserError
from minihmx.results.runs import SeedPair, find_pairs
from minihmx.results.sensitivity import HELD_OUT_SCORE, bootstrap, histories_of, stretches

Captured = pytest.CaptureFixture[str]
QUESTIONS = 10


def scored(folder: Path, scores: Sequence[Sequence[int | None]], kls: Sequence[float]) -> None:
    """Give a made-up run one evaluation for every epoch from 1 on: scores by question, one KL."""
    lines = []
    for epoch, (row, kl) in enumerate(zip(scores, kls, strict=True), start=1):
        known = [score for score in row if score is not None]
        lines.append(
            {"kind": "evaluation", "epoch": epoch, "kl": kl, "kl_tokens": kl, "score_error": 0.3}
            | {"score": sum(known) / len(known), "unscored": 1 - len(known) / len(row)}
        )
        answers = [{"question": f"q{n}", "score": s, "kl": kl} for n, s in enumerate(row)]
        path = folder / "evaluations" / f"epoch-{epoch:02d}.jsonl"
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def the_pair(tmp_path: Path) -> SeedPair:
    """Scores of 7.2, 7.7 and 7.9 by epoch forward; in reverse the KL is the higher one at the last
    two epochs."""
    forward = made_up.trained(tmp_path, "forward", 1)
    reverse = made_up.trained(tmp_path, "reverse", 1)
    rows = [[7] * 8 + [8] * 2, [7] * 3 + [8] * 7, [7] + [8] * 9]
    scored(forward, rows, [0.1, 0.2, 0.3])
    scored(reverse, [[1] * QUESTIONS] * 3, [0.1, 0.25, 0.35])
    (pair,), _ = find_pairs([str(forward), str(reverse)])
    return pair


def test_neighbouring_thresholds_with_the_same_choice_are_one_row(tmp_path: Path) -> None:
    found = stretches([histories_of(the_pair(tmp_path))])
    epochs = [(s.low, s.high, s.chosen[1].forward.epoch, s.chosen[1].reverse.epoch) for s in found]
    # 7.2 exceeds 7.1 and not 7.2; 7.7 exceeds 7.6; above 7.8 the highest epoch is taken, and said.
    assert epochs == [(7.0, 7.1, 1, 1), (7.2, 7.6, 2, 1), (7.7, 7.8, 3, 2), (7.9, 8.0, 3, 2)]
    assert [s.chosen[1].gap for s in found] == pytest.approx([0.0, 0.1, 0.05, 0.05])
    assert [s.chosen[1].choices[0].qualified for s in found] == [True, True, True, False]


def test_differences_stand_where_these_epochs_were_evaluated(tmp_path: Path) -> None:
    pair = the_pair(tmp_path)
    for run, epoch, value in ((pair.forward, 2, 0.75), (pair.reverse, 1, 0.25)):
        values = [{"flip_rate": value}, {"flip_rate": value}]
        made_up.evaluated(run.folder, "are_you_sure", values, epoch=f"epoch-{epoch:02d}")
    low, middle, high, _ = stretches([histories_of(pair)])
    assert middle.cells["are_you_sure/flip_rate"].difference.mean == pytest.approx(50.0)
    assert not middle.missing
    assert low.cells.keys() == high.cells.keys() == {HELD_OUT_SCORE}
    assert low.missing == [f"{pair.forward.folder}@epoch-01", f"{pair.reverse.folder}@epoch-01"]
    assert high.cells[HELD_OUT_SCORE].difference.mean == pytest.approx(7.9 - 1.0)


def test_a_rule_of_another_kind_keeps_all_but_its_threshold(tmp_path: Path) -> None:
    pair = the_pair(tmp_path)
    rows = [[7] * QUESTIONS, [8] * 7 + [None] * 3, [8] * QUESTIONS]
    scored(pair.forward.folder, rows, [0.1, 0.2, 0.3])
    assert histories_of(pair).chosen(7.5).forward.epoch == 3  # 30 % have no score at epoch 2
    rule = {"threshold": 7.5, "same_epoch_exception": "on", "max_unscored": 0.4}
    made_up.write(pair.forward.folder / "selected.json", {"winner": "epoch-02", "rule": rule})
    assert histories_of(pair).chosen(7.5).forward.epoch == 2


# --- questions drawn again ------------------------------------------------------------------------


def test_the_draws_are_those_of_the_binomial(tmp_path: Path) -> None:
    """At epoch 2 seven of ten questions have 8 and the others 7, so the mean of ten drawn with
    replacement exceeds 7.5 where at least six of them have 8, which the binomial gives."""
    from math import comb

    at_two = sum(comb(10, k) * 0.7**k * 0.3 ** (10 - k) for k in range(6, 11))
    found = bootstrap(histories_of(the_pair(tmp_path)), draws=4000)
    at_one = sum(comb(10, k) * 0.2**k * 0.8 ** (10 - k) for k in range(6, 11))
    assert found.epochs["forward"][1] / 4000 == pytest.approx(at_one, abs=0.01)
    assert found.epochs["forward"][2] / 4000 == pytest.approx(at_two, abs=0.03)
    assert sum(found.epochs["forward"].values()) == sum(found.epochs["reverse"].values()) == 4000
    # epoch 3 is below 7.5 only where epoch 2 is: the same questions are drawn for both
    assert found.epochs["forward"][3] > found.below


def test_a_pair_s_draws_do_not_depend_on_the_others(tmp_path: Path) -> None:
    one, again = (bootstrap(histories_of(the_pair(tmp_path / name))) for name in ("a", "b"))
    assert one == again and one.questions == QUESTIONS


def test_answers_of_one_question_stay_together(tmp_path: Path) -> None:
    """Forty answers to ten questions, all of a question alike, are drawn as ten answers are."""
    pair = the_pair(tmp_path)
    alone = bootstrap(histories_of(pair))
    for run in pair.runs:
        for path in run.folder.glob("evaluations/epoch-*.jsonl"):
            path.write_text(path.read_text() * 4)
    assert bootstrap(histories_of(pair)) == alone


# --- as it is typed -------------------------------------------------------------------------------


def test_the_tables_and_the_json(tmp_path: Path, capsys: Captured) -> None:
    pair = the_pair(tmp_path)
    for run, value in zip(pair.runs, (0.75, 0.25), strict=True):
        made_up.evaluated(run.folder, "are_you_sure", [{"flip_rate": value}], epoch="epoch-03")
    assert main(["compare", str(tmp_path), "--sensitivity"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for part in (
        "tiny 1 7.2 to 7.6 2: 7.70 1: 1.00 0.2000 0.1000 +0.1000",
        "tiny 1 7.7 to 7.8 3: 7.90 2: 1.00 0.3000 0.2500 +0.0500",
        "tiny 1 7.9 to 8.0 3: 7.90 2: 1.00 0.3000 0.2500 +0.0500 below the rule",
        "held-out score, 0 to 10 +6.20 ± - +6.70 ± - +6.90 ± - +6.90 ± -",
        "At 7.2 to 7.6 no benchmark was evaluated at the epochs that are chosen there",
        "This cannot tell what other seeds",
    ):
        assert part in out, part
    assert main(["compare", str(tmp_path), "--sensitivity", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["sensitivity"]
    assert [row["forward"]["epoch"] for row in told["thresholds"]] == [1, 2, 3, 3]
    assert [row["qualified"] for row in told["thresholds"]] == [True, True, True, False]
    (redrawn,) = told["bootstrap"]
    assert sum(redrawn["forward"].values()) == pytest.approx(1)
    assert main(["compare", str(tmp_path)]) == 0
    assert "other thresholds" not in capsys.readouterr().out


def test_what_cannot_be_tried_is_a_sentence(tmp_path: Path, capsys: Captured) -> None:
    pair = the_pair(tmp_path)
    assert main(["compare", "--paper", "--sensitivity"]) == 2
    assert main(["compare", str(tmp_path), "--sensitivity", "--format", "csv"]) == 2
    assert capsys.readouterr().err.count("--json instead of --format csv") == 2
    answers = pair.forward.folder / "evaluations" / "epoch-02.jsonl"
    answers.write_text('{"question": "q0", "score": 8, "kl": 0.2}\n')
    with pytest.raises(DataError, match="the same held-out questions"):
        bootstrap(histories_of(pair))
    answers.unlink()
    with pytest.raises(DataError, match="not there or holds no answers"):
        bootstrap(histories_of(pair))
    scored(pair.reverse.folder, [[1] * QUESTIONS] * 2, [0.1, 0.2])
    with pytest.raises(UserError, match="not evaluated at the same epochs"):
        histories_of(pair)


def test_it_needs_no_benchmark(tmp_path: Path, capsys: Captured) -> None:
    pair = the_pair(tmp_path)
    folders = [str(run.folder) for run in pair.runs]
    assert main(["compare", *folders]) == 2
    assert main(["compare", *folders, "--sensitivity"]) == 0
    told = capsys.readouterr().out
    assert "Selection at other thresholds" in told and "How often each epoch" in told
    assert "Table 4" not in told
    assert main(["compare", *folders, "--sensitivity", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["cells"] == [] and answer["sensitivity"]
