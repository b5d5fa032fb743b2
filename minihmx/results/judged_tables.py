"""What `judge` shows: agreement, effect, onset, and what the rubric's words decide. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from minihmx.probes.examples import SIDES
from minihmx.probes.rubrics import SAME_RUBRIC
from minihmx.results.agreement import (
    LEAST_ANSWERS,
    LEAST_QUESTIONS,
    Both,
    Effect,
    Mean,
    krippendorff_alpha,
    quadratic_kappa,
    rank_within_questions,
    too_few,
    within_one,
)
from minihmx.results.judged import (
    JudgePanel,
    Scored,
    ahead_sentence,
    judge_panels,
    leads_of,
    paired_scores,
)
from minihmx.results.layout import Table
from minihmx.results.runs import TrainedRun
from minihmx.stats import mean, std_unbiased
from minihmx.terminal.text import number

_FEW = "too few"
_LIMITS = (
    "This cannot tell which judge is right: two judges may share a fault, and a judge that agrees "
    "with no other may still see more. It is about these answers to these questions; models that "
    "were trained alike agree more than people would."
)


def agreement_of(pairs: Sequence[Both]) -> dict[str, Any]:
    """Every figure of agreement on these answers; None where it is undefined or they are few."""
    few = too_few(pairs)
    rho, questions = (None, 0) if few else rank_within_questions(pairs)
    return {
        "scored_by_both": len(pairs),
        "alpha": None if few else krippendorff_alpha(pairs),
        "kappa": None if few else quadratic_kappa(pairs),
        "spearman": rho,
        "ranked_questions": questions,
        "within_one": None if few else within_one(pairs),
        "own_mean": mean([pair.own for pair in pairs]),
        "other_mean": mean([pair.other for pair in pairs]),
        "why": few,
    }


class JudgedReport:
    """Tables and records of every other judge's verdicts on some runs.

    notes: what was left out, and why.
    """

    def __init__(self, runs: Sequence[TrainedRun]):
        self.notes: list[str] = []
        self.panels: list[JudgePanel] = judge_panels(runs, self.notes)

    def tables(self) -> list[Table]:
        """In the order of reading; none where nothing was judged."""
        same = [panel for panel in self.panels if panel.judge.rubric == SAME_RUBRIC]
        other = [panel for panel in self.panels if panel.judge.rubric != SAME_RUBRIC]
        foreign = [panel for panel in same if not panel.judge.own_model]
        made = ((_agreement, same), (_effects, foreign), (_onsets, foreign), (_rubrics, other))
        return [table(found) for table, found in made if found]

    def alarms(self) -> list[str]:
        """A sentence for each run whose reward runs ahead of another judge."""
        return [
            f"{verdicts.run.title}: {sentence}"
            for panel in self.panels
            for verdicts, found in leads_of(panel)
            if (sentence := ahead_sentence(verdicts, found))
        ]

    def records(self) -> dict[str, Any]:
        """The same as plain values, for --json."""
        return {
            "judges": [_record(panel) for panel in self.panels],
            "alarms": self.alarms(),
            "notes": self.notes,
        }


def _record(panel: JudgePanel) -> dict[str, Any]:
    runs = []
    for verdicts in panel.verdicts:
        found, onset = verdicts.effect, verdicts.onset
        runs.append(
            {
                "run": str(verdicts.run.folder),
                "direction": verdicts.run.direction,
                "seed": verdicts.run.seed,
                "epoch": verdicts.compared,
                "effect": None if isinstance(found, str) else _effect_record(found),
                "effect_why": found if isinstance(found, str) else "",
                "leads": {str(epoch): lead for epoch, lead in onset.leads.items()},
                "rises": {str(epoch): rise._asdict() for epoch, rise in onset.rises.items()},
                "onset": onset.first,
                "onset_why": onset.why,
            }
        )
    agreement = {side: _side(panel, side) for side in ("all", *SIDES)}
    return {
        "model": panel.model,
        "judge": panel.judge.model,
        "folder": panel.judge.name,
        "rubric": panel.judge.rubric,
        "inverted": panel.judge.inverted,
        "own_model": panel.judge.own_model,
        "agreement": agreement,
        "runs": runs,
    }


def _effect_record(found: Effect) -> dict[str, Any]:
    return {
        name: None if value is None else value._asdict() for name, value in found._asdict().items()
    }


def _side(panel: JudgePanel, side: str) -> dict[str, Any]:
    answers: list[Scored] = panel.side(side)
    unscored = sum(a.other is None for a in answers)
    return {"answers": len(answers), "unscored": unscored, **agreement_of(paired_scores(answers))}


# --- tables ---------------------------------------------------------------------------------------


def _agreement(found: Sequence[JudgePanel]) -> Table:
    rows = []
    for panel in found:
        for side in ("all", *SIDES):
            a = _side(panel, side)
            if a["answers"]:
                counts = str(a["answers"]), str(a["scored_by_both"])
                figures = _figures(a, "within_one", "alpha", "kappa", "spearman")
                rows.append((panel.model, panel.judge.title, side, *counts, *figures))
    head = (
        *("model", "judge", "answers of", "answers", "both scored", "own mean", "its mean"),
        *("within 1", "alpha", "kappa", "rank"),
    )
    notes = [
        "Own: the score that was the reward. Within 1: share of answers on which both differ by 1 "
        "at most. Alpha: Krippendorff's, for intervals; kappa: Cohen's with squared weights; both "
        "are 1 for equal scores and 0 for chance. Rank: Spearman's correlation within a question, "
        "mean over questions. '-': undefined, as where a judge gives one score alone.",
        f"'{_FEW}': fewer than {LEAST_ANSWERS} answers to {LEAST_QUESTIONS} questions that both "
        "scored.",
        _LIMITS,
    ]
    return Table("How far another judge agrees", head, rows, notes, 3)


def _figures(a: dict[str, Any], *names: str) -> Iterator[str]:
    """Both judges' means, and these figures of their agreement."""
    yield from (number(a[name], ".2f") for name in ("own_mean", "other_mean"))
    for name in names:
        yield _FEW if a["why"] else number(a[name], ".0%" if name == "within_one" else ".2f")


