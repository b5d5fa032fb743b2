"""Trained runs on disk in pairs: forward and reverse of one model, seed and config. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from minihmx.errors import DataError, UserError, quoted
from minihmx.models.adapters import CONFIG, WEIGHTS, adapter_digest
from minihmx.models.hub import run_names
from minihmx.results.epochs import BELOW, EPOCH_NAME, epochs_of, selected_epoch
from minihmx.selection import DIRECTIONS
from minihmx.storage.disk import home_path
from minihmx.storage.identity import differences
from minihmx.storage.strict import read_json


class Trained(Protocol):
    """A run's folder and the fields that decide what it computes."""

    @property
    def folder(self) -> Path: ...
    @property
    def science(self) -> Mapping[str, Any]: ...


class TrainedRun(NamedTuple):
    """A finished run, and the epoch of it that is compared.

    model: the name of its folder under DIR. how: "selected", "selected, below the rule", "last, as
    none is selected", or "named" (RUN@epoch-03). adapter: the digest of that epoch's checkpoint, ""
    where it was removed.
    """

    folder: Path
    model: str
    direction: str
    seed: int
    science: Mapping[str, Any]
    fingerprint: str
    epoch: str
    how: str
    adapter: str

    @property
    def title(self) -> str:
        """As a sentence names it."""
        return f"{self.model} {self.direction} seed {self.seed}"


class SeedPair(NamedTuple):
    """The two directions of one model and seed.

    seeds: all that the model has or should have, those that are left out too.
    """

    model: str
    seed: int
    forward: TrainedRun
    reverse: TrainedRun
    seeds: tuple[int, ...] = ()

    @property
    def runs(self) -> tuple[TrainedRun, TrainedRun]:
        return self.forward, self.reverse


def find_pairs(paths: Sequence[str]) -> tuple[list[SeedPair], list[str]]:
    """The pairs in a DIR or among RUNs, by model and seed; and what a reader has to know of them.

    A run that has not ended, and one whose other direction is missing, are left out, and said.
    Raises UserError where nothing is left, or where runs differ in more than direction and seed.
    """
    found: dict[Path, str] = {}
    notes: list[str] = []
    for text in paths:
        path, epoch = path_and_epoch(text)
        if (path / "config.json").is_file():
            found[path.resolve()] = epoch
        else:
            listed = _experiment(path, notes) if (path / "experiment.json").exists() else None
            inside = runs_in(path) if listed is None else listed
            found |= {folder.resolve(): "" for folder in inside}
    runs: dict[tuple[str, str, int], TrainedRun] = {}
    seeds = _seeds(paths, found)
    for folder, epoch in found.items():
        if why := not_ended(folder):
            notes.append(why)
            continue
        run = read_run(folder, epoch)
        other = runs.setdefault((run.model, run.direction, run.seed), run)
        if other is not run:
            raise UserError(
                f"{other.folder} and {run.folder} are both {run.title}, so it is not clear which "
                "one is meant; give one of them."
            )
    pairs = []
    for (model, direction, seed), run in sorted(runs.items()):
        opposite = runs.get((model, DIRECTIONS[direction == "forward"], seed))
        if opposite is None:
            missing = DIRECTIONS[direction == "forward"]
            notes.append(f"{run.title} is left out: there is no finished {missing} run beside it")
        elif direction == "forward":
            pairs.append(SeedPair(model, seed, run, opposite, tuple(sorted(seeds[model]))))
    if not pairs:
        raise UserError(_nothing(paths, list(runs.values()), notes))
    for pair in pairs:
        first = next(other.forward for other in pairs if other.model == pair.model)
        check_alike(pair.forward, pair.reverse, {"direction"})
        check_alike(first, pair.forward, {"direction", "seed"})
        _check_selection(pair)
        here, there = (run.how.replace(BELOW, "") for run in (pair.forward, first))
        if here != there and "named" not in (here, there):
            notes.append(
                f"{pair.model}: the epochs of seed {pair.seed} ({here}) and of seed {first.seed} "
                f"({there}) were not chosen by the same rule"
            )
    return pairs, notes


