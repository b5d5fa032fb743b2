"""The lines of `make bench`, each part of which is a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import bench_growth
import torch
from bench_floor import Place, Product, floor, floor_work, product_seconds
from bench_growth import cells, expected
from bench_process import KILLED, Job, in_process, worker
from bench_products import copy_rate
from bench_shapes import SHAPES, Shape, flags, make, open_forced, steps
from bench_step import summary

from minihmx.evals.asking import session
from minihmx.run import open_run

BATCH_TOKENS = 8192  # as `minihmx eval` has it
SHAPE = SHAPES["small"]
ROWS = (1, 8, 320)  # of the products: one row, those of a step, those of a pass over its tokens
EVALUATED = ("bbq", "squad_v2")  # one that is chosen by log-likelihood, one of written replies


class Line(NamedTuple):
    """A line of the table."""

    what: str
    measured: str
    beside: str = ""

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def step_lines(name: str, count: int, shape: Shape | None) -> Iterator[Line]:
    """A step of a shape, or of tiny without one, by stage."""
    with tempfile.TemporaryDirectory() as scratch:
        model, out = Path(scratch) / "model", Path(scratch) / "runs"
        if shape:
            make(model, shape)
            run = open_forced(flags(shape, model, out))
        else:
            run = open_run({"out": str(out)})
        kept = list(islice(steps(run), count + 1))[1:]
        took = summary(kept)
        least = floor(run, floor_work(run, kept[-1].rollouts))
    bare = {stage: sum(parts) for stage, parts in least.items()}
    bare["step"] = sum(bare.values())
    for stage, seconds in bare.items():
        beside = f"floor {seconds:.3f} s, x{took[stage] / seconds:.2f}"
        part = "whole" if stage == "step" else stage
        yield Line(f"step of {name}, {part}", f"{took[stage]:.3f} s", beside)
    spread = f"{took['fastest']:.3f} to {took['slowest']:.3f} s"
    yield Line(
        f"step of {name}, fastest to slowest of {count}", spread, f"peak {took['peak GiB']:.2f} GiB"
    )
    yield Line(f"answers of {name}", f"{took['sampled tokens/s']:.0f} tokens/s", "sampling alone")


def product_lines() -> Iterator[Line]:
    """The small shape's largest product and its head, by the faster library."""
    place, sizes = Place(torch.device("cpu"), torch.float32), SHAPE.model
    inside = sizes["hidden_size"]
    with torch.inference_mode():
        copied = copy_rate(place.device) / 1e9
        for out in (sizes["intermediate_size"], sizes["vocab_size"]):
            for rows in ROWS:
                product = Product(out, inside, rows)
                took = product_seconds(product, place)
                rate = f"{product.flops / took / 1e9:.0f} GFLOP/s"
                bytes_ = f"weight at {4 * out * inside / took / 1e9:.1f} GB/s, copy {copied:.1f}"
                yield Line(f"product {out} x {inside}, {rows} rows", rate, bytes_)


def growth_lines(threads: int, base: Shape, sizes: dict[str, tuple[int, ...]]) -> Iterator[Line]:
    """From the least to the most of each size."""
    speed = in_process(bench_growth.__file__, {"threads": threads})
    ends = {what: (row[0], row[-1]) for what, row in sizes.items()}
    with tempfile.TemporaryDirectory() as scratch:
        found = list(cells(ends, Path(scratch), threads, 1, base))
    for (what, few, first), (_, many, cell) in zip(found[::2], found[1::2], strict=True):
        if not (first and cell):
            yield Line(f"step, {what} {few} to {many}", KILLED)
            continue
        grown = cell["seconds"]["step"] / first["seconds"]["step"]
        should = expected(first, cell, *speed)["step"]
        memory = f"peak {first['peak']:.2f} to {cell['peak']:.2f} GiB"
        bare = cell["embedding"] - first["embedding"]
        more = f", {bare:.2f} of it the embedding" if bare else ""
        beside = f"x{should:.1f} by arithmetic; {memory}{more}"
        yield Line(f"step, {what} {few} to {many}", f"x{grown:.1f}", beside)


def evaluation_lines(tasks: tuple[str, ...] = EVALUATED) -> Iterator[Line]:
    """Items per second of the bundled model on the built-in items."""
    for task in tasks:
        with tempfile.TemporaryDirectory() as out:
            options = session.Options(
                tasks=task,
                adapters=[],
                data="sample",
                limit=0,
                chat="auto",
                samples=0,
                temperature=None,
                switches=[],
                partial=True,
                batch_tokens=BATCH_TOKENS,
            )
            prepared = session.open_session({"model": "tiny", "out": out}, options)
            start = time.perf_counter()
            for _ in session.run_session(prepared):
                pass
            took = time.perf_counter() - start
            items = sum(len(results.items) for _, results in prepared.jobs)
        yield Line(f"eval of tiny, {task}", f"{items / took:.1f} items/s", f"{items} items")


def work(job: Job) -> list[Line]:
    """One process: a part of the table."""
    if job["part"] == "products":
        return list(product_lines())
    if job["part"] == "evaluations":
        return list(evaluation_lines())
    return list(step_lines(job["part"], job["steps"], SHAPES.get(job["part"])))


if __name__ == "__main__":
    worker(work)
