"""The audit of a real run: clean as it is, and any change found though all is signed again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from command_line import env, in_process, minihmx
from conftest import ROOT

from minihmx import train
from minihmx.cli import main
from minihmx.config import FIELDS
from minihmx.evals import BENCHMARKS
from minihmx.experiment import Experiment, pieces, write_states
from minihmx.results.audit import audit_path
from minihmx.results.findings import Audit, line_of
from minihmx.run import open_run
from minihmx.selection import Rule
from minihmx.storage.disk import dumps
from minihmx.storage.identity import science_digest

PAGE = (ROOT / "docs" / "audit.md").read_text("utf-8")
STEP, EPOCH = "rollouts/step-000003.jsonl", "evaluations/epoch-01.jsonl"
# Values that a number of the model's own cannot have.
IMPOSSIBLE = {
    "finish": "length",
    "judge_finish": "cut",
    **dict.fromkeys(("policy_logprob", "reference_logprob"), 0.5),
    **dict.fromkeys(("kl", "entropy", "sampler_gap", "grad_norm"), -1.0),
    "loss_scale": 3.0,
    **dict.fromkeys(
        ("sample", "judge", "reference", "learn", "measure", "seconds", "peak_gib"), -1.0
    ),
    "not_finite": "loss",
}


def table() -> list[tuple[str, str, str]]:
    """(file, field, how) of every row of the page's tables; a cell may name several fields."""
    rows = [line.strip("| \n").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [row for row in rows if len(row) >= 3 and row[0] != "file"]
    return [
        (file, field, how)
        for file, fields, how, *_ in cells
        for field in (re.findall(r"`([^`]+)`", fields) or [fields])
    ]


CHECKED = [(file, field) for file, field, how in table() if how in ("made again", "held")]
# An audit takes a quarter of a second: the quick tests have the first field of every file.
FIRST = {file: (file, field) for file, field in reversed(CHECKED)}
CONFIG = re.findall(r"^\| `([^`]+)` \| (?!made|held|raw)[^|]+ \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def made(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forward and a reverse run, selected, both evaluated on every benchmark."""

    def typed(*words: object) -> None:
        done = in_process(*words)
        assert done.returncode == 0, done.stderr

    runs = Path(shutil.copytree(pair, tmp_path_factory.mktemp("made") / "runs"))
    forward, reverse = (runs / "tiny" / way / "seed-1" for way in ("forward", "reverse"))
    typed("select", forward, reverse)
    typed(
        *("eval", "tiny", "--out", runs, "--adapter", forward, "--adapter", reverse),
        *("--data", "sample", "--tasks", "paper", "--partial", "--limit", 4),
    )
    typed("judge", forward, "--rubric", "score-only")
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def run(runs: Path) -> Path:
    return runs / "tiny" / "forward" / "seed-1"


def sign(run: Path) -> None:
    """Every manifest again, over the files that are there."""
    inner = [path for path in run.rglob("manifest.json") if path.parent != run]
    for path in (*inner, run / "manifest.json"):
        if path.exists():
            names = json.loads(path.read_text())["sha256"]
            if path.parent == run:
                files = (p for p in run.rglob("*") if p.is_file() and p.name[0] != ".")
                every = {p.relative_to(run).as_posix() for p in files}
                later = ("evals", "judged", "selected.json")
                names = {n for n in every if n.split("/")[0] not in later}
                names -= {"manifest.json"}
            digests = {
                name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest()
                for name in names
                if (path.parent / name).exists()
            }
            path.write_text(json.dumps({"sha256": digests}, sort_keys=True, indent=1) + "\n")


def other(value: Any) -> Any:
    """Another value of the same kind; of an object, one whose first leaf is another."""
    if isinstance(value, dict) and not value:
        return {"another": 1}
    if isinstance(value, dict):
        first = min(value)
        return {**value, first: other(value[first])}
    if isinstance(value, list):
        return [*value, "another"]
    if isinstance(value, bool):
        return not value
    if value is None:
        return 0.5
    return f"{value}x" if isinstance(value, str) else value * 2 + 1


def change(record: dict[str, Any], field: str) -> dict[str, Any]:
    """The record with another value in a field, which "a.b" names within a; b may have dots."""
    if field in record:
        return {**record, field: IMPOSSIBLE.get(field, other(record[field]))}
    first, _, rest = field.partition(".")
    return {**record, first: change(record[first], rest)}


def rewrite(path: Path, number: int, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Edit one line of a JSONL file."""
    lines = path.read_text("utf-8").splitlines()
    lines[number - 1] = dumps(edit(json.loads(lines[number - 1])))
    path.write_text("".join(line + "\n" for line in lines), "utf-8")


def rewrite_json(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    text = path.read_text("utf-8")
    record = edit(json.loads(text))
    indent = 1 if text.count("\n") > 1 else None
    written = json.dumps(record, sort_keys=True, ensure_ascii=False, indent=indent)
    path.write_text(written + "\n", "utf-8")


def places(run: Path, file: str, field: str) -> Iterator[tuple[Path, int | None]]:
    """Where the page's table means: files, and the line of those that have many records."""
    name, _, kind = file.partition(", ")
    evaluations = sorted((run / "evals").glob("*/*"))
    if file == "rows":
        for path in (run / STEP, run / EPOCH):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                if field != "finish" or json.loads(line)["finish"] == "stop":
                    yield path, number
                    break
    elif kind:  # of the lines of one kind, the last
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
        yield run / name, max(n for n, li in enumerate(lines, 1) if li["kind"] == kind[:-1])
    elif name == "samples.jsonl":
        for folder in evaluations:
            line = (folder / name).read_text().splitlines()[1]
            if field in json.loads(line):
                yield folder / name, 2
    elif name == "result.json":
        yield evaluations[0] / name, None
    elif file == "verdicts":
        yield next((run / "judged").glob("*/*/epoch-01.jsonl")), 2
    elif name == "judge.json":
        yield next((run / "judged").glob("*/*/judge.json")), None
    elif name in ("state.json", "adapter_config.json"):
        yield run / "checkpoints" / "epoch-01" / name, None
    elif name != "manifest.json" and name != "experiment.json":
        yield run / name, None


def reported(audit: Audit, path: Path) -> list[int | None]:
    """The lines of a file in which something was found."""
    return [finding.line for finding in audit.findings if finding.file == str(path)]


def test_a_real_run_with_its_evaluations_is_clean(made: Path) -> None:
    audit = audit_path(made)
    assert [finding.text for finding in audit.findings] == []
    assert not audit.notes
    looked_at = {name: len(where) for name, where in audit.looked_at.items() if where}
    answers = 2 * (4 * 2 * 4 + 3 * 4)
    assert looked_at["scores"] - 3 * 4 == looked_at["groups"] == looked_at["weights"] == answers
    assert looked_at["verdicts"] > 80 and looked_at["selection"] > 20 and looked_at["cells"] > 20
    assert looked_at.keys() == audit.looked_at.keys() - {"experiment", "probes"}


@pytest.mark.parametrize(
    ("file", "field"),
    [
        pytest.param(*one, id=" ".join(one), marks=[] if one == FIRST[one[0]] else pytest.mark.slow)
        for one in CHECKED
    ],
)
def test_a_change_of_any_field_is_found(run: Path, file: str, field: str) -> None:
    if file in ("manifest.json", "experiment.json"):
        pytest.skip("has a test of its own")
    for path, number in places(run, file, field):
        before = path.read_bytes()
        if path.suffix == ".txt" or file == "questions.jsonl":
            path.write_bytes(before.replace(b"strict", b"kind").replace(b"short", b"long"))
        elif number is None:
            rewrite_json(path, lambda record: change(record, field))
        else:
            rewrite(path, number, lambda record: change(record, field))
        assert path.read_bytes() != before
        sign(run)
        lines = reported(audit_path(run), path)
        if number is not None or path.name in ("state.json", "adapter_config.json"):
            assert (number or 1) in lines
        elif path.suffix == ".json" and path.name != "result.json":
            first = line_of(path.read_text(), *field.split("."))
            assert any(line is not None and line >= first for line in lines)
        else:  # a digest of the whole file, or of what names its folder
            assert lines
        path.write_bytes(before)
        sign(run)


@pytest.mark.parametrize(
    "field",
    [pytest.param(f, marks=pytest.mark.slow if n % 6 else []) for n, f in enumerate(CONFIG)],
)
def test_the_config_is_proved_by_the_records(run: Path, field: str) -> None:
    def edit(record: dict[str, Any]) -> dict[str, Any]:
        late = FIELDS[field].default if field in FIELDS else None
        value = record["science"].get(field, late)
        swaps = {"forward": "reverse", "bnpo": "grpo", 0.1: 0.7}
        swaps |= {"sample": "none", "moves": "zero", "plain": "top_k=5", "": "5"}
        if field == "lora_targets":
            value = "q_proj"
        elif field.endswith("digest"):
            value = "0" * 64
        else:
            value = swaps.get(value, value + 1 if isinstance(value, int) else other(value))
        science = {**record["science"], field: value}
        return {**record, "science": science, "fingerprint": science_digest(science)}

    assert set(CONFIG) <= FIELDS.keys() | {f"{n} digest" for n in ("questions", "rubric", "model")}
    (run / "selected.json").unlink()  # it would tell as well, as it has the fingerprint
    rewrite_json(run / "config.json", edit)
    sign(run)
    found = {finding.check for finding in audit_path(run).findings}
    assert found - {"experiment"}, field


def test_the_page_names_every_field(run: Path) -> None:
    named: dict[str, set[str]] = {}
    for file, field, _ in table():
        named.setdefault(file, set()).add(field.split(".")[0])
    rows = [json.loads(line) for name in (STEP, EPOCH) for line in (run / name).open()]
    assert all(row.keys() == named["rows"] for row in rows)
    for line in map(json.loads, (run / "metrics.jsonl").open()):
        assert line.keys() == named[f"metrics.jsonl, {line['kind']}s"]
    for name in ("state.json", "config.json", "status.json", "selected.json"):
        path = run / "checkpoints" / "epoch-01" / name if name == "state.json" else run / name
        keys = json.loads(path.read_text()).keys() - {"science", "pid", "heartbeat"}
        assert keys == named[name], name
    verdict = next((run / "judged").glob("*/*/epoch-01.jsonl")).open()
    assert json.loads(next(verdict)).keys() == named["verdicts"]
    record = json.loads(next((run / "judged").glob("*/*/judge.json")).read_text())
    assert record.keys() == named["judge.json"]
    samples = [next(path.open()) for path in (run / "evals").rglob("samples.jsonl")]
    assert {key for line in samples for key in json.loads(line)} == named["samples.jsonl"]
    result = json.loads(next((run / "evals").rglob("result.json")).read_text())
    assert result.keys() == named["result.json"]


def test_a_run_of_older_code_has_no_share_of_degenerate_answers(run: Path) -> None:
    """That is told and no difference, unless only some of the lines lack it."""
    path = run / "metrics.jsonl"

    def without(record: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in record.items() if name != "degenerate"}

    rewrite(path, 2, without)
    sign(run)
    assert reported(audit_path(run), path) == [2]
    for number in range(len(path.read_text().splitlines())):
        rewrite(path, number + 1, without)
    sign(run)
    audit = audit_path(run)
    assert not audit.findings and any(
        "degenerate is not there to be checked" in n for n in audit.notes
    )


def test_an_answer_cut_at_the_cap_cannot_be_said_to_have_ended(run: Path) -> None:
    """Its last token stands within other answers, and would have ended those as well."""
    rows = {
        (path, n): json.loads(line)
        for path in sorted(run.glob("*/*.jsonl"))
        for n, line in enumerate(path.open(), start=1)
    }
    within = [token for row in rows.values() for token in row["ids"][:-1]]
    path, number = next(
        place
        for place, row in rows.items()
        if row["finish"] == "length" and row["ids"][-1] in within
    )
    rewrite(path, number, lambda row: {**row, "finish": "stop"})
    sign(run)
    found = [f for f in audit_path(run).findings if f.check == "endings"]
    assert [(f.file, f.line) for f in found] == [(str(path), number)]


def test_a_score_cannot_be_hidden_as_not_finite(run: Path) -> None:
    for reason in ("judge-not-finite", "too-long"):
        hide = {"unscored": reason, "score": None, "span": None, "reward": None}
        rewrite(run / STEP, 2, lambda row, hide=hide: {**row, **hide})
        assert 2 in reported(audit_path(run), run / STEP)


def resettle(folder: Path) -> Path:
    """Name an evaluation's folder by the digest of what its result.json says now, and sign it."""
    result = json.loads((folder / "result.json").read_text())
    own = {name: result[name] for name in ("benchmark", "settings", "model", "adapter")}
    own["data"] = {"digest": result["data"]["digest"]}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    folder = folder.rename(folder.with_name(f"{folder.name.rpartition('-')[0]}-{digest[:8]}"))
    sign(folder)
    return folder


@pytest.mark.parametrize(
    "data",
    [
        {"total": 4, "partial": None},
        {"total": 4, "partial": None, "origin": "hub heegyu/bbq@123"},
        {"origin": "hub heegyu/bbq@123"},
        {"total": 4, "partial": None, "origin": "files /data"},
        {"note": "all of the published items"},
    ],
    ids=str,
)
def test_a_few_items_of_our_own_cannot_be_said_to_be_the_published_set(
    run: Path, data: dict[str, Any]
) -> None:
    folder = next((run / "evals" / "bbq").glob("*"))
    rewrite_json(folder / "result.json", lambda r: {**r, "data": {**r["data"], **data}})
    sign(run)
    found = {finding.field for finding in audit_path(folder).findings}
    assert found and found <= {f"data.{name}" for name in ("origin", "total", "partial", "note")}


def test_items_of_a_set_that_is_not_here_are_of_the_published_number(run: Path) -> None:
    folder = next((run / "evals" / "bbq").glob("*"))

    def forged(result: dict[str, Any], origin: str) -> dict[str, Any]:
        data = {**result["data"], "digest": "0" * 64, "origin": origin, "total": 4}
        return {**result, "data": {**data, "partial": None}}

    own = f"hub {BENCHMARKS['bbq'].source.repo}@123"
    for origin, also in ((own, []), ("hub else/where@1", ["data.origin"])):
        rewrite_json(folder / "result.json", lambda r, o=origin: forged(r, o))
        folder = resettle(folder)
        audit = audit_path(folder)
        fields = {*also, "data.total", "data.partial"}
        assert {f.field for f in audit.findings if f.check == "results"} == fields


@pytest.mark.parametrize("name", ["qwen3-8b", "tiny-c4531a5a"])
def test_a_model_s_folder_that_was_renamed_is_found(runs: Path, name: str) -> None:
    (runs / "tiny").rename(runs / name)
    found = {(f.file, f.field) for f in audit_path(runs).findings}
    files = [*(runs / name).glob("*/seed-1/config.json"), *runs.rglob("result.json")]
    assert {(str(file), "model.id") for file in files} <= found


def test_a_run_is_of_the_direction_and_seed_that_its_folder_says(run: Path) -> None:
    moved = run.rename(run.with_name("seed-2"))
    assert ("science.seed", 1, 2) in {
        (f.field, f.logged, f.recomputed) for f in audit_path(moved).findings if f.check != "cells"
    }


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"id": "Qwen/Qwen3-8B", "revision": None}},
        {"model": {"id": "tiny", "revision": "0" * 40}},
        {"model": {"id": "/models/tiny", "revision": None}},
        {"model": None},
        {"settings": "qwen3-8b"},
        {"settings": "tiny2"},
    ],
    ids=str,
)
def test_config_names_one_model(run: Path, change: dict[str, Any]) -> None:
    def edit(config: dict[str, Any]) -> dict[str, Any]:
        if "settings" in change:
            return {**config, "settings": {**config["settings"], "model": change["settings"]}}
        return {**config, **change}

    rewrite_json(run / "config.json", edit)
    sign(run)
    assert reported(audit_path(run), run / "config.json")


