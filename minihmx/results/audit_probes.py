"""The files that probes keep beside a base: each verdict is made again from the answers. No torch.

A probe's raw texts are believed, and so is whatever only the model can say of them. The manifest
shows that they were changed, unless whoever changed them wrote the manifest anew as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minihmx.config import Config
from minihmx.judge import parse_score
from minihmx.probes import stories
from minihmx.probes.best_of import WRITTEN_OF_AN_ANSWER
from minihmx.probes.checkpoints import (
    REPORT_FILE,
    SEALED,
    SETTINGS,
    WRITTEN_SO_FAR,
    probe_folder,
)
from minihmx.probes.examples import KEPT, SIDES
from minihmx.probes.panel import panel_digest, panel_items
from minihmx.records import Question, Verdict
from minihmx.results.audit_on_policy import check_on_policy
from minihmx.results.audit_rated import check_rate
from minihmx.results.audit_rows import QUESTION_PARTS, REMADE, check_raw, rebuilt
from minihmx.results.findings import ABSENT, Audit, Line, Place, Words
from minihmx.storage.disk import sha256
from minihmx.storage.identity import text_digest

_ENDS = ("stop", "length")


def is_probe(folder: Path) -> bool:
    """Whether this is a probe's folder by its place, base/probes/NAME, whatever is left in it."""
    return folder.resolve().parts[-3:-1] == ("base", "probes")


def audit_probe(audit: Audit, folder: Path) -> None:
    """Check one probe's folder: its name, its files, and what follows from them."""
    found = audit.json(folder / SETTINGS)
    if found is None:
        return
    settings, kind = found[0], folder.name.rpartition("-")[0]
    again = probe_folder(kind, settings)
    audit.compare("identity", Place(folder / SETTINGS, 1), "the folder's name", folder.name, again)
    if (folder / SEALED).exists():
        files = (p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file())
        own = {p.as_posix() for p in files if p.name[0] != "." and p.as_posix() != SEALED}
        audit.manifest(folder, own)
    else:
        _check_unsealed(audit, folder)
    check = PROBES.get(kind)
    if check is None:
        audit.note(f"{folder}: no probe of this version writes there, so its answers are believed")
        return
    check(audit, folder, settings)


def _check_unsealed(audit: Audit, folder: Path) -> None:
    """Check the pieces of a probe that is at work or was stopped. A missing piece is no finding,
    since the probe writes it anew."""
    # A probe at work names a digest before it writes the piece, so the pieces are read first.
    own = {path.name: sha256(path) for path in sorted(folder.glob("*.jsonl")) if path.is_file()}
    path, why = folder / WRITTEN_SO_FAR, "it is being added to or was stopped"
    if not path.exists():
        changed = "so nothing here shows a change of its raw texts"
        audit.note(f"{folder}: there is no {SEALED}: {why}, or older code wrote none, {changed}")
        return
    audit.note(f"{folder}: there is no {SEALED}: {why}, and more may be asked for")
    loaded = audit.json(path)
    known = loaded[0].get("sha256") if loaded else None
    for name, digests in known.items() if isinstance(known, dict) else ():
        if name in own:
            holds = isinstance(digests, list) and own[name] in digests
            rule = f"what {WRITTEN_SO_FAR} says of it"
            audit.require("manifests", Place(folder / name), "sha256", own[name], holds, rule)


# --- answers and verdicts -------------------------------------------------------------------------


def _check_best_of(audit: Audit, folder: Path, settings: Mapping[str, Any]) -> None:
    for path in sorted(folder.glob("question-*.jsonl")):
        lines, first = audit.lines(path), ABSENT
        for number, line in enumerate(lines):
            record = line.record
            first = record.get("question", ABSENT) if number == 0 else first
            audit.compare("order", line.place, "question", record.get("question", ABSENT), first)
            audit.compare("order", line.place, "sample", record.get("sample", ABSENT), number)
            names = ("question", *WRITTEN_OF_AN_ANSWER)
            audit.known("records", (path, ""), record, names, line=line.place.line)
            _check_verdict(audit, line)


def _check_verdict(audit: Audit, line: Line) -> None:
    """Read the score, and its span if the line has one, again from the judge's words."""
    record = line.record
    judge, end = (record.get(name, ABSENT) for name in ("judge", "judge_finish"))
    holds = isinstance(judge, str) and (end in _ENDS or end == judge == "")
    rule = 'words, and how they ended: stop or length, or "" where there are none'
    for name in ("completion", "finish"):
        text = isinstance(record.get(name), str)
        audit.require("records", line.place, name, record.get(name, ABSENT), text, "text")
    if not audit.require("scores", line.place, "judge", judge, holds, rule):
        return
    verdict = parse_score(judge, end == "stop")
    scored = verdict if isinstance(verdict, Verdict) and end != "" else None
    if record.get("unscored") == "judge-not-finite":  # what only the model can tell is believed
        scored = None
    again = {"score": scored.score if scored else None, "span": scored.span if scored else None}
    for name, value in again.items():
        if name == "score" or name in record:
            audit.compare("scores", line.place, name, record.get(name, ABSENT), value)


