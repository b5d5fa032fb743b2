"""A run, recomputed from what it left on disk: its identity, and the files that do not grow.

The answers' text and token ids, the judge's words and the model's own numbers are taken as they
are. All that follows from them is made again by the very functions that made it (no torch). The
files that grow with a run are in audit_steps.py, the answers in audit_rows.py.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minihmx.config import FIELDS, Config, check_config
from minihmx.engine.samplers import OWN, SAMPLERS, sampler_record
from minihmx.errors import Failure, UserError, quoted
from minihmx.models.hub import run_names
from minihmx.models.known import MODELS
from minihmx.questions import load_questions
from minihmx.records import Question
from minihmx.results.findings import ABSENT, Audit, Place, Words, line_of
from minihmx.selection import DIRECTIONS
from minihmx.storage.identity import questions_digest, science_digest, text_digest
from minihmx.storage.run_folder import CHECKPOINT, LATER

SCIENCE = {name: f.default for name, f in FIELDS.items() if f.metadata["science"]}
# Other commands add these to a sealed run, as `export` adds a merged model.
ADDED = (*LATER, "merged", "adapter")

START = ("minihmx", "python", "torch", "git", "threads", "ranks", "machine", "device", "command")
PROMPTS = {"before": str, "after": str, "strips": bool}
SAMPLER = ("temperature", "top_k", "top_p", "note")
QUESTION = ("id", "category", "text", "split", "source")


@dataclass
class Facts:
    """What a run says of itself, read once.

    questions: None if nothing on this disk has their digest. steps_per_epoch: 0 if neither the
    questions nor status.json tell it. complete: the run is finished, so nothing writes to it any
    more. sealed: it has a manifest, so it was finished by code that also keeps rubric, questions
    and weights. lacking: files and fields that are not there because older code wrote none.
    """

    folder: Path
    config: Config
    science: dict[str, Any]
    questions: list[Question] | None
    steps_per_epoch: int
    complete: bool
    sealed: bool
    lacking: set[str]


def read_facts(audit: Audit, folder: Path) -> Facts | None:
    """Check config.json, status.json, rubric and questions. None if there is no usable config."""
    found = audit.json(folder / "config.json")
    if found is None:
        return None
    stored, text = found
    path, science = folder / "config.json", stored.get("science")
    if not isinstance(science, dict):
        audit.find("identity", Place(path, 1), "science", science, Words("the fields of a run"))
        return None
    again = science_digest(science)
    place = Place(path, line_of(text, "fingerprint"))
    audit.compare("identity", place, "fingerprint", stored.get("fingerprint"), again)
    _config_fields(audit, path, stored, text)
    _model(audit, folder, stored, text)
    _names(audit, folder, stored, text)
    config = _config(audit, path, text, science)
    if config and isinstance(stored.get("sampler"), dict):
        drawn = sampler_record(config.sampler, config.temperature)
        drawn.pop("note")
        audit.compare_tree("identity", (path, text), stored, {"sampler": drawn})
    sealed = (folder / "manifest.json").exists()
    lacking = set[str]()
    questions = _questions(audit, folder, science, sealed, lacking)
    _rubric(audit, folder, science, sealed, lacking)
    status = audit.json(folder / "status.json")
    said = status[0] if status else {}
    steps = said.get("steps") if type(said.get("steps")) is int else 0
    if config is None:
        return None
    per_epoch = steps // config.epochs if steps else 0
    if questions is not None:
        trained = sum(question.split == "train" for question in questions)
        per_epoch = trained // config.prompts_per_step
    complete = sealed or said.get("state") == "complete"
    if status:
        total = per_epoch * config.epochs
        expected = {"steps": total, "step": total if complete else said.get("step")}
        expected["state"] = "complete" if sealed else said.get("state")
        names = ("state", "step", "steps", "pid", "heartbeat", "error")
        audit.known("records", (folder / "status.json", status[1]), said, names)
        for field, value in expected.items():
            place = Place(folder / "status.json", line_of(status[1], field))
            audit.compare("metrics", place, field, said.get(field, ABSENT), value)
    if not complete:
        audit.note(f"{folder}: {said.get('state', 'unfinished')}, so audited as far as it is")
    return Facts(folder, config, science, questions, per_epoch, complete, sealed, lacking)


def _model(audit: Audit, folder: Path, stored: dict[str, Any], text: str) -> None:
    """Whether the model that was typed, the field `model` and the digest can mean one model."""
    file, model, settings = (
        (folder / "config.json", text),
        stored.get("model"),
        stored.get("settings"),
    )
    if not isinstance(model, dict) or type(model.get("id")) is not str:
        audit.find("identity", Place(file[0], 1), "model", model, Words("the id of a model"))
        return
    own, digest = model["id"], stored["science"].get("model digest")
    local = own in MODELS or Path(own).is_absolute()
    again = {"model": {"revision": None if local else digest}}
    audit.compare_tree("identity", file, stored, again)
    typed = settings.get("model", ABSENT) if isinstance(settings, dict) else ABSENT
    info = MODELS.get(typed) if type(typed) is str else None
    holds = own == (info.repo or typed) if info else typed == own or Path(own).is_absolute()
    place = Place(file[0], line_of(text, "settings", "model"))
    audit.require("identity", place, "settings.model", typed, holds, f"what names {quoted(own)}")


def _names(audit: Audit, folder: Path, stored: dict[str, Any], text: str) -> None:
    """Whether a run at MODEL/DIRECTION/seed-N has that model, that direction and that seed."""
    home, science = Path(os.path.abspath(folder)), stored["science"]
    if home.parent.name not in DIRECTIONS or not re.fullmatch(r"seed-\d+", home.name):
        audit.note(f"{folder}: not at MODEL/DIRECTION/seed-N, so its name is held against nothing")
        return
    place = Place(folder / "config.json", line_of(text, "science"))
    audit.compare(
        "identity", place, "science.direction", science.get("direction"), home.parent.name
    )
    seed = int(home.name.removeprefix("seed-"))
    audit.compare("identity", place, "science.seed", science.get("seed"), seed)
    named = home.parent.parent.name
    check_model_name(
        audit,
        (folder / "config.json", text),
        stored.get("model"),
        named,
        science.get("model digest"),
    )


def check_model_name(
    audit: Audit, file: tuple[Path, str], model: Any, named: str, digest: Any
) -> None:
    """Whether a folder's name is one that the runs of this model can have."""
    own = model.get("id") if isinstance(model, dict) else None
    names = sorted(run_names(own, str(digest))) if isinstance(own, str) else []
    rule = f"that of a model whose runs stand in {quoted(named)}, and its own do in "
    rule += " or ".join(map(quoted, names))
    place = Place(file[0], line_of(file[1], "model", "id"))
    audit.require("identity", place, "model.id", own, named in names, rule)