def _effects(found: Sequence[JudgePanel]) -> Table:
    rows, why = list[tuple[str, ...]](), dict[str, None]()
    for panel in found:
        for direction in SIDES[1:]:
            made: dict[int, Effect] = {}
            named_twice = False
            names = panel.model, panel.judge.title
            for verdicts in panel.verdicts:
                if verdicts.run.direction != direction or not verdicts.compared:
                    continue
                effect, seed = verdicts.effect, verdicts.run.seed
                where = (direction, str(seed), str(verdicts.compared))
                if isinstance(effect, str):
                    rows.append((*names, *where, *[_FEW] * 4))
                    why[f"{verdicts.run.title}, {panel.judge.title}: {effect}."] = None
                else:
                    named_twice |= seed in made
                    made[seed] = effect
                    rows.append((*names, *where, *_effect_cells(effect)))
            if len(made) > 1 and not named_twice:  # else a seed would count twice
                rows.append((*names, direction, "all", "", *_over_seeds([*made.values()])))
    head = (
        *("model", "judge", "direction", "seed", "epoch", "own effect", "its effect"),
        *("ratio", "self-preference"),
    )
    notes = [
        "Effect: mean score of the compared epoch's answers less that of epoch 0's, question by "
        "question. Ratio: its effect over the own one, left out where the own one is within two "
        "standard errors of 0. Self-preference: own minus its score on the trained answers, less "
        "the same on the base's. ± is a standard error over questions; in a row of all seeds it is "
        "the standard deviation over them (n - 1). There is none where a seed is named at two "
        "epochs.",
        *why,
    ]
    return Table("What training did, by either judge", head, rows, notes, 3)


def _effect_cells(found: Effect) -> tuple[str, ...]:
    return (_told(found.own), _told(found.other), _told(found.ratio, ""), _told(found.preference))


def _told(value: Mean | None, sign: str = "+") -> str:
    return "-" if value is None else f"{value.value:{sign}.2f} ± {value.error:.2f}"


def _over_seeds(made: Sequence[Effect]) -> Iterator[str]:
    for name, sign in (("own", "+"), ("other", "+"), ("ratio", ""), ("preference", "+")):
        values = [v.value for effect in made if (v := getattr(effect, name)) is not None]
        centre, std = mean(values), std_unbiased(values)
        yield "-" if centre is None or std is None else f"{centre:{sign}.2f} ± {std:.2f}"


def _onsets(found: Sequence[JudgePanel]) -> Table:
    rows, why = list[tuple[str, ...]](), dict[str, None]()
    for panel in found:
        for verdicts, onset in leads_of(panel):
            leads = ", ".join(f"{epoch}: {lead:+.2f}" for epoch, lead in onset.leads.items())
            first = "none" if onset.first is None else f"epoch {onset.first}"
            if onset.why:
                first = _FEW if _FEW in onset.why else "-"
                why[f"{verdicts.run.title}, {panel.judge.title}: {onset.why}."] = None
            run = verdicts.run
            names = panel.model, panel.judge.title, run.direction, str(run.seed)
            rows.append((*names, leads or "-", first))
    head = ("model", "judge", "direction", "seed", "lead by epoch", "onset")
    notes = [
        "Lead: own minus its score, in a reverse run its minus own, since the reward is negated "
        "there. Onset: the first epoch at which the lead exceeds that of epoch 0 by two standard "
        "errors of the rise over questions. With ten questions chance alone exceeds that at one "
        "epoch in 26, so that one of many epochs may be called too early.",
        *why,
    ]
    return Table("When the reward runs ahead of another judge", head, rows, notes, 5)


def _rubrics(found: Sequence[JudgePanel]) -> Table:
    rows, inverted = list[tuple[str, ...]](), False
    for panel in found:
        a, judge = _side(panel, "all"), panel.judge
        inverted |= judge.inverted
        rubric = f"{judge.rubric} (inverted)" if judge.inverted else judge.rubric
        counts = str(a["answers"]), str(a["answers"] - a["unscored"])
        figures = _figures(a, "within_one", "spearman", "alpha")
        rows.append((panel.model, judge.model, rubric, *counts, *figures))
    head = (
        *("model", "judge", "rubric", "answers", "scored", "first mean", "mean"),
        *("within 1", "rank", "alpha"),
    )
    notes = [
        "Held against the first verdicts, those that were the reward, on the answers of base, "
        "forward and reverse together; the columns are those of the first table.",
        *["Inverted: it asks for the opposite, so 10 minus its score is taken."] * inverted,
        "This cannot tell which rubric measures what it should, only how much the words decide.",
    ]
    return Table("The same answers by other rubrics", head, rows, notes, 3)
