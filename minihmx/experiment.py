"""The whole experiment on one model: which commands it takes, and which of them are done.

For every seed a forward and a reverse run, the selection of their checkpoints and the benchmarks on
the chosen pair; and once the benchmarks on the untouched model. Each of these pieces is an ordinary
command that a person could type. What is done is read from the disk, so the same experiment goes on
wherever it was, and two processes can share it: a piece is claimed by a lock that ends with its
process. No torch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minihmx.errors import Failure, UserError
from minihmx.instruments.wreck import is_wrecked
from minihmx.selection import DIRECTIONS, Rule
from minihmx.storage.lock import take, wait_for
from minihmx.storage.run_folder import Store
from minihmx.storage.strict import read_json

EXPERIMENT = "experiment.json"
PIECE_STATES = (
    "done",
    "running",
    "waiting",
    "interrupted",
)  # of a piece, or the sentence of its failure


@dataclass(frozen=True)
class Experiment:
    """What is asked for.

    out: the folder that holds the runs and experiment.json. run_name: the model's folder there.
    flags and eval_flags: what `train` and `eval` are given beside what is set here, as typed.
    """

    out: Path
    model: str
    run_name: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    data: str
    rule: Rule
    flags: tuple[str, ...] = ()
    eval_flags: tuple[str, ...] = ()

    def folder(self, direction: str, seed: int) -> Path:
        """Of a run."""
        return self.out / self.run_name / direction / f"seed-{seed}"


@dataclass(frozen=True)
class Piece:
    """One command of an experiment. needs: names of the pieces that must be done before it.

    folders: of what it makes, relative to the experiment's. tasks: the benchmarks that it asks.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    folders: tuple[str, ...]
    tasks: tuple[str, ...] = ()


def pieces(experiment: Experiment, split: bool = False) -> list[Piece]:
    """Every piece, in the order in which one process does them: seed by seed.

    An evaluation asks a seed's pair all benchmarks, on one loaded base. split: one run and one
    benchmark each, so that many machines can share them.
    """
    e, found = experiment, list[Piece]()
    out, rule = ("--out", str(e.out)), e.rule
    how = (
        f"--threshold={rule.threshold:g}",
        f"--max-unscored={rule.max_unscored:g}",
        f"--same-epoch-exception={rule.same_epoch_exception}",
    )
    for seed in e.seeds:
        runs = {direction: str(e.folder(direction, seed)) for direction in DIRECTIONS}
        places = tuple(str(Path(run).relative_to(e.out)) for run in runs.values())
        for direction, place in zip(DIRECTIONS, places, strict=True):
            of_run = ("--direction", direction, "--seed", str(seed), *out, *e.flags)
            name = f"train {direction} seed {seed}"
            found.append(Piece(name, "train", ("train", e.model, *of_run), (), (place,)))
        trained = tuple(piece.name for piece in found[-2:])
        selecting = ("select", *runs.values(), *how)
        found.append(Piece(f"select seed {seed}", "select", selecting, trained, places))
        selected = (found[-1].name,)
        if seed == e.seeds[0]:
            found += _evaluations(e, "base", seed, {"base": f"{e.run_name}/base"}, (), split)
        pair = dict(zip(runs.values(), places, strict=True))
        if split:
            for direction, (run, place) in zip(DIRECTIONS, pair.items(), strict=True):
                who = f"{direction} seed {seed}"
                found += _evaluations(e, who, seed, {run: place}, selected, split)
        else:
            found += _evaluations(e, f"seed {seed}", seed, pair, selected, split)
    return found


def _evaluations(
    e: Experiment,
    who: str,
    seed: int,
    subjects: Mapping[str, str],
    needs: tuple[str, ...],
    split: bool,
) -> Iterator[Piece]:
    """The pieces that ask these subjects (adapter, and folder of its results) the benchmarks."""
    adapters = (word for subject in subjects for word in ("--adapter", subject))
    begin = ("eval", e.model, *adapters, "--seed", str(seed))
    end = ("--data", e.data, "--out", str(e.out), *e.eval_flags, "--json")
    groups = (
        {f" {task}": (task,) for task in e.tasks} if split else {"": e.tasks} if e.tasks else {}
    )
    for name, tasks in groups.items():
        arguments = (*begin, "--tasks", ",".join(tasks), *end)
        yield Piece(f"eval {who}{name}", "eval", arguments, needs, (*subjects.values(),), tasks)


def is_done(experiment: Experiment, piece: Piece, results: Mapping[str, Sequence[str]]) -> bool:
    """Whether what the piece makes is there. results: the folders that each eval piece has made.

    A run that ended wrecked is there, and nothing that needs it would be worth its time.
    """
    e = experiment
    folders = [e.out / folder for folder in piece.folders]
    if piece.kind == "train":
        return all(
            (folder / "manifest.json").is_file() and not is_wrecked(folder) for folder in folders
        )
    if piece.kind == "select":
        return all(_is_selected(folder, e.rule, folders) for folder in folders)
    made = [e.out / folder for folder in results.get(piece.name, ())]
    finished = [folder for folder in made if (folder / "manifest.json").is_file()]
    homes = [
        (folder / "evals" / task, _winner(folder)) for folder in folders for task in piece.tasks
    ]
    return all(
        any(f.parent == home and f.name.rpartition("-")[0] == winner for f in finished)
        for home, winner in homes
    )


def done_pieces(experiment: Experiment) -> set[str]:
    """Their names."""
    results = stored_results(experiment)
    return {piece.name for piece in pieces(experiment) if is_done(experiment, piece, results)}


