"""How time and memory of a step grow with its sizes, beside what arithmetic says.

One size at a time grows from the small random shape; each cell is a process of its own, whose peak
of memory is its own. The arithmetic has two parts. Products: those that are left once shared
prompts are computed once (bench_floor.py), and those of every row for each decoded token, at the
rate of one product of this machine. Bytes: for each decoded token all weights and the cache of all
rows, at the rate at which it copies. Only their growth is compared, since rates differ by shape.
Memory is compared with minihmx/instruments/estimate.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_floor import Place, Product, floor_work, judge_tokens, product_seconds
from bench_process import KILLED, in_process, worker
from bench_products import copy_rate
from bench_shapes import SHAPES, Shape, flags, make, open_forced, steps

from minihmx.instruments.estimate import Workload, kv_bytes, parameter_counts, parts, peaks
from minihmx.instruments.metrics import STAGES
from minihmx.records import Rollout
from minihmx.run import Run

Cell = dict[str, Any]
GROWN: dict[str, tuple[int, ...]] = {
    "completion": (64, 128, 256, 512),
    "group": (2, 4, 8, 16),
    "vocabulary": (32000, 64000, 128000, 256000),
    "prompt": (32, 128, 512, 1024),
}
BASE = SHAPES["small"]._replace(prompt=32)
GIB = 2**30


def grown(what: str, size: int, base: Shape = BASE) -> Shape:
    """The base shape with one size changed."""
    if what == "vocabulary":
        return base._replace(model=base.model | {"vocab_size": size})
    sizes: dict[str, Any] = {what: size}
    return base._replace(**sizes)


def counted(run: Run, rollouts: list[Rollout]) -> dict[str, tuple[int, int]]:
    """(multiplications and additions, bytes) of each stage by the arithmetic above."""
    model, config = run.decoder.config, run.config
    body, embedding, _ = parameter_counts(model)
    found = {stage: (work.flops, work.bytes) for stage, work in floor_work(run, rollouts).items()}
    judged = [run.prompts.judge(r.question.text, r.completion.text) for r in rollouts]
    decoded = {
        "sample": (config.max_completion_length, [len(r.prompt_ids) for r in rollouts]),
        "judge": (judge_tokens(run, rollouts), [len(ids) for ids in judged]),
    }
    for stage, (tokens, prompts) in decoded.items():
        flops, moved = found[stage]
        flops += 2 * (body + embedding) * tokens * len(prompts)
        seen = sum(prompts) + len(prompts) * tokens // 2  # of the cache, by a token in the middle
        found[stage] = flops, moved + tokens * seen * kv_bytes(model, config.dtype)
    return found


def measure_cell(cell: Cell) -> Cell:
    """Seconds of each stage, the peak, and the arithmetic of one cell."""
    shape = Shape(**cell["shape"])
    run = open_forced(flags(shape, Path(cell["model"]), Path(cell["out"])))
    kept = list(islice(steps(run), cell["steps"] + 1))[1:]
    rollouts = kept[-1].rollouts
    judged = max(len(run.prompts.judge(r.question.text, "")) for r in rollouts)
    work = Workload(len(run.train_questions), 1, shape.prompt, judged)
    estimated = max(peaks(parts(run.decoder.config, run.config, work)).values())
    stages = {s: median(e.timings[s] for e in kept) for s in STAGES["step"]}
    return {
        "seconds": stages | {"step": sum(stages.values())},
        "peak": kept[-1].timings["peak_gib"],
        "estimate": estimated / GIB,
        "embedding": run.decoder.lm_head.weight.nbytes / GIB,  # which is the head too
        "counted": counted(run, rollouts),
    }


def work(cell: Cell) -> Any:
    """One process: write a checkpoint, or measure a cell or the rates."""
    if "out" in cell:
        return measure_cell(cell)
    return make(Path(cell["model"]), Shape(**cell["shape"])) if "model" in cell else rates()


def cells(
    sizes: Mapping[str, tuple[int, ...]], scratch: Path, threads: int, count: int, base: Shape
) -> Iterator[tuple[str, int, Cell]]:
    """(what grows, its size, what was found), one after the other."""
    for what, row in sizes.items():
        for size in row:
            shape = grown(what, size, base)
            model = scratch / f"model-{shape.model['vocab_size']}"
            cell = {"shape": shape._asdict(), "model": str(model), "threads": threads}
            if not model.exists():
                in_process(__file__, cell)
            cell |= {"out": str(scratch / f"{what}-{size}"), "steps": count}
            yield what, size, in_process(__file__, cell)


def expected(first: Cell, cell: Cell, product_rate: float, byte_rate: float) -> dict[str, float]:
    """By how much each stage, and their sum, should have grown since the first cell."""

    def cost(found: Cell) -> dict[str, float]:
        took = {s: f / product_rate + b / byte_rate for s, (f, b) in found["counted"].items()}
        return took | {"step": sum(took.values())}

    before, now = cost(first), cost(cell)
    return {stage: now[stage] / before[stage] for stage in now}


def rates() -> tuple[float, float]:
    """A second's multiplications and additions in one middling product, and bytes in a copy."""
    place = Place(torch.device("cpu"), torch.float32)
    product = Product(1536, 512, 512)  # of the base shape's MLP
    with torch.inference_mode():
        return product.flops / product_seconds(product, place), copy_rate(place.device)


def table(rows: Iterator[tuple[str, int, Cell]], speed: tuple[float, float]) -> Iterator[str]:
    """The lines of a table for each size that grows."""
    first, last = dict[str, Any](), ""
    columns = ["peak GiB", "estimate GiB", "peak less the embedding, GiB"]
    for what, size, cell in rows:
        if not cell:
            yield f"| {what} {size}: {KILLED} |"
            continue
        if what != last:
            first, last = cell, what
            yield f"\n| {' | '.join([what, *cell['seconds'], *columns])} |"
            yield "|---" * (len(cell["seconds"]) + 4) + "|"
        should = expected(first, cell, *speed)
        took = [
            f"{now:.3f} (x{now / first['seconds'][stage]:.1f}, x{should[stage]:.1f})"
            for stage, now in cell["seconds"].items()
        ]
        memory = cell["peak"], cell["estimate"], cell["peak"] - cell["embedding"]
        yield f"| {' | '.join([str(size), *took, *(f'{m:.2f}' for m in memory)])} |"


def print_growth(
    threads: int, sizes: Mapping[str, tuple[int, ...]] = GROWN, count: int = 2, base: Shape = BASE
) -> None:
    """Measure and print all tables."""
    threads = threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        speed = in_process(__file__, {"threads": threads})
        print(f"{threads} threads; products {speed[0] / 1e9:.0f} GFLOP/s, ", end="")
        print(f"copies {speed[1] / 1e9:.1f} GB/s. Seconds (grown, as arithmetic says it should).")
        for line in table(cells(sizes, Path(scratch), threads, count, base), speed):
            print(line, flush=True)


if __name__ == "__main__":
    worker(work)
