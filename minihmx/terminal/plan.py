"""What `minihmx experiment` prints of its plan, and while it goes. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minihmx.evals import BENCHMARKS
from minihmx.experiment import Experiment, Piece, done_pieces, is_done, pieces
from minihmx.instruments.estimate import size
from minihmx.stats import mean
from minihmx.storage.history import seconds_of_steps
from minihmx.terminal.text import duration


def plan_lines(experiment: Experiment, report: Mapping[str, Any]) -> Iterator[str]:
    """What will be done, and what it will take."""
    e, listed, done = experiment, pieces(experiment), done_pieces(experiment)
    floors = report["floors"]
    yield f"experiment  {e.model}, seeds {', '.join(map(str, e.seeds))}, in {e.out}"
    runs = [piece for piece in listed if piece.kind == "train"]
    steps = f" of {floors['steps']:.0f} steps" if floors else ""
    yield f"  runs        {len(runs)}{steps}, forward and reverse for each seed"
    items = "a few items of our own (sample)" if e.data == "sample" else f"items from {e.data}"
    yield f"  benchmarks  {', '.join(e.tasks) + '; ' + items if e.tasks else 'none'}"
    yield f"  pieces      {len(listed)}, of which {len(done)} are done"
    left = [piece for piece in runs if piece.name not in done]
    disk = report["disk"]["runs"]
    yield f"  disk        {size(disk['needed'] * len(left))} to come, {size(disk['free'])} free"
    a_run = seconds_of_a_run(e)
    if a_run is not None:
        yield f"  time        {duration(a_run * len(left))} of training, as the runs that are there"
    else:
        hours = floors["run hours"] * len(left) if floors else 0
        least = f"; on {report['speed']['name']} the training takes {hours:.1f} hours at the very "
        least += "least, by the arithmetic of `minihmx doctor`"
        yield f"  time        unknown until the first run is through{least if hours > 0.1 else ''}"
    yield from (f"  notice      {notice}" for notice in report["notices"])
    for piece in listed:
        mark = "done" if piece.name in done else "to do"
        yield f"  {mark:<5}  minihmx {shlex.join(piece.arguments)}"


def seconds_of_a_run(experiment: Experiment) -> float | None:
    """The mean over this experiment's finished runs, by their timings.jsonl."""
    runs = [piece for piece in pieces(experiment) if piece.kind == "train"]
    done = [piece for piece in runs if is_done(experiment, piece, {})]
    found = [seconds_of_steps(experiment.out / piece.folders[0]) for piece in done]
    return mean([seconds for seconds in found if seconds is not None])


def time_left(left: Sequence[Piece], times: Mapping[str, Sequence[float]]) -> str:
    """What is left, each piece taking as long as those of its kind took in this process."""
    if any(piece.kind not in times for piece in left):
        return ""
    seconds = sum(sum(times[piece.kind]) / len(times[piece.kind]) for piece in left)
    return f"  (about {duration(seconds)} left)"


def headline(result: Mapping[str, Any]) -> Iterator[str]:
    """The paper's metrics of one result, and what each has to be read with."""
    who = result["adapter"]["name"] if result["adapter"] else "base"
    for name in (*result["headline"], *BENCHMARKS[result["benchmark"]].beside):
        if value := result["metrics"].get(name):
            yield f"  {who}  {result['benchmark']} {name} {value['value']:.4f}  n {value['n']}"
