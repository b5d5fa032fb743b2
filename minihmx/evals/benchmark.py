"""What a benchmark is: how to read its items, what to ask, and how to score one answer.

A benchmark is one file beside this one that builds a Benchmark, and one line in BENCHMARKS
(evals/__init__.py). It never sees a model: the runner asks, and hands the answer to `score`.
A metric is the mean of one named value over the samples that carry it. So a score of a part of the
items (BBQ's ambiguous ones, say) is a value that only samples of those items carry. A metric that
is no such mean, for example a ratio of counts, is `derived` from all samples.
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
    """Asks for a reply to each user turn in order. A prompt quotes the earlier turns and replies.

    prefill: the words that the first reply is made to begin with; they are part of its text. shots:
    worked examples before the first turn. until: texts before the first of which a reply ends.
    max_new_tokens: the most tokens of each reply. delimiter: without chat, the text between a
    shot's question and its answer, and before the prefill; all other parts are a blank line apart.
    complete: texts that the score looks for; a reply may end once it holds all of them, whatever
    their case, since more words cannot change its score. If empty, no reply ends early.
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

    loglikelihoods: the natural log-likelihood of each continuation, summed over its tokens.
    replies: the text of each turn's reply, with its prefill. finish: "stop" or "length" for each.
    truncated: a prompt did not fit the model's context, so it lost its first tokens.
    """

    loglikelihoods: tuple[float, ...] = ()
    replies: tuple[str, ...] = ()
    finish: tuple[str, ...] = ()
    truncated: bool = False


class Score(NamedTuple):
    """values: the numbers that are averaged, by metric. detail: how they came about, as JSON.

    unparsed: the rule could read nothing in the answer. result.json counts such samples.
    """

    values: dict[str, float]
    detail: dict[str, Any]
    unparsed: bool = False


class Origin(NamedTuple):
    """Where the published items are.

    repo: a dataset on the hub. files: name patterns in the order of preference, matched against
    the repository's listing; the first that matches anything is taken, with all its matches.
    gated: access must be asked for on the hub first. converted: further patterns, tried after
    `files`, for the Parquet files that the hub itself makes of a dataset (refs/convert/parquet).
    In a user's folder both are matched against the end of a path. licence: of the items. columns:
    the columns of a Parquet file that `convert` needs and that are read; if empty, all are. rows:
    where a .json file that holds an object has the rows: in the list of this name, or with "*" in
    all its values. revision: the commit that is fetched; if empty, the newest one.
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
    total: the number of items in the whole published set, 0 if unknown. convert: makes the items of
    one row of the published files; rows are numbered from 0 over all files. It raises ValueError
    saying what is wrong with the row. check: raises ValueError for an item whose fields contradict
    each other.
    """

    name: str
    title: str
    fields: Mapping[str, type]
    total: int
    source: Origin
    convert: Callable[[Mapping[str, Any], int, PurePath], Iterable[dict[str, Any]]]
    check: Callable[[Item], None] = lambda item: None


class Recipe(NamedTuple):
    """How items are made that depend on the model's tokenizer, so that nobody can publish them.

    length: the most tokens that an item may take. each: the number of items of a task. tasks: each
    task's name -> the names of the texts that it is made from. texts: those texts, in the order in
    which messages name them. version: of the recipe; another version makes other items. need:
    raises UserError if a library is missing. make: makes the items of a task from its name, a
    function that counts a text's tokens, the seed of the random numbers, and the texts' own items;
    it raises UserError if the tokenizer or a text is unfit for that.
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
    paper reports. beside: metrics that are shown wherever the headline is, in this order; a result
    need not have all of them. few_shot: the worked examples, in words. means: metric -> the metrics
    whose plain mean it is, however many items each of them has. derived: computes the metrics that
    are no means from the lines of samples.jsonl, each as result.json has it; of a line it reads
    only item, cluster, values and detail. prepare: gives the switches as they are written down,
    with "auto" replaced by its meaning on this machine; it raises UserError if scoring needs
    something that is missing. generates: whether it asks for replies, which may be sampled, rather
    than for log-likelihoods. switches: name -> choices, the default first; each is a line in
    docs/decisions.md. cluster: names the group of items whose scores are not independent, so that
    standard errors take the group as one; by default each item is its own group. recipe: how the
    items are made if no files hold them. with_passage: asks the same question after a passage that
    holds its answer; None if the items have no such answer.
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
    """The choice for each of the benchmark's switches: the given one, or else the default.

    Names in `given` that the benchmark lacks are passed over. Raises UserError for a value that is
    none of a switch's choices.
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
