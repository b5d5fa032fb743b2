"""Tokens per second of generated replies against lm-evaluation-harness's `hf` model, one process
for each side; bench_eval.py is the way in.

A random Qwen3-shaped checkpoint of 103 M parameters answers SQuAD and BBH prompts: those that stand
first in their files, or a random part, which share fewer paragraphs and worked examples than a
whole run does. A random model never stops by itself, so each reply's length is drawn beforehand
from one seeded list, and both sides are made to end there: ours by its cap, lm-eval's by a logits
processor that allows only the end token then. A real model stops where it stops: items per second
of IFEval and BBH. fp32 on the CPU; each side tries its batch sizes first and is then measured at
its best.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_likelihoods import SHAPE
from bench_process import Job, in_process, worker
from golden_lm_eval import checkpoint, harness

from minihmx.engine.memory import Limit
from minihmx.engine.open import find_model, load_decoder
from minihmx.engine.sampling import Decoding, GenerationRequest, complete
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.replies import plain_text
from minihmx.evals.asking.results import chosen
from minihmx.evals.benchmark import Dialogue, switches
from minihmx.evals.items.load import load_dataset
from minihmx.records import Message

BATCHES = {"minihmx": (16, 32, 64), "lm-eval": (8, 16, 32)}
# Items, and the shortest and longest reply that is drawn for the random model.
FORCED = {"squad_v2": (64, 4, 96), "bbh": (32, 32, 384)}
REAL = {"ifeval": 16, "bbh": 16}


def prompts(task: str, data: str, count: int, scattered: bool) -> list[dict[str, Any]]:
    """The prompts of a benchmark without chat, and where its replies end: the first of the file,
    which are neighbours as in a whole run, or scattered over all of it."""
    benchmark = BENCHMARKS[task]
    found = []
    dataset = load_dataset(benchmark, data)
    for item in chosen(dataset, count) if scattered else dataset.items[:count]:
        asked = benchmark.ask(item, switches(benchmark, {}))
        assert isinstance(asked, Dialogue)
        said = [*asked.shots, Message("user", asked.turns[0])]
        text = plain_text(asked, said, asked.prefill)
        found.append({"text": text, "until": asked.until, "cap": asked.max_new_tokens})
    return found


def ours(job: Job) -> tuple[float, list[str]]:
    """(seconds, replies) of the engine after `minihmx eval`."""
    model = find_model({"model": job["model"], "device": "cpu", "dtype": "float32"})
    decoder, tokenizer = load_decoder(model), model.tokenizer
    start = time.perf_counter()
    requests = []
    for number, prompt in enumerate(job["prompts"]):
        ids = [*tokenizer.before_text, *tokenizer.encode_text(prompt["text"])]
        cap = prompt.get("length") or prompt["cap"]
        requests.append((GenerationRequest(ids, cap, None, tuple(prompt["until"])), number))
    requests.sort(key=lambda pair: list(pair[0].prompt))
    forced = "length" in job["prompts"][0]  # its last token is lm-eval's end token
    stops = [] if forced else decoder.config.eos_ids
    how = Decoding(decoder, tokenizer.decode, stops, 0.0, 8192)
    found = complete(
        how, [request for request, _ in requests], Limit("--decode-rows", job["batch"])
    )
    replies = {
        requests[index][1]: tokenizer.decode(completion.ids[:-1])
        if forced
        else cut(completion.text, requests[index][0].until)
        for index, completion in found
    }
    return time.perf_counter() - start, [replies[n] for n in range(len(requests))]


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of these stops; a reply is told to end there some tokens later."""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def theirs(job: Job) -> tuple[float, list[str]]:
    """The same from HFLM.generate_until."""
    from lm_eval.api.instance import Instance

    model = harness(Path(job["model"]), batch_size=job["batch"])
    if "length" in job["prompts"][0]:
        force_lengths(model, job["prompts"])
    requests = [
        Instance(
            "generate_until",
            {},
            (p["text"], {"until": p["until"], "max_gen_toks": p["cap"], "do_sample": False}),
            number,
        )
        for number, p in enumerate(job["prompts"])
    ]
    start = time.perf_counter()
    replies: list[str] = model.generate_until(requests, disable_tqdm=True)
    return time.perf_counter() - start, replies


