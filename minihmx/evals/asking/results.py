"""The files of an evaluation: samples.jsonl grows with it, result.json is written at its end.

The folder's name ends in a digest of everything that decides the numbers, so an evaluation with
--limit never overwrites a full one. No torch: an audit reads and recomputes these files anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minihmx.errors import DataError, Failure
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.settings import UNWRITTEN, Settings, request_for
from minihmx.evals.benchmark import Answer, Benchmark, Choices, Item, Request, Score
from minihmx.evals.items.load import Dataset
from minihmx.seeding import shuffled
from minihmx.storage import strict
from minihmx.storage.disk import dumps, read_lines, sha256, verify
from minihmx.storage.run_folder import Store

SAMPLES, RESULT, REFUSED_SAMPLES = "samples.jsonl", "result.json", "refused.jsonl"
Truncates = Callable[[Item, Request, Answer], bool]


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model, and the adapter on it if any.

    home: the folder in which its evaluations stand. place: "base", the checkpoint's name, or
    "adapter" for an adapter from elsewhere. model: its id, revision and digest. adapter: its digest
    and name; None for the untouched model. label: a title that replaces the adapter's name where
    two subjects would have the same.
    """

    home: Path
    place: str
    model: Mapping[str, str | None]
    adapter: Mapping[str, str] | None
    label: str = ""

    @property
    def title(self) -> str:
        """ "base", or which run's which checkpoint, as in forward/seed-1/epoch-03."""
        return self.label or (self.adapter["name"] if self.adapter else self.place)


