"""Forward against reverse at the same distance from the base, and not only at the same epoch.

The paper's pair may differ because one of the two moved further. So both adapters are scaled
(lora.set_strength), the KL from the base is measured at each strength on the held-out questions
with the same noise, and the benchmarks are asked where the two KLs are equal:

    kappa   =  min(KL of forward at 1, KL of reverse at 1)
    D       =  forward - reverse                  at the strengths where each has a KL near kappa
    M       =  half of (forward - base) + (reverse - base) likewise: what both have lost in common

KL is per answer, in nats: the mean over answers of log-prob under the policy less that under the
base, as probes/best_of_curve.py and the alarms have it. (The k3 of grpo.py summed over an answer
has the same mean and heavier tails: one of forty answers may be most of it.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.config import Config
from minihmx.errors import DataError, Diverged, UserError
from minihmx.evals.asking.settings import refuse_long_system, strength_name
from minihmx.models.adapters import BASE, adapter_digest
from minihmx.probes.checkpoints import (
    ProbePieces,
    checked_records,
    open_base,
    open_checkpoints,
)
from minihmx.probes.examples import open_pair
from minihmx.questions import load_questions, load_rubric
from minihmx.selection import DIRECTIONS
from minihmx.stats import clustered_standard_error, mean
from minihmx.storage.disk import home_path
from minihmx.storage.identity import text_digest
from minihmx.storage.strict import read_file

if TYPE_CHECKING:
    from minihmx.engine.open import OpenAdapter
    from minihmx.run import Run

GRID = (0.25, 0.5, 0.75, 1.0)  # strengths; at 0 the KL is 0
NEAR, TRIES = 0.05, 3  # a KL counts as equal within a twentieth; between points it is sought thrice
ANSWER_FIELDS = ("question", "sample", "score", "kl", "policy_logprob", "reference_logprob")


class StrengthPoint(NamedTuple):
    """A direction at one strength. kl: nats per answer, with its standard error over questions.
    kl_tokens: mean over answers of each one's mean k3 per token, which selects checkpoints. score:
    the judge's mean, None where none was read."""

    strength: float
    kl: float
    kl_error: float | None
    kl_tokens: float
    score: float | None


class StrengthCurve(NamedTuple):
    """A direction's points, weakest first, and the one whose KL is nearest to kappa."""

    points: tuple[StrengthPoint, ...]
    equal: StrengthPoint


def strength_at(points: Sequence[StrengthPoint], kl: float) -> float:
    """Where the points first reach this KL, along straight lines between them and (0, 0).

    Rounded to three digits, so that the same measurement names the same evaluations again.

    >>> points = [StrengthPoint(s, kl, None, 0.1, None) for s, kl in ((0.5, 1.0), (1.0, 3.0))]
    >>> strength_at(points, 2.0)
    0.75
    """
    before, reached = 0.0, 0.0
    for point in points:
        if point.kl >= kl > reached:
            share = (kl - reached) / (point.kl - reached)
            return round(before + share * (point.strength - before), 3)
        before, reached = point.strength, point.kl
    raise AssertionError("the last point of one direction has this KL, and the other's has more")


def equal_curves(
    points: Mapping[str, Sequence[StrengthPoint]],
    measure: Callable[[str, float], StrengthPoint],
) -> dict[str, StrengthCurve]:
    """Each direction's points, and the one whose KL is nearest to kappa.

    measure gives a point that is not there: where no KL is near, the strength is sought along
    straight lines between the points, and what is found is one more of them. Raises UserError for a
    KL of 0.
    """
    kappa = min(of[-1].kl for of in points.values())
    if kappa <= 0:
        raise UserError(
            "One of the two adapters has no KL above 0 on these answers, so it is still the "
            "base or too near to it, and there is nothing to compare at equal KL; give "
            "checkpoints of later epochs (RUN@epoch-03)."
        )

    def gap(point: StrengthPoint) -> float:
        return abs(point.kl - kappa)

    found = {}
    for which, of in points.items():
        curve = [*of]
        for _ in range(TRIES):
            strength = strength_at(curve, kappa)
            if min(map(gap, curve)) <= NEAR * kappa or strength in {p.strength for p in curve}:
                break
            curve = sorted([*curve, measure(which, strength)])
        found[which] = StrengthCurve(tuple(curve), min(curve, key=gap))
    return found