def test_an_evaluation_under_another_model_s_name_is_found(run: Path) -> None:
    folder = next((run / "evals" / "bbq").glob("*"))
    model = {"id": "Qwen/Qwen3-8B"}
    rewrite_json(folder / "result.json", lambda r: {**r, "model": {**r["model"], **model}})
    folder = resettle(folder)
    assert {f.field for f in audit_path(folder).findings} == {"model.id"}


# --- damage ---------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "not JSON": lambda line: b"not json",
    "half": lambda line: line[:20],
    "NaN": lambda line: re.sub(rb'"epoch": \d+|"sample": \d+', b'"sample": NaN', line),
    "twice": lambda line: line[:-1] + b', "sample": 0, "sample": 0}',
    "mark in front": lambda line: b"\xef\xbb\xbf" + line,
    "other order": lambda line: b'{"zz": 1, ' + line[1:],
    "blanks": lambda line: line + b" ",
    "empty": lambda line: b"",
    "a list": lambda line: b"[1]",
    "not UTF-8": lambda line: line.replace(b'"', b'"\xff', 1),
}


DAMAGED = [STEP, EPOCH, "metrics.jsonl", "timings.jsonl", "samples.jsonl"]


@pytest.mark.parametrize(
    ("file", "damage"),
    [  # each damage to one file is quick, and to the others slow
        pytest.param(file, damage, marks=[] if n % 5 == m else pytest.mark.slow)
        for m, file in enumerate(DAMAGED)
        for n, damage in enumerate(DAMAGE)
    ],
)
def test_a_damaged_line_is_found(run: Path, file: str, damage: str) -> None:
    path = run / file
    if file == "samples.jsonl":
        path = sorted((run / "evals").rglob(file))[0]
    lines = path.read_bytes().splitlines()
    changed = DAMAGE[damage](lines[1])
    assert changed != lines[1]
    path.write_bytes(b"".join(line + b"\n" for line in [lines[0], changed, *lines[2:]]))
    sign(run)
    audit = audit_path(run)
    found = [f for f in audit.findings if f.check == "records"]
    assert [(f.file, f.line) for f in found] == [(str(path), 2)]
    # and nothing of the other lines is found for it
    assert set(reported(audit, path)) <= {2, None}