def chosen(dataset: Dataset, limit: int) -> list[Item]:
    """The first `limit` items in a fixed random order, since a file may begin with one kind alone.
    All items in the file's own order if limit is 0 or not below their number."""
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
            "settings": {n: v for n, v in asdict(settings).items() if v != UNWRITTEN.get(n)},
            "data": {"digest": dataset.digest},
            "model": dict(subject.model),
            "adapter": subject.adapter and dict(subject.adapter),
        }
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = f"{subject.place}-{digest[:8]}"
        folder = subject.home / "evals" / benchmark.name / name
        self.store = Store(folder, root=subject.home)
        self.folder = self.store.folder

    def request(self, item: Item) -> Request:
        """What it asks of the model, as these settings have it."""
        return request_for(self.benchmark, item, self.settings)

    @property
    def wanted(self) -> list[tuple[Item, int]]:
        """Every (item, sample) that makes the result complete."""
        return [(item, s) for item in self.items for s in range(self.settings.samples)]

    @property
    def left(self) -> int:
        """How many of the wanted samples are not on the disk, by the number of lines alone."""
        there = self.store.disk.read(self.folder / SAMPLES).count(b"\n")
        return max(0, len(self.wanted) - there)

    @property
    def _sealed(self) -> bool:
        return (self.folder / "manifest.json").exists()

    def _spoilt(self, problem: str) -> DataError:
        return DataError(
            f"{self.folder} is not what was written ({problem}), so its numbers mean "
            "nothing; move it away and evaluate again."
        )

    def begin(self, truncates: Truncates) -> tuple[Counter[str], list[str]]:
        """Claim the folder; returns how many samples of each id are done, and what was repaired.

        Lines that this evaluation would not write are moved to refused.jsonl, and their samples are
        asked again. truncates: whether a request's prompts lost tokens, given the answer. Raises
        DataError if the evaluation is complete and yet differs from its manifest, lacks samples or
        has such lines.
        """
        self.store.lock()
        problem = verify(self.folder, (SAMPLES, RESULT)) if self._sealed else None
        if problem:
            raise self._spoilt(problem)
        path, disk = self.folder / SAMPLES, self.store.disk
        *lines, torn = disk.read(path).split(b"\n")
        items, done = {item["id"]: item for item in self.items}, Counter[str]()
        kept, refused = list[bytes](), list[bytes]()
        for line in lines:
            name = self._believed(line, items, done, truncates)
            done.update([name] if name else [])
            (kept if name else refused).append(line + b"\n")
        if torn[:1] not in (b"", b"{", b"\0"):  # no beginning of a line of ours, so it is kept
            lines.append(torn)
            refused.append(torn + b"\n")
        if self._sealed and (refused or torn or done.total() < len(self.wanted)):
            raise self._spoilt(f"{SAMPLES} lacks samples, or holds some that score otherwise")
        notices = []
        if refused:
            notices.append(
                f"{path}: {len(refused)} of {len(lines)} lines are damaged or would be scored "
                f"otherwise; they are moved to {REFUSED_SAMPLES}, and their samples are asked again"
            )
            disk.write(self.folder / REFUSED_SAMPLES, b"".join(refused), "ab")
            new = path.with_name(f".{SAMPLES}.new")
            disk.write(new, b"".join(kept))
            disk.rename(new, path)
        if torn:
            notices.append(f"{path}: its last line was torn and is asked again")
            disk.truncate(path, len(b"".join(kept)))
        return done, notices

    def _believed(
        self, line: bytes, items: Mapping[str, Item], done: Counter[str], truncates: Truncates
    ) -> str:
        """The item's id, if this evaluation would write the very same bytes; else "".

        Only the replies or log-likelihoods are taken from the line. All else is made again: item,
        request, verdict, and the sample's number, which counts the item's lines from 0.
        """
        try:
            record = strict.parse(line)
            item = items[record["id"]]
            request = self.request(item)
            answer = stored_answer(record, request)
            answer = answer._replace(truncated=truncates(item, request, answer))
            score = self.benchmark.score(item, answer, self.settings.switches)
            sample = done[item["id"]]
            again = dumps(sample_line(self.benchmark, item, sample, request, answer, score))
        except (ValueError, LookupError, TypeError, ArithmeticError):  # of the line, or in scoring
            return ""
        return item["id"] if again.encode() == line and sample < self.settings.samples else ""

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the samples of one batch."""
        text = "".join(dumps(record) + "\n" for record in records)
        self.store.disk.write(self.folder / SAMPLES, text.encode(), "ab")

    def finish(self) -> dict[str, Any]:
        """Write result.json from the samples and then the manifest; returns what result.json holds.

        If the manifest is there already, nothing is written, and DataError is raised if result.json
        does not follow from the samples.
        """
        records = read_samples(self.folder)
        assert len(records) == len(self.wanted), "samples are missing"
        if self._sealed:
            return self._checked(records)
        records = self._put_in_order(records)
        result = self.result(records, self.dataset)
        self.store.write_json(RESULT, result)
        digests = {name: sha256(self.folder / name) for name in (SAMPLES, RESULT)}
        self.store.write_json("manifest.json", {"sha256": digests})
        return result

    def _put_in_order(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The samples in the order of the items, on the disk as well. They were finished in another
        order, which depends on where the evaluation was interrupted."""
        place = {item["id"]: number for number, item in enumerate(self.items)}
        ordered = sorted(records, key=lambda record: (place[record["id"]], record["sample"]))
        if ordered != records:
            path = self.folder / SAMPLES
            new = path.with_name(f".{SAMPLES}.new")
            text = "".join(dumps(record) + "\n" for record in ordered)
            self.store.disk.write(new, text.encode())
            self.store.disk.rename(new, path)
        return ordered

    def _checked(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What result.json holds, made again from the samples. Its words on where the items came
        from are kept, since the same items may have come from another place at that time."""
        try:
            stored = strict.read_json(self.folder / RESULT)
            place = {name: stored["data"][name] for name in ("origin", "total", "note")}
            if [type(value) for value in place.values()] == [str, int, str]:
                result = self.result(records, replace(self.dataset, **place))
                totals = len(self.dataset.items), self.benchmark.total
                if place["total"] in totals and dumps(stored) == dumps(result):
                    return result
        except (Failure, LookupError, TypeError):
            pass
        raise self._spoilt(f"{RESULT} does not follow from {SAMPLES}")

    def result(self, records: Sequence[Mapping[str, Any]], dataset: Dataset) -> dict[str, Any]:
        """What result.json holds for these samples of the whole dataset."""
        n, total = len(self.items), dataset.total
        return {
            **self.identity,
            "data": {
                "digest": dataset.digest,
                "origin": dataset.origin,
                "n": n,
                "total": total,
                "partial": f"{n}/{total}" if n < total else None,
                "note": dataset.note,
            },
            "few_shot": self.benchmark.few_shot,
            "n": n,
            "samples": len(records),
            "unparsed": sum(record["unparsed"] for record in records),
            "truncated": sum(record["truncated"] for record in records),
            "cut": sum("length" in record.get("finish", ()) for record in records),
            "metrics": metrics(records, self.benchmark.means, self.benchmark.derived),
            "headline": list(self.benchmark.headline),
        }


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


def stored_answer(record: Mapping[str, Any], request: Request) -> Answer:
    """The answer in a line of samples.jsonl.

    Raises ValueError for values that no model can have given, LookupError if a field is missing.
    """
    kinds: dict[str, type] = {"replies": str, "finish": str}
    if isinstance(request, Choices):
        kinds = {"loglikelihoods": float}
    wanted = len(request.continuations if isinstance(request, Choices) else request.turns)
    said: dict[str, Any] = {}
    for name, kind in kinds.items():
        values = record[name]
        if not isinstance(values, list) or [*map(type, values)] != [kind] * wanted:
            raise ValueError(f"its {name} are not {wanted} of the type {kind.__name__}")
        said[name] = tuple(values)
    if not {"stop", "length"}.issuperset(said.get("finish", ())):
        raise ValueError("a reply of it ended neither by itself nor at its cap")
    return Answer(**said)


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The samples of an evaluation. If it is complete, they are in the order of its items."""
    return read_lines(folder / SAMPLES)
