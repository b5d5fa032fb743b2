"""`minihmx judge` as it is typed: by other models and other rubrics, begun again, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy
from command_line import in_process, refused

from minihmx.judge import RUBRIC, doubts
from minihmx.probes import rejudge
from minihmx.probes.judged_folder import JudgedFolder
from minihmx.probes.rubrics import INVERTED, SELF_WRITTEN, SHIPPED, find_rubric
from minihmx.rollout import ask_judge
from minihmx.storage.disk import read_lines, verify


@pytest.fixture
def run(pair: Path, tmp_path: Path) -> Path:
    """A copy of the forward run: three epochs, one held-out question, four answers."""
    shutil.copytree(pair / "tiny", tmp_path / "tiny")
    return tmp_path / "tiny" / "forward" / "seed-1"


def folders(run: Path) -> dict[str, Path]:
    """By the rubric's name."""
    return {p.name.rpartition("-")[0]: p for p in sorted((run / "judged").glob("*/*"))}


def test_the_own_model_with_the_same_rubric_says_the_same(run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    done = in_process("judge", run, "--rubric", "same")
    assert done.returncode == 0, done.stderr
    folder = folders(run)["same"]
    for epoch in range(3):
        name = f"epoch-{epoch:02d}.jsonl"
        ours, first = read_lines(folder / name), read_lines(run / "evaluations" / name)
        same = ("question", "sample", "judge", "judge_finish", "score", "span", "unscored")
        assert [[r[n] for n in same] for r in ours] == [[r[n] for n in same] for r in first]
    assert verify(folder, ("judge.json", "rubric.txt", "epoch-02.jsonl")) is None
    assert all(path.read_bytes() == data for path, data in before.items())
    assert in_process("audit", run).returncode == 0
    assert "tiny (own, asked again)" in in_process("judge", run, "--report").stdout


def test_what_is_there_is_kept_and_what_a_kill_left_out_is_made(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(
        decoder: object, tokenizer: object, prompts: list[object], **rest: object
    ) -> object:
        asked.append(len(prompts))
        return ask_judge(decoder, tokenizer, prompts, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("minihmx.rollout.ask_judge", counted)
    words = ("judge", run, "--rubric", "score-only")
    in_process(*words)
    folder = folders(run)["score-only"]
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sum(asked) == 12
    assert "all 3 epochs are judged already" in in_process(*words).stdout and sum(asked) == 12
    seal = json.loads(whole["manifest.json"])
    del seal["sha256"]["epoch-02.jsonl"]  # killed in front of the seal, or within the file
    (folder / "manifest.json").write_text(json.dumps(seal))
    (folder / ".epoch-02.jsonl.new").write_bytes(whole["epoch-02.jsonl"][:100])
    (folder / "epoch-02.jsonl").unlink()
    assert in_process(*words).returncode == 0 and sum(asked) == 16
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    (folder / "epoch-01.jsonl").write_text("{}\n")
    refused(in_process(*words), "is not what was written (epoch-01.jsonl differs", code=5)


def test_what_another_process_judged_meanwhile_is_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, begin, added = ("judge", run, "--rubric", "score-only"), JudgedFolder.begin, list[int]()

    def late(self: JudgedFolder) -> None:
        monkeypatch.setattr(JudgedFolder, "begin", begin)
        assert in_process(*words).returncode == 0  # the other one, which is done by now
        monkeypatch.setattr(JudgedFolder, "add", lambda self, epoch, *_: added.append(epoch))
        begin(self)

    monkeypatch.setattr(JudgedFolder, "begin", late)
    assert in_process(*words).returncode == 0
    assert not added and len(list(folders(run)["score-only"].glob("epoch-*"))) == 3


def test_both_directions_and_epochs_by_name(run: Path) -> None:
    reverse = run.parents[1] / "reverse" / "seed-1"
    done = in_process("judge", f"{run}@epoch-01", reverse, "--rubric", "paraphrase-5", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folders(run)["paraphrase-5"].glob("epoch*")) == [
        "epoch-00.jsonl",
        "epoch-01.jsonl",
    ]
    assert len([*folders(reverse)["paraphrase-5"].glob("epoch*")]) == 3
    (judge,) = json.loads(done.stdout)["judges"]
    assert judge["inverted"] and judge["agreement"]["base"]["answers"] == 4
    assert "too few" in judge["agreement"]["all"]["why"]
    assert "judged" not in done.stdout and "answers scored" in done.stderr


def test_two_epochs_of_one_run_are_judged_and_their_base_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, add = list[int](), JudgedFolder.add

    def counted(self: JudgedFolder, epoch: int, *rest: Any) -> None:
        judged.append(epoch)
        add(self, epoch, *rest)

    monkeypatch.setattr(JudgedFolder, "add", counted)
    named = f"{run}@epoch-01", f"{run}@epoch-02"
    done = in_process("judge", *named, "--rubric", "score-only", "--json")
    assert done.returncode == 0, done.stderr
    assert judged == [0, 1, 2]
    (judge,) = json.loads(done.stdout)["judges"]
    assert [each["epoch"] for each in judge["runs"]] == [1, 2]
    assert judge["agreement"]["base"]["answers"] == 4


def test_the_model_writes_a_criterion_that_is_kept(run: Path) -> None:
    assert in_process("judge", run, "--rubric", "self-written").returncode == 0
    folder = folders(run)["self-written"]
    record = json.loads((folder / "judge.json").read_text())
    criterion = record["rubric"]["criterion"]
    assert criterion and criterion in (folder / "rubric.txt").read_text()
    assert record["own_model"] and record["probe"] is None


def test_a_file_named_as_one_of_ours_is_a_file(run: Path, tmp_path: Path) -> None:
    """Its scores are not turned round, and it is not taken for the rubric that gave the rewards."""
    files = [tmp_path / f"{name}.txt" for name in ("paraphrase-5", "same", "ä" * 120)]
    for path in files:
        path.write_text(RUBRIC, "utf-8")
    done = in_process("judge", f"{run}@epoch-01", "--rubric", *files)
    assert done.returncode == 0, done.stderr
    assert {*folders(run)} == {"file-paraphrase-5", "file-same", "ä" * 60}
    assert in_process("audit", run).returncode == 0


def test_a_rubric_that_leaves_no_room_for_an_answer_is_refused(run: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("How much of it is felt? " * 4000 + RUBRIC, "utf-8")
    done = in_process("judge", f"{run}@epoch-01", "--rubric", long)
    refused(done, "The rubric long has ", "the context of tiny is ", "shorten it")
    assert not (run / "judged").exists()


def test_a_judge_that_cannot_score_is_refused_with_its_probe(run: Path, tmp_path: Path) -> None:
    mute = toy.model(tmp_path / "mute", max_position_embeddings=8192)
    done = in_process("judge", run, "--by", mute)
    refused(done, "cannot score", "not usable, parse rate 0.00", "doctor --judge", code=5)
    assert not (run / "judged").exists()


def test_a_judge_that_can_is_recorded_with_its_probe(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiny under another name, which is foreign to the run, with a probe that it passes."""
    elsewhere = shutil.copytree(Path(rejudge.__file__).parents[1] / "tiny", run.parents[3] / "twin")
    (elsewhere / "generation_config.json").write_text(
        (elsewhere / "generation_config.json").read_text() + "\n"
    )  # another digest
    monkeypatch.setattr(rejudge, "_NEEDED", ())
    done = in_process("judge", run, "--by", elsewhere)
    assert done.returncode == 0, done.stderr
    record = json.loads((folders(run)["same"] / "judge.json").read_text())
    assert not record["own_model"] and record["model"]["id"] == str(elsewhere)
    assert record["probe"]["answers"] == 62 and record["probe"]["parse_rate"] is not None
    assert record["settings"]["judge_max_tokens"] == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "It is not said who judges"),
        (("--report", "--by", "tiny"), "--report judges nothing"),
        (("--rubric", "paraphrase-9"), "did you mean paraphrase-"),
        (("--rubric", "nowhere.txt"), "is no rubric"),
        (("--by", "tinny"), "did you mean tiny?"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(run: Path, words: tuple[str, ...], said: str) -> None:
    refused(in_process("judge", run, *words), said)
    assert not (run / "judged").exists()


def test_runs_that_cannot_be_judged_are_refused(run: Path, tmp_path: Path) -> None:
    refused(in_process("judge", tmp_path / "none", "--rubric", "all"), "There is no folder")
    (tmp_path / "empty").mkdir()
    refused(in_process("judge", tmp_path / "empty", "--report"), "holds no run")
    (run / "rubric.txt").unlink()
    refused(in_process("judge", run, "--rubric", "all"), "does not say which model judged it")


def test_the_rubrics_that_ship_ask_for_what_is_read() -> None:
    def nobody(request: str) -> str:
        raise AssertionError(request)

    texts = {name: find_rubric(name, RUBRIC, nobody) for name in (*SHIPPED, "same")}
    assert len({rubric.text for rubric in texts.values()}) == 7 and texts["same"].text == RUBRIC
    for name, rubric in texts.items():
        assert doubts(rubric.text) == [] and rubric.inverted == (name in INVERTED)
        assert ("Reason:" in rubric.text) == (name != "score-only")
    own = find_rubric(SELF_WRITTEN, RUBRIC, lambda request: " It wants something. \n")
    assert "by this criterion:\nIt wants something.\n" in own.text and not doubts(own.text)
