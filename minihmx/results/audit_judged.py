"""The verdicts of other judges on a run: each score is read again from the judge's words."""

from __future__ import annotations

from pathlib import Path

from minihmx.errors import Failure
from minihmx.judge import parse_score
from minihmx.probes.judged_folder import (
    EPOCH_FILE,
    JUDGED,
    RECORD,
    RUBRIC_FILE,
    SEAL,
    JudgedFolder,
    stored_answers,
    verdict_line,
)
from minihmx.probes.rubrics import FRAME, INVERTED, Rubric
from minihmx.records import Unscored, Verdict
from minihmx.results.findings import ABSENT, Audit, Place, Words, line_of

RECORDED = ("model", "rubric", "settings", "probe", "own_model")


def audit_judged(audit: Audit, run: Path, model_digest: object) -> None:
    """Check every finished folder of verdicts in a run. model_digest: of the run's own model."""
    for folder in sorted((run / JUDGED).glob("*/*")):
        if not folder.is_dir():
            continue
        if not (folder / SEAL).exists():
            audit.note(f"{folder}: no epoch is judged to its end, so nothing is checked there")
            continue
        audit.manifest(folder, (RECORD, RUBRIC_FILE))
        _check_record(audit, run, folder, model_digest)
        for path in sorted(folder.glob("epoch-*.jsonl")):
            if found := EPOCH_FILE.fullmatch(path.name):
                _check_lines(audit, run, path, int(found[1]))


def _check_record(audit: Audit, run: Path, folder: Path, model_digest: object) -> None:
    """Whether judge.json has the digest of rubric.txt and gives the folder its name."""
    path = folder / RECORD
    found, text = audit.json(path), audit.bytes_of(folder / RUBRIC_FILE)
    if found is None or text is None:
        return
    record, words = found[0], text.decode(errors="replace").rstrip("\n")
    audit.known("records", (path, found[1]), record, RECORDED)
    try:
        said = record["rubric"]
        criterion = said["criterion"] if words == FRAME.format(criterion=said["criterion"]) else ""
        rubric = Rubric(said["name"], words, said["name"] in INVERTED, criterion)
        again = JudgedFolder(run, folder.parent.name, record["model"], rubric, record["settings"])
        own = record["model"]["digest"] == model_digest
    except (LookupError, TypeError) as error:
        rule = Words(f"who judged by which rubric ({type(error).__name__}: {error})")
        audit.find("identity", Place(path, 1), "text", Words("another"), rule)
        return
    place = Place(path, line_of(found[1], "settings"))
    audit.compare("identity", place, "the folder's name", folder.name, again.folder.name)
    remade = {**again.identity, "own_model": own}
    audit.compare_tree("identity", (path, found[1]), record, remade)


def _check_lines(audit: Audit, run: Path, path: Path, epoch: int) -> None:
    """Read each verdict again from the judge's words, and take from evaluations/ which answer each
    line must be about."""
    lines = audit.lines(path)
    try:
        answers = stored_answers(run, epoch)
    except Failure as error:
        audit.note(f"{path}: {error}")
        return
    if not audit.compare("order", Place(path), "number of lines", len(lines), len(answers)):
        return
    for line, answer in zip(lines, answers, strict=True):
        judge, end = (str(line.record.get(name)) for name in ("judge", "judge_finish"))
        holds = line.record.get("judge") == judge and (
            end in ("stop", "length") or end == judge == ""
        )
        rule = 'words, and how they ended: stop or length, or "" where there are none'
        if not audit.require("scores", line.place, "judge", line.record.get("judge"), holds, rule):
            continue
        verdict: Verdict | Unscored = parse_score(judge, end == "stop")
        if end == "":  # only the model's tokenizer can tell, so it is believed
            verdict = Unscored("too-long")
        elif line.record.get("unscored") == "judge-not-finite":
            verdict = Unscored("judge-not-finite")
        again = verdict_line(answer, judge, end, verdict)
        audit.known("scores", (path, ""), line.record, again, line=line.place.line)
        for name, value in again.items():
            check = "order" if name in ("question", "sample", "answer") else "scores"
            audit.compare(check, line.place, name, line.record.get(name, ABSENT), value)
