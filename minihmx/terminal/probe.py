"""What `minihmx probe` shows: tables, and in words what they allow to say. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minihmx.results.layout import Table
from minihmx.stats import mean, std_unbiased
from minihmx.terminal.text import ERROR, number

# What a checkpoint's place beside the curve means; probes/best_of_curve.py decides it.
STANDINGS = {
    "under": "on or under the curve: other weights on the base's answers are enough",
    "on": "on the curve within two standard errors: other weights on the base's answers are enough",
    "above": "above the curve: best-of-N does less at this KL",
    "past the end": "not decided: above the last N at a KL that the curve does not reach",
    "too few": "not decided: too few questions or scores for a standard error",
}
_CURVE_LIMITS = (
    "This cannot tell whether training only gave the base's answers other weights: that this would "
    "be enough for a score does not show that it was done. One judge scores both sides, so what "
    "fools it counts on both."
)
_INSIDE_LIMITS = (
    "This cannot tell whether a model feels anything: what can be read from a stream need not be "
    "used by the model. A gate that is not passed speaks about vectors made in this way alone."
)


def with_error(value: float | None, error: float | None, form: str = ".2f") -> str:
    """ "7.10 ± 0.24", "-" where there is no number."""
    return number(value, form) if value is None else f"{value:{form}} ± {number(error, form)}"


_LEFT_OUT = (
    "To leave out answers without a score is a choice too, which the bound does not count: where "
    "they are many and N is small, its KL may be the larger one."
)


def best_of_tables(report: Mapping[str, Any]) -> list[Table]:
    """The curve, and where each checkpoint stands beside it."""
    rows = [
        (
            str(best["n"]),
            number(best["bound"], ".2f"),
            with_error(best["score"], best["error"]),
            number(best["kl"], ".2f"),
            with_error(worst["score"], worst["error"]),
            number(worst["kl"], ".2f"),
        )
        for best, worst in zip(report["best"], report["worst"], strict=True)
    ]
    many, last = len(report["questions"]), report["best"][-1]["n"]
    curve = Table(
        f"Best and worst of N answers of {report['model']['id']}, score of 0 to 10",
        ("N", "KL at most", "best of N", "its KL", "worst of N", "its KL"),
        rows,
        (
            f"{many} held-out questions with {report['samples']} answers each, "
            f"{report['unscored']:.1%} of them without a score; {ERROR}, over questions.",
            "KL in nats per answer: at most log N − (N − 1)/N. Its KL is less, since many answers "
            "have the same score, and is an estimate from these answers.",
            *([_LEFT_OUT] if report["unscored"] else []),
            f"Coverage: on {report['coverage']:.0%} of the questions one of the base's "
            f"{report['samples']} answers reaches 7.5.",
            *report.get("notices", ()),
            f"kept in {report['folder']}",
            _CURVE_LIMITS,
        ),
    )
    if not report["runs"]:
        return [curve]
    runs = Table(
        "Trained, at its own KL",
        ("checkpoint", "KL", "score", "beyond the curve"),
        [
            (
                run["run"],
                with_error(run["kl"], run["kl_error"]),
                with_error(run["score"], run["score_error"]),
                with_error(run["difference"], run["difference_error"]),
            )
            for run in report["runs"]
        ],
        (
            "Beyond the curve: the score less best-of-N's at the same KL, in reverse worst-of-N's "
            f"less the score; at a KL above {report['best'][-1]['bound']:.2f}, that of N = {last}.",
            *(f"{run['run']}: {STANDINGS[run['verdict']]}." for run in report["runs"]),
        ),
    )
    return [curve, runs]


def emotion_tables(report: Mapping[str, Any]) -> list[Table]:
    """The texts, the layers, the gate; then the measures of each run, or why there are none."""
    tables = [_texts(report)]
    if "layer" in report:
        tables += [_layers(report), _gate(report)]
    verdict = f"vectors usable: {report['why']}."
    if not report["usable"]:
        verdict = f"no usable vectors: {report['why']}; nothing further is measured."
    tables.append(Table(verdict, notes=(f"kept in {report['folder']}", _INSIDE_LIMITS)))
    if report["usable"]:
        tables += _shifts(report)
    if "steering" in report:
        tables += [_steering(report["steering"]), _removal(report["removal"])]
    return tables


def _texts(report: Mapping[str, Any]) -> Table:
    fates = ("kept", "named", "short")
    rows = [
        (emotion, *(str(counts.get(fate, 0)) for fate in fates))
        for emotion, counts in report["texts"].items()
    ]
    return Table(
        f"Texts that {report['model']['id']} wrote, {report['counts']['stories']} topics",
        ("about", "kept", "dropped: named it", "dropped: too short"),
        rows,
        ("A text that is dropped is tried again, three times in all.",),
    )


def _layers(report: Mapping[str, Any]) -> Table:
    rows = [
        (f"{layer}{' *' if layer == report['layer'] else ''}", f"{accuracy:.1%}", str(components))
        for layer, accuracy, components in zip(
            report["layers"],
            report["held_out_accuracy"],
            report["neutral_components"],
            strict=True,
        )
    ]
    return Table(
        "Which emotion is a story about? Topics that no vector was made from",
        ("layer", "right", "neutral components out"),
        rows,
        (
            f"* is taken. Chance is {report['chance']:.1%}; made from {report['fitted_on']} "
            f"stories, tested on {report['tested_on']}.",
            f"p = {report['p_accuracy']:.3f} that labels shuffled within topics do as well at any "
            f"of these layers ({report['counts']['draws']} shuffles).",
        ),
    )


def _gate(report: Mapping[str, Any]) -> Table:
    rows = [
        (emotion, "yes" if emotion in first else "no", ", ".join(first))
        for emotion, first in report["gate"]["first"].items()
    ]
    return Table(
        f"What messages imply and do not name, read at layer {report['layer']}",
        ("implied", "among them", "first three"),
        rows,
        labels=3,
    )


def _shifts(report: Mapping[str, Any]) -> list[Table]:
    if not report["runs"]:
        return []
    rows = [
        (
            run["run"],
            kind,
            f"{own['length']:.1%}",
            f"{own['share']:.1%}",
            f"{own['random_mean']:.1%}",
            f"{own['p_random']:.3f}",
            f"{own['p_random_layers']:.3f}",
            f"{own['p_shuffled']:.3f}",
            f"{own['neutral_share']:.1%}",
            *(f"{own['cosines'].get(axis, math.nan):+.2f}" for axis in report["axes"]),
        )
        for run in report["runs"]
        for kind in ("questions", "facts")
        for own in (run[kind],)
    ]
    axes = tuple(f"cos {axis}" for axis in report["axes"])
    shift = Table(
        f"Shift of the residual stream at a prompt's last token, layer {report['layer']}",
        (
            *("run", "prompts", "length", "in emotion space", "by chance", "p", "p layers"),
            *("p shuffled", "in neutral", *axes),
        ),
        rows,
        (
            "Length: against the base's residual. By chance: spaces of the same dimension with the "
            "covariance of the base's activations; p layers: as if the layer were picked for it; "
            "shuffled: vectors made with labels shuffled within topics.",
            *(
                f"seed {pair['seed']}: cosine between forward and reverse "
                f"{pair['questions']:+.2f} on questions, {pair['facts']:+.2f} on facts."
                for pair in report["pairs"]
            ),
            f"Axis of scores: {report['scores_axis']}.",
            _seeds(report["runs"]),
        ),
        labels=2,
    )
    return [shift, _decomposition(report["runs"])]


def _decomposition(runs: Sequence[Mapping[str, Any]]) -> Table:
    parts = ("total", "wording", "weights")
    return Table(
        "A trained model's answers against the base's, along each emotion",
        ("emotion", *(f"{run['run']} {part}" for run in runs for part in parts)),
        [
            (
                emotion,
                *(f"{run['decomposition'][emotion][part]:+.2f}" for run in runs for part in parts),
            )
            for emotion in runs[0]["decomposition"]
        ],
        (
            "In standard deviations of the base's stories. Total = wording (what the base reads in "
            "these words) + weights (what the trained model reads further in the same words).",
        ),
    )


def _seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """What the seeds allow to say: the unit that could have come out otherwise is a run."""
    parts = []
    for direction in dict.fromkeys(run["direction"] for run in runs):
        shares = [run["questions"]["share"] for run in runs if run["direction"] == direction]
        spread = std_unbiased(shares)
        parts.append(
            f"{direction} {mean(shares):.1%}, one seed, so nothing is known of other seeds"
            if spread is None
            else f"{direction} {mean(shares):.1%}, std {spread:.1%} over {len(shares)} seeds"
        )
    return f"Share on questions: {'; '.join(parts)}."


def _steering(found: Mapping[str, Any]) -> Table:
    """Effects at one KL, the largest first."""
    if found["kl"] is None:
        return Table(
            "Steering: no strength gave scores without doubling the perplexity, so nothing is read"
        )
    rows = [
        (f"{'+' if own['sign'] > 0 else '-'} {own['name']}", f"{own['effect']:+.2f}", p)
        for own in sorted(found["effects"], key=lambda own: -abs(own["effect"]))
        for p in (number(own["p"], ".3f"),)
    ]
    return Table(
        f"The base steered: its score less {number(found['base']['score'], '.2f')}, at "
        f"{found['kl']:.2f} nats per answer",
        ("vector", "effect", "p"),
        rows,
        (
            f"p: how often a random direction moves it as far (largest "
            f"{number(found['random_largest'], '.2f')}). {found['dropped']} of "
            f"{len(found['tried'])} curves are left out, whose every strength doubled the "
            "perplexity of neutral texts.",
        ),
    )


def _removal(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (run["run"], what, number(own["score"], ".2f"), number(own["kl"], ".2f"))
        for run in found
        for what, own in (
            ("as it is", run["whole"]),
            ("without the emotion space", run["without"]),
            *((f"without random space {n}", own) for n, own in enumerate(run["random"], start=1)),
        )
    ]
    return Table("A trained model without a space", ("run", "", "score", "KL"), rows, labels=2)
