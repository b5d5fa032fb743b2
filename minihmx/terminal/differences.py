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
    """A record for each sample whose verdicts are not the same for all subjects.

    benchmark, id, sample, asked (the context or the turns), and by subject the answers, detail (as
    in samples.jsonl) and values; the benchmarks in the order in which they were asked, the samples
    in that of the first subject.
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
            told_apart = [comparable(each, benchmark) for each in values]
            if others and len(both) == len(read) and any(v != told_apart[0] for v in told_apart):
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
                    "detail": {who: line["detail"] for who, line in both.items()},
                    "values": dict(zip(both, values, strict=True)),
                }


def verdict(values: Mapping[str, float], benchmark: Benchmark) -> dict[str, float]:
    """Those values of a sample that are the paper's metrics, or parts of them; none where it
    carries none, as a sample without a readable answer may."""
    parts = {part for names in benchmark.means.values() for part in names}
    whole = benchmark.headline
    return {n: v for n, v in values.items() if n.partition("/")[0] in whole or n in parts}


def comparable(values: Mapping[str, float], benchmark: Benchmark) -> Mapping[str, float | bool]:
    """What has to be the same. Likelihoods never are for two models, so of what is made of them
    only the side of one half counts: a share of the true answers differs where it crosses that."""
    return values if benchmark.generates else {n: v >= 0.5 for n, v in values.items()}


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
            for who in record["answers"]:
                values = ", ".join(f"{n} {v:g}" for n, v in record["values"][who].items())
                yield f"    {who}: {_short(_said(record, who))}  [{values or 'no verdict'}]"
    if records:
        yield f"  all of them are in {kept}" if kept else "  --differences FILE keeps all of them"


def _said(record: Mapping[str, Any], who: str) -> str:
    """The replies, or the choice that was taken and its log-likelihood. Where that is the longer
    one (ToxiGen divides by its characters), the likeliest stands beside it."""
    answer, choices = record["answers"][who], record["choices"]
    if choices is None:
        return " / ".join(answer)
    by_choice = [f"{choice} ({value:.2f})" for choice, value in zip(choices, answer, strict=True)]
    likeliest = by_choice[answer.index(max(answer))]
    taken = record["detail"][who].get("pick_norm")
    said = by_choice[choices.index(taken)] if taken else likeliest
    return said if said == likeliest else f"{said} by length, {likeliest} without"


def _short(text: str) -> str:
    """On one line; of a long text the two ends."""
    line = printable(" ".join(text.split()))
    half = LONGEST_TEXT // 2
    return line if len(line) <= LONGEST_TEXT else f"{line[:half]} [...] {line[-half:]}"