def _seeds(paths: Sequence[str], found: Iterable[Path]) -> dict[str, set[int]]:
    """By model, the seeds of all runs in the folders given, finished, listed by its plan or not."""
    seeds: dict[str, set[int]] = {}
    folders = [path for text in paths if (path := home_path(text)).is_dir()]
    for folder in [*found, *(run.resolve() for path in folders for run in runs_in(path))]:
        number = folder.name.removeprefix("seed-")
        if number.isdecimal():
            seeds.setdefault(folder.parent.parent.name, set()).add(int(number))
    for path in folders:
        if (path / "experiment.json").exists():
            for model, plan in read_json(path / "experiment.json")["models"].items():
                seeds.setdefault(model, set()).update(s for s in plan["seeds"] if type(s) is int)
    return seeds


def path_and_epoch(text: str) -> tuple[Path, str]:
    """RUN@epoch-03 in its two parts; the epoch of a mere path is "".

    Raises UserError where no folder is there, or what follows the @ names no epoch.
    """
    path, epoch = home_path(text), ""
    if not os.path.exists(path) and "@" in text:
        run, _, epoch = text.rpartition("@")
        path = home_path(run)
        if not EPOCH_NAME.fullmatch(epoch):
            raise UserError(f"{text} names no epoch; write RUN@epoch-03, for example.")
    if not os.path.isdir(path):
        raise UserError(
            f"There is no folder {path}, so there is nothing to read; give the folder of "
            "several runs (runs/), or runs themselves (runs/MODEL/DIRECTION/seed-N)."
        )
    return path, epoch


def runs_in(folder: Path) -> Iterator[Path]:
    """DIR/<model>/<direction>/seed-<n>, or DIR being a model's or a direction's folder."""
    for pattern in ("*/{}/seed-*", "{}/seed-*"):
        for direction in DIRECTIONS:
            for path in sorted(folder.glob(pattern.format(direction))):
                if (path / "config.json").is_file():
                    yield path


def _experiment(folder: Path, notes: list[str]) -> list[Path]:
    """The runs that an experiment consists of; what of it is not done or not there is noted."""
    path, runs = folder / "experiment.json", list[Path]()
    experiment = read_json(path)
    try:
        for model, plan in sorted(experiment["models"].items()):
            left = [f"{p['name']}: {p['state']}" for p in plan["pieces"] if p["state"] != "done"]
            if left:
                notes.append(
                    f"{model}: {len(left)} of {len(plan['pieces'])} pieces of the experiment are "
                    f"not done ({'; '.join(left[:3] + ['...'] * (len(left) > 3))}), so the tables "
                    "are not final"
                )
            for run in (
                folder / model / d / f"seed-{s}" for d in DIRECTIONS for s in plan["seeds"]
            ):
                if (run / "config.json").is_file():
                    runs.append(run)
                else:
                    notes.append(f"{run} is left out: the experiment lists it, and no run is there")
    except (TypeError, LookupError, AttributeError):
        raise UserError(
            f"{path} is no list of an experiment's pieces, so it is not known what there should "
            "be; restore it, or move it away and the folders beside it are compared."
        ) from None
    for run in runs_in(folder):
        if run not in runs and not not_ended(run):
            notes.append(f"{run} is left out: it is finished, and the experiment does not list it")
    return runs


def not_ended(folder: Path) -> str:
    """Why a run's folder may still change, or ""."""
    path = folder / "status.json"
    status = read_json(path) if path.exists() else {}
    status = status if isinstance(status, dict) else {}
    state = status.get("state", "unknown")
    if state == "complete":
        return ""
    place = f"step {status.get('step', '?')} of {status.get('steps', '?')}"
    what = "is still being written, or was killed" if state == "running" else "is not complete"
    return f"{folder} is left out: it {what} (its status is {quoted(state)}, {place})"


def model_folder(run: Path) -> Path:
    """DIR/MODEL of a run's folder, which may be named from within (seed-1, or ../seed-1)."""
    short = len(run.parts) < 3 or ".." in run.parts[-3:]
    return (run.resolve() if short else run).parents[1]


