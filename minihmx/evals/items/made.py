"""Items that are made with the model's tokenizer: promised before it is there, then made and kept.

The cache holds ruler/TOKENIZER-LENGTH-VERSION/TASK.jsonl: a line that says what the items were made
of and the sha256 of the rest, and the items. A file that is not what it says is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from minihmx.errors import DataError, Failure, UserError
from minihmx.evals.benchmark import Benchmark, Item, Published, Recipe, Tokens
from minihmx.evals.items.load import (
    Dataset,
    Located,
    fetch,
    item_line,
    load_dataset,
    locate,
    read_items,
)
from minihmx.models.folder import cache_folder
from minihmx.storage import strict
from minihmx.storage.disk import Disk, dumps


class Text:
    """A published text that was found; it is read only where items are made of it."""

    def __init__(self, published: Published, found: Located):
        self.published, self.found = published, found

    @cached_property
    def dataset(self) -> Dataset:
        return read_items(self.published, self.found)

    @property
    def digest(self) -> str:
        """sha256 of its items, which the hub's copy names."""
        return self.found.digest or self.dataset.digest


@dataclass(frozen=True)
class Promise(Dataset):
    """Items that are not made yet: they are ids alone, and the digest is empty.

    tasks: those whose texts are there. texts: by name.
    """

    tasks: Sequence[str] = ()
    texts: Mapping[str, Text] | None = None


def find_items(benchmark: Benchmark, where: str, partial: bool = False) -> Dataset:
    """As load_dataset; of items that are to be made, a Promise.

    partial: let a benchmark do without the tasks whose texts cannot be had.
    """
    recipe = benchmark.recipe
    if recipe is None or where == "sample" or locate(benchmark, where):
        return load_dataset(benchmark, where)
    recipe.need()
    texts, failures = dict[str, Text](), dict[str, Failure]()
    for published in recipe.texts:
        try:
            texts[published.name] = _text(published, where)
        except DataError:
            raise
        except Failure as failure:
            failures[published.name] = failure
    tasks = [task for task, names in recipe.tasks.items() if texts.keys() >= {*names}]
    if failures and not partial:
        raise _lacking(benchmark, recipe, len(tasks), failures, where)
    left = [task for task in recipe.tasks if task not in tasks]
    note = f"{', '.join(left)} left out, as their texts are not there" if left else ""
    sources = [text.found.origin.partition(" ")[2] for text in texts.values()]
    origin = f"files {where}" if where != "hub" else " ".join(["hub", *sources])
    stubs: list[Item] = [{"id": f"{task}-{n:03d}"} for task in tasks for n in range(recipe.each)]
    return Promise(stubs, "", benchmark.total, origin, note, tasks, texts)


def _text(published: Published, where: str) -> Text:
    found = locate(published, where)
    if found is None and where == "hub":
        fetch(published)
        found = locate(published, where)
    if found is None:
        raise UserError(f"{published.title} ({' or '.join(published.source.files)})")
    return Text(published, found)


def _lacking(
    benchmark: Benchmark, recipe: Recipe, tasks: int, failures: Mapping[str, Failure], where: str
) -> Failure:
    """The one sentence for texts that are not there."""
    left, first = len(recipe.tasks) - tasks, next(iter(failures.values()))
    instead = f"add --partial to run the other {tasks}, marked so"
    part = f"texts that {left} of {benchmark.title}'s {len(recipe.tasks)} tasks are made from"
    if where == "hub":
        return type(first)(
            f"The {part} could not be fetched ({str(first).rstrip('.')}); type `minihmx data get "
            f"{benchmark.name}` where there is a network, or {instead}."
        )
    lacking = "; ".join(map(str, failures.values()))
    return UserError(
        f"{where} lacks {part}: {lacking}; put them there, take --data hub, which fetches them "
        f"(as does `minihmx data get {benchmark.name}`), or {instead}."
    )


def make_dataset(
    benchmark: Benchmark, dataset: Dataset, tokens: Tokens, tokenizer: str, context: int
) -> Dataset:
    """The dataset itself, or what it promises. tokenizer: sha256 (hex) of the tokenizer's file.

    Raises UserError where tokenizer, context or texts cannot reach the length.
    """
    recipe = benchmark.recipe
    if not isinstance(dataset, Promise) or recipe is None:
        return dataset
    if context < recipe.length:
        raise UserError(
            f"{benchmark.title}'s items are {recipe.length:,} tokens long, and the model's context "
            f"is only {context:,}; take a model with a longer one, leave {benchmark.name} out of "
            "--tasks, or take --data sample."
        )
    items, sha = list[Item](), hashlib.sha256()
    for task in dataset.tasks:
        texts = {name: (dataset.texts or {})[name] for name in recipe.tasks[task]}
        lines = _lines(benchmark, recipe, task, texts, tokens, tokenizer)
        sha.update(lines)
        items += map(strict.parse, lines.splitlines())
    return Dataset(items, sha.hexdigest(), dataset.total, dataset.origin, dataset.note)


def _lines(
    benchmark: Benchmark,
    recipe: Recipe,
    task: str,
    texts: Mapping[str, Text],
    tokens: Tokens,
    tokenizer: str,
) -> bytes:
    """The items of a task, from the cache or for it."""
    made_of = {
        "tokenizer": tokenizer,
        "length": recipe.length,
        "version": recipe.version,
        "texts": {name: text.digest for name, text in texts.items()},
    }
    folder = f"{tokenizer[:16]}-{recipe.length}-{recipe.version}"
    path, disk = cache_folder() / benchmark.name / folder / f"{task}.jsonl", Disk()
    head, _, kept = disk.read(path).partition(b"\n")
    if kept and head == _head(made_of, kept):
        return kept
    seed = dumps(made_of)
    items = recipe.make(task, tokens, seed, {n: text.dataset.items for n, text in texts.items()})
    lines = b"".join(item_line(benchmark, item) for item in items)
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        disk.write(aside, _head(made_of, lines) + b"\n" + lines)
        disk.rename(aside, path)
    finally:
        disk.remove(aside)
    return lines


def _head(made_of: Mapping[str, Any], lines: bytes) -> bytes:
    return dumps({**made_of, "sha256": hashlib.sha256(lines).hexdigest()}).encode()
