"""A judge that reads the stored replies of an evaluation, kept beside it. No torch until it reads.

    RUN/readings/<benchmark>/<evaluation>-<digest>/  reader.json  words.jsonl  manifest.json

The digest covers the judge, its prompt, its settings and the samples, so no other reading ever
replaces this one. reader.json also holds what the judge said to the fixed replies of
evals/reading/gate.py, about which it is asked first. words.jsonl grows by batches in the order of
samples.jsonl, and a reading that was killed goes on after its last whole line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.errors import DataError
from minihmx.evals.asking.results import SAMPLES, read_samples
from minihmx.evals.benchmark import Switches
from minihmx.evals.reading.gate import ReaderGate, fixed_line, fixed_replies, reader_gate
from minihmx.evals.reading.readers import (
    READABLE,
    Readable,
    StoredSample,
    parse_label,
    reader_prompt,
)
from minihmx.storage.disk import dumps, parse_lines, sha256, verify
from minihmx.storage.identity import text_digest
from minihmx.storage.run_folder import Store
from minihmx.storage.strict import read_json

if TYPE_CHECKING:
    from minihmx.evals.asking.results import Results
    from minihmx.evals.asking.task import Machine
    from minihmx.rollout import Judgement

READINGS_FOLDER, READER_FILE, WORDS_FILE = "readings", "reader.json", "words.jsonl"
READER_TOKENS, READER_BATCH = 12, 32
GATE = "gate"  # the field of reader.json that the digest in the folder's name does not cover
AskedBefore = dict[str, "Judgement"]  # a judge's answer by its prompt


def word_line(sample: StoredSample, words: str, finish: str, readable: Readable) -> dict[str, Any]:
    """What a line of words.jsonl holds: whose reply, what the judge said, and the label in it."""
    label = parse_label(words, finish == "stop", readable)
    own = {name: sample[name] for name in ("id", "sample")}
    return {**own, "words": words, "finish": finish, "label": label}


def prompt_digest(readable: Readable) -> str:
    """sha256 (hex) of the prompt with empty texts: the words that all prompts have in common."""
    return text_digest(reader_prompt(readable, ("",) * len(readable.shown)))


class ReadingsFolder:
    """What one judge reads in the samples of one evaluation, to be added to."""

    def __init__(self, evaluation: Path, model: Mapping[str, Any], settings: Mapping[str, Any]):
        self.evaluation, home = evaluation, evaluation.parents[2]
        self.benchmark = evaluation.parent.name
        self.readable = READABLE[self.benchmark]
        self.identity = {
            "evaluation": evaluation.name,
            "samples": sha256(evaluation / SAMPLES),
            "model": dict(model),
            "prompt": prompt_digest(self.readable),
            "settings": dict(settings),
        }
        decides = {**self.identity, "model": model["digest"]}
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        name = f"{evaluation.name}-{digest[:8]}"
        self.store = Store(home / READINGS_FOLDER / self.benchmark / name, root=home)
        self.folder = self.store.folder

    @property
    def sealed(self) -> bool:
        """Whether every reply is read."""
        return (self.folder / "manifest.json").exists()

    def begin(self, samples: Sequence[StoredSample]) -> list[dict[str, Any]]:
        """Own the folder, cut off a torn last line, and return the whole lines that are there.

        Raises UserError if another process is at work here, DataError if the files were changed.
        """
        self.store.lock()
        path, disk = self.folder / WORDS_FILE, self.store.disk
        if self.sealed and (problem := verify(self.folder, (READER_FILE, WORDS_FILE))):
            raise self._spoilt(problem)
        data = disk.read(path)
        lines = parse_lines(path, data)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            disk.truncate(path, whole)
        if len(lines) > len(samples) or (self.sealed and len(lines) < len(samples)):
            raise self._spoilt(f"{len(lines)} lines for {len(samples)} replies")
        for number, (line, sample) in enumerate(zip(lines, samples, strict=False), start=1):
            said = str(line.get("words")), str(line.get("finish"))
            if dumps(line) != dumps(word_line(sample, *said, self.readable)):
                raise self._spoilt(f"line {number} of {WORDS_FILE} is not about its reply")
        return lines

    @property
    def begun(self) -> bool:
        """Whether the judge was asked about the fixed replies, which come before all others."""
        return (self.folder / READER_FILE).exists()

    def write_reader(self, gate: Sequence[Mapping[str, Any]]) -> None:
        """Say who reads here, and what the judge said to the fixed replies."""
        self.store.write_json(READER_FILE, {**self.identity, GATE: gate})

    def gate(self) -> ReaderGate:
        """How the judge read the fixed replies."""
        return reader_gate(self.benchmark, read_json(self.folder / READER_FILE).get(GATE))

    def _spoilt(self, problem: str) -> DataError:
        return DataError(
            f"{self.folder} is not what was written ({problem}), so its readings mean nothing; "
            "move it away, and `minihmx eval ... --extraction` makes them again."
        )

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append a batch."""
        text = "".join(dumps(line) + "\n" for line in lines)
        self.store.disk.write(self.folder / WORDS_FILE, text.encode(), "ab")

    def finish(self) -> None:
        """Seal the folder, unless it is."""
        if not self.sealed:
            digests = {name: sha256(self.folder / name) for name in (READER_FILE, WORDS_FILE)}
            self.store.write_json("manifest.json", {"sha256": digests})


