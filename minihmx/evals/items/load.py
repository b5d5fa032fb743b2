"""The items of a benchmark: found, brought into one schema, checked and counted.

The schema is JSON Lines, an item a line: "id", a text that no other item has, and the benchmark's
fields, sorted. All other code reads only that. Published files are converted row by row, from a
user's folder each time, from the hub once, into the cache: data/<name>.jsonl, and beside it
data/<name>.json, which says where it came from and is written last.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from minihmx.errors import DataError, UserError, quoted
from minihmx.evals.benchmark import Item, Published
from minihmx.evals.items.download import download
from minihmx.evals.items.published import placed, plain, rows
from minihmx.models.folder import cache_folder
from minihmx.storage import strict
from minihmx.storage.disk import Disk, dumps, home_path

LINES_AT_ONCE = 4096


@dataclass(frozen=True)
class Dataset:
    """The items that a benchmark asks, in the order of their file.

    digest: sha256 (hex) of their lines in the schema, whatever file they came from. total: of the
    whole published set; for the sample, of the sample. origin: "hub REPO@REVISION", "files DIR" or
    "sample". note: what a reader should know about the choice of files, or "".
    """

    items: list[Item]
    digest: str
    total: int
    origin: str
    note: str = ""

    @property
    def partial(self) -> bool:
        return len(self.items) < self.total

    @property
    def label(self) -> str:
        return f"partial {len(self.items)}/{self.total}" if self.partial else ""


class Located(NamedTuple):
    """Files that hold items, not yet read.

    schema: they are in the schema, not as published. total: 0 if it is their own count. digest:
    what it should be, or "". The others are as in Dataset.
    """

    paths: list[Path]
    schema: bool
    total: int
    origin: str
    digest: str = ""
    note: str = ""


def load_dataset(benchmark: Published, where: str) -> Dataset:
    """The items from "hub" (the cached copy, fetched if absent), "sample", or a user's folder.

    The folder holds the published files as they are or <name>.jsonl in the schema, or it holds a
    folder named like the benchmark or its repository that does. A file may be named directly.

    Raises UserError where nothing is found or the hub refuses, DataError for what a file holds,
    IOFailure where disk or network fail.
    """
    found = locate(benchmark, where)
    if found is None and where == "hub":
        fetch(benchmark)
        found = locate(benchmark, where)
    if found is None:
        raise UserError(nothing(benchmark, where))
    return read_items(benchmark, found)


def read_items(benchmark: Published, found: Located) -> Dataset:
    """Every item, checked. Raises DataError."""
    sha, items = hashlib.sha256(), []
    for item, line in _items(benchmark, found):
        sha.update(line)
        items.append(item)
    digest, total = sha.hexdigest(), found.total or len(items)
    if found.digest not in ("", digest):
        raise DataError(
            f"{found.paths[0]} is not what was fetched from the hub, so its scores would mean "
            f"nothing; `minihmx data get {benchmark.name}` fetches it again."
        )
    _check_count(benchmark, len(items), total, found.origin)
    return Dataset(items, digest, total, found.origin, found.note)


def _check_count(benchmark: Published, count: int, total: int, origin: str) -> None:
    if 0 < total < count:
        raise DataError(
            f"{benchmark.name} from {origin} has {count} items and the published set {total}: two "
            "versions seem to be mixed; keep the files of one."
        )


# --- reading and checking --------------------------------------------------------------------


def _items(benchmark: Published, found: Located) -> Iterator[tuple[Item, bytes]]:
    """(item, its line in the schema); rows are counted on from file to file."""
    seen: dict[str, str] = {}
    number = 0
    for path in found.paths:
        for place, row in placed(path, benchmark.source.columns, benchmark.source.rows):
            try:
                for item in [row] if found.schema else benchmark.convert(row, number, plain(path)):
                    line = item_line(benchmark, item)
                    if item["id"] in seen:
                        raise ValueError(f'its id "{item["id"]}" is that of {seen[item["id"]]}')
                    seen[item["id"]] = f"{path.name}, {place}"
                    yield item, line
            except ValueError as error:
                raise DataError(
                    f"{path}, {place}: {error}; mend the file, or fetch it again."
                ) from None
            number += 1


def item_line(benchmark: Published, item: Item) -> bytes:
    """The item's line. Raises ValueError where it does not fit the schema."""
    kinds = {"id": str, **benchmark.fields}
    if item.keys() != kinds.keys():
        wrong = sorted(kinds.keys() - item.keys()) or sorted(item.keys() - kinds.keys())
        what = "is missing" if wrong[0] in kinds else "is not of this benchmark"
        raise ValueError(f"the field {dumps(wrong[0]):.60} {what}")
    for name, kind in kinds.items():
        value: Any = item[name]
        inner = get_args(kind)
        if type(value) is not (get_origin(kind) or kind):
            found = type(value).__name__
            raise ValueError(f'the field "{name}" must be {kind.__name__}, and it is {found}')
        if inner and any(type(element) is not inner[0] for element in item[name]):
            raise ValueError(f'the field "{name}" must hold {inner[0].__name__} only')
    if not item["id"].strip():
        raise ValueError('the field "id" is empty')
    benchmark.check(item)
    try:
        return (dumps(item) + "\n").encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character (a lone surrogate)") from None


# --- finding ---------------------------------------------------------------------------------


