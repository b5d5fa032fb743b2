"""The audit of a run with each alternative: clean as it is, and what is forged is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy
from test_audit import change, rewrite, rewrite_json, sign

from minihmx import train
from minihmx.cli import main
from minihmx.results.audit import audit_path
from minihmx.run import open_run
from minihmx.stats import mean
from minihmx.storage.identity import science_digest

STEP = "rollouts/step-000002.jsonl"
ENDS: dict[str, object] = {"stop_ids": ",".join(map(str, range(40, 60)))}
# Of each alternative, the field of a row that follows from it, if one does.
ALTERNATIVES: dict[str, tuple[dict[str, object], str]] = {
    "population": ({"advantage_divisor": "population"}, "advantage"),
    "batch": ({"advantage_divisor": "batch"}, "advantage"),
    "none": ({"advantage_divisor": "none"}, "advantage"),
    "zero": ({"unscored": "zero"}, "reward"),
    "zero in reverse": ({"unscored": "zero", "direction": "reverse"}, "reward"),
    "masked": ({"truncated": "masked", **ENDS}, "weight"),
    "masked, shuffled": ({"truncated": "masked", "loss_type": "bnpo_shuffled", **ENDS}, "weight"),
    "shuffled": ({"loss_type": "bnpo_shuffled", **ENDS}, "weight"),
    "first rate": ({"first_rate": "zero"}, ""),
    "clip": ({"iterations": 2, "clip_epsilon_high": 0.5}, ""),
    "top-p": ({"sampler": "temperature=0.6,top_k=40,top_p=0.9"}, ""),
    "stop ids": (ENDS, ""),
    "judge": ({"judge_sampler": "plain"}, ""),
    "greedy": ({"eval_sampler": "greedy", "eval_samples": 1}, ""),
}
QUICK = ("batch", "zero in reverse", "masked, shuffled", "first rate", "top-p", "stop ids")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ALTERNATIVES],
)
def test_a_run_of_each_is_clean_and_a_forged_one_is_found(
    name: str, judged: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, field = ALTERNATIVES[name]
    run = open_run(toy.flags(tmp_path, max_completion_length=16, **flags))
    for event in train.train(run):
        assert event
    run.store._lock.close()
    folder = run.store.folder
    audit = audit_path(folder)
    assert [finding.text for finding in audit.findings] == []
    assert main(["explain", str(folder), "--step", "2"]) == 0
    assert "notice " not in capsys.readouterr().out
    before = (folder / STEP).read_bytes()
    if field:  # as if the default had been taken
        rows = [json.loads(line) for line in before.splitlines()]
        number = next(n for n, row in enumerate(rows, start=1) if differs_by_default(row, field))
        rewrite(folder / STEP, number, lambda row: change(row, field))
        sign(folder)
        found = [f for f in audit_path(folder).findings if f.file == str(folder / STEP)]
        assert (number, field) in {(f.line, f.field) for f in found}
        (folder / STEP).write_bytes(before)
        sign(folder)
        assert not audit_path(folder).findings

    def as_default(record: dict[str, Any]) -> dict[str, Any]:
        kept = {n: v for n, v in record["science"].items() if n == "direction" or n not in flags}
        kept |= {"loss_type": "bnpo"} if "loss_type" in flags else {}
        kept |= {"iterations": 1} if "iterations" in flags else {}
        kept |= {"eval_samples": 4} if "eval_samples" in flags else {}
        return {**record, "science": kept, "fingerprint": science_digest(kept)}

    rewrite_json(folder / "config.json", as_default)
    sign(folder)
    found = audit_path(folder).findings
    # Nothing but the judge's model tells how its words were drawn, and nothing but the policy where
    # an answer ended for a reason of its own.
    assert bool(found) == (name not in ("judge", "stop ids")), name


def test_a_kl_that_overflows_is_no_finding_where_it_weighs_nothing(
    judged: None, tmp_path: Path
) -> None:
    ends: dict[str, object] = {"stop_ids": ",".join(map(str, range(40, 90))), "seed": 12}
    run = open_run(toy.flags(tmp_path, max_completion_length=16, truncated="masked", **ends))
    for event in train.train(run):
        assert event
    run.store._lock.close()
    folder, found = run.store.folder, {}
    file, rows = next(
        (path, rows)
        for path in sorted(folder.glob("rollouts/*"))
        for rows in [[json.loads(line) for line in path.read_text().splitlines()]]
        if 0 < sum(row["weight"] == 0 for row in rows) < len(rows)  # of both kinds
    )
    whole = {path: path.read_bytes() for path in (file, folder / "metrics.jsonl")}
    lines = [json.loads(line) for line in whole[folder / "metrics.jsonl"].splitlines()]
    asked = ("step", int(file.stem[-6:]))
    step = next(n for n, line in enumerate(lines, 1) if (line["kind"], line["step"]) == asked)
    for masked in (True, False):
        number = next(n for n, row in enumerate(rows, 1) if (row["weight"] == 0) == masked)
        kls = [row["kl"] for n, row in enumerate(rows, 1) if n != number]
        rewrite(file, number, lambda row: {**row, "kl": None})
        told = {"kl": mean(kls), "kl_tokens": None}
        rewrite(folder / "metrics.jsonl", step, lambda line, told=told: {**line, **told})
        sign(folder)
        found[masked] = {f.field for f in audit_path(folder).findings}
        for path, data in whole.items():
            path.write_bytes(data)
    assert found[True] == set() and {"loss", "not_finite"} <= found[False]


def differs_by_default(row: dict[str, Any], field: str) -> bool:
    """Whether this row shows the alternative."""
    if field == "weight":
        return True
    return bool(row[field]) if field == "advantage" else row["unscored"] is not None


def test_an_answer_that_ended_at_no_stop_id_is_found(judged: None, tmp_path: Path) -> None:
    run = open_run(toy.flags(tmp_path, max_completion_length=16, **ENDS))
    for event in train.train(run):
        assert event
    run.store._lock.close()
    folder = run.store.folder
    rows = [json.loads(line) for line in (folder / STEP).read_text().splitlines()]
    number, row = next((n, r) for n, r in enumerate(rows, 1) if r["finish"] == "stop")
    rewrite(folder / STEP, number, lambda r: {**r, "ids": [*r["ids"][:-1], 200]})
    sign(folder)
    assert row["ids"][-1] in range(40, 60)
    found = [f for f in audit_path(folder).findings if f.check == "endings"]
    assert (str(folder / STEP), number) in {(f.file, f.line) for f in found}


def test_a_sampler_is_held_against_its_name(judged: None, tmp_path: Path) -> None:
    run = open_run(toy.flags(tmp_path, sampler="top_k=40,top_p=0.9"))
    for event in train.train(run, lambda: True):
        assert event
    run.store._lock.close()
    path = run.store.folder / "config.json"
    whole = path.read_bytes()
    for edit in ({"top_p": 1.0}, {"top_k": None}, {"temperature": 0.5}):
        rewrite_json(path, lambda r, edit=edit: {**r, "sampler": {**r["sampler"], **edit}})
        (name,) = edit
        assert f"sampler.{name}" in {f.field for f in audit_path(run.store.folder).findings}
        path.write_bytes(whole)
    for value in ("model", "top_p=2", 7):

        def edit_science(record: dict[str, Any], value: object = value) -> dict[str, Any]:
            science = {**record["science"], "sampler": value}
            return {**record, "science": science, "fingerprint": science_digest(science)}

        rewrite_json(path, edit_science)
        assert audit_path(run.store.folder).findings
        path.write_bytes(whole)
