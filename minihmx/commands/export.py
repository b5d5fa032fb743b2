"""The verb `export`: base and adapter as one checkpoint, or the adapter for others."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which adapter, and where its merged model goes."""
    parser.add_argument("run", help="a run's folder, RUN@epoch-03, or an adapter's folder")
    parser.add_argument(
        "--merge",
        action="store_true",
        help="one model of base and adapter; else the adapter for PEFT",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="new folder (merged/ or adapter/ in the run's folder)"
    )
    parser.add_argument("--model", help="the base model, where the adapter does not name it")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="to store (the base's own)"
    )


def run(options: argparse.Namespace) -> int:
    """Write, and print where it is, what was rounded, and what chats with it have to know."""
    from minihmx.models.export import export
    from minihmx.terminal.bars import with_bars

    with with_bars():
        for line in export(options.run, options.merge, options.out, options.model, options.dtype):
            print(line, flush=True)
    return 0