def locate(benchmark: Published, where: str) -> Located | None:
    """The files that `load` would read, or None where there are none."""
    name = benchmark.name
    if where == "hub":
        record, path = cached(benchmark), _home() / f"{name}.jsonl"
        if record is None or not path.is_file():
            return None
        origin = f"hub {record['repo']}@{record['revision']}"
        return Located([path], True, benchmark.total, origin, record["sha256"])
    if where == "sample":
        path = Path(str(files("minihmx"))) / "data" / "sample" / f"{name}.jsonl"
        return Located([path], True, 0, "sample") if path.is_file() else None
    place = folder_or_file(where)
    for folder in _folders(benchmark, place):
        ways = list(_ways(benchmark, folder))
        if ways:
            paths, schema = ways[0]
            left = [path.name for others, _ in ways[1:] for path in others if path not in paths]
            note = (
                f"{first_names([path.name for path in paths])} taken, {', '.join(left)} left out"
                if left
                else ""
            )
            return Located(paths, schema, benchmark.total, f"files {where}", note=note)
    return None


def folder_or_file(where: str) -> Path:
    """Raises UserError where there is neither."""
    place = home_path(where).resolve()
    if not where or not os.path.exists(place):
        raise UserError(
            f"The path {quoted(where)} does not exist; give a folder with published files, "
            "or hub or sample."
        )
    return place


def _folders(benchmark: Published, place: Path) -> Iterator[Path]:
    """The place itself, then the folders in it that are named like the benchmark or its source."""
    yield place
    keys = [_letters(benchmark.name), _letters(benchmark.source.repo.split("/")[-1])]
    for folder in sorted(place.iterdir()) if place.is_dir() else ():
        name = _letters(folder.name)
        if len(name) > 2 and any(key.startswith(name) for key in keys) and folder.is_dir():
            yield folder


def _letters(name: str) -> str:
    """ "sycophancyeval" of sycophancy_eval, sycophancy-eval and SycophancyEval."""
    return "".join(filter(str.isalnum, name.casefold()))


def _ways(benchmark: Published, folder: Path) -> Iterator[tuple[list[Path], bool]]:
    """(files, whether in the schema) of each way to read a folder (or one file); best first."""
    own = _matching(folder, f"{benchmark.name}.jsonl")
    patterns = [*benchmark.source.files, *benchmark.source.converted]
    published = list(filter(None, (_matching(folder, pattern) for pattern in patterns)))
    # a published file may bear the benchmark's name; its rows have no "id"
    if own and (own not in published or "id" in next(rows(own[0]))):
        yield own, True
    for paths in published:
        yield paths, False


def _matching(folder: Path, pattern: str) -> list[Path]:
    """The files whose path ends as the pattern says; of x and x.gz, x."""
    near = [folder]
    if folder.is_dir():
        near = [*folder.iterdir(), *folder.glob(pattern), *folder.glob(pattern + ".gz")]
    near = [path for path in near if plain(path).match(pattern)]
    return sorted({plain(path): path for path in sorted(near, reverse=True)}.values())


def first_names(names: Sequence[str]) -> str:
    """At most three of them, and how many more."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


def nothing(benchmark: Published, where: str) -> str:
    """The sentence for a place without the benchmark's items."""
    name = benchmark.name
    if where == "hub":
        return f"{name} is not in the cache; `minihmx data get {name}` fetches it."
    if where == "sample":
        return f"There is no sample of {name}; take --data hub, or a folder."
    patterns = (f"{name}.jsonl", *benchmark.source.files, *benchmark.source.converted)
    return (
        f"{where} holds nothing of {name}, which is looked for as {' or '.join(patterns)}, also "
        f"gzipped; put such a file there, or take --data hub."
    )


# --- from the hub into the cache -------------------------------------------------------------


def _home() -> Path:
    return cache_folder() / "data"


def cached(benchmark: Published) -> dict[str, Any] | None:
    """repo, revision, files, sha256 and count of the cached copy; None without a readable one."""
    try:
        record = strict.parse(strict.read_file(_home() / f"{benchmark.name}.json"))
        return {key: record[key] for key in ("repo", "revision", "files", "sha256", "count")}
    except (FileNotFoundError, UserError, ValueError, KeyError, TypeError):
        return None


def fetch(benchmark: Published, force: bool = False) -> None:
    """Download, convert and check; the cached copy is replaced whole or not at all.

    force: download even what the hub library has in its own cache. Raises as `load` does.
    """
    source, home, disk = benchmark.source, _home(), Disk()
    paths, revision, names = download(source, force)
    origin = f"hub {source.repo}@{revision}"
    found = Located(paths, False, benchmark.total, origin)
    aside, sha, count = home / f"{benchmark.name}.{os.getpid()}", hashlib.sha256(), 0
    lines = (line for _, line in _items(benchmark, found))
    try:
        disk.remove(aside)
        while chunk := list(islice(lines, LINES_AT_ONCE)):
            disk.write(aside, b"".join(chunk), "ab")
            sha.update(b"".join(chunk))
            count += len(chunk)
        _check_count(benchmark, count, benchmark.total, origin)
        record = {"repo": source.repo, "revision": revision, "files": names, "count": count}
        note = home / f"{benchmark.name}.json"
        disk.remove(note)
        disk.rename(aside, home / f"{benchmark.name}.jsonl")
        disk.write(aside, (dumps(record | {"sha256": sha.hexdigest()}) + "\n").encode())
        disk.rename(aside, note)
    finally:
        disk.remove(aside)
