"""People's ratings that are kept: whether each is of an answer that the runs hold. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minihmx.errors import Failure
from minihmx.probes.checkpoints import SETTINGS
from minihmx.results.findings import ABSENT, Audit, Place
from minihmx.results.rated import (
    OF_A_RATING,
    RATINGS_FILE,
    is_rating,
    rated_runs,
    what_was_rated,
)
from minihmx.results.rating import answers_to_rate
from minihmx.storage.disk import sha256


def check_rate(audit: Audit, folder: Path, settings: Mapping[str, Any]) -> None:
    """Check each rating and the row that it is of, and the digests of both in settings.json."""
    path, last = folder / RATINGS_FILE, ("", "")
    lines, rows = audit.lines(path), _rows(audit, folder, settings)
    if path.is_file():
        told = settings.get("ratings", ABSENT)
        audit.compare("identity", Place(folder / SETTINGS, 1), "ratings", told, sha256(path))
    for line in lines:
        audit.known("records", (path, ""), line.record, OF_A_RATING, line=line.place.line)
        rater, row, rating = (line.record.get(name, ABSENT) for name in OF_A_RATING)
        rule = "a whole number from 0 to 10"
        audit.require("probes", line.place, "rating", rating, is_rating(rating), rule)
        if rows is not None:
            own = isinstance(row, str) and row in rows
            audit.require("probes", line.place, "row", row, own, "the id of an answer of the runs")
        key, rule = (str(rater), str(row)), "behind that of the line before, by rater and row"
        audit.require("order", line.place, "row", row, key > last, rule)
        last = key


def _rows(audit: Audit, folder: Path, settings: Mapping[str, Any]) -> set[str] | None:
    """The ids of all answers that could be rated. None, and a note, if the runs are not found."""
    try:
        runs = rated_runs(folder, settings)
        answers = answers_to_rate(runs)
        again = what_was_rated(runs, answers)
    except (Failure, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        audit.note(
            f"{folder}: what people rated is not found, so their ratings are believed ({error})"
        )
        return None
    for name, value in again.items():
        told = settings.get(name, ABSENT)
        audit.compare("identity", Place(folder / SETTINGS, 1), name, told, value)
    return {answer.row for answer in answers}
