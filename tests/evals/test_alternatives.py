"""Every alternative of every expression in minihmx/evals/reading is there for a sentence.

The test makes one alternative at a time impossible to match ("is|was" becomes "(?!)is|was") in the
source of its file, and reads the tables of flip_cases.py and letter_cases.py with the package that
results. If no row then has another value, span or rule, either the alternative lacks a sentence, or
no reply needs it and it can go.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from flip_cases import OTHERS, PARIS_OR_LYON
from letter_cases import LETTERS, PRONOUN

from minihmx.evals import reading
from minihmx.evals.reading.flips import mentions
from minihmx.evals.reading.letters import letter

FOLDER = Path(reading.__file__).parent
SOURCES = {name: (FOLDER / f"{name}.py").read_text() for name in ("folding", "flips", "letters")}
# An escaped character, a class, the beginning of a group with its prefix, or one character.
TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]\\])+\]|\((?:\?(?:P<\w+>|[-i]*:|<?[=!]))?|.", re.DOTALL)
HOLE = "\0"  # stands for a value that an f-string puts in
# Unlike a deletion this keeps the numbers and names of the groups behind it.
IMPOSSIBLE = "(?!)"
Package = tuple[ModuleType, ModuleType]
Read = Callable[[Package], object]


def beginnings(expression: str) -> Iterator[int]:
    """Where each alternative begins, of each group that has several and of the whole."""
    flags = re.match(r"(?:\(\?[a-z]+\))?", expression)
    assert flags is not None
    groups = [[flags.end()]]
    for token in TOKEN.finditer(expression, flags.end()):
        if token[0].startswith("("):
            groups.append([token.end()])
        elif token[0] == "|":
            groups[-1].append(token.end())
        elif token[0] == ")":
            closed = groups.pop()
            yield from closed if len(closed) > 1 else ()
    (whole,) = groups  # of a fragment with half a group this raises ValueError
    yield from whole if len(whole) > 1 else ()


def test_alternatives_are_found_where_they_begin() -> None:
    assert list(beginnings(r"(?i)ab|(c)(?P<d>e|[f|\]]|g\|(?:h))")) == [16, 18, 25, 4, 7]
    assert list(beginnings(r"(?<!a)(b)\(|c")) == [0, 12]
    assert list(beginnings("(a)[|]")) == []


def template(parts: Sequence[ast.AST]) -> str:
    return "".join(
        part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else HOLE
        for part in parts
    )


def strings(tree: ast.Module) -> Iterator[Sequence[ast.AST]]:
    """The parts of every string with a "|" in it: its text, and the values put in between."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        if "|" in template(parts).strip("|"):  # which leaves out the "|" of "|".join
            yield parts
        else:
            waiting += ast.iter_child_nodes(node)


def mutants() -> Iterator[tuple[str, str, str]]:
    """(the file, the alternative and what follows it, the file's source without it)."""
    for name, source in SOURCES.items():
        tree = ast.parse(source)
        for parts in strings(tree):
            expression = template(parts)
            for offset in beginnings(expression):
                label = f"{name}: {expression[offset : offset + 60]}".replace(HOLE, "{}")
                for part in parts:
                    text = template([part])
                    if isinstance(part, ast.Constant) and offset <= len(text):
                        break
                    offset -= len(text)
                assert isinstance(part, ast.Constant) and offset >= 0
                part.value = text[:offset] + IMPOSSIBLE + text[offset:]
                yield name, label, ast.unparse(tree)
                part.value = text


def answer(reply: str, correct: str, incorrect: str) -> Read:
    def read(package: Package) -> object:
        found = package[0].mentions(reply, [correct, incorrect])
        return package[0].commitment(reply, found, [correct])

    return read


def option(reply: str, options: str) -> Read:
    return lambda package: package[1].letter(reply, options)


def unmarked(table: dict[str, list[tuple[str, str | None, str]]]) -> list[str]:
    return [
        case[0].translate({ord(c): None for c in "«»"}) for kind in table for case in table[kind]
    ]


def rows() -> list[Read]:
    others = [(reply, *answers) for *answers, reply, _, _ in OTHERS]
    return [
        *(answer(reply, "Paris", "Lyon") for reply in unmarked(PARIS_OR_LYON)),
        *(answer(*unmarked({"": [(reply, "", "")]}), *answers) for reply, *answers in others),
        *(option(reply, "ABCDE") for reply in unmarked(LETTERS)),
        *(option(reply, "ABCDEFGHIJ") for reply in unmarked({"": PRONOUN})),
    ]


def load(folder: Path, name: str, sources: dict[str, str]) -> Package:
    """flips and letters of a package of that name, which is written into the folder."""
    (folder / name).mkdir()
    for file, source in sources.items():
        (folder / name / f"{file}.py").write_text(source.replace(reading.__name__, name))
    importlib.invalidate_caches()
    flips, letters = (importlib.import_module(f"{name}.{file}") for file in ("flips", "letters"))
    for loaded in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[loaded]
    return flips, letters


@pytest.mark.slow
def test_every_alternative_has_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    waiting = rows()
    untouched = load(tmp_path, "untouched", SOURCES)
    expected = {read: read(untouched) for read in waiting}
    idle, count = [], 0
    for count, (file, label, source) in enumerate(mutants(), start=1):
        mutant = load(tmp_path, f"mutant{count}", {**SOURCES, file: source})
        changed = next((read for read in waiting if read(mutant) != expected[read]), None)
        if changed is None:
            idle.append(label)
        else:  # its neighbours in the table are likely to need the next alternative
            at = waiting.index(changed)
            waiting = waiting[at:] + waiting[:at]
    assert not idle
    assert count > 250, "the test no longer sees the expressions"


def test_every_answer_and_every_option_has_a_sentence() -> None:
    """They are alternatives too, which the caller names."""
    replies = unmarked(PARIS_OR_LYON)
    for left in ("Paris", "Lyon"):
        assert any(
            mentions(reply, ["Paris", "Lyon"]) != mentions(reply, [left]) for reply in replies
        )
    for left_out in "ABCDE":
        fewer = "ABCDE".replace(left_out, "")
        assert any(letter(reply, "ABCDE") != letter(reply, fewer) for reply in unmarked(LETTERS))
