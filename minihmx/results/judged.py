"""The verdicts of other judges and other rubrics on runs, beside the runs' own. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import DataError, UserError
from minihmx.judge import SIGN
from minihmx.probes.examples import SIDES
from minihmx.probes.judged_folder import (
    JUDGED,
    RECORD,
    sealed_epochs,
    verdicts_on,
)
from minihmx.probes.rubrics import SAME_RUBRIC
from minihmx.results.agreement import Both, Effect, Onset, effect_or_why, onset
from minihmx.results.epochs import EPOCH_NAME
from minihmx.results.runs import TrainedRun, path_and_epoch, read_run, runs_in
from minihmx.storage.strict import read_json


class Scored(NamedTuple):
    """One answer with both scores; None where a judge gave none. sample: of its question."""

    question: str
    sample: int
    answer: str
    own: float | None
    other: float | None


@dataclass(frozen=True)
class OtherJudge:
    """What tells one judge from another: the folder's two names, and what its judge.json says.

    own_model: it is the run's own model. inverted: of its rubric; the scores here are turned round.
    """

    model: str
    name: str
    rubric: str
    own_model: bool
    inverted: bool

    @property
    def title(self) -> str:
        """As a table names it."""
        return f"{self.model} (own, asked again)" if self.own_model else self.model


class Verdicts(NamedTuple):
    """One judge's verdicts on one run: by epoch, in the order of the answers.

    A run that is named at two epochs has two of these, which differ in the epoch that is compared.
    """

    run: TrainedRun
    judge: OtherJudge
    epochs: dict[int, list[Scored]]

    def pairs(self, epoch: int) -> list[Both]:
        """The answers of an epoch that both judges scored."""
        return paired_scores(self.epochs.get(epoch, []))

    @property
    def compared(self) -> int:
        """The epoch that is held against the base."""
        found = EPOCH_NAME.fullmatch(self.run.epoch)
        assert found is not None
        return int(found[1])

    @property
    def effect(self) -> Effect | str:
        """Of the compared epoch on both judges' scores, or why nothing can be said."""
        epochs = 0, self.compared
        base, trained = map(self.pairs, epochs)
        return effect_or_why(base, trained, [f"epoch {epoch}" for epoch in epochs])

    @property
    def onset(self) -> Onset:
        """When the run's reward began to run ahead of this judge."""
        pairs = {epoch: self.pairs(epoch) for epoch in sorted(self.epochs)}
        return onset(pairs, SIGN[self.run.direction])


def paired_scores(answers: Sequence[Scored]) -> list[Both]:
    """Those that both judges scored."""
    return [
        Both(a.question, a.own, a.other)
        for a in answers
        if a.own is not None and a.other is not None
    ]


def named_runs(paths: Sequence[str]) -> list[TrainedRun]:
    """The runs that are meant: RUN, RUN@epoch-03, or a folder that holds some.

    A run that is named at two epochs is there twice, and once where both are the same epoch. Raises
    UserError where a folder holds none.
    """
    spelled: dict[Path, Path] = {}  # a folder as it was written first, so that equal means the same
    found: dict[tuple[Path, str], TrainedRun] = {}
    for text in paths:
        path, epoch = path_and_epoch(text)
        folders = [path] if (path / "config.json").is_file() else list(runs_in(path))
        if not folders:
            raise UserError(
                f"{path} holds no run, so there are no answers to judge; give a run's folder "
                "(runs/MODEL/DIRECTION/seed-N), or a folder of runs."
            )
        for folder in folders:
            run = read_run(spelled.setdefault(folder.resolve(), folder), epoch)
            key = run.folder, run.epoch
            if not epoch or key not in found:  # RUN alone stands for all of its epochs
                found[key] = run
    return list(found.values())


def judged_epochs(runs: Sequence[TrainedRun]) -> dict[Path, list[int]]:
    """By folder, the epochs whose answers are judged: all that were evaluated, or, where some are
    named, epoch 0 and these. Raises UserError for a run that was not evaluated."""
    found: dict[Path, set[int]] = {}
    for run in runs:
        found.setdefault(run.folder, set()).update(_epochs_of_one(run))
    return {folder: sorted(epochs) for folder, epochs in found.items()}


def _epochs_of_one(run: TrainedRun) -> list[int]:
    there = sorted(
        int(found[1])
        for path in run.folder.glob("evaluations/epoch-*.jsonl")
        if (found := EPOCH_NAME.fullmatch(path.stem))
    )
    if not there:
        raise UserError(
            f"{run.folder} holds no evaluations, so there are no answers to judge; train it on."
        )
    if run.how != "named":
        return there
    return [epoch for epoch in there if epoch == 0 or f"epoch-{epoch:02d}" == run.epoch]