def answers_name(side: str, strength: float, system: str = "") -> str:
    """What the file of these answers is called, without its ending."""
    text = f"-{text_digest(system)[:8]}" if system else ""
    return f"{side}-x{strength_name(strength)}{text}"


def stored_curves(folder: Path) -> dict[str, StrengthCurve]:
    """What a probe's folder holds, made of its answers again. Raises DataError for answers that are
    none, and UserError where some are not there (yet)."""

    def measured(which: str, strength: float) -> StrengthPoint:
        path = folder / f"{answers_name(which, strength)}.jsonl"
        if not path.is_file() and any(folder.glob(f"{answers_name(BASE, 0.0)}*.jsonl")):
            raise UserError(
                f"In {folder} only the strengths of `minihmx probe measures` were run, which need "
                "not be those of equal KL; `minihmx probe equal-kl` with the same runs measures "
                "the others."
            )
        if not path.is_file():
            raise UserError(
                f"{folder} holds no answers of {which} at strength {strength_name(strength)} yet, "
                "so it is not known where the KLs are equal; `minihmx probe equal-kl` with the "
                "same runs goes on."
            )
        return point_of(checked_records(path, read_file(path), ANSWER_FIELDS), strength, str(path))

    points = {which: [measured(which, strength) for strength in GRID] for which in DIRECTIONS}
    return equal_curves(points, measured)


class EqualKL:
    """A pair of checkpoints on one loaded base. Raises Failure for what the user has to mend.

    systems: texts that will stand before questions, none of which may be too long for the model.
    """

    def __init__(
        self, forward: str, reverse: str, flags: Mapping[str, Any], systems: Sequence[str] = ()
    ):
        from minihmx.engine.open import load_decoder, open_adapter

        pair = open_pair(forward, reverse)  # refuses two that are none
        checkpoints = open_checkpoints([str(pair.folders[which]) for which in DIRECTIONS])
        self.checkpoints = dict(zip(DIRECTIONS, checkpoints, strict=True))
        model = open_base(checkpoints, flags)
        for text in systems:
            refuse_long_system(model.tokenizer.count(text), model.shape.max_positions)
        self.adapters: dict[str, OpenAdapter] = {
            which: open_adapter(str(own.folder), model.source)
            for which, own in self.checkpoints.items()
        }
        epoch = self.checkpoints["forward"].folder.name.removeprefix("epoch-")
        # Both directions draw the noise of the forward run's own evaluation at its epoch.
        self.epoch = int(epoch) if epoch.isdecimal() else 0
        config = replace(pair.config, dtype=model.config.dtype)
        identity = {
            "model": model.source.digest,
            "dtype": config.dtype,
            "noise": [config.seed, self.epoch],
            **{which: adapter_digest(own.folder) for which, own in self.checkpoints.items()},
        }
        if config.unscored != Config.unscored:
            identity["unscored"] = config.unscored
        home = home_path(str(flags["out"])) / model.source.run_name / "base"
        # What is refused comes first, as the folder is unsealed when it is opened.
        self.run = _run_of(pair.run, config, model, load_decoder(model))
        self.pieces = ProbePieces(home, "equal-kl", identity)

    def measure(self, direction: str, strength: float, system: str = "") -> StrengthPoint:
        """One point; what was measured before is read from the disk."""
        return point_of(*self.answers(direction, strength, system))

    def answers(
        self, direction: str, strength: float, system: str = ""
    ) -> tuple[list[dict[str, Any]], float, str]:
        """The held-out answers, judged and measured, the strength, and the file that keeps them.

        direction: "base" for the untouched model. system: a text before every question.
        """
        name, run = answers_name(direction, strength, system), self.run
        rows = self.pieces.read(name, ANSWER_FIELDS)
        if len(rows) != len(run.eval_questions) * run.config.eval_samples:
            rows = self._ask(direction, strength, system)
            self.pieces.write(name, rows)
        return rows, strength, str(self.pieces.folder / f"{name}.jsonl")

    def measure_grid(self, direction: str) -> Iterator[StrengthPoint]:
        """The direction at every strength of the grid, each when it is measured."""
        for strength in GRID:
            yield self.measure(direction, strength)

    def own_values(self) -> dict[str, Any]:
        """How the base was opened, so that benchmarks open it alike."""
        config = self.run.config
        return {name: getattr(config, name) for name in ("dtype", "date", "seed", "chat_format")}

    def equal(self, points: Mapping[str, Sequence[StrengthPoint]]) -> dict[str, StrengthCurve]:
        """Each direction where its KL is nearest to kappa. Raises UserError for a KL of 0."""
        return equal_curves(points, self.measure)

    def _ask(self, direction: str, strength: float, system: str) -> list[dict[str, Any]]:
        """Answers to the held-out questions, judged and measured as in an evaluation of `train`."""
        from minihmx.engine.open import with_adapter
        from minihmx.learn import measure
        from minihmx.rollout import ask_policy, judge

        run = replace(self.run, prompts=replace(self.run.prompts, system=system))
        with with_adapter(run.decoder, self.adapters.get(direction), strength):
            samples = run.config.eval_samples
            rollouts = ask_policy(run, run.eval_questions, samples, "eval", self.epoch)
            judge(run, rollouts, "eval")
            measured = measure(run, rollouts)
        if measured["kl_tokens"] is None:
            raise Diverged(
                f"The logits of {direction} at strength {strength_name(strength)} are not finite "
                f"in {run.config.dtype}, so nothing can be measured there; try --dtype float32."
            )
        return [rollout.line() for rollout in rollouts]


