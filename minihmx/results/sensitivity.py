"""How much the choice of checkpoints depends on the threshold 7.5 and the ten questions. No torch.

The paper selects by one rule (section 4), and a reader of its tables may ask what another threshold
would have shown. The files of the runs give two answers:

    thresholds  the rule with 7.0, 7.1, ... 8.0 in place of 7.5: the epochs, their KL, and the
                differences between the checkpoints that would have been compared
    bootstrap   the rule on held-out questions drawn with replacement, 2,000 times: how often each
                epoch would have been the chosen one
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import DataError, UserError
from minihmx.results.cells import METRICS, Cell, paired
from minihmx.results.collect import NothingToCompare, collect, metric_of
from minihmx.results.runs import SeedPair
from minihmx.selection import DIRECTIONS, Candidate, Choice, Rule, candidates, select
from minihmx.storage.disk import read_lines
from minihmx.storage.history import history
from minihmx.storage.strict import read_json

TRIED_THRESHOLDS = tuple(tenths / 10 for tenths in range(70, 81))
DRAWS = 2000
HELD_OUT_SCORE = "held-out score"  # a difference that every run can show


class Chosen(NamedTuple):
    """What the rule chooses from one pair: the choices, and the candidates that they name."""

    choices: tuple[Choice, Choice]
    forward: Candidate
    reverse: Candidate

    @property
    def gap(self) -> float | None:
        """The forward checkpoint's KL minus the reverse one's, in nats."""
        kls = self.forward.kl, self.reverse.kl
        return None if None in kls else (kls[0] or 0.0) - (kls[1] or 0.0)


class Histories(NamedTuple):
    """The candidates of both directions of a pair. rule: its selection's, with threshold 7.5."""

    pair: SeedPair
    forward: list[Candidate]
    reverse: list[Candidate]
    rule: Rule

    def chosen(self, threshold: float) -> Chosen:
        """What the pair's rule chooses with this threshold in place of its own."""
        return _chosen(self.forward, self.reverse, replace(self.rule, threshold=threshold))


def histories_of(pair: SeedPair) -> Histories:
    """Both directions' evaluations. Raises UserError if they have no epochs to choose from, or not
    the same ones, and DataError if a line is damaged."""
    forward, reverse = (_candidates(run.folder) for run in pair.runs)
    if not forward or [c.epoch for c in forward] != [c.epoch for c in reverse]:
        raise UserError(
            f"{pair.forward.folder} and {pair.reverse.folder} were not evaluated at the same "
            "epochs, so no threshold can be tried on them; leave them out, or train both alike."
        )
    return Histories(pair, forward, reverse, _rule(pair.forward.folder))


def _candidates(folder: Path) -> list[Candidate]:
    try:
        return candidates(history(folder)["evaluation"])
    except (LookupError, TypeError):
        raise DataError(
            f"{folder / 'metrics.jsonl'} holds an evaluation without the numbers that a selection "
            "needs, so no threshold can be tried on it; restore the file, or leave the run out."
        ) from None


def _rule(folder: Path) -> Rule:
    """The rule in a run's selected.json, with the paper's threshold; else the paper's rule."""
    path, usual = folder / "selected.json", Rule()
    told = read_json(path).get("rule") if path.exists() else None
    if not isinstance(told, dict):
        return usual
    exception, share = told.get("same_epoch_exception"), told.get("max_unscored")
    if exception not in ("on", "off") or not isinstance(share, (int, float)):
        raise DataError(f"{path} holds no rule of a selection; type `minihmx select` again.")
    return replace(usual, same_epoch_exception=exception, max_unscored=share)


def _chosen(forward: Sequence[Candidate], reverse: Sequence[Candidate], rule: Rule) -> Chosen:
    choices = select(forward, reverse, rule)
    found = (
        next(c for c in history if c.epoch == choice.epoch)
        for history, choice in zip((forward, reverse), choices, strict=True)
    )
    return Chosen(choices, *found)


# --- thresholds -----------------------------------------------------------------------------------


class Stretch(NamedTuple):
    """Neighbouring thresholds, low to high, at which every pair of a model gets the same two epochs
    and passes the threshold at all of them or at none.

    chosen: by seed. cells: by metric, the differences between these epochs, as far as they were
    evaluated. missing: if no benchmark was evaluated at these epochs, the runs at them as
    `eval --adapter` takes them; else empty.
    """

    low: float
    high: float
    chosen: dict[int, Chosen]  # by seed
    cells: dict[str, Cell]
    missing: list[str]


def stretches(model: Sequence[Histories]) -> list[Stretch]:
    """The stretches of all pairs of one model, from the lowest threshold to the highest."""

    def outcome(threshold: float) -> tuple[tuple[int, int, bool], ...]:
        made = (histories.chosen(threshold) for histories in model)
        return tuple((c.forward.epoch, c.reverse.epoch, c.choices[0].qualified) for c in made)

    found = []
    for _, group in groupby(TRIED_THRESHOLDS, key=outcome):
        alike = list(group)
        chosen = {h.pair.seed: h.chosen(alike[0]) for h in model}
        cells, missing = _differences([(h, chosen[h.pair.seed]) for h in model])
        found.append(Stretch(alike[0], alike[-1], chosen, cells, missing))
    return found


