"""The products of a model by the libraries that torch brings: how long each takes, and how that
compares with what the machine can do.

    python scripts/bench_products.py                       # Qwen2.5-0.5B's shapes, fp32 and bf16
    python scripts/bench_products.py --shape 1536x512 --threads 1

torch: F.linear, which takes MKL in fp32 and oneDNN in bf16. oneDNN: the weight as it lies. packed:
the weight in oneDNN's own layout, as it is while answers are decoded (minihmx/models/products.py).
pieces: by torch, a few hundred of the weight's rows at a time.
GB/s is the weight's size over the time, to be compared with the copy rate of the first line: with
few rows, reading the weight is all the work there is.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from functools import cache
from statistics import median

import torch
import torch.nn.functional as F

from minihmx.models.products import ROWS, has_onednn, onednn_rule, piecewise

SHAPES = ((896, 896), (4864, 896), (896, 4864), (151936, 896))
ROW_COUNTS = (1, 8, 40, 320)


def seconds(act: Callable[[], object], tries: int = 9) -> float:
    """The median of several tries, after one that is not counted."""
    act()
    found = []
    for _ in range(tries):
        start = _now()
        act()
        found.append(_now() - start)
    return median(found)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@cache
def copy_rate(device: torch.device) -> float:
    """Bytes a second of a copy that no cache holds: those that are read and those written."""
    source = torch.randn(64 * 2**20, device=device)
    goal = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: goal.copy_(source))


@torch.inference_mode()
def row(out: int, inside: int, rows: int, dtype: torch.dtype) -> str:
    """One line of the table."""
    weight, x = torch.randn(out, inside, dtype=dtype), torch.randn(rows, inside, dtype=dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    product = torch.ops.mkldnn._linear_pointwise
    ways: tuple[Callable[[], object], ...] = (
        lambda: F.linear(x, weight),
        lambda: product(x, weight, None, "none", [], ""),
        lambda: product(x, packed, None, "none", [], ""),
        lambda: piecewise(x, weight, None),
    )
    cells = []
    for way in ways:
        took = seconds(way)
        work, size = 2 * rows * out * inside / took / 1e9, weight.nbytes / took / 1e9
        cells.append(f"{took * 1e3:.3f} ms, {work:.0f} GFLOP/s, {size:.1f} GB/s")
    name = str(dtype).removeprefix("torch.")
    return f"| {out} x {inside}, {name} | {rows} | " + " | ".join(cells) + " |"


def shape(text: str) -> tuple[int, int]:
    """(out, in) of a weight, from OUTxIN. Raises ArgumentTypeError."""
    if not (found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write one as 1536x512")
    return int(found[1]), int(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", type=shape, help="OUTxIN of a weight")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not has_onednn():
        raise SystemExit("this build of torch has no oneDNN, so there is nothing to compare")
    torch.set_num_threads(options.threads)
    copied = copy_rate(torch.device("cpu")) / 1e9
    rule = onednn_rule()
    print(
        f"torch {torch.__version__}, {options.threads} threads, copies {copied:.1f} GB/s; oneDNN "
        f"takes fp32 weights from {rule.elements} elements on and {rule.least} to {rule.most} "
        f"rows; decoding takes pieces up to {rule.pieces} rows"
    )
    print("| weight | rows | torch | oneDNN | packed | pieces |\n|---|---|---|---|---|---|")
    dtypes = [torch.float32]
    if torch.cpu._is_avx512_bf16_supported():
        dtypes.append(torch.bfloat16)
    for dtype in dtypes:
        for out, inside in options.shape or SHAPES:
            for rows in ROW_COUNTS:
                print(row(out, inside, rows, dtype), flush=True)


if __name__ == "__main__":
    main()
