"""The verb `train`: one run, shown as it goes; Ctrl-C saves and stops."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from minihmx.config import FIELDS, MODEL_GROUPS, MODELS, resolve_config, short_name
from minihmx.errors import INTERRUPTED
from minihmx.models.configs import FAMILIES
from minihmx.models.folder import read_config, shipped_config
from minihmx.questions import load_questions, load_rubric
from minihmx.storage.config_file import ConfigFile, merge_flags, read_values
from minihmx.storage.disk import home_path
from minihmx.terminal.preflight import slow_cpu
from minihmx.terminal.text import show, typed

SMALL_MODEL = 50e6  # parameters; below it a CPU is no mistake
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
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="values from a TOML file, or from a run's config.json; flags go before them",
    )


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


def config_file(options: argparse.Namespace) -> ConfigFile | None:
    return None if options.config is None else read_values(options.config)


def slow_here(flags: Mapping[str, Any]) -> list[str]:
    """A warning where a large model would be trained on a CPU, said before it is downloaded.

    Nothing is known yet of a hub id without a short name. Raises Failure for what cannot work.
    """
    from minihmx.engine.open import pick_device
    from minihmx.instruments import estimate, machine
    from minihmx.run import path_or_none

    name = flags.get("model", "tiny")
    short = short_name(name)
    if short and MODELS[short].repo:
        shape = shipped_config(short)
    elif short is None and os.path.isfile(home_path(name) / "config.json"):
        shape = read_config(home_path(name))
    else:
        return []
    small = sum(estimate.parameter_counts(shape)) < SMALL_MODEL
    if small or pick_device(flags.get("device", "auto")).type != "cpu":
        return []
    config, _ = resolve_config(flags, short, shape.model_type, shape.max_positions)
    config = replace(config, device="cpu", dtype="float32", checkpointing="off")
    questions = load_questions(path_or_none(config.questions), config.leave_out)
    work = estimate.Workload.of(questions, load_rubric(path_or_none(config.rubric)))
    speed = machine.cpu_speed()
    return slow_cpu(name, "cpu", estimate.floors(shape, config, work, speed), speed)


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
    flags = {name: value for name, value in vars(options).items() if name in FIELDS}
    file = config_file(options)
    for warning in slow_here(merge_flags(flags, file)[0]):
        show(f"warning    {warning}")
    ready = open_run(flags, file)
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
