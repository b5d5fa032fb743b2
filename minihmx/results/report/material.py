"""What a report is made from: runs as far as they can be read, finished or not. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from minihmx import __version__
from minihmx.errors import Failure, UserError, quoted
from minihmx.experiment import EXPERIMENT
from minihmx.models.hub import run_names
from minihmx.results.audit import audit_path
from minihmx.results.collect import Comparison, collect
from minihmx.results.epochs import EPOCH_NAME, epochs_of, selected_epoch
from minihmx.results.evidence import Evidence, open_evidence, read_answers
from minihmx.results.findings import Audit
from minihmx.results.runs import check_alike, not_ended, path_and_epoch, runs_in
from minihmx.results.statistics import has_scipy
from minihmx.selection import DIRECTIONS
from minihmx.storage.history import history
from minihmx.storage.strict import read_json

Value = TypeVar("Value")
ENDS = " is left out: "  # in the notes of results/runs.py, which leaves out what is not finished


@dataclass(frozen=True)
class ReportRun:
    """One run's folder, and what of it could be read.

    config, status: their files, {} where damaged. starts: of env.json. steps, evaluations: lines of
    metrics.jsonl. epoch: the one that is shown beside the base, "" where there is none, and how it
    was chosen. evidence: None where the config is not whole, so that no answer can be read. alone:
    the other direction of this model and seed is there, but was trained otherwise, so that the two
    are no pair.
    """

    folder: Path
    model: str
    direction: str
    seed: int
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    starts: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    epoch: str
    how: str
    evidence: Evidence | None
    alone: bool = False

    @property
    def title(self) -> str:
        """As a heading names it."""
        return f"{self.direction}, seed {self.seed}"

    @property
    def heading(self) -> str:
        """What stands on one scale: all runs of a model but those that are no pair."""
        return f"{self.model}, {self.title} alone" if self.alone else self.model

    @property
    def science(self) -> Mapping[str, Any]:
        return part_of(self.config, "science")

    @property
    def steps_per_epoch(self) -> float | None:
        """None where the run does not say how long it is."""
        steps, epochs = self.status.get("steps"), self.science.get("epochs")
        if not isinstance(steps, int) or not isinstance(epochs, int) or min(steps, epochs) < 1:
            return None
        return steps / epochs

    @property
    def leave_out(self) -> str:
        """The category of which no question was trained on, "" where all were."""
        return str(part_of(self.config, "settings").get("leave_out") or "")

    def evaluation(self, epoch: str) -> Mapping[str, Any]:
        """The line of metrics.jsonl about this epoch, {} where there is none."""
        found = (line for line in self.evaluations if f"epoch-{line['epoch']:02d}" == epoch)
        return next(found, {})


def part_of(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object within a record, {} where there is none."""
    part = record.get(name)
    return part if isinstance(part, dict) else {}


