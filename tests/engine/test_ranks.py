"""One run in several processes, started by torch's own launcher, on the CPU."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from command_line import command, env, in_process, small
from safetensors.torch import load_file

from minihmx.cli import main
from minihmx.engine import ranks
from minihmx.errors import UserError
from minihmx.evals.asking import runner
from minihmx.storage import identity
from minihmx.storage.disk import read_lines, verify
from minihmx.storage.run_folder import Store
from minihmx.terminal import text

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", *rank_cases.SEVERAL]
# Files that tell of clocks, places and processes; manifest.json has the digests of these.
NOT_COMPARED = {"timings.jsonl", "status.json", "env.json", "config.json", "manifest.json", ".lock"}


def started(processes: int, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """torchrun with `-m minihmx ARGUMENTS`, in a process group that a test can end."""
    return subprocess.Popen(
        [*LAUNCHER, str(processes), "-m", "minihmx", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env(environment),
    )


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What it printed; all of its processes have a minute from now on."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        for pid in [*workers(process), process.pid]:
            os.kill(pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def several(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    return ended(started(processes, *arguments))


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes of the run, by rank."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    return sorted(map(int, listed.stdout.split()))


def steps_of(folder: Path, count: int) -> None:
    """Wait until so many lines stand in a run's metrics."""
    limit = time.monotonic() + 120
    path = folder / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < limit, "the run does not get on"
        time.sleep(0.05)


