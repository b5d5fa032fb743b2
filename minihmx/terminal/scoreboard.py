"""The terminal of `minihmx eval`: what is asked, and each benchmark's numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from minihmx.engine import ranks
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.forecast import SHORT, forecast
from minihmx.evals.asking.results import Results
from minihmx.evals.asking.runner import Progress
from minihmx.evals.asking.session import Session, run_session
from minihmx.evals.asking.settings import measures_in
from minihmx.terminal.text import ERROR, duration, number


class Board:
    """Turns the progress of a session into lines, and keeps what is finished."""

    def __init__(self) -> None:
        self.results: Results | None = None
        self.finished: list[tuple[Results, Mapping[str, Any]]] = []

    def watch(self, session: Session) -> Iterator[str]:
        """The lines of the whole session."""
        yield from heading(session)
        for results, progress in run_session(session):
            yield from self.told_of(results, progress)
            if progress.result is not None:
                yield from table(progress.result)
                yield f"  kept in {results.folder}"
        yield from side_by_side(self.finished)

    def told_of(self, results: Results, progress: Progress) -> Iterator[str]:
        """What is asked, and what was noticed."""
        if results is not self.results:
            self.results = results
            yield from title(results, progress)
        yield from (f"  notice   {notice}" for notice in progress.notices)
        if progress.result is not None:
            self.finished.append((results, progress.result))


def as_json(session: Session, board: Board) -> Iterator[str]:
    """Each finished result.json with its folder, on one line; all else goes to stderr."""
    if session.doubt:
        print(f"notice: {session.doubt}", file=sys.stderr)
    for loaded in dict.fromkeys(loaded for loaded, _ in session.jobs):
        for notice in loaded.notices:
            print(f"notice: {notice}", file=sys.stderr)
    if session.whole_table:
        print(time_to_go(session), file=sys.stderr)
    for results, progress in run_session(session):
        for line in board.told_of(results, progress):
            print(line, file=sys.stderr)
        if progress.result is not None:
            yield json.dumps({"folder": str(results.folder), **progress.result}, sort_keys=True)


def heading(session: Session) -> Iterator[str]:
    """The model, and everything that goes on it."""
    decoder, source = session.machine.decoder, session.source
    dtype = str(decoder.dtype).removeprefix("torch.")
    split = f", in {ranks.world()} processes that share the items" if ranks.world() > 1 else ""
    yield f"model      {source.id} ({decoder.device}, {dtype}), loaded once{split}"
    if session.doubt:
        yield f"notice     {session.doubt}"
    for loaded in dict.fromkeys(loaded for loaded, _ in session.jobs):
        where = loaded.adapter.adapter.folder if loaded.adapter else "no adapter"
        yield f"evaluated  {loaded.subject.title}: {where}"
        yield from (f"  notice   {notice}" for notice in loaded.notices)
    yield f"           {ERROR}, what is about one question going together"
    if session.whole_table:
        yield time_to_go(session)


def time_to_go(session: Session) -> str:
    """The line that says, before hours are spent, how many."""
    least, most = forecast(session.machine, [results for _, results in session.jobs])
    return (
        f"time       about {duration(least)} with replies of {SHORT} tokens, {duration(most)} if "
        "every reply runs into its cap; what is there already is not counted nor asked again"
    )


def title(results: Results, progress: Progress) -> Iterator[str]:
    """What is asked, and everything about how that changes its numbers."""
    settings, data, benchmark = results.settings, results.dataset, results.benchmark
    n = len(results.items)
    how = [f"{n} items from {data.origin}", f"chat {'on' if settings.chat else 'off'}"]
    if benchmark.few_shot != "none":
        how.append(benchmark.few_shot)
    if benchmark.generates:
        sampled = f"temperature {settings.temperature:g}, {settings.samples} samples"
        how.append(f"{sampled}, seed {settings.seed}" if settings.temperature else "greedy")
    for name, value in settings.switches.items():
        if value != benchmark.switches[name][0]:
            how.append(f"{name} {value}")
    how += measures_in(asdict(settings))
    yield ""
    yield f"{benchmark.title}, {results.subject.title}: {', '.join(how)}"
    if data.note:
        yield f"  notice   {data.note}"
    if progress.done:
        yield f"  {progress.done} of {progress.total} samples are there already"


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """One line a metric: value, standard error, and over how many samples. * is the paper's."""
    yield from (f"  {mark}" for mark in marks(result))
    metrics, headline = result["metrics"], result["headline"]
    beside = BENCHMARKS[result["benchmark"]].beside if result["benchmark"] in BENCHMARKS else ()
    names = _ordered({*metrics, *(headline if beside else ())}, headline, beside)
    width = max([36, *map(len, names)])
    for name in names:
        # A rate that no sample carries is shown too, as its companions say why.
        m = metrics.get(name, {"value": None, "stderr": None, "n": 0})
        value, error = number(m["value"], ".4f"), number(m["stderr"], ".4f")
        mark = "*" if name in headline else " "
        yield f"  {mark} {name:<{width}} {value} ± {error}  n {m['n']}"
    for name in headline:
        if m := metrics.get(f"{name}/differs"):
            differ = f"{round(m['value'] * m['n'])} of {m['n']}"
            yield f"  the literal and the careful reading differ in {name} on {differ} samples"
    if result["unparsed"]:
        yield f"  {result['unparsed']} of {result['samples']} samples hold no answer to be read"
    if result["cut"]:
        yield f"  {result['cut']} samples have a reply that ran into its cap of tokens"


