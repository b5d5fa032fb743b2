"""What `minihmx probe on-policy` shows: how far the ways are apart, where, and why. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minihmx.results.layout import Table
from minihmx.terminal.text import number

_LIMITS = (
    "This cannot tell what another machine, another number of threads or other answers would give: "
    "other shapes may take other kernels."
)


def on_policy_tables(report: Mapping[str, Any]) -> list[Table]:
    """Three tables: the gaps, how they grow with the layers, and the suspects."""
    tables = [_gaps(report)]
    unequal = [pair for pair in report["pairs"] if pair["steps"][0]["first"]]
    if unequal:
        tables += [_layers(unequal), _suspects(report, unequal)]
    verdicts = [f"{_ways(pair)} ({pair['claim']}): {verdict_on(pair)}." for pair in report["pairs"]]
    kept = f"kept in {report['folder']}; once that is moved away, the same call measures anew"
    notes = *verdicts, *report["notices"], kept, _LIMITS
    tables.append(Table("What that says", notes=notes))
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
                number(found["largest"], ".1e"),
                number(found["mean"], ".1e"),
                number(found["ratio"], ".7f"),
                f"{number(low, '.6f')} to {number(high, '.6f')}",
                f"{number(least, '.5f')} to {number(most, '.5f')}",
            )
        )
    trained = report["adapter"] or "a fresh adapter"
    where = f"{report['dtype']} on {report['device']}, threads {report['threads']}"
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
        (_ways(pair), *("0" if (x := pair["layers"][n]) == 0 else number(x, ".0e") for n in shown))
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
                    number(step["largest"], ".1e"),
                )
            )
    notes = [f"Without {name}: {words}." for name, words in sorted(report["suspects"].items())]
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
        f"{known}a difference remains at {last['first']}, {number(last['largest'], '.1e')} nats at "
        "most, that no suspect explains; if that is more than rounding, the two compute different "
        "things"
    )
