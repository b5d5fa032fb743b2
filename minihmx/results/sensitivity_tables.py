"""What `compare --sensitivity` shows: other thresholds, other questions. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minihmx.results.conclusions import mean_and_std
from minihmx.results.layout import Table
from minihmx.results.runs import SeedPair
from minihmx.results.sensitivity import (
    DRAWS,
    Chosen,
    Histories,
    Redrawn,
    Stretch,
    bootstrap,
    histories_of,
    in_order,
    metric_title,
    shares,
    stretches,
)
from minihmx.selection import DIRECTIONS
from minihmx.terminal.text import number

_LIMITS = (
    "This cannot tell what other seeds, other questions than the held-out ones or other answers "
    "to them would have given: thresholds are tried, and questions drawn again, on the same "
    "answers. The rule itself stays the paper's; `minihmx select --threshold` applies another one."
)


class Sensitivity:
    """The pairs of every model with their stretches of thresholds and their redrawn choices."""

    def __init__(self, pairs: Sequence[SeedPair]):
        self.models: dict[str, list[Histories]] = {}
        for pair in pairs:
            self.models.setdefault(pair.model, []).append(histories_of(pair))
        self.stretches = {model: stretches(found) for model, found in self.models.items()}
        self.redrawn: dict[tuple[str, int], Redrawn] = {
            (model, histories.pair.seed): bootstrap(histories)
            for model, found in self.models.items()
            for histories in found
        }

    def tables(self) -> list[Table]:
        """In the order of reading."""
        return [self._thresholds(), *self._differences(), self._draws()]

    def records(self) -> dict[str, Any]:
        """The same as plain values, for --json."""
        return {
            "thresholds": [
                {
                    "model": model,
                    "seed": seed,
                    "from": stretch.low,
                    "to": stretch.high,
                    "forward": chosen.forward._asdict(),
                    "reverse": chosen.reverse._asdict(),
                    "qualified": chosen.choices[0].qualified,
                    "kl_gap": chosen.gap,
                }
                for model, stretch, seed, chosen in self._chosen()
            ],
            "differences": [
                {"model": model, "from": s.low, "to": s.high, "metric": key}
                | {"mean": cell.difference.mean, "std": cell.difference.std, "seeds": cell.seeds}
                for model, found in self.stretches.items()
                for s in found
                for key, cell in s.cells.items()
            ],
            "bootstrap": [
                {"model": model, "seed": seed, "draws": DRAWS, "questions": found.questions}
                | {"below_rule": found.below / DRAWS}
                | {d: {str(e): share for e, share in shares(found.epochs[d])} for d in DIRECTIONS}
                for (model, seed), found in self.redrawn.items()
            ],
        }

    def _chosen(self) -> Iterable[tuple[str, Stretch, int, Chosen]]:
        for model, found in self.stretches.items():
            for stretch in found:
                for seed, chosen in stretch.chosen.items():
                    yield model, stretch, seed, chosen

    def _thresholds(self) -> Table:
        rows = [
            (
                *(model, str(seed), _span(stretch)),
                *(f"{c.epoch}: {number(c.score, '.2f')}" for c in (chosen.forward, chosen.reverse)),
                *(number(c.kl, ".4f") for c in (chosen.forward, chosen.reverse)),
                number(chosen.gap, "+.4f"),
                "" if chosen.choices[0].qualified else "below the rule",
            )
            for model, stretch, seed, chosen in self._chosen()
        ]
        head = (
            *("model", "seed", "threshold", "forward epoch: score", "reverse epoch: score"),
            *("forward KL", "reverse KL", "KL gap", ""),
        )
        notes = ["KL gap: forward minus reverse, in nats per answer's mean token.", _LIMITS]
        return Table("Selection at other thresholds than 7.5", head, rows, notes, 3)

    def _differences(self) -> Iterable[Table]:
        for model, found in self.stretches.items():
            keys = in_order([key for stretch in found for key in stretch.cells])
            rows = [
                (
                    metric_title(key),
                    *(
                        mean_and_std(stretch.cells[key].difference, "+")
                        if key in stretch.cells
                        else "-"
                        for stretch in found
                    ),
                )
                for key in keys
            ]
            head = ("metric", *(_span(stretch) for stretch in found))
            yield Table(f"Differences at other thresholds: {model}", head, rows, _missing(found))

    def _draws(self) -> Table:
        rows = []
        for model, found in self.models.items():
            for histories in found:
                seed = histories.pair.seed
                redrawn = self.redrawn[model, seed]
                told = (
                    ", ".join(f"{e}: {share:.0%}" for e, share in shares(redrawn.epochs[d]))
                    for d in DIRECTIONS
                )
                rows.append((model, str(seed), *told, f"{redrawn.below / DRAWS:.0%}"))
        notes = [
            f"Each of {DRAWS:,} draws takes as many held-out questions as there are, with "
            "replacement and with all their answers, the same ones at every epoch and in both "
            "directions. Below the rule: no epoch's score exceeded the threshold in that draw."
        ]
        head = ("model", "seed", "forward epoch", "reverse epoch", "below the rule")
        return Table("How often each epoch would be chosen", head, rows, notes, 4)


def _span(stretch: Stretch) -> str:
    low, high = f"{stretch.low:.1f}", f"{stretch.high:.1f}"
    return low if low == high else f"{low} to {high}"


def _missing(found: Sequence[Stretch]) -> list[str]:
    """What a reader types to fill the columns in which no benchmark stands."""
    notes = [
        f"At {_span(stretch)} no benchmark was evaluated at the epochs that are chosen there; "
        f"`minihmx eval` with {' '.join(f'--adapter {name}' for name in stretch.missing)} does it."
        for stretch in found
        if stretch.missing
    ]
    return [*notes, "x ± s: mean and standard deviation over the seeds (n - 1)."]
