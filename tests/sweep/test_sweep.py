"""A job list: what it holds, what is refused of it, and doing it on one machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import toy
from command_line import command, env, in_process, minihmx, refused

from minihmx.commands.sweep import do_job, find_job
from minihmx.errors import UserError
from minihmx.experiment import claim
from minihmx.sweep import local, slurm
from minihmx.sweep.plan import Sweep, read_sweep
from minihmx.sweep.progress import is_finished, standings, write_record
from minihmx.terminal import child as children

SIZES = ["--epochs", 1, "--prompts-per-step", 2, "--max-completion-length", 48]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*extra: object, out: str = "jobs.jsonl") -> subprocess.CompletedProcess[str]:
    toy.questions(Path("questions.jsonl"), train=4, held_out=1)
    asked = ["--questions", "questions.jsonl", *SIZES, "--seeds", "1-2", "--tasks", "toxigen,bbq"]
    return in_process("sweep", "plan", *asked, "--out", out, *extra)


def lines(name: str = "jobs.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


# --- the list -------------------------------------------------------------------------------------


def test_the_list_holds_what_an_experiment_does(here: Path) -> None:
    done = plan("--limit", 3)
    assert done.returncode == 0, done.stderr
    head, *jobs = lines()
    assert head["plan"] == 2 and head["experiments"][0]["seeds"] == [1, 2]
    asked = ["--questions", "questions.jsonl", *SIZES, "--seeds", "1-2", "--tasks", "toxigen,bbq"]
    alone = in_process("experiment", "tiny", *asked, "--limit", 3, "--dry-run").stdout
    pieces = [line.split("minihmx ")[1] for line in alone.splitlines() if "to do  minihmx" in line]
    commands = [shlex.join(job["command"][1:]) for job in jobs]
    same = [text for text in pieces if not text.startswith("eval")]
    assert [text for text in commands if text.startswith(("train", "select"))] == same
    # each evaluation of the experiment asks two runs two benchmarks; here that is four jobs
    kinds = [job["command"][1] for job in jobs]
    assert kinds.count("eval") == 2 + 2 * 4 and kinds.count("compare") == 1
    for job in jobs:
        assert job["memory"] > 0 and job["disk"] > 0 and job["seconds"] is not None
        assert {"--adapter", "--tasks"} <= set(job["command"]) or job["command"][1] != "eval"
        assert f"minihmx {shlex.join(job['command'][1:])}" in done.stdout
    assert not Path("runs").exists()  # nothing ran


def test_the_commands_that_carry_a_list_out_can_be_typed_as_they_stand(here: Path) -> None:
    told = plan(out="it's a list.jsonl").stdout.splitlines()[-2:]
    assert [shlex.split(line.partition("minihmx ")[2]) for line in told] == [
        ["sweep", "run", "it's a list.jsonl", "--local"],
        ["sweep", "submit", "it's a list.jsonl", "--slurm"],
    ]


def test_a_job_stands_behind_what_it_needs_and_a_pair_has_one_number(here: Path) -> None:
    plan()
    seen: dict[str, dict[str, Any]] = {}
    for job in lines()[1:]:
        assert set(job["needs"]) <= set(seen)
        if job["stage"] != "compare":
            assert all(seen[need]["index"] == job["index"] for need in job["needs"])
        seen[job["name"]] = job
    assert len({(job["stage"], job["index"]) for job in seen.values()}) == len(seen)
    assert seen["tiny eval forward seed 2 bbq"]["needs"] == ["tiny select seed 2"]
    assert len(seen["compare"]["needs"]) == 10


def test_without_benchmarks_nothing_is_compared(here: Path) -> None:
    plan("--tasks", "none")
    assert [job["command"][1] for job in lines()[1:]] == 2 * ["train", "train", "select"]


def test_two_models_and_the_whole_paper(here: Path) -> None:
    """Offline and with nothing downloaded, as on the login node of a cluster."""
    done = minihmx(
        *("sweep", "plan", "--models", "qwen3-0.6b,llama3.2-3b", "--seeds", "1-5"),
        *("--tasks", "paper", "--gpu", 80, "--out", "jobs.jsonl"),
        HF_HOME=str(here / "hub"),
    )
    assert done.returncode == 0, done.stderr
    head, *jobs = lines()
    assert head["device"] == "cuda" and len(jobs) == 2 * (5 * 3 + 11 + 5 * 2 * 11) + 1
    train = next(job for job in jobs if job["name"] == "llama3.2-3b train forward seed 1")
    assert train["by"] == "floor" and train["seconds"] > 600 and train["memory"] > 6e9
    assert "unknown for 242 jobs, whose items are not here" in done.stdout


def test_a_config_file_gives_its_values_and_its_model(here: Path) -> None:
    Path("run.toml").write_text('model = "tiny"\nbeta = 0.5\n')
    done = plan("--config", "run.toml")
    assert done.returncode == 0, done.stderr
    trains = [job["command"] for job in lines()[1:] if job["command"][1] == "train"]
    assert trains and all("--beta=0.5" in command and "tiny" in command for command in trains)


def test_a_run_that_was_timed_tells_how_long_others_take(here: Path, pair: Path) -> None:
    shutil.copytree(pair, here / "runs")
    questions = pair.parent / "questions.jsonl"
    sizes = ["--epochs", 2, "--max-completion-length", 48, "--questions", questions]
    assert plan(*sizes).returncode == 0
    trains = [job for job in lines()[1:] if job["command"][1] == "train"]
    assert {job["by"] for job in trains} == {"finished runs"} and trains[0]["seconds"] > 0
    sweep = read_sweep(here / "jobs.jsonl")
    states = {name: each.state for name, each in standings(sweep).items()}
    assert states["tiny train forward seed 1"] == "done"
    assert states["tiny train forward seed 2"] == "waiting"


def test_what_cannot_be_planned_is_refused(here: Path) -> None:
    Path("there.jsonl").write_text("")
    for extra, said in (
        (["--models", "tiny,tiny"], "twice"),
        (["--models", "tiyn"], "did you mean tiny?"),
        (["--tasks", "bqq"], "did you mean bbq?"),
        (["--epochs", 0], "--epochs"),
        (["--seeds", "5-1"], "--seeds"),
        (["--out", "there.jsonl"], "exists already"),
        (["--modls", "tiny"], "did you mean --models?"),
    ):
        refused(plan(*extra), said)
    refused(in_process("sweep", "paln"), "invalid choice")
    assert sorted(path.name for path in here.iterdir()) == ["questions.jsonl", "there.jsonl"]


# --- a list that is not as it was written ---------------------------------------------------------


def edited(number: int, **changes: Any) -> None:
    found = lines()
    found[number] |= changes
    Path("jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))


def test_an_edited_line_is_found(here: Path) -> None:
    plan()
    text = Path("jobs.jsonl").read_text()
    wrong: list[tuple[int, dict[str, Any], str]] = [
        (
            3,
            {"command": ["minihmx", "train", "tiny"]},
            "line 4, tiny select seed 1 differs",
        ),
        (1, {"folder": "elsewhere"}, "line 2, tiny train forward seed 1 differs in folder"),
        (2, {"needs": ["nothing"]}, "differs in needs"),
        (2, {"seconds": "long"}, "differs in seconds"),
        (2, {"extra": 1}, "differs in extra"),
        (0, {"experiments": [5]}, "line 1 does not hold what it should"),
        (0, {"plan": 7}, "version 7, and this minihmx"),
        (0, {"plan": True}, "version True, and this minihmx"),
        (0, {"minihmx": "9.9"}, "line 1 does not hold what it should"),
        (0, {"folder": "/tmp"}, "line 1 does not hold what it should"),
        (0, {"device": 5}, "line 1 does not hold what it should"),
    ]
    for number, changes, said in wrong:
        Path("jobs.jsonl").write_text(text)
        edited(number, **changes)
        for action in (["status"], ["run"], ["submit"], ["job"]):
            more = ["train-forward", 1] if action == ["job"] else []
            refused(in_process("sweep", *action, "jobs.jsonl", *more), said)
    Path("jobs.jsonl").write_text(text.replace('"threshold": 7.5', '"threshold": "x"', 1))
    assert Path("jobs.jsonl").read_text() != text
    refused(in_process("sweep", "status", "jobs.jsonl"), "line 1 does not hold what it should")
    Path("jobs.jsonl").write_text(text.partition("\n")[0] + "\n")
    refused(in_process("sweep", "status", "jobs.jsonl"), "holds 0 jobs, and its first line makes")
    Path("jobs.jsonl").write_text(text.replace("\n", "\n{half", 1))
    refused(in_process("sweep", "status", "jobs.jsonl"), "was edited")
    Path("jobs.jsonl").write_text("{}\n")
    refused(in_process("sweep", "status", "jobs.jsonl"), "is no job list")
    refused(in_process("sweep", "status", "none.jsonl"), "There is no job list", "none.jsonl")


def test_estimates_may_be_edited(here: Path) -> None:
    plan()
    edited(1, seconds=60, by="my own")
    assert in_process("sweep", "status", "jobs.jsonl").returncode == 0


def test_a_list_whose_folder_is_not_here(here: Path) -> None:
    (here / "gone").mkdir()
    os.chdir(here / "gone")
    plan(out=str(here / "jobs.jsonl"))
    os.chdir(here)
    shutil.rmtree(here / "gone")
    done = in_process("sweep", "status", "jobs.jsonl")
    refused(done, "which this machine does not see", code=4)


# --- Slurm's script, without Slurm ----------------------------------------------------------------


def test_the_script_is_written_where_there_is_no_slurm(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan()
    monkeypatch.setenv("PATH", str(here))
    done = in_process("sweep", "submit", "jobs.jsonl", "--slurm")
    refused(done, "sbatch is not on this machine", "jobs.jsonl.slurm.sh")
    assert (here / "jobs.jsonl.slurm.sh").read_text().rstrip() in done.stdout
    (here / "jobs.jsonl.slurm.sh").unlink()
    dry = in_process("sweep", "submit", "jobs.jsonl", "--slurm", "--dry-run")
    assert dry.returncode == 0 and (here / "jobs.jsonl.slurm.sh").exists()
    refused(in_process("sweep", "submit", "jobs.jsonl"), "add --slurm")


def test_the_script_is_bash_and_says_what_was_asked(here: Path) -> None:
    plan()
    asked = ["--partition", "gpu", "--array-limit", 3, "--time", "4:00:00", "--grace", 120]
    more = ["--sbatch=--account=me and you", "--dry-run"]
    in_process("sweep", "submit", "jobs.jsonl", "--slurm", *asked, *more)
    text = Path("jobs.jsonl.slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", "jobs.jsonl.slurm.sh"]).returncode == 0
    assert "--partition=gpu --time=4:00:00 '--account=me and you'" in text
    assert "--signal=B:USR1@120" in text and "--requeue" in text
    assert "train_forward=$(submit train-forward 1-2%3 --mem=" in text
    assert "--dependency=aftercorr:$train_forward,aftercorr:$train_reverse" in text
    assert "submit eval-forward-bbq 1-2%3 --dependency=aftercorr:$select" in text
    assert "afterok:$eval_base_bbq" in text and "gres" not in text


def test_memory_is_asked_for_on_a_cpu_as_it_is_estimated_unless_the_user_does(here: Path) -> None:
    plan()
    submit = ("sweep", "submit", "jobs.jsonl", "--slurm", "--dry-run")

    def lines() -> list[str]:
        text = Path("jobs.jsonl.slurm.sh").read_text().splitlines()
        return [line for line in text if "$(submit " in line]

    in_process(*submit)
    jobs = [json.loads(line) for line in Path("jobs.jsonl").read_text().splitlines()[1:]]
    most = max(job["memory"] for job in jobs if job["stage"] == "train-forward") / 2**20
    (asked,) = (line for line in lines() if line.startswith("train_forward="))
    told = int(asked.partition("--mem=")[2].partition("M")[0])
    assert 1.5 * most + 1024 <= told <= 1.5 * most + 1025
    assert all("--mem=" in line for line in lines())
    in_process(*submit, "--sbatch=--mem-per-cpu=4G")
    assert not any("--mem=" in line for line in lines())


def test_a_gpu_is_asked_for_where_a_model_runs(here: Path) -> None:
    plan("--gpu", 24)
    in_process("sweep", "submit", "jobs.jsonl", "--slurm", "--dry-run")
    found = [
        line for line in Path("jobs.jsonl.slurm.sh").read_text().splitlines() if "$(submit " in line
    ]
    assert not any("--mem" in line for line in found)  # what is estimated is the GPU's
    assert [line for line in found if "gres" not in line] == [
        line for line in found if line.startswith(("select", "compare"))
    ]


def test_the_hub_is_asked_once_before_anything_is_queued(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan("--models", "tiny")
    asked: list[str] = []
    monkeypatch.setattr("minihmx.commands.sweep.fetch_all", lambda e: asked.append(e.model))
    assert in_process("sweep", "fetch", "jobs.jsonl").returncode == 0
    assert asked == ["tiny"]
    in_process("sweep", "submit", "jobs.jsonl", "--slurm", "--dry-run")
    text = Path("jobs.jsonl.slurm.sh").read_text()
    assert asked == ["tiny"]  # a dry run asks nobody
    assert text.index('sweep fetch "$list"') < text.index("$(submit train-forward")
    assert "export HF_HUB_OFFLINE=1" in text.partition("sweep job")[0]  # of every task


def test_a_file_that_is_not_ours_is_not_replaced(here: Path) -> None:
    """Whatever a list is called, its script takes the place of no other file."""
    ask = ("--slurm", "--dry-run")
    plan(out="p.sh")
    before = Path("p.sh").read_text()
    for _ in range(2):  # a script of ours is replaced
        assert in_process("sweep", "submit", "p.sh", *ask).returncode == 0
    assert Path("p.sh").read_text() == before
    Path("p.sh.slurm.sh").write_text("#!/bin/sh\necho mine\n")
    refused(in_process("sweep", "submit", "p.sh", *ask), "minihmx did not write it")
    assert "mine" in Path("p.sh.slurm.sh").read_text()
    tables = []
    for name in ("qwen2.5", "qwen2.7"):
        plan(out=name)
        tables.append(lines(name)[0]["tables"])
    assert tables == [str(here / "qwen2.5.tables.txt"), str(here / "qwen2.7.tables.txt")]
    Path("new.tables.txt").write_text("mine")
    refused(plan(out="new"), "not of this sweep")
    assert not Path("new").exists()


def test_numbers_of_an_array() -> None:
    assert slurm.array_of(iter([5, 1, 2, 3, 9, 8])) == "1-3,5,8-9"


FAKES = {
    "sinfo": "echo main; echo long",
    "squeue": "cat {here}/queue 2>/dev/null",
    "scancel": 'echo "$@" >> {here}/cancelled',
    "sbatch": 'echo "$@" >> {here}/queued; [ $(wc -l < {here}/queued) -lt 4 ] || '
    '{{ echo "sbatch: error: QOS limit" >&2; exit 1; }}; wc -l < {here}/queued',
}


def test_all_is_queued_or_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan()
    (here / "bin").mkdir()
    for name, text in FAKES.items():
        (here / "bin" / name).write_text(f"#!/bin/sh\n{text.format(here=here)}\n")
        (here / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = in_process("sweep", "submit", "jobs.jsonl", "--slurm", "--partition", "lomg")
    refused(done, "no partition lomg", "did you mean long?")
    assert not (here / "queued").exists()
    done = in_process("sweep", "submit", "jobs.jsonl", "--slurm", "--partition", "long")
    refused(done, "Slurm refused the list (sbatch: error: QOS limit)")
    assert (here / "cancelled").read_text().split() == ["1", "2", "3"]
    sweep = read_sweep(here / "jobs.jsonl")
    (here / "queue").write_text(f"hmx-{sweep.digest}-select\n")
    refused(in_process("sweep", "submit", "jobs.jsonl", "--slurm"), "in the queue already")


def test_a_node_that_does_not_see_the_runs_says_so(here: Path) -> None:
    plan()
    in_process("sweep", "submit", "jobs.jsonl", "--slurm", "--dry-run")
    task = ["bash", "jobs.jsonl.slurm.sh", "task", "train-forward"]
    done = subprocess.run(task, capture_output=True, text=True, env=env({}))
    assert done.returncode == 4 and "does not see the folder runs" in done.stderr
    assert not Path("runs").exists()


# --- one job, and where it stands -----------------------------------------------------------------


def a_sweep(here: Path, *extra: object) -> Sweep:
    plan(*extra)
    return read_sweep(here / "jobs.jsonl")


def test_a_failure_keeps_its_sentence_and_is_tried_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = a_sweep(here)
    job = find_job(sweep, "train-forward", 1)
    said = [(3, "The numbers are not finite."), (0, "")]
    monkeypatch.setattr("minihmx.commands.sweep.child", lambda *_: said.pop(0))
    assert do_job(sweep, job) == 3
    found = standings(sweep)
    assert found[job.name].state == "failed" and "not finite" in found[job.name].detail
    assert found["tiny select seed 1"].detail.startswith("for tiny train forward seed 1")
    assert (
        "failed   tiny train forward seed 1: The numbers"
        in in_process("sweep", "status", "jobs.jsonl").stdout
    )
    assert do_job(sweep, job) == 0
    assert standings(sweep)[job.name].state == "waiting"  # as its run is not there


def test_a_job_that_needs_another_is_refused(here: Path) -> None:
    plan()
    done = in_process("sweep", "job", "jobs.jsonl", "select", 1)
    refused(done, "needs tiny train forward seed 1, which is not done")
    refused(in_process("sweep", "job", "jobs.jsonl", "selct", 1), "its stages are train-forward")


def test_a_job_that_another_process_is_at_is_running(here: Path) -> None:
    sweep = a_sweep(here)
    job = find_job(sweep, "eval-base-bbq", 1)
    write_record(sweep, job, 2, "it failed before")
    with claim(sweep.runs, job.key) as lock:
        assert lock is not None and standings(sweep)[job.name].state == "running"
    assert standings(sweep)[job.name].state == "failed"


def test_a_comparison_is_done_until_what_it_read_changes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = a_sweep(here)
    compare = find_job(sweep, "compare", 0)
    undone = set[str]()
    monkeypatch.setattr(
        "minihmx.sweep.progress.is_done", lambda e, piece, _: piece.name not in undone
    )

    def child(*_: object) -> tuple[int, str]:
        assert not sweep.tables.exists()  # as `compare --out` wants it
        sweep.tables.write_text("tables")
        return 0, ""

    monkeypatch.setattr("minihmx.commands.sweep.child", child)
    sweep.tables.write_text("mine")
    assert not is_finished(sweep, compare)
    for _ in range(2):
        with pytest.raises(UserError, match="not of this sweep"):
            do_job(sweep, compare)
    assert sweep.tables.read_text() == "mine"
    sweep.tables.unlink()
    assert do_job(sweep, compare) == 0 and is_finished(sweep, compare)
    undone.add("eval base bbq")
    assert not is_finished(sweep, compare)
    undone.clear()
    assert is_finished(sweep, compare)
    result = here / "runs/tiny/base/evals/bbq/base-1/manifest.json"
    result.parent.mkdir(parents=True)
    evaluation = find_job(sweep, "eval-base-bbq", 1)
    for text in ("{}", "{ }"):
        result.write_text(text)
        write_record(sweep, evaluation, 0, results=["tiny/base/evals/bbq/base-1"])
        assert not is_finished(sweep, compare)
        assert do_job(sweep, compare) == 0 and is_finished(sweep, compare)


def test_a_run_that_stopped_says_how_far_it_came(here: Path) -> None:
    sweep = a_sweep(here)
    job = find_job(sweep, "train-reverse", 2)
    job.folder.mkdir(parents=True)
    status = {"state": "running", "step": 10, "steps": 40, "pid": 1, "heartbeat": 0.0}
    (job.folder / "status.json").write_text(json.dumps(status))
    (job.folder / "timings.jsonl").write_text('{"seconds": 50.0}\n{"seconds": 50.0}\n')
    found = standings(sweep)[job.name]
    assert (found.state, found.detail, found.left) == ("waiting", "at step 10 of 40", 300.0)
    (job.folder / "status.json").write_text(json.dumps(status | {"state": "diverged"}))
    assert standings(sweep)[job.name].state == "failed"


def test_the_warning_saves_and_queues_again_and_a_cancellation_does_not(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = a_sweep(here)
    job, asked = find_job(sweep, "train-forward", 1), list[tuple[str, ...]]()
    monkeypatch.setattr(slurm, "_said", lambda *words: asked.append(words))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    real = subprocess.Popen
    monkeypatch.setattr(children.subprocess, "Popen", lambda _, **how: real(["sleep", "60"], **how))
    try:
        for number, queued in ((signal.SIGTERM, 0), (signal.SIGUSR1, 1)):
            threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
            assert do_job(sweep, job) == 130
            assert asked == queued * [("scontrol", "requeue", "77")]
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_run_folder_on_another_file_system(here: Path, pair: Path) -> None:
    """A link to a folder of another disk is followed, as everywhere."""
    elsewhere = Path("/dev/shm") / f"minihmx-{os.getpid()}"
    shutil.copytree(pair / "tiny/forward/seed-1", elsewhere)
    try:
        (here / "runs/tiny/forward").mkdir(parents=True)
        (here / "runs/tiny/forward/seed-1").symlink_to(elsewhere)
        sizes = ["--epochs", 2, "--max-completion-length", 48]
        questions = ["--questions", pair.parent / "questions.jsonl"]
        assert plan(*sizes, *questions).returncode == 0
        sweep = read_sweep(here / "jobs.jsonl")
        assert is_finished(sweep, find_job(sweep, "train-forward", 1))
    finally:
        shutil.rmtree(elsewhere)


# --- on this machine ------------------------------------------------------------------------------


class Pretended:
    """A process that ends at once and has done its job."""

    begun: ClassVar[list[tuple[str, str | None]]] = []

    def __init__(self, words: list[str], env: dict[str, str], **_: object):
        self.begun.append((" ".join(words[-2:]), env.get("CUDA_VISIBLE_DEVICES")))

    def poll(self) -> int:
        return 1 if self.begun[-1][0] == "train-reverse 2" else 0


def test_each_gpu_gets_a_process_and_what_fails_holds_up_its_own_pair_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = a_sweep(here)
    monkeypatch.setattr(local.subprocess, "Popen", Pretended)
    monkeypatch.setattr(local, "LOOK", 0.0)
    monkeypatch.setattr(Pretended, "begun", [])
    assert local.run_here(sweep, here / "jobs.jsonl", ["0", "1"]) == 1
    begun = dict(Pretended.begun)
    assert set(begun.values()) == {"0", "1"}
    assert "select 1" in begun and "eval-reverse-bbq 1" in begun
    assert "select 2" not in begun and "compare 0" not in begun
    assert "FAILED  tiny train reverse seed 2" in capsys.readouterr().out


def test_what_a_local_run_does_not_take(here: Path) -> None:
    plan()
    for extra, said in (
        ([], "add --local"),
        (["--local", "--gpus", "0,0"], "twice"),
        (["--local", "--gpus", "0,x y"], "no list of GPUs"),
        (["--local", "--gpus", "0", "--jobs", 2], "does not go with it"),
        (["--local", "--jobs", -1], "--jobs"),
    ):
        refused(in_process("sweep", "run", "jobs.jsonl", *extra), said)


@pytest.mark.slow
def test_a_sweep_here_is_stopped_killed_and_goes_on(here: Path) -> None:
    plan("--tasks", "toxigen", "--limit", 2, "--epochs", 3)
    line = command("sweep", "run", "jobs.jsonl", "--local", "--jobs", 2)
    first, status = here / "runs/tiny/forward/seed-1", Path("runs/tiny/forward/seed-1/status.json")

    def stepping(process: subprocess.Popen[str]) -> None:
        while not (status.exists() and json.loads(status.read_text())["step"] >= 1):
            assert process.poll() is None
            time.sleep(0.02)

    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env({}))
    stepping(process)
    process.terminate()
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "the same command goes on" in told
    state = json.loads((first / "status.json").read_text())["state"]
    assert state in ("interrupted", "complete")
    # this time all of it dies at once
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env=env({}), start_new_session=True
    )
    time.sleep(4)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = minihmx("sweep", "run", "jobs.jsonl", "--local", "--jobs", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ToxiGen" in done.stdout
    assert "12 jobs, 12 done" in minihmx("sweep", "status", "jobs.jsonl").stdout
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()}
    again = minihmx("sweep", "run", "jobs.jsonl", "--local")
    assert again.returncode == 0 and "log:" not in again.stdout  # no job is begun
    assert before == {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_stop_that_comes_twice_at_once_is_one(here: Path) -> None:
    """As from `scancel`, which signals the job and the command that it runs."""
    questions = toy.questions(Path("questions.jsonl"), train=8, held_out=1)
    line = ["train", "tiny", "--questions", questions, *SIZES, "--epochs", 4]
    process = subprocess.Popen(command(*line), stdout=subprocess.PIPE, text=True, env=env({}))
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("step "):
            break
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    run = Path("runs/tiny/forward/seed-1")
    assert process.returncode == 130
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert (run / "checkpoints/latest-step/manifest.json").exists()
