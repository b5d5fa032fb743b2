"""`minihmx rate` on made-up runs: the blind file, ratings read back, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import made_up
import pytest
from command_line import in_process, refused

from minihmx.errors import DataError
from minihmx.probes.judged_folder import stored_answers
from minihmx.results.blind import row_id
from minihmx.results.rated import kept_ratings
from minihmx.storage.run_folder import Store

QUESTIONS, SAMPLES = 10, 4
LEVEL = {"base": 4, "forward": 8, "reverse": 1}


def a_run(folder: Path, direction: str) -> Path:
    """The base's answers score about 4, forward's 8, reverse's 1; one of them has no score."""
    run = made_up.trained(folder, direction, 1)
    (run / "rubric.txt").write_text("Rate the will.\nScore: integer from 0 to 10\n")
    for epoch in range(3):
        side = direction if epoch else "base"
        rows = [
            {"question": f"q{n // SAMPLES}", "sample": n % SAMPLES}
            | {"prompt": f"What is {n // SAMPLES}?", "completion": f"I say {side[:1]}{epoch}-{n}."}
            | {"score": None if epoch == 2 and n == 0 else LEVEL[side] + n // SAMPLES % 3 - 1}
            for n in range(QUESTIONS * SAMPLES)
        ]
        path = run / "evaluations" / f"epoch-{epoch:02d}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for direction in ("forward", "reverse"):
        a_run(tmp_path, direction)
    return tmp_path / "tiny"


def sheet(path: Path) -> list[dict[str, str]]:
    text = path.read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def rated(runs: Path, blind: Path, to: Path, rate: Callable[[int], int]) -> Path:
    """The file as a person leaves it who gives `rate` of the judge's score, 4 for none."""
    scores = {
        row_id((line["prompt"], line["completion"])): line["score"]
        for run in runs.glob("*/seed-1")
        for epoch in (0, 2)
        for line in stored_answers(run, epoch)
    }
    rows = sheet(blind)
    for row in rows:
        score = scores[row["id"]]
        row["rating"] = str(max(0, min(10, rate(4 if score is None else score))))
    with to.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return to


def test_the_file_is_blind_and_shuffled_and_has_the_base_once(runs: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    done = in_process("rate", runs, "--out", tmp_path / "blind.csv")
    assert done.returncode == 0, done.stderr
    rows = sheet(tmp_path / "blind.csv")
    assert "holds 120 answers" in done.stdout and len(rows) == 120
    assert "Score: integer from 0 to 10" in done.stdout and "column rating" in done.stdout
    text = (tmp_path / "blind.csv").read_text("utf-8-sig")
    assert not any(word in text for word in ("forward", "reverse", "seed", "score", "epoch"))
    initials = [row["answer"][7] for row in rows]
    assert sorted(initials) != initials and set(initials) == set("bfr")
    assert {p: p.read_bytes() for p in before} == before
    again = in_process("rate", runs, "--out", tmp_path / "blind.csv")
    refused(again, "exists already")
    assert in_process("rate", runs, "--out", tmp_path / "b", "--seed", 2).returncode == 0
    other = sheet(tmp_path / "b")
    assert [r["id"] for r in other] != [r["id"] for r in rows]
    assert {r["id"] for r in other} == {r["id"] for r in rows}


def test_a_part_has_as_many_of_every_side_and_question(runs: Path, tmp_path: Path) -> None:
    done = in_process("rate", runs, "--out", tmp_path / "part.csv", "--answers", 60)
    assert done.returncode == 0, done.stderr
    rows = sheet(tmp_path / "part.csv")
    cells = [(row["question"], row["answer"][7]) for row in rows]
    assert len(rows) == 60 and len(set(cells)) == 30
    assert {cells.count(cell) for cell in cells} == {2}


def test_people_judge_and_direction_are_compared(runs: Path, tmp_path: Path) -> None:
    blind = tmp_path / "blind.csv"
    in_process("rate", runs, "--out", blind)
    # one says what the judge says; the other sees half of the distance to 4
    one = rated(runs, blind, tmp_path / "one.csv", lambda score: score)
    two = rated(runs, blind, tmp_path / "two.csv", lambda score: 4 + (score - 4) // 2)
    done = in_process("rate", runs, "--in", one)
    assert done.returncode == 0, done.stderr
    assert "judge and people      118" in done.stdout and "This cannot tell whether" in done.stdout
    found = json.loads(in_process("rate", runs, "--in", one, "--json").stdout)
    assert found["sides"]["base"]["people"] == found["sides"]["base"]["judge"]
    assert found["differences"]["forward - base"]["ratio"]["value"] == pytest.approx(1)
    assert found["agreement"][0]["alpha"] == 1 and found["agreement"][0]["scored_by_both"] == 118
    found = json.loads(in_process("rate", runs, "--in", one, two, "--json").stdout)
    forward = found["differences"]["forward - base"]
    assert forward["judge"]["value"] == pytest.approx(4, abs=0.05)
    assert 0.6 < forward["ratio"]["value"] < 0.8  # the mean of all of it and of half
    assert found["differences"]["reverse - base"]["people"]["value"] < -1.5
    both = found["differences"]["forward - reverse"]
    assert both["judge"]["value"] == pytest.approx(7, abs=0.1)
    pairs = [each["pair"] for each in found["agreement"]]
    assert pairs == ["judge and people", "one.csv and two.csv"]
    assert found["agreement"][1]["scored_by_both"] == 120 and found["agreement"][1]["alpha"] < 0.9


def test_by_hand_the_mean_of_a_side_and_its_error(runs: Path, tmp_path: Path) -> None:
    """Questions are 3, 4, 5, 3, ... in base: ten questions of four equal answers each."""
    blind = tmp_path / "blind.csv"
    in_process("rate", runs, "--out", blind)
    one = rated(runs, blind, tmp_path / "one.csv", lambda score: score)
    base = json.loads(in_process("rate", runs, "--in", one, "--json").stdout)["sides"]["base"]
    levels = [3 + n % 3 for n in range(10)]
    centre = sum(levels) / 10
    error = (sum((level - centre) ** 2 for level in levels) / 9 / 10) ** 0.5
    assert base["people"]["value"] == pytest.approx(centre)
    assert base["people"]["error"] == pytest.approx(error)
    assert (base["answers"], base["questions"]) == (40, 10)


def test_too_few_ratings_are_said_instead_of_a_number(runs: Path, tmp_path: Path) -> None:
    blind = tmp_path / "blind.csv"
    in_process("rate", runs, "--out", blind, "--answers", 30)
    one = rated(runs, blind, tmp_path / "one.csv", lambda score: score)
    done = in_process("rate", runs, "--in", one)
    said = " ".join(done.stdout.split())
    assert done.returncode == 0 and "forward - base too few" in said
    assert "base: too few: people rated 10 answers to 10 questions" in said
    sides = json.loads(in_process("rate", runs, "--in", one, "--json").stdout)["sides"]
    assert sides["base"]["why"].startswith("too few: people rated 10 answers to 10 questions")


def test_what_is_wrong_with_a_file_is_said_in_a_sentence(runs: Path, tmp_path: Path) -> None:
    blind = tmp_path / "blind.csv"
    in_process("rate", runs, "--out", blind)
    for rating, said in (("11", "not a whole number from 0 to 10"), ("7.5", "7.5"), ("-1", "-1")):
        data = blind.read_bytes().replace(b'""\r\n', f'"{rating}"\r\n'.encode(), 1)
        bad = tmp_path / f"bad{rating}.csv"
        bad.write_bytes(data)
        refused(in_process("rate", runs, "--in", bad), "row 1 of 120: its rating is", said)
    good = rated(runs, blind, tmp_path / "good.csv", lambda score: score)
    text = good.read_bytes().decode()
    lines = text.splitlines(keepends=True)
    lines[3] = lines[3].replace("I say", "I shout")
    (tmp_path / "changed.csv").write_text("".join(lines), "utf-8")
    refused(in_process("rate", runs, "--in", tmp_path / "changed.csv"), "row 3 of 120: its answer")
    (tmp_path / "short.csv").write_text("".join(lines[:3] + lines[4:]), "utf-8")
    refused(in_process("rate", runs, "--in", tmp_path / "short.csv"), "row 3 of 120 is missing")
    refused(in_process("rate", runs, "--in", good, good), "is given twice")
    same = tmp_path / "again.csv"  # one person is no second one by another path
    same.symlink_to(good)
    refused(in_process("rate", runs, "--in", good, same), "is given twice")
    half = tmp_path / "half.csv"
    half.write_bytes(text.replace(";4\r\n", ";7,0\r\n").encode())
    assert in_process("rate", runs, "--in", half).returncode == 0  # as a spreadsheet writes 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "whether a file is written or read"),
        (("--out", "x.csv", "--in", "y.csv"), "whether a file is written or read"),
        (("--out", "nowhere/x.csv"), "a folder that is not there"),
        (("--in", "nowhere.csv"), "nowhere.csv"),
        (("--out", "x.csv", "--answers", "-1"), "--answers -1"),
    ],
)
def test_words_that_do_not_go_together(
    runs: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(in_process("rate", runs, *words), said)
    assert not (tmp_path / "x.csv").exists()


def test_runs_of_other_models_or_rubrics_are_no_one_file(runs: Path, tmp_path: Path) -> None:
    run = runs / "reverse" / "seed-1"
    (run / "rubric.txt").write_text("Rate the length.\n")
    refused(in_process("rate", runs, "--out", tmp_path / "x.csv"), "of 2 rubrics")
    none = in_process("rate", tmp_path / "none", "--out", tmp_path / "x.csv")
    refused(none, "There is no folder")


# --- what is kept ---------------------------------------------------------------------------------


def kept(runs: Path) -> list[Path]:
    return sorted((runs / "base" / "probes").glob("rate-*"))


def written(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def filled(runs: Path, tmp_path: Path) -> list[Path]:
    """The files of two people in folders of their own."""
    in_process("rate", runs, "--out", tmp_path / "blind.csv")
    files = [tmp_path / name / "mine.csv" for name in ("anna", "ben")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        rated(runs, tmp_path / "blind.csv", file, lambda score, n=number: score - n)
    return files


def test_ratings_are_kept_once_and_others_are_another_folder(
    runs: Path, filled: list[Path]
) -> None:
    one = json.loads(in_process("rate", runs, "--in", *filled, "--json").stdout)
    (folder,) = kept(runs)
    assert one["folder"] == str(folder) and one["raters"].keys() == {
        "anna/mine.csv",
        "ben/mine.csv",
    }
    before = written(folder)
    both = [runs / direction / "seed-1" for direction in ("reverse", "forward")]
    for words in ([runs, "--in", *filled[::-1]], [*both, "--in", *filled]):
        done = in_process("rate", *words)
        assert done.returncode == 0 and f"kept in {folder}" in done.stdout, done.stderr
    assert written(folder) == before
    in_process("rate", runs, "--in", filled[0])
    others = in_process("rate", both[0], f"{both[1]}@epoch-01", "--in", *filled)
    refused(others, "is of no reply of these runs")
    assert len(kept(runs)) == 2
    filled[0].write_bytes(filled[0].read_bytes().replace(b";4\r\n", b";3\r\n", 1))
    in_process("rate", runs, "--in", *filled)
    assert len(kept(runs)) == 3 and written(folder) == before


def test_of_a_file_the_ratings_alone_are_kept(runs: Path, filled: list[Path]) -> None:
    rows = filled[0].read_text("utf-8").splitlines()
    rows = [f"{row};{'who' if n == 0 else 'Anna Private'}" for n, row in enumerate(rows)]
    filled[0].write_text("\n".join(rows), "utf-8")
    assert in_process("rate", runs, "--in", filled[0]).returncode == 0
    (folder,) = kept(runs)
    lines = [json.loads(line) for line in (folder / "ratings.jsonl").read_text().splitlines()]
    assert len(lines) == 120 and all(line.keys() == {"rater", "row", "rating"} for line in lines)
    assert {line["rater"] for line in lines} == {"mine.csv"}
    everything = b"".join(data for _, data in written(folder).values())
    assert not any(word in everything for word in (b"Private", b"I say", b"What is", b"anna"))
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["runs"] == ["forward/seed-1@epoch-02", "reverse/seed-1@epoch-02"]
    found = kept_ratings(folder, settings)
    assert found.tables() == kept_ratings(folder, settings).tables()
    assert [*found.raters] == ["mine.csv"] and len(found.rated) == 120


def test_what_was_kept_and_changed_is_refused(runs: Path, filled: list[Path]) -> None:
    in_process("rate", runs, "--in", filled[0])
    (folder,) = kept(runs)
    path = folder / "ratings.jsonl"
    path.write_text(path.read_text().replace('"rating": 4', '"rating": 9', 1))
    refused(in_process("rate", runs, "--in", filled[0]), "is not what was written there", code=5)


def test_ratings_are_shown_where_they_cannot_be_kept(
    runs: Path, filled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(store: Store) -> None:
        raise PermissionError(13, "Permission denied", str(store.folder))

    monkeypatch.setattr(Store, "lock", read_only)
    done = in_process("rate", runs, "--in", filled[0])
    assert done.returncode == 0 and "judge and people      118" in done.stdout
    assert "note: the ratings are not kept beside the runs (" in done.stdout and not kept(runs)


def test_answers_that_are_others_by_now_are_said(runs: Path, filled: list[Path]) -> None:
    in_process("rate", runs, "--in", filled[0])
    (folder,) = kept(runs)
    settings = json.loads((folder / "settings.json").read_text())
    path = runs / "forward/seed-1/evaluations/epoch-02.jsonl"
    path.write_text(path.read_text().replace("I say f2-7.", "I say nothing."))
    with pytest.raises(DataError, match="ratings of other answers than those"):
        kept_ratings(folder, settings)
    shutil.rmtree(runs / "forward")
    with pytest.raises(DataError, match=f"{folder} holds ratings of answers of forward/seed-1@"):
        kept_ratings(folder, settings)


def test_runs_may_be_named_from_within_their_folders(
    runs: Path, filled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, names in (
        (runs / "forward", ("seed-1", "../reverse/seed-1")),
        (runs / "forward/seed-1", (".", "../../reverse/seed-1")),
        (runs / "forward/seed-1", ("../..",)),
    ):
        monkeypatch.chdir(place)
        done = in_process("rate", *names, "--in", filled[0])
        assert done.returncode == 0, done.stderr
        assert len(kept(runs)) == 1


def test_two_epochs_of_one_direction_are_no_side(runs: Path, tmp_path: Path) -> None:
    run, blind = runs / "forward" / "seed-1", tmp_path / "blind.csv"
    done = in_process("rate", f"{run}@epoch-01", f"{run}@epoch-02", "--out", blind)
    refused(done, "is named at epoch-01 and at epoch-02", "name one of the two")
    assert not blind.exists()
    with_base = f"{run}@epoch-00", f"{run}@epoch-02", f"{run}/.@epoch-02"
    assert "holds 80 answers" in in_process("rate", *with_base, "--out", blind).stdout
