"""What `minihmx probe` shows: tables, and in words what they allow to say. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minihmx.results.layout import Table, as_plain
from minihmx.terminal.text import ERROR, number

# What a checkpoint's place beside the curve means.
VERDICTS = {
    "under": "on or under the curve: other weights on the base's answers are enough",
    "on": "on the curve within two standard errors: other weights on the base's answers are enough",
    "above": "above the curve: best-of-N does less at this KL",
    "past the end": "not decided: above the last N at a KL that the curve does not reach",
    "too few": "not decided: too few questions or scores for a standard error",
}


def with_error(value: float | None, error: float | None, form: str = ".2f") -> str:
    """ "7.10 ± 0.24", "-" where there is no number."""
    return number(value, form) if value is None else f"{value:{form}} ± {number(error, form)}"


def best_of_lines(report: Mapping[str, Any]) -> str:
    """Two tables as text: the curve, and where each checkpoint stands beside it."""
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
            f"Coverage: on {report['coverage']:.0%} of the questions one of the base's "
            f"{report['samples']} answers reaches 7.5.",
            f"kept in {report['folder']}",
        ),
    )
    if not report["runs"]:
        return as_plain([curve]).rstrip("\n")
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
            *(f"{run['run']}: {VERDICTS[run['verdict']]}." for run in report["runs"]),
        ),
    )
    return as_plain([curve, runs]).rstrip("\n")
