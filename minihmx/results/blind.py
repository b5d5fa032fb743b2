"""A file in which people read replies without knowing who said them, and mark each. No torch.

It is CSV, since a spreadsheet opens that as well as a text editor does, and it survives what either
does to it: rows in another order, further columns, other line ends, a semicolon or tab between
cells, another encoding. A row has its number ("7 of 60", so that a missing one is seen), an id, the
texts and an empty cell for the mark. The id is a digest of the texts and of nothing else. Which
model said them stands nowhere in the file; whoever reads it back finds that on the disk again, and
replies with the same texts are one row. Texts stand in “ ”, so that no spreadsheet takes one for a
number, a date or a formula.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from minihmx.errors import UserError, shortened
from minihmx.seeding import digest
from minihmx.storage.disk import home_path
from minihmx.storage.identity import text_digest
from minihmx.storage.strict import read_file
from minihmx.terminal.text import printable

Marked = TypeVar("Marked")
Texts = tuple[str, ...]
ROW, ID = "row", "id"
_END = "\3"  # put after the text, so that a cell is seen that has no end
_NUMBERED = re.compile(r"(\d{1,5}) of (\d{1,5})")


@dataclass(frozen=True)
class Sheet(Generic[Marked]):
    """What a blind file asks. shown: the names of the texts. mark: the name of the empty column.
    read: what a mark that is not empty means; it raises ValueError saying what it should be."""

    shown: tuple[str, ...]
    mark: str
    read: Callable[[str], Marked]

    @property
    def columns(self) -> tuple[str, ...]:
        return (ROW, ID, *self.shown, self.mark)


def row_id(texts: Texts) -> str:
    """A name that follows from the texts alone. It begins with a letter, as 1e5 is a number."""
    return f"r{text_digest(json.dumps(texts))[:12]}"


def sheet_bytes(sheet: Sheet[Marked], rows: Sequence[Texts], seed: int) -> bytes:
    """The file for these texts, each once, in an order that follows from the seed and the texts.

    UTF-8 with a byte order mark, without which Excel takes it for another encoding.
    """
    once = {row_id(texts): texts for texts in rows}
    order = sorted(once, key=lambda name: digest("blind", seed, name))
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(sheet.columns)
    for number, name in enumerate(order, start=1):
        writer.writerow((f"{number} of {len(order)}", name, *map(_framed, once[name]), ""))
    return file.getvalue().encode("utf-8-sig")


def _framed(text: str) -> str:
    return f"“{printable(text)}”"


def read_sheet(
    text: str, sheet: Sheet[Marked], known: Mapping[str, Texts]
) -> tuple[dict[str, Marked], int]:
    """The marks in a file by row id, and how many of its rows have none.

    text: the file's name. known: the texts of every id there can be. Raises UserError, naming the
    row, for one that is missing, there twice, changed or of other runs, and for a wrong mark.
    """
    path = home_path(text)
    written, lossy = _decoded(filled_in(text))
    marks, unmarked = dict[str, Marked](), 0
    names, numbers, totals = set[str](), set[str](), dict[str, None]()
    for where, row in _rows(path, written, sheet.columns):
        name, number = row[ID], row[ROW]
        if problem := _problem(sheet, row, known, lossy):
            raise UserError(f"{path}, {where}: {problem}.")
        if name in names or number in numbers:
            raise UserError(
                f"{path}, {where}: it is there twice, so it is not clear which {sheet.mark} holds; "
                "leave one of the two."
            )
        names.add(name)
        numbers.add(number)
        totals[number.rpartition(" ")[2]] = None
        if not row[sheet.mark]:
            unmarked += 1
            continue
        try:
            marks[name] = sheet.read(row[sheet.mark])
        except ValueError as error:
            mark = f"its {sheet.mark} is {_quoted(row[sheet.mark])} and not {error}"
            raise UserError(f"{path}, {where}: {mark}; correct it, or leave it empty.") from None
    _check_whole(path, sheet.mark, numbers, [*totals])
    if not marks:
        raise UserError(
            f"{path} holds no {sheet.mark} yet, so there is nothing to read; fill in its column "
            f"{sheet.mark}."
        )
    return marks, unmarked


def filled_in(text: str) -> bytes:
    """What a file of that name holds. Raises UserError where there is none."""
    path = home_path(text)
    if not path.exists():
        raise UserError(f"There is no file {path}; give the one that people filled in.")
    return read_file(path)


def _problem(
    sheet: Sheet[Marked], row: Mapping[str, str], known: Mapping[str, Texts], lossy: bool
) -> str:
    """What keeps a row from being one that was written, or ""."""
    if not _NUMBERED.fullmatch(row[ROW]):
        return f'its {ROW} is {_quoted(row[ROW])} and not as "7 of 60"; restore the row'
    if row[ID] not in known:
        return (
            f"its id {_quoted(row[ID])} is of no reply of these runs, so it is not known what was "
            "marked; give the runs that the file was written from, or restore the id"
        )
    for column, own in zip(sheet.shown, known[row[ID]], strict=True):
        if _gist(row[column], lossy) != _gist(_framed(own), lossy):
            return (
                f"its {column} {_quoted(row[column])} is not the one that was written with this "
                "id, so the mark may be about another text; restore the row"
            )
    return ""


def _check_whole(path: Path, mark: str, numbers: Collection[str], totals: Sequence[str]) -> None:
    """Raises UserError where rows of the file as it was written are missing."""
    if len(totals) > 1:
        raise UserError(
            f"{path} holds rows of several files (of {' and of '.join(totals[:3])} rows), so it is "
            "not clear which are missing; give each file by itself."
        )
    for total in totals:
        there = {int(number.partition(" ")[0]) for number in numbers}
        missing = [n for n in range(1, int(total) + 1) if n not in there]
        if missing:
            more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
            raise UserError(
                f"{path}: row {missing[0]} of {total}{more} missing, and what is left might be "
                f"what somebody chose; restore it, and leave its {mark} empty if there is none."
            )


def _quoted(text: str) -> str:
    return f'"{shortened(" ".join(text.split()))}"'


def _decoded(data: bytes) -> tuple[str, bool]:
    """The text, and whether characters may have been lost on the way."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace"), False
    try:
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError:  # what Excel calls CSV
        return data.decode("cp1252", "replace"), True