def read_run(folder: Path, epoch: str) -> TrainedRun:
    """A run that has an epoch to be compared, which is the one that is named, if any.

    Raises Failure for a folder that is none, or is under another model's name.
    """
    path = folder / "config.json"
    config = read_json(path)
    science = config.get("science") if isinstance(config, dict) else None
    science = science if isinstance(science, dict) else {}
    direction, seed = science.get("direction"), science.get("seed")
    if direction not in DIRECTIONS or type(seed) is not int:
        raise UserError(
            f"{path} is no config of a run, so its direction and seed are not known; restore it, "
            "or leave this folder out."
        )
    name, fingerprint = model_folder(folder).name, str(config.get("fingerprint"))
    model = config.get("model")
    model_id = str(model.get("id") if isinstance(model, dict) else None)
    if name not in (names := run_names(model_id, str(science.get("model digest")))):
        raise DataError(
            f"{path} says that the run is of the model {quoted(model_id)}, but its folder is "
            f"{quoted(name)}, so its numbers would stand under another model's name; call that "
            f"folder {' or '.join(sorted(names))}."
        )
    epochs = epochs_of(folder)
    if epoch and epoch not in epochs:
        there = ", ".join(epochs) or "no epoch"
        raise UserError(f"{folder} has no {epoch}; there is {there}. Name one that is there.")
    epoch, how = (epoch, "named") if epoch else selected_epoch(folder)
    checkpoint = folder / "checkpoints" / epoch
    kept = all((checkpoint / file).is_file() for file in (CONFIG, WEIGHTS))
    adapter = adapter_digest(checkpoint) if kept else ""
    return TrainedRun(folder, name, direction, seed, science, fingerprint, epoch, how, adapter)


def check_alike(one: Trained, other: Trained, may_differ: set[str]) -> None:
    """Raises UserError naming the fields in which two runs differ beyond those that may."""
    if differ := differences(one.science, other.science, may_differ):
        raise UserError(
            f"{one.folder} and {other.folder} are of other configs ({differ}), so "
            "they are not of one experiment, and a difference would not be one of direction; give "
            "the runs that belong together, or train one of them again."
        )


def _check_selection(pair: SeedPair) -> None:
    """A selection is of two runs; with another partner it says nothing."""
    for run, other in ((pair.forward, pair.reverse), (pair.reverse, pair.forward)):
        path = run.folder / "selected.json"
        if run.how.startswith("selected"):
            partners = read_json(path).get("pair")
            partner = partners.get(other.direction) if isinstance(partners, dict) else None
            if isinstance(partner, dict) and partner.get("fingerprint") != other.fingerprint:
                raise UserError(
                    f"{path} was written when another run stood at {other.folder}, so its epoch "
                    "was not chosen against this one; type `minihmx select "
                    f"{pair.forward.folder} {pair.reverse.folder}` first."
                )


def _nothing(paths: Sequence[str], runs: Sequence[TrainedRun], notes: Sequence[str]) -> str:
    """Why no two runs are a pair."""
    where = ", ".join(paths)
    names = {d: [run for run in runs if run.direction == d] for d in DIRECTIONS}
    if not runs:
        why = notes[0] if notes else "there is no run MODEL/DIRECTION/seed-N in it"
    elif not names["forward"] or not names["reverse"]:
        why = notes[0] if len(notes) > len(runs) else f"all runs there are {runs[0].direction}"
    else:
        models = {d: sorted({run.model for run in names[d]}) for d in DIRECTIONS}
        seeds = {d: sorted({run.seed for run in names[d]}) for d in DIRECTIONS}
        field, of = (
            ("model", models)
            if not {*models["forward"]} & {*models["reverse"]}
            else ("seed", seeds)
        )
        told = " and ".join(f"{', '.join(map(str, of[d]))} ({d})" for d in DIRECTIONS)
        why = f"no two of the runs have the same {field}: {told}"
    return (
        f"There is nothing to compare in {where}: {why}. A pair is a forward and a reverse run of "
        "one model and seed; `minihmx train MODEL --direction reverse --seed N` makes the other."
    )