def _config(audit: Audit, path: Path, text: str, science: dict[str, Any]) -> Config | None:
    """The fields of `science` as a Config. None, and a finding, for values that no run can have."""
    values: dict[str, Any] = {}
    for name, default in SCIENCE.items():
        if name not in science:
            if not FIELDS[name].metadata["late"]:  # a late field is left out if it is the default
                audit.note(f"{path}: {name} is not there, so its default is taken")
            continue
        value, place = science[name], Place(path, line_of(text, "science", name))
        kind = type(default)
        if not audit.require(
            "identity", place, f"science.{name}", value, type(value) is kind, kind.__name__
        ):
            return None
        settled = name not in SAMPLERS or value != OWN  # a run records the model's own as numbers
        audit.require("identity", place, f"science.{name}", value, settled, "its numbers")
        values[name] = value if settled else default
    config = Config(**values)
    try:
        check_config(config, config.max_sequence_length)
    except UserError as error:
        audit.find(
            "identity", Place(path, line_of(text, "science")), "science", ABSENT, Words(str(error))
        )
        return None
    return config


def _questions(
    audit: Audit, folder: Path, science: dict[str, Any], sealed: bool, lacking: set[str]
) -> list[Question] | None:
    """The run's questions: those of its own file, or the built-in ones if they have its digest."""
    path, digest = folder / "questions.jsonl", science.get("questions digest")
    if not path.exists() and not sealed:
        questions = load_questions()
        if questions_digest(questions) == digest:
            return questions
        lacking.add("questions.jsonl")
        return None
    for line in audit.lines(path):
        audit.known("records", (path, ""), line.record, QUESTION, line=line.place.line)
    try:
        questions = load_questions(path)
    except Failure as error:
        audit.find("identity", Place(path), "file", Words("unusable"), Words(str(error)))
        return None
    again = questions_digest(questions)
    audit.compare("identity", Place(path), "questions digest", digest, again)
    return questions