@pytest.mark.parametrize("file", [STEP, "metrics.jsonl", "timings.jsonl"])
def test_a_torn_last_line_is_found(run: Path, file: str) -> None:
    path = run / file
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    sign(run)
    assert data.count(b"\n") in reported(audit_path(run), path)


def test_a_missing_file_and_a_left_over_one_are_found(run: Path) -> None:
    gone, extra = run / "rollouts" / "step-000002.jsonl", run / "rollouts" / "step-000099.jsonl"
    extra.write_bytes(gone.read_bytes())
    gone.unlink()
    audit = audit_path(run)
    named = {(f.check, f.file) for f in audit.findings}
    assert {("manifests", str(gone)), ("records", str(gone)), ("records", str(extra))} <= named
    assert ("manifests", str(run / "manifest.json")) in named  # which does not name the other
    sign(run)
    named = {(f.check, f.file) for f in audit_path(run).findings}
    assert {("records", str(gone)), ("records", str(extra))} <= named


def test_a_table_cell_is_made_again_from_the_samples(runs: Path, run: Path) -> None:
    path = next((run / "evals" / "toxigen").rglob("result.json"))
    rewrite_json(path, lambda result: change(result, "metrics.acc_norm.value"))
    sign(run)
    audit = audit_path(runs)
    found = [finding.field for finding in audit.findings if finding.check == "cells"]
    fields = [
        f"{part}, {name}" for part in ("forward", "difference") for name in ("mean", "values")
    ]
    assert found == [f"tiny toxigen/acc_norm {field}" for field in fields]
    assert reported(audit, path)


