"""What each job of a sweep will take, before anything runs: arithmetic, and what was timed.

A floor is what the products of a job take on the processor that doctor reckons with, at its peak,
and no measurement. No torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from minihmx.errors import Failure
from minihmx.evals import BENCHMARKS
from minihmx.evals.benchmark import Choices, switches
from minihmx.evals.items.load import Dataset, load_dataset, locate
from minihmx.experiment import Experiment
from minihmx.instruments.estimate import CHARACTERS, kv_bytes, parameter_counts
from minihmx.models.configs import ModelConfig
from minihmx.storage.disk import dumps
from minihmx.sweep.plan import NO_ESTIMATE, Job, JobEstimate

LOOKED_AT = 8  # items of a benchmark whose length is taken for that of all
BATCH_TOKENS = 8192  # that an evaluation holds at once, as --batch-tokens says
REPLY = 400  # bytes of a line of samples.jsonl beside the item and its prompt, about
# `select` and `compare` read JSON alone: a start of Python, and some hundred kilobytes.
FLOOR, TIMED, ABOUT = "floor", "finished runs", "about"
LIGHT = JobEstimate(1.0, ABOUT, 2**27, 2**17)


def estimate_job(
    job: Job, shape: ModelConfig, report: Mapping[str, Any], timed: float | None
) -> JobEstimate:
    """Of one job. report: what doctor says of its model's runs. timed: mean seconds of a run."""
    if job.piece.kind == "train":
        seconds = report["floors"]["run hours"] * 3600 if timed is None else timed
        by = FLOOR if timed is None else TIMED
        memory, disk = max(report["peak"].values()), report["disk"]["runs"]["needed"]
        return JobEstimate(round(seconds, 3), by, memory, disk)
    if job.piece.kind == "eval" and job.experiment:
        return _evaluation(job.experiment, job.piece.tasks[0], shape, report)
    return LIGHT


def _evaluation(
    e: Experiment, task: str, shape: ModelConfig, report: Mapping[str, Any]
) -> JobEstimate:
    """Reading every prompt once; replies, whose length nobody knows, come on top."""
    parts, dtype = report["memory"], report["settings"]["dtype"]
    always = ("weights", "adapter", "cuda context", "merged weights", "adapter in 16 bit")
    memory = sum(parts[name]["bytes"] for name in always if name in parts)
    memory += BATCH_TOKENS * kv_bytes(shape, dtype)
    dataset = _items(task, e.data)
    if dataset is None or not dataset.items:
        return NO_ESTIMATE._replace(by=FLOOR, memory=memory)
    limit = next((int(f.partition("=")[2]) for f in e.eval_flags if f.startswith("--limit=")), 0)
    samples = min(limit or len(dataset.items), len(dataset.items))
    samples *= 4 if dataset.origin == "sample" and BENCHMARKS[task].generates else 1
    characters, bytes_of_line = _lengths(task, dataset)
    products = 2 * parameter_counts(shape)[0] * samples * characters / CHARACTERS
    disk = round(samples * (bytes_of_line + characters + REPLY))
    return JobEstimate(round(products / report["speed"]["products"], 3), FLOOR, memory, disk)


def _lengths(task: str, dataset: Dataset) -> tuple[float, float]:
    """Of an item, by some of them: characters that are read, and bytes of its record."""
    benchmark, found = BENCHMARKS[task], list[tuple[int, int]]()
    tried = dataset.items[:: max(1, len(dataset.items) // LOOKED_AT)][:LOOKED_AT]
    for item in tried:
        request = benchmark.ask(item, switches(benchmark, {}))
        texts = (
            [request.context, *request.continuations]
            if isinstance(request, Choices)
            else list(map(str, request.turns))
        )
        found.append((sum(map(len, texts)), len(dumps(dict(item)))))
    characters, sizes = zip(*found, strict=True)
    return sum(characters) / len(found), sum(sizes) / len(found)


@functools.cache
def _items(task: str, data: str) -> Dataset | None:
    """The items where they are on this disk; nothing is fetched or made."""
    try:
        there = data == "sample" or locate(BENCHMARKS[task], data) is not None
        return load_dataset(BENCHMARKS[task], data) if there else None
    except (Failure, OSError):
        return None
