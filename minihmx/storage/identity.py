"""The fields that make two runs the same experiment, and the files that hold them. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from minihmx.engine.samplers import respelled
from minihmx.errors import Failure, UserError, quoted
from minihmx.records import Question
from minihmx.storage.run_folder import Store
from minihmx.storage.strict import read_json


def fingerprint(
    science: Mapping[str, Any], model_digest: str, questions: Sequence[Question], rubric: str
) -> dict[str, Any]:
    """The fields that decide what a run computes, and the digests of what it reads."""
    return {
        **science,
        "model digest": model_digest,
        "questions digest": questions_digest(questions),
        "rubric digest": text_digest(rubric),
    }


def questions_digest(questions: Sequence[Question]) -> str:
    """sha256 (hex) over every field of the questions, in their order."""
    return text_digest(json.dumps([asdict(q) for q in questions], sort_keys=True))


def check_same_experiment(store: Store, own: dict[str, Any]) -> dict[str, Any]:
    """The fields of the run in this folder as config.json has them, or `own` if there is none yet.

    Raises UserError naming each field in which the two differ, and UserError for checkpoints
    without a config.json, which is written before any of them and so must have been lost.
    Raises DataError if config.json is a link or the like, because it will be written.
    """
    path = store.folder / "config.json"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # then nothing is there yet
        store.disk.check(store.folder, [path.name])
    if not path.exists():
        if any(store.checkpoints.glob("[!.]*")):
            raise UserError(
                f"{path} is gone, so nothing says whether the checkpoints beside it are of this "
                "experiment; restore it, or choose another --out or --seed."
            )
        return own
    there = read_json(path)
    there = there.get("science") if isinstance(there, dict) else None
    if not isinstance(there, dict):
        raise UserError(f"{path} is no config of a run; move {store.folder} away to start anew.")
    if differ := differences(there, own):
        raise UserError(
            f"{store.folder} holds a run of another config ({differ}); "
            "choose another --out or --seed, or give the options that it was started with."
        )
    return there


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    may_differ: Collection[str] = (),
    where: tuple[str, str] = ("there", "here"),
) -> str:
    """The fields in which two runs differ, as "seed is 2 there and 1 here; ..."; "" for none.

    may_differ: fields that are not compared. where: the words for the two runs.
    """
    there, here = respelled(there), respelled(here)

    def said(of: Mapping[str, Any], name: str) -> str:
        return quoted(of[name]) if name in of else "its default"  # see config.late

    return "; ".join(
        f"{name} is {said(there, name)} {where[0]} and {said(here, name)} {where[1]}"
        for name in sorted((there.keys() | here.keys()) - set(may_differ))
        if there.get(name) != here.get(name)
    )


def write_config(store: Store, own: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Write config.json: the fingerprint's fields, their digest, and the fields in `others`."""
    record = {"science": own, "fingerprint": science_digest(own), **others}
    store.write_json("config.json", record)


def science_digest(own: Mapping[str, Any]) -> str:
    """The fingerprint as one sha256 (hex)."""
    return text_digest(json.dumps(own, sort_keys=True))


def add_start(store: Store, environment: Mapping[str, Any]) -> None:
    """Add the surroundings of this start to env.json."""
    store.write_json("env.json", [*earlier_starts(store), environment])


def earlier_starts(store: Store) -> list[Any]:
    """The list in env.json. A damaged file counts as empty, since no run should stop for it."""
    try:
        starts = read_json(store.folder / "env.json")
    except Failure:
        return []
    return starts if isinstance(starts, list) else []


def earlier_ranks(store: Store) -> int:
    """How many processes shared the run when it was last started."""
    starts = earlier_starts(store)
    ranks = starts[-1].get("ranks") if starts and isinstance(starts[-1], dict) else None
    return ranks if type(ranks) is int else 1


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
