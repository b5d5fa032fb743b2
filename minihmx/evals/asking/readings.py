"""A judge that reads the stored replies of an evaluation, kept beside it. No torch until it reads.

    RUN/readings/<benchmark>/<evaluation>-<digest>/  reader.json  words.jsonl  manifest.json

The digest covers the judge, its prompt, its settings and the samples, so nothing that is there is
ever replaced. words.jsonl grows by batches, in the order of samples.jsonl, and what was killed goes
on behind its last whole line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minihmx.errors import DataError
from minihmx.evals.asking.results import SAMPLES, read_samples
from minihmx.evals.benchmark import Switches
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

if TYPE_CHECKING:
    from minihmx.evals.asking.results import Results
    from minihmx.evals.asking.task import Machine
    from minihmx.rollout import Judgement

READINGS_FOLDER, READER_FILE, WORDS_FILE = "readings", "reader.json", "words.jsonl"
READER_TOKENS, READER_BATCH = 12, 32
AskedBefore = dict[str, "Judgement"]  # a judge's answer by its prompt


def word_line(sample: StoredSample, words: str, finish: str, readable: Readable) -> dict[str, Any]:
    """What a line of words.jsonl holds: whose reply, what the judge said, and the label in it."""
    label = parse_label(words, finish == "stop", readable)
    own = {name: sample[name] for name in ("id", "sample")}
    return {**own, "words": words, "finish": finish, "label": label}


def prompt_digest(readable: Readable) -> str:
    """sha256 of the prompt about a reply with no text, which is what all prompts have in common."""
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
        """Own the folder; the lines that are there, a torn one being cut off.

        Raises UserError where another process reads here, DataError where they were changed.
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
        if not (self.folder / READER_FILE).exists():
            self.store.write_json(READER_FILE, self.identity)
        return lines

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


def read_replies(
    machine: Machine, model: Mapping[str, Any], results: Results, said: AskedBefore
) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
    """Let the decoder as it is, which has to be the base, label every reply of an evaluation.

    Yields how many of how many replies are read, and all their lines, after every batch. said: what
    was asked before, for replies that are the same with another adapter; it is added to.
    """
    from minihmx.engine.prompts import Prompts
    from minihmx.instruments.work import working
    from minihmx.rollout import ask_judge

    own, tokenizer = results.settings, machine.tokenizer
    settings = {"date": own.date, "dtype": own.dtype, "max_new_tokens": READER_TOKENS}
    settings["chat_format"] = own.chat_format or tokenizer.family
    folder = ReadingsFolder(results.folder, model, settings)
    samples, prompts = read_samples(results.folder), Prompts(tokenizer, own.date, "")
    lines, switches = folder.begin(samples), own.switches
    yield len(lines), len(samples), lines
    title = f"a judge reads {results.benchmark.name} of {results.subject.title}"
    with working(title, len(samples), len(lines)) as work:
        while len(lines) < len(samples):
            batch = samples[len(lines) : len(lines) + READER_BATCH]
            turns = [reader_turn(folder.readable, sample, switches) for sample in batch]
            new = [turn for turn in dict.fromkeys(turns) if turn not in said]
            ids = [prompts.policy(turn) for turn in new]
            found = ask_judge(
                machine.decoder,
                tokenizer,
                ids,
                max_new_tokens=READER_TOKENS,
                limit=machine.row_limit,
            )
            said.update(zip(new, found, strict=True))
            told = [said[turn] for turn in turns]
            made = [
                word_line(sample, judgement.text, judgement.finish, folder.readable)
                for sample, judgement in zip(batch, told, strict=True)
            ]
            folder.add(made)
            lines += made
            work.done += len(made)
            yield len(lines), len(samples), lines
    folder.finish()


def reader_turn(readable: Readable, sample: StoredSample, switches: Switches) -> str:
    """What the judge is told about one stored reply."""
    return reader_prompt(readable, readable.show(sample, switches))
