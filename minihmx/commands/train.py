"""The verb `train`: one run, shown as it goes; Ctrl-C saves and stops."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from minihmx.config import FIELDS, resolve_config
from minihmx.errors import INTERRUPTED, Wrecked
from minihmx.models.configs import FAMILIES
from minihmx.models.folder import read_config, shipped_config
from minihmx.models.known import MODEL_GROUPS, MODELS, short_name
from minihmx.questions import load_questions, load_rubric
from minihmx.storage.config_file import ConfigFile, merge_flags, read_values
from minihmx.storage.disk import home_path
from minihmx.terminal.board import coloured, finished
from minihmx.terminal.child import PLANNED
from minihmx.terminal.preflight import slow_cpu
from minihmx.terminal.text import show, typed

LONGEST_METAVAR = 40  # characters; longer choices stand in the help, which can be folded
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
            gated = " (needs HF_TOKEN)" if info.gated else ""
            where = info.repo + gated or "no download"
            lines.append(f"  {name:<12} {info.parameters:>4} {info.gigabytes:>5g} GB  {where}")
    lines += [
        "  or a local path, or a hub id of one of these families:",
        f"  {', '.join(FAMILIES)}",
        "",
        "A run whose last held-out answers are all cut, have no score, or are for the",
        "most part degenerate has ended wrecked: it is whole on the disk, and the exit",
        "code is 6.",
    ]
    parser.epilog = "\n".join(lines)
    config_flags(parser)


def config_flags(parser: argparse.ArgumentParser, left_out: Sequence[str] = ()) -> None:
    """The model, a flag for each other field of the config, and a file that may hold them."""
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
        metavar = "|".join(choices or (kind.__name__,))
        if len(metavar) > LONGEST_METAVAR:
            metavar, text = "NAME", f"{text}: {', '.join(choices)}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=no_default,
            metavar=metavar,
            help=text.replace("%", "%%"),
        )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="values from a TOML file, or from a run's config.json; flags go before them",
    )


def field_flag(
    parser: argparse.ArgumentParser, name: str, text: str, default: Any = argparse.SUPPRESS
) -> None:
    """The flag of one field of the config, for a verb that has a few of them and says each itself.

    default: what its options hold where the flag is not given; nothing at all unless said."""
    field, flag, metavar = FIELDS[name], f"--{name.replace('_', '-')}", None
    kind, choices = type(field.default), field.metadata["choices"]
    if len("|".join(choices or ())) > LONGEST_METAVAR:
        metavar, text = "NAME", f"{text}: {', '.join(choices)}"
    parser.add_argument(
        flag, type=kind, default=default, choices=choices, metavar=metavar, help=text
    )


def config_file(options: argparse.Namespace) -> ConfigFile | None:
    return None if options.config is None else read_values(options.config)


def slow_here(flags: Mapping[str, Any]) -> list[str]:
    """A warning where a large model would be trained on a CPU, said before it is downloaded.

    Nothing is known yet of a hub id without a short name. Raises Failure for what cannot work.
    """
    from minihmx.engine.open import pick_device
    from minihmx.instruments import estimate, machine, time_floors
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
    return slow_cpu(name, "cpu", time_floors.floors(shape, config, work, speed), speed)


def run(options: argparse.Namespace) -> int:
    """Train and print; the first Ctrl-C or SIGTERM saves and stops, a second stops at once.

    Raises Failure, and of its kinds Wrecked where the run's last answers are worth nothing.
    """
    from minihmx.engine import ranks
    from minihmx.run import open_run
    from minihmx.terminal import live
    from minihmx.terminal.bars import possible, with_bars
    from minihmx.terminal.lines import STOPPING, Lines
    from minihmx.train import Ended, train

    asked: list[float] = []

    def interrupt(number: int, _: object) -> None:
        now = time.monotonic()
        typed_again = number == signal.SIGINT and ranks.world() == 1  # torchrun passes it on, too
        if asked and (typed_again or now - asked[0] > SAME_STOP):
            raise KeyboardInterrupt
        asked.append(now)
        if len(asked) > 1:
            return
        if view:
            view.interrupted = True
        elif not ranks.rank():  # print could meet itself, if the signal comes amid another print
            os.write(2, f"\n{' '.join(STOPPING)}\n".encode())

    # nothing is to be saved before a run stands, so until then Ctrl-C stops at once
    flags = {name: value for name, value in vars(options).items() if name in FIELDS}
    file = config_file(options)
    for warning in slow_here(merge_flags(flags, file)[0]):
        show(f"warning    {warning}")
    with with_bars():
        ready = open_run(flags, file)
    # What exists by now stays to the end, torch's modules above all. Python's garbage collector
    # runs often, since each call of a kernel makes objects, and need not look at these each time.
    gc.freeze()
    lines, last = Lines(typed(), planned=PLANNED in os.environ), None
    view = live.View(lines) if possible(sys.stdout) and not ranks.rank() else None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    with view or contextlib.nullcontext():
        for event in train(ready, should_stop=lambda: bool(asked)):
            if view:
                view.show(event)
            elif not ranks.rank():
                for line in lines.render(event):
                    show(finished(line, coloured()))
            last = event
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is saved
    if lines.verdict:
        raise Wrecked(lines.verdict)
    return INTERRUPTED if last == Ended("interrupted") else 0
