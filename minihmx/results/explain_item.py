"""One item of a benchmark: what was asked, what was said, and which rule read what. No torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import DataError, Failure, UserError, quoted
from minihmx.evals import BENCHMARKS, named
from minihmx.evals.asking.results import RESULT, SAMPLES, stored_answer
from minihmx.evals.asking.settings import measures_in
from minihmx.results.evidence import not_there, run_folder, sound_span, what_there_is
from minihmx.results.workings import differs
from minihmx.storage.disk import dumps, read_lines
from minihmx.storage.strict import read_json
from minihmx.terminal.board import columns, marked, wrapped
from minihmx.terminal.text import printable

# The meaning of each rule that a benchmark names in a Reading.
RULE_WORDS = {
    "mention": "it is named there",
    "only": "it is the only answer left",
    "cue": "it follows a cue such as “the answer is”",
    "first": "the first one that is named",
    "correct": "the correct answer is among those named",
    "neither": "several are named, so none is taken",
    "correct-present": "the correct answer is among those left",
    "marked": "the last option that is marked as one",
    "last": "the last one that is named",
    "withdrawn": "every answer that is named is denied or taken back",
    "none": "no answer is named",
    "rating": "a word, a colon and a whole number",
    "words": "all words but articles, in lower case and without punctuation",
    "no-words": "nothing is left without articles and punctuation, which says: no answer",
    "correctness": "whether each answer is correct was compared",
    "answer": "the answers were compared",
    "unread-first": "the first reply has no answer to be read, so no change is seen",
    "unread-second": "the second reply has no answer to be read, so no change is seen",
}


class Read(NamedTuple):
    """One reading in a sample's detail: its name there, in which reply it was, and what it says."""

    name: str
    reply: int
    value: str | None
    span: list[int] | None
    rule: str


def explain_item(run: str, benchmark: str, item: str | None, sample: int) -> Iterator[str]:
    """The lines about one sample of one item.

    Raises UserError for an item or sample that is not there, DataError for a damaged line.
    """
    named([benchmark])
    folder = evaluation_folder(run, benchmark)
    lines = read_lines(folder / SAMPLES)
    ids = list(dict.fromkeys(str(line.get("id")) for line in lines))
    if item is None:
        raise UserError(
            f"--benchmark {benchmark} needs --item ID; the {len(ids)} of {folder} begin with "
            f"{', '.join(ids[:3])}."
        )
    if item not in ids:
        raise not_there("item", item, ids, folder)
    found = [(n, line) for n, line in enumerate(lines, start=1) if line.get("id") == item]
    chosen = [(n, line) for n, line in found if line.get("sample") == sample]
    if not chosen:
        there = ", ".join(str(line.get("sample")) for _, line in found)
        raise UserError(f"Item {item} of {folder} has no sample {sample}; there are {there}.")
    number, line = chosen[0]
    place = f"{folder / SAMPLES}, line {number}"
    if not is_sample(line):
        raise DataError(
            f"{place}: this is no whole record of a sample, so it cannot be explained; restore the "
            "file from a copy."
        )
    yield from wrapped(f"{BENCHMARKS[benchmark].title}, item {item}, sample {sample}", indent="")
    yield f"  {place}"
    yield ""
    if "choices" in line:
        yield from choices_written(benchmark, line)
    else:
        yield from dialogue_written(line)
    yield from values_written(benchmark, line)
    yield from scored_again(benchmark, folder, line, place)