def _ordered(names: Iterable[str], headline: Sequence[str], beside: Sequence[str]) -> list[str]:
    """The headline and what goes beside it first, and so again for each part of the items."""
    known = [*headline, *beside]

    def key(name: str) -> tuple[bool, str, int, str]:
        whole = [k for k in known if f"{name}/".startswith(f"{k}/")]
        if name in known or (beside and whole):
            longest = max(whole, key=len)
            part = name[len(longest) + 1 :]
            return bool(part), part, known.index(longest), name
        part = name.partition("/")[2]
        return "/" in name, part if beside else "", len(known), name

    return sorted(names, key=key)


def marks(result: Mapping[str, Any]) -> list[str]:
    """What keeps the numbers from being the published benchmark's."""
    found = []
    if result["data"]["origin"] == "sample":
        found.append("a few items of our own: not the benchmark")
    if result["data"]["partial"]:
        found.append(f"partial {result['data']['partial']}: not the whole benchmark")
    if result["truncated"]:
        lost = "longer than the context, so the model did not see their first tokens"
        found.append(f"{result['truncated']} prompts cut: {lost}")
    return found


def side_by_side(finished: Sequence[tuple[Results, Mapping[str, Any]]]) -> Iterator[str]:
    """The paper's metrics of all that was evaluated, a column each."""
    subjects = list(dict.fromkeys(results.subject.title for results, _ in finished))
    if len(subjects) < 2:
        return
    rows: dict[str, dict[str, str]] = {}
    for results, result in finished:
        metrics, others = result["metrics"], results.benchmark.beside
        for name in [*result["headline"], *others]:
            row = rows.setdefault(f"{result['benchmark']} {name}", {})
            if name in metrics:
                # Rates over different samples may not be compared without their denominators.
                of = f" of {metrics[name]['n']}" if others else ""
                row[results.subject.title] = f"{metrics[name]['value']:.4f}{of}"
    rows = {name: row for name, row in rows.items() if row}
    width = max(map(len, rows), default=0) + 2
    cells = [value for row in rows.values() for value in row.values()]
    widths = {s: max(len(s), *map(len, cells)) + 2 for s in subjects}
    yield ""
    yield " " * width + "".join(f"{s:>{widths[s]}}" for s in subjects)
    for name, row in rows.items():
        yield f"{name:<{width}}" + "".join(f"{row.get(s, '-'):>{widths[s]}}" for s in subjects)
