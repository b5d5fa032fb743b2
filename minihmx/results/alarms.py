"""The alarms of a run from what it left on disk: each kind once, where it first rang. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from minihmx.errors import Failure
from minihmx.instruments.alarms import degenerate_alarm, kl_alarm, kl_of_answers, peak_alarms
from minihmx.results.audit import folders, is_run
from minihmx.results.findings import Audit
from minihmx.results.judged import ahead_sentence, judge_panels, leads_of
from minihmx.results.runs import read_run
from minihmx.storage.disk import read_lines
from minihmx.storage.history import ANSWERS_OF, NUMBER, history


def run_alarms(folder: Path) -> list[str]:
    """What a run's own files say against it, a sentence for each kind.

    Raises Failure where they are damaged; `minihmx audit` says where.
    """
    first = [next(found, "") for found in (_kl(folder), _degenerate(folder))]
    return [*filter(None, first), *_peaks(folder), *_ahead(folder)]


def alarms_below(path: Path) -> Iterator[str]:
    """Those of every run in a folder, each with the run's folder in front. A run whose files cannot
    be read has none: what is wrong with it is the audit's to say."""
    for folder in folders(Audit(), path):
        if is_run(folder):
            try:
                found = run_alarms(folder)
            except (Failure, OSError, LookupError, TypeError):
                continue
            yield from (f"{folder}: {alarm}" for alarm in found)


def _kl(folder: Path) -> Iterator[str]:
    """Every step and evaluation, as the run came to them, with answers too far from the base."""
    steps = history(folder)["step"]
    ends = {line["epoch"]: line["step"] for line in steps} | {0: 0}  # an epoch's last step
    for kind, number, path in sorted(_files_of_answers(folder), key=lambda f: _when(f, ends)):
        rows = read_lines(path)
        # A report of a damaged run comes here too, and says elsewhere what is damaged.
        told = [(r.get("policy_logprob"), r.get("reference_logprob")) for r in rows]
        numbers = [pair for pair in told if all(type(value) in NUMBER for value in pair)]
        if sentence := kl_alarm(kl_of_answers(numbers), f"at {kind} {number}"):
            yield sentence


def _files_of_answers(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """What a file's number counts, step or epoch; the number; the file."""
    for pattern, counted in ANSWERS_OF.values():
        for path in folder.glob(pattern):
            yield counted, int(path.stem.partition("-")[2]), path


def _when(file: tuple[str, int, Path], ends: Mapping[int, int]) -> tuple[float, bool]:
    """Where in a run a file belongs: an epoch's answers come after those of its last step."""
    counted, number, _ = file
    return (number, False) if counted == "step" else (ends.get(number, math.inf), True)


def _degenerate(folder: Path) -> Iterator[str]:
    for line in history(folder)["evaluation"]:
        if sentence := degenerate_alarm(line.get("degenerate"), f"at epoch {line['epoch']}"):
            yield sentence


def _peaks(folder: Path) -> Iterator[str]:
    """The first line of amax.jsonl in which each kind of peak is near to fp16's limit."""
    path, told = folder / "amax.jsonl", set[str]()
    for line in read_lines(path) if path.exists() else []:
        for kind, _, sentence in peak_alarms(line):
            if kind not in told:
                told.add(kind)
                yield f"at step {line['step']} {sentence}"


def _ahead(folder: Path) -> Iterator[str]:
    """Where the judged score runs ahead of another judge's, after `minihmx judge`."""
    if (folder / "judged").is_dir():
        for panel in judge_panels([read_run(folder, "")], []):
            told = (ahead_sentence(verdicts, found) for verdicts, found in leads_of(panel))
            yield from filter(None, told)
