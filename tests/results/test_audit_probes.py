"""The audit of what probes keep: clean as it is, and a forged answer or figure found."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import probed
import pytest
from command_line import in_process
from test_report import write

from minihmx.errors import DataError
from minihmx.probes.checkpoints import ProbePieces
from minihmx.results.audit import audit_path
from minihmx.storage.disk import sha256
from minihmx.storage.run_folder import Store


@pytest.fixture(scope="module")
def made(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of runs with every probe beside their base."""
    runs = Path(shutil.copytree(pair, tmp_path_factory.mktemp("probed") / "runs"))
    for make in probed.PROBED.values():
        make(runs)
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def folder_of(runs: Path, name: str) -> Path:
    (folder,) = (runs / "tiny/base/probes").glob(f"{name}-*")
    return folder


def sign(folder: Path) -> None:
    """The manifest again, over the files that are there."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name[0] != "."]
    digests = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.name != "manifest.json"
    }
    text = json.dumps({"sha256": digests}, sort_keys=True, indent=1)
    (folder / "manifest.json").write_text(text + "\n")


def found(folder: Path) -> list[str]:
    return [finding.text for finding in audit_path(folder).findings]


def test_what_probes_keep_is_clean_and_counted(made: Path) -> None:
    audit = audit_path(made / "tiny/base")
    assert [finding.text for finding in audit.findings] == []
    looked = {check: len(places) for check, places in audit.looked_at.items() if places}
    assert looked["scores"] >= 60 + 4 + 8 and looked["probes"] >= 70 and looked["manifests"] >= 20
    assert any("need the model" in note for note in audit.notes)
    assert in_process("audit", folder_of(made, "panel")).returncode == 0


def first_row(name: str, change: dict[str, Any]) -> Callable[[Path], None]:
    """The first line of the first such file with other values."""

    def changed(folder: Path) -> None:
        path = sorted(folder.glob(name))[0]
        rows = probed.lines(path)
        text = [json.dumps(r, sort_keys=True, ensure_ascii=False) for r in rows]
        text[0] = json.dumps(rows[0] | change, sort_keys=True, ensure_ascii=False)
        path.write_text("".join(f"{line}\n" for line in text))

    return changed


def report(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        record = json.loads((folder / "report.json").read_text())
        change(record)
        text = json.dumps(record, sort_keys=True, indent=1)
        (folder / "report.json").write_text(text + "\n")

    return changed


def step(**change: Any) -> Callable[[Path], None]:
    """The first step of the last pair, which is trainer : decode, with other values."""
    return report(lambda r: r["pairs"][-1]["steps"][0].update(change))


FORGED = {
    "best-of score": ("best-of", first_row("question-*", {"score": 9}), "score is 9 and should"),
    "best-of words": ("best-of", first_row("question-*", {"judge": "Score: 1"}), "score is 3"),
    "best-of sample": ("best-of", first_row("question-*", {"sample": 7}), "sample is 7"),
    "best-of field": ("best-of", first_row("question-*", {"mine": 1}), "mine is 1"),
    "equal-kl score": ("equal-kl", first_row("forward-x*", {"score": 11}), "score is 11"),
    "equal-kl reward": ("equal-kl", first_row("reverse-x*", {"reward": -99.0}), "reward is -99"),
    "equal-kl kl": ("equal-kl", first_row("forward-x1*", {"kl": -1.0}), "kl is -1"),
    "equal-kl logprob": ("equal-kl", first_row("forward-*", {"policy_logprob": 1.0}), "0 or less"),
    "panel side": ("panel", first_row("answers*", {"side": "forward"}), 'side is "forward"'),
    "panel prompt": ("panel", first_row("answers*", {"prompt": "Why?"}), 'prompt is "Why?"'),
    "panel score": ("panel", first_row("answers*", {"score": 6}), "score is 6 and should be 5"),
    "panel span": ("panel", first_row("answers*", {"span": [0, 1]}), "span is [0, 1]"),
    "emotion fate": ("emotion", first_row("stories-joy*", {"fate": "named"}), 'fate is "named"'),
    "emotion text": (
        *("emotion", first_row("stories-joy*", {"text": "What a joy."})),
        'fate is "kept" and should be named',
    ),
    "emotion usable": (
        *("emotion", report(lambda r: r.update(usable=True))),
        "usable is true and should be false",
    ),
    "emotion hits": (
        *("emotion", report(lambda r: r["gate"].update(hits=12))),
        "gate.hits is 12 and should be 3",
    ),
    "emotion layer": ("emotion", report(lambda r: r.update(layer=2)), "layer is 2"),
    "emotion texts": (
        *("emotion", report(lambda r: r["texts"]["joy"].update(kept=64))),
        "texts.joy.kept is 64 and should be 5",
    ),
    "rate rating": ("rate", first_row("ratings*", {"rating": 10}), "ratings is "),
    "rate none": ("rate", first_row("ratings*", {"rating": 11}), "rating is 11 and should be a wh"),
    "rate half": ("rate", first_row("ratings*", {"rating": 7.5}), "rating is 7.5"),
    "rate row": ("rate", first_row("ratings*", {"row": "r000000000000"}), "the id of an answer of"),
    "rate order": ("rate", first_row("ratings*", {"rater": "z.csv"}), "by rater and row"),
    "rate field": ("rate", first_row("ratings*", {"age": 30}), "age is 30 and should be absent"),
    "on-policy torch": ("on-policy", report(lambda r: r.update(torch="9")), 'torch is "9" and sh'),
    "on-policy replayed": (
        "on-policy",
        report(lambda r: r.update(replayed=2.0)),
        "replayed is 2.0",
    ),
    "on-policy answers": ("on-policy", report(lambda r: r.update(answers=3)), "answers is 3"),
    "on-policy equal": (
        *("on-policy", report(lambda r: r["pairs"][-1].update(equal=False))),
        "trainer : decode, equal is false and should be true",
    ),
    "on-policy causes": (
        *("on-policy", report(lambda r: r["pairs"][-1].update(causes=[]))),
        "trainer : decode, causes is []",
    ),
    "on-policy first": ("on-policy", step(first=None), "trainer : decode, differing is 39"),
    "on-policy off": ("on-policy", step(off="the moon"), "trainer : decode, off is"),
    "on-policy gap": ("on-policy", step(largest=1e-9), "trainer : decode, largest is 1e-09"),
    "on-policy mean": ("on-policy", step(mean=0.3), "the gap that equal tokens, mean and"),
    "on-policy tokens": ("on-policy", step(equal_tokens=41), "the gap that equal tokens"),
    "on-policy ratio": ("on-policy", step(ratio=2.0), "the gap that equal tokens"),
    "on-policy weights": ("on-policy", step(weights=[1.0, 1.0]), "the gap that equal tokens"),
    "on-policy report": ("on-policy", report(lambda r: r.pop("pairs")), "what the probe found"),
    "emotion report": ("emotion", report(lambda r: r.pop("counts")), "what the probe found"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_is_forged_is_found_though_it_is_signed_again(runs: Path, forged: str) -> None:
    name, change, said = FORGED[forged]
    folder = folder_of(runs, name)
    change(folder)
    unsigned = found(folder)
    assert any("sha256" in text for text in unsigned), "the manifest is for raw texts"
    sign(folder)
    assert any(said in text for text in found(folder)), found(folder)


def test_ratings_of_answers_that_are_no_longer_there(runs: Path) -> None:
    path = runs / "tiny/forward/seed-1/evaluations/epoch-02.jsonl"
    rows = probed.lines(path)
    write(path, [rows[0] | {"completion": "another"}, *rows[1:]])
    texts = found(folder_of(runs, "rate"))
    assert any("settings.json" in text and "answers is" in text for text in texts)
    assert any("row is" in text and "should be the id of an answer" in text for text in texts)
    shutil.rmtree(runs / "tiny/forward")
    audit = audit_path(folder_of(runs, "rate"))
    assert not audit.findings and any("their ratings are believed" in n for n in audit.notes)


def test_a_text_that_nothing_follows_from_is_the_manifest_s(runs: Path) -> None:
    folder = folder_of(runs, "best-of")
    first_row("question-*", {"completion": "another"})(folder)
    (text,) = found(folder)
    assert "question-01.jsonl: sha256" in text
    done = in_process("audit", runs)
    assert done.returncode == 5 and text in done.stdout


def test_other_settings_a_file_too_much_and_one_too_few(runs: Path) -> None:
    folder = folder_of(runs, "panel")
    (folder / "mine.txt").write_text("x")
    assert any("mine.txt is absent" in text for text in found(folder))
    (folder / "mine.txt").unlink()
    (folder / "answers.jsonl").unlink()
    assert any("answers.jsonl" in text for text in found(folder))
    settings = json.loads((folder / "settings.json").read_text()) | {"seed": 9}
    text = json.dumps(settings, sort_keys=True, indent=1)
    (folder / "settings.json").write_text(text + "\n")
    sign(folder)
    assert any("the folder's name is" in text for text in found(folder))
    (folder / "settings.json").unlink()
    assert any("settings.json" in text for text in found(folder))


def test_what_cannot_be_checked_is_said(runs: Path) -> None:
    folder = folder_of(runs, "best-of")
    (folder / "manifest.json").unlink()
    (note,) = (n for n in audit_path(folder).notes if "there is no manifest.json" in n)
    assert "it is being added to or was stopped" in note
    piece = folder / "question-01.jsonl"
    written = {piece.name: ["0" * 64, sha256(piece)], "question-99.jsonl": ["0" * 64]}
    (folder / ".written.json").write_text(json.dumps({"sha256": written}))
    audit = audit_path(folder)
    assert not audit.findings and any("more may be asked for" in note for note in audit.notes)
    piece.write_text(piece.read_text().replace(", ", ",  ", 1))
    assert any("question-01.jsonl: sha256" in text for text in found(folder))
    probed.pieces(runs, "tomorrow", {"model": "m"}).seal()
    audit = audit_path(folder_of(runs, "tomorrow"))
    assert not audit.findings and any("no probe of this version" in n for n in audit.notes)


@pytest.mark.parametrize("name", probed.PROBED)
def test_values_of_no_kind_are_findings_and_no_traceback(runs: Path, name: str) -> None:
    folder = folder_of(runs, name)
    paths = [path for path in folder.glob("*.jsonl")]
    for odd in (None, [], {"a": []}, 1e308, "x", [[1]]):
        for path in paths[:3]:
            rows = probed.lines(path)
            write(path, [dict.fromkeys(rows[0], odd), *rows[1:]])
        if (path := folder / "report.json").exists():
            write(path, [dict.fromkeys(json.loads(path.read_text()), odd)])
        assert found(folder)


# --- a folder that was changed is not gone on with ------------------------------------------------


def test_a_sealed_folder_that_was_changed_is_refused(runs: Path) -> None:
    folder = folder_of(runs, "best-of")
    settings = json.loads((folder / "settings.json").read_text())
    first_row("question-*", {"completion": "another"})(folder)
    with pytest.raises(DataError, match="is not what was written there"):
        ProbePieces(runs / "tiny/base", "best-of", settings)
    sign(folder)
    kept = ProbePieces(runs / "tiny/base", "best-of", settings)
    assert not (folder / "manifest.json").exists()  # until all that is asked for is there again
    kept.seal()
    assert found(folder) == []


def stopped(runs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A sealed folder as it is behind a command that was killed once it had opened it."""
    folder = folder_of(runs, name)
    settings = json.loads((folder / "settings.json").read_text())
    ProbePieces(runs / "tiny/base", name, settings)
    assert not (folder / "manifest.json").exists()
    return folder, settings


