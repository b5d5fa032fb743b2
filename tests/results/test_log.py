"""A run replayed into the real trackers: every number is there once, and the run is only read."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import struct
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import env, in_process, minihmx, refused
from conftest import ROOT
from test_train import contents

from minihmx.results import replay as replaying
from minihmx.results import trackers
from minihmx.results.replay import AnswerTable, Numbers, find_run, replay
from minihmx.storage.disk import read_lines

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture
def run(pair: Path, tmp_path: Path) -> Path:
    """A finished run of four steps and three evaluations that is this test's own."""
    place = tmp_path / "runs" / "tiny" / "forward" / "seed-1"
    shutil.copytree(pair / "tiny" / "forward" / "seed-1", place)
    return place


def points(run: Path) -> Points:
    """What the files say, by the names that trackers show it under."""
    found: Points = {}
    names = {"step": ("train", "time"), "evaluation": ("eval", "eval_time")}
    metrics, timings = (read_lines(run / f"{name}.jsonl") for name in ("metrics", "timings"))
    for metric, timing in zip(metrics, timings, strict=True):
        for group, line in zip(names[metric["kind"]], (metric, timing), strict=True):
            for name, value in line.items():
                if name != "step" and isinstance(value, int | float):
                    found.setdefault(f"{group}/{name}", []).append((metric["step"], value))
    assert len(found) > 40 and len(found["train/reward"]) == 4 and len(found["eval/score"]) == 3
    return found


def same(found: Points, wanted: Points) -> None:
    assert found.keys() == wanted.keys()
    for name, pairs in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in pairs], name
        assert [v for _, v in found[name]] == pytest.approx([v for _, v in pairs], rel=1e-6), name


# --- the real ones --------------------------------------------------------------------------------


