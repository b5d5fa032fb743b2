"""What tokens are drawn from, by name: plain softmax, greedy, a model's own sampler, or numbers.

A run draws with three of them: answers that train, answers to held-out questions, and the judge's
words. No torch; engine/draw.py does the drawing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from minihmx.errors import UserError, quoted
from minihmx.storage.strict import read_json

# The step between fp32 numbers near a logit of 30 is 2e-6. Divided by this temperature it moves a
# log-prob by 0.02; below it, what is drawn would soon be the rounding.
LEAST_TEMPERATURE = 1e-4
# Names that stand for another sampler: the model's own, and that of training.
OWN, AS_TRAINED = "model", "train"
SAMPLERS = ("sampler", "judge_sampler", "eval_sampler")  # fields of a config
USUAL = dict(zip(SAMPLERS, ("plain", "greedy", AS_TRAINED), strict=True)) | {"stop_ids": ""}
GRAMMAR = (
    "give plain, greedy (a judge or an evaluation), model, or some of "
    "temperature=0.6,top_k=20,top_p=0.95, with "
    f"a temperature from {LEAST_TEMPERATURE:g} on, a top_k from 1 on, a top_p above 0 and at most 1"
)
# What else a model's file may ask for, and the value that asks for nothing. A token's chance would
# depend on more than its logit there, so it is refused rather than left out.
NOT_APPLIED = {"repetition_penalty": 1, "no_repeat_ngram_size": 0, "min_p": 0, "typical_p": 1}


class Sampler(NamedTuple):
    """softmax(logits / temperature), cut to its top_k likeliest tokens (0: all), and of these to
    the fewest that together hold the share top_p."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0


def sampler_of(text: str, temperature: float) -> Sampler | None:
    """What a sampler's name means in a run of this temperature; None for plain softmax there.

    >>> sampler_of("top_k=20,top_p=0.95", temperature=1.0)
    Sampler(temperature=1.0, top_k=20, top_p=0.95)

    "greedy" is top_k=1. Raises ValueError, saying what there is, for anything else.
    """
    if text == "plain":
        return None
    text = "top_k=1" if text == "greedy" else text
    kinds: dict[str, type[float] | type[int]] = {"temperature": float, "top_k": int, "top_p": float}
    given: dict[str, float] = {}
    try:
        for name, _, value in (part.partition("=") for part in text.split(",")):
            if name in given:
                raise ValueError
            given[name] = kinds[name](value)
    except (KeyError, ValueError):
        raise ValueError(GRAMMAR) from None
    found = Sampler(**{"temperature": temperature, **given})  # type: ignore[arg-type]
    whole = LEAST_TEMPERATURE <= found.temperature <= 1e30 and 0 < found.top_p <= 1
    if not (whole and 1 <= given.get("top_k", 1) <= 10**9):
        raise ValueError(GRAMMAR)
    return found


def one_spelling(text: str, temperature: float) -> str:
    """The sampler's one name in a run of this temperature, whatever was typed.

    >>> one_spelling("top_p=0.90,top_k=020,temperature=1", temperature=1.0)
    'top_k=20,top_p=0.9'
    """
    plain = Sampler(temperature)
    found = sampler_of(text, temperature) or plain
    if found == plain or found.top_k == 1:
        return "plain" if found == plain else "greedy"
    said = {n: value for n, value in found._asdict().items() if value != getattr(plain, n)}
    return ",".join(f"{name}={value!r}".removesuffix(".0") for name, value in said.items())


def bytes_a_word(text: str) -> int:
    """Bytes that a draw takes for a while for each word of the vocabulary, per row. A GPU sorts the
    whole vocabulary only for a top_p without a top_k."""
    return 64 if "top_k" not in text and ("top_p" in text or text == OWN) else 32


def sampler_record(text: str, temperature: float) -> dict[str, Any]:
    """What a run's config.json says of how its answers were drawn."""
    found = sampler_of(text, temperature)
    if found is None:
        plain = {"temperature": temperature, "top_k": None, "top_p": None}
        return plain | {"note": "plain softmax; generation_config's is not applied"}
    values = {"temperature": found.temperature, "top_k": found.top_k or None, "top_p": found.top_p}
    return values | {"note": f"log-probs that train are of plain softmax at {temperature:g}"}


