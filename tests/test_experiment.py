"""The plan as plain values, and the whole experiment on tiny: shared, killed and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import toy
from command_line import command, env, in_process, minihmx, refused

from minihmx.commands.experiment import seeds
from minihmx.errors import UserError
from minihmx.experiment import (
    Experiment,
    claim,
    is_done,
    pieces,
    stored_results,
    write_states,
)
from minihmx.selection import Rule

SIZES = ["--prompts-per-step", 2, "--max-completion-length", 48, "--epochs", 1]


def an_experiment(out: Path, **changes: object) -> Experiment:
    whole = Experiment(out, "tiny", "tiny", (1, 2), ("bbq",), "sample", Rule())
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_the_pieces_of_two_seeds(tmp_path: Path) -> None:
    listed = pieces(an_experiment(tmp_path))
    assert [piece.name for piece in listed] == [
        *("train forward seed 1", "train reverse seed 1", "select seed 1", "eval base"),
        "eval seed 1",
        *("train forward seed 2", "train reverse seed 2", "select seed 2", "eval seed 2"),
    ]
    names = [piece.name for piece in listed]
    for place, piece in enumerate(listed):  # nothing is needed that comes later
        assert set(piece.needs) <= set(names[:place])
    assert listed[4].needs == ("select seed 1",)
    assert listed[4].arguments.count("--adapter") == 2 and "1" in listed[4].arguments


def test_without_tasks_there_is_nothing_to_evaluate(tmp_path: Path) -> None:
    names = [piece.name for piece in pieces(an_experiment(tmp_path, tasks=()))]
    assert not any("eval" in name for name in names) and len(names) == 6


@pytest.mark.parametrize(
    ("text", "found"),
    [("1-5", (1, 2, 3, 4, 5)), ("3", (3,)), ("4,1, 2-3,2", (1, 2, 3, 4))],
)
def test_seeds(text: str, found: tuple[int, ...]) -> None:
    assert seeds(text) == found


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-1", "5-1", "1-99999", "1,,2", "1.5", "9" * 5000, "9999999999"]
)
def test_what_is_no_list_of_seeds(text: str) -> None:
    with pytest.raises(UserError, match="--seeds"):
        seeds(text)


def test_a_config_file_gives_its_values_to_every_run(tmp_path: Path, pair: Path) -> None:
    """A TOML file, and the config.json of a run, whose seed, direction and folder are its own."""
    file = tmp_path / "run.toml"
    file.write_text('model = "tiny"\nepochs = 3\nlearning_rate = 0.001\n')
    words = [
        "experiment",
        "--tasks",
        "none",
        "--seeds",
        "1",
        "--dry-run",
        "--out",
        tmp_path / "new",
    ]
    done = in_process(*words, "--config", file, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    trains = [line for line in done.stdout.splitlines() if "to do  minihmx train tiny" in line]
    assert len(trains) == 2
    assert all("--epochs=2" in line and "--learning-rate=0.001" in line for line in trains)
    config = pair / "tiny/forward/seed-1/config.json"
    words += ["--questions", pair.parent / "questions.jsonl"]  # they were moved since
    done = in_process(*words, "--config", config)
    assert done.returncode == 0, done.stderr
    assert "--max-completion-length=48" in done.stdout and "--seed=" not in done.stdout
    done = in_process(
        *words, "--config", config, "--out", pair
    )  # the same experiment: nothing of it is refused
    assert done.returncode == 0 and "done   minihmx train tiny --direction forward" in done.stdout
    file.write_text("seed = 3\n")
    refused(
        in_process(*words, "--config", file), "has seed", "take that line out, and give --seeds"
    )
    file.write_text("beta = -1.0\n")
    refused(in_process(*words, "--config", file), "--beta -1.0 cannot work")


def test_a_piece_is_claimed_once(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path)
    with claim(tmp_path, "tiny eval base") as mine, claim(tmp_path, "tiny eval base") as other:
        assert mine is not None and other is None
        states = {piece.name: "waiting" for piece in pieces(experiment)}
        write_states(experiment, states, {})
    record = json.loads((tmp_path / "experiment.json").read_text())["models"]["tiny"]
    found = {piece["name"]: piece["state"] for piece in record["pieces"]}
    assert found["eval base"] == "running" and found["select seed 1"] == "waiting"
    with claim(tmp_path, "tiny eval base") as again:
        assert again is not None


def test_a_claim_outlives_the_process_that_made_it_in_its_child(tmp_path: Path) -> None:
    with claim(tmp_path, "tiny eval base") as lock:
        assert lock is not None
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    with claim(tmp_path, "tiny eval base") as while_it_lives:
        assert while_it_lives is None
    child.kill()
    child.wait()
    with claim(tmp_path, "tiny eval base") as afterwards:
        assert afterwards is not None


def test_claims_are_made_in_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "x/.claims").symlink_to(tmp_path / "elsewhere")
    done = in_process("experiment", "tiny", "--tasks", "none", "--out", tmp_path / "x")
    refused(done, ".claims is a link", code=5)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_other_models_and_seeds_stay_listed(tmp_path: Path) -> None:
    first, second = an_experiment(tmp_path), an_experiment(tmp_path, seeds=(2, 3))
    for experiment in (first, second, replace(first, run_name="other")):
        write_states(experiment, {p.name: "waiting" for p in pieces(experiment)}, {})
    models = json.loads((tmp_path / "experiment.json").read_text())["models"]
    assert models["tiny"]["seeds"] == [1, 2, 3] and models["other"]["seeds"] == [1, 2]


def test_results_count_where_they_were_asked_so(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path)
    states = {piece.name: "done" for piece in pieces(experiment)}
    write_states(experiment, states, {"eval base": ["tiny/base/evals/bbq/base-00000000"]})
    assert stored_results(experiment)["eval base"]
    limited = replace(experiment, eval_flags=("--limit=5",))
    assert not stored_results(limited).get("eval base")
    (base,) = (piece for piece in pieces(experiment) if piece.name == "eval base")
    assert not is_done(experiment, base, stored_results(experiment))  # its folder is not there
    folder = tmp_path / "tiny/base/evals/bbq/base-00000000"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert is_done(experiment, base, stored_results(experiment))
    # another process that asks otherwise takes nothing away
    write_states(limited, states, {"eval base": ["tiny/base/evals/bbq/base-11111111"]})
    assert is_done(experiment, base, stored_results(experiment))
    assert len(stored_results(limited)["eval base"]) == 2


def test_a_file_that_is_no_experiment_is_left_alone(tmp_path: Path) -> None:
    long = json.dumps({"name": f"train forward seed {'9' * 5000}", "results": []})
    odd = ('{"name": 5}', "5", long, '{"name": "eval base", "results": [5]}')
    listed = ['{"models": {"tiny": {"pieces": [' + piece + "]}}}" for piece in odd]
    for text in ('{"runs": 5}', *listed):
        (tmp_path / "experiment.json").write_text(text)
        done = in_process("experiment", "tiny", "--tasks", "none", "--out", tmp_path, "--dry-run")
        refused(done, "experiment.json")
        assert (tmp_path / "experiment.json").read_text() == text


def test_the_plan_comes_first_and_a_dry_run_stops_there(tmp_path: Path) -> None:
    done = in_process("experiment", "tiny", "--seeds", "1-3", "--out", tmp_path / "x", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "6 of 88 steps" in done.stdout and "MiB to come" in done.stdout
    assert done.stdout.count("to do  minihmx train") == 6
    assert not (tmp_path / "x").exists()


def test_runs_of_another_config_are_refused_before_the_plan(pair: Path) -> None:
    sizes = ["--epochs", 2, "--prompts-per-step", 2, "--max-completion-length", 48]
    sizes += ["--questions", pair.parent / "questions.jsonl", "--out", pair, "--seeds", 1]
    same = in_process("experiment", "tiny", "--dry-run", *sizes)
    assert same.returncode == 0 and "done   minihmx train tiny --direction forward" in same.stdout
    other = in_process("experiment", "tiny", "--dry-run", *sizes, "--epochs", 3)
    refused(other, "of another config (epochs is 2 there and 3 here")


def test_what_cannot_work_is_refused_before_any_training(tmp_path: Path) -> None:
    for extra, said in (
        (["--tasks", "bqq"], "did you mean bbq?"),
        (["--data", tmp_path / "none"], "none"),
        (["--seed", 1], "--seed"),
        (["--epochs", 0], "--epochs"),
        (["--limit", -1], "--limit"),
        (["--tasks", ","], "Unknown benchmark"),
        (["--data", tmp_path / "none", "--dry-run"], "none"),
    ):
        refused(in_process("experiment", "tiny", "--out", tmp_path / "x", *extra), said)
    assert not (tmp_path / "x").exists()


# --- the whole of it ------------------------------------------------------------------------------


def asked(tmp_path: Path, *extra: object) -> list[object]:
    questions = toy.questions(tmp_path / "questions.jsonl", train=4, held_out=1)
    where = ["--questions", questions, "--out", tmp_path / "runs"]
    return ["experiment", "tiny", "--seeds", "1-2", *where, *SIZES, *extra]


def done_pieces(tmp_path: Path) -> dict[str, str]:
    record = json.loads((tmp_path / "runs/experiment.json").read_text())["models"]["tiny"]
    return {piece["name"]: piece["state"] for piece in record["pieces"]}


@pytest.mark.slow
def test_two_processes_share_an_experiment_and_one_is_killed(tmp_path: Path) -> None:
    line = command(*asked(tmp_path, "--tasks", "toxigen", "--limit", 4))
    both = [
        subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env({}), process_group=0)
        for _ in range(2)
    ]
    time.sleep(12)
    os.killpg(both[0].pid, signal.SIGKILL)  # with the command that it runs
    out, _ = both[1].communicate(timeout=400)
    assert both[1].returncode == 0, out
    assert set(done_pieces(tmp_path).values()) == {"done"} and len(done_pieces(tmp_path)) == 9
    again = minihmx(*asked(tmp_path, "--tasks", "toxigen", "--limit", 4))
    assert again.returncode == 0 and "9, of which 9 are done" in again.stdout
    assert "$ minihmx" not in again.stdout  # no piece is done twice
    assert "ToxiGen" in again.stdout  # the comparison


@pytest.mark.slow
def test_what_fails_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    """In one run's folder a link stands where answers are to be written."""
    folder = tmp_path / "runs/tiny/reverse/seed-1"
    folder.mkdir(parents=True)
    (folder / "rollouts").symlink_to(tmp_path)
    done = minihmx(*asked(tmp_path, "--tasks", "none"))
    assert done.returncode == 5, done.stdout
    assert "FAILED  train reverse seed 1:" in done.stdout and "is a link" in done.stdout
    states = done_pieces(tmp_path)
    assert states["train reverse seed 1"] == "failed" and states["select seed 1"] == "waiting"
    assert states["select seed 2"] == "done"


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    whole = asked(tmp_path, "--tasks", "none", "--epochs", 3)
    process = subprocess.Popen(
        command(*whole), stdout=subprocess.PIPE, text=True, env=env({}), process_group=0
    )
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("step "):
            break
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130 and "the same command goes on" in rest
    assert done_pieces(tmp_path)["train forward seed 1"] == "interrupted"
    assert minihmx(*whole).returncode == 0
    assert set(done_pieces(tmp_path).values()) == {"done"}


@pytest.mark.slow
def test_a_parent_that_is_killed_leaves_its_piece_claimed(tmp_path: Path) -> None:
    whole = asked(tmp_path, "--tasks", "none", "--epochs", 3)
    process = subprocess.Popen(command(*whole), stdout=subprocess.PIPE, text=True, env=env({}))
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("step "):
            break
    process.kill()  # the command that it runs goes on
    again = minihmx(*whole)
    assert again.returncode == 0, again.stdout
    assert "FAILED" not in again.stdout
    assert set(done_pieces(tmp_path).values()) == {"done"}


@pytest.mark.slow
def test_two_who_ask_different_benchmarks_both_come_to_an_end(tmp_path: Path) -> None:
    lines = [
        command(*asked(tmp_path, "--seeds", 1, "--limit", 4, "--tasks", task))
        for task in ("toxigen", "bbq")
    ]
    both = [
        subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env({})) for line in lines
    ]
    told = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert all(text.count("] eval") <= 2 for text in told)
    home = tmp_path / "runs/tiny/forward/seed-1/evals"
    assert {path.name for path in home.iterdir()} == {"toxigen", "bbq"}
