"""`--strength`: an adapter that counts less or more than it was trained, in eval and in chat."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import in_process, refused

from minihmx import lora
from minihmx.engine.open import find_model, load_decoder, open_adapter, with_adapter
from minihmx.evals.asking.results import read_samples
from minihmx.results.collect import collect
from minihmx.results.runs import read_run
from minihmx.results.strengths import strength_table, strengths_of
from minihmx.storage.strict import read_json

ASK = ("eval", "tiny", "--tasks", "truthfulqa_mc2", "--data", "sample", "--limit", 4)


@pytest.fixture
def runs(pair: Path, tmp_path: Path) -> Path:
    shutil.copytree(pair, tmp_path / "runs")
    return tmp_path / "runs"


def folders(runs: Path, place: str = "tiny/forward/seed-1") -> dict[float, Path]:
    """The evaluations of a run by strength."""
    found = (runs / place / "evals" / "truthfulqa_mc2").iterdir()
    return {read_json(f / "result.json")["settings"].get("strength", 1.0): f for f in found}


def logliks(folder: Path) -> list[float]:
    return [x for line in read_samples(folder) for x in line["loglikelihoods"]]


def test_at_0_a_run_answers_as_the_base_and_at_1_as_ever(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    place = ("--out", runs, "--adapter", run)
    assert in_process(*ASK, *place).returncode == 0
    as_trained = folders(runs)[1.0].name
    scaled = ("--strength", 0, "--strength", 0.5, "--strength", 1)
    done = in_process(*ASK, *place, "--adapter", "base", *scaled)
    assert done.returncode == 0, done.stderr
    assert "forward/seed-1/epoch-02 x 0.5" in done.stdout
    found = folders(runs)
    assert sorted(found) == [0.0, 0.5, 1.0] and found[1.0].name == as_trained
    (base,) = folders(runs, "tiny/base").values()  # once, as it has nothing to scale
    assert logliks(found[0.0]) == logliks(base)
    assert logliks(found[0.5]) != logliks(found[1.0]) != logliks(base)
    assert in_process("audit", run).returncode == 0


def test_a_weight_moves_on_a_straight_line(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    model = find_model({"model": "tiny"})
    decoder, opened = load_decoder(model), open_adapter(str(run), model.source)
    moved = {}
    for strength in (0.0, 0.5, 1.0):
        with with_adapter(decoder, opened, strength):
            _, layer = next(lora.layers(decoder))
            moved[strength] = layer(torch.eye(layer.weight.shape[1]))
    torch.testing.assert_close(moved[0.5], (moved[0.0] + moved[1.0]) / 2)
    assert not torch.equal(moved[0.0], moved[1.0])


def test_tables_are_of_adapters_as_they_were_trained(runs: Path) -> None:
    both = [runs / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    adapters = [word for run in both for word in ("--adapter", run)]
    assert in_process(*ASK, "--out", runs, *adapters).returncode == 0
    before = collect([str(runs)], items=False).cells
    assert in_process(*ASK, "--out", runs, *adapters, "--strength", 0.5).returncode == 0
    after = collect([str(runs)], items=False)
    assert after.cells == before
    assert sum("at other strengths than 1 (0.5) are left out" in note for note in after.notes) == 2


def test_strengths_that_differ_late_have_titles_and_columns_of_their_own(runs: Path) -> None:
    run, scaled = runs / "tiny" / "forward" / "seed-1", ("0.1234567", "0.1234568")
    flags = [word for strength in scaled for word in ("--strength", strength)]
    done = in_process(*ASK, "--out", runs, "--adapter", run, *flags)
    assert done.returncode == 0, done.stderr
    assert all(f"forward/seed-1/epoch-02 x {strength}" in done.stdout for strength in scaled)
    names = [read_json(f / "result.json")["adapter"]["name"] for f in folders(runs).values()]
    assert len({*names}) == 1  # the adapter is one; its title on the scoreboard says how strong
    (found,) = strengths_of(read_run(run, ""), [])
    assert strength_table([found]).head[-2:] == scaled


def test_chat_at_0_says_what_the_base_says(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    asked = ("chat", "tiny", "--prompt", "Do you want to go on?", "--adapter", run)
    done = in_process(*asked, "--strength", 0)
    said = dict(line.split("> ", 1) for line in done.stdout.splitlines() if "> " in line)
    assert said["base"] == said["trained"]
    assert "times 0" in done.stdout


def test_a_strength_that_means_nothing_is_refused(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    refused(in_process(*ASK, "--out", runs, "--strength", 0.5), "add --adapter RUN")
    for value in ("-0.5", "3", "nan"):
        scaled = f"--strength={value}"
        refused(in_process(*ASK, "--out", runs, "--adapter", run, scaled), "from 0 (the base)")
        refused(in_process("chat", "--prompt", "a", "--adapter", run, scaled), "from 0 (the base)")
    refused(in_process("chat", "--prompt", "a", "--strength", 0.5), "add --adapter RUN")


def test_a_stored_strength_is_checked_as_every_setting_is(runs: Path) -> None:
    run = runs / "tiny" / "forward" / "seed-1"
    assert in_process(*ASK, "--out", runs, "--adapter", run, "--strength", 0.5).returncode == 0
    path = folders(runs)[0.5] / "result.json"
    result = json.loads(path.read_text())
    result["settings"]["strength"] = 0.25
    path.write_text(json.dumps(result, sort_keys=True) + "\n")
    done = in_process("audit", run)
    assert done.returncode == 5 and "folder" in done.stdout
