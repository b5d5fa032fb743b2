"""What a benchmark leaves on disk: samples.jsonl as it goes, result.json once it is complete.

The folder's name ends in a digest of everything that decides the numbers, so a limited run never
overwrites a full one. No torch: an audit reads and recomputes these files anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minihmx.errors import DataError
from minihmx.evals.benchmark import Answer, Benchmark, Choices, Item, Request, Score
from minihmx.evals.items.load import Dataset
from minihmx.seeding import shuffled
from minihmx.stats import clustered_standard_error, mean
from minihmx.storage import strict
from minihmx.storage.disk import dumps, read_lines, sha256, verify
from minihmx.storage.run_folder import Store

SAMPLES, RESULT = "samples.jsonl", "result.json"


@dataclass(frozen=True)
class Settings:
    """What decides a number beside model, adapter and items.

    samples, temperature, seed: of generated replies; temperature 0 is greedy. limit: so many items,
    0 for all. switches: the benchmark's own. date: of Llama's chat header.
    """

    chat: bool
    samples: int
    temperature: float
    seed: int
    limit: int
    switches: Mapping[str, str]
    dtype: str
    date: str


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model, and the adapter on it if any.

    home: the folder under which its evaluations stand. place: "base" or the checkpoint's name.
    model and adapter: id and digest; adapter is None for the untouched model.
    """

    home: Path
    place: str
    model: Mapping[str, str | None]
    adapter: Mapping[str, str] | None

    @property
    def title(self) -> str:
        """ "base", or which run's which checkpoint, as in forward/seed-1/epoch-03."""
        return self.adapter["name"] if self.adapter else self.place


def chosen(dataset: Dataset, limit: int) -> list[Item]:
    """The first `limit` items in a fixed random order (a file's head is all of one kind)."""
    if not limit or limit >= len(dataset.items):
        return list(dataset.items)
    return list(shuffled(dataset.items, "limit"))[:limit]


class Results:
    """One benchmark's folder, for one subject and settings."""

    def __init__(
        self, benchmark: Benchmark, dataset: Dataset, subject: Subject, settings: Settings
    ):
        self.benchmark, self.dataset, self.subject = benchmark, dataset, subject
        self.settings, self.items = settings, chosen(dataset, settings.limit)
        self.identity = {
            "benchmark": benchmark.name,
            "settings": asdict(settings),
            "data": {"digest": dataset.digest},
            "model": dict(subject.model),
            "adapter": subject.adapter and dict(subject.adapter),
        }
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = f"{subject.place}-{digest[:8]}"
        self.store = Store(subject.home / "evals" / benchmark.name / name)
        self.folder = self.store.folder

    @property
    def wanted(self) -> list[tuple[Item, int]]:
        """Every (item, sample) that makes the result complete."""
        return [(item, s) for item in self.items for s in range(self.settings.samples)]

    def begin(self) -> tuple[set[tuple[str, int]], list[str]]:
        """Claim the folder; returns what is done, by id and sample, and what was repaired.

        Raises DataError for a line that is no sample of this evaluation, or where a complete one
        differs from its manifest.
        """
        self.store.lock()
        problem = verify(self.folder) if (self.folder / "manifest.json").exists() else None
        if problem:
            raise DataError(
                f"{self.folder} is not what was written ({problem}), so its numbers mean "
                "nothing; move it away and evaluate again."
            )
        path = self.folder / SAMPLES
        if not path.exists():
            return set(), []
        data, notices = strict.read_file(path), []
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            notices.append(f"{path}: its last line was torn and is asked again")
            self.store.disk.truncate(path, whole)
        ours = {(str(item["id"]), sample) for item, sample in self.wanted}
        done: set[tuple[str, int]] = set()
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
            try:
                record = strict.parse(line)
                key = (str(record["id"]), int(record["sample"]))
            except (ValueError, KeyError, TypeError):
                key = ("", -1)
            if key not in ours or key in done:
                raise DataError(
                    f"{path}, line {number} is no sample of this evaluation, or one that is there "
                    f"twice; move {self.folder} away to start it again."
                )
            done.add(key)
        return done, notices

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the samples of one batch."""
        text = "".join(dumps(record) + "\n" for record in records)
        self.store.disk.write(self.folder / SAMPLES, text.encode(), "ab")

    def finish(self) -> dict[str, Any]:
        """Write result.json from the samples, and the manifest behind it, unless it is there."""
        if (self.folder / "manifest.json").exists():
            return dict(strict.read_json(self.folder / RESULT))
        records = read_samples(self.folder)
        assert len(records) == len(self.wanted), "samples are missing"
        n, total = len(self.items), self.dataset.total
        result = {
            **self.identity,
            "data": {
                "digest": self.dataset.digest,
                "origin": self.dataset.origin,
                "n": n,
                "total": total,
                "partial": f"{n}/{total}" if n < total else None,
                "note": self.dataset.note,
            },
            "few_shot": self.benchmark.few_shot,
            "n": n,
            "samples": len(records),
            "unparsed": sum(record["unparsed"] for record in records),
            "truncated": sum(record["truncated"] for record in records),
            "cut": sum("length" in record.get("finish", ()) for record in records),
            "metrics": metrics(records),
            "headline": list(self.benchmark.headline),
        }
        self.store.write_json(RESULT, result)
        digests = {name: sha256(self.folder / name) for name in (SAMPLES, RESULT)}
        self.store.write_json("manifest.json", {"sha256": digests})
        return result


def sample_line(
    benchmark: Benchmark, item: Item, sample: int, asked: Request, answer: Answer, score: Score
) -> dict[str, Any]:
    """One line of samples.jsonl; with the item in it, every score can be computed again."""
    if isinstance(asked, Choices):
        request: dict[str, Any] = {"context": asked.context, "choices": list(asked.continuations)}
        said: dict[str, Any] = {"loglikelihoods": list(answer.loglikelihoods)}
    else:
        request = {"turns": list(asked.turns)}
        said = {"replies": list(answer.replies), "finish": list(answer.finish)}
    return {
        "id": item["id"],
        "sample": sample,
        "item": dict(item),
        "cluster": benchmark.cluster(item),
        **request,
        **said,
        "values": score.values,
        "detail": score.detail,
        "unparsed": score.unparsed,
        "truncated": answer.truncated,
    }


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The samples of an evaluation, in the order in which they were finished."""
    return read_lines(folder / SAMPLES)


def metrics(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Mean, its standard error (a cluster's samples going together) and n, by metric."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in records:
        for name, value in line["values"].items():
            found.setdefault(name, {}).setdefault(line["cluster"], []).append(value)
    table: dict[str, dict[str, float | int | None]] = {}
    for name, by_cluster in sorted(found.items()):
        values = [value for of_cluster in by_cluster.values() for value in of_cluster]
        error = clustered_standard_error(by_cluster.values())
        table[name] = {"value": mean(values), "stderr": error, "n": len(values)}
    return table
