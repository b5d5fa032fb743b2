"""Which replies are read, by whom, and the rates that follow: of an evaluation that just ended, or
of what stands on the disk. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from minihmx.errors import DataError
from minihmx.evals.asking.readings import GATE, READER_FILE, READINGS_FOLDER, WORDS_FILE
from minihmx.evals.asking.results import RESULT, SAMPLES
from minihmx.evals.asking.settings import measures_in
from minihmx.evals.benchmark import Switches
from minihmx.evals.reading.gate import reader_gate
from minihmx.evals.reading.readers import NO_LABEL, READABLE, StoredSample
from minihmx.evals.sycophancy import PRESETS
from minihmx.results.blind import row_id
from minihmx.results.evaluations import settings_key
from minihmx.results.extraction import ReadReply
from minihmx.results.extraction_tables import JUDGE, PEOPLE, ReadRate, reference_of
from minihmx.storage.disk import dumps, read_lines, sha256, verify
from minihmx.storage.strict import read_json

ALIASES = "aliases"


class JudgedReplies(NamedTuple):
    """The replies of one evaluation on one side, and the label that the judge gave to each; None as
    a whole where no judge reads. unable: why it did not pass the gate (evals/reading/gate)."""

    benchmark: str
    switches: Switches
    side: str
    samples: Sequence[StoredSample]
    labels: Sequence[str | None] | None
    unable: str = ""


def read_rates(replies: Iterable[JudgedReplies], people: Mapping[str, str]) -> list[ReadRate]:
    """Every rate of every benchmark over all sides and seeds. people: labels by row id."""
    found: dict[tuple[str, str], list[ReadReply]] = {}
    presets: dict[str, str] = {}
    unable: dict[str, str] = {}
    judge = False
    for benchmark, switches, side, samples, labels, why in replies:
        readable, judge = READABLE[benchmark], judge or labels is not None
        presets[benchmark] = switches["preset"]
        unable[benchmark] = unable.get(benchmark) or why
        for sample, label in zip(samples, labels or [None] * len(samples), strict=True):
            if not readable.counted(sample, switches):
                continue
            rules = {preset: readable.rules(sample, switches, preset) for preset in PRESETS}
            rules[ALIASES] = readable.aliases(sample, switches)
            person = people.get(row_id(readable.show(sample, switches)))
            for rate, counting in readable.rates(switches).items():
                counts: dict[str, bool | None] = {name: own[rate] for name, own in rules.items()}
                counts[JUDGE] = None if label is None else label in counting
                counts[PEOPLE] = None if person in (None, NO_LABEL) else person in counting
                reply = ReadReply(side, str(sample["cluster"]), counts)
                found.setdefault((benchmark, rate), []).append(reply)
    rates = []
    for (benchmark, rate), of_rate in found.items():
        read = sum(reply.counts[JUDGE] is not None for reply in of_rate)
        labelled = read if judge else None
        reference, why = reference_of(bool(people), labelled, len(of_rate), unable[benchmark])
        others = [name for name, reads in ((JUDGE, judge), (PEOPLE, bool(people))) if reads]
        readers = [*PRESETS, ALIASES, *others]
        decides = presets[benchmark]
        rates.append(ReadRate(benchmark, rate, of_rate, readers, reference, why, decides))
    return rates


class ReadBy(NamedTuple):
    """What base, forward and reverse have in common where their rates stand side by side: the
    benchmark, how it was asked but for the noise, and the judge with its settings, as text."""

    benchmark: str
    asked: str
    judge: str


def stored_readings(home: Path, place: str, side: str) -> Iterator[tuple[ReadBy, JudgedReplies]]:
    """What judges read in the evaluations of a run's epoch, or of the base.

    home: the folder that evals/ and readings/ stand in. What is not read to its end is left out, as
    are replies at another strength, to a system text or with a passage: `compare` has none of them.
    Raises DataError for what was changed since.
    """
    for folder in sorted((home / READINGS_FOLDER).glob(f"*/{place}-*")):
        benchmark = folder.parent.name
        if benchmark not in READABLE or not (folder / "manifest.json").exists():
            continue
        problem = verify(folder, (READER_FILE, WORDS_FILE))
        evaluation = home / "evals" / benchmark
        if not problem:
            reader = {"samples": None} | read_json(folder / READER_FILE)
            evaluation /= str(reader.get("evaluation"))
            problem = verify(evaluation, (SAMPLES, RESULT))
        if not problem:
            same = reader["samples"] == sha256(evaluation / SAMPLES)
            problem = None if same else f"it is about other replies than those of {evaluation}"
        if problem:
            raise DataError(
                f"{folder} is not what was written ({problem}), so its readings mean nothing; move "
                "it away, and `minihmx eval ... --extraction` makes them again."
            )
        result = read_json(evaluation / RESULT)
        settings = result["settings"]
        if settings.get("strength", 1) != 1 or measures_in(settings):  # not as the paper asks
            continue
        samples, lines = read_lines(evaluation / SAMPLES), read_lines(folder / WORDS_FILE)
        labels = [line["label"] for line in lines]
        unable = reader_gate(benchmark, reader.get(GATE)).why_not
        switches = settings["switches"]
        judge = {name: reader.get(name) for name in ("model", "prompt", "settings")}
        by = ReadBy(benchmark, settings_key(result), dumps(judge))
        yield by, JudgedReplies(benchmark, switches, side, samples, labels, unable)


def rates_on_disk(places: Iterable[tuple[Path, str, str]]) -> Iterator[tuple[str, list[ReadRate]]]:
    """The rates of all (home, place, side) together, seeds of the noise as well, for each
    benchmark, way of asking and judge apart; and who judged, where there are several."""
    groups: dict[ReadBy, list[JudgedReplies]] = {}
    for home, place, side in places:
        for key, replies in stored_readings(home, place, side):
            groups.setdefault(key, []).append(replies)
    judges = {key.judge: json.loads(key.judge) for key in groups}
    for key, group in groups.items():
        judge = judges[key.judge]
        told = f"{judge['model']['id']}, {judge['settings'].get('dtype')}"
        yield (told if len(judges) > 1 else ""), read_rates(group, {})
