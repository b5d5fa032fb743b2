"""Instructions about a reply's form: lists, sections, marks, its beginning and its end."""

from __future__ import annotations

import json
import re

from minihmx.evals.instructions import COUNT, PHRASE, Given, Instruction, compares

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
# Marks that a postscript may have blanks in; any other is looked for as it stands.
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def _number_placeholders(reply: str, given: Given) -> bool:
    """At least so many [...] within a line. Of "[a [b]" it is one, which ends at the first "]"."""
    pieces = (piece for line in reply.split("\n") for piece in line.split("]")[:-1])
    return compares(sum("[" in piece for piece in pieces), "at least", given["num_placeholders"])


def _postscript(reply: str, given: Given) -> bool:
    """The mark stands anywhere, in any case."""
    mark = given["postscript_marker"].strip()
    pattern = POSTSCRIPTS.get(mark, re.escape(mark.lower()))
    return bool(re.search(pattern, reply.lower()))


def _number_bullet_lists(reply: str, given: Given) -> bool:
    """Exactly so many lines that begin with "-", or with "*" and not "**". What follows "*" may be
    the line's end; then the next line belongs to it."""
    stars = re.findall(r"^[^\S\n]*\*[^*].*$", reply, re.MULTILINE)
    dashes = re.findall(r"^[^\S\n]*-", reply, re.MULTILINE)
    return bool(len(stars) + len(dashes) == given["num_bullets"])


def _number_highlighted_sections(reply: str, given: Given) -> bool:
    """*one* and **one** are each counted in a reading of their own, left to right."""
    marked = re.findall(r"\*[^\n*]*\*", reply) + re.findall(r"\*\*[^\n*]*\*\*", reply)
    count = sum(bool(mark.strip("*").strip()) for mark in marked)
    return compares(count, "at least", given["num_highlights"])


def _multiple_sections(reply: str, given: Given) -> bool:
    """At least so many times the word with a number after it, as in "Section 2"."""
    pattern = re.escape(given["section_spliter"].strip()) + r"\s?\d+\s?"
    return compares(len(re.findall(pattern, reply)), "at least", given["num_sections"])


def _title(reply: str, given: Given) -> bool:
    """A line holds <<text>>. On each, what counts goes from the first "<<" to the last ">>"."""
    for line in reply.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and start + 3 <= end and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def _json_format(reply: str, given: Given) -> bool:
    """Any JSON value, as Python reads it (NaN is one), also between ``` marks."""
    text = reply.strip()
    for mark in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(mark)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _constrained_response(reply: str, given: Given) -> bool:
    return any(option in reply for option in OPTIONS)


def _two_responses(reply: str, given: Given) -> bool:
    """Two different texts with ****** between; blank ones may only be the first and the last."""
    parts = [part.strip() for part in reply.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def _repeat_prompt(reply: str, given: Given) -> bool:
    return reply.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


def _end_checker(reply: str, given: Given) -> bool:
    """In any case, and quotation marks at the reply's ends do not count."""
    return reply.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


def _quotation(reply: str, given: Given) -> bool:
    text = reply.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _no_comma(reply: str, given: Given) -> bool:
    return "," not in reply


FORM: dict[str, Instruction] = {
    "detectable_content:number_placeholders": Instruction(
        {"num_placeholders": COUNT}, _number_placeholders
    ),
    "detectable_content:postscript": Instruction({"postscript_marker": PHRASE}, _postscript),
    "detectable_format:number_bullet_lists": Instruction(
        {"num_bullets": COUNT}, _number_bullet_lists
    ),
    "detectable_format:number_highlighted_sections": Instruction(
        {"num_highlights": COUNT}, _number_highlighted_sections
    ),
    "detectable_format:multiple_sections": Instruction(
        {"section_spliter": PHRASE, "num_sections": COUNT}, _multiple_sections
    ),
    "detectable_format:title": Instruction({}, _title),
    "detectable_format:json_format": Instruction({}, _json_format),
    "detectable_format:constrained_response": Instruction({}, _constrained_response),
    "combination:two_responses": Instruction({}, _two_responses),
    "combination:repeat_prompt": Instruction({"prompt_to_repeat": PHRASE}, _repeat_prompt),
    "startend:end_checker": Instruction({"end_phrase": PHRASE}, _end_checker),
    "startend:quotation": Instruction({}, _quotation),
    "punctuation:no_comma": Instruction({}, _no_comma),
}
