"""Evaluations on benchmarks: every verdict scored again, every number of a result made again."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minihmx.errors import Failure, UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.results import (
    RESULT,
    SAMPLES,
    Results,
    Subject,
    sample_line,
    stored_answer,
)
from minihmx.evals.asking.settings import Settings
from minihmx.evals.benchmark import Benchmark, Item
from minihmx.evals.items.load import Dataset, locate, read_items
from minihmx.models.adapters import adapter_digest
from minihmx.results.audit_run import check_model_name
from minihmx.results.findings import ABSENT, Audit, Line, Place, Words
from minihmx.selection import DIRECTIONS

# The types of the fields of Settings, in the order of the fields.
SETTING_TYPES = [bool, int, float, int, int, dict, str, str, str, float, str, bool]
SAYS = ("origin", "total", "note")  # fields of `data` that the data's digest does not cover


def is_evaluation(folder: Path) -> bool:
    return (folder / SAMPLES).exists() or (folder / RESULT).exists()


def audit_evaluation(audit: Audit, folder: Path, digest: str | None = None) -> None:
    """Check one evaluation's folder. digest: of the model of the run that it stands in, if any."""
    if not (folder / RESULT).exists():
        lines = audit.lines(folder / SAMPLES, growing=True)
        what = f"its {len(lines)} samples are whole lines, and not scored again"
        audit.note(f"{folder}: not finished (no {RESULT}), so {what}")
        return
    audit.manifest(folder, (SAMPLES, RESULT))
    found = audit.json(folder / RESULT)
    if found is None:
        return
    stored, text = found
    lines = audit.lines(folder / SAMPLES)
    results = results_again(audit, folder, stored, lines)
    if results is None:
        return
    audit.compare("identity", Place(folder / RESULT), "folder", folder.name, results.folder.name)
    if digest is not None:
        of_run = {"model": {"digest": digest}}
        audit.compare_tree("identity", (folder / RESULT, text), stored, of_run)
    check_name(audit, folder, stored, text)
    check_adapter(audit, folder, stored, text)
    if check_samples(audit, folder, results, lines):
        again = results.result([line.record for line in lines], results.dataset)
        audit.compare_tree("results", (folder / RESULT, text), stored, again, exact=True)


def results_again(
    audit: Audit, folder: Path, stored: Mapping[str, Any], lines: list[Line]
) -> Results | None:
    """The evaluation as its result.json and its samples describe it.

    None, and a finding or a note, if result.json is malformed, lacks a switch of this version, or
    needs a library that is not here.
    """
    try:
        benchmark = BENCHMARKS[stored["benchmark"]]
        settings = Settings(**stored["settings"])
        if [*map(type, vars(settings).values())] != SETTING_TYPES:
            raise ValueError(f"its settings are {settings}")
        data = {name: stored["data"][name] for name in SAYS}
        if [type(value) for value in data.values()] != [str, int, str]:
            raise ValueError(f"its data say {data}")
        lacking = benchmark.switches.keys() - settings.switches.keys()
        if lacking:
            audit.note(
                f"{folder}: its settings lack {', '.join(sorted(lacking))}, as those of other "
                "versions do, so its verdicts are not scored again"
            )
            return None
        try:
            benchmark.prepare(settings.switches)
        except UserError as error:
            audit.note(f"{folder}: its verdicts are not scored again: {error}")
            return None
        dataset = dataset_again(audit, benchmark, stored["data"]["digest"], data, settings, lines)
        if [*map(type, (stored["model"]["id"], stored["model"]["digest"]))] != [str, str]:
            raise ValueError(f"its model is {stored['model']}")
        subject = Subject(
            folder.parents[2], folder.name.rpartition("-")[0], stored["model"], stored["adapter"]
        )
        return Results(benchmark, dataset, subject, settings)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        rule = Words(f"that of an evaluation ({type(error).__name__}: {error})")
        audit.find("results", Place(folder / RESULT, 1), "text", Words("another"), rule)
    return None


