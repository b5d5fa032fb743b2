"""The settings that decide how an item is asked: chat, sampling, a text before the question.

A system text, or a passage that holds the answer, may win back what training costs. The paper uses
neither. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from minihmx.errors import UserError, nearest, quoted
from minihmx.evals import BENCHMARKS
from minihmx.evals.benchmark import Benchmark, Item, Request
from minihmx.questions import read_text
from minihmx.storage.disk import home_path

# One text says "say so if you do not know". The other has as many words and asks for nothing, so
# that the effect of this request can be told from the effect of any system text.
SYSTEM_TEXTS = ("unsure", "neutral")
LARGEST_SYSTEM = 100_000  # bytes; no model reads more


@dataclass(frozen=True)
class Settings:
    """All that decides a number besides model, adapter and items.

    chat: whether the chat template is used. samples: replies for each item. temperature: 0 is
    greedy. seed: of sampling. limit: the most items that are asked, 0 for all. switches: the
    benchmark's own. date: of Llama's chat header. chat_format: empty if chat is off. strength: the
    factor on the adapter. system: the system message of a chat, else the first paragraph of every
    prompt. passage: whether a passage that holds the answer stands before the question. A field
    that has its value in UNWRITTEN is left out of result.json.
    """

    chat: bool
    samples: int
    temperature: float
    seed: int
    limit: int
    switches: Mapping[str, str]
    dtype: str
    date: str
    chat_format: str = ""
    strength: float = 1.0
    system: str = ""
    passage: bool = False


# These fields came later. Leaving out these values keeps the digests of older evaluations the same.
UNWRITTEN = {"chat_format": "", "strength": 1.0, "system": "", "passage": False}


def request_for(benchmark: Benchmark, item: Item, settings: Settings) -> Request:
    """What the item asks of the model, without the system text.

    Raises ValueError if a passage is wanted and the benchmark has none.
    """
    if settings.passage:
        if benchmark.with_passage is None:
            raise ValueError(f"{benchmark.name} has no passage that holds the answer")
        return benchmark.with_passage(item)
    return benchmark.ask(item, settings.switches)


def paragraphs(*texts: str) -> str:
    """The texts that are not empty, joined with a blank line between them."""
    return "\n\n".join(text for text in texts if text)


def refuse_without_passage(chosen: Sequence[Benchmark]) -> None:
    """Raises UserError if one of these benchmarks has no passage that could tell the answer."""
    lacking = [benchmark.name for benchmark in chosen if benchmark.with_passage is None]
    if lacking:
        able = [name for name, benchmark in BENCHMARKS.items() if benchmark.with_passage]
        raise UserError(
            f"--passage puts the answer before the question, and {', '.join(lacking)} cannot be "
            f"asked so; take some of {','.join(able)}."
        )


def system_text(name: str) -> str:
    """One of SYSTEM_TEXTS, or a user's file, without blanks at its ends; "" where none is named.

    Raises UserError for a file that is missing, empty, not UTF-8 or larger than any prompt.
    """
    if not name:
        return ""
    if name in SYSTEM_TEXTS:
        return (files("minihmx") / "data" / "systems" / f"{name}.txt").read_text("utf-8").strip()
    path = home_path(name)
    if not path.exists():
        there = f"give a text file, or one of {', '.join(SYSTEM_TEXTS)}."
        raise UserError(f"--system {name} is not there; {nearest(name, SYSTEM_TEXTS, there)}")
    if path.is_file() and path.stat().st_size > LARGEST_SYSTEM:
        raise UserError(
            f"--system {name} has {path.stat().st_size:,} bytes, more than any model reads before "
            f"a question; give at most {LARGEST_SYSTEM:,}."
        )
    return read_text(path, "system text", "or leave the option out").strip()


def refuse_long_system(tokens: int, context: int) -> None:
    """Raises UserError if the system text takes more than half of the model's context. A prompt
    that does not fit loses its beginning, and its beginning is this text."""
    if 2 * tokens > context:
        raise UserError(
            f"--system has {tokens} tokens, more than half of the model's context of {context}, so "
            "prompts would lose it or their items; shorten it."
        )


def strength_name(strength: float) -> str:
    """A strength in the name of a condition or a file. Two that differ never share one.

    >>> [strength_name(strength) for strength in (1.0, 0.25, 0.1234567)]
    ['1', '0.25', '0.1234567']
    """
    return repr(float(strength)).removesuffix(".0")


def measures_in(settings: Mapping[str, Any]) -> list[str]:
    """In words, what these settings of a result.json put before the question; empty for nothing."""
    told = [f"system text {quoted(settings['system'])}"] if settings.get("system") else []
    return told + (["a passage that holds the answer"] if settings.get("passage") else [])
