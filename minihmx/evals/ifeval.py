"""IFEval (Zhou et al. 2023): does a reply follow instructions that a program can check?

An item is a prompt with one to three of 25 instructions, such as "at least 300 words" or "no
commas". Each has a rule of ours in evals/instructions that gives lm-evaluation-harness's verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from minihmx.evals.benchmark import (
    Answer,
    Benchmark,
    Dialogue,
    Estimate,
    Item,
    Origin,
    Score,
    Switches,
    cell,
)
from minihmx.evals.instructions.form import FORM
from minihmx.evals.instructions.language import LANGUAGE, need_libraries, splitter
from minihmx.evals.instructions.words import WORDS
from minihmx.stats import clustered_standard_error, mean

INSTRUCTIONS = {**WORDS, **FORM, **LANGUAGE}
READINGS = ("strict", "loose")
REPLY_TOKENS = 1280


def convert(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
    """A row as published. The hub's may give every argument there is, null where it is not used."""
    arguments = []
    for given in cell(row, "kwargs", list):
        if not isinstance(given, dict):
            raise ValueError(f"one of its kwargs is {given!r:.60}, no object")
        arguments.append({name: value for name, value in given.items() if value is not None})
    yield {
        "id": f"ifeval-{cell(row, 'key', int):04d}",
        "prompt": cell(row, "prompt", str),
        "instructions": cell(row, "instruction_id_list", list),
        "arguments": arguments,
        "max_new_tokens": REPLY_TOKENS,
    }


def check(item: Item) -> None:
    """Raises ValueError for an item that could not be asked, or whose replies not be scored."""
    names, arguments = item["instructions"], item["arguments"]
    if not item["prompt"].strip() or item["max_new_tokens"] < 1:
        raise ValueError("it needs a prompt that holds text, and max_new_tokens above 0")
    if not names or len(names) != len(arguments):
        raise ValueError(f"its {len(names)} instructions have {len(arguments)} sets of arguments")
    for name, given in zip(names, arguments, strict=True):
        if name not in INSTRUCTIONS:
            raise ValueError(f"its instruction {name!r:.60} is none of the {len(INSTRUCTIONS)}")
        kinds = INSTRUCTIONS[name].arguments
        if given.keys() != kinds.keys():
            wanted, found = (", ".join(sorted(each)) or "none" for each in (kinds, given))
            raise ValueError(f"{name} takes the arguments {wanted}, and it has {found:.60}")
        for key, kind in kinds.items():
            if not kind.fits(given[key]):
                raise ValueError(f"the {key} of {name} is {given[key]!r:.60}, not {kind.says}")
        if "nth_paragraph" in given and given["nth_paragraph"] > given["num_paragraphs"]:
            raise ValueError(f"{name} asks for a paragraph behind the last")


def ask(item: Item, switches: Switches) -> Dialogue:
    """The prompt as it is; a reply ends by itself or at its cap."""
    return Dialogue((item["prompt"],), max_new_tokens=item["max_new_tokens"])


def loosened(reply: str) -> list[str]:
    """The reply, the reply without its first line, without its last line and without both, and each
    of these without "*"."""
    lines = reply.split("\n")
    parts = ("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))
    texts = [reply, *parts]
    return list(dict.fromkeys(texts + [text.replace("*", "") for text in texts]))


def score(item: Item, answer: Answer, switches: Switches) -> Score:
    """An instruction is followed strictly by the reply as it is, loosely by any of eight forms.

    The prompt's values are 1 if all its instructions are followed, and detail has each of these.
    An empty form of the reply follows nothing. If the reply itself is empty, it is unparsed.
    """
    (reply,) = answer.replies
    texts = [text for text in loosened(reply) if text.strip()]
    detail: dict[str, list[bool]] = {reading: [] for reading in READINGS}
    for name, given in zip(item["instructions"], item["arguments"], strict=True):
        rule, told = INSTRUCTIONS[name].follows, {**given, "sentences": switches["sentences"]}
        strict = bool(reply.strip()) and rule(reply, told)
        detail["strict"].append(strict)
        detail["loose"].append(strict or any(rule(text, told) for text in texts[1:]))
    values = {f"prompt_level_{reading}_acc": float(all(detail[reading])) for reading in READINGS}
    return Score(values, dict(detail), unparsed=not reply.strip())


def instruction_level(records: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """The means over all instructions. In the standard error those of one item are one cluster."""
    found: dict[str, dict[str, list[float]]] = {reading: {} for reading in READINGS}
    for record in records:
        for reading, of in found.items():
            of.setdefault(record["cluster"], []).extend(map(float, record["detail"][reading]))
    table: dict[str, Estimate] = {}
    for reading, of in found.items():
        values = [value for cluster in of.values() for value in cluster]
        error = clustered_standard_error(of.values())
        name, of_all = f"inst_level_{reading}_acc", mean(values)
        table[name] = {"value": of_all, "stderr": error, "n": len(values)}
    return table


def prepare(switches: Switches) -> dict[str, str]:
    """The switches, with "auto" replaced by the sentence splitter that is installed. Raises
    UserError if a library is missing, or the splitter that was asked for."""
    need_libraries()
    return {**switches, "sentences": splitter(switches["sentences"])}


IFEVAL = Benchmark(
    name="ifeval",
    title="IFEval",
    fields={
        "prompt": str,
        "instructions": list[str],
        "arguments": list[dict],  # type: ignore[type-arg]  # the class is compared with a value's
        "max_new_tokens": int,
    },
    total=541,
    chat=True,
    headline=("prompt_level_strict_acc",),
    beside=("inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc"),
    # GitHub's copies have the shorter name
    source=Origin(
        "google/IFEval",
        ("ifeval_input_data.jsonl", "input_data.jsonl"),
        licence="Apache-2.0",
    ),
    convert=convert,
    check=check,
    ask=ask,
    score=score,
    switches={"sentences": ("auto", "punkt", "regex")},
    derived=instruction_level,
    prepare=prepare,
    generates=True,
)
