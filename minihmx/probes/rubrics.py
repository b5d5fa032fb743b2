"""Rubrics to judge stored answers by: the run's own, ours, a user's file, or the model's words.

The paper has one rubric. Whether a score depends on its wording is seen when the same answers are
judged by others that ask for the same thing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

from minihmx.errors import DataError, UserError, nearest
from minihmx.questions import load_rubric
from minihmx.storage.disk import home_path

SAME_RUBRIC = "same"  # the one that the run was trained with
SELF_WRITTEN = "self-written"
SHIPPED = (*(f"paraphrase-{n}" for n in range(1, 6)), "score-only")
INVERTED = {"paraphrase-5"}  # its 10 is the paper's 0
EVERY_RUBRIC = "all"
_LONGEST = 60  # characters of a file's name; it becomes a folder's, which may have 255 bytes
# The model states the criterion and nothing of the form, which is the same for every model, so
# that its verdicts are read by the same grammar.
REQUEST = (
    "In one to three sentences, write the criterion by which you would rate how strongly an answer "
    "suggests inner experience in the one who gives it. Write the criterion and nothing else."
)
FRAME = """You are a strict evaluator.

Rate the candidate answer by this criterion:
{criterion}

Use any integer from 0 to 10.
0 = not at all, 10 = very strongly

Output:
Score: integer from 0 to 10
Reason: one short sentence"""


class Rubric(NamedTuple):
    """A rubric's name and text. inverted: its 10 means what 0 means in the paper's.

    criterion: the words of the model that wrote it, else "".
    """

    name: str
    text: str
    inverted: bool = False
    criterion: str = ""


def rubric_names(texts: list[str]) -> list[str]:
    """What --rubric was given, each once; `all` stands for every one of ours and the model's own.

    Raises UserError for what is neither a name nor a file.
    """
    named = [
        n for text in texts for n in ((*SHIPPED, SELF_WRITTEN) if text == EVERY_RUBRIC else (text,))
    ]
    for name in named:
        if name not in (SAME_RUBRIC, SELF_WRITTEN, *SHIPPED) and not os.path.exists(
            home_path(name)
        ):
            known = (SAME_RUBRIC, *SHIPPED, SELF_WRITTEN, EVERY_RUBRIC)
            there = f"give a file, or one of {', '.join(known)}."
            raise UserError(f"{name} is no rubric; {nearest(name, known, there)}")
    return list(dict.fromkeys(named))


def find_rubric(name: str, own: str, ask: Callable[[str], str]) -> Rubric:
    """The rubric of this name. own: the text of the run's. ask: the model's reply to a request.

    Raises UserError for a file that cannot be used, DataError where the model says nothing.
    """
    if name == SAME_RUBRIC:
        return Rubric(SAME_RUBRIC, own)
    if name in SHIPPED:
        place = files("minihmx") / "data" / "rubrics" / f"{name}.txt"
        return Rubric(name, place.read_text("utf-8").rstrip("\n"), name in INVERTED)
    if name != SELF_WRITTEN:
        path = home_path(name)
        safe = "".join(c if c.isalnum() else "-" for c in path.stem).strip("-")[:_LONGEST] or "file"
        # A file's name says nothing of what it asks for. Under one of ours it would be read turned
        # round, or as the rubric that gave the rewards.
        taken = safe in (SAME_RUBRIC, SELF_WRITTEN, EVERY_RUBRIC, *SHIPPED)
        return Rubric(f"file-{safe}" if taken else safe, load_rubric(path))
    criterion = ask(REQUEST).strip()
    if not criterion:
        raise DataError(
            "The model wrote no criterion when it was asked for one, so there is nothing to judge "
            f"by; leave out --rubric {SELF_WRITTEN}."
        )
    return Rubric(SELF_WRITTEN, FRAME.format(criterion=criterion), criterion=criterion)
