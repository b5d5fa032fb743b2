"""Seconds of an optimizer step by stage, tokens per second, peak memory; how far from the floor.

    python scripts/bench_step.py                         # tiny, then a random Qwen3 of 36 M
    python scripts/bench_step.py --shape qwen3-0.6b --floor
    python scripts/bench_step.py --against trl --json    # with the extra `bench`
    python scripts/bench_step.py --growth                # by completion, group, vocabulary, prompt
    python scripts/bench_step.py --model qwen2.5-0.5b --config my.toml --profile trace.json

--floor: beside each stage what it must at least compute and move (bench_floor.py defines it), and
what the step's own products take without the step. --against trl: the same step by TRL and PEFT;
the last line with --json is one object whose `ratio` is TRL's seconds over ours, `memory_ratio` our
peak over TRL's, `floor_ratio` our seconds over the floor's. --profile: a trace of one step, with
the stages as spans, for chrome://tracing or Perfetto; a name that ends in .gz is packed.

A random model has real shapes and no sense: its judge is not read, and its answers and verdicts run
to their caps, so every step has the same work. The first step warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_against import against_trl, print_comparison
from bench_executed import Executed
from bench_floor import Place, floor, floor_work, once_a_run, products_seconds
from bench_growth import print_growth
from bench_process import count
from bench_products import copy_rate
from bench_shapes import SHAPES, flags, make, open_forced, steps
from torch.profiler import ProfilerActivity, record_function

from minihmx.errors import Failure
from minihmx.instruments.clock import Clock
from minihmx.instruments.metrics import STAGES
from minihmx.run import Run, open_run
from minihmx.storage.config_file import read_values
from minihmx.train import Stepped


class Spans(Clock):
    """A clock whose stages are spans of a trace as well."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        with record_function(name), super().timed(name):
            yield


def opened(name: str, folder: Path, options: argparse.Namespace) -> Run:
    """The run whose steps are measured; all it writes goes into the folder."""
    given = {"device": options.device, "dtype": options.dtype, "threads": options.threads}
    given = {key: value for key, value in given.items() if value}
    out = folder / "runs"
    if name in SHAPES:
        make(folder / "model", SHAPES[name])
        return open_forced(flags(SHAPES[name], folder / "model", out) | given)
    model = {"model": name} if name else {}
    file = read_values(options.config) if options.config else None
    return open_run(model | given | {"out": str(out)}, file)


def summary(kept: list[Stepped]) -> dict[str, float]:
    """Medians over these steps, and the peak of memory."""
    timings = [event.timings for event in kept]
    result = {stage: median(t[stage] for t in timings) for stage in STAGES["step"]}
    result["step"] = median(t["seconds"] for t in timings)
    result["fastest"] = min(t["seconds"] for t in timings)
    result["slowest"] = max(t["seconds"] for t in timings)
    result["sampled tokens/s"] = median(t["tokens"] / t["sample"] for t in timings)
    result["tokens/s"] = median(t["tokens"] / t["seconds"] for t in timings)
    result["peak GiB"] = max(t["peak_gib"] for t in timings)
    return result


def print_floor(run: Run, going: Iterator[Stepped], last: Stepped, took: dict[str, float]) -> float:
    """The table of the floor; returns the step as a multiple of it."""
    place = Place(run.decoder.device, run.decoder.dtype)
    work = floor_work(run, last.rollouts)
    least = floor(run, work)
    with Executed(lambda: run.clock.stage()[0]) as executed:
        next(going)
    print(
        f"copies {copy_rate(place.device) / 1e9:.1f} GB/s; computed once a run, and so in no step: "
        f"the first {once_a_run(run)} tokens of every judge's prompt"
    )
    columns = ["seconds", "floor", "times the floor", "products left", "attention left", "bytes"]
    print(f"| stage | {' | '.join(columns)} | the step's own products |\n|{'---|' * 8}")
    own = whole = 0.0
    for stage, parts in least.items():
        done = executed.work[stage]
        alone = products_seconds(done.products, place)
        own, whole = own + alone, whole + sum(parts)
        left = sum(p.flops * times for p, times in work[stage].products.items()) / 1e9
        flops = sum(p.flops * times for p, times in done.products.items()) / 1e9
        cells = (
            f"{took[stage]:.3f}",
            f"{sum(parts):.3f}",
            f"{took[stage] / sum(parts):.2f}",
            f"{left:.1f} GFLOP, {parts.products:.3f} s",
            f"{work[stage].attention / 1e9:.1f} GFLOP, {parts.attention:.3f} s",
            f"{work[stage].bytes / 1e9:.2f} GB, {parts.bytes:.3f} s",
            f"{flops:.1f} GFLOP, {alone:.3f} s",
        )
        print(f"| {stage} | {' | '.join(cells)} |")
    multiple = took["step"] / whole
    print(f"| step | {took['step']:.3f} | {whole:.3f} | {multiple:.2f} | | | | {own:.3f} s |")
    return multiple


def write_trace(run: Run, path: str) -> None:
    """Profile the second step of a run into a file."""
    run = replace(run, clock=Spans(run.decoder.device))
    going = steps(run)
    next(going)
    kinds = [ProfilerActivity.CPU]
    if run.decoder.device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        next(going)
    profile.export_chrome_trace(path)
    print(f"{path}: open it in chrome://tracing or at Perfetto")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Print one model's line, and its floor if asked for."""
    with tempfile.TemporaryDirectory() as scratch:
        run = opened(name, Path(scratch), options)
        if options.profile:
            write_trace(run, options.profile)
            return {}
        going = steps(run)
        kept = list(islice(going, options.steps + 1))[1:]
        took: dict[str, Any] = summary(kept)
        line = "  ".join(f"{key} {value:.3f}" for key, value in took.items())
        print(f"{name or run.source.id}: {line}  threads {torch.get_num_threads()}", flush=True)
        if options.floor:
            took["floor_ratio"] = round(print_floor(run, going, kept[-1], took), 3)
        return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shape", choices=("tiny", *SHAPES))
    which.add_argument("--model", help="a model as `minihmx train` takes it, with its own stops")
    parser.add_argument("--config", help="the TOML file or config.json of the run to be measured")
    parser.add_argument("--steps", type=count, help="10; with --against 3 of each side")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0: as the run says")
    parser.add_argument("--floor", action="store_true", help="and what a step must at least take")
    parser.add_argument("--against", choices=("trl",), help="and the same step by another library")
    parser.add_argument("--growth", action="store_true", help="tables by length, group, vocabulary")
    parser.add_argument("--profile", metavar="FILE", help="write a trace of one step instead")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args()
    if options.growth:
        print_growth(options.threads)
        return
    if options.against:
        threads = options.threads or torch.get_num_threads()
        found = against_trl(SHAPES[options.shape or "small"], options.steps or 3, threads)
        print_comparison(found)
    else:
        options.steps = options.steps or 10
        names = [options.shape or options.model or ""]
        if names == [""] and not options.config:
            names = ["tiny", "small"]  # memory is the process's peak, so the small model goes first
        threads = torch.get_num_threads()
        for name in names:
            torch.set_num_threads(threads)  # tiny asks for one
            found = measure(name, options)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:  # of the model, the config or the device that was named
        print(f"bench_step.py: {failure}", file=sys.stderr)
        sys.exit(failure.code)
