"""The verb `data`: fetch, name and check the items of the benchmarks.

Each action yields lines to print, and a Failure for whatever is wrong with one benchmark, which
does not keep the others from their turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from minihmx.errors import DataError, Failure, UserError, as_failure
from minihmx.evals import BENCHMARKS, named
from minihmx.evals.benchmark import Published
from minihmx.evals.items import load as items
from minihmx.storage.disk import dumps
from minihmx.terminal.text import show

Told = str | Failure


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which benchmarks' items."""
    parser.add_argument(
        "action",
        choices=("get", "list", "check"),
        help="fetch from the hub, name every source, or read and count what is there",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (all)")
    no_default = argparse.SUPPRESS  # an action refuses what belongs to another
    parser.add_argument(
        "--data", default=no_default, metavar="hub|sample|DIR", help="check: where to look (hub)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        default=no_default,
        help="get: fetch what is there already",
    )
    parser.add_argument(
        "--json", action="store_true", default=no_default, help="list, check: JSON instead of text"
    )


def run(options: argparse.Namespace) -> int:
    """Print a line for each benchmark; the exit code is the worst of theirs."""
    given, names = vars(options), options.names
    for flag, actions in {"data": ["check"], "force": ["get"], "json": ["list", "check"]}.items():
        if flag in given and options.action not in actions:
            raise UserError(f"--{flag} belongs to `minihmx data {' and '.join(actions)}`.")
    if options.action == "get":
        outcomes = get(names, "force" in given)
    elif options.action == "list":
        outcomes = listing(names, "json" in given)
    else:
        outcomes = check_items(names, given.get("data", "hub"), "json" in given)
    worst = 0
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            print(f"minihmx: {outcome}", file=sys.stderr, flush=True)
            worst = max(worst, outcome.code)
        else:
            show(outcome)
    return worst


def published_sets(names: Sequence[str], where: str = "hub") -> list[Published]:
    """The named benchmarks (else all); in the place of one whose items are made, unless they lie in
    `where`, the texts that they are made from, which may be named as well."""
    texts = {t.name: t for b in BENCHMARKS.values() if b.recipe for t in b.recipe.texts}
    found: list[Published] = [texts[name] for name in names if name in texts]
    others = [name for name in names if name not in texts]
    for benchmark in named(others or ([] if names else list(BENCHMARKS))):
        recipe = None if items.locate(benchmark, where) else benchmark.recipe
        found += recipe.texts if recipe else [benchmark]
    return list({each.name: each for each in found}.values())  # a text may be a benchmark itself


def get(names: Sequence[str], force: bool = False) -> Iterator[Told]:
    """Fetch the named benchmarks (else all) from the hub into the cache.

    A whole copy is kept, without asking the network for a newer one, so that the same command
    means the same items; with `force` each is fetched anew.
    """
    for benchmark in published_sets(names):
        try:
            dataset = None if force else _kept(benchmark)
            what = "was there" if dataset else "fetched"
            if dataset is None:
                items.fetch(benchmark, force)
                dataset = items.load_dataset(benchmark, "hub")
            yield f"{benchmark.name:<18} {what}: {_count(dataset)} from {dataset.origin}"
        except Failure as failure:
            yield failure
        except OSError as error:  # so that a full disk does not end the others' turn
            yield as_failure(error) or UserError(str(error))


def _kept(benchmark: Published) -> items.Dataset | None:
    """The cached copy if it is there and what was fetched."""
    with suppress(DataError):
        found = items.locate(benchmark, "hub")
        return items.read_items(benchmark, found) if found else None
    return None


def _count(dataset: items.Dataset) -> str:
    return dataset.label or f"{len(dataset.items)} items"


def listing(names: Sequence[str], as_json: bool = False) -> Iterator[Told]:
    """Each benchmark's size, source and licence, and what the cache holds of it; no network."""
    reports = []
    for benchmark in published_sets(names):
        source, record = benchmark.source, items.cached(benchmark)
        report = {"name": benchmark.name, "title": benchmark.title, "total": benchmark.total}
        report |= {"repo": source.repo, "gated": source.gated, "licence": source.licence}
        reports.append(report | {"cached": record})
        if as_json:
            continue
        state = "not fetched"
        if record:
            part = f"partial {record['count']}/{benchmark.total}"
            count = part if record["count"] < benchmark.total else record["count"]
            state = f"cached: {count} at {record['revision'][:12]}"
        marks = [source.licence] if source.licence else []
        marks += ["gated: needs HF_TOKEN"] if source.gated else []
        where = f"{source.repo} ({', '.join(marks)})" if marks else source.repo
        total = benchmark.total or "?"
        yield f"{benchmark.name:<18} {total:>6} items  {state:<28}  {where}"
    if as_json:
        yield dumps(reports)


def check_items(names: Sequence[str], where: str, as_json: bool = False) -> Iterator[Told]:
    """Read what lies in `where` (as in load_dataset, but nothing is fetched) to its end, and count.

    A part of a set fails the check. A benchmark that is not there fails it only if it was named,
    or if none is there.
    """
    if where not in ("hub", "sample"):
        items.folder_or_file(where)
    reports: list[dict[str, Any]] = []
    problems: list[Failure] = []
    for benchmark in published_sets(names, where):
        report, problem = _checked(benchmark, where)
        absent = problem is None and report["items"] is None
        if absent and names:
            problem = UserError(items.nothing(benchmark, where))
        reports.append(report | {"problem": str(problem) if problem else None})
        problems += [problem] if problem else []
        if not as_json and absent:
            yield f"{benchmark.name:<18} not there"
        elif not as_json and report["items"] is not None:
            yield _line(report)
        if not as_json and problem:
            yield problem
    if as_json:
        yield dumps(reports)
        yield from problems
    if not problems and all(report["items"] is None for report in reports):
        yield UserError(
            f"Nothing is there to check in {where}; `minihmx data get` fetches from the hub."
        )


def _checked(benchmark: Published, where: str) -> tuple[dict[str, Any], Failure | None]:
    """(what was found, what is wrong with it); items is None where nothing could be counted."""
    report = {"name": benchmark.name, "total": benchmark.total, "items": None}
    try:
        found = items.locate(benchmark, where)
        if found is None:
            return report, None
        dataset = items.read_items(benchmark, found)
    except Failure as failure:
        return report, failure
    report |= {"items": len(dataset.items), "total": dataset.total, "partial": dataset.label}
    report |= {"sha256": dataset.digest, "origin": dataset.origin, "note": dataset.note}
    report |= {"files": [path.name for path in found.paths], "count": _count(dataset)}
    if not dataset.partial:
        return report, None
    return report, DataError(
        f"{benchmark.name} is {dataset.label}: its score is that of a part, and `minihmx eval` "
        "says so wherever it stands."
    )


def _line(report: dict[str, Any]) -> str:
    where = f"{report['origin']} ({items.first_names(report['files'])})"
    note = f"; {report['note']}" if report["note"] else ""
    return f"{report['name']:<18} {report['count']}, sha256 {report['sha256'][:12]}, {where}{note}"
