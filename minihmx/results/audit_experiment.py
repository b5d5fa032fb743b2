"""experiment.json, held against itself and against the files that its pieces left on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from minihmx.errors import quoted
from minihmx.evals.asking.results import RESULT
from minihmx.experiment import EXPERIMENT, PIECE_STATES
from minihmx.models.known import MODELS
from minihmx.results.findings import ABSENT, Audit, Place, Words, line_of

MODEL_SHAPE = {"model": str, "seeds": list, "tasks": list, "data": str, "pieces": list}
PIECE_SHAPE = {"name": str, "path": str, "command": list, "state": str, "results": list}
PIECE_NAME = re.compile(r"eval base|(?:train (forward|reverse)|select|eval) seed (\d+)")


def audit_experiment(audit: Audit, folder: Path) -> None:
    """Check what experiment.json says of its models and pieces.

    A finished run that it leaves out is only noted, because it may have been trained by hand.
    """
    path = folder / EXPERIMENT
    found = audit.json(path)
    if found is None:
        return
    (record, text), trained = found, set[str]()
    audit.known("experiment", (path, text), record, ("models",))
    models = record.get("models", ABSENT)
    if not isinstance(models, dict) or not models:
        rule = Words("the models of an experiment, by the names of their folders")
        audit.find("experiment", Place(path, 1), "models", models, rule)
        models = {}
    for name, model in models.items():
        if _has_shape(audit, Place(path, _line(text, name)), model, MODEL_SHAPE, name):
            trained |= _check_model(audit, folder, (path, text), name, model)
    for manifest in sorted(folder.glob("*/*/seed-*/manifest.json")):
        place = manifest.parent.relative_to(folder).as_posix()
        if place not in trained:
            audit.note(f"{path}: it leaves {place} out, which is finished")


def _line(text: str, model: str, piece: str = "") -> int:
    """The line of experiment.json where a model stands, or the name of one of its pieces."""
    start = line_of(text, "models", model)
    rest = "\n".join(text.split("\n")[start - 1 :])
    before, there, _ = rest.partition(f'"name": "{piece}"')
    return start + before.count("\n") if piece and there else start


def _has_shape(
    audit: Audit, place: Place, record: Any, shape: Mapping[str, type], what: str
) -> bool:
    """Whether a model or a piece has all its fields, each of its type. A field too many is a
    finding as well, yet the check goes on."""
    if not isinstance(record, dict):
        audit.find("experiment", place, what, record, Words("an object"))
        return False
    for name in sorted(record.keys() - shape.keys() - {"error", "asked"}):
        audit.find("experiment", place, f"{what}, {name}", record[name], ABSENT)
    wrong = [name for name, kind in shape.items() if type(record.get(name)) is not kind]
    for name in wrong:
        rule = Words(f"a {shape[name].__name__}")
        audit.find("experiment", place, f"{what}, {name}", record.get(name, ABSENT), rule)
    return not wrong


def _check_model(
    audit: Audit, folder: Path, file: tuple[Path, str], name: str, model: dict[str, Any]
) -> set[str]:
    """Check one model's part of the file; returns the places of its training runs."""
    seeds, trained, commands = set[int](), set[str](), list[list[Any]]()
    for piece in model["pieces"]:
        named = str(piece.get("name")) if isinstance(piece, dict) else "a piece"
        place = Place(file[0], _line(file[1], name, named))
        if not _has_shape(audit, place, piece, PIECE_SHAPE, named):
            continue
        match = PIECE_NAME.fullmatch(named)
        rule = "train forward seed 1, train reverse seed 1, select seed 1, eval seed 1 or eval base"
        if not audit.require("experiment", place, "name", named, match is not None, rule):
            continue
        assert match is not None
        seeds |= {int(match[2])} if match[2] else set()
        trained |= {piece["path"]} if named.startswith("train ") else set()
        commands.append(piece["command"])
        where = f"{match[1] or 'forward'}/seed-{match[2]}" if match[2] else "base"
        audit.compare("experiment", place, "path", piece["path"], f"{name}/{where}")
        _check_piece(audit, folder, place, piece, match)
    # The pieces of the last `minihmx experiment` stand last, and earlier ones may have had other
    # options.
    typed: list[Any] = next((c for c in reversed(commands) if c[:1] in (["train"], ["eval"])), [])
    again: dict[str, Any] = {"seeds": sorted(seeds), "model": "".join(typed[1:2]), "tasks": []}
    if commands and commands[-1][:1] == ["eval"]:
        again["tasks"] = str(_given(commands[-1], "--tasks")).split(",")
        again["data"] = _given(commands[-1], "--data")
    audit.compare_tree("experiment", file, model, again, ("models", name))
    if name in MODELS or model["model"] in MODELS:
        place = Place(file[0], line_of(file[1], "models", name, "model"))
        audit.compare("experiment", place, "model", model["model"], name)
    return trained


def _check_piece(
    audit: Audit, folder: Path, place: Place, piece: dict[str, Any], match: re.Match[str]
) -> None:
    """Check a piece's command and state. If it is done, its results must be there, and those of an
    evaluation must be on items of the set (sample or hub) that its command names."""
    named, state, error = piece["name"], piece["state"], piece.get("error")
    kind, command, data = named.partition(" ")[0], piece["command"], ABSENT
    again: list[Any] = [kind]
    if kind == "train":
        again += [*command[1:2], "--direction", match[1], "--seed", match[2]]
    audit.compare("experiment", place, f"{named}, command", command[: len(again)], again)
    holds = state in PIECE_STATES if error is None else state == "failed" and type(error) is str
    rule = f"failed beside an error, else one of {', '.join(PIECE_STATES)}"
    if not audit.require("experiment", place, "state", state, holds, rule) or state != "done":
        return
    made, mark = [piece["path"]], "selected.json" if kind == "select" else "manifest.json"
    if kind == "eval":
        made, data = piece["results"], _given(command, "--data")
        audit.require("experiment", place, f"{named}, results", made, made != [], "some folders")
    for where in map(str, made):
        there = (folder / where / mark).is_file()
        rule = "there, as this piece is said to be done"
        audit.require("experiment", place, f"{named}, {where}/{mark}", ABSENT, there, rule)
        if there and data in ("sample", "hub"):
            of_result = (Audit().json(folder / where / RESULT) or ({}, ""))[0].get("data")
            origin = of_result.get("origin") if isinstance(of_result, dict) else ABSENT
            same = str(origin).partition(" ")[0] == data
            rule = f"that of {where}, whose items come from {quoted(str(origin))}"
            audit.require("experiment", place, f"{named}, --data", data, same, rule)


def _given(command: list[Any], option: str) -> Any:
    """The value after an option of a command."""
    return dict(pairwise(map(str, command))).get(option, ABSENT)
