"""What a benchmark is: how to read its items, what to ask, and how to score one answer.

A benchmark is one file beside this one that builds a Benchmark, and one line in BENCHMARKS
(evals/__init__.py). It never sees a model: the runner asks, and hands the answer to `score`.
A metric is the mean of one named value over the samples that carry it, so a score that belongs to
a part of the items (BBQ's ambiguous ones) is named by those items alone. What is no such mean, as a
ratio of counts, is `derived` from the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from minihmx.errors import UserError
from minihmx.records import Message

# One line of the benchmark's JSONL: "id" and the fields that the benchmark names.
Item = Mapping[str, Any]
Kind = TypeVar("Kind")
# The choice made for each of the benchmark's switches.
Switches = Mapping[str, str]
# A metric as result.json has it: "value", "stderr" (None where there is none to be had) and "n".
Estimate = Mapping[str, float | int | None]
# How many tokens a text has for the model, with what its tokenizer puts before every text.
Tokens = Callable[[str], int]


class Choices(NamedTuple):
    """Asks for the log-likelihood of each continuation after one context.

    The delimiter is not part of a continuation: a blank without chat, nothing with it.
    """

    context: str
    continuations: tuple[str, ...]


class Dialogue(NamedTuple):
    """Asks for a reply to each user turn, one after another, the earlier ones being quoted.

    prefill: what the first reply begins with (part of its text). shots: worked examples before the
    first turn. until: a reply ends before the first of these. max_new_tokens: of each reply.
    delimiter: without chat, what stands between a shot's question and its answer, and before the
    prefill; everything else is two newlines apart. complete: a reply may end once it holds all of
    these, in any case, since its score can only be the same from then on; none: never.
    """

    turns: tuple[str, ...]
    prefill: str = ""
    system: str = ""
    shots: tuple[Message, ...] = ()
    until: tuple[str, ...] = ()
    max_new_tokens: int = 256
    delimiter: str = "\n\n"
    complete: tuple[str, ...] = ()


Request = Choices | Dialogue


class Answer(NamedTuple):
    """What the model made of a request.

    loglikelihoods: natural, summed over tokens, one per continuation. replies and finish: the text
    of every turn's reply, its prefill included, and "stop" or "length". truncated: the prompt was
    longer than the model's context and lost its first tokens.
    """

    loglikelihoods: tuple[float, ...] = ()
    replies: tuple[str, ...] = ()
    finish: tuple[str, ...] = ()
    truncated: bool = False


class Score(NamedTuple):
    """values: what is averaged, by metric. detail: what an auditor wants to see beside it (JSON).

    unparsed: the answer held nothing that the rule could read; it is counted.
    """

    values: dict[str, float]
    detail: dict[str, Any]
    unparsed: bool = False


class Origin(NamedTuple):
    """Where the published items are.

    repo: a dataset on the hub. files: name patterns in the order of preference, matched against
    the repository's listing; the first that matches anything is taken, with all its matches.
    gated: access must be asked for on the hub first. converted: further patterns, tried after
    those, for the Parquet files that the hub itself makes of a dataset (refs/convert/parquet).
    In a user's folder both are matched against the end of a path. licence: of the items. columns:
    what `convert` needs of a Parquet file; the others are not read. None named: all. rows: where
    they are in a .json file that holds an object: the name of its list, or "*" for its values.
    revision: the commit that is fetched; none named: the newest.
    """

    repo: str
    files: tuple[str, ...]
    gated: bool = False
    converted: tuple[str, ...] = ()
    licence: str = ""
    columns: tuple[str, ...] = ()
    rows: str = ""
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Items that somebody published, to be fetched or found and brought into one schema.

    fields: the schema, name -> type of each field beside "id" (a str); list[str] holds texts only.
    total: items of the whole published set, 0 where that is not known. convert: the items in one
    row of the published files, which `number` counts from 0 over all files; it raises ValueError
    saying what is wrong with the row. check: does the same for an item whose fields contradict each
    other.
    """

    name: str
    title: str
    fields: Mapping[str, type]
    total: int
    source: Origin
    convert: Callable[[Mapping[str, Any], int, PurePath], Iterable[dict[str, Any]]]
    check: Callable[[Item], None] = lambda item: None


class Recipe(NamedTuple):
    """How items are made that depend on the model's tokenizer, and so are published by nobody.

    length: the tokens that an item may take. each: items of a task. tasks: name -> the names of
    the texts that it is made from. texts: those, in the order of their names in a message. version:
    of the recipe; another one makes other items. need: raises UserError where a library is missing.
    make: the items of a task, given how many tokens a text has, what their random numbers depend
    on, and the texts' own items; it raises UserError for a tokenizer or a text that cannot do it.
    """

    length: int
    each: int
    tasks: Mapping[str, tuple[str, ...]]
    texts: tuple[Published, ...]
    version: int
    need: Callable[[], object]
    make: Callable[[str, Tokens, str, Mapping[str, Sequence[Item]]], Iterable[Item]]


@dataclass(frozen=True, kw_only=True)
class Benchmark(Published):
    """One benchmark.

    chat: whether the chat template is used unless asked otherwise. headline: the metrics that the
    paper reports. beside: those that are shown wherever the headline is, in order; a result need
    not have all of them. few_shot: the worked examples, in words. means: metric -> the metrics
    whose plain mean it is, however many items each of them has. derived: the metrics that are no
    means, from the lines of samples.jsonl, each as result.json has it; of a line it reads item,
    cluster, values and detail alone. prepare: the switches as they are written down, "auto" being
    replaced by what it comes to on this machine; it raises UserError where something is missing
    that scoring needs. generates: whether it asks for replies, which may be sampled, rather than
    for log-likelihoods. switches: name -> choices, the default first; each is a line in
    docs/decisions.md. cluster: what an item has in common with those that its standard error has to
    go together with; itself, unless said otherwise. recipe: how its items are made where no files
    hold them. with_passage: the same question after a passage that holds its answer, where the
    items have one to tell.
    """

    chat: bool
    headline: tuple[str, ...]
    ask: Callable[[Item, Switches], Request]
    score: Callable[[Item, Answer, Switches], Score]
    switches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cluster: Callable[[Item], str] = lambda item: str(item["id"])
    beside: tuple[str, ...] = ()
    few_shot: str = "none"
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derived: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Estimate]] | None = None
    prepare: Callable[[Switches], dict[str, str]] = dict
    generates: bool = False
    recipe: Recipe | None = None
    with_passage: Callable[[Item], Request] | None = None


def cell(row: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    """A published row's value, for `convert`. Raises ValueError saying what is wrong with it."""
    if name not in row:
        raise ValueError(f"it has no {name}")
    value = row[name]
    if not isinstance(value, kind):
        raise ValueError(f"its {name} is {value!r:.60}, not of the type {kind.__name__}")
    return value


def switches(benchmark: Benchmark, given: Mapping[str, str]) -> dict[str, str]:
    """The choice for each of the benchmark's switches, the first where none is given.

    Raises UserError for a choice that there is not.
    """
    chosen = {name: choices[0] for name, choices in benchmark.switches.items()}
    for name in chosen.keys() & given.keys():
        if given[name] not in benchmark.switches[name]:
            raise UserError(
                f"--switch {name}={given[name]} is no choice of {benchmark.name}; "
                f"it has {', '.join(benchmark.switches[name])}."
            )
        chosen[name] = given[name]
    return chosen