def told(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Our own sentences among what torchrun prints."""
    return [line for line in result.stderr.splitlines() if line.startswith("minihmx: ")]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }


# --- the arithmetic -------------------------------------------------------------------------------


def compared(folder: Path, case: str, processes: int) -> Iterator[tuple[str, float]]:
    """(name, norm of the difference over norm) of what each rank has and one process has."""
    one = load_file(folder / f"{case} of 1" / "rank-0.safetensors")
    for rank in range(processes):
        got = load_file(folder / f"{case} of {processes}" / f"rank-{rank}.safetensors")
        assert got.keys() == one.keys()
        for name, wanted in one.items():
            if name != "rows and notices":
                norm = float(wanted.double().norm()) or 1.0
                yield name, float((got[name].double() - wanted.double()).norm()) / norm


def in_ranks(folder: Path, processes: int, *cases: str) -> None:
    script = [rank_cases.__file__, str(folder), *cases]
    done = subprocess.run([*LAUNCHER, str(processes), *script], env=env({}))
    assert done.returncode == 0


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(tmp_path: Path) -> None:
    rank_cases.main(tmp_path, ["float32"])
    in_ranks(tmp_path, 2, "float32")
    assert max(error for _, error in compared(tmp_path, "float32", 2)) < 1e-5


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in one, two and three processes."""
    folder = tmp_path_factory.mktemp("cases")
    rank_cases.main(folder, [*rank_cases.CASES])
    for processes in (2, 3):
        in_ranks(folder, processes, *rank_cases.CASES)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("case", rank_cases.CASES)
def test_a_split_changes_nothing_but_rounding(cases: Path, case: str, processes: int) -> None:
    # k3 of a policy that has hardly moved is what is left of numbers that nearly cancel, so of the
    # digits that all others have it keeps fewer.
    for name, error in compared(cases, case, processes):
        exact = 1e-10 if ".kl" in name else 1e-12
        assert error < (1e-5 if case == "float32" else exact), name


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_rank_has_the_same_adapter_to_the_bit(cases: Path, processes: int) -> None:
    for case in rank_cases.CASES:
        places = [cases / f"{case} of {processes}" / f"rank-{r}" for r in range(processes)]
        first, *others = [load_file(place.with_suffix(".safetensors")) for place in places]
        for other in others:
            for name in set(first) - {"rows and notices"}:
                assert torch.equal(first[name], other[name]), (case, name)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_memory_runs_out_on_one_rank_which_halves_alone(cases: Path, processes: int) -> None:
    places = [cases / f"memory of {processes}" / f"rank-{r}" for r in range(processes)]
    said = [load_file(p.with_suffix(".safetensors"))["rows and notices"].tolist() for p in places]
    assert said == [[8, 1]] * (processes - 1) + [[2, 1]]  # one is told on all of them


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_overflow_on_one_rank_halves_the_scale_of_all(cases: Path, processes: int) -> None:
    for rank in range(processes):
        found = load_file(cases / f"overflow of {processes}" / f"rank-{rank}.safetensors")
        assert found["0.loss_scale"] == 2.0**14


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_an_epoch_in_float64_is_that_of_one_process(cases: Path, processes: int) -> None:
    one, split = (
        next((cases / f"epochs of {n}" / "runs").glob("*/forward/seed-1")) for n in (1, processes)
    )
    for path in [*sorted(one.glob("*/*.jsonl")), one / "metrics.jsonl"]:
        for wanted, got in zip(
            read_lines(path), read_lines(split / path.relative_to(one)), strict=True
        ):
            alike(wanted, got, 1e-9)


# --- a run, as a person types it ------------------------------------------------------------------


def run_of(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny" / "forward" / "seed-1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny in two processes that nothing disturbs: four epochs of two steps."""
    folder = tmp_path_factory.mktemp("whole")
    done = several(2, *long(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("complete: forward, ") == 1 and not told(done)
    assert "2 processes that share the rows" in done.stdout
    return run_of(folder)


def long(tmp_path: Path, *extra: object) -> list[object]:
    return small(tmp_path, "--epochs", 4, *extra)


@pytest.mark.slow
def test_a_sampled_run_differs_from_one_process_by_rounding(whole: Path, tmp_path: Path) -> None:
    assert in_process(*long(tmp_path)).returncode == 0
    alone = run_of(tmp_path)
    assert [line["ranks"] for line in read_json(whole / "env.json")] == [2]
    assert [line["ranks"] for line in read_json(alone / "env.json")] == [1]
    assert contents(alone).keys() == contents(whole).keys()
    first = "evaluations/epoch-00.jsonl", "rollouts/step-000001.jsonl"
    for name in first:  # before the first update the policies are the same
        rows, wanted = read_lines(whole / name), read_lines(alone / name)
        assert [row["ids"] for row in rows] == [row["ids"] for row in wanted]
        assert [row["judge"] for row in rows] == [row["judge"] for row in wanted]
    assert verify(whole) is None
    done = in_process("audit", whole)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "processes"), [(0, 1), (1, 2)])
def test_when_a_rank_is_killed_all_end_and_the_run_continues(
    rank: int, processes: int, whole: Path, tmp_path: Path
) -> None:
    run = started(2, *long(tmp_path))
    steps_of(run_of(tmp_path), 5)
    both = workers(run)
    os.kill(both[rank], signal.SIGKILL)
    done = ended(run)
    assert done.returncode == 1 and not any(map(alive, both))
    (sentence,) = told(done)
    assert "One of the 2 processes of this run ended without a word" in sentence
    if processes == 2:
        again = several(2, *long(tmp_path))
        assert contents(run_of(tmp_path)) == contents(whole)
    else:
        again = subprocess.run(
            command(*long(tmp_path)), capture_output=True, text=True, env=env({})
        )
        assert "processes: 2 until now, 1 from here" in again.stdout
    assert again.returncode == 0, again.stderr
    starts = [start["ranks"] for start in read_json(run_of(tmp_path) / "env.json")]
    assert starts == [2, processes]


@pytest.mark.slow
def test_when_all_are_killed_the_run_resumes_byte_identically(whole: Path, tmp_path: Path) -> None:
    run = started(2, *long(tmp_path))
    steps_of(run_of(tmp_path), 7)
    everyone = [run.pid, *workers(run)]
    for pid in everyone:
        os.kill(pid, signal.SIGKILL)
    ended(run)
    again = several(2, *long(tmp_path))
    assert again.returncode == 0, again.stderr
    assert "processes:" not in again.stdout and "resume " in again.stdout
    assert contents(run_of(tmp_path)) == contents(whole)


@pytest.mark.slow
def test_a_stop_saves_and_says_how_to_go_on(whole: Path, tmp_path: Path) -> None:
    run = started(2, *long(tmp_path))
    steps_of(run_of(tmp_path), 5)
    os.kill(run.pid, signal.SIGINT)  # as a Ctrl-C does; torchrun passes it on
    done = ended(run)
    assert not told(done) and done.stderr.count("finishing what is under way") == 1
    assert done.stdout.count("is saved, and this continues it") == 1
    assert "torchrun --nproc-per-node 2 -m minihmx train tiny" in done.stdout
    assert read_json(run_of(tmp_path) / "status.json")["state"] == "interrupted"
    assert several(2, *long(tmp_path)).returncode == 0
    assert contents(run_of(tmp_path)) == contents(whole)


@pytest.mark.slow
def test_more_ranks_than_rows(tmp_path: Path) -> None:
    few = ["--prompts-per-step", 1, "--generations", 2, "--eval-samples", 1, "--epochs", 1]
    done = several(3, *small(tmp_path, *few))
    assert done.returncode in (0, 6), done.stderr
    alone = tmp_path / "alone"
    assert in_process(*small(tmp_path, *few, "--out", alone)).returncode in (0, 6)
    wanted = read_lines(alone / "tiny/forward/seed-1/metrics.jsonl")
    got = read_lines(run_of(tmp_path) / "metrics.jsonl")
    assert got[1]["loss"] == pytest.approx(wanted[1]["loss"], abs=1e-5)
    assert got[1]["grad_norm"] == pytest.approx(wanted[1]["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_what_rank_0_alone_meets_ends_all_with_one_sentence(tmp_path: Path) -> None:
    run_of(tmp_path).mkdir(parents=True)
    (run_of(tmp_path) / "rollouts").symlink_to(tmp_path)
    done = several(2, *small(tmp_path))
    (sentence,) = told(done)
    assert "rollouts is a link" in sentence
    assert re.search(r"exitcode +: 5", done.stderr), "torchrun's summary keeps the code"
    assert done.stderr.count(sentence.removeprefix("minihmx: ")) == 2  # and the sentence


@pytest.mark.slow
def test_a_bug_on_one_rank_is_the_one_that_torchrun_reports(tmp_path: Path) -> None:
    """The other one notices at once that its peer has gone, and must not end before it."""
    script = tmp_path / "buggy.py"
    script.write_text(
        "from minihmx.__main__ import run\n"
        "from minihmx.engine import ranks\n"
        "sum_gradients = ranks.sum_gradients\n"
        "ranks.sum_gradients = lambda them: 1 / (1 - ranks.rank()) and sum_gradients(them)\n"
        "run()\n"
    )
    words = list(map(str, small(tmp_path)))
    done = subprocess.run(
        [*LAUNCHER, "2", str(script), *words], capture_output=True, text=True, env=env({})
    )
    root = done.stderr.partition("Root Cause")[2]
    assert re.search(r"exitcode +: 1 ", root) and "ZeroDivisionError: " in root
    assert done.stderr.count("Traceback (most recent call last)") >= 1 and told(done) == []


@pytest.mark.slow
def test_processes_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    words = " ".join(map(str, command(*small(tmp_path))))
    apart = ["--no-python", "sh", "-c", f"exec {words} --seed $RANK"]
    done = subprocess.run([*LAUNCHER, "2", *apart], capture_output=True, text=True, env=env({}))
    (sentence,) = told(done)
    assert "(seed is 0 on rank 0 and 1 on rank 1)" in sentence
    assert not (tmp_path / "runs").exists()
    assert re.search(r"exitcode +: 2", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["chat", "tiny"], ["is the work of one process, and torchrun started 2"]),
        (["train", "tiny", "--device", "cuda:1"], ["--device cuda:1 cannot work", "cpu, cuda"]),
        (["eval", "tiny", "--tasks", "none"], ["Unknown benchmark 'none'"]),
    ],
)
def test_a_mistake_is_said_once(words: list[str], parts: list[str]) -> None:
    (sentence,) = told(several(2, *words))
    assert all(part in sentence for part in parts)


# --- benchmarks -----------------------------------------------------------------------------------

ASKED = ["--tasks", "bbq,are_you_sure", "--data", "sample", "--partial"]


def evaluations(out: Path) -> dict[str, Path]:
    return {path.parent.name: path for path in sorted(out.glob("tiny/base/evals/*/*"))}


def test_near_enough_is_told_apart() -> None:
    alike({"a": [1.0, "x"]}, {"a": [1.0 + 1e-9, "x"]})
    for other in ({"a": [1.1, "x"]}, {"a": [1.0, "y"]}, {"a": [1.0]}, {"b": [1.0, "x"]}):
        with pytest.raises(AssertionError):
            alike({"a": [1.0, "x"]}, other)


def alike(one: Any, other: Any, near: float = 1e-4) -> None:
    """The same record up to rounding."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            alike(one[name], other[name], near)
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True) if len(one) == len(other) else [(0, "")]:
            alike(left, right, near)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=near, abs=near)
    else:
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "limit"), [(2, []), (3, ["--limit", 2])])
def test_an_evaluation_that_is_split_has_the_result_of_one_process(
    processes: int, limit: list[object], tmp_path: Path
) -> None:
    one, split = tmp_path / "one", tmp_path / "split"
    assert in_process("eval", "tiny", *ASKED, *limit, "--out", one).returncode == 0
    done = several(processes, "eval", "tiny", *ASKED, *limit, "--out", split)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept in ") == 2
    assert f"in {processes} processes that share the items" in done.stdout
    assert evaluations(one).keys() == evaluations(split).keys() != set()
    for name, folder in evaluations(one).items():
        other = evaluations(split)[name]
        assert other.name == folder.name and verify(other) is None
        alike(read_json(folder / "result.json"), read_json(other / "result.json"))
        alike(read_lines(folder / "samples.jsonl"), read_lines(other / "samples.jsonl"))


