"""A blind file: what it does not say, what spreadsheets do to it, and each row that is refused."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from minihmx.errors import UserError
from minihmx.results.blind import Sheet, read_sheet, row_id, sheet_bytes


def grade(text: str) -> int:
    if text not in "0123456789":
        raise ValueError("a digit")
    return int(text)


SHEET = Sheet(("question", "answer"), "rating", grade)
HOSTILE = ["=1+1", "- yes", "+5", "@home", "007", "1e5", "3/4", '"quoted", and; a\ttab', ""]
HOSTILE += ["«Ünï» 你好", "  blanks ", "two\nlines\r\nand three", "a\0b\x1b[2J", "“so”", "x" * 3000]
TEXTS = [(f"What is {n}?", answer) for n, answer in enumerate(HOSTILE)]
KNOWN = {row_id(texts): texts for texts in TEXTS}
Rows = list[list[str]]


def rows_of(data: bytes) -> Rows:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def filled(change: Callable[[Rows], Iterable[list[str]]] = lambda rows: rows) -> Rows:
    """The file with every answer's length modulo ten as its rating, changed."""
    head, *rows = rows_of(sheet_bytes(SHEET, TEXTS, 1))
    for row in rows:
        row[-1] = str(len(KNOWN[row[1]][1]) % 10)
    return [head, *change(rows)]


def saved(path: Path, rows: Rows, encoding: str = "utf-8", **dialect: str) -> str:
    file = io.StringIO()
    csv.writer(file, **dialect).writerows(rows)  # type: ignore[arg-type]
    path.write_bytes(file.getvalue().encode(encoding, "replace"))
    return str(path)


RATED = {name: len(texts[1]) % 10 for name, texts in KNOWN.items()}


def test_the_file_says_nothing_but_the_texts_in_a_named_order() -> None:
    data = sheet_bytes(SHEET, [*TEXTS, *TEXTS[::-1]], 1)
    assert data == sheet_bytes(SHEET, TEXTS[::-1], 1) != sheet_bytes(SHEET, TEXTS, 2)
    head, *rows = rows_of(data)
    assert head == ["row", "id", "question", "answer", "rating"] and len(rows) == len(TEXTS)
    assert [row[0] for row in rows] == [f"{n} of {len(TEXTS)}" for n in range(1, len(TEXTS) + 1)]
    for _, name, question, answer, rating in rows:
        assert re.fullmatch("r[0-9a-f]{12}", name) and rating == ""
        assert question == f"“{KNOWN[name][0]}”" and answer[0] == "“" and answer[-1] == "”"
        assert "\0" not in answer and "\x1b" not in answer


@pytest.mark.parametrize(
    ("encoding", "dialect"),
    [
        ("utf-8", {}),
        ("utf-8-sig", {"lineterminator": "\n"}),
        ("utf-8", {"delimiter": ";"}),  # where a comma is for decimals
        ("utf-16", {"delimiter": "\t"}),  # Excel's "Unicode text"
        ("cp1252", {"delimiter": ";"}),  # Excel's "CSV", which loses the Chinese
    ],
)
def test_it_survives_what_spreadsheets_do(
    encoding: str, dialect: dict[str, str], tmp_path: Path
) -> None:
    def change(rows: Rows) -> Rows:
        blank = ["", "", "", "", "", ""]
        rows = [[f" {cell} " for cell in row] for row in sorted(rows, key=lambda row: row[3])]
        return [*([row[0], "my note", *row[1:]] for row in rows), blank]

    head, *rows = filled(change)
    head = ["Row", "Remarks", "ID", "Question", "ANSWER", "Rating "]
    path = saved(tmp_path / "rated.csv", [head, *rows], encoding, **dialect)
    assert read_sheet(path, SHEET, KNOWN) == (RATED, 0)


def test_a_script_that_keeps_the_mark_at_the_beginning_is_understood(tmp_path: Path) -> None:
    head, *rows = filled()
    head = ["\ufeff" + head[0], *head[1:]]  # as plain UTF-8 reads the file
    for quoted in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        path = tmp_path / "rated.csv"
        file = io.StringIO()
        csv.writer(file, quoting=quoted).writerows([head, *rows])
        path.write_text(file.getvalue(), "utf-8")
        assert read_sheet(str(path), SHEET, KNOWN) == (RATED, 0)
        path.write_text("\ufeff" + file.getvalue(), "utf-8")
        assert read_sheet(str(path), SHEET, KNOWN) == (RATED, 0)


