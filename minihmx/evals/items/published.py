"""Published files as they are: rows of JSON Lines, JSON, CSV (each also gzipped) and Parquet.

Whatever is wrong inside a file is a DataError of one sentence that names file and line.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import resource
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, NoReturn

from minihmx.errors import DataError, IOFailure, UserError
from minihmx.storage import strict

Row = dict[str, Any]
# Bytes of a file's text, unpacked. Published files have some tens of millions; a gzip file of some
# kilobytes may unpack to any number, and what is read is held in memory.
LARGEST_FILE = 1 << 27
PARQUET_BATCH = 16  # few, as one long text that is stored once may stand in every row
# Bytes that reading a batch may take, half of which Arrow reserves at once. A Parquet file of one
# kilobyte may hold one row with a billion texts, and what it says of its own size need not be true.
MOST_MEMORY = 1 << 31
TOO_LARGE = "up to here the file holds more than {} bytes, unpacked, and no published file does"
AGAIN = "fetch the file again, or mend it"


def plain(path: PurePath) -> PurePath:
    """The file's path without .gz."""
    return path.with_suffix("") if path.suffix == ".gz" else path


def rows(path: Path) -> Iterator[Row]:
    """Each row of a file, in order; `placed` without the places."""
    return (row for _, row in placed(path))


def placed(path: Path, columns: Sequence[str] = (), within: str = "") -> Iterator[tuple[str, Row]]:
    """("line 7" or "row 7", row) of each row, counted from 1, without reading ahead of it.

    A byte order mark and blank lines are passed over. Values are JSON's, or text in a CSV. columns:
    all that is wanted of a Parquet file; () means every column. within: as Origin.rows.

    Raises UserError for a path that cannot be read so, DataError for what a file holds, a file
    without rows among it, IOFailure where the disk fails.
    """
    kind = plain(path).suffix
    if kind not in KINDS or (kind == ".parquet" and path.suffix == ".gz"):
        raise UserError(
            f"{path} has a format that is not read; give .jsonl, .json or .csv, which may be "
            "gzipped, or .parquet."
        )
    empty = True
    with _failures(path):
        for row in KINDS[kind](path, columns, within):
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
    except OSError as error:
        raise IOFailure(f"{path} cannot be read ({error.strerror or error}).") from None


def _wrong(path: Path, place: str, what: str) -> NoReturn:
    raise DataError(f"{path}, {place}: {what}; {AGAIN}.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line with its end); only \\n ends a line."""
    packed = path.suffix == ".gz"
    with strict.open_file(path) as raw, gzip.open(raw) if packed else raw as file:
        number, left = 0, LARGEST_FILE
        while data := file.readline(left + 1):
            number += 1
            left -= len(data)
            if left < 0:
                _wrong(path, f"line {number}", TOO_LARGE.format(LARGEST_FILE))
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8")
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


def _json(path: Path, within: str) -> Iterator[tuple[str, Row]]:
    """A list of objects, or in an object the list `within`; the one format to be read whole."""
    text = "".join(line for _, line in _lines(path))
    try:
        found = strict.parse(text) if text.strip() else []
    except json.JSONDecodeError as error:
        _wrong(path, f"line {error.lineno}", f"this is not JSON ({error.msg})")
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); {AGAIN}.") from None
    if isinstance(found, dict) and within:
        found = list(found.values()) if within == "*" else found.get(within)
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


def _parquet(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    need_parquet(str(path))
    import pyarrow
    import pyarrow.parquet

    number, left = 0, LARGEST_FILE
    try:
        with strict.open_file(path) as raw, pyarrow.parquet.ParquetFile(raw) as file:
            wanted = _wanted(path, file, columns)
            data = file.metadata
            groups = [data.row_group(i).total_byte_size for i in range(data.num_row_groups)]
            together = PARQUET_BATCH if max(groups, default=0) <= LARGEST_FILE else 1
            # without threads, as theirs would be under the bound, which is this process's
            batches = file.iter_batches(together, columns=wanted, use_threads=False)
            while (found := _read_batch(batches, wanted, left)) is not None:
                for row in found:
                    number += 1
                    left -= len(str(row))
                    if left < 0:
                        _wrong(path, f"row {number}", TOO_LARGE.format(LARGEST_FILE))
                    yield f"row {number}", row
    except OverflowError:
        _wrong(path, f"row {number + 1}", TOO_LARGE.format(LARGEST_FILE))
    except MemoryError:  # some of which are Arrow's
        what = f"to read what begins here takes more than {MOST_MEMORY} bytes of memory"
        _wrong(path, f"row {number + 1}", f"{what}, and no published file does")
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        detail = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"{path} is no whole Parquet file ({detail}); {AGAIN}.") from None


def _read_batch(batches: Iterator[Any], wanted: list[str], left: int) -> list[Row] | None:
    """The next rows; None after the last. Raises MemoryError, or OverflowError above `left`."""
    with _bounded_memory():
        batch = next(batches, None)
        if batch is None:
            return None
        batch = batch.select(wanted)  # "text" has brought a column "text.length" with it
        if batch.nbytes > left:
            raise OverflowError
        found: list[Row] = batch.to_pylist()
        return found


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let the process take MOST_MEMORY more than it has, where the system (Linux) can be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(
        resource.RLIMIT_DATA, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _wanted(path: Path, file: Any, columns: Sequence[str]) -> list[str]:
    """The names of the columns to read, each of them there once and readable."""
    schema = file.schema_arrow
    wanted = [name for name in schema.names if name in columns or not columns]
    for name in wanted:
        if wanted.count(name) > 1:
            raise DataError(f"{path} has two columns named {name!r:.60}; {AGAIN}.")
        kind = schema.field(name).type
        if not _is_plain(kind):
            raise DataError(
                f"{path}: its column {name!r:.60} is of the type {kind!s:.60}, and what is needed "
                f"there is text, numbers, or lists of them; {AGAIN}."
            )
    return wanted


def _is_plain(kind: Any, depth: int = strict.DEEPEST) -> bool:
    """Whether an Arrow type's values are such as JSON has, too; a date may be none of Python's."""
    from pyarrow import types

    # A column may be a category of pandas. In a list, its one text might stand a million times.
    if types.is_dictionary(kind) and depth == strict.DEEPEST:
        kind = kind.value_type
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        unique = len({field.name for field in fields}) == len(fields)
        return depth > 0 and unique and all(_is_plain(field.type, depth - 1) for field in fields)
    if types.is_list(kind) or types.is_large_list(kind):
        return depth > 0 and _is_plain(kind.value_type, depth - 1)
    numbers = (types.is_integer, types.is_floating, types.is_boolean)
    texts = (types.is_string, types.is_large_string, types.is_null)
    return any(test(kind) for test in numbers + texts)


def need_parquet(name: str) -> None:
    """Raises UserError where what reads the Parquet file `name` is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"{name} is a Parquet file, and pyarrow, which reads it, is not installed: type "
            f"`{sys.executable} -m pip install pyarrow` (it is in the extra `evals`) and the same "
            "command again."
        )


KINDS: dict[str, Callable[[Path, Sequence[str], str], Iterator[tuple[str, Row]]]] = {
    ".jsonl": lambda path, columns, within: _jsonl(path),
    ".json": lambda path, columns, within: _json(path, within),
    ".csv": lambda path, columns, within: _csv(path),
    ".parquet": lambda path, columns, within: _parquet(path, columns),
}
