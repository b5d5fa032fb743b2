"""People's ratings as `minihmx rate --in` keeps them beside the base, and read back. No torch.

    DIR/MODEL/base/probes/rate-DIGEST/  settings.json  ratings.jsonl  manifest.json

Kept are a row's id and its rating, under the name of the rater's file, and nothing else of it. What
was rated is read from the runs' own answers again, which settings.json names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.errors import DataError, Failure
from minihmx.probes.checkpoints import ProbePieces, checked_records, finished_probe
from minihmx.results.rating import (
    RatingReport,
    Ratings,
    StoredAnswer,
    answers_to_rate,
    rubric_words,
)
from minihmx.results.runs import TrainedRun, model_folder, read_run
from minihmx.storage.disk import dumps
from minihmx.storage.identity import text_digest
from minihmx.storage.strict import read_file

RATE, RATINGS_FILE, OF_A_RATING = "rate", "ratings.jsonl", ("rater", "row", "rating")


def rater_names(files: Sequence[Path]) -> list[str]:
    """What each rater's file is called, with as many of its folders as tell all of them apart."""
    deepest = max(len(file.parts) for file in files)
    for parts in range(1, deepest + 1):
        names = ["/".join(file.parts[-parts:]) for file in files]
        if len(set(names)) == len(names):
            break
    return names


def runs_in_order(runs: Iterable[TrainedRun]) -> list[TrainedRun]:
    """The runs in an order that does not depend on how they were named."""
    return sorted(runs, key=lambda run: (str(run.folder.resolve()), run.epoch))


def keep_ratings(
    runs: Sequence[TrainedRun], answers: Sequence[StoredAnswer], raters: Mapping[str, Ratings]
) -> Path:
    """Keep these ratings beside the base of the first run's model, and return their folder.

    The folder's name follows from the ratings and from what was rated, so the same ones change
    nothing there. Raises Failure (errors.py), and OSError where nothing can be written.
    """
    home = model_folder(runs[0].folder)
    lines = [
        dict(zip(OF_A_RATING, (rater, row, ratings[row]), strict=True))
        for rater, ratings in sorted(raters.items())
        for row in sorted(ratings)
    ]
    identity = {
        **what_was_rated(runs, answers),
        "runs": [f"{os.path.relpath(run.folder, home)}@{run.epoch}" for run in runs],
        "ratings": text_digest("".join(f"{dumps(line)}\n" for line in lines)),
    }
    if folder := finished_probe(home / "base", RATE, identity):
        return folder
    pieces = ProbePieces(home / "base", RATE, identity)
    pieces.write(RATINGS_FILE.removesuffix(".jsonl"), lines)
    pieces.seal()
    return pieces.folder


def what_was_rated(runs: Sequence[TrainedRun], answers: Sequence[StoredAnswer]) -> dict[str, Any]:
    """Digests of the model, of the words by which people rate, and of all answers there are."""
    told = sorted(dumps([a.side, a.question, a.row, a.score]) for a in answers)
    return {
        "model": str(runs[0].science.get("model digest")),
        "rubric": text_digest(rubric_words(runs[0])),
        "answers": text_digest("\n".join(told)),
    }


def rated_runs(folder: Path, settings: Mapping[str, Any]) -> list[TrainedRun]:
    """The runs that a folder's settings name, as they are now. Raises Failure where one is gone."""
    found = []
    for name in settings["runs"]:
        place, _, epoch = name.rpartition("@")
        found.append(read_run(Path(os.path.normpath(folder.parents[2] / place)), epoch))
    return found


def kept_ratings(folder: Path, settings: Mapping[str, Any]) -> RatingReport:
    """The report on what a folder keeps, of the answers that stand in the runs now.

    Raises Failure (errors.py), where these are no longer those that were rated too.
    """
    try:
        runs = rated_runs(folder, settings)
    except (Failure, OSError) as error:
        raise DataError(
            f"{folder} holds ratings of answers of {', '.join(settings['runs'])}, and they are not "
            f"all there ({error}); put the runs back, or move the ratings away."
        ) from None
    answers = answers_to_rate(runs)
    if what_was_rated(runs, answers)["answers"] != settings["answers"]:
        raise DataError(
            f"{folder} holds ratings of other answers than those that its runs have now, as where "
            "one was trained again; move it away, or restore the runs."
        )
    path, raters = folder / RATINGS_FILE, dict[str, dict[str, int]]()
    for line in checked_records(path, read_file(path), OF_A_RATING):
        if not is_rating(line["rating"]):
            raise DataError(f"{path} holds a rating that is none; restore it, or move it away.")
        raters.setdefault(line["rater"], {})[line["row"]] = line["rating"]
    return RatingReport(answers, raters)


def is_rating(value: object) -> bool:
    """Whether people could have given it: a whole number from 0 to 10."""
    return type(value) is int and 0 <= value <= 10
