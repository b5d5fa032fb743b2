"""The verdicts of other judges on a run: each score read again, and held against the answers."""

from __future__ import annotations

from pathlib import Path

from minihmx.errors import Failure
from minihmx.judge import parse_score
from minihmx.probes.judged_folder import (
    JUDGED,
    RECORD,
    RUBRIC_FILE,
    SEAL,
    JudgedFolder,
    epoch_file,
    sealed_epochs,
    stored_answers,
    verdict_line,
)
from minihmx.probes.rubrics import Rubric
from minihmx.records import Unscored
from minihmx.results.findings import ABSENT, Audit, Place, Words

SAYS = ("model", "rubric", "settings", "probe", "own_model")


def audit_judged(audit: Audit, run: Path) -> None:
    """Check every folder of verdicts in a run."""
    for folder in sorted((run / JUDGED).glob("*/*")):
        if not folder.is_dir():
            continue
        if not (folder / SEAL).exists():
            audit.note(f"{folder}: no epoch is judged to its end, so nothing is checked there")
            continue
        audit.manifest(folder, (RECORD, RUBRIC_FILE))
        _check_record(audit, run, folder)
        try:
            epochs = sealed_epochs(folder)
        except Failure:  # its manifest's findings say what it is
            continue
        for epoch in epochs:
            _check_lines(audit, run, folder, epoch)


def _check_record(audit: Audit, run: Path, folder: Path) -> None:
    """Whether judge.json has the digest of rubric.txt, and names the folder."""
    found, text = audit.json(folder / RECORD), audit.bytes_of(folder / RUBRIC_FILE)
    if found is None or text is None:
        return
    record, place = found[0], Place(folder / RECORD)
    audit.known("records", (folder / RECORD, found[1]), record, SAYS)
    try:
        said = record["rubric"]
        words = text.decode(errors="replace").rstrip("\n")
        rubric = Rubric(said["name"], words, said["inverted"], said["criterion"])
        again = JudgedFolder(run, folder.parent.name, record["model"], rubric, record["settings"])
    except (LookupError, TypeError) as error:
        rule = Words(f"who judged by which rubric ({type(error).__name__}: {error})")
        audit.find("identity", place, "text", Words("another"), rule)
        return
    audit.compare("identity", place, "folder", folder.name, again.folder.name)
    audit.compare_tree("identity", (folder / RECORD, found[1]), record, again.identity)


def _check_lines(audit: Audit, run: Path, folder: Path, epoch: int) -> None:
    """Each verdict read again from the judge's words; whose answer it is of, from evaluations/."""
    lines, path = audit.lines(folder / epoch_file(epoch)), folder / epoch_file(epoch)
    try:
        answers = stored_answers(run, epoch)
    except Failure as error:
        audit.note(f"{path}: {error}")
        return
    if not audit.compare("order", Place(path), "number of lines", len(lines), len(answers)):
        return
    for line, answer in zip(lines, answers, strict=True):
        judge, end = line.record.get("judge"), line.record.get("judge_finish")
        reason = line.record.get("unscored")
        holds = isinstance(judge, str) and (end in ("stop", "length") or end == judge == "")
        rule = 'the judge\'s words, and how they ended: stop or length, or "" for none'
        if not audit.require("scores", line.place, "judge", judge, holds, rule):
            continue
        if end == "" or reason == "judge-not-finite":  # what the model alone can tell
            unread = "too-long" if end == "" else "judge-not-finite"
            again = verdict_line(answer, judge, end, Unscored(unread))
        else:
            again = verdict_line(answer, judge, end, parse_score(judge, end == "stop"))
        audit.known("scores", (path, ""), line.record, again, line=line.place.line)
        for name, value in again.items():
            check = "order" if name in ("question", "sample", "answer") else "scores"
            audit.compare(check, line.place, name, line.record.get(name, ABSENT), value)
