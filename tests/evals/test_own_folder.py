"""An evaluation changes files of its own folder alone, and none once that folder is another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_eval import ITEMS, benchmark, choose, results

from minihmx.errors import DataError, IOFailure
from minihmx.evals.asking.results import Results
from minihmx.storage.disk import Disk

LINE = b'{"id": "item-0", "sample": 0, "note": "theirs"}\n{"id": "it'


def whole(*_: Any) -> bool:
    """No prompt lost its first tokens."""
    return False


def begun(home: Path) -> Results:
    """An evaluation that was just begun, by a process that has ended since."""
    found = results(home, benchmark(choose))
    found.begin(whole)
    found.store._lock.close()
    return found


def hard_link(path: Path, other: Path) -> None:
    path.hardlink_to(other)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [Path.symlink_to, hard_link, pipe])
@pytest.mark.parametrize("name", ["samples.jsonl", "result.json", "manifest.json"])
def test_a_file_of_others_is_left_as_it_is(
    make: Callable[[Path, Path], None], name: str, tmp_path: Path
) -> None:
    theirs, found = tmp_path / "theirs", begun(tmp_path / "run")
    theirs.write_bytes(LINE)
    make(found.folder / name, theirs)
    with pytest.raises(DataError, match=f"{name} .*belongs to others"):
        results(tmp_path / "run", benchmark(choose)).begin(whole)
    assert theirs.read_bytes() == LINE


@pytest.mark.parametrize("level", ["evals", "evals/toy", "evals/toy/base"])
def test_a_folder_of_others_is_left_as_it_is(level: str, tmp_path: Path) -> None:
    found = begun(tmp_path / "run")
    (found.folder / "samples.jsonl").write_bytes(LINE)
    folder = found.folder if level.endswith("base") else tmp_path / "run" / level
    folder.rename(tmp_path / "theirs")
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(DataError, match="is a link"):
        results(tmp_path / "run", benchmark(choose)).begin(whole)
    (samples,) = (tmp_path / "theirs").rglob("samples.jsonl")
    assert samples.read_bytes() == LINE


def test_the_run_s_folder_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = begun(tmp_path / "link")
    (found.folder / "samples.jsonl").write_bytes(b'{"id": "it')
    again = results(tmp_path / "link", benchmark(choose))
    done, notices = again.begin(whole)
    assert not done and "torn" in notices[0]
    again.add([{"id": "item-1", "sample": 0}])
    assert (again.folder / "samples.jsonl").read_bytes() == b'{"id": "item-1", "sample": 0}\n'


@pytest.mark.parametrize(
    "data", [b"a letter", b"a letter\nof two lines", b"\n", LINE.replace(b'{"id": "it', b"P.S.")]
)
def test_what_holds_no_samples_is_kept_beside_them(data: bytes, tmp_path: Path) -> None:
    """Also a last line without an end that no sample begins like; a torn sample is asked again."""
    path = begun(tmp_path).folder / "samples.jsonl"
    path.write_bytes(data)
    done, (notice, *_) = results(tmp_path, benchmark(choose)).begin(whole)
    assert not done and path.read_bytes() == b"" and "refused.jsonl" in notice
    assert (path.with_name("refused.jsonl")).read_bytes() == data.rstrip(b"\n") + b"\n"


@pytest.mark.parametrize("level", [".", "..", "../../.."])
def test_a_folder_that_goes_is_not_begun_again(level: str, tmp_path: Path) -> None:
    found = results(tmp_path / "run", benchmark(choose))
    found.begin(whole)
    found.add([{"id": ITEMS[0]["id"], "sample": 0}])
    (found.folder / level).resolve().rename(tmp_path / "aside")
    for change in (
        lambda: found.add([{"id": ITEMS[1]["id"], "sample": 0}]),
        lambda: found.store.write_json("result.json", {}),
    ):
        with pytest.raises(IOFailure, match="was moved, replaced or deleted"):
            change()
    assert not found.folder.exists()
    assert not list((tmp_path / "aside").rglob("result.json"))
    found.folder.mkdir(parents=True)
    with pytest.raises(IOFailure, match="was moved, replaced or deleted"):
        found.add([{"id": ITEMS[1]["id"], "sample": 0}])
    assert not list(found.folder.iterdir())
    Disk().remove(tmp_path / "aside")
    assert not (tmp_path / "aside").exists()
