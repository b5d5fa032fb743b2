"""Items per second and peak memory of `minihmx eval` against lm-evaluation-harness's `hf` model.

    pip install -e '.[bench]'
    python scripts/bench_eval.py --data ../shared/data \\
        --tokenizer ../shared/tokenizers/qwen3/tokenizer.json.gz

One random Qwen3-shaped checkpoint of 103 M parameters, the same items, fp32 on the CPU. Each side
first tries its batch sizes on a few of the items, then runs all of them at its fastest. Every run
is a process of its own, so that its peak memory is; its clock starts when the model is loaded. Ours
then encodes, asks, scores, and writes every sample to the disk; lm-eval's encodes and asks.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
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
Job = dict[str, Any]


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
    """(seconds, log-likelihoods by item) of what `minihmx eval` does behind its command line."""
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


def work(job: Job) -> None:
    """One process: make the files, or measure one side, and write the report."""
    torch.set_num_threads(job["threads"])
    if job["side"] == "make":
        make(job)
        return
    seconds, sums = (ours if job["side"] == "minihmx" else theirs)(job)
    peak = peak_memory(torch.device("cpu")) / 2**30
    report = {"rate": len(sums) / seconds, "seconds": seconds, "peak": peak, "sums": sums}
    Path(job["report"]).write_text(json.dumps(report))


def process(job: Job) -> dict[str, Any] | None:
    """The report of a job run as a process of its own; None if it died, as one out of memory."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"}
    Path(job["report"]).write_text("null")
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode > 0:  # a traceback; a signal is below 0
        raise SystemExit(f"{job['side']} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] | None = json.loads(Path(job["report"]).read_text())
    return found


def fastest(job: Job) -> int:
    """The batch size that is fastest on the few items."""
    rates = {}
    for batch in BATCHES[job["side"]]:
        if found := process(job | {"batch": batch}):
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
        report = process(one | {"items": job["all"], "batch": batch})
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with published files of both benchmarks")
    parser.add_argument("--tokenizer", help="Qwen3's tokenizer.json.gz")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--tries", type=int, default=8, help="items of the trials")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        work(json.loads(options.job))
        return
    if not options.data or not options.tokenizer:
        parser.error("--data and --tokenizer are needed")
    versions = (
        f"{n} {importlib.metadata.version(n)}" for n in ("torch", "lm_eval", "transformers")
    )
    print(f"{', '.join(versions)}; {options.threads} threads; {options.items} items each")
    with tempfile.TemporaryDirectory() as scratch:
        places = {name: f"{scratch}/{name}" for name in ("model", "all", "few", "report")}
        # a process starts with the peak of the one that forked it, so this one stays small
        process({"side": "make", "count": options.items} | places | vars(options))
        for task in TARGETS:
            print(task, flush=True)
            measure(places | {"task": task, "threads": options.threads})


if __name__ == "__main__":
    main()
