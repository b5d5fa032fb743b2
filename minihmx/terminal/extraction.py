"""`minihmx eval ... --extraction`: the readers of an evaluation's replies, and what they show."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.errors import UserError
from minihmx.evals.asking.results import Results, read_samples
from minihmx.evals.asking.settings import strength_name
from minihmx.evals.reading.readers import NO_LABEL, READABLE, Readable, StoredSample
from minihmx.results.blind import Sheet, filled_in, read_sheet, row_id, sheet_bytes
from minihmx.results.extraction_rates import JudgedReplies, read_rates
from minihmx.results.extraction_tables import extraction_record, extraction_tables
from minihmx.results.layout import as_plain
from minihmx.seeding import digest
from minihmx.selection import DIRECTIONS
from minihmx.storage.disk import Disk, dumps, new_file
from minihmx.storage.strict import read_json

if TYPE_CHECKING:
    from minihmx.evals.asking.readings import Readings
    from minihmx.evals.asking.session import Session

LABELLED_ITEMS = 40


class ExtractionOptions(NamedTuple):
    """What was asked for. judge: whether it reads as well. labels: a file that people filled in.
    new: where one is to be written, and with how many items."""

    judge: bool
    labels: str
    new: Path | None
    items: int


def extraction_options(
    asked: bool, no_judge: bool, labels: str | None, labels_out: str | None, items: int | None
) -> ExtractionOptions | None:
    """What the flags of `eval` say; None where nothing is to be read.

    Raises UserError, before anything is asked, for flags that do not go together.
    """
    given = [
        flag
        for flag, value in (
            ("--no-judge", no_judge or None),
            ("--labels", labels),
            ("--labels-out", labels_out),
            ("--label-items", items),
        )
        if value is not None
    ]
    if not asked:
        if given:
            raise UserError(f"{given[0]} belongs to --extraction, which is not given; add it.")
        return None
    if labels is not None and labels_out is not None:
        raise UserError("--labels reads a file and --labels-out writes one; give one of the two.")
    if items is not None and (labels_out is None or items < 1):
        raise UserError(
            f"--label-items {items} says how many items --labels-out FILE has, at least 1; give "
            "both."
        )
    if labels is not None:
        filled_in(labels)  # refused now and not after hours, where it is not there
    new = new_file("--labels-out", labels_out) if labels_out is not None else None
    return ExtractionOptions(not no_judge, labels or "", new, items or LABELLED_ITEMS)


def readable_results(session: Session, options: ExtractionOptions) -> list[Results]:
    """The evaluations that are to be read. Raises UserError where there are none, or where a file
    of labels would be about two benchmarks."""
    found = [results for _, results in session.jobs if results.benchmark.name in READABLE]
    names = list(dict.fromkeys(results.benchmark.name for results in found))
    if not found:
        raise UserError(
            "--extraction reads the replies from which a regex takes the answer, and --tasks names "
            f"no such benchmark; take {' or '.join(READABLE)}."
        )
    if len(names) > 1 and (options.labels or options.new):
        raise UserError(
            f"A file of labels is about one benchmark, and --tasks names {' and '.join(names)}; "
            "give one of them."
        )
    return found


def extraction_lines(
    session: Session, options: ExtractionOptions, as_json: bool = False
) -> Iterator[str]:
    """Write the file for people, or read all replies with all readers; lines for a terminal, or
    with as_json a record."""
    found = readable_results(session, options)
    if options.new:
        told = _write_labels(found, options.new, options.items, session.config.seed)
        yield from _beside_records(told, as_json)
        return
    replies = [(results, read_samples(results.folder)) for results in found]
    labels, notes = _people(replies, options.labels) if options.labels else ({}, [])
    said = dict[str, Any]()
    judged = list[JudgedReplies]()
    for results, samples in replies:
        readings = _judge_readings(session, results, said) if options.judge else None
        own = [line["label"] for line in readings.lines] if readings else None
        gate = readings.gate if readings else None
        unable = gate.why_not if gate else ""
        switches, side = results.settings.switches, side_of(results)
        judged.append(JudgedReplies(results.benchmark.name, switches, side, samples, own, unable))
        if own is None:
            continue
        read = sum(label is not None for label in own)
        title = f"{results.benchmark.name}, {results.subject.title}"
        labelled = Counter(label for label in own if label is not None).most_common()
        words = ", ".join(f"{label} {count}" for label, count in labelled)
        line = f"read       {title}: the judge labelled {read} of {len(samples)} replies"
        line += f" ({words})" if words else ""
        if gate and gate.total:
            line += f", and {gate.right} of {gate.total} fixed ones rightly"
        yield from _beside_records([line], as_json)
    rates = read_rates(judged, labels)
    if as_json:
        yield dumps({"extraction": extraction_record(rates), "notes": notes})
        return
    yield from (f"note: {note}" for note in notes)
    yield ""
    yield as_plain(extraction_tables(rates)).rstrip("\n")


def _beside_records(lines: Iterable[str], as_json: bool) -> Iterator[str]:
    """The lines; with --json, where every line of stdout is a record, they go to stderr instead."""
    for line in lines:
        if as_json:
            print(line, file=sys.stderr)
        else:
            yield line


def _judge_readings(session: Session, results: Results, said: dict[str, Any]) -> Readings:
    from minihmx.evals.asking.readings import read_replies

    source = session.source
    model = {"id": source.id, "revision": source.revision, "digest": source.digest}
    return read_replies(session.machine, model, results, said)


def side_of(results: Results) -> str:
    """base, forward, reverse, or for an adapter of no run its title; seeds are one side."""
    subject = results.subject
    if subject.adapter is None:
        return subject.place
    path = subject.home / "config.json"
    config = read_json(path) if path.exists() else {}
    science = config.get("science") if isinstance(config, dict) else None
    direction = science.get("direction") if isinstance(science, dict) else None
    side = str(direction) if direction in DIRECTIONS else subject.title
    strength = results.settings.strength
    return side if strength == 1 else f"{side} x {strength_name(strength)}"


# --- people ---------------------------------------------------------------------------------------


def label_sheet(readable: Readable) -> Sheet[str]:
    """The blind file of a benchmark's replies."""

    def read(text: str) -> str:
        label = text.strip().casefold()
        if label not in (*readable.labels, NO_LABEL):
            raise ValueError(f"one of {', '.join((*readable.labels, NO_LABEL))}")
        return label

    return Sheet(readable.shown, "label", read)


