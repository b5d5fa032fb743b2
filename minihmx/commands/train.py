"""The verb `train`: one run, shown as it goes; Ctrl-C saves and stops."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Sequence

from minihmx.config import FIELDS, MODEL_GROUPS, MODELS
from minihmx.errors import INTERRUPTED
from minihmx.models.configs import FAMILIES
from minihmx.terminal.text import show, typed

# Who ends a job signals each of its processes, and one of them may pass the signal on: within so
# many seconds a further SIGTERM is the same wish. Ctrl-C comes from a person, so it counts.
SAME_STOP = 3.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Every config field is a flag, so that a default stands in one place."""
    lines = []
    for heading, names in MODEL_GROUPS.items():
        lines.append(f"models, {heading}:")
        for name in names:
            info = MODELS[name]
            gated = " (gated: needs HF_TOKEN)" if info.gated else ""
            where = info.repo + gated or "no download"
            lines.append(f"  {name:<12} {info.parameters:>5} {info.gigabytes:>6g} GB  {where}")
    lines.append(f"  or a local path, or a hub id of one of these families: {', '.join(FAMILIES)}")
    parser.epilog = "\n".join(lines)
    config_flags(parser)


def config_flags(parser: argparse.ArgumentParser, left_out: Sequence[str] = ()) -> None:
    """The model, and a flag for each other field of the config."""
    no_default = argparse.SUPPRESS  # only flags that were given may go before a model's own row
    if "model" not in left_out:
        parser.add_argument(
            "model", nargs="?", default=no_default, help="short name, local path or hub id (tiny)"
        )
    for name, field in FIELDS.items():
        if name == "model" or name in left_out:
            continue
        kind, choices = type(field.default), field.metadata["choices"]
        source = field.metadata["source"]
        text = f"{field.metadata['help']} (default {field.default!r}, {source})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=no_default,
            metavar="|".join(choices or (kind.__name__,)),
            help=text.replace("%", "%%"),
        )


def run(options: argparse.Namespace) -> int:
    """Train and print; the first Ctrl-C or SIGTERM saves and stops, a second stops at once."""
    from minihmx.run import open_run
    from minihmx.terminal import live
    from minihmx.terminal.lines import STOPPING, Lines
    from minihmx.train import Ended, train

    asked: list[float] = []

    def interrupt(number: int, _: object) -> None:
        now = time.monotonic()
        if asked and (number == signal.SIGINT or now - asked[0] > SAME_STOP):
            raise KeyboardInterrupt
        asked.append(now)
        if len(asked) > 1:
            return
        if view:
            view.interrupted = True
        else:  # print could meet itself, if the signal comes in the middle of another print
            os.write(2, f"\n{' '.join(STOPPING)}\n".encode())

    # nothing is to be saved before a run stands, so until then Ctrl-C stops at once
    ready = open_run({name: value for name, value in vars(options).items() if name in FIELDS})
    lines, last = Lines(typed()), None
    view = live.View(lines) if live.possible() else None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    with view or contextlib.nullcontext():
        for event in train(ready, should_stop=lambda: bool(asked)):
            if view:
                view.show(event)
            else:
                for line in lines.render(event):
                    show(line)
            last = event
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is saved
    return INTERRUPTED if last == Ended("interrupted") else 0
