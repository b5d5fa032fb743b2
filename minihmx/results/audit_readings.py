"""Readings of stored replies by a judge: each label is read again from the judge's words."""

from __future__ import annotations

from pathlib import Path

from minihmx.evals.asking.readings import (
    GATE,
    READER_FILE,
    READINGS_FOLDER,
    WORDS_FILE,
    ReadingsFolder,
    word_line,
)
from minihmx.evals.asking.results import SAMPLES
from minihmx.evals.reading.gate import gate_read_again
from minihmx.evals.reading.readers import READABLE
from minihmx.results.findings import ABSENT, Audit, Place, Words, line_of


def audit_readings(audit: Audit, evaluation: Path) -> None:
    """Check every folder of readings of an evaluation's samples."""
    home, benchmark = evaluation.parents[2], evaluation.parent.name
    for folder in sorted((home / READINGS_FOLDER / benchmark).glob(f"{evaluation.name}-*")):
        if benchmark not in READABLE or not folder.is_dir():
            continue
        if not (folder / "manifest.json").exists():
            audit.note(f"{folder}: not every reply is read yet, so nothing is checked there")
            continue
        audit.manifest(folder, (READER_FILE, WORDS_FILE))
        _check_reader(audit, evaluation, folder)
        _check_words(audit, evaluation, folder)


def _check_reader(audit: Audit, evaluation: Path, folder: Path) -> None:
    """Whether reader.json is about these samples and this prompt and gives the folder its name. The
    labels of the fixed replies are read again from the judge's words."""
    path = folder / READER_FILE
    found = audit.json(path)
    if found is None:
        return
    try:
        again = ReadingsFolder(evaluation, found[0]["model"], found[0]["settings"])
    except (LookupError, TypeError, ValueError, OSError) as error:
        rule = Words(f"which judge read the replies ({type(error).__name__}: {error})")
        audit.find("identity", Place(path, 1), "text", Words("another"), rule)
        return
    own = {name: value for name, value in found[0].items() if name != GATE}
    audit.compare_tree("identity", (path, found[1]), own, again.identity, exact=True)
    audit.compare("identity", Place(path), "folder", folder.name, again.folder.name)
    if GATE not in found[0]:
        audit.note(f"{path}: the judge was not asked fixed replies by the version that wrote this")
        return
    gate, place = found[0][GATE], Place(path, line_of(found[1], GATE))
    fixed = gate_read_again(again.benchmark, gate)
    if fixed is None:
        known = "what the judge said to the fixed replies of this version"
        audit.require("verdicts", place, GATE, gate, False, known)
    else:
        audit.compare("verdicts", place, GATE, gate, fixed)


def _check_words(audit: Audit, evaluation: Path, folder: Path) -> None:
    """Read each label again, and take from the samples which reply a line must be about."""
    path, readable = folder / WORDS_FILE, READABLE[evaluation.parent.name]
    lines, samples = audit.lines(path), audit.lines(evaluation / SAMPLES)
    if not audit.compare("order", Place(path), "number of lines", len(lines), len(samples)):
        return
    for line, sample in zip(lines, samples, strict=True):
        if not {"id", "sample"} <= sample.record.keys():
            continue  # the evaluation's own audit finds it
        words, finish = (str(line.record.get(name)) for name in ("words", "finish"))
        whole = line.record.get("words") == words and finish in ("stop", "length", "")
        rule = 'words, and how they ended: stop, length, or "" where none were asked for'
        logged = line.record.get("words")
        if not audit.require("verdicts", line.place, "words", logged, whole, rule):
            continue
        again = word_line(sample.record, words, finish, readable)
        audit.known("verdicts", (path, ""), line.record, again, line=line.place.line)
        for name, value in again.items():
            check = "order" if name in ("id", "sample") else "verdicts"
            audit.compare(check, line.place, name, line.record.get(name, ABSENT), value)