def _differences(model: Sequence[tuple[Histories, Chosen]]) -> tuple[dict[str, Cell], list[str]]:
    """The cells that the evaluations at these epochs give; if there are none, the runs instead."""
    named = [
        f"{run.folder}@epoch-{epoch.epoch:02d}"
        for histories, chosen in model
        for run, epoch in zip(histories.pair.runs, (chosen.forward, chosen.reverse), strict=True)
    ]
    try:
        measured = {cell.key: cell for cell in collect(named, items=False).cells}
        missing: list[str] = []
    except NothingToCompare:
        measured, missing = {}, named
    scored = [(h.pair, c) for h, c in model if None not in (c.forward.score, c.reverse.score)]
    if scored:
        seeds = [pair.seed for pair, _ in scored]
        forward = [c.forward.score or 0.0 for _, c in scored]
        reverse = [c.reverse.score or 0.0 for _, c in scored]
        measured[HELD_OUT_SCORE] = paired(
            HELD_OUT_SCORE, scored[0][0].model, seeds, forward, reverse
        )
    return measured, missing


def metric_title(key: str) -> str:
    """The title of a row of differences."""
    if key == HELD_OUT_SCORE:
        return f"{HELD_OUT_SCORE}, 0 to 10"
    metric = metric_of(key)
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def in_order(cells: Sequence[str]) -> list[str]:
    """Keys of cells in the order of the paper's tables, the held-out score first."""
    order = [HELD_OUT_SCORE, *METRICS]
    return sorted(set(cells), key=order.index)


# --- bootstrap ------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """One question's answers in one evaluation.

    answers: how many there are. scored and score: how many have a score, and the sum of these.
    measured and kl: how many have a KL, and the sum of these.
    """

    answers: int
    scored: int
    score: float
    measured: int
    kl: float


ByQuestion = Mapping[str, Sums]


class Redrawn(NamedTuple):
    """questions: how many were drawn each time. epochs: by direction, in how many draws each epoch
    was chosen. below: in how many draws no forward epoch exceeded the threshold."""

    questions: int
    epochs: dict[str, Counter[int]]
    below: int


def bootstrap(histories: Histories, draws: int = DRAWS) -> Redrawn:
    """The rule on questions drawn with replacement, the same ones for all epochs and directions.

    The answers to a question stay together, since the question decides much of their scores.
    Raises DataError if an evaluation's answers are gone or damaged, or if the evaluations are not
    on the same questions.
    """
    sides = [
        [(c.epoch, _by_question(run.folder, c.epoch)) for c in of_run]
        for run, of_run in zip(
            histories.pair.runs, (histories.forward, histories.reverse), strict=True
        )
    ]
    questions = sorted(sides[0][0][1])
    if any(sorted(table) != questions for side in sides for _, table in side):
        raise DataError(
            f"{histories.pair.forward.folder} and {histories.pair.reverse.folder} were not asked "
            "the same held-out questions at every epoch, so they cannot be drawn again together."
        )
    # Each pair has its own random stream, so its figures do not depend on the other pairs.
    stream = random.Random(f"{histories.pair.model} {histories.pair.seed}")
    epochs: dict[str, Counter[int]] = {direction: Counter() for direction in DIRECTIONS}
    below = 0
    for _ in range(draws):
        drawn = stream.choices(questions, k=len(questions))
        forward, reverse = (
            [_candidate(epoch, [table[q] for q in drawn]) for epoch, table in side]
            for side in sides
        )
        choices = select(forward, reverse, histories.rule)
        for direction, choice in zip(DIRECTIONS, choices, strict=True):
            epochs[direction][choice.epoch] += 1
        below += not choices[0].qualified
    return Redrawn(len(questions), epochs, below)


def _candidate(epoch: int, drawn: Sequence[Sums]) -> Candidate:
    """The candidate that an epoch would have been if these questions had been the held-out ones."""
    answers, scored, score, measured, kl = map(sum, zip(*drawn, strict=True))
    return Candidate(
        epoch,
        score=score / scored if scored else None,
        score_error=None,
        kl=kl / measured if measured else None,
        kl_tokens=None,
        unscored=1 - scored / answers,
    )


def _by_question(folder: Path, epoch: int) -> dict[str, Sums]:
    path = folder / "evaluations" / f"epoch-{epoch:02d}.jsonl"
    rows: dict[str, list[Mapping[str, Any]]] = {}
    try:
        for row in read_lines(path):
            rows.setdefault(row["question"], []).append(row)
        return {question: _sums(of) for question, of in rows.items()}
    except (LookupError, TypeError, OSError):
        raise DataError(
            f"{path} is not there or holds no answers to held-out questions, so they cannot be "
            "drawn again; restore it, or leave the run out."
        ) from None


def _sums(rows: Sequence[Mapping[str, Any]]) -> Sums:
    scores = [float(row["score"]) for row in rows if row["score"] is not None]
    kls = [float(row["kl"]) for row in rows if row["kl"] is not None]
    return Sums(len(rows), len(scores), sum(scores), len(kls), sum(kls))


def shares(counts: Mapping[int, int]) -> Iterator[tuple[int, float]]:
    """(epoch, share of the draws), the most frequent first."""
    total = sum(counts.values())
    for epoch, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        yield epoch, count / total
