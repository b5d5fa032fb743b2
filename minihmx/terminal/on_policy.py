"""What `minihmx probe on-policy` shows: how far the ways are apart, where, and why. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minihmx.results.layout import Table

_LIMITS = (
    "This is of one machine, these few answers and this number of threads; other shapes may take "
    "other kernels."
)


def on_policy_tables(report: Mapping[str, Any]) -> list[Table]:
    """Three tables: the gaps, how they grow with the layers, and the suspects."""
    tables = [_gaps(report)]
    unequal = [pair for pair in report["pairs"] if pair["steps"][0]["first"]]
    if unequal:
        tables += [_layers(unequal), _suspects(report, unequal)]
    verdicts = [f"{_ways(pair)} ({pair['claim']}): {verdict_on(pair)}." for pair in report["pairs"]]
    tables.append(Table("What that says", notes=(*verdicts, *report["notices"], _LIMITS)))
    return tables


def _ways(pair: Mapping[str, Any]) -> str:
    return f"{pair['one']} : {pair['other']}"


def _gaps(report: Mapping[str, Any]) -> Table:
    rows = []
    for pair in report["pairs"]:
        found = pair["steps"][0]
        low, high = found["weights"]
        least, most = found["answer_weights"]
        rows.append(
            (
                _ways(pair),
                f"{found['equal_tokens']}/{report['tokens']}",
                f"{found['largest']:.1e}",
                f"{found['mean']:.1e}",
                f"{found['ratio']:.7f}",
                f"{low:.6f} to {high:.6f}",
                f"{least:.5f} to {most:.5f}",
            )
        )
    trained = report["adapter"] or "a fresh adapter"
    where = f"{report['dtype']} on {report['device']}, {report['threads']} threads"
    return Table(
        f"Log-probs of {report['tokens']} sampled tokens of {report['model']['id']} ({where})",
        ("ways", "equal", "largest gap", "mean", "mean ratio", "token's weights", "answer's"),
        rows,
        (
            f"With {trained}: {report['answers']} answers at temperature "
            f"{report['temperature']:g}. Gaps in nats, one way less the other; ratio and weights "
            "are exp of that, of an answer the product over its tokens.",
            f"Decoding the same tokens again gives {report['replayed']:.0%} of the sampler's own "
            "log-probs to the bit.",
        ),
    )


def _layers(pairs: list[Mapping[str, Any]]) -> Table:
    last = len(pairs[0]["layers"]) - 1
    shown = sorted({0, 1, *(round(last * part / 4) for part in (1, 2, 3, 4))})
    rows = [
        (_ways(pair), *("0" if not (x := pair["layers"][n]) else f"{x:.0e}" for n in shown))
        for pair in pairs
    ]
    notes = ("The largest difference of a value, over the root mean square of its token's stream.",)
    head = ("ways", *("embedding" if n == 0 else f"layer {n}" for n in shown))
    return Table("How the residual streams part", head, rows, notes)


def _suspects(report: Mapping[str, Any], pairs: list[Mapping[str, Any]]) -> Table:
    rows = []
    for pair in pairs:
        for step in pair["steps"]:
            rows.append(
                (
                    "" if step["off"] else _ways(pair),
                    f"without {step['off']}" if step["off"] else "as they are",
                    step["first"] or "equal to the bit",
                    str(step["differing"]),
                    f"{step['largest']:.1e}",
                )
            )
    notes = [f"Without {name}: {words}." for name, words in report["suspects"].items()]
    head = ("ways", "each line without one more", "first differs at", "of tokens", "largest gap")
    return Table("The first stage that differs, and why", head, rows, notes, 3)


def verdict_on(pair: Mapping[str, Any]) -> str:
    """A pair in words."""
    if pair["steps"][0]["first"] is None:
        return "equal to the bit"
    causes = "; ".join(
        f"{cause['stage']} by {' and '.join(cause['suspects'])}" for cause in pair["causes"]
    )
    if pair["equal"]:
        return f"rounding alone: {causes}"
    last = pair["steps"][-1]
    known = f"after what is known ({causes}) " if causes else ""
    return (
        f"{known}a difference remains at {last['first']}, {last['largest']:.1e} nats at most, that "
        "no suspect explains; if that is more than rounding, the two compute different things"
    )
