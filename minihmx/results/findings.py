"""What an audit compares and what it finds: counts, findings with file and line, and notes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import Failure, shortened
from minihmx.storage import strict
from minihmx.storage.disk import dumps, sha256


class Words(str):
    """What a value is or has to be, in words, which are shown without quotation marks."""


ABSENT = Words("absent")
# What is counted, in the order in which it is printed.
CHECKS = {
    "manifests": "files hashed again and held against their manifests",
    "records": "lines read, each as minihmx writes it",
    "identity": "digests of config, questions, rubric and settings made again",
    "order": "answers held against what seed and epoch ask for",
    "endings": "endings held against token ids and cap",
    "scores": "scores read again from the judge's words",
    "rewards": "rewards made again from scores",
    "groups": "group means, deviations and advantages made again",
    "weights": "weights of a row's tokens made again",
    "metrics": "numbers of a step or an evaluation made again",
    "bounds": "numbers of the model held against what they can be",
    "checkpoints": "counts and settings of checkpoints made again",
    "verdicts": "benchmark answers scored again",
    "probes": "texts and findings of a probe held against each other",
    "results": "numbers of benchmark results made again",
    "cells": "parts of table cells made again from the samples",
    "selection": "fields of selected.json made again",
    "experiment": "pieces of experiment.json looked up",
}


class Finding(NamedTuple):
    """A value that does not follow from the rest. line: from 1; None for a file as a whole."""

    check: str
    file: str
    line: int | None
    field: str
    logged: Any
    recomputed: Any

    @property
    def text(self) -> str:
        """ "FILE, line 3: score is 9 and should be 4"."""
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        logged, again = (
            shortened(value if isinstance(value, Words) else dumps(value))
            for value in (self.logged, self.recomputed)
        )
        return f"{place}: {self.field} is {logged} and should be {again}"


class Place(NamedTuple):
    """A line of a file, from 1; None for the file as a whole."""

    file: Path
    line: int | None = None


class Line(NamedTuple):
    """A record of a JSONL file and where it stands; the record of a damaged line is empty."""

    place: Place
    record: dict[str, Any]


class Audit:
    """Findings and notes in the order in which they were made, and what each check looked at.

    A note is kept once. What is looked at are lines, and files where a check takes them whole.
    """

    def __init__(self) -> None:
        self.looked_at: dict[str, set[Place]] = {name: set() for name in CHECKS}
        self.findings: list[Finding] = []
        self.notes: dict[str, None] = {}

    def note(self, text: str) -> None:
        """Something that was not checked, and why."""
        self.notes[text] = None

    def find(self, check: str, place: Place, field: str, logged: Any, recomputed: Any) -> None:
        """Add a finding."""
        where = str(place.file), place.line
        self.findings.append(Finding(check, *where, field, logged, recomputed))

    def compare(self, check: str, place: Place, field: str, logged: Any, recomputed: Any) -> bool:
        """Whether both are the same JSON to the last digit; else there is a finding."""
        self.looked_at[check].add(place)
        same = dumps(logged) == dumps(recomputed)
        if not same:
            self.find(check, place, field, logged, recomputed)
        return same

    def require(
        self, check: str, place: Place, field: str, logged: Any, holds: bool, rule: str
    ) -> bool:
        """Whether a rule holds that a value has to keep; else there is a finding."""
        self.looked_at[check].add(place)
        if not holds:
            self.find(check, place, field, logged, Words(rule))
        return holds

    def compare_tree(
        self,
        check: str,
        file: tuple[Path, str],
        logged: Any,
        recomputed: Any,
        keys: tuple[str, ...] = (),
        exact: bool = False,
    ) -> None:
        """Compare the leaves of two JSON values, each named by the keys that lead to it.

        file: path and text of the file that holds the first. exact: what only the first has is a
        finding as well.
        """
        if isinstance(logged, dict) and isinstance(recomputed, dict):
            for key, value in recomputed.items():
                of_key = logged.get(key, ABSENT)
                self.compare_tree(check, file, of_key, value, (*keys, key), exact)
            if exact:
                self.known(check, file, logged, recomputed, keys)
        else:
            place = Place(file[0], line_of(file[1], *keys))
            self.compare(check, place, ".".join(keys), logged, recomputed)

    def known(
        self,
        check: str,
        file: tuple[Path, str],
        logged: dict[str, Any],
        names: Iterable[str],
        keys: tuple[str, ...] = (),
        line: int | None = None,
    ) -> None:
        """A finding for each field of an object that has none of these names.

        line: where it stands, for a line of a JSONL file; else the line is looked for in the text.
        """
        for name in sorted(logged.keys() - set(names)):
            place = Place(file[0], line or line_of(file[1], *keys, name))
            self.find(check, place, ".".join((*keys, name)), logged[name], ABSENT)

    def of(self, check: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.check == check]

    # --- files -----------------------------------------------------------------------------------

    def bytes_of(self, path: Path) -> bytes | None:
        """What an ordinary file holds; None, and a finding, where it cannot be read."""
        try:
            return strict.read_file(path)
        except FileNotFoundError:
            self.find("records", Place(path), "file", ABSENT, Words("there"))
        except (OSError, Failure) as error:
            self.find(
                "records", Place(path), "file", Words("unreadable"), Words(f"a file ({error})")
            )
        return None

    def value(self, path: Path) -> tuple[Any, str] | None:
        """The JSON value in a file, and its text; None, and a finding, where it holds none."""
        data = self.bytes_of(path)
        if data is None:
            return None
        self.looked_at["records"].add(Place(path, 1))
        try:
            return strict.parse(data), data.decode()
        except ValueError as error:
            self.find("records", Place(path, 1), "text", Words("damaged"), Words(f"JSON ({error})"))
        return None

    def json(self, path: Path) -> tuple[dict[str, Any], str] | None:
        """The same for a JSON object."""
        found = self.value(path)
        if found and not isinstance(found[0], dict):
            self.find("records", Place(path, 1), "text", found[0], Words("a JSON object"))
            return None
        return found

    def lines(self, path: Path, growing: bool = False) -> list[Line]:
        """Every line of a JSONL file with its end; what is no record is a finding.

        growing: the file is still being written to, so that a torn last line is only noted.
        """
        data = self.bytes_of(path)
        *whole, torn = (data or b"").split(b"\n")
        if torn and growing:
            self.note(f"{path}: its last line is not whole yet, so it is left out")
        elif torn:
            place = Place(path, len(whole) + 1)
            text = Words(torn[:200].decode(errors="replace"))
            self.find("records", place, "line", text, Words("a whole line, and it has no end"))
        found = []
        for number, line in enumerate(whole, start=1):
            place, record = Place(path, number), None
            self.looked_at["records"].add(place)
            try:
                record = strict.parse(line)
                problem = "" if isinstance(record, dict) else "it is no JSON object"
                if isinstance(record, dict) and dumps(record).encode() != line:
                    problem = "its bytes are not those that minihmx writes"
            except ValueError as error:
                problem = str(error)
            if problem:
                text = Words(line[:200].decode(errors="replace"))
                self.find("records", place, "line", text, Words(f"a record ({problem})"))
            found.append(Line(place, record if isinstance(record, dict) else {}))
        return found

    def manifest(self, folder: Path, needed: Iterable[str], part: bool = False) -> None:
        """Hash the files that a folder's manifest.json names again.

        needed: names that it must have; part: files may go while this is read.
        """
        path = folder / "manifest.json"
        found = self.json(path)
        if found is None:
            return
        digests, text = found[0].get("sha256"), found[1]
        if not isinstance(digests, dict):
            self.find(
                "manifests", Place(path, 1), "sha256", digests, Words("a digest of each file")
            )
            return
        for name, digest in digests.items():
            own = strict.is_own_path(name)
            there = own and (folder / name).is_file()
            again = sha256(folder / name) if there else ABSENT
            place = Place(folder / name) if own else Place(path, line_of(text, "sha256", name))
            self.compare("manifests", place, "sha256", digest, again)
        self.known("manifests", (path, text), found[0], ("sha256",))
        for name in sorted(set(needed) - digests.keys()):
            self.find("manifests", Place(path, 1), name, ABSENT, Words("named"))


def line_of(text: str, *keys: str) -> int:
    """The line, from 1, of a value in JSON with an indent of 1, as the keys lead there; in JSON
    on one line it is 1."""
    at = 0
    for depth, key in enumerate(keys, start=1):
        name = json.dumps(key, ensure_ascii=False)
        at = max(text.find(f"\n{' ' * depth}{name}:", at) + 1, at)
    return text.count("\n", 0, at) + 1