def test_tensorboard_reads_back_what_the_files_say(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tracker TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = contents(run)
    stranger = tmp_path / "a board" / "minihmx" / find_run(str(run)).id / "events.out.tfevents.1.x"
    stranger.parent.mkdir(parents=True)
    stranger.touch()
    for _ in range(2):  # the second time replaces the first, and nothing of others
        done = in_process("log", run, "--to", "tensorboard", "--out", tmp_path / "a board",
                          "--every", 2)  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown = shlex.join(["tensorboard", "--logdir", str(tmp_path / "a board" / "minihmx")])
        assert f"; `{shown}` shows it" in done.stdout
        assert "logged     7 steps and evaluations, 5 tables of answers, in " in done.stdout
        (folder,) = (tmp_path / "a board" / "minihmx").iterdir()
        assert folder.name.startswith("tiny-forward-seed-1-") and stranger.exists()
        (events,) = folder.glob("*.minihmx")
        board = EventAccumulator(str(events), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        tags = board.Tags()
        found = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags["scalars"]}
        same(found, points(run))
        texts = {t: board.Tensors(t) for t in ("answers/held-out", "config")}
    assert [event.step for event in texts["answers/held-out"]] == [0, 2, 4]
    (first, *_) = read_lines(run / "evaluations" / "epoch-00.jsonl")
    table = texts["answers/held-out"][0].tensor_proto.string_val[0].decode()
    rows = table.splitlines()
    assert len(rows) == 2 + 4 and trackers.unmarked(first["completion"]) in rows[2]
    config = texts["config"][0].tensor_proto.string_val[0].decode()
    assert "- learning_rate: 0\\.0026\n" in config
    mtime = (run / "rollouts" / "step-000003.jsonl").stat().st_mtime
    assert board.Scalars("train/reward")[2].wall_time == pytest.approx(mtime, abs=1e-3)
    assert contents(run) == before


def test_wandb_offline_holds_what_the_files_say(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the tracker wandb is not installed")
    told = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    for _ in range(2):
        done = minihmx("log", run, "--to", "wandb", "--out", tmp_path / "w", "--every", 2, **told)
        assert done.returncode == 0, done.stderr
        assert "logged     7 steps and evaluations, 5 tables" in done.stdout
    (folder,) = (tmp_path / "w" / "wandb").glob("offline-run-*")
    assert find_run(str(run)).id in folder.name
    found: Points = {}
    for step, line in history_of(next(folder.glob("*.wandb"))):
        for name, value in line.items():
            if isinstance(value, int | float) and not name.startswith(("_", "answers/")):
                found.setdefault(name, []).append((step, value))
    same(found, points(run))
    assert len(list((folder / "files" / "media" / "table" / "answers").glob("*.json"))) == 5


def history_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, what was logged) of a file of wandb's own.

    Behind 7 bytes come blocks of 32 KiB as in LevelDB's log: of each piece its checksum, length and
    kind (1 whole, 2 first, 3 middle, 4 last), then so many bytes of a record.
    """
    from wandb.proto import wandb_internal_pb2

    data, place, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if (rest := 32768 - place % 32768) < 7:
            place += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (1, 4):
            continue
        record, whole = wandb_internal_pb2.Record.FromString(whole), b""
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            line = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            yield int(line["_step"]), line


def test_trackio_holds_what_the_files_say(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="the tracker trackio is not installed")
    told = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        done = minihmx("log", run, "--to", "trackio", "--out", tmp_path / "t", "--every", 2, **told)
        assert done.returncode == 0, done.stderr
        (said,) = done.stdout.splitlines()
        assert said.startswith("logged     7 steps and evaluations, 5 tables")
    code = (
        "import json, trackio\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "(run,) = trackio.Api().runs('minihmx')\n"
        "print(json.dumps(SQLiteStorage.get_logs('minihmx', run.name, run_id=run.id)))\n"
    )
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=env(told | {"TRACKIO_DIR": str(tmp_path / "t")}))  # fmt: skip
    assert read.returncode == 0, read.stderr
    found: Points = {}
    tables = 0
    for line in json.loads(read.stdout.splitlines()[-1]):
        for name, value in line.items():
            tables += name.startswith("answers/")
            if isinstance(value, int | float) and "/" in name:
                found.setdefault(name, []).append((line["step"], value))
    same(found, points(run))
    assert tables == 5


def test_it_goes_where_torch_is_not_installed(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tracker TensorBoard is not installed")
    words = ["log", str(run), "--to", "tensorboard", "--out", str(tmp_path / "board")]
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        f"from minihmx.cli import main\nsys.exit(main({words!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "logged     7 steps" in done.stdout, done.stderr


# --- a run that is still written ------------------------------------------------------------------


def test_a_run_is_followed_to_its_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line, one whose seconds come later, a resume that writes two lines again, the end."""
    metrics, timings = run / "metrics.jsonl", run / "timings.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    seconds = timings.read_bytes().splitlines(keepends=True)
    lock = (run / ".lock").open()
    fcntl.flock(lock, fcntl.LOCK_EX)
    seen: list[Numbers] = []
    counts: list[int] = []

    def write(path: Path, *parts: bytes) -> Callable[[], object]:
        return lambda: path.write_bytes(b"".join(parts))

    steps = iter(
        [
            write(metrics, *lines[:2], lines[2][:30]),
            write(metrics, *lines[:3], b"\0\0\0"),  # its seconds are not there yet
            write(timings, *seconds[:3]),
            write(metrics, *lines[:2]),
            write(metrics, *lines[:3]),
            lambda: (write(timings, *seconds)(), write(metrics, *lines)(), lock.close()),
        ]
    )

    def sleep(_: float) -> None:
        counts.append(len(seen))
        next(steps)()

    monkeypatch.setattr(replaying.time, "sleep", sleep)
    write(metrics)(), write(timings, *seconds[:2])()
    for item in replay(find_run(str(run)), 0, follow=True):
        if isinstance(item, Numbers):
            seen.append(item)
    assert counts == [0, 2, 2, 3, 3, 3] and [item.step for item in seen] == [0, 1, 2, 2, 3, 4, 4]
    assert "time/seconds" in seen[2].values and "eval_time/seconds" in seen[0].values


def test_ctrl_c_ends_following(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="the tracker TensorBoard is not installed")

    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replaying.time, "sleep", sleep)
    with (run / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = ("log", run, "--to", "tensorboard", "--out", tmp_path / "board", "--follow")
        done = in_process(*words)
    assert (done.returncode, done.stderr) == (0, "") and "logged     7 steps" in done.stdout


def test_nobody_at_work_is_nothing_to_wait_for(run: Path) -> None:
    assert len(list(replay(find_run(str(run)), 1, follow=True))) == 7 + 4 + 3
    (run / "metrics.jsonl").unlink()
    assert list(replay(find_run(str(run)), 1, follow=True)) == []


@pytest.mark.parametrize("tail", [b'{"kind": "st', b'{"kind"\n', b"\0\0\0\0", b"%PDF\n"])
def test_a_last_line_that_is_no_record_is_left_out(tail: bytes, run: Path) -> None:
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    assert sum(isinstance(item, Numbers) for item in replay(find_run(str(run)), 0)) == 7


def test_what_timings_and_rollouts_lack_is_not_shown(run: Path) -> None:
    (run / "timings.jsonl").write_text("gone\nbad\n")
    (run / "rollouts" / "step-000002.jsonl").unlink()
    items = list(replay(find_run(str(run)), 1))
    assert [item.step for item in items if isinstance(item, AnswerTable)] == [0, 1, 2, 3, 4, 4]
    numbers = [item for item in items if isinstance(item, Numbers)]
    assert len(numbers) == 7 and not any("time" in n for item in numbers for n in item.values)


# --- bad input ------------------------------------------------------------------------------------


def spoil(line: bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        (run / "metrics.jsonl").write_bytes(b"".join([lines[0], line, *lines[1:]]))

    return change


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (spoil(b"nothing\n"), "metrics.jsonl, line 2"),
        (spoil(b'{"kind": "dream", "step": 1}\n'), "a line of no step and no evaluation"),
        (spoil(b'{"kind": "step", "epoch": 1}\n'), "step None"),
        (lambda run: (run / "evaluations/epoch-01.jsonl").write_text("x\ny\n"), "epoch-01.jsonl"),
    ],
)
def test_damage_ends_with_a_sentence(
    damage: Callable[[Path], object], part: str, run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the tracker TensorBoard is not installed")
    damage(run)
    result = in_process("log", run, "--to", "tensorboard", "--out", tmp_path / "board")
    refused(result, part, code=5)


def test_what_is_no_run_and_what_is_not_installed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(in_process("log", tmp_path, "--to", "tensorboard"), "no run", "DIRECTION")
    refused(in_process("log", run), "--to")
    refused(in_process("log", run, "--to", "mlflow"), "invalid choice: 'mlflow'")
    refused(in_process("log", run, "--to", "wandb", "--every", -1), "--every -1 cannot work")
    refused(in_process("log", run, "--to", "wandb", "--project", "a/b"), "no plain name")
    for name in trackers.TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        refused(in_process("log", run, "--to", name), f"{sys.executable} -m pip install {name}")
        folder = types.ModuleType(name)  # as Python takes a folder that is called so
        monkeypatch.setitem(sys.modules, name, folder)
        refused(in_process("log", run, "--to", name), f"pip install {name}")
    (run / "config.json").write_text("{}")
    refused(in_process("log", run, "--to", "wandb"), "no config of a run")


def test_a_server_that_is_not_there_or_wants_a_login(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="the tracker wandb is not installed")
    before = contents(run)
    for error, code, part in (
        (wandb.errors.CommError("dial tcp:\n refused"), 4, "cannot be reached (dial tcp: refused)"),
        (wandb.errors.UsageError("No API key configured."), 2, "wandb login"),
    ):

        def init(error: Exception = error, **_: object) -> None:
            raise error

        monkeypatch.setattr(wandb, "init", init)
        result = in_process("log", run, "--to", "wandb", "--out", tmp_path / "w")
        refused(result, part, "WANDB_MODE=offline", code=code)
    assert contents(run) == before


def test_what_a_model_says_is_no_markup() -> None:
    hostile = "<script>alert(1)</script> | [x](javascript:y)\n| `a` **b**"
    answers = AnswerTable(
        "answers/training", 1, 0.0, [dict.fromkeys(replaying.TABLE_COLUMNS, hostile)]
    )
    *_, row = trackers.markdown_table(answers).splitlines()
    assert "<script>" not in row and r"\<script\>" in row and r"\[x\]\(javascript:y\)" in row
    assert row.count(" | ") == len(replaying.TABLE_COLUMNS) - 1