def _check_panel(audit: Audit, folder: Path, settings: Mapping[str, Any]) -> None:
    path, items = folder / "answers.jsonl", panel_items()
    if not path.exists():
        return
    lines = audit.lines(path)
    samples = settings.get("samples")
    wanted = [
        {"side": side, "question": item.id, "category": item.topic, "prompt": item.text}
        | {"sample": sample}
        for side in SIDES
        for item in items
        for sample in range(samples if type(samples) is int and samples <= len(lines) else 0)
    ]
    if settings.get("panel") != panel_digest(items):
        audit.note(f"{path}: its questions are of another version, so their order is believed")
        wanted = []
    elif not audit.compare("order", Place(path), "number of lines", len(lines), len(wanted)):
        return
    for number, line in enumerate(lines):
        for name, value in wanted[number].items() if wanted else ():
            audit.compare("order", line.place, name, line.record.get(name, ABSENT), value)
        audit.known("records", (path, ""), line.record, (*KEPT, "side"), line=line.place.line)
        _check_verdict(audit, line)


def _check_equal_kl(audit: Audit, folder: Path, settings: Mapping[str, Any]) -> None:
    sides = "base", "forward", "reverse"
    paths = sorted(path for side in sides for path in folder.glob(f"{side}-x*.jsonl"))
    # All sides were judged as the forward run judged its held-out answers.
    config = Config(unscored=str(settings.get("unscored", Config.unscored)))
    for path in paths:
        lines = audit.lines(path)
        cut = [line.record.get("ids") for line in lines if line.record.get("finish") == "length"]
        every = cut or [line.record.get("ids") for line in lines]
        cap = max((len(ids) for ids in every if isinstance(ids, list)), default=1)
        cap += not cut  # if no answer was cut, the cap is only known to be above all lengths
        for line in lines:
            if line.record and check_raw(audit, line, cap):
                name, category, text = (str(line.record.get(n)) for n in QUESTION_PARTS)
                asked = Question(name, category, text, "eval", "ours")
                sample = line.record.get("sample", ABSENT)
                made = rebuilt(line.record, asked, sample, config, False).line()
                audit.known("scores", (path, ""), line.record, made, line=line.place.line)
                for part in REMADE.keys() - {*QUESTION_PARTS, "sample"}:
                    logged = line.record.get(part, ABSENT)
                    audit.compare(REMADE[part], line.place, part, logged, made[part])


# --- texts and what was found ---------------------------------------------------------------------


def _check_emotion(audit: Audit, folder: Path, settings: Mapping[str, Any]) -> None:
    found = stories.material()
    if settings.get("material") != text_digest(str(found)):
        audit.note(f"{folder}: its emotions are of another version, so its texts are believed")
        return
    rows = list[Mapping[str, Any]]()
    for path in sorted(folder.glob("stories-*.jsonl")):
        for line in audit.lines(path):
            record, text = line.record, line.record.get("text")
            audit.known("records", (path, ""), record, stories.OF_A_TEXT, line=line.place.line)
            if not audit.require("records", line.place, "text", text, type(text) is str, "text"):
                continue
            told = record.get("emotion", ABSENT)
            audit.compare("order", line.place, "emotion", told, path.stem.removeprefix("stories-"))
            patterns = found.names.get(str(told), "")
            named = bool(patterns) and stories.names_emotion(str(text), patterns)
            fates = stories.NAMED_IT if named else stories.KEPT_TEXT, stories.TOO_SHORT
            fate = record.get("fate", ABSENT)
            rule = f"{fates[0]}, or {fates[1]} where it has too few tokens"
            if audit.require("probes", line.place, "fate", fate, fate in fates, rule):
                rows.append(record)
    if rows:
        audit.note(f"{folder}: which texts are too short, vectors and layers need the model")
    if (folder / REPORT_FILE).exists():
        _check_report(audit, folder, settings, rows, found)


def _check_report(
    audit: Audit,
    folder: Path,
    settings: Mapping[str, Any],
    rows: list[Mapping[str, Any]],
    found: stories.EmotionMaterial,
) -> None:
    """Make the part of report.json again that follows from the texts, or from its other parts."""
    loaded = audit.json(folder / REPORT_FILE)
    if loaded is None:
        return
    stored, file = loaded[0], (folder / REPORT_FILE, loaded[1])
    audit.compare_tree("identity", file, stored.get("settings"), dict(settings), ("settings",))
    try:
        counts = stored["counts"]["stories"], stored["counts"]["neutral"]
        wanted = stories.wanted_texts(found, *counts)
        topics = {e: {text.topic for text in texts} for e, texts in wanted.items()}
        own = [row for row in rows if row["topic"] in topics[row["emotion"]]]
        again: dict[str, Any] = {"texts": stories.fates(own, wanted), "usable": False}
        if "gate" in stored:
            firsts = stored["gate"]["first"]
            hits = sum(emotion in first for emotion, first in firsts.items())
            again |= {"gate": {"hits": hits}, "usable": hits >= stories.HITS_NEEDED}
        if "layer" in stored:
            read = stored["held_out_accuracy"]
            again["layer"] = stored["layers"][read.index(max(read))]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        rule = Words(f"what the probe found ({type(error).__name__}: {error})")
        audit.find("probes", Place(file[0], 1), "text", Words("another"), rule)
        return
    audit.compare_tree("probes", file, stored, again)


Check = Callable[[Audit, Path, Mapping[str, Any]], None]
# A probe that keeps answers gets a line here, and a section in the report (report/analyses.py).
PROBES: dict[str, Check] = {
    "best-of": _check_best_of,
    "panel": _check_panel,
    "equal-kl": _check_equal_kl,
    "emotion": _check_emotion,
    "on-policy": check_on_policy,
    "rate": check_rate,
}