def _gist(text: str, lossy: bool) -> str:
    """What has to be the same in a cell that nobody changed: everything but white space; where
    characters may have been lost, the letters and digits that every encoding has."""
    if lossy:
        return "".join(c for c in text if c.isascii() and c.isalnum())
    return "".join(text.split())


def _rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row stands, and its cells by column; blank rows are passed over."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    whole = text.replace("\0", "").replace(_END, "") + f"\n{_END}\n"
    reader = csv.reader(io.StringIO(whole, newline=""), delimiter=delimiter)
    try:
        # A program that does not know the mark at a file's beginning quotes it with the first name.
        names = [cell.strip('\ufeff" ').casefold() for cell in next(reader, [])]
        for column in columns:
            if names.count(column) != 1:
                has = "no" if column not in names else "more than one"
                raise UserError(
                    f"{path} has {has} column {column} in its first line, so its rows cannot be "
                    f"read; it needs {', '.join(columns)}, as it was written."
                )
        places = {column: names.index(column) for column in columns}
        for cells in reader:
            if cells and _END in cells[-1] and cells != [_END]:
                raise UserError(
                    f"{path} ends within a cell, so it was cut, and what is left there may be "
                    "another mark; give the whole file."
                )
            if cells != [_END] and any(cell.strip() for cell in cells):
                cells += [""] * (len(names) - len(cells))
                row = {column: cells[place].strip() for column, place in places.items()}
                yield f"row {row[ROW] or reader.line_num}", row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: this is no CSV ({error}), so its rows cannot be "
            "read; save it as CSV again."
        ) from None
