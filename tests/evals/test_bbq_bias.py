"""BBQ's bias scores are lm-evaluation-harness's; scripts/golden/bbq.py made its numbers."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, shared

sys.path.insert(0, str(ROOT / "scripts" / "golden"))

import bbq as script

from minihmx import cli
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.results import sample_line
from minihmx.evals.bbq import BBQ, is_biased
from minihmx.evals.benchmark import Answer, Choices, Item

GOLDEN = json.loads((ROOT / "tests" / "evals" / "golden_bbq.json").read_text("utf-8"))
Line = dict[str, Any]


def converted(rows: Sequence[dict[str, Any]]) -> list[Item]:
    found = [i for n, row in enumerate(rows) for i in BBQ.convert(row, n, Path("Age.jsonl"))]
    for item in found:
        BBQ.check(item)
    return list(found)


def line(item: Item, pick: int) -> Line:
    asked = BBQ.ask(item, {})
    assert isinstance(asked, Choices)
    said = Answer(loglikelihoods=tuple(-float(i != pick) for i in range(12)))
    return sample_line(BBQ, item, 0, asked, said, BBQ.score(item, said, {}))


def numbers(lines: Sequence[Line]) -> dict[str, float]:
    """By lm-eval's names, which end in _<category> where ours end in /<category>."""
    table = metrics(lines, derived=BBQ.derived)
    return {name.replace("/", "_"): float(each["value"] or 0.0) for name, each in table.items()}


def test_the_answers_of_the_stereotype_are_lm_evals() -> None:
    assert GOLDEN["rows"] == script.rows() and GOLDEN["lm_eval"] == "0.4.13"
    for item, biased in zip(converted(GOLDEN["rows"]), GOLDEN["biased"], strict=True):
        assert [is_biased(item, pick) for pick in (0, 1)] == biased[:2] and not any(biased[2:])


@pytest.mark.parametrize("number", range(len(GOLDEN["picks"])))
def test_every_score_is_lm_evals(number: int) -> None:
    items, picks = converted(GOLDEN["rows"]), GOLDEN["picks"][number]
    got = numbers([line(item, pick) for item, pick in zip(items, picks, strict=True)])
    assert got == pytest.approx(GOLDEN["scores"][number], abs=1e-12)


@pytest.mark.parametrize("name", GOLDEN["published"])
def test_so_is_it_on_the_published_rows(name: str) -> None:
    with gzip.open(shared(f"data/bbq/{name}"), "rt", encoding="utf-8") as file:
        items = converted([json.loads(text) for text in file])
    got = numbers([line(item, script.published_pick(n)) for n, item in enumerate(items)])
    assert got == pytest.approx(GOLDEN["published"][name], abs=1e-12)


# One item that is ambiguous and one that is not; answer 0 is the stereotype's in both.
AMBIGUOUS, CLEAR = (
    item
    for item in converted(GOLDEN["rows"])
    if item["stereotyped"] == ["old"] and item["polarity"] == "nonneg"
)


def lines(item: Item, *picks: int) -> list[Line]:
    return [line({**item, "id": f"{n}"}, pick) for n, pick in enumerate(picks)]


def bias(found: Sequence[Line], name: str) -> dict[str, Any]:
    return dict(metrics(found, derived=BBQ.derived)[name])


def test_by_hand() -> None:
    disamb = bias(lines(CLEAR, 0, 0, 0, 1, 2, 11), "disamb_bias_score")
    assert disamb["value"] == 2 * 3 / 4 - 1 and disamb["n"] == 6
    amb = bias(lines(AMBIGUOUS, 0, 0, 1, 2, 3, 4), "amb_bias_score")
    assert amb["value"] == pytest.approx((1 - 3 / 6) * (2 * 2 / 3 - 1))
    # only unknown, and never the stereotype: no estimate, and so no error
    for picks in ((2, 3), (1, 1, 2)):
        for item, name in ((CLEAR, "disamb_bias_score"), (AMBIGUOUS, "amb_bias_score")):
            found = bias(lines(item, *picks), name)
            assert found == {"value": 0.0, "stderr": None, "n": len(picks)}
    assert "amb_bias_score" not in metrics(lines(CLEAR, 0), derived=BBQ.derived)


def test_the_error_is_that_of_the_mean_which_the_ambiguous_score_is() -> None:
    """Where only unknown is right, (1 - accuracy)(2 biased / named - 1) is the mean of 1 for each
    biased answer, -1 for each other name and 0 for unknown."""
    picks = [0, 0, 1, 2, 5, 0, 1, 3]
    found = bias(lines(AMBIGUOUS, *picks), "amb_bias_score")
    ones = [{0: 1.0, 1: -1.0}.get(pick, 0.0) for pick in picks]
    centre = sum(ones) / len(ones)
    spread = math.sqrt(sum((x - centre) ** 2 for x in ones) / (len(ones) - 1) / len(ones))
    assert found["value"] == pytest.approx(centre) and found["stderr"] == pytest.approx(spread)
    # where all answers name someone, the other score is such a mean as well
    found = bias(lines(CLEAR, 0, 0, 1, 0, 1), "disamb_bias_score")
    assert found["value"] == pytest.approx(0.2) and found["stderr"] == pytest.approx(0.4898979)
    # a cluster's samples go together: twice the same answers are no more than once
    once = lines(CLEAR, 0, 0, 1, 2)
    assert bias([*once, *once], "disamb_bias_score")["stderr"] == pytest.approx(
        bias(once, "disamb_bias_score")["stderr"]
    )


def test_eval_shows_them_and_audit_makes_them_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["eval", "tiny", "--tasks", "bbq", "--data", "sample", "--out", str(tmp_path)]
    assert cli.main(ask) == 0
    shown = capsys.readouterr().out
    assert "    amb_bias_score " in shown and "    disamb_bias_score/Region " in shown
    (folder,) = (tmp_path / "tiny" / "base" / "evals" / "bbq").iterdir()
    assert cli.main(["audit", str(tmp_path / "tiny" / "base")]) == 0
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result["metrics"]["amb_bias_score"]["n"] == 6
    result["metrics"]["amb_bias_score"]["value"] += 0.25
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    capsys.readouterr()
    assert cli.main(["audit", str(tmp_path / "tiny" / "base")]) == 5
    assert "metrics.amb_bias_score.value" in capsys.readouterr().out
    # a verdict that is gone is a finding of its own
    samples = (folder / "samples.jsonl").read_text("utf-8")
    (folder / "samples.jsonl").write_text(samples.replace('"biased"', '"biassed"'), "utf-8")
    assert cli.main(["audit", str(tmp_path / "tiny" / "base")]) == 5
    assert "detail" in capsys.readouterr().out
