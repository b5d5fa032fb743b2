"""What stays of a run when it has ended: its curve, one question before and after, what to do next.

Everything is read from the disk, so a run that was complete already says the same again.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minihmx.config import Config
from minihmx.errors import Failure
from minihmx.run import Run
from minihmx.selection import DIRECTIONS
from minihmx.stats import mean
from minihmx.storage.disk import read_lines
from minihmx.storage.history import NUMBER, seconds_of_steps
from minihmx.terminal.answers import said_in, said_lines
from minihmx.terminal.text import Copied, duration, number, printable, program

BAR = 20  # signs for a score of 10, at most
BESIDE = 52  # columns of what stands beside them
EPOCHS = 12  # lines of the curve at most


def summary_lines(
    run: Run, evaluations: Sequence[Mapping[str, Any]], verdict: str, width: int, planned: bool
) -> Iterator[str]:
    """evaluations: their metrics, from epoch 0 on. verdict: on a run that ended wrecked, else "".

    planned: an experiment or a sweep does what comes next.
    """
    first, last = evaluations[0], evaluations[-1]
    seconds = seconds_of_steps(run.store.folder)
    lasted = "" if seconds is None else f" in {duration(seconds)}"
    yield (
        f"{'wrecked' if verdict else 'complete'}: {run.config.direction}, {run.total_steps} steps"
        f"{lasted}; held-out score {_score(first)} -> {_score(last)} of 10"
    )
    yield ""
    yield from curve_lines(evaluations, width)
    yield ""
    yield from before_and_after(run, last["epoch"], width)
    folder, name = run.store.folder, f"epoch-{last['epoch']:02d}"
    yield f"  adapter      {run.store.checkpoints / name}"
    yield f"  every answer {folder / 'evaluations'}, and rollouts beside it"
    if not (verdict or planned):
        yield ""
        yield "next:"
        yield from next_commands(run)


def _score(m: Mapping[str, Any]) -> str:
    return f"{number(m['score'], '.2f')} ± {number(m['score_error'], '.2f')}"  # standard error


def curve_lines(evaluations: Sequence[Mapping[str, Any]], width: int) -> Iterator[str]:
    """The held-out questions epoch by epoch; of many the first and the last ones."""
    columns = max(min(width - BESIDE, BAR), 0)
    yield f"  held-out score of 10{'':{columns}}       kl  unscored  cut  odd"
    left_out = len(evaluations) - EPOCHS
    for place, m in enumerate(evaluations):
        if left_out > 0 and 1 <= place <= left_out:
            if place == 1:
                yield f"  ({left_out} epochs are left out)"
            continue
        epoch = f"epoch {m['epoch']}" if m["epoch"] else "start"
        drawn = "█" * round((m["score"] or 0.0) / 10 * columns)
        shares = [
            number(m[name] if type(m.get(name)) in NUMBER else None, ".0%")  # older code lacks some
            for name in ("unscored", "truncated", "degenerate")
        ]
        yield (
            f"  {epoch:<8} {_score(m):<12} {drawn:<{columns}} {number(m['kl'], '.4f'):>6}  "
            f"{shares[0]:>8} {shares[1]:>4} {shares[2]:>4}"
        )


def before_and_after(run: Run, epoch: int, width: int) -> Iterator[str]:
    """One held-out question with an answer of the start and of the end; nothing if their files are
    damaged. Its score changed most nearly as the mean did: what is usual is shown, not the best."""
    folder = run.store.folder / "evaluations"
    with contextlib.suppress(Failure, OSError, LookupError, TypeError, ValueError):
        before = read_lines(folder / "epoch-00.jsonl")
        after = read_lines(folder / f"epoch-{epoch:02d}.jsonl")
        place = typical_answer(before, after)
        texts = {question.id: question.text for question in run.eval_questions}
        asked = printable(texts[before[place]["question"]])
        lines = [f"  {asked}  (the held-out answer that changed most like the mean)"]
        for when, row in (("before", before[place]), ("after", after[place])):
            lines += said_lines(said_in(when, row, run.config.direction), width)
        yield from (*lines, "")


def typical_answer(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> int:
    """The line whose score changed most nearly as much as those of all together; 0 without scores.

    Lines of the two that have one place answer one question, from the same random numbers.
    """
    changes = {
        place: new["score"] - old["score"]
        for place, (old, new) in enumerate(zip(before, after, strict=True))
        if old["score"] is not None and new["score"] is not None
    }
    overall = mean([float(change) for change in changes.values()]) or 0.0
    return min(changes, key=lambda place: abs(changes[place] - overall), default=0)


def next_commands(run: Run) -> Iterator[str]:
    """Three commands: talk with it, see it as a page, and its other direction, or their pair."""
    config, folder = run.config, run.store.folder
    other = next(d for d in DIRECTIONS if d != config.direction)
    mirror = folder.parent.parent / other / folder.name
    pair = {config.direction: folder, other: mirror}
    commands = {
        "talk with it, the base beside it": ["chat", config.model, "--adapter", str(folder)],
        "all of it as a page": ["report", str(folder)],
    }
    if (mirror / "manifest.json").is_file():
        both = [str(pair[direction]) for direction in DIRECTIONS]
        commands["choose the epochs to compare with the other direction"] = ["select", *both]
    else:
        commands["the other direction, its mirror image"] = [
            "train",
            config.model,
            *flags_again(config, run.sources, other),
        ]
    for what, words in commands.items():
        yield f"  {what}"
        yield Copied(f"    {program(words[0])} {shlex.join(words)}")


def flags_again(config: Config, sources: Mapping[str, str], direction: str) -> list[str]:
    """The flags that this run was started with, for the other direction."""
    files = {source.removeprefix("file ") for source in sources.values() if source[:5] == "file "}
    words = [f"--config={path}" for path in sorted(files)]
    for name, source in sorted(sources.items()):
        if source == "flag" and name not in ("model", "direction"):
            words.append(f"--{name.replace('_', '-')}={getattr(config, name)}")
    return [*words, f"--direction={direction}"]
