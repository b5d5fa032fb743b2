"""The table that scripts/silent_choices.py makes of runs, and two real ones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from minihmx.config import FIELDS, Config, check_config
from minihmx.errors import UserError

sys.path.insert(0, str(ROOT / "scripts"))
import silent_choices
from silent_choices import ALTERNATIVES, DEFAULT, Measured


def of(own: float | None, true: float) -> Measured:
    return Measured(own, true, own, true, 3.0, 0.25, 0.0)


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_an_alternative_can_be_typed(name: str) -> None:
    words = ALTERNATIVES[name].split()
    fields = [word.removeprefix("--").replace("-", "_") for word in words[::2]]
    values = {f: type(FIELDS[f].default)(w) for f, w in zip(fields, words[1::2], strict=True)}
    check_config(Config(**values), 4096)


def test_the_table_by_hand() -> None:
    """Three seeds: +1, +1.1 and +0.9 are beyond seeds (1 ± 0.25), +1, -1 and 0 are not."""
    default = {1: of(5.0, 4.0), 2: of(6.0, 5.0), 3: of(7.0, 6.0)}
    other = {1: of(6.0, 5.0), 2: of(7.1, 4.0), 3: of(7.9, 6.0)}
    found = {(DEFAULT, "forward"): default, ("no divisor", "forward"): other}
    forward, _ = silent_choices.tables(found)
    cells = dict(zip(forward.head, forward.rows[1], strict=True))
    assert forward.rows[0][1:3] == ("6.00", "5.00") and forward.rows[0][-2:] == ("", "")
    assert (cells["own +"], cells["true +"]) == ("+1.00 ± 0.25 *", "+0.00 ± 2.48")
    assert (cells["odd"], cells["unscored"], cells["KL"]) == ("25%", "0%", "3.00")
    assert "cannot be said" in forward.notes[0]


def test_a_clip_that_acts_with_two_iterations_is_compared_with_those() -> None:
    found = {
        (DEFAULT, "forward"): {1: of(1.0, 1.0)},
        ("two iterations", "forward"): {1: of(5.0, 4.0)},
        ("two, clip higher", "forward"): {1: of(6.0, 4.5)},
    }
    forward, _ = silent_choices.tables(found)
    assert forward.rows[2][0] == "two, clip higher (less two iterations)"
    assert forward.rows[2][-2:] == ("+1.00 ?", "+0.50 ?")


def test_a_finished_run_of_another_config_is_refused(tmp_path: Path, pair: Path) -> None:
    place = tmp_path / "no-divisor"
    folder = place / "tiny" / "forward" / "seed-1"
    key = ("no divisor", "forward", 1)
    silent_choices.refuse_another(key, place, folder)  # nothing is there yet
    shutil.copytree(pair, place)
    assert (folder / "manifest.json").is_file()
    with pytest.raises(UserError, match="advantage_divisor is its default there and 'none' here"):
        silent_choices.train_all(tmp_path, ["no divisor"], [1], jobs=1)


def test_one_seed_says_nothing_of_seeds() -> None:
    one = {1: of(5.0, 4.0)}
    assert silent_choices.difference({1: of(6.0, 4.0)}, one, "own") == "+1.00 ?"
    assert silent_choices.difference({1: of(None, 4.0)}, one, "own") == "-"
    assert silent_choices.difference({2: of(6.0, 4.0)}, one, "own") == "-"


def test_what_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (["--only", "magic"], "no alternative 'magic'"),
        (["--seeds", "x"], "no list"),
    ):
        monkeypatch.setattr(sys, "argv", ["silent_choices.py", *words])
        with pytest.raises(SystemExit, match=said):  # which a process tells, and ends with 1
            silent_choices.main()
    monkeypatch.setattr(sys, "argv", ["silent_choices.py", "--list"])
    silent_choices.main()
    listed = capsys.readouterr().out
    assert all(name in listed for name in ALTERNATIVES) and not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_real_runs_are_trained_once_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "--epochs 2 --max-completion-length 32"
    monkeypatch.setitem(ALTERNATIVES, DEFAULT, small)
    monkeypatch.setitem(ALTERNATIVES, "no divisor", f"{small} --advantage-divisor none")
    runs, failed = silent_choices.train_all(tmp_path, [DEFAULT, "no divisor"], [1], jobs=2)
    assert not failed and len(runs) == 4
    found = silent_choices.all_measured(runs)
    assert len(found) == 4
    for by_seed in found.values():
        assert by_seed[1].kl is not None and 0 <= by_seed[1].true <= 10
    forward, reverse = silent_choices.tables(found)
    assert [row[0] for row in forward.rows] == [row[0] for row in reverse.rows]
    before = {folder: (folder / "manifest.json").stat().st_mtime_ns for folder in runs.values()}
    again, _ = silent_choices.train_all(tmp_path, [DEFAULT, "no divisor"], [1], jobs=1)
    assert {f: (f / "manifest.json").stat().st_mtime_ns for f in again.values()} == before