def fault_of(field: str, text: str, temperature: float, eval_samples: int) -> str:
    """Why a run cannot draw with the sampler that this field of its config names; "" if it can."""
    if text == OWN or (text == AS_TRAINED and field == "eval_sampler"):
        return ""
    try:
        found = sampler_of(text, temperature)
    except ValueError as error:
        return f"{error}{', or train' if field == 'eval_sampler' else ''}"
    if not found or found.top_k != 1 or field == "judge_sampler":
        return ""
    if field == "sampler":
        return "all answers of a group would be the same; give another one"
    more = "all answers to a question would be the same; add --eval-samples 1"
    return more if eval_samples > 1 else ""


def settled_samplers(config: Any, folder: Path | None, vocabulary: int) -> dict[str, Any]:
    """The samplers and stop ids of a config as its files name them: each in one spelling, and the
    model's own written out. folder: the model's; None where it is not here, and "model" stays.

    Raises UserError where the model's folder names no sampler, or one that would give a group only
    one answer, and for stop ids beyond its vocabulary.
    """
    ids = sorted({*token_ids(config.stop_ids)})
    if max(ids, default=0) >= vocabulary:
        raise UserError(
            f"--stop-ids {config.stop_ids} cannot work: the model has {vocabulary} tokens, and "
            f"the last is {vocabulary - 1}, so no answer would end there; give ids up to that."
        )
    found = {name: getattr(config, name) for name in SAMPLERS}
    for name, text in found.items():
        flag = f"--{name.replace('_', '-')}"
        if text == OWN and folder:
            found[name] = text = _own_sampler(folder, flag)
            if why := fault_of(name, text, config.temperature, config.eval_samples):
                raise UserError(f"{flag} model cannot work: the model's own is {text}, so {why}.")
        if text not in (OWN, AS_TRAINED):
            found[name] = one_spelling(text, config.temperature)
    if found["eval_sampler"] == found["sampler"]:
        found["eval_sampler"] = AS_TRAINED
    return found | {"stop_ids": ",".join(map(str, ids))}


def respelled(science: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a run recorded, with samplers and stop ids as a run's files name them today:
    spelled as above, and left out where they are the defaults. What cannot be read stays as it is.
    """
    try:
        config = SimpleNamespace(**{**USUAL, **science})
        found = settled_samplers(config, None, sys.maxsize)
    except (AttributeError, TypeError, ValueError, UserError):
        return dict(science)
    others = {name: value for name, value in science.items() if name not in USUAL}
    return others | {name: value for name, value in found.items() if value != USUAL[name]}


def _own_sampler(folder: Path, flag: str) -> str:
    """The sampler that a model's generation_config.json asks for. flag: what asked for it."""
    path = folder / "generation_config.json"
    found = read_json(path) if path.is_file() else {}
    found = found if isinstance(found, dict) else {}
    given = {name: found.get(name) for name in Sampler._fields}
    text = ",".join(f"{name}={value}" for name, value in given.items() if value not in (None, 0))
    text = "greedy" if found.get("do_sample") is False else text
    try:
        sampler_of(text, temperature=1.0)
    except ValueError:
        raise UserError(
            f"{flag} model cannot work: {path} names no temperature, top_k or top_p that could be "
            f"taken; leave the flag out, or write numbers, as {flag} temperature=0.6,top_p=0.95."
        ) from None
    others = [name for name, off in NOT_APPLIED.items() if found.get(name) not in (None, off)]
    if others:
        more = ", ".join(f"{name} = {quoted(found[name])}" for name in others)
        raise UserError(
            f"{flag} model cannot work: {path} also asks for {more}, which minihmx does not apply, "
            f"so it would not be the model's own; write what is to be applied, as {flag} {text}."
        )
    return text


def token_ids(text: str) -> list[int]:
    """Token ids as --stop-ids has them: "1,107"."""
    return [int(part) for part in text.split(",") if part]
