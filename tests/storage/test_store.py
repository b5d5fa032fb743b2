"""What is on disk survives: publication is atomic, growing files are cut back, one writer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from test_disk import Death, Failing

from minihmx.errors import DataError, UserError
from minihmx.storage.disk import Disk, dumps, read_lines, verify
from minihmx.storage.run_folder import LATEST, Store
from minihmx.storage.strict import read_json

TENSORS = {"a": torch.arange(4.0)}


def publish(store: Store, name: str, step: int, epoch: int) -> None:
    tensors = save(TENSORS, {"format": "pt"})
    files = dict.fromkeys(("adapter_model.safetensors", "optimizer.safetensors"), tensors)
    files["adapter_config.json"] = b'{"r": 1}'
    store.publish(name, files, {"step": step, "epoch": epoch})


def filled(folder: Path, disk: Disk | None = None) -> Store:
    """A run after four steps: epoch 0, epoch 1 at step 3, latest-step at step 4."""
    store = Store(folder, disk)
    store.append("metrics.jsonl", {"n": 0})
    store.write_lines("evaluations/epoch-00.jsonl", [{"epoch": 0}])
    publish(store, "epoch-00", 0, 0)
    for step in range(1, 5):
        store.write_lines(f"rollouts/step-{step:06d}.jsonl", [{"step": step}])
        store.append("metrics.jsonl", {"n": step})
        if step == 3:
            store.write_lines("evaluations/epoch-01.jsonl", [{"epoch": 1}])
            publish(store, "epoch-01", 3, 1)
    publish(store, LATEST, 4, 1)
    return store


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"sha256": {"state.json": "0"}}'])
def test_what_is_wrong_with_a_checkpoint_fits_into_a_sentence(tmp_path: Path, damage: str) -> None:
    folder = filled(tmp_path).checkpoints / "epoch-01"
    (folder / "manifest.json").write_text(damage)
    assert (problem := verify(folder)) and not problem.endswith(".")


def test_a_checkpoint_is_whole_and_named_by_its_manifest(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for name in ("epoch-00", "epoch-01", LATEST):
        assert verify(store.checkpoints / name) is None
    files = sorted(p.name for p in (store.checkpoints / "epoch-01").iterdir())
    assert files == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
    ]
    header = (store.checkpoints / "epoch-01" / "adapter_model.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size])["__metadata__"] == {"format": "pt"}


def test_resume_takes_the_furthest(tmp_path: Path) -> None:
    found = filled(tmp_path).find_resume()
    assert found is not None and found.folder.name == LATEST and found.state["step"] == 4
    assert Store(tmp_path / "new").find_resume() is None


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_falls_back_by_one(tmp_path: Path, file: str) -> None:
    store = filled(tmp_path)
    damaged = store.checkpoints / LATEST / file
    damaged.write_bytes(damaged.read_bytes()[:-3])
    found = store.find_resume()
    assert found is not None and found.folder.name == "epoch-01"
    assert LATEST in found.notices[0]


def test_metrics_that_end_before_the_checkpoint_are_refused(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"n": 0}\n{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl has 4 of its 5 lines.*latest-step"):
        store.find_resume()


@pytest.mark.parametrize("instead", ["nothing", "a file", "a folder"])
@pytest.mark.parametrize(
    "lost",
    ["rollouts/step-000001.jsonl", "rollouts/step-000004.jsonl", "evaluations/epoch-01.jsonl"],
)
def test_records_that_are_gone_are_refused(tmp_path: Path, lost: str, instead: str) -> None:
    """A file in the place of their folder, a folder in their own: the same."""
    store = filled(tmp_path)
    (tmp_path / lost).unlink()
    if instead == "a folder":
        (tmp_path / lost).mkdir()
    elif instead == "a file":
        lost = f"{Path(lost).parent}/{'epoch-00' if 'epoch' in lost else 'step-000001'}.jsonl"
        shutil.rmtree((tmp_path / lost).parent)
        (tmp_path / lost).parent.write_text("")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(DataError, match=f"{lost} is gone, and checkpoint .* counts on it.*--out"):
        store.find_resume()
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_what_only_a_damaged_checkpoint_counts_on_is_not_missed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.checkpoints / LATEST / "state.json").write_bytes(b"")
    (tmp_path / "rollouts/step-000004.jsonl").unlink()
    found = store.find_resume()
    assert found is not None and found.folder.name == "epoch-01"


def test_lost_timings_are_nobodys_need(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.append("timings.jsonl", {"seconds": 1})
    publish(store, LATEST, 4, 1)
    (tmp_path / "timings.jsonl").unlink()
    found = store.find_resume()
    assert found is not None and found.folder.name == LATEST and not store.cut(found.state)


def test_a_backup_is_no_checkpoint(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.checkpoints / LATEST).rename(store.checkpoints / "epoch-09.bak")
    found = store.find_resume()
    assert found is not None and found.folder.name == "epoch-01"
    store.cut(found.state)
    assert (store.checkpoints / "epoch-09.bak").exists()


def test_all_damaged_is_said(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for manifest in store.checkpoints.glob("*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(DataError, match="No checkpoint"):
        store.find_resume()


def test_cut_brings_every_file_back(tmp_path: Path) -> None:
    store = filled(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"torn": tr')
    state = json.loads((store.checkpoints / "epoch-01" / "state.json").read_bytes())
    notices = store.cut(state)
    assert [line["n"] for line in read_lines(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert "2 lines behind the checkpoint are cut, the last one torn" in notices[0]
    assert sorted(p.name for p in (tmp_path / "rollouts").iterdir())[-1] == "step-000003.jsonl"
    assert (tmp_path / "evaluations/epoch-01.jsonl").exists()
    assert store.cut(state) == []
    store.cut(None)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert not list((tmp_path / "rollouts").iterdir())
    assert not list(store.checkpoints.glob("epoch-*"))


def test_death_before_any_call_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    calls, died = 0, True
    filled(tmp_path / "template")
    while died:
        folder = tmp_path / str(calls)
        shutil.copytree(tmp_path / "template", folder)
        store, died = Store(folder), False
        try:
            again = Store(folder, Failing(calls))
            again.append("metrics.jsonl", {"n": 5})
            again.write_lines("rollouts/step-000005.jsonl", [{"step": 5}])
            publish(again, LATEST, 5, 1)
            again.write_lines("rollouts/step-000006.jsonl", [{"step": 6}])
            again.write_lines("evaluations/epoch-02.jsonl", [{"epoch": 2}])
            publish(again, "epoch-02", 6, 2)
            again.drop(LATEST)
        except Death:
            died = True
        found = store.find_resume()
        assert found is not None and found.state["step"] >= (4 if died else 6)
        visible = [p for p in store.checkpoints.iterdir() if not p.name.startswith(".")]
        assert all(verify(p) is None for p in visible)
        store.cut(found.state)
        step = found.state["step"] + 1  # and the run goes on
        store.write_lines(f"rollouts/step-{step:06d}.jsonl", [{"step": step}])
        publish(store, LATEST, step, found.state["epoch"])
        assert store.find_resume().state["step"] == step  # type: ignore[union-attr]
        calls += 1
    assert calls > 40


def test_a_second_writer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path: Path) -> None:
    hold = (
        "import time; from pathlib import Path; from minihmx.storage.run_folder import Store;"
        f"store = Store(Path({str(tmp_path)!r})); store.lock();"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another process"):
            Store(tmp_path).lock()
        other.kill()
    Store(tmp_path).lock()


def test_lines_are_sorted_json_without_nan(tmp_path: Path) -> None:
    assert dumps({"b": "ü", "a": 1}) == '{"a": 1, "b": "ü"}'
    with pytest.raises(ValueError):
        dumps({"a": float("nan")})
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "x.json")


def test_a_link_is_read_through_and_what_it_leads_to_is_told(tmp_path: Path) -> None:
    path, file = tmp_path / "link.json", tmp_path / "file.json"
    path.symlink_to("file.json")
    with pytest.raises(UserError, match=r"link\.json is a link to 'file\.json', where nothing is"):
        read_json(path)
    file.mkdir()
    with pytest.raises(UserError, match=r"link\.json is a folder, and only an ordinary file"):
        read_json(path)
    file.rmdir()
    file.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    file.write_text("{")
    with pytest.raises(UserError, match=r"link\.json is not valid JSON"):
        read_json(path)
