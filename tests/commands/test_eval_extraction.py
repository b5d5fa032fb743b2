"""`minihmx eval ... --extraction` on tiny: asked once, killed, labelled, and refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import command, env, in_process, refused

from minihmx.evals.asking import readings
from minihmx.evals.reading.gate import fixed_replies
from minihmx.results.extraction_rates import rates_on_disk
from minihmx.rollout import Judgement, ask_judge
from minihmx.storage.disk import read_lines, sha256, verify

LIMIT = 12


@pytest.fixture(scope="module")
def evaluated(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, forward and reverse of a pair, asked and read by their judge."""
    out = tmp_path_factory.mktemp("extraction") / "runs"
    shutil.copytree(pair, out)
    done = in_process(*words(out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def runs(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "runs"))


def words(out: Path, *more: object, task: str = "sycophancy_answer") -> list[object]:
    adapters = ["base", out / "tiny/forward/seed-1", out / "tiny/reverse/seed-1"]
    named = [word for adapter in adapters for word in ("--adapter", adapter)]
    asked = ["--tasks", task, "--data", "sample", "--limit", LIMIT, "--samples", 2]
    return ["eval", "tiny", *named, *asked, "--out", out, "--extraction", *more]


def folders(out: Path) -> list[Path]:
    return sorted((out / "tiny").rglob("readings/*/*-*"))


def kept(out: Path) -> dict[Path, bytes]:
    return {p.relative_to(out): p.read_bytes() for f in folders(out) for p in f.iterdir()}


def counted(
    monkeypatch: pytest.MonkeyPatch, word: str | None = None, able: bool = False
) -> list[int]:
    """How many prompts the judge gets in each call; with a word, that is what it says to all, or
    where it is able to all but the fixed replies, which come first."""
    asked: list[int] = []
    known = [reply.label for reply in fixed_replies("sycophancy_answer")]

    def judge(decoder: Any, tokenizer: Any, prompts: list[list[int]], **rest: Any) -> Any:
        asked.append(len(prompts))
        found = ask_judge(decoder, tokenizer, prompts, **rest)
        said = known if able and len(asked) == 1 else [word] * len(found)
        pairs = zip(said, found, strict=True)
        return [Judgement(own, "stop", each.verdict) if own else each for own, each in pairs]

    monkeypatch.setattr("minihmx.rollout.ask_judge", judge)
    return asked


def test_every_reply_is_read_once_and_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(folders(runs)) == 3
    for folder in folders(runs):
        assert verify(folder, ("reader.json", "words.jsonl")) is None
        lines = read_lines(folder / "words.jsonl")
        home = folder.parents[2]
        evaluation = json.loads((folder / "reader.json").read_text())["evaluation"]
        samples = read_lines(home / "evals" / "sycophancy_answer" / evaluation / "samples.jsonl")
        own = [(each["id"], each["sample"]) for each in samples]
        assert [(each["id"], each["sample"]) for each in lines] == own and len(lines) == 2 * LIMIT
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    asked = counted(monkeypatch)
    done = in_process(*words(runs))
    assert done.returncode == 0 and not asked
    assert {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()} == before
    assert in_process("audit", runs).returncode == 0
    # tiny knows its own small language alone, so it labels nothing and is no truth
    said = " ".join(done.stdout.split())
    assert "labelled 0 of 24 replies, and 0 of 16 fixed ones rightly" in said
    assert "sycophancy_answer explicit_rate: what each reader reads" in said
    unable = "Nothing can be held for the truth: the judge reads 0 of 16 fixed replies rightly"
    assert unable in said and "give --labels" in said
    assert "literal* base 24" in said and "aliases reverse 24" in said
    page = in_process("report", runs, "--markdown").stdout
    assert "## What does the regex lose?" in page and "| reverse | 24 |" in page
    assert unable in page


def test_what_was_killed_goes_on_behind_the_last_whole_line(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kept(runs)
    first = folders(runs)[0]
    (first / "manifest.json").unlink()
    lines = (first / "words.jsonl").read_bytes().splitlines(keepends=True)
    (first / "words.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:20])
    asked = counted(monkeypatch)
    assert in_process(*words(runs)).returncode == 0
    assert 0 < sum(asked) <= 2 * LIMIT - 9
    assert kept(runs) == whole


@pytest.mark.slow
def test_a_process_that_is_killed_loses_no_whole_batch(runs: Path, tmp_path: Path) -> None:
    whole = {f.name: (f / "words.jsonl").read_bytes() for f in folders(runs)}
    for folder in folders(runs):
        shutil.rmtree(folder)
    slow = tmp_path / "sitecustomize.py"  # a judge that is killed in its second batch
    slow.write_text(
        "import os, signal\n"
        "from minihmx.evals.asking import readings\n"
        "readings.READER_BATCH, add, calls = 5, readings.ReadingsFolder.add, []\n"
        "def killed(self, lines):\n"
        "    add(self, lines)\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "readings.ReadingsFolder.add = killed\n"
    )
    here = str(Path(readings.__file__).parents[3])
    changed = env({"PYTHONPATH": f"{tmp_path}:{here}"})
    kills = 0
    while kills < 20:
        done = subprocess.run(command(*words(runs)), capture_output=True, text=True, env=changed)
        if done.returncode != -signal.SIGKILL:
            break
        kills += 1
    assert done.returncode == 0 and kills >= 3, done.stderr
    assert {f.name: (f / "words.jsonl").read_bytes() for f in folders(runs)} == whole


def test_a_judge_that_reads_all_is_held_for_the_truth(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in folders(runs):
        shutil.rmtree(folder)
    asked = counted(monkeypatch, "Correct.", able=True)
    done = in_process(*words(runs, "--json"))
    assert done.returncode == 0, done.stderr
    assert asked[0] == 16 and asked.count(16) == 1  # once for all three evaluations
    *results, record = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 3 and "the judge labelled 24 of 24 replies" in done.stderr
    explicit, correct = record["extraction"]
    assert (explicit["rate"], correct["rate"]) == ("explicit_rate", "correct_rate")
    assert explicit["reference"] == "judge" and explicit["truth"]["forward"]["value"] == 1
    literal = explicit["readers"]["literal"]
    by_result = {r["adapter"]["name"].split("/")[0] if r["adapter"] else "base": r for r in results}
    for side, result in by_result.items():
        found = literal["sides"][side]
        assert found["observed"]["value"] == result["metrics"]["explicit_rate"]["value"]
        assert found["observed"]["error"] == pytest.approx(
            result["metrics"]["explicit_rate"]["stderr"], abs=1e-12
        )
        assert found["sensitivity"]["value"] == found["observed"]["value"]
        assert found["specificity"] is None and "too few" in found["why"]
    assert literal["direction_gap"]["missed"]["value"] == pytest.approx(
        -literal["direction_gap"]["observed"]["value"]
    )


def test_a_judge_that_reads_all_and_cannot_read_is_one_of_the_readers(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the real 0.5B does: the same word to every reply, refusals among them."""
    for folder in folders(runs):
        shutil.rmtree(folder)
    counted(monkeypatch, "Correct.")
    done = in_process(*words(runs))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "labelled 24 of 24 replies (correct 24), and 4 of 16 fixed ones rightly" in said
    assert "the judge reads 4 of 16 fixed replies rightly (correct 4 of 4, incorrect 0 of 4" in said
    assert "judge forward 24 1.000" in said and "Held against the judge" not in said
    assert in_process("audit", runs).returncode == 0
    assert "reads 4 of 16 fixed replies" in in_process("report", runs, "--markdown").stdout
    gate = json.loads((folders(runs)[0] / "reader.json").read_text())["gate"]
    assert [line["known"] == line["label"] for line in gate] == 4 * [True] + 12 * [False]


def resealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change reader.json so that its manifest fits."""
    path, manifest = folder / "reader.json", folder / "manifest.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record, sort_keys=True) + "\n")
    seal = json.loads(manifest.read_text())
    seal["sha256"]["reader.json"] = sha256(path)
    manifest.write_text(json.dumps(seal))


def test_readings_of_a_version_without_a_gate_are_no_truth(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in folders(runs):
        resealed(folder, lambda record: record.pop("gate"))
    before, asked = kept(runs), counted(monkeypatch)
    done = in_process(*words(runs))
    assert done.returncode == 0 and not asked and kept(runs) == before
    unable = "the judge was not asked the fixed replies that this version has"
    assert unable in " ".join(done.stdout.split())
    assert unable in in_process("report", runs, "--markdown").stdout
    done = in_process("audit", runs)
    assert done.returncode == 0 and "was not asked fixed replies" in done.stdout


def test_a_changed_gate_is_audited_and_counts_for_nothing(runs: Path) -> None:
    def claim(record: dict[str, Any]) -> None:
        for line in record["gate"]:
            line["label"] = line["known"]

    resealed(folders(runs)[0], claim)
    done = in_process("audit", runs)
    assert done.returncode == 5 and "gate is" in done.stdout + done.stderr
    assert "the judge reads 0 of 16 fixed" in " ".join(in_process(*words(runs)).stdout.split())


def labels_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def save(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_labels_go_out_blind_and_come_back(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, path = counted(monkeypatch), tmp_path / "labels.csv"
    done = in_process(*words(runs, "--labels-out", path, "--label-items", 5))
    assert done.returncode == 0 and not asked, done.stderr
    assert "correct: the reply settles on the right answer" in done.stdout
    assert "unclear: it cannot be told" in done.stdout and "reader" not in done.stdout
    rows = labels_of(path)
    shown = ["question", "right answer", "wrong answer", "reply"]
    assert list(rows[0]) == ["row", "id", *shown, "label"]
    text = path.read_text("utf-8-sig")
    assert not any(word in text for word in ("forward", "reverse", "base", "explicit", "literal"))
    for row in rows:  # who names the right answer has given it
        right = row["right answer"].strip("“”") in row["reply"]
        row["label"] = "Correct" if right else "other"
    rows[0]["label"] = "unclear"
    done = in_process(*words(runs, "--labels", save(path, rows), "--json"))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["notes"] == [f"{path}: {len(rows)} replies are labelled, 1 of them unclear"]
    explicit, correct = record["extraction"]
    assert explicit["reference"] == correct["reference"] == "people"
    assert {*explicit["readers"]} == {"literal", "careful", "aliases", "judge"}
    side = correct["readers"]["literal"]["sides"]["base"]
    assert 0 < side["positive"] + side["negative"] <= 2 * LIMIT and "too few" in side["why"]
    for change, said in (
        (lambda r: r[:2] + r[3:], "is missing"),
        (lambda r: [*r, r[0]], "it is there twice"),
        (lambda r: [r[0] | {"reply": "“No.”"}, *r[1:]], "its reply"),
        (lambda r: [r[0] | {"label": "right"}, *r[1:]], 'its label is "right" and not one of'),
    ):
        bad = save(tmp_path / "bad.csv", change(rows))
        refused(in_process(*words(runs, "--labels", bad)), str(bad), said)


def test_with_json_every_line_is_a_record(runs: Path, tmp_path: Path) -> None:
    done = in_process(*words(runs, "--labels-out", tmp_path / "labels.csv", "--json"))
    assert done.returncode == 0 and "unclear: it cannot be told" in done.stderr, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


def test_what_was_told_more_is_no_reading_of_the_paper_s_question(runs: Path) -> None:
    """As in `compare`, and since no title could say which of the two a table is about."""
    places = [(runs / "tiny" / "base", "base", "base")]
    before = [*rates_on_disk(places)]
    done = in_process(*words(runs, "--system", "unsure"))
    assert done.returncode == 0, done.stderr
    assert len(folders(runs)) == 6 and len(before) == len([*rates_on_disk(places)]) == 1


def test_two_judges_and_two_seeds_are_all_shown(runs: Path) -> None:
    """Another judge's readings stand apart; another seed's replies are counted too."""
    places = [(runs / "tiny" / "base", "base", "base")]
    ((_, (alone, *_)),) = rates_on_disk(places)
    (folder,) = (runs / "tiny/base/readings").glob("*/*")
    other = Path(shutil.copytree(folder, folder.with_name(folder.name[:-8] + "0" * 8)))
    reader = json.loads((other / "reader.json").read_text())
    reader["model"] = {"id": "another", "revision": "", "digest": "0" * 64}
    (other / "reader.json").write_text(json.dumps(reader))
    digests = {name: sha256(other / name) for name in ("reader.json", "words.jsonl")}
    (other / "manifest.json").write_text(json.dumps({"sha256": digests}))
    told = [judge for judge, _ in rates_on_disk(places)]
    assert len(told) == 2 and {name.partition(",")[0] for name in told} == {"tiny", "another"}
    shutil.rmtree(other)
    done = in_process(*words(runs, "--seed", 5))
    assert done.returncode == 0, done.stderr
    ((_, (both, *_)),) = rates_on_disk(places)
    assert len(both.replies) == 2 * len(alone.replies)


def test_without_a_judge_nothing_is_asked(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in folders(runs):
        shutil.rmtree(folder)
    asked = counted(monkeypatch)
    done = in_process(*words(runs, "--no-judge", "--json"))
    assert done.returncode == 0 and not asked and not folders(runs), done.stderr
    explicit, _ = json.loads(done.stdout.splitlines()[-1])["extraction"]
    assert explicit["reference"] == "" and "no judge read" in explicit["why"]
    assert {*explicit["readers"]} == {"literal", "careful", "aliases"}


def test_changed_words_are_refused_and_audited(runs: Path) -> None:
    folder = folders(runs)[0]
    path = folder / "words.jsonl"
    path.write_text(path.read_text().replace('"label": null', '"label": "correct"', 1))
    refused(in_process(*words(runs)), "words.jsonl differs from its manifest", code=5)
    done = in_process("audit", runs)
    assert done.returncode == 5 and "label is" in done.stdout + done.stderr
    (folder / "manifest.json").unlink()
    refused(in_process(*words(runs)), "line 1 of words.jsonl is not about its reply", code=5)


def test_replies_that_changed_are_read_anew(runs: Path) -> None:
    """What is read is named by the samples it was read in."""
    before = folders(runs)
    home = runs / "tiny" / "base"
    folder = next(home.glob("evals/sycophancy_answer/*"))
    shutil.rmtree(folder)
    done = in_process(*words(runs)[:2], "--adapter", "base", *words(runs)[8:], "--seed", 2)
    assert done.returncode == 0, done.stderr
    assert len(folders(runs)) == len(before) + 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--labels", "x", "--labels-out", "y"), "give one of the two"),
        (("--label-items", 5), "says how many items --labels-out FILE has"),
        (("--labels-out", "y", "--label-items", 0), "at least 1"),
        (("--labels-out", "nowhere/y"), "a folder that is not there"),
        (("--tasks", "bbq"), "take sycophancy_answer or are_you_sure"),
        (("--tasks", "are_you_sure,sycophancy_answer", "--labels-out", "y"), "about one benchmark"),
    ],
)
def test_flags_that_do_not_go_together(
    more: tuple[object, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("eval", "tiny", "--tasks", "are_you_sure", "--data", "sample", "--out", tmp_path / "o")
    refused(in_process(*given, "--extraction", *more), said)
    assert not [*tmp_path.iterdir()]


def test_a_label_flag_alone_is_refused(tmp_path: Path) -> None:
    given = ("eval", "tiny", "--tasks", "are_you_sure", "--data", "sample", "--out", tmp_path / "o")
    refused(in_process(*given, "--labels", "x"), "--labels belongs to --extraction")
    refused(in_process(*given, "--no-judge"), "--no-judge belongs to --extraction")