def evaluation_folder(run: str, benchmark: str) -> Path:
    """The evaluation's folder for RUN, RUN@epoch-03 or RUN@epoch-03-1a2b3c4d.

    A mere RUN means the selected epoch, or else the last one evaluated. Raises UserError if there
    is no such evaluation, or more than one.
    """
    name = ""
    if not os.path.isdir(run) and "@" in run:
        run, _, name = run.rpartition("@")
    folder = run_folder(run)
    there = {
        path.parent.name: path.parent for path in folder.glob(f"evals/{benchmark}/*/{SAMPLES}")
    }
    if not there:
        raise UserError(
            f"{folder} holds no evaluation of {benchmark}; it has {what_there_is(folder)}."
        )
    places = {key: re.sub(r"-[0-9a-f]{8}$", "", key) for key in there}
    wanted = name or _selected(folder, set(places.values()))
    fitting = [key for key, place in places.items() if wanted in (key, place)]
    if len(fitting) != 1:
        few = "several settings" if fitting else f"no {quoted(wanted)}"
        raise UserError(
            f"{folder / 'evals' / benchmark} has {few} ({', '.join(sorted(there))}); name one as "
            f"{run}@{sorted(fitting or there)[0]}."
        )
    return there[fitting[0]]


def _selected(folder: Path, places: set[str]) -> str:
    """The epoch that selected.json names, if it was evaluated, else the last evaluated one."""
    try:
        selected = read_json(folder / "selected.json")
    except Failure:
        selected = None
    winner = selected.get("winner") if isinstance(selected, dict) else None
    return str(winner) if winner in places else max(places)


def is_sample(line: Mapping[str, Any]) -> bool:
    """Whether a line of samples.jsonl has all the fields that are shown, each of its type."""
    texts = ("choices",) if "choices" in line else ("turns", "replies", "finish")
    numbers = ("loglikelihoods",) if "choices" in line else ()
    lists = {**dict.fromkeys(texts, str), **dict.fromkeys(numbers, float)}
    return (
        all(isinstance(line.get(name), dict) for name in ("item", "values", "detail"))
        and all(type(value) in (int, float) for value in line["values"].values())
        and all(isinstance(line.get(name), list) for name in lists)
        and all({*map(type, line[name])} <= {kind} for name, kind in lists.items())
        and len({len(line[name]) for name in lists}) == 1
        and isinstance(line.get("context", ""), str)
        and all(sound_span(read.span) for read in readings(line["detail"], 1))
    )


def readings(detail: Any, replies: int, name: str = "") -> Iterator[Read]:
    """Every reading in a sample's detail, however deep. replies: how many the sample has.

    A reading with "first" in its name is of the first reply. If there are four replies, the letter
    was asked for twice, and it is of the second reply. All other readings are of the last reply.
    """
    if isinstance(detail, list):
        for number, each in enumerate(detail, start=1):
            yield from readings(each, replies, f"{name} {number}")
    elif isinstance(detail, dict) and {"value", "span", "rule"} <= detail.keys():
        first = 1 if replies == 4 else 0
        reply = first if "first" in name else replies - 1
        yield Read(name, reply, detail["value"], detail["span"], str(detail["rule"]))
    elif isinstance(detail, dict):
        for key, each in detail.items():
            yield from readings(each, replies, f"{name} {key}".strip())


def dialogue_written(line: Mapping[str, Any]) -> Iterator[str]:
    """The turns, the replies with the spans that were read marked in them, and the readings."""
    replies = line["replies"]
    found = list(readings(line["detail"], len(replies)))
    for i, (turn, reply, ended) in enumerate(
        zip(line["turns"], replies, line["finish"], strict=True)
    ):
        yield from wrapped(printable(turn), indent=" " * 9, first="  user   ")
        spans = [read.span for read in found if read.span and read.reply == i]
        cut = "" if ended == "stop" else " [cut off at the cap]"
        yield from wrapped(marked(reply, spans) + cut, indent=" " * 9, first="  model  ")
    yield ""
    for name in ("correct", "incorrect", "aliases", "letters", "emotions", "ratings"):
        if value := line["item"].get(name):
            text = value if isinstance(value, str) else ", ".join(map(str, value))
            yield from wrapped(printable(f"{name}: {text}"))
    yield ""
    for read in found:
        words = RULE_WORDS.get(read.rule)
        text = f"{read.name} = {'nothing' if read.value is None else read.value}"
        if read.span:
            start, end = read.span
            what = repr(replies[read.reply][start:end])
            text += f" from {what}, characters {start} to {end} of reply {read.reply + 1}"
        text += f"; rule {read.rule}" + (f": {words}" if words else "")
        yield from wrapped(printable(text), indent=" " * 6, first="  ")