def test_a_file_changed_under_its_manifest_is_found(run: Path) -> None:
    for name in ("checkpoints/epoch-02/adapter_model.safetensors", "env.json", "rubric.txt"):
        path = run / name
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        found = audit_path(run).findings
        assert [f.file for f in found if f.check == "manifests"] == [str(path)] * (
            1 + ("/" in name)
        )
        path.write_bytes(before)


def test_a_checkpoint_that_is_gone_is_found(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "epoch-01")
    sign(run)
    assert reported(audit_path(run), run / "checkpoints" / "epoch-01") == [None]


def test_a_sample_that_was_left_out_is_found(run: Path) -> None:
    path = sorted((run / "evals").rglob("samples.jsonl"))[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    sign(run)
    assert "number of lines" in {f.field for f in audit_path(run).findings}


ODD: list[Any] = [None, True, 1e300, "", [], {}, [[1]], {"a": {"b": []}}, -1]


def odd_ones(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record with three odd values in each of its fields, one at a time."""
    for number, key in enumerate(sorted(record)):
        for shift in (0, 2, 5):
            odd = ODD[(number + shift) % len(ODD)]
            if odd != record[key]:
                yield {**record, key: odd}


def only_evaluation(run: Path) -> Path:
    """The first of a run's evaluations, of which the others are removed: an audit is faster."""
    (folder, *others) = sorted((run / "evals").glob("*/*"))
    for other_one in others:
        shutil.rmtree(other_one)
    return folder


STATE = "checkpoints/epoch-01/state.json"
SLOW_FILES = ("config.json", "selected.json", STATE, STEP, "metrics.jsonl")
ODD_FILES = ("config.json", "status.json", "selected.json", STATE)
ODD_LINES = (STEP, "metrics.jsonl", "samples.jsonl")


def marked_slow(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW_FILES else []) for n in names]


@pytest.mark.parametrize("name", marked_slow(ODD_FILES))
def test_values_of_no_kind_at_all_are_findings_and_no_traceback(run: Path, name: str) -> None:
    only_evaluation(run)
    path = run / name
    record = json.loads(path.read_text())
    changed = list(odd_ones(record))
    if name == "config.json":
        changed += [{**record, "science": odd} for odd in odd_ones(record["science"])]
    for odd in changed:
        path.write_text(json.dumps(odd))
        audit_path(run)
    path.write_text("[1]")
    assert reported(audit_path(run), path)


@pytest.mark.parametrize("name", marked_slow(ODD_LINES))
def test_values_of_no_kind_in_a_line_are_findings(run: Path, name: str) -> None:
    folder = only_evaluation(run)
    path = (folder if name == "samples.jsonl" else run) / name
    for odd in odd_ones(json.loads(path.read_text().splitlines()[1])):
        rewrite(path, 2, lambda _, odd=odd: odd)
        assert reported(audit_path(folder if path.parent == folder else run), path)


def test_values_of_no_kind_in_a_result_are_findings(run: Path) -> None:
    folder = only_evaluation(run)
    for odd in odd_ones(json.loads((folder / "result.json").read_text())):
        (folder / "result.json").write_text(json.dumps(odd))
        assert reported(audit_path(folder), folder / "result.json")


EVERY_FILE = [
    *("config.json", "status.json", "selected.json", "prompts.json", "manifest.json"),
    *("checkpoints/epoch-01/state.json", "checkpoints/epoch-01/adapter_config.json"),
    *(STEP, EPOCH, "metrics.jsonl", "timings.jsonl", "questions.jsonl", "samples.jsonl"),
    *("result.json", "env.json"),
]


@pytest.mark.parametrize("file", EVERY_FILE)
def test_a_field_that_nothing_writes_is_found(run: Path, file: str) -> None:
    path = run / file
    if file in ("samples.jsonl", "result.json"):
        path = next((run / "evals" / "bbq").rglob(file))
    if path.suffix == ".jsonl":
        rewrite(path, 2, lambda record: {**record, "zz": 1})
    elif file == "env.json":
        path.write_text(json.dumps([{**start, "zz": 1} for start in json.loads(path.read_text())]))
    else:
        rewrite_json(path, lambda record: {**record, "zz": 1})
        inner = [key for key, value in json.loads(path.read_text()).items() if type(value) is dict]
        for key in set(inner) - {"sha256", "science", "candidates", "settings", "adapter", "rule"}:
            rewrite_json(path, lambda r, key=key: {**r, key: {**r[key], "zz": 1}})
    if file != "manifest.json":
        sign(run)
    fields = {f.field for f in audit_path(run).findings if f.file == str(path)}
    assert "zz" in fields
    if file in ("config.json", "checkpoints/epoch-01/state.json", "result.json"):
        assert any(field.endswith(".zz") for field in fields)


@pytest.mark.parametrize("name", ["env.json", "prompts.json"])
@pytest.mark.parametrize("odd", [None, [], {}, [1], [[]], {"before": "", "after": "", "strips": 0}])
def test_starts_and_prompts_have_their_shape(run: Path, name: str, odd: Any) -> None:
    (run / name).write_text(json.dumps(odd))
    sign(run)
    assert reported(audit_path(run), run / name)


@pytest.mark.parametrize("field", ["seconds", "sample", "judge", "peak_gib"])
@pytest.mark.parametrize("value", [-5, None, "1"])
def test_seconds_are_0_or_more(run: Path, field: str, value: Any) -> None:
    for number in (1, 2):
        rewrite(run / "timings.jsonl", number, lambda line: {**line, field: value})
    sign(run)
    assert reported(audit_path(run), run / "timings.jsonl") == [1, 2]


# --- other configs, unfinished and older runs -----------------------------------------------------


CONFIGS: list[dict[str, Any]] = [
    {"loss_type": "grpo", "iterations": 2, "direction": "reverse"},
    {"loss_type": "dr_grpo", "generations": 3, "beta": 0.5, "amax": "on"},
    {"loss_type": "dapo", "prompts_per_step": 4, "warmup_ratio": 0.5, "lora_targets": "q_proj"},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["loss_type"])
def test_runs_of_other_configs_are_clean_at_every_point(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """Stopped after two steps, and finished; a random model's judge gives no scores."""
    for stop_after in (2, None):
        run, steps = open_run(toy.flags(tmp_path, **config)), list[train.Event]()
        for event in train.train(run, lambda n=stop_after, steps=steps: len(steps) == n):
            steps += [event] if isinstance(event, train.Stepped) else []
        run.store._lock.close()
        audit = audit_path(run.store.folder)
        assert [finding.text for finding in audit.findings] == []
        assert bool(audit.notes) == (stop_after is not None)
        assert len(audit.looked_at["checkpoints"]) >= 4


def test_a_run_still_being_written_is_audited_up_to_its_last_whole_line(run: Path) -> None:
    (run / "manifest.json").unlink()
    (run / "selected.json").unlink()
    status = {"state": "running", "step": 3, "steps": 4, "pid": 1, "heartbeat": 0.0}
    (run / "status.json").write_text(json.dumps(status))
    for name in ("metrics.jsonl", "timings.jsonl"):
        lines = (run / name).read_bytes().splitlines(keepends=True)
        (run / name).write_bytes(b"".join(lines[:5]) + lines[5][:10])
    shutil.rmtree(run / "checkpoints" / "epoch-02")
    (run / "evaluations" / "epoch-02.jsonl").unlink()
    shutil.rmtree(run / "evals")
    audit = audit_path(run)
    assert [finding.text for finding in audit.findings] == []
    notes = " ".join(audit.notes)
    for part in (
        "running, so audited as far as it is",
        "not whole yet",
        "step-000004.jsonl has no",
    ):
        assert part in notes
    # three steps and two evaluations, which another rubric judged again
    assert len(audit.looked_at["scores"]) == 3 * 8 + 2 * 4 + 2 * 4
    rewrite(run / STEP, 1, lambda row: {**row, "score": 9})
    assert 1 in reported(audit_path(run), run / STEP)


def test_a_run_of_older_code_says_what_is_not_there(run: Path) -> None:
    for name in ("manifest.json", "rubric.txt", "questions.jsonl", "prompts.json"):
        (run / name).unlink()
    for path in (*run.glob("rollouts/*"), *run.glob("evaluations/*")):
        for number in range(1, len(path.read_text().splitlines()) + 1):
            rewrite(path, number, lambda row: {k: v for k, v in row.items() if k != "weight"})
    audit = audit_path(run)
    assert [finding.text for finding in audit.findings] == []
    (note,) = audit.notes
    assert "older code wrote none, or it was removed" in note
    for name in ("manifest.json", "rubric.txt", "questions.jsonl", "prompts.json", "weight"):
        assert name in note
    rewrite(run / STEP, 2, lambda row: {**row, "advantage": row["advantage"] + 1e-15})
    assert reported(audit_path(run), run / STEP) == [2]


def test_an_unfinished_evaluation_is_said(run: Path) -> None:
    folder = sorted((run / "evals").glob("*/*"))[0]
    for name in ("result.json", "manifest.json"):
        (folder / name).unlink()
    audit = audit_path(folder)
    assert not audit.findings and "not finished" in "".join(audit.notes)


@pytest.fixture
def experiment(runs: Path) -> Path:
    """The experiment.json over the runs, as `experiment` would have written it."""
    tasks = tuple(sorted(path.name for path in (runs / "tiny/forward/seed-1/evals").iterdir()))
    plan = Experiment(runs, "tiny", "tiny", (1,), tasks, "sample", Rule())
    made = sorted(path.parent.relative_to(runs).as_posix() for path in runs.rglob("result.json"))
    names = [piece.name for piece in pieces(plan)]
    states = {name: "done" for name in names} | {"eval base": "waiting"}
    write_states(plan, states, {"eval seed 1": made})
    return runs / "experiment.json"


def test_an_experiment_names_what_is_done(runs: Path, experiment: Path) -> None:
    audit = audit_path(runs)
    assert not audit.findings and not audit.notes
    text = experiment.read_text()
    experiment.write_text(text.replace('"waiting"', '"done"'))
    found = audit_path(runs).findings
    assert [f.field for f in found] == ["eval base, results"]
    assert all("eval base" in text.splitlines()[(f.line or 0) - 1] for f in found)
    experiment.write_text(text)
    forward = runs / "tiny" / "forward" / "seed-1"
    for gone in (forward / "manifest.json", forward / "selected.json"):
        gone.rename(gone.with_suffix(".away"))
        assert "experiment" in {finding.check for finding in audit_path(runs).findings}
        gone.with_suffix(".away").rename(gone)
    first = json.loads(text)["models"]["tiny"]["pieces"][-1]["results"][0]
    shutil.rmtree(runs / first)
    (finding,) = audit_path(runs).findings
    assert finding.text.endswith(
        f"eval seed 1, {first}/manifest.json is absent and should be there, as this piece is said "
        "to be done"
    )


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"models": {}},
        {"models": []},
        {"models": {"tiny": None}},
        {"models": {"tiny": {}}},
        {"models": {"tiny": {"pieces": [None]}}},
    ],
    ids=str,
)
def test_an_experiment_of_another_shape_is_found(
    runs: Path, experiment: Path, record: dict[str, Any]
) -> None:
    experiment.write_text(json.dumps(record))
    assert {f.check for f in audit_path(runs).findings} == {"experiment"}


