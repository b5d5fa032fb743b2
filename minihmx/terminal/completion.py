"""What a shell offers after Tab, by the library argcomplete, which asks the parser itself.

The shell calls minihmx with the line so far in its environment. Only then is anything here used, so
that no other start pays for it.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from minihmx.evals import BENCHMARKS
from minihmx.models.known import MODELS

Completer = Callable[..., Iterable[str]]
TASKS = ("all", "paper", *BENCHMARKS)


def offer_words(parser: argparse.ArgumentParser, verbs: Iterable[argparse.ArgumentParser]) -> None:
    """Answer the shell and end the process; nothing where argcomplete is not installed."""
    with contextlib.suppress(ImportError):
        import argcomplete

        for verb in verbs:
            for action in actions_of(verb):
                if completer := completer_of(action):
                    action.completer = completer  # type: ignore[attr-defined]
        argcomplete.autocomplete(parser, always_complete_options=False)


def actions_of(verb: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What a verb takes, and what the verbs within it take."""
    for action in verb._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from actions_of(nested)


def completer_of(action: argparse.Action) -> Completer | None:
    """What may stand for an argument; None leaves it to argparse's choices, else to file names."""
    if action.dest in ("model", "by"):
        return models
    if action.dest == "models":
        return several_models
    if action.dest == "tasks":
        return tasks
    if action.dest == "rubrics":
        return rubrics
    if action.dest == "leave_out":
        return categories
    if isinstance(action.metavar, str) and "|" in action.metavar:  # as train shows its choices
        return among([word for word in action.metavar.split("|") if word.islower()])
    return among(()) if action.type in (int, float) else None


def among(words: Sequence[str]) -> Completer:
    return lambda **_: words


def models(prefix: str, **_: object) -> list[str]:
    """Short names, and folders that hold a model."""
    from argcomplete.completers import DirectoriesCompleter

    return [*MODELS, *DirectoriesCompleter()(prefix)]


def several_models(prefix: str, **_: object) -> list[str]:
    """The same, for the last of a list with commas."""
    before, comma, last = prefix.rpartition(",")
    return [f"{before}{comma}{name}" for name in models(last)]


def tasks(prefix: str, **_: object) -> list[str]:
    """The benchmarks, for the last of a list with commas."""
    before, comma, _last = prefix.rpartition(",")
    return [f"{before}{comma}{name}" for name in (BENCHMARKS if comma else TASKS)]


def rubrics(prefix: str, **_: object) -> list[str]:
    """What `judge --rubric` has a name for, and files."""
    from argcomplete.completers import FilesCompleter

    from minihmx.probes.rubrics import EVERY_RUBRIC, SAME_RUBRIC, SELF_WRITTEN, SHIPPED

    named = (EVERY_RUBRIC, SAME_RUBRIC, SELF_WRITTEN, *SHIPPED)
    return [*named, *FilesCompleter()(prefix)]


def categories(**_: object) -> list[str]:
    """Of the built-in questions; who trains on others knows theirs."""
    from minihmx.questions import load_questions

    return list(dict.fromkeys(question.category for question in load_questions()))
