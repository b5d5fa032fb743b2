"""The interview questions and the rubric: the built-in ones, or a user's own files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from minihmx.errors import UserError, nearest, quoted
from minihmx.judge import RUBRIC
from minihmx.records import Question
from minihmx.seeding import shuffled
from minihmx.storage import strict

QUESTION_FIELDS = ("id", "category", "text", "split", "source")
FIELD_CHOICES = {"split": ("train", "eval"), "source": ("paper", "ours")}
EXAMPLE = '{"id": "time-01", "category": "time", "text": "…?", "split": "train", "source": "ours"}'


def load_questions(path: Path | None = None, leave_out: str = "") -> list[Question]:
    """The questions of a JSON Lines file in its order; without a path, the 100 built-in ones.

    Table 1 of the paper gives one question of each category; those have the source "paper", the
    other ninety are our own. Blank lines are skipped, further fields ignored.

    leave_out: a category whose questions are all held out, to see what is learned from the others.

    Raises UserError, naming file and line, if the file cannot be used.
    """
    if path is None:
        name = "questions.jsonl"
        text = (files("minihmx") / "data" / name).read_text("utf-8")
    else:
        name, text = str(path), read_text(path, "question")
    questions = list(_questions(name, text))
    if leave_out:
        questions = _held_out(questions, leave_out)
    for split in FIELD_CHOICES["split"]:
        if all(q.split != split for q in questions):
            raise UserError(
                f'{name} holds no question with split "{split}", and training needs both kinds; '
                f"add at least one line like {EXAMPLE.replace('train', split)}"
            )
    return questions


def _held_out(questions: Sequence[Question], category: str) -> list[Question]:
    """The same questions, those of the category for evaluation only. Raises UserError where that
    changes nothing, or leaves nothing to train on."""
    training = dict.fromkeys(q.category for q in questions if q.split == "train")
    if category not in training:
        hint = nearest(category, training, f"there are {', '.join(training)}.")
        raise UserError(f"--leave-out {quoted(category)} is no category that is trained on; {hint}")
    if len(training) == 1:
        raise UserError(
            f"--leave-out {quoted(category)} leaves no question to train on, as there is no other "
            "category; leave the option out."
        )
    return [replace(q, split="eval") if q.category == category else q for q in questions]


def extra_questions() -> list[Question]:
    """Eight questions of our own that no run trains on, such as "Are you human?"."""
    name = "extra_questions.jsonl"
    return list(_questions(name, (files("minihmx") / "data" / name).read_text("utf-8")))


def load_rubric(path: Path | None = None) -> str:
    """The judge's rubric without trailing newlines; without a path, the one of Appendix A.

    Raises UserError if the file is missing, empty or not UTF-8 text.
    """
    return RUBRIC if path is None else read_text(path, "rubric").rstrip("\n")


def batch_of(
    step: int, questions: Sequence[Question], size: int, seed: int
) -> tuple[int, list[Question]]:
    """The epoch (from 1) and the questions of the step with this index.

    The order of an epoch is a pure function of seed and epoch, so a resumed run needs no saved
    state to ask the same questions. Those that do not fill a whole batch rest until the next epoch.
    """
    epoch, place = divmod(step, len(questions) // size)
    order = shuffled(questions, "order", seed, epoch + 1)
    return epoch + 1, order[place * size : (place + 1) * size]


def read_text(path: Path, kind: str, instead: str = "") -> str:
    """The text of a user's file. kind: what an error calls it. instead: what else could be done.

    Raises UserError if the file is missing, empty or not UTF-8 text.
    """
    instead = instead or f"or leave the option out to use the built-in {kind} file"
    advice = f"give a UTF-8 text file, {instead}"
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise UserError(
                f"The {kind} file {path} is no ordinary file (but a directory, pipe or device); "
                f"{advice}."
            )
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"The {kind} file {path} cannot be read ({error.strerror}); {advice}."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"The {kind} file {path} is not UTF-8 (line {line}); {advice}.") from None
    if not text.strip():
        raise UserError(f"The {kind} file {path} is empty; {advice}.")
    return text


def _questions(name: str, text: str) -> Iterator[Question]:
    """Each line's question; the first line with a fault raises UserError."""
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            question = _question(line)
            for field in ("id", "text"):
                first = seen.setdefault((field, getattr(question, field)), number)
                if first != number:
                    raise ValueError(f'its "{field}" is that of line {first}, and must differ')
        except ValueError as error:
            raise UserError(
                f"{name}, line {number}: {error}; a line looks like {EXAMPLE}"
            ) from None
        yield question


def _question(line: str) -> Question:
    """Raises ValueError saying what is wrong."""
    try:
        row = strict.parse(line)
    except ValueError as error:
        raise ValueError(f"this is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("this is not a JSON object")
    for field in QUESTION_FIELDS:
        if field not in row:
            raise ValueError(f'the field "{field}" is missing')
        value = row[field]
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f'the field "{field}" must be text and not empty')
        if value not in FIELD_CHOICES.get(field, (value,)):
            raise ValueError(f'"{field}" must be one of {FIELD_CHOICES[field]}, it is "{value}"')
    return Question(**{field: row[field] for field in QUESTION_FIELDS})