def test_what_is_changed_while_a_probe_is_stopped_is_not_sealed(runs: Path) -> None:
    folder, settings = stopped(runs, "best-of")
    before = (folder / "question-01.jsonl").read_bytes()
    first_row("question-*", {"completion": "another"})(folder)
    for _ in range(2):
        with pytest.raises(DataError, match=r"question-01\.jsonl differs from \.written"):
            ProbePieces(runs / "tiny/base", "best-of", settings)
    (folder / "question-01.jsonl").write_bytes(before)
    ProbePieces(runs / "tiny/base", "best-of", settings).seal()
    assert found(folder) == [] and not (folder / ".written.json").exists()


def test_a_stopped_probe_goes_on_wherever_it_was_killed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a piece is replaced, behind it, and with a piece that somebody removed."""
    folder, settings = stopped(runs, "best-of")
    rows = probed.lines(folder / "question-01.jsonl")

    def again() -> ProbePieces:
        return ProbePieces(runs / "tiny/base", "best-of", settings)

    kept = again()
    with monkeypatch.context() as patch:
        patch.setattr(type(kept.store), "write_text", killed_at("question-01.jsonl"))
        with pytest.raises(KeyboardInterrupt):
            kept.write("question-01", [*rows, rows[0]])
    assert probed.lines(folder / "question-01.jsonl") == rows
    del kept  # and with it the lock, as a process that ends
    kept = again()
    kept.write("question-01", [*rows, rows[0]])
    kept.write("question-01", [*rows, *rows])
    kept.write("question-02", rows)
    del kept
    (folder / "question-02.jsonl").unlink()
    again().seal()
    assert len(probed.lines(folder / "question-01.jsonl")) == 2 * len(rows)
    assert audit_path(folder).of("manifests") == []


def killed_at(name: str) -> Callable[[Store, str, str], None]:
    real = Store.write_text

    def write_text(store: Store, file: str, text: str) -> None:
        if file == name:
            raise KeyboardInterrupt
        real(store, file, text)

    return write_text


@pytest.mark.parametrize("text", ["[]", '{"sha256": []}', '{"sha256": {"question-01.jsonl": 1}}'])
def test_a_list_of_what_was_written_that_is_none_is_refused(runs: Path, text: str) -> None:
    folder, settings = stopped(runs, "best-of")
    (folder / ".written.json").write_text(text)
    with pytest.raises(DataError, match="is not what was written there"):
        ProbePieces(runs / "tiny/base", "best-of", settings)
