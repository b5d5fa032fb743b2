"""`minihmx explain`: finds the step, epoch or item that was asked for and explains it. No torch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from minihmx.errors import UserError
from minihmx.results.epochs import EPOCH_NAME
from minihmx.results.evidence import (
    numbered,
    open_evidence,
    run_folder,
    span_of,
    what_there_is,
)
from minihmx.results.explain_epoch import explain_evaluation
from minihmx.results.explain_group import explain_step
from minihmx.results.explain_item import explain_item
from minihmx.storage.disk import home_path


class Asked(NamedTuple):
    """What commands/explain.py was given; None means not given. sample counts from 0."""

    run: str
    step: int | None
    epoch: int | None
    question: str | None
    prompt: bool
    benchmark: str | None
    item: str | None
    sample: int


def explained(asked: Asked) -> Iterator[str]:
    """The lines of the explanation. If a number in it differs from the file, the last line names
    the command that checks all files.

    Raises UserError, saying what there is, for a step, epoch, question or item that is not there.
    """
    differing = False
    for line in _lines(asked):
        differing |= line.startswith("notice ")
        yield line
    if differing:
        folder = shlex.quote(asked.run.rpartition("@")[0] or asked.run)
        yield f"`minihmx audit {folder}` checks every file."


def _lines(asked: Asked) -> Iterator[str]:
    run, step, epoch = asked.run, asked.step, asked.epoch
    if asked.item is not None and asked.benchmark is None:
        raise UserError("--item is one of a benchmark's; give --benchmark NAME as well.")
    if asked.benchmark is not None and (asked.question is not None or asked.prompt):
        raise UserError(
            "--question and --prompt are for --step and --epoch; name what a benchmark asks by "
            "--item ID."
        )
    if asked.benchmark is not None:
        yield from explain_item(run, asked.benchmark, asked.item, asked.sample)
        return
    if step is None and epoch is None:
        run, epoch = _with_epoch(run)
    folder = run_folder(run)
    if step is None and epoch is None:
        raise UserError(
            f"{folder} holds {what_there_is(folder)}; say what to explain, as --step N, --epoch N "
            "or --benchmark NAME --item ID."
        )
    evidence = open_evidence(folder)
    steps, epochs = numbered(folder, "rollouts/step-*"), numbered(folder, "evaluations/epoch-*")
    if step is not None:
        if step not in steps:
            raise UserError(f"{folder} has no step {step}; there are {span_of(steps, 'step')}.")
        yield from explain_step(evidence, step, asked.question, asked.prompt)
    elif epoch is not None:
        if epoch not in epochs:
            raise UserError(f"{folder} has no epoch {epoch}; there are {span_of(epochs, 'epoch')}.")
        yield from explain_evaluation(evidence, epoch, asked.question, asked.prompt)


def _with_epoch(text: str) -> tuple[str, int | None]:
    """RUN and 3 for RUN@epoch-03; (RUN, None) for a path without an epoch's name."""
    run, _, name = text.rpartition("@")
    named = EPOCH_NAME.fullmatch(name)
    if not run or not named or os.path.exists(home_path(text)):
        return text, None
    return run, int(named[1])