OF_MODEL: dict[str, Callable[[dict[str, Any]], Any]] = {
    "model": lambda model: model.update(model="qwen3-8b"),
    "seeds": lambda model: model.update(seeds=[1, 2]),
    "data": lambda model: model.update(data="hub"),
    "tasks": lambda model: model.update(tasks=model["tasks"][1:]),
    "another field": lambda model: model.update(note="all five"),
    "no pieces": lambda model: model.pop("pieces"),
    "another field of a piece": lambda model: model["pieces"][0].update(note="good"),
    "a name": lambda model: model["pieces"][0].update(name="train forward seed x"),
    "a path": lambda model: model["pieces"][0].update(path="tiny/reverse/seed-1"),
    "a state": lambda model: model["pieces"][0].update(state="fine"),
    "an error": lambda model: model["pieces"][0].update(error="It failed."),
    "a command": lambda model: model["pieces"][0]["command"].__setitem__(3, "reverse"),
    "no results": lambda model: model["pieces"][-1].update(results=[]),
    "data of all": lambda model: (
        model.update(data="hub"),
        model["pieces"][-1]["command"].__setitem__(
            model["pieces"][-1]["command"].index("--data") + 1, "hub"
        ),
    ),
}


@pytest.mark.parametrize("change", OF_MODEL)
def test_a_change_of_experiment_json_is_found(runs: Path, experiment: Path, change: str) -> None:
    record = json.loads(experiment.read_text())
    OF_MODEL[change](record["models"]["tiny"])
    experiment.write_text(json.dumps(record, sort_keys=True, indent=1) + "\n")
    assert {f.check for f in audit_path(runs).findings} == {"experiment"}


