"""`make bench`: what the other benchmarks measure, in one table, on this machine and in minutes.

A step by stage beside its floor, the products by the faster library, how fast two benchmarks run on
the bundled model, and how a step grows. Nothing is downloaded. Each part has a script of its own
that says more: bench_step.py, bench_products.py, bench_eval.py, and bench_step.py --growth.
"""

from __future__ import annotations

import argparse
import platform

import bench_lines
import torch
from bench_growth import BASE, GROWN
from bench_process import KILLED, count, in_process

PARTS = ("tiny", "small", "products", "evaluations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--threads", type=count, default=torch.get_num_threads(), help="all of them"
    )
    parser.add_argument("--steps", type=count, default=5, help="of each model, after one")
    options = parser.parse_args()
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, torch {torch.__version__}, {options.threads} threads, fp32\n")
    print("| what | measured | beside it |\n|---|---|---|", flush=True)
    for part in PARTS:
        job = {"part": part, "threads": options.threads, "steps": options.steps}
        for line in in_process(bench_lines.__file__, job) or [(part, KILLED, "")]:
            print(bench_lines.Line(*line), flush=True)
    for line in bench_lines.growth_lines(options.threads, BASE, GROWN):
        print(line, flush=True)


if __name__ == "__main__":
    main()