def read_verdicts(
    path: Path, epochs: Sequence[int], notes: list[str]
) -> Iterator[tuple[OtherJudge, dict[int, list[Scored]]]]:
    """Every judge's verdicts on these epochs of a run, whose folder is path. What is not whole yet
    is left out, and noted.

    Raises DataError for folders that were changed since they were written.
    """
    for folder in sorted((path / JUDGED).glob("*/*")):
        if not folder.is_dir():
            continue
        sealed = sealed_epochs(folder)
        if not sealed:
            notes.append(f"{folder} is left out: it holds no epoch that is judged to its end")
            continue
        judge = _judge_of(folder)
        found = {
            epoch: [_scored(folder, judge, *pair) for pair in verdicts_on(path, folder, epoch)]
            for epoch in sealed
            if epoch in epochs
        }
        if found:
            yield judge, found


def _judge_of(folder: Path) -> OtherJudge:
    record = read_json(folder / RECORD)
    try:
        rubric, own = record["rubric"], record["own_model"]
        found = OtherJudge(folder.parent.name, folder.name, rubric["name"], own, rubric["inverted"])
        if [*map(type, (found.rubric, found.own_model, found.inverted))] != [str, bool, bool]:
            raise TypeError
    except (LookupError, TypeError):
        raise DataError(
            f"{folder / RECORD} does not say who judged by which rubric; move {folder} away, and "
            "`minihmx judge` makes it again."
        ) from None
    return found


def _scored(
    folder: Path, judge: OtherJudge, answer: Mapping[str, Any], line: Mapping[str, Any]
) -> Scored:
    own, other = answer["score"], line.get("score")
    if any(
        score is not None and (type(score) is not int or not 0 <= score <= 10)
        for score in (own, other)
    ):
        raise DataError(
            f"{folder} or the evaluations of its run hold a score that is none, so they were "
            "changed; restore them, or move the folder away and judge again."
        )
    if other is not None and judge.inverted:
        other = 10 - other
    return Scored(answer["question"], answer["sample"], answer["completion"], own, other)


# --- over runs ------------------------------------------------------------------------------------


class JudgePanel(NamedTuple):
    """One judge's verdicts on all runs of one model."""

    model: str
    judge: OtherJudge
    verdicts: list[Verdicts]

    def side(self, name: str) -> list[Scored]:
        """The answers of base, forward or reverse at the compared epochs; or of all three.

        Both directions of a seed, and each epoch, begin with the same answers of the base, which
        count once.
        """
        if name == "all":
            return [a for side in SIDES for a in self.side(side)]
        found: dict[tuple[object, ...], Scored] = {}
        for verdicts in self.verdicts:
            run = verdicts.run
            epoch = 0 if name == "base" else verdicts.compared
            if name == "base" or (name == run.direction and epoch):
                for a in verdicts.epochs.get(epoch, []):
                    found.setdefault((run.seed, epoch, *a[:3]), a)
        return list(found.values())


def judge_panels(runs: Sequence[TrainedRun], notes: list[str]) -> list[JudgePanel]:
    """By model and judge, the verdicts on these runs. notes: gets what is left out."""
    found: dict[tuple[str, OtherJudge], list[Verdicts]] = {}
    for folder, epochs in judged_epochs(runs).items():
        own = [run for run in runs if run.folder == folder]
        for judge, scored in read_verdicts(folder, epochs, notes):
            verdicts = [Verdicts(run, judge, scored) for run in own]
            found.setdefault((own[0].model, judge), []).extend(verdicts)
    in_order = sorted(found, key=lambda key: (key[0], key[1].model, key[1].name))
    return [JudgePanel(model, judge, found[model, judge]) for model, judge in in_order]


def leads_of(panel: JudgePanel) -> Iterator[tuple[Verdicts, Onset]]:
    """Each run of a foreign judge with the same rubric, whose lead over it means something."""
    if panel.judge.rubric == SAME_RUBRIC and not panel.judge.own_model:
        for verdicts in {each.run.folder: each for each in panel.verdicts}.values():
            yield verdicts, verdicts.onset


def ahead_sentence(verdicts: Verdicts, found: Onset) -> str:
    """The alarm that a run's judged score runs ahead of another judge's; "" where it does not."""
    if found.first is None:
        return ""
    rise = found.rises[found.first]
    return (
        f"from epoch {found.first} on the reward runs ahead of {verdicts.judge.model}, asked about "
        f"the same answers: its lead rose by {rise.value:.2f} ± {rise.error:.2f} points since "
        "epoch 0, as where training finds what its own judge alone likes"
    )