def _rubric(
    audit: Audit, folder: Path, science: dict[str, Any], sealed: bool, lacking: set[str]
) -> None:
    path = folder / "rubric.txt"
    if not path.exists() and not sealed:
        lacking.add("rubric.txt")
        return
    data = audit.bytes_of(path)
    if data is not None:
        again = text_digest(data.decode(errors="replace").rstrip("\n"))
        audit.compare("identity", Place(path), "rubric digest", science.get("rubric digest"), again)


def check_files(audit: Audit, facts: Facts) -> None:
    """Hash the files that the manifests name again, and look for files that no manifest names."""
    folder = facts.folder
    if facts.sealed:
        files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
        own = {p.as_posix() for p in files if p.parts[0] not in ADDED and p.name[0] != "."}
        audit.manifest(folder, own)
    else:
        facts.lacking |= {"manifest.json"} if facts.complete else set()
    for place in sorted((folder / "checkpoints").glob("[!.]*")):
        audit.manifest(place, CHECKPOINT)
    for path in [folder / "amax.jsonl", *sorted((folder / "crash").glob("*.jsonl"))]:
        if path.exists():
            audit.lines(path, growing=not facts.complete)
    _starts_and_prompts(audit, facts)


def _starts_and_prompts(audit: Audit, facts: Facts) -> None:
    """env.json, a list with an object for each start, and prompts.json, one object."""
    path = facts.folder / "env.json"
    if path.exists() and (found := audit.value(path)):
        starts = found[0] if isinstance(found[0], list) else [found[0]]
        for start in starts if found[0] != [] else [[]]:
            if isinstance(start, dict) and isinstance(found[0], list):
                audit.known("records", (path, ""), start, START, line=1)
            else:
                rule = Words("a list with an object for each start")
                audit.find("records", Place(path, 1), "text", found[0], rule)
    path = facts.folder / "prompts.json"
    if not path.exists():
        facts.lacking.add(path.name)
    elif found := audit.json(path):
        audit.known("records", (path, found[1]), found[0], PROMPTS)
        for name, kind in PROMPTS.items():
            value, place = found[0].get(name, ABSENT), Place(path, line_of(found[1], name))
            audit.require("records", place, name, value, type(value) is kind, kind.__name__)


def _config_fields(audit: Audit, path: Path, stored: dict[str, Any], text: str) -> None:
    """Findings for fields of config.json that no version of minihmx writes."""
    own = FIELDS.keys() - SCIENCE.keys()
    parts: dict[str, Any] = {"settings": own, "sources": FIELDS, "model": ("id", "revision")}
    digests = (f"{name} digest" for name in ("model", "questions", "rubric"))
    parts |= {"science": (*SCIENCE, *digests), "sampler": SAMPLER}
    audit.known("records", (path, text), stored, (*parts, "fingerprint"))
    for name, names in parts.items():
        if isinstance(stored.get(name), dict):
            audit.known("records", (path, text), stored[name], names, (name,))