class Readings(NamedTuple):
    """What the judge said of all replies of an evaluation, and how it read the fixed ones."""

    lines: list[dict[str, Any]]
    gate: ReaderGate


def read_replies(
    machine: Machine, model: Mapping[str, Any], results: Results, said: AskedBefore
) -> Readings:
    """Let the decoder label every reply of an evaluation. No adapter may be on it.

    said: the judge's answers so far, by prompt. An equal prompt, which an equal reply of another
    adapter gives, is not asked again, and new answers are added.
    """
    from minihmx.instruments.work import working

    own = results.settings
    settings = {"date": own.date, "dtype": own.dtype, "max_new_tokens": READER_TOKENS}
    settings["chat_format"] = own.chat_format or machine.tokenizer.family
    folder = ReadingsFolder(results.folder, model, settings)
    readable, samples = folder.readable, read_samples(results.folder)
    lines, switches = folder.begin(samples), own.switches
    if not folder.begun:
        replies = fixed_replies(folder.benchmark)
        turns = [reader_prompt(readable, reply.texts) for reply in replies]
        told = _ask(machine, own.date, turns, said)
        pairs = zip(replies, told, strict=True)
        folder.write_reader([fixed_line(readable, r, j.text, j.finish) for r, j in pairs])
    title = f"a judge reads {results.benchmark.name} of {results.subject.title}"
    with working(title, len(samples), len(lines)) as work:
        while len(lines) < len(samples):
            batch = samples[len(lines) : len(lines) + READER_BATCH]
            turns = [reader_turn(readable, sample, switches) for sample in batch]
            told = _ask(machine, own.date, turns, said)
            made = [
                word_line(sample, judgement.text, judgement.finish, readable)
                for sample, judgement in zip(batch, told, strict=True)
            ]
            folder.add(made)
            lines += made
            work.done += len(made)
    folder.finish()
    return Readings(lines, folder.gate())


def _ask(machine: Machine, date: str, turns: Sequence[str], said: AskedBefore) -> list[Judgement]:
    """The judge's answer to each user turn. Only turns that are not yet in `said` are asked."""
    from minihmx.engine.prompts import Prompts
    from minihmx.rollout import ask_judge

    prompts, new = Prompts(machine.tokenizer, date, ""), [*dict.fromkeys(turns)]
    new = [turn for turn in new if turn not in said]
    found = ask_judge(
        machine.decoder,
        machine.tokenizer,
        [prompts.policy(turn) for turn in new],
        max_new_tokens=READER_TOKENS,
        limit=machine.row_limit,
    )
    said.update(zip(new, found, strict=True))
    return [said[turn] for turn in turns]


def reader_turn(readable: Readable, sample: StoredSample, switches: Switches) -> str:
    """What the judge is told about one stored reply."""
    return reader_prompt(readable, readable.show(sample, switches))
