"""The items on which evaluated models differ: what was asked, what each answered, the verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minihmx.evals.asking.results import Results, read_samples
from minihmx.evals.benchmark import Benchmark
from minihmx.terminal.text import printable

SHOWN_OF_EACH = 5  # of each benchmark in the terminal; a file has all
LONGEST_TEXT = 300  # characters of a text in the terminal


def differing_samples(
    finished: Sequence[tuple[Results, Mapping[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """A record for each sample whose headline values are not the same for all subjects.

    benchmark, id, sample, asked (the context or the turns), and by subject the answers and values;
    the benchmarks in the order in which they were asked, the samples in that of the first subject.
    """
    by_benchmark: dict[str, list[Results]] = {}
    for results, _ in finished:
        by_benchmark.setdefault(results.benchmark.name, []).append(results)
    for name, of in by_benchmark.items():
        benchmark = of[0].benchmark
        read = {
            results.subject.title: {(s["id"], s["sample"]): s for s in read_samples(results.folder)}
            for results in of
        }
        first, *others = read.values()
        for key, sample in first.items():
            both = {who: samples[key] for who, samples in read.items() if key in samples}
            values = [verdict(line["values"], benchmark) for line in both.values()]
            if others and len(both) == len(read) and any(v != values[0] for v in values):
                yield {
                    "benchmark": name,
                    "id": sample["id"],
                    "sample": sample["sample"],
                    "asked": sample.get("turns") or [sample["context"]],
                    "choices": sample.get("choices"),
                    "answers": {
                        who: line.get("replies") or line["loglikelihoods"]
                        for who, line in both.items()
                    },
                    "values": dict(zip(both, values, strict=True)),
                }


def verdict(values: Mapping[str, float], benchmark: Benchmark) -> dict[str, float]:
    """Those values of a sample that are the paper's metrics, or parts of them; none where it
    carries none, as a sample without a readable answer may."""
    parts = {part for names in benchmark.means.values() for part in names}
    whole = benchmark.headline
    return {n: v for n, v in values.items() if n.partition("/")[0] in whole or n in parts}


def difference_lines(records: Sequence[Mapping[str, Any]], kept: str) -> Iterator[str]:
    """The first few of each benchmark. kept: the file that holds all of them, or ""."""
    by_benchmark: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_benchmark.setdefault(record["benchmark"], []).append(record)
    yield ""
    if not records:
        yield "differences  none: every verdict is the same for all that was evaluated"
    for name, of in by_benchmark.items():
        left = len(of) - SHOWN_OF_EACH
        yield f"differences  {name}: {len(of)} samples" + (
            f", the first {SHOWN_OF_EACH} of them" if left > 0 else ""
        )
        for record in of[:SHOWN_OF_EACH]:
            yield f"  {record['id']}, sample {record['sample']}: {_short(record['asked'][-1])}"
            for who, answer in record["answers"].items():
                values = ", ".join(f"{n} {v:g}" for n, v in record["values"][who].items())
                yield f"    {who}: {_short(_said(record, answer))}  [{values or 'no verdict'}]"
    if records:
        yield f"  all of them are in {kept}" if kept else "  --differences FILE keeps all of them"


def _said(record: Mapping[str, Any], answer: Sequence[Any]) -> str:
    """The replies, or the choice with the highest log-likelihood."""
    if record["choices"] is None:
        return " / ".join(answer)
    best = max(range(len(answer)), key=lambda i: float(answer[i]))
    return f"{record['choices'][best]} ({answer[best]:.2f})"


def _short(text: str) -> str:
    """On one line; of a long text the two ends."""
    line = printable(" ".join(text.split()))
    half = LONGEST_TEXT // 2
    return line if len(line) <= LONGEST_TEXT else f"{line[:half]} [...] {line[-half:]}"
