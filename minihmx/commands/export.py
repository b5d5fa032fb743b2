"""The verb `export`: base and adapter as one checkpoint."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which adapter, and where its merged model goes."""
    parser.add_argument("run", help="a run's folder, RUN@epoch-03, or an adapter's folder")
    parser.add_argument("--merge", action="store_true", help="add the adapter to its base model")
    parser.add_argument("--out", metavar="DIR", help="new folder (merged/ in the run's folder)")
    parser.add_argument("--model", help="the base model, where the adapter does not name it")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="to store (the base's own)"
    )


def run(options: argparse.Namespace) -> int:
    """Write and print what was rounded."""
    from minihmx.models.export import export

    for line in export(options.run, options.merge, options.out, options.model, options.dtype):
        print(line, flush=True)
    return 0