def test_an_empty_mark_is_counted_and_no_mark_at_all_is_refused(tmp_path: Path) -> None:
    def empty(rows: Rows) -> Rows:
        return [[*row[:-1], ""] if n < 3 else row for n, row in enumerate(rows)]

    marks, unmarked = read_sheet(saved(tmp_path / "some.csv", filled(empty)), SHEET, KNOWN)
    assert unmarked == 3 and marks.items() < RATED.items() and len(marks) == len(RATED) - 3
    none = saved(tmp_path / "none.csv", rows_of(sheet_bytes(SHEET, TEXTS, 1)))
    with pytest.raises(UserError, match="holds no rating yet"):
        read_sheet(none, SHEET, KNOWN)


def at(place: int, column: int, text: str) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[place][column] = text
        return rows

    return change


def swapped(rows: Rows) -> Rows:
    """As where one column alone was sorted."""
    rows[4][3], rows[5][3] = rows[5][3], rows[4][3]
    return rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:6] + rows[7:], r"row 7 of 15 is missing"),
        (lambda rows: rows[2:], r"row 1 of 15 and 1 more are missing"),
        (lambda rows: rows[:6], r"row 7 of 15 and 8 more are missing"),
        (lambda rows: [*rows, rows[3]], r"row 4 of 15: it is there twice"),
        (at(3, 3, "“another”"), r'row 4 of 15: its answer "“another”" is not the one that'),
        (at(3, 2, "“What is it?”"), "row 4 of 15: its question"),
        (swapped, "row 5 of 15: its answer"),
        (at(3, 1, "r0123456789ab"), 'row 4 of 15: its id "r0123456789ab" is of no reply of these'),
        (at(3, 0, "4/15"), 'row 4/15: its row is "4/15" and not as "7 of 60"'),
        (at(3, 0, "4 of 16"), "rows of several files"),
        (at(3, 4, "11"), 'row 4 of 15: its rating is "11" and not a digit; correct it, or leave'),
    ],
)
def test_a_row_that_is_not_as_written_is_refused(
    change: Callable[[Rows], Rows], said: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "rated.csv", filled(change))
    with pytest.raises(UserError) as refusal:
        read_sheet(path, SHEET, KNOWN)
    assert said in str(refusal.value) and str(refusal.value).startswith(path)
    assert "\n" not in str(refusal.value)


def test_of_a_file_that_was_cut_no_other_mark_is_read(tmp_path: Path) -> None:
    """Not 1 of 10. Where the last mark alone is gone, its row has none, which is counted."""
    rows = filled(lambda rows: [[*row[:-1], "10"] for row in rows[:4]])
    for row in rows[1:]:
        row[0] = row[0].replace("15", "4")
    ten = Sheet(("question", "answer"), "rating", int)
    whole = Path(saved(tmp_path / "whole.csv", rows, quoting=csv.QUOTE_ALL))  # type: ignore[arg-type]
    data, cut, said = whole.read_bytes(), tmp_path / "cut.csv", ""
    marks = dict.fromkeys((row[1] for row in rows[1:]), 10)
    assert read_sheet(str(whole), ten, KNOWN) == (marks, 0)
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        try:
            found, unmarked = read_sheet(str(cut), ten, KNOWN)
        except UserError as refusal:
            said += str(refusal)
            continue
        assert found.items() <= marks.items() and unmarked == 4 - len(found) <= 1, size
    assert "cut.csv ends within a cell, so it was cut" in said
    assert "row 3 of 4 and 1 more are missing" in said


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for number, (data, said) in enumerate(
        [
            (b"", "has no column row"),
            (b"row,id,question,answer\r\n", "has no column rating"),
            (b"row,id,question,answer,rating,rating\r\n", "more than one column rating"),
            (bytes(range(256)), "has no column row"),
            (b'row,id,question,answer,rating\r\n"' + b"x" * 200_000, "this is no CSV"),
        ]
    ):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(data)
        with pytest.raises(UserError, match=said):
            read_sheet(str(path), SHEET, KNOWN)
    with pytest.raises(UserError, match="nowhere"):
        read_sheet(str(tmp_path / "nowhere.csv"), SHEET, KNOWN)
