"""Alarms: each kind once, in training and from what a run left on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy
from test_amax import by_tokens

from minihmx import train
from minihmx.cli import main
from minihmx.instruments import alarms
from minihmx.results.alarms import run_alarms
from minihmx.run import open_run
from minihmx.storage.disk import dumps, read_lines


def test_the_kl_of_an_answer_is_the_mean_of_its_log_ratio() -> None:
    rows = [(-10.0, -30.0), (-5.0, -5.0), (None, -3.0)]
    assert alarms.kl_of_answers(rows) == 10.0
    assert alarms.kl_of_answers([(None, None)]) is None


def test_a_bound_is_passed_before_it_rings() -> None:
    assert alarms.kl_alarm(alarms.KL_BOUND, "at step 3") == alarms.kl_alarm(None, "") == ""
    assert alarms.kl_alarm(51.0, "at step 3").startswith("at step 3 the policy's answers are 51")
    assert alarms.degenerate_alarm(0.1, "") == alarms.degenerate_alarm(None, "") == ""
    assert "30% of the answers look degenerate" in alarms.degenerate_alarm(0.3, "at epoch 2")


def test_training_tells_once_and_the_files_tell_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a bound that any change passes, the second step rings: the first policy is the base."""
    monkeypatch.setattr(train, "judge", by_tokens)
    monkeypatch.setattr(alarms, "KL_BOUND", 0.0)
    run = open_run(toy.flags(tmp_path, learning_rate=0.05))
    events = [event for event in train.train(run) if isinstance(event, train.Measured)]
    told = [notice for event in events for notice in event.notices]
    (rang,) = [notice for notice in told if "nats from the untouched model" in notice]
    run.store._lock.close()
    found = [alarm for alarm in run_alarms(run.store.folder) if "nats from" in alarm]
    assert [f"alarm: {alarm}" for alarm in found] == [rang] and found[0].startswith("at step 2")
    main(["audit", str(run.store.folder), "--json"])  # finds the scores that no judge gave
    told = json.loads(capsys.readouterr().out)["alarms"]
    assert any("nats from the untouched model" in alarm for alarm in told)


def test_a_sound_run_rings_none_and_a_spoilt_one_says_where(pair: Path, tmp_path: Path) -> None:
    run = pair / "tiny" / "forward" / "seed-1"
    assert run_alarms(run) == []
    spoilt = tmp_path / "tiny" / "forward" / "seed-1"
    (spoilt / "evaluations").mkdir(parents=True)
    for name in ("metrics.jsonl", "evaluations/epoch-02.jsonl", "config.json"):
        (spoilt / name).write_text((run / name).read_text())
    lines = read_lines(run / "metrics.jsonl")
    for line in lines:
        line["degenerate"] = 0.5 if line.get("epoch") == 2 else 0.0
    (spoilt / "metrics.jsonl").write_text("".join(dumps(line) + "\n" for line in lines))
    rows = [row | {"reference_logprob": -500.0} for row in read_lines(run / EPOCH)]
    (spoilt / EPOCH).write_text("".join(dumps(row) + "\n" for row in rows))
    peaks = [{"step": n, "share": 0.1 * n, "mlp": [6e3 * n]} for n in (1, 2, 3, 4)]
    none = {"attention": [0.0], "product": [0.0], "logits": [0.0]}
    (spoilt / "amax.jsonl").write_text("".join(dumps(none | line) + "\n" for line in peaks))
    kl, odd, peak = run_alarms(spoilt)
    assert kl.startswith("at epoch 2 the policy's answers are") and odd.startswith("at epoch 2 50%")
    assert peak.startswith("at step 3 amax: the MLP output of layer 0 reached 18,000")


EPOCH = "evaluations/epoch-02.jsonl"