def choices_written(benchmark: str, line: Mapping[str, Any]) -> Iterator[str]:
    """The context, each choice with its log-likelihood, and the rule that compares them."""
    choices, detail = line["choices"], line["detail"]
    yield from wrapped(printable(line["context"]), bar="| ")
    yield ""
    numbers: dict[str, Sequence[Any]] = {"log-likelihood": line["loglikelihoods"]}
    if "pick_norm" in detail:
        pairs = zip(choices, line["loglikelihoods"], strict=True)
        numbers["per character"] = [value / max(len(choice), 1) for choice, value in pairs]
    listed = [name for name, values in detail.items() if isinstance(values, list)]
    numbers |= {name: detail[name] for name in listed if len(detail[name]) == len(choices)}
    cells = (map(_shortest, values) for values in numbers.values())
    yield from columns(("choice", *numbers), zip(map(printable, choices), *cells, strict=True))
    yield ""
    for name, value in {**line["item"], **detail}.items():
        if name not in numbers and name not in ("id", "context", "question", "text", "choices"):
            yield from wrapped(printable(f"{name}: {value}"))
    rule = (BENCHMARKS[benchmark].score.__doc__ or "").split("\n")[0]
    yield from wrapped(f"rule: {rule}")


def _shortest(value: Any) -> str:
    return f"{value:.7g}".replace("-", "−") if isinstance(value, int | float) else str(value)


def values_written(benchmark: str, line: Mapping[str, Any]) -> Iterator[str]:
    """Every value of the sample, with the parts of the set in whose means it counts as well. Then
    the headline's metrics of which the sample has no value."""
    values, together = line["values"], dict[tuple[str, float], list[str]]()
    for name in values:
        # flip_rate/pooled is flip_rate over other items; flip_rate/careful is another number, and
        # has parts of its own
        is_part = "/" in name and not any(other.startswith(f"{name}/") for other in values)
        base = name.rpartition("/")[0] if is_part else name
        together.setdefault((base, values[name]), []).append(name)
    yield ""
    yield "In the means of result.json the sample counts as"
    for (base, value), (first, *others) in together.items():
        also = f"  (so too {', '.join(name.removeprefix(base) for name in others)})"
        also = also if others else ""
        yield from wrapped(
            printable(f"{first} = {_shortest(value)}{also}"), indent=" " * 6, first="  "
        )
    for name in BENCHMARKS[benchmark].headline:
        if name not in values:
            yield f"  {name}: none, so it is left out of that mean"
    if line.get("unparsed"):
        yield "  It is counted as unparsed, since the rules found no answer to read."
    if line.get("truncated"):
        yield "  Its prompt exceeded the model's context and lost its first tokens."


def scored_again(
    benchmark: str, folder: Path, line: Mapping[str, Any], place: str
) -> Iterator[str]:
    """Score the sample again: a notice for each value, or detail, that today's rules change."""
    if not (folder / RESULT).exists():
        yield "  (The evaluation is not finished, so its settings are not known yet.)"
        return
    result, own = read_json(folder / RESULT), BENCHMARKS[benchmark]
    try:
        switches = result["settings"]["switches"]
        named = [f"{name} {value}" for name, value in switches.items()]
        chosen = ", ".join([*named, *measures_in(result["settings"])])
        answer = stored_answer(line, own.ask(line["item"], switches))
        own.prepare(switches)
        score = own.score(line["item"], answer, switches)
    except UserError as error:
        yield f"notice {place}: it cannot be scored again here. {error}"
        return
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
        yield f"notice {place}: it cannot be scored again ({type(error).__name__}: {error})."
        return
    yield from wrapped(printable(f"settings: {chosen or 'none'}"))
    computed = {**score.values, "detail": json.loads(dumps(score.detail))}
    logged = {**line["values"], "detail": line["detail"]}
    for name in sorted(logged.keys() | computed.keys()):
        if logged.get(name) != computed.get(name):
            yield differs(place, name, logged.get(name), computed.get(name))
