"""The speed of `minihmx eval` against lm-evaluation-harness's `hf` model, on the same items.

    pip install -e '.[bench]' -c constraints-bench.txt
    python scripts/bench_eval.py --data ../shared/data \\
        --tokenizer ../shared/tokenizers/qwen3/tokenizer.json.gz
    python scripts/bench_eval.py --data ../shared/data --real SMOLLM2

The first measures a random Qwen3-shaped checkpoint: items per second and peak memory where answers
are chosen by log-likelihood (BBQ, TruthfulQA: bench_likelihoods.py), and tokens per second of
replies (64 SQuAD and 32 BBH prompts: bench_replies.py). The second measures the replies of a real
model (SMOLLM2 is a folder that ../shared/tools/real_model.py makes): items per second of IFEval and
BBH. --only takes one benchmark of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata

from bench_likelihoods import TARGETS, measure_likelihoods
from bench_replies import FORCED, REAL, measure_replies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with published files")
    parser.add_argument("--tokenizer", help="Qwen3's tokenizer.json.gz, for the random model")
    parser.add_argument("--real", metavar="FOLDER", help="a real model instead")
    parser.add_argument("--only", choices=sorted({*TARGETS, *FORCED, *REAL}))
    parser.add_argument("--items", type=int, default=64, help="of each that is chosen")
    parser.add_argument("--tries", type=int, default=8, help="of them for the trials")
    parser.add_argument("--scattered", action="store_true", help="prompts that share little")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not (options.tokenizer or options.real):
        parser.error("--tokenizer or --real is needed")
    replies = REAL if options.real else FORCED
    here = [*replies] if options.real else [*TARGETS, *FORCED]
    if options.only and options.only not in here:
        parser.error(f"--only {options.only} is not measured there; choose among {', '.join(here)}")
    wanted = [options.only] if options.only else here
    names = ("torch", "lm_eval", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"{versions}; {options.threads} threads; fp32", flush=True)
    job = vars(options) | {"count": options.items}
    if chosen := [task for task in wanted if task in TARGETS]:
        measure_likelihoods(job, chosen)
    if written := [task for task in wanted if task in replies]:
        measure_replies(job, written)


if __name__ == "__main__":
    main()
