"""Items per second and peak memory of `minihmx eval` against lm-evaluation-harness's `hf` model,
where continuations are compared by their log-likelihood; bench_eval.py is the way in.

One random Qwen3-shaped checkpoint of 103 M parameters, the same items, fp32 on the CPU. Each side
first tries its batch sizes on a few of the items, then runs all of them at its fastest. Every run
is a process of its own, so that its peak memory is; its clock starts when the model is loaded. Ours
then encodes, asks, scores, and writes every sample to the disk; lm-eval's encodes and asks.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from bench_process import Job, in_process, worker
from golden_lm_eval import checkpoint, harness

from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.results import chosen, read_samples
from minihmx.evals.benchmark import Choices
from minihmx.evals.items.load import load_dataset
from minihmx.instruments.clock import peak_memory
from minihmx.storage.disk import dumps

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
BATCHES = {"minihmx": (1024, 4096, 16384), "lm-eval": (1, 2, 4, 8, 16)}
UNITS = {"minihmx": "tokens", "lm-eval": "rows"}
TARGETS = {"bbq": 4.0, "truthfulqa_mc2": 3.0}


def make(job: Job) -> None:
    """Write the checkpoint, and the items in minihmx's schema: all, and the few of the trials."""
    folder = Path(job["model"])
    folder.mkdir()
    checkpoint(folder, "qwen3", Path(job["tokenizer"]).read_bytes(), SHAPE)
    for task in TARGETS:
        items = chosen(load_dataset(BENCHMARKS[task], job["data"]), job["count"])
        for place, part in ((job["all"], items), (job["few"], items[: job["tries"]])):
            Path(place).mkdir(exist_ok=True)
            lines = "".join(dumps(item) + "\n" for item in part)
            (Path(place) / f"{task}.jsonl").write_text(lines, encoding="utf-8")


def ours(job: Job) -> tuple[float, list[list[float]]]:
    """(seconds, log-likelihoods by item) of what `minihmx eval` does after its command line."""
    from minihmx.evals.asking import session

    with tempfile.TemporaryDirectory() as out:
        flags = {"model": job["model"], "out": out, "dtype": "float32", "device": "cpu"}
        options = session.Options(
            tasks=job["task"],
            adapters=[],
            data=job["items"],
            limit=0,
            chat="auto",
            samples=0,
            temperature=None,
            switches=[],
            partial=False,
            batch_tokens=job["batch"],
        )
        prepared = session.open_session(flags, options)
        start = time.perf_counter()
        for _ in session.run_session(prepared):
            pass
        seconds = time.perf_counter() - start
        ((_, results),) = prepared.jobs
        found = {line["id"]: line["loglikelihoods"] for line in read_samples(results.folder)}
    return seconds, [found[item["id"]] for item in results.items]


def theirs(job: Job) -> tuple[float, list[list[float]]]:
    """The same from HFLM.loglikelihood, whose requests tests/test_golden_lm_eval.py compares."""
    from lm_eval.api.instance import Instance

    benchmark = BENCHMARKS[job["task"]]
    model = harness(Path(job["model"]), batch_size=job["batch"])
    requests = []
    for number, item in enumerate(load_dataset(benchmark, job["items"]).items):
        asked = benchmark.ask(item, {})
        assert isinstance(asked, Choices)
        for index, choice in enumerate(asked.continuations):
            arguments = (asked.context, f" {choice}")
            requests.append(Instance("loglikelihood", {"item": number}, arguments, index))
    start = time.perf_counter()
    sums = model.loglikelihood(requests, disable_tqdm=True)
    seconds = time.perf_counter() - start
    found: dict[int, list[float]] = {}
    for request, (value, _) in zip(requests, sums, strict=True):
        found.setdefault(request.doc["item"], []).append(value)
    return seconds, list(found.values())


def work(job: Job) -> Any:
    """One process: make the files, or measure one side."""
    if job["side"] == "make":
        return make(job)
    seconds, sums = (ours if job["side"] == "minihmx" else theirs)(job)
    peak = peak_memory(torch.device("cpu")) / 2**30
    return {"rate": len(sums) / seconds, "seconds": seconds, "peak": peak, "sums": sums}


def fastest(job: Job) -> int:
    """The batch size that is fastest on the few items."""
    rates = {}
    for batch in BATCHES[job["side"]]:
        if found := in_process(__file__, job | {"batch": batch}):
            rates[batch] = found["rate"]
    tried = "  ".join(f"{batch}: {rate:.2f}" for batch, rate in rates.items())
    print(f"  {job['side']} items/s by {UNITS[job['side']]} in a batch   {tried}", flush=True)
    return max(rates, key=lambda batch: rates[batch])


def measure(job: Job) -> None:
    """Both sides of one task, and how they compare."""
    found = {}
    for side in BATCHES:
        one = job | {"side": side}
        batch = fastest(one | {"items": job["few"]})
        report = in_process(__file__, one | {"items": job["all"], "batch": batch})
        assert report, f"{side} died at the batch size that was its fastest"
        found[side] = report
        print(
            f"  {side:8}  {report['rate']:.3f} items/s  {report['seconds']:.1f} s  "
            f"peak {report['peak']:.2f} GiB  {batch} {UNITS[side]}",
            flush=True,
        )
    us, them = found["minihmx"], found["lm-eval"]
    pairs = zip(chain(*us["sums"]), chain(*them["sums"]), strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    print(
        f"  {us['rate'] / them['rate']:.2f} times as fast (target {TARGETS[job['task']]:g}), "
        f"{us['peak'] / them['peak']:.2f} of the memory, "
        f"log-likelihoods differ by at most {difference:.1e}",
        flush=True,
    )


def measure_likelihoods(job: Job, tasks: Sequence[str]) -> None:
    """Both sides of these tasks. job: data, tokenizer, threads, the count of items, the tries."""
    with tempfile.TemporaryDirectory() as scratch:
        places = {name: f"{scratch}/{name}" for name in ("model", "all", "few")}
        in_process(__file__, job | places | {"side": "make"})
        for task in tasks:
            print(f"{task}, {job['count']} items", flush=True)
            measure(places | {"task": task, "threads": job["threads"]})


if __name__ == "__main__":
    worker(work)
