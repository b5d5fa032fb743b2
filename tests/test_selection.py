"""The rule of the paper's section 4, on made-up histories; and the verb on two real runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import in_process, refused

from minihmx.selection import Candidate, Rule, candidates, select, selected
from minihmx.storage.disk import dumps
from minihmx.storage.identity import science_digest

PAPER, OFF = Rule(), Rule(same_epoch_exception="off")


def history(*rows: tuple[float | None, float | None] | tuple[float | None, float | None, float]):  # type: ignore[no-untyped-def]
    """(score, kl[, unscored]) of the epochs 1, 2, ..."""
    return [Candidate(i, r[0], 0.3, r[1], r[1], *(r[2:] or (0.0,))) for i, r in enumerate(rows, 1)]


FORWARD = history((6.0, 0.10), (7.5, 0.20), (7.6, 0.30), (9.0, 0.40))


@pytest.mark.parametrize(
    ("rows", "epoch", "qualified", "said"),
    [
        (FORWARD, 3, True, "first whose score, 7.60, exceeds 7.5"),  # 7.5 does not exceed 7.5
        (history((9.0, 0.1, 0.21), (8.0, 0.2, 0.2)), 2, True, "epoch 2 is the first"),
        (history((None, 0.1, 1.0), (8.0, 0.2)), 2, True, "epoch 2 is the first"),
        (history((5.0, 0.1), (7.0, 0.2), (6.0, 0.3)), 2, False, "highest is taken, 7.00"),
        (history((7.0, 0.1), (7.0, 0.2)), 1, False, "highest is taken, 7.00 at epoch 1"),
        (history((9.0, 0.1, 0.9), (5.0, 0.2)), 2, False, "unscored at epoch 1"),
        (history((9.0, 0.1, 0.9), (8.0, 0.2, 0.5)), 1, False, "unscored at epoch 1, 2"),
        (history((None, 0.1, 1.0)), 1, False, "the highest is taken"),
    ],
)
def test_forward(rows: list[Candidate], epoch: int, qualified: bool, said: str) -> None:
    choice, _ = select(rows, rows, PAPER)
    assert (choice.epoch, choice.qualified) == (epoch, qualified)
    assert said in choice.why


@pytest.mark.parametrize(
    ("kls", "rule", "epoch", "qualified", "said"),
    [
        ((0.5, 0.5, 0.30, 0.9), PAPER, 3, True, "0.3000, is at most the forward run's, 0.3000"),
        ((0.1, 0.29, 0.31, 0.9), PAPER, 2, True, "epoch 2 is the latest earlier one"),
        # the KL at most the forward's *selected* one, 0.30, not the forward's at that epoch, 0.20
        ((0.1, 0.30, 0.31, 0.9), PAPER, 2, True, "is at most 0.3000"),
        ((0.25, 0.35, 0.31, 0.9), OFF, 1, True, "epoch 1 is the latest earlier one"),
        # the forward KL is the lower one at every epoch: the paper's Qwen3-0.6B
        ((0.25, 0.35, 0.31, 0.9), PAPER, 3, True, "lower one at every epoch"),
        ((0.35, 0.35, 0.31, 0.9), OFF, 3, False, "no earlier epoch has one that is"),
        # lower at the first three and not at the last: no exception
        ((0.25, 0.35, 0.31, 0.4), PAPER, 1, True, "epoch 1 is the latest earlier one"),
        ((0.35, 0.35, 0.31, 0.4), PAPER, 3, False, "so the same epoch is taken"),
        ((0.1, 0.2, None, 0.4), PAPER, 2, True, "not within the forward run's"),
    ],
)
def test_reverse(
    kls: tuple[float | None, ...], rule: Rule, epoch: int, qualified: bool, said: str
) -> None:
    _, choice = select(FORWARD, history(*((1.0, kl) for kl in kls)), rule)
    assert (choice.epoch, choice.qualified) == (epoch, qualified)
    assert said in choice.why


@pytest.mark.parametrize("share", [n / 40 for n in range(41)])
def test_an_epoch_with_just_the_share_of_unscored_answers_is_a_candidate(share: float) -> None:
    """Also where it is recorded as 1 - 28 / 40, which is 0.30000000000000004."""
    rule = Rule(max_unscored=share)
    just, more = 1 - (1 - share), 1 - (1 - share - 1 / 40)
    rows = history((9.0, 0.1, more), (8.0, 0.1, just))
    assert select(rows, rows, rule)[0].epoch == 2


def test_a_reverse_epoch_with_too_many_unscored_answers_is_none() -> None:
    reverse = history((1.0, 0.1), (1.0, 0.1), (1.0, 0.2, 0.3), (1.0, 0.2))
    _, choice = select(FORWARD, reverse, PAPER)
    assert choice.epoch == 2 and "epoch 3 has too many answers without a score" in choice.why


def test_a_forward_kl_that_is_no_number_lets_no_reverse_epoch_qualify() -> None:
    forward = history((6.0, 0.1), (8.0, None))
    _, choice = select(forward, history((1.0, 0.0), (1.0, 0.0)), PAPER)
    assert (choice.epoch, choice.qualified) == (2, False)


def test_epoch_0_is_no_candidate() -> None:
    line = dict(zip(Candidate._fields, (0, 9.0, 0.1, 0.0, 0.0, 0.0), strict=True))
    assert [c.epoch for c in candidates([line, line | {"epoch": 1}])] == [1]


def test_both_files_tell_of_both_choices() -> None:
    pair = {which: {"run": which, "fingerprint": "f"} for which in ("forward", "reverse")}
    reverse = history((1.0, 0.1), (1.0, 0.29), (1.0, 0.31), (1.0, 0.9))
    made = selected(FORWARD, reverse, PAPER, pair)
    assert made["forward"]["winner"] == "epoch-03" and made["reverse"]["winner"] == "epoch-02"
    assert made["forward"]["pair"] == made["reverse"]["pair"]
    assert made["reverse"]["pair"]["forward"]["winner"] == "epoch-03"
    assert made["forward"]["rule"]["same_epoch_exception"] == "on"


# --- the verb -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forward and a reverse run of seed 1, and a forward one whose config says seed 2."""
    runs = Path(shutil.copytree(pair, tmp_path_factory.mktemp("pair") / "runs")) / "tiny"
    other = Path(shutil.copytree(runs / "forward/seed-1", runs / "forward/seed-2"))
    record = json.loads((other / "config.json").read_text())
    science = record["science"] | {"seed": 2}
    changed = record | {"science": science, "fingerprint": science_digest(science)}
    (other / "config.json").write_text(dumps(changed) + "\n")
    return runs


