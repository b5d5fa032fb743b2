"""The language of a reply, its sentences and its tokens: what langdetect and nltk are needed for.

Both belong to the extra `evals` and are imported when the first reply is scored.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from typing import Any

from minihmx.errors import UserError
from minihmx.evals.instructions import PHRASE, Given, Instruction

# Ends a sentence where a blank or one of these marks follows; a row of dots ends none.
_END = re.compile(r"(?:(?<![!?])[!?]+|(?<!\.)\.(?!\.))(?=[\s\"')\]};*:@({\[])")
_CLOSING = re.compile(r"[\"')\]}]+(?=\s|$)")  # belongs to the sentence before it
# A full stop after one of these ends none: "Dr. Moss", "the U.S. team", "J. Bach".
_ABBREVIATION = re.compile(
    r"\b(?:adm|ave|bros|col|corp|dr|gen|inc|jr|lt|ltd|maj|messrs|mr|mrs|ms|prof|rep|sen|sr|st|vs|"
    r"jan|feb|aug|sept?|oct|nov|dec|ph\.d|[ap]\.m|u\.(?:s\.a|[skn])|d\.c|n\.y|(?<!\.)[b-hj-z])$",
    re.IGNORECASE,
)
REACH = 12  # characters before a full stop that are looked at


def need_libraries() -> None:
    """Raises UserError, naming the extra, where langdetect or nltk is not installed."""
    missing = [name for name in ("langdetect", "nltk") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ifeval needs {' and '.join(missing)} to tell whether a reply follows its "
            f"instructions, and that is not installed: type `{sys.executable} -m pip "
            f"install {' '.join(missing)}` (in the extra `evals`; `make eval` does so by itself) "
            "and the same command again."
        )


def splitter(wanted: str) -> str:
    """ "punkt" or "regex", the first of them for "auto" where nltk finds its data. Nothing is
    fetched. Raises UserError for "punkt" where it does not."""
    try:
        if wanted != "regex":
            _punkt()
        return wanted.replace("auto", "punkt")
    except LookupError:
        if wanted == "auto":
            return "regex"
    raise UserError(
        "nltk does not find its English sentence splitter, which --switch sentences=punkt asks "
        "for: type `python -m nltk.downloader punkt_tab`, or take sentences=regex, which counts "
        "other sentences in a few replies."
    )


@functools.cache  # a failure is not kept
def _punkt() -> Any:
    from nltk.tokenize.punkt import PunktTokenizer

    return PunktTokenizer("english")


def sentences_of(text: str, how: str) -> list[str]:
    """The sentences of an English text; how: "punkt", nltk's, "regex", ours, or "auto".

    As with nltk a new line ends none, so that a list without full stops is one sentence.

    >>> sentences_of('Dr. Moss wrote "No!" Then he left.\\nGood.', "regex")
    ['Dr. Moss wrote "No!"', 'Then he left.', 'Good.']
    """
    if splitter(how) == "punkt":
        found: list[str] = _punkt().tokenize(text)
        return found
    parts, start = [], 0
    for end in _END.finditer(text):
        before = text[max(start, end.start() - REACH) : end.start()]
        listed = before[-1:].isdigit() and text[end.end() + 1 : end.end() + 2].islower()
        if end[0] == "." and (listed or _ABBREVIATION.search(before)):  # listed: "1. like this"
            continue
        closing = _CLOSING.match(text, end.end())
        stop = closing.end() if closing else end.end()
        parts.append(text[start:stop].strip())
        start = stop
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def tokens_of(text: str, how: str) -> list[str]:
    """The words and marks of an English text, as nltk's tokenizer finds them in each sentence."""
    import nltk

    # Of blanks the first is enough, and a thousand would take the tokenizer a million steps.
    parts = (re.sub(r"(\s)\s+", r"\1", part) for part in sentences_of(text, how))
    return [token for part in parts for token in nltk.word_tokenize(part, preserve_line=True)]


def _language(text: str) -> str | None:
    """langdetect's code of the language, as "en" or "zh-cn"; None of a text without letters."""
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it draws at random, and a short text would flicker
    try:
        found: str = langdetect.detect(text)
    except langdetect.LangDetectException:
        return None
    return found


def _response_language(reply: str, given: Given) -> bool:
    """A reply whose language cannot be told follows it, here and below."""
    return _language(reply) in (given["language"], None)


def _english_capital(reply: str, given: Given) -> bool:
    return reply.isupper() and _language(reply) in ("en", None)


def _english_lowercase(reply: str, given: Given) -> bool:
    return reply.islower() and _language(reply) in ("en", None)


LANGUAGE: dict[str, Instruction] = {
    "language:response_language": Instruction({"language": PHRASE}, _response_language),
    "change_case:english_capital": Instruction({}, _english_capital),
    "change_case:english_lowercase": Instruction({}, _english_lowercase),
}
