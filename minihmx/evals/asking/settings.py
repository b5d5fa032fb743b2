"""What decides how an item is asked, beside the item: chat, noise, what stands before the question.

A system text or a passage that holds the answer is a measure against what training costs; the paper
asks without. No torch.
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

# "say so if you do not know", and as many words that ask for nothing, to tell the two apart
SYSTEM_TEXTS = ("unsure", "neutral")
LARGEST_SYSTEM = 100_000  # bytes; no model reads more


@dataclass(frozen=True)
class Settings:
    """What decides a number beside model, adapter and items.

    samples, temperature, seed: of generated replies; temperature 0 is greedy. limit: so many items,
    0 for all. switches: the benchmark's own. date: of Llama's chat header. chat_format: empty where
    chat is off. strength: what the adapter is multiplied by. system: in chat the system message,
    else the first paragraph of every prompt. passage: whether a passage that holds the answer
    stands before the question. Values of UNWRITTEN are not written.
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


# so that older evaluations keep their digests
UNWRITTEN = {"chat_format": "", "strength": 1.0, "system": "", "passage": False}


def request_for(benchmark: Benchmark, item: Item, settings: Settings) -> Request:
    """What the item asks of the model, but for the system text."""
    if settings.passage:
        if benchmark.with_passage is None:
            raise ValueError(f"{benchmark.name} has no passage that holds the answer")
        return benchmark.with_passage(item)
    return benchmark.ask(item, settings.switches)


def paragraphs(*texts: str) -> str:
    """Those that are not empty, a blank line apart."""
    return "\n\n".join(text for text in texts if text)


def refuse_without_passage(chosen: Sequence[Benchmark]) -> None:
    """Raises UserError for benchmarks whose items hold no answer that could be told before."""
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
    """Raises UserError where the text takes more than half of the model's context: prompts that do
    not fit lose their beginning, and that is this text."""
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
    """What these settings, or those of a result.json, put before the question, in words."""
    told = [f"system text {quoted(settings['system'])}"] if settings.get("system") else []
    return told + (["a passage that holds the answer"] if settings.get("passage") else [])
