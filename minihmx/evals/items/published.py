"""Published files as they are: rows of JSON Lines, JSON, CSV (each also gzipped) and Parquet.

Whatever is wrong inside a file is a DataError of one sentence that names file and line.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, NoReturn

from minihmx.errors import DataError, IOFailure, UserError
from minihmx.storage import strict

Row = dict[str, Any]
LONGEST_LINE = 1 << 26  # bytes; more is no line of text, and would be held in memory
PARQUET_BATCH = 1024
AGAIN = "fetch the file again, or mend it"


def plain(path: PurePath) -> PurePath:
    """The file's path without .gz."""
    return path.with_suffix("") if path.suffix == ".gz" else path


def rows(path: Path) -> Iterator[Row]:
    """Each row of a file, in order; `placed` without the places."""
    return (row for _, row in placed(path))


def placed(path: Path) -> Iterator[tuple[str, Row]]:
    """("line 7" or "row 7", row) of each row, counted from 1, without reading ahead of it.

    A byte order mark and blank lines are passed over. Values are JSON's, or text in a CSV.

    Raises UserError for a path that cannot be read so, DataError for what a file holds, a file
    without rows among it, IOFailure where the disk fails.
    """
    kind = plain(path).suffix
    if kind not in READERS or (kind == ".parquet" and path.suffix == ".gz"):
        raise UserError(
            f"{path} has a format that is not read; give .jsonl, .json or .csv, which may be "
            "gzipped, or .parquet."
        )
    empty = True
    with _failures(path):
        for row in READERS[kind](path):
            empty = False
            yield row
    if empty:
        raise DataError(f"{path} holds no rows; {AGAIN}.")


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    """What the disk and the gzip format may refuse, at whatever line that shows."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is no whole gzip file ({error}); {AGAIN}.") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check it from {Path.cwd()}.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, and a file is needed there.") from None
    except OSError as error:
        raise IOFailure(f"{path} cannot be read ({error.strerror or error}).") from None


def _wrong(path: Path, place: str, what: str) -> NoReturn:
    raise DataError(f"{path}, {place}: {what}; {AGAIN}.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line with its end); only \\n ends a line."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        number = 0
        while raw := file.readline(LONGEST_LINE):
            number += 1
            if len(raw) == LONGEST_LINE:
                _wrong(path, f"line {number}", f"the line is longer than {LONGEST_LINE} bytes")
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                _wrong(path, f"line {number}", "this is not UTF-8 text")
            if "\0" in line:
                _wrong(path, f"line {number}", "it holds a NUL character")
            yield number, line


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(path):
        if line.strip():
            place = f"line {number}"
            try:
                row = strict.parse(line)
            except json.JSONDecodeError as error:
                _wrong(path, place, f"this is not JSON ({error.msg} at column {error.colno})")
            except ValueError as error:
                _wrong(path, place, f"this is not JSON ({error})")
            yield place, _object(path, place, row)


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    """A list of objects; the one format that has to be read whole."""
    text = "".join(line for _, line in _lines(path))
    try:
        found = strict.parse(text) if text.strip() else []
    except json.JSONDecodeError as error:
        _wrong(path, f"line {error.lineno}", f"this is not JSON ({error.msg})")
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); {AGAIN}.") from None
    if not isinstance(found, list):
        raise DataError(f"{path} holds no JSON list, and a list of objects is needed; {AGAIN}.")
    for number, row in enumerate(found, start=1):
        place = f"row {number}"
        yield place, _object(path, place, row)


def _object(path: Path, place: str, row: Any) -> Row:
    if not isinstance(row, dict):
        _wrong(path, place, "this is no JSON object")
    return row


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    """The first line names the columns, and every row has them all."""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    header: list[str] = []
    first = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _wrong(path, f"line {first}", f"the row that begins here is no CSV ({error})")
        place, first = f"line {first}", reader.line_num + 1
        if not header:
            header = cells
            if len(set(cells)) < len(cells):
                _wrong(path, place, "two columns have one name")
        elif cells:
            if len(cells) != len(header):
                _wrong(path, place, f"it has {len(cells)} columns and the header {len(header)}")
            yield place, dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    need_parquet(str(path))
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with path.open("rb") as raw, pyarrow.parquet.ParquetFile(raw) as file:
            for batch in file.iter_batches(PARQUET_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        detail = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"{path} is no whole Parquet file ({detail}); {AGAIN}.") from None


def need_parquet(name: str) -> None:
    """Raises UserError where what reads the Parquet file `name` is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"{name} is a Parquet file, and pyarrow, which reads it, is not installed: type "
            f"`{sys.executable} -m pip install pyarrow` and the same command again."
        )


READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