class Material:
    """All that the sections read. What cannot be read is a note, which the page shows on top.

    paths: as typed; compared: those with a run that is shown. Raises UserError where none is there.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)
        self.notes: dict[str, None] = {}
        self.plans: list[tuple[Path, Mapping[str, Any]]] = []
        self._answers: dict[tuple[Path, str], list[dict[str, Any]]] = {}
        found = dict[Path, tuple[str, str]]()  # epoch, and the path as typed
        for text in paths:
            path, epoch = path_and_epoch(text)
            for folder in self._folders(path):
                found.setdefault(folder, (epoch, text))
        runs = [run for folder, (epoch, _) in found.items() if (run := self._run(folder, epoch))]
        if not runs:
            raise UserError(
                f"There is no run to report on in {', '.join(paths)}"
                f"{''.join(f' ({note})' for note in [*self.notes][:2])}; give a run's folder "
                "(runs/MODEL/DIRECTION/seed-N), a forward and a reverse one, or the folder of an "
                "experiment (runs/)."
            )
        self.left_out = [run for run in runs if run.leave_out]
        runs = sorted(self._once(runs), key=lambda run: (run.model, run.seed, run.direction))
        self.runs = self._set_apart(runs)
        shown = {found[run.folder][1] for run in self.runs}
        self.compared = [text for text in paths if text in shown]

    def note(self, text: str) -> None:
        """Something a reader has to know; kept once."""
        self.notes[text] = None

    def tried(self, read: Callable[..., Value], *given: Any) -> Value | None:
        """What is read from these arguments; None, with a note saying why, where that fails."""
        try:
            return read(*given)
        except (Failure, OSError) as error:
            self.note(str(error))
            return None

    @property
    def pairs(self) -> list[tuple[str, int, dict[str, ReportRun]]]:
        """Model, seed and its runs by direction: both, or one that is there or stands alone."""
        found = dict[tuple[str, str, int], dict[str, ReportRun]]()
        for run in self.runs:
            found.setdefault((run.heading, run.model, run.seed), {})[run.direction] = run
        return [(model, seed, runs) for (_, model, seed), runs in found.items()]

    def answers(self, run: ReportRun, name: str) -> list[dict[str, Any]]:
        """The answers in a file of rollouts/ or evaluations/; none, and a note, if damaged."""
        if run.evidence is None:
            return []
        key = run.folder, name
        if key not in self._answers:
            self._answers[key] = self.tried(read_answers, run.evidence, name) or []
        return self._answers[key]

    @cached_property
    def comparison(self) -> Comparison | str:
        """The tables' cells, or the sentence that says why there are none."""
        try:
            return collect(self.compared, items=has_scipy())
        except (Failure, OSError) as error:
            return str(error)

    @cached_property
    def audits(self) -> list[Audit]:
        """One for each path; none, and a note, where there is nothing to audit."""
        places = [path_and_epoch(text)[0] for text in self.paths]
        found = [self.tried(audit_path, place) for place in places]
        return [audit for audit in found if audit]

    # --- runs ------------------------------------------------------------------------------------

    def _folders(self, path: Path) -> Iterable[Path]:
        """The run, or the runs in a folder, and the experiment's plan where it has one."""
        if (path / "config.json").is_file():
            return [path]
        if (path / EXPERIMENT).exists():
            for name, model in part_of(self._object(path / EXPERIMENT), "models").items():
                self._plan(path, str(name), model)
        # a folder for each category, as scripts/leave_out.py trains them
        deeper = sorted(path.glob("*/*/*/seed-*/config.json"))
        return list(runs_in(path)) or [config.parent for config in deeper]

    def _plan(self, path: Path, name: str, model: Any) -> None:
        pieces = model.get("pieces") if isinstance(model, dict) else None
        if not isinstance(pieces, list) or not all(map(_is_piece, pieces)):
            self.note(
                f"{path / EXPERIMENT} lists what is no piece of an experiment, so it is not known "
                "what there should be; `minihmx audit` says where."
            )
            return
        self.plans += [(path, piece) for piece in pieces]
        left = [f"{p['name']}: {p['state']}" for p in pieces if p["state"] != "done"]
        if left:
            listed = "; ".join(left[:4] + ["..."] * (len(left) > 4))
            self.note(
                f"{name}: {len(left)} of {len(pieces)} pieces of the experiment are not done "
                f"({listed}), so this page is not final."
            )

    def _run(self, folder: Path, epoch: str) -> ReportRun | None:
        config = self._object(folder / "config.json")
        science = part_of(config, "science")
        direction, seed = science.get("direction"), science.get("seed")
        if direction not in DIRECTIONS or type(seed) is not int:
            self.note(
                f"{folder} is left out: its config.json is damaged, so its direction and seed are "
                "not known."
            )
            return None
        status = self._object(folder / "status.json")
        if unfinished := self.tried(not_ended, folder):
            self.note(f"{unfinished.replace(ENDS, ' is shown as far as it is: ')}.")
        lines = self.tried(history, folder) or {"step": [], "evaluation": []}
        starts = self._starts(folder)
        own, how = self._epoch(folder, epoch)
        return ReportRun(
            *(folder, model_name(folder, config), direction, seed, config, status, starts),
            *(lines["step"], lines["evaluation"], own, how),
            self.tried(open_evidence, folder),
        )

    def _once(self, runs: Iterable[ReportRun]) -> Iterable[ReportRun]:
        """One run of each model, direction and seed, rather one that trained on all categories; and
        a note about any other such one. Those that left one out stand in a table of their own."""
        first = dict[tuple[str, str, int], ReportRun]()
        for run in sorted(runs, key=lambda run: run.leave_out != ""):
            shown = first.setdefault((run.model, run.direction, run.seed), run)
            if not run.leave_out and not shown.folder.samefile(run.folder):
                self.note(
                    f"{shown.folder} and {run.folder} are both {run.model} {run.title}; the first "
                    "is shown, and the second is left out."
                )
        return first.values()

    def _set_apart(self, runs: Iterable[ReportRun]) -> list[ReportRun]:
        """The runs, those of them alone whose other direction was trained otherwise; and a note."""
        alone = set[Path]()
        for one, other in combinations(runs, 2):
            if (one.model, one.seed) == (other.model, other.seed):
                try:
                    check_alike(one, other, {"direction"})
                except UserError as error:
                    self.note(f"No pair, so they are not shown side by side: {error}")
                    alone |= {one.folder, other.folder}
        return [replace(run, alone=run.folder in alone) for run in runs]

    def _epoch(self, folder: Path, epoch: str) -> tuple[str, str]:
        """The epoch that is shown, and how it was chosen."""
        there = epochs_of(folder)
        if epoch and epoch in there:
            return epoch, "named"
        if epoch:
            self.note(f"{folder} has no {quoted(epoch)}, so another one of it is shown.")
        if there and not (folder / "selected.json").exists():
            evaluated = [e for e in there if (folder / "evaluations" / f"{e}.jsonl").exists()]
            return (evaluated or there)[-1], "last, as none is selected"
        return self.tried(selected_epoch, folder) or (there[-1] if there else "", "last")

    def _object(self, path: Path) -> Mapping[str, Any]:
        found = self.tried(read_json, path)
        return found if isinstance(found, dict) else {}

    def _starts(self, folder: Path) -> Sequence[Mapping[str, Any]]:
        found = self.tried(read_json, folder / "env.json")
        starts = [s for s in found if isinstance(s, dict)] if isinstance(found, list) else []
        others = {str(start.get("minihmx")) for start in starts} - {__version__}
        if others:
            self.note(
                f"{folder} was written by minihmx {', '.join(sorted(others))} and is read by "
                f"{__version__}, which may miss fields or give them another meaning."
            )
        return starts


def model_name(folder: Path, config: Mapping[str, Any]) -> str:
    """The model of a run by its config.json, wherever it lies; by its place where that is silent.

    MODEL of MODEL/DIRECTION/seed-N is kept where it is one of the names that the model can have.
    """
    model, place = part_of(config, "model").get("id"), folder.resolve().parent.parent.name
    if not isinstance(model, str) or not model:
        return place
    names = run_names(model, str(part_of(config, "science").get("model digest")))
    return place if place in names else min(sorted(names), key=len)


def _is_piece(piece: Any) -> bool:
    """Whether this is a piece of experiment.json, as far as a report shows it."""
    texts = ("name", "state", "path")
    return (
        isinstance(piece, dict)
        and all(isinstance(piece.get(name), str) for name in texts)
        and isinstance(piece.get("command"), list)
        and all(isinstance(word, str) for word in piece["command"])
    )


def epoch_number(name: str) -> int:
    """3 of "epoch-03", and 0 of no epoch's name."""
    found = EPOCH_NAME.fullmatch(name)
    return int(found[1]) if found else 0