@pytest.mark.slow
def test_an_evaluation_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    one, split = tmp_path / "one", tmp_path / "split"
    asked = ["eval", "tiny", "--tasks", "bbq", "--data", "sample", "--out"]
    assert in_process(*asked, one).returncode == 0
    (folder,) = evaluations(one).values()
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    begun = split / folder.relative_to(one)
    begun.mkdir(parents=True)
    (begun / "samples.jsonl").write_bytes(b"".join(lines[:3]) + b'{"torn')
    done = several(2, *asked, split)
    assert done.returncode == 0, done.stderr
    assert f"3 of {len(lines)} samples are there already" in done.stdout
    alike(read_json(folder / "result.json"), read_json(begun / "result.json"))
    assert (begun / "samples.jsonl").read_bytes().startswith(b"".join(lines[:3]))


# --- without a second process ---------------------------------------------------------------------


@pytest.fixture
def of_three(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Any], list[Any]]], None]:
    """Be a rank of three, whose others say what a function makes of this one's words."""

    def be(rank: int, share: Callable[[Any], list[Any]]) -> None:
        sizes = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
        for name, value in ({"RANK": str(rank), "LOCAL_RANK": str(rank)} | sizes).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(ranks, "share", share)
        monkeypatch.setattr(ranks, "first_to_fail", lambda why: True)

    return be