def _texts(results: Results, samples: Sequence[StoredSample]) -> dict[str, tuple[str, ...]]:
    """By row id, what people see of these replies."""
    readable, switches = READABLE[results.benchmark.name], results.settings.switches
    shown = (readable.show(s, switches) for s in samples if readable.counted(s, switches))
    return {row_id(texts): texts for texts in shown}


def _write_labels(found: Sequence[Results], path: Path, items: int, seed: int) -> Iterator[str]:
    """The replies of every side to the same items, drawn by the seed."""
    rows = list[tuple[str, ...]]()
    chosen = set[str]()
    readable = READABLE[found[0].benchmark.name]
    for results in found:
        samples = read_samples(results.folder)
        samples = [s for s in samples if readable.counted(s, results.settings.switches)]
        names = {s["cluster"] for s in samples}
        drawn = sorted(names, key=lambda name: digest("label", seed, name))
        chosen = chosen or {*drawn[:items]}
        rows += _texts(results, [s for s in samples if s["cluster"] in chosen]).values()
    sheet = label_sheet(readable)
    Disk().write(path, sheet_bytes(sheet, rows, seed))
    yield ""
    yield f"{path} holds {len({*map(row_id, rows)})} replies to {len(chosen)} questions, shuffled."
    yield readable.task
    yield "Write one of these words in the column label of each row:"
    yield from (f"  {label}: {meaning}" for label, meaning in readable.labels.items())
    yield f"  {NO_LABEL}: it cannot be told (the reply is then left out)"
    yield f"Then the same command with --labels {path} in the place of --labels-out reads it back."


def _people(
    replies: Sequence[tuple[Results, Sequence[StoredSample]]], path: str
) -> tuple[dict[str, str], list[str]]:
    known = dict[str, tuple[str, ...]]()
    for results, samples in replies:
        known |= _texts(results, samples)
    sheet = label_sheet(READABLE[replies[0][0].benchmark.name])
    labels, unmarked = read_sheet(path, sheet, known)
    unclear = sum(label == NO_LABEL for label in labels.values())
    notes = [f"{path}: {len(labels)} replies are labelled, {unclear} of them {NO_LABEL}"]
    if unmarked:
        notes.append(f"{path}: {unmarked} rows have no label, and are left out")
    return labels, notes