def force_lengths(model: Any, wanted: list[dict[str, Any]]) -> None:
    """Let each row end at its own length: before it no end token is possible, then nothing else."""
    from transformers import LogitsProcessor, LogitsProcessorList

    tokenizer, end = model.tokenizer, model.tokenizer.eos_token_id
    lengths = {tuple(tokenizer(p["text"])["input_ids"]): p["length"] for p in wanted}

    class Forced(LogitsProcessor):
        def __init__(self, context: torch.Tensor, mask: torch.Tensor):
            self.start = context.shape[1]
            rows = zip(context.tolist(), mask.tolist(), strict=True)
            ids = (tuple(t for t, kept in zip(*row, strict=True) if kept) for row in rows)
            self.lengths = torch.tensor([lengths[row] for row in ids])

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            over = self.lengths <= ids.shape[1] - self.start + 1
            only = torch.full_like(scores, -torch.inf)
            only[:, end] = 0.0
            scores[:, end] = -torch.inf
            return torch.where(over[:, None], only, scores)

    real = model.model.generate

    def generate(**options: Any) -> Any:
        forced = Forced(options["input_ids"], options["attention_mask"])
        return real(**options, logits_processor=LogitsProcessorList([forced]))

    model.model.generate = generate


def work(job: Job) -> Any:
    """One process: measure one side."""
    seconds, replies = (ours if job["side"] == "minihmx" else theirs)(job)
    return {"seconds": seconds, "replies": replies}


def measure(job: Job) -> None:
    """Both sides of one task, and how they compare."""
    tokens = sum(p.get("length", 0) for p in job["prompts"])
    seconds, replies = {}, {}
    for side, batches in BATCHES.items():
        # With fewer prompts than rows one number of rows would be tried like any larger one.
        sizes = [batch for batch in batches if batch <= len(job["prompts"])]
        trials = {
            batch: in_process(__file__, job | {"side": side, "batch": batch})["seconds"]
            for batch in sizes
        }
        best = min(trials, key=lambda batch: trials[batch])
        found = in_process(__file__, job | {"side": side, "batch": best})
        seconds[side], replies[side] = found["seconds"], found["replies"]
        rate = f"{tokens / seconds[side]:.1f} tokens/s  " if tokens else ""
        items = len(job["prompts"]) / seconds[side]
        print(
            f"  {side:8}  {rate}{items:.3f} items/s  {seconds[side]:.1f} s  {best} rows", flush=True
        )
    same = sum(a == b for a, b in zip(*replies.values(), strict=True))
    print(
        f"  {seconds['lm-eval'] / seconds['minihmx']:.2f} times as fast; {same} of "
        f"{len(job['prompts'])} replies are the same text",
        flush=True,
    )


def measure_replies(job: Job, tasks: Sequence[str]) -> None:
    """Both sides of these tasks. job: data, tokenizer, threads, scattered, and the folder of a real
    model or None."""
    with tempfile.TemporaryDirectory() as scratch:
        model = job["real"] or f"{scratch}/model"
        if not job["real"]:
            Path(model).mkdir()
            checkpoint(Path(model), "qwen3", Path(job["tokenizer"]).read_bytes(), SHAPE)
        for task in tasks:
            count, low, high = (REAL[task], 0, 0) if job["real"] else FORCED[task]
            asked = prompts(task, job["data"], count, job["scattered"])
            draw = random.Random(task)
            if not job["real"]:
                asked = [
                    p | {"length": draw.randint(low, high), "cap": high, "until": []} for p in asked
                ]
            print(f"{task}, {len(asked)} prompts", flush=True)
            measure({"model": model, "threads": job["threads"], "prompts": asked})


if __name__ == "__main__":
    worker(work)