Others = Callable[[int, Callable[[Any], list[Any]]], None]


def test_rows_that_are_split_are_joined_in_their_order(of_three: Others) -> None:
    for count in range(8):
        rows = list(range(count))
        parts = [rows[rank::3] for rank in range(3)]
        for rank in range(3):
            of_three(rank, lambda mine, parts=parts: parts)
            assert ranks.split(rows) == parts[rank]
            assert ranks.gather(ranks.split(rows)) == rows


def test_values_of_tokens_are_joined_row_by_row(of_three: Others) -> None:
    values = torch.arange(12.0).view(2, 6)
    row = [values[:, :1], values[:, 1:3], values[:, 3:]]  # of 1, 2 and 3 tokens
    parts = [(row[0], [1]), (row[1], [2]), (row[2], [3])]
    of_three(0, lambda mine: parts)
    assert torch.equal(ranks.gather_tokens(row[0], [1]), values)
    parts[2] = (values[:, :0], [])  # of two rows the third rank has none
    of_three(2, lambda mine: parts)
    assert torch.equal(ranks.gather_tokens(values[:, :0], []), values[:, :3])


def test_what_differs_is_named(of_three: Others) -> None:
    of_three(0, lambda own: [own, own, own | {"torch": "2.6.0"}])
    with pytest.raises(UserError, match=r"torch is '2.7.0' on rank 0 and '2.6.0' on rank 2"):
        ranks.agree({"torch": "2.7.0", "dtype": "float32"})
    of_three(0, lambda own: [own, own, own])
    ranks.agree({"torch": "2.7.0"})


def test_notices_of_others_carry_their_rank(of_three: Others) -> None:
    of_three(0, lambda own: [own, [], ["out of memory"]])
    assert ranks.tell(["mine"]) == ["mine", "rank 2: out of memory"]