def test_the_selected_epoch_is_what_others_take(runs: Path) -> None:
    forward, reverse = runs / "forward/seed-1", runs / "reverse/seed-1"
    done = in_process("select", forward, reverse, "--threshold", 0)
    assert done.returncode == 0, done.stderr
    stored = json.loads((forward / "selected.json").read_text())
    assert stored["winner"] == "epoch-01" and stored["qualified"]
    assert "epoch 1 is the first whose score" in done.stdout and "unscored" in done.stdout
    assert json.loads((reverse / "selected.json").read_text())["direction"] == "reverse"
    again = in_process("select", forward, reverse, "--threshold", 0, "--json")
    assert json.loads(again.stdout)["forward"] == stored
    chat = in_process("chat", "tiny", "--adapter", forward, "--prompt", "Are you there?")
    assert "epoch-01" in chat.stdout


def test_what_is_no_pair(runs: Path, tmp_path: Path) -> None:
    forward, reverse, other = (
        runs / f"{x}/seed-{s}" for x, s in (("forward", 1), ("reverse", 1), ("forward", 2))
    )
    refused(
        in_process("select", other, reverse), "are no pair (seed is 2 forward and 1 in reverse)"
    )
    refused(in_process("select", reverse, forward), "the order is: minihmx select FORWARD REVERSE")
    refused(in_process("select", tmp_path / "none", reverse), "is no run")
    refused(in_process("select", forward, reverse, "--threshold", "nan"), "--threshold nan")
    copy = tmp_path / "copy"
    shutil.copytree(forward, copy, ignore=shutil.ignore_patterns("selected.json"))
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps(status | {"state": "running"}))
    refused(in_process("select", copy, reverse), "is not finished")
    (copy / "status.json").write_text(json.dumps(status))
    for checkpoint in (copy / "checkpoints").iterdir():
        (checkpoint / "adapter_model.safetensors").write_bytes(b"0")
    refused(in_process("select", copy, reverse), "is not what was saved", code=5)
    assert not (copy / "selected.json").exists()


def test_a_finished_run_is_sealed_once(runs: Path) -> None:
    folder = runs / "forward/seed-2"
    sealed = json.loads((folder / "manifest.json").read_text())["sha256"]
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names - set(sealed) == {"manifest.json", ".lock"}
    assert {"rubric.txt", "questions.jsonl", "prompts.json"} <= set(sealed)