def test_a_model_under_another_name_is_found(runs: Path, experiment: Path) -> None:
    (runs / "tiny").rename(runs / "qwen3-8b")
    experiment.write_text(experiment.read_text().replace("tiny", "qwen3-8b"))
    found = {f.file for f in audit_path(runs).findings if f.field == "model.id"}
    assert len(found) == 2 + len(list(runs.rglob("result.json")))


def test_a_finished_run_that_an_experiment_leaves_out_is_said(runs: Path, experiment: Path) -> None:
    shutil.copytree(runs / "tiny/forward/seed-1", runs / "tiny/forward/seed-2")
    assert f"{experiment}: it leaves tiny/forward/seed-2 out, which is finished" in (
        audit_path(runs).notes
    )


def test_a_run_behind_a_link_is_audited_and_another_link_is_said(runs: Path, run: Path) -> None:
    away = run.rename(runs.parent / "away")
    run.symlink_to(away)
    (runs / "circle").symlink_to(runs)
    audit = audit_path(runs)
    assert not audit.findings
    assert [note.partition(":")[0] for note in audit.notes] == [str(runs / "circle")]
    rewrite(run / STEP, 3, lambda row: {**row, "score": 9, "reward": 9.0})
    assert 3 in reported(audit_path(runs), run / STEP)