def test_the_largest_of_all_is_nan_where_one_is(of_three: Others) -> None:
    own = torch.tensor([1.0, 5.0, 0.0])
    others = [torch.tensor([2.0, 1.0, torch.nan]), torch.zeros(3)]
    of_three(0, lambda mine: [mine, *others])
    found = ranks.largest(own)
    assert found[:2].tolist() == [2.0, 5.0] and found[2].isnan()


def test_one_process_says_only_what_it_was_given() -> None:
    assert (ranks.world(), ranks.rank(), ranks.neighbours()) == (1, 0, 1)
    assert ranks.share("x") == ["x"] and ranks.from_first(lambda: 3) == 3
    assert ranks.split([1, 2]) == ranks.gather([1, 2]) == [1, 2]
    assert ranks.first_to_fail("why")


def test_torchrun_with_one_process_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert ranks.world() == 1 and ranks.share("x") == ["x"]


def test_a_world_size_without_a_local_rank_is_another_launcher_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks.world() == 1


def test_only_train_and_eval_are_shared(
    of_three: Others, capsys: pytest.CaptureFixture[str]
) -> None:
    of_three(0, lambda own: [own] * 3)
    for words in (["report", "x"], ["doctor"], ["sweep", "status", "x"], ["data", "list"]):
        assert main(words) == 2
        assert "is the work of one process, and torchrun started 3" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(
    of_three: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_three(2, lambda own: [own] * 3)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="give --nproc-per-node 2"):
        ranks.own_gpu()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert ranks.own_gpu() == torch.device("cuda", 2) == chosen[0]


def test_the_command_that_goes_on_is_torchrun_s(
    of_three: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python", "-u", "-m", "minihmx", "train", "a b"])
    assert text.typed() == "/bin/python -u -m minihmx train 'a b'"
    of_three(0, lambda own: [own] * 3)
    assert text.typed() == "torchrun --nproc-per-node 3 -m minihmx train 'a b'"
    monkeypatch.setattr(sys, "argv", ["minihmx", "train", "a b"])
    assert text.program("train") == "torchrun --nproc-per-node 3 -m minihmx"
    assert text.program("report") == "/bin/python -m minihmx"


def test_an_onlooker_changes_nothing(tmp_path: Path) -> None:
    store = ranks.Onlooker(tmp_path / "run")
    store.lock()
    store.write_status("running", 1, 2)
    store.append("metrics.jsonl", {})
    store.write_lines("rollouts/step-000001.jsonl", [])
    store.publish("epoch-00", {}, {})
    store.drop("epoch-00")
    store.finish(2)
    with pytest.raises(RuntimeError), store.failure_told():
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    public = {name for name in vars(Store) if not name.startswith("_")}
    reading = {"find_resume", "cut", "failure_told"}  # which only rank 0 does, but for the last
    assert public - reading <= set(vars(ranks.Onlooker)), "a new way to write"


def test_an_older_start_says_nothing_of_processes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for starts, wanted in (([], 1), ([{"torch": "2.6"}], 1), ([{"ranks": 1}, {"ranks": 4}], 4)):
        store.write_json("env.json", starts)
        assert identity.earlier_ranks(store) == wanted
    for damaged in ([3], [{"ranks": "many"}], {}):
        store.write_json("env.json", damaged)
        assert identity.earlier_ranks(store) == 1


def test_items_are_split_whole_and_their_lines_gathered(
    of_three: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [runner.Task({"id": name}, s, None) for name in "abcd" for s in range(2)]  # type: ignore[arg-type]
    assert runner.own_items(tasks) == tasks
    own = []
    for rank in range(3):
        of_three(rank, lambda mine: [mine] * 3)
        own.append([(task.item["id"], task.sample) for task in runner.own_items(tasks)])
    assert own == [[("a", 0), ("a", 1), ("d", 0), ("d", 1)], *([(n, 0), (n, 1)] for n in "bc")]

    clock = iter(range(1000))
    monkeypatch.setattr(runner.time, "monotonic", lambda: 3.0 * next(clock))
    others = iter([(["x"], False), (["y"], False), ([], True), ([], True)])
    of_three(0, lambda mine: [mine, next(others)])
    batches = iter([[{"n": i}] for i in range(5)])
    together = [line for lines in runner.gathered(batches) for line in lines]
    assert together == [{"n": 0}, {"n": 1}, "x", {"n": 2}, {"n": 3}, "y", {"n": 4}]


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 0)
        return True
    return False


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