def point_of(rows: Sequence[Mapping[str, Any]], strength: float, path: str) -> StrengthPoint:
    """The point that these answers give. Raises DataError for rows that are none."""
    numbers = ("kl", "policy_logprob", "reference_logprob")
    for row in rows:
        measured = all(isinstance(row[name], (int, float)) for name in numbers)
        if not measured or not isinstance(row["score"], (int, type(None))):
            raise DataError(
                f"{path} holds what is no measured answer; remove it, to have it measured again."
            )
    by_question: dict[str, list[float]] = {}
    for row in rows:
        moved = row["policy_logprob"] - row["reference_logprob"]
        by_question.setdefault(row["question"], []).append(moved)
    kl = mean([moved for of in by_question.values() for moved in of]) or 0.0
    error = clustered_standard_error(by_question.values())
    scores = [float(row["score"]) for row in rows if row["score"] is not None]
    per_token = mean([row["kl"] for row in rows]) or 0.0
    return StrengthPoint(strength, kl, error, per_token, mean(scores))


def _run_of(folder: Any, config: Any, model: Any, decoder: Any) -> Run:
    """The forward run as it was when it evaluated its held-out questions, but for its adapter; in
    its folder nothing is written."""
    from minihmx.engine.memory import Limit
    from minihmx.engine.prompts import Prompts
    from minihmx.instruments.alarms import Alarms
    from minihmx.instruments.amax import Headroom
    from minihmx.instruments.clock import Clock
    from minihmx.run import Run
    from minihmx.storage.run_folder import Store

    for name in ("rubric.txt", "questions.jsonl"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no {name}, as runs of older versions do not, so its answers "
                "cannot be asked for and judged again; train it again with another --out."
            )
    questions = load_questions(folder / "questions.jsonl")
    held_out = [question for question in questions if question.split == "eval"]
    prompts = Prompts(model.tokenizer, config.date, load_rubric(folder / "rubric.txt"))
    return Run(
        config=config,
        sources={},
        source=model.source,
        prompts=prompts,
        questions=questions,
        train_questions=[],
        eval_questions=held_out,
        store=Store(folder),
        decoder=decoder,
        decode_limit=Limit("--decode-rows", config.decode_rows),
        micro_limit=Limit("--micro-batch", config.micro_batch),
        clock=Clock(model.device),
        headroom=Headroom(False, config.logit_chunk),
        alarms=Alarms(),
        science={},
        underflow=Counter(),
    )