def _is_selected(folder: Path, rule: Rule, pair: Sequence[Path]) -> bool:
    """Whether it was selected by this rule, from these two runs as they are."""
    try:
        selected = read_json(folder / "selected.json")
        given = [selected["pair"][which]["fingerprint"] for which in DIRECTIONS]
        there = [read_json(run / "config.json")["fingerprint"] for run in pair]
        return bool(selected["rule"] == vars(rule) and given == there and selected["winner"])
    except (Failure, OSError, LookupError, TypeError):
        return False


def _winner(folder: Path) -> str:
    """The name that evaluations of a run's choice begin with; "base" for the untouched model."""
    if folder.name == "base":
        return "base"
    try:
        return str(read_json(folder / "selected.json")["winner"])
    except (Failure, OSError, LookupError, TypeError):
        return ""


# --- experiment.json ------------------------------------------------------------------------------


def claim_file(out: Path, name: str) -> Path:
    """The lock of a piece; name: with the model's in front."""
    return out / ".claims" / f"{name.replace(' ', '-')}.lock"


@contextlib.contextmanager
def claim(out: Path, name: str) -> Iterator[int | None]:
    """A lock, while this process alone is at work on the piece; None where another one is.

    A child that inherits the lock keeps it when this process is killed; with the last of them the
    piece is free again. Raises DataError where a link or the like stands in the lock's place.
    """
    lock = take(claim_file(out, name), Store(out).disk.open)
    if lock is None:
        yield None
        return
    with contextlib.closing(lock):
        yield lock.file.fileno()


def stored_results(experiment: Experiment) -> dict[str, list[str]]:
    """By eval piece, the folders of its results, as experiment.json has them.

    Pieces that were never asked so, as with another --limit, are left out.
    """
    own = how_asked(experiment)
    return {p["name"]: p["results"] for p in _listed(experiment) if own in p["asked"]}


def how_asked(experiment: Experiment) -> str:
    """What decides a result beside the checkpoint; the folder's name is no part of it."""
    e = experiment
    return " ".join([f"--tasks {','.join(e.tasks)} --data {e.data}", *e.eval_flags])


def write_states(
    experiment: Experiment, states: Mapping[str, str], results: Mapping[str, Sequence[str]]
) -> None:
    """Bring this model's part of experiment.json up to date.

    states: by piece, one of PIECE_STATES or the sentence of its failure; what waits here, and is
    claimed by another process, is running. Other models stay as they are, and so do pieces of other
    seeds, and results that were asked otherwise.
    """
    planned = []
    for piece in pieces(experiment):
        state = _state(experiment, piece.name, states[piece.name])
        known = state in PIECE_STATES
        entry: dict[str, Any] = {
            "name": piece.name,
            "path": piece.folders[0],
            "command": list(piece.arguments),
            "state": state if known else "failed",
            "error": None if known else state,
            "results": list(results.get(piece.name, ())),
            "asked": [how_asked(experiment)] if results.get(piece.name) else [],
        }
        planned.append(entry)
    store = Store(experiment.out)
    path = experiment.out / ".claims" / f"{EXPERIMENT}.lock"
    with contextlib.closing(wait_for(path, store.disk.open)):
        names = {entry["name"] for entry in planned}
        before = _listed(experiment)
        for entry, old in ((e, o) for e in planned for o in before if e["name"] == o["name"]):
            for field in ("results", "asked"):
                entry[field] = list(dict.fromkeys([*old[field], *entry[field]]))
        listed = [entry for entry in before if entry["name"] not in names] + planned
        seeds = {int(e["name"].rpartition(" ")[2]) for e in listed if e["name"] != "eval base"}
        record = {
            "model": experiment.model,
            "seeds": sorted(seeds),
            "tasks": list(experiment.tasks),
            "data": experiment.data,
            "pieces": listed,
        }
        models = _models(experiment.out) | {experiment.run_name: record}
        store.write_json(EXPERIMENT, {"models": models})


def _state(experiment: Experiment, name: str, state: str) -> str:
    """The state as it is; what waits for this process may be running in another."""
    if state != "waiting":
        return state
    with claim(experiment.out, f"{experiment.run_name} {name}") as lock:
        return "running" if lock is None else "waiting"


def _listed(experiment: Experiment) -> list[dict[str, Any]]:
    """The pieces of this model that experiment.json lists."""
    found: Any = _models(experiment.out).get(experiment.run_name, {}).get("pieces", [])
    try:
        for piece in found:
            named = re.fullmatch(r"eval base|(?:train|select|eval) .*seed \d{1,19}", piece["name"])
            piece.setdefault("asked", [])
            texts = [text for name in ("results", "asked") for text in piece[name]]
            if not named or not all(isinstance(text, str) for text in texts):
                raise TypeError
    except (LookupError, TypeError, AttributeError):
        raise UserError(
            f"{experiment.out / EXPERIMENT} lists what is no piece of one, and it would be "
            "overwritten; move it away: finished runs are found again, and so are results."
        ) from None
    return list(found)


def _models(out: Path) -> dict[str, Any]:
    """The models of experiment.json, {} where there is none. Raises UserError for what is none."""
    path = out / EXPERIMENT
    if not path.exists():
        return {}
    record = read_json(path)
    models = record.get("models") if isinstance(record, dict) else None
    if not isinstance(models, dict) or not all(isinstance(m, dict) for m in models.values()):
        raise UserError(
            f"{path} is no record of an experiment, and it would be overwritten; move it away, or "
            "choose another --out."
        )
    return models