def dataset_again(
    audit: Audit,
    benchmark: Benchmark,
    digest: str,
    data: dict[str, Any],
    settings: Settings,
    lines: list[Line],
) -> Dataset:
    """The items that were asked: the set with this digest if one is on this machine, else the items
    in the samples themselves, with a note that they may not be the published ones.

    Items that came from a user's own files are taken for a part of the published set.
    """
    own_files, hub = data["origin"].startswith("files "), f"hub {benchmark.source.repo}@"
    if benchmark.recipe:  # from several texts, or with --partial from none
        hub = "hub"
    for where in ("sample", "hub"):
        known = known_items(benchmark.name, where)
        if known and known.digest == digest:
            return replace(known, **data | {"total": benchmark.total}) if own_files else known
    audit.note(
        f"{benchmark.name}: no set of items with the digest {str(digest)[:8]} is here, so that the "
        "items in its samples are the published ones is not checked"
    )
    if data["origin"] != "sample":  # another version of this package has another sample
        data = data | {"total": benchmark.total}
        if not own_files and not data["origin"].startswith(hub):
            data["origin"] = Words(f"{hub} and a commit, files and a folder, or sample")
    items = {line.record["id"]: line.record["item"] for line in lines if line.record}
    return Dataset(list(items.values()), digest, **data)


@functools.cache
def known_items(name: str, where: str) -> Dataset | None:
    """A benchmark's items that came with this package ("sample") or were fetched before ("hub").

    None if there are none, or if they cannot be read.
    """
    try:
        found = locate(BENCHMARKS[name], where)
        return read_items(BENCHMARKS[name], found) if found else None
    except (OSError, Failure):
        return None


def check_name(audit: Audit, folder: Path, stored: Mapping[str, Any], text: str) -> None:
    """Whether result.json names the model that the folder's place (MODEL/base or a run's) promises.

    A run may be evaluated with a copy of its model at another path, so a run's evaluation that
    names a path is not held against the folder's name. The model's digest is compared elsewhere.
    """
    model, home = stored["model"], Path(os.path.abspath(folder)).parents[2]
    if home.name == "base":
        check_model_name(audit, (folder / RESULT, text), model, home.parent.name, model["digest"])
    elif home.parent.name in DIRECTIONS and not Path(model["id"]).is_absolute():
        named = home.parent.parent.name
        check_model_name(audit, (folder / RESULT, text), model, named, model["digest"])


def check_adapter(audit: Audit, folder: Path, stored: Mapping[str, Any], text: str) -> None:
    """Make the digest of the evaluated adapter again, if its checkpoint is still in the run."""
    if not stored["adapter"]:
        return
    place = folder.parents[2] / "checkpoints" / folder.name.rpartition("-")[0]
    if not place.is_dir():
        audit.note(f"{folder}: its adapter is not in {place}, so its digest is not made again")
        return
    try:
        again = {"adapter": {"digest": adapter_digest(place)}}
    except OSError as error:
        audit.find("identity", Place(place), "adapter", Words("unreadable"), Words(str(error)))
        return
    audit.compare_tree("identity", (folder / RESULT, text), dict(stored), again)


def check_samples(audit: Audit, folder: Path, results: Results, lines: list[Line]) -> bool:
    """Score every sample again. True if the result can be made again from the samples: none is
    missing, and all that the result is computed from is what scoring gives."""
    items: dict[str, Item] = {item["id"]: item for item in results.items}
    done, sound = Counter[str](), all(line.record for line in lines)
    needed = {"values", "cluster", "unparsed", "truncated"}  # for the result to be made again
    needed |= {"item", "detail"} if results.benchmark.derived else set()
    for line in filter(lambda line: line.record, lines):
        try:
            name, told = line.record["id"], line.record["sample"]
            if not sound and type(told) is int:  # a damaged line may have held earlier samples
                done[name] = max(done[name], told)
            again = sample_again(results, items[name], done[name], line.record)
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
            rule = Words(f"one that can be scored ({type(error).__name__}: {error})")
            audit.find("verdicts", line.place, "line", Words("another"), rule)
            sound = False
            continue
        done[name] += 1
        for key in sorted(line.record.keys() | again.keys()):
            logged, value = line.record.get(key, ABSENT), again.get(key, ABSENT)
            if key == "sample" and done[name] > results.settings.samples:
                value = Words(f"below {results.settings.samples}")
            same = audit.compare("verdicts", line.place, key, logged, value)
            sound &= same or key not in needed
    counts = len(lines), len(results.wanted)
    return audit.compare("verdicts", Place(folder / SAMPLES), "number of lines", *counts) and sound


def sample_again(
    results: Results, item: Item, sample: int, record: Mapping[str, Any]
) -> dict[str, Any]:
    """The line that this answer to this item should have. Only the model's tokenizer could tell
    whether the prompt was cut, so `truncated` is believed."""
    benchmark, switches = results.benchmark, results.settings.switches
    request = results.request(item)
    answer = stored_answer(record, request)._replace(truncated=record["truncated"] is True)
    score = benchmark.score(item, answer, switches)
    return sample_line(benchmark, item, sample, request, answer, score)