def test_a_run_named_from_within_has_its_neighbour(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "selected.json"
    record = json.loads(path.read_text())
    record["pair"]["reverse"]["run"] = "moved"
    path.write_text(dumps(record))
    for place, name in ((run, "."), (run / "rollouts", ".."), (run.parent, "seed-1")):
        monkeypatch.chdir(place)
        audit = audit_path(Path(name))
        assert not audit.findings and not audit.notes


# --- the command ----------------------------------------------------------------------------------


def test_the_command_counts_and_shows_the_first_differences(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(run)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\n +56 scores read again from the judge's words: all equal\n", out)
    rewrite(run / STEP, 3, lambda row: {**row, "score": 9, "reward": 9.0})
    sign(run)
    assert main(["audit", str(run)]) == 5
    out = capsys.readouterr().out
    assert re.search(rf"{STEP}, line 3: score is 9 and should be \d", out)
    assert "56 scores read again from the judge's words: 1 differ" in out
    assert main(["audit", str(run), "--json"]) == 5
    record = json.loads(capsys.readouterr().out)
    assert record["checks"]["scores"] == {"checked": 56, "differ": 1}
    first = next(f for f in record["findings"] if f["check"] == "scores")
    assert (first["line"], first["field"], first["logged"]) == (3, "score", 9)


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(tmp_path)]) == 2
    assert "holds no run and no evaluation" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_it_needs_no_torch(run: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from minihmx.cli import main; sys.exit(main(['audit', {str(run)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env({}))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_of_88_steps_takes_seconds(tmp_path: Path) -> None:
    flags = toy.flags(tmp_path, questions=str(toy.questions(tmp_path / "q.jsonl", 88)), epochs=2)
    words = [
        word for name, value in flags.items() for word in (f"--{name}".replace("_", "-"), value)
    ]
    model = words.pop(words.index("--model") + 1)
    words.remove("--model")
    done = minihmx("train", model, *words, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == toy.ENDED, done.stderr
    start = time.monotonic()
    audit = audit_path(tmp_path / "runs")
    assert not audit.findings and len(audit.looked_at["groups"]) == 88 * 8 + 3 * 4
    assert time.monotonic() - start < 10
