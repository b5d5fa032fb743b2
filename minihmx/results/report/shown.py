"""What an analysis puts on the page, and the folders of probes from which some are drawn. No torch.

Nothing on the disk is trusted: what is damaged, too large, of another model or of no kind at all
becomes a sentence, and the rest of the page stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minihmx.config import Config
from minihmx.errors import Failure, UserError, shortened
from minihmx.probes.checkpoints import SEALED, SETTINGS, Checkpoint
from minihmx.results.epochs import epochs_of
from minihmx.results.layout import Table
from minihmx.results.report.charts import Figure
from minihmx.results.report.material import Material, ReportRun, part_of
from minihmx.results.report.views import CardView
from minihmx.results.runs import TrainedRun, model_folder, read_run
from minihmx.storage.strict import read_json

MOST_BYTES = 64_000_000  # of all files of a probe that are read
MOST_FOLDERS = 20  # of one probe on one model, the latest names
# What reading a value of no kind at all raises, as an absent field or a word for a number.
NO_KIND = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Shown:
    """One place's part of a section. tables: as the command prints them; a note that begins with
    LIMIT stands at the section's end. why: a sentence, where nothing can be shown."""

    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    cards: list[CardView] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True)
class StoredProbe:
    """A probe's folder. runs: those of the page whose base it is about."""

    folder: Path
    settings: Mapping[str, Any]
    runs: list[ReportRun]

    @property
    def model(self) -> str:
        """As a title names it."""
        return self.runs[0].model

    @property
    def place(self) -> list[str]:
        """The words by which a command finds this folder again."""
        folder = str(self.folder.parents[3])
        return [] if folder == Config.out else ["--out", folder]

    @property
    def model_id(self) -> str:
        """As a command names it."""
        return opened_as(self.runs[0])


Draw = Callable[[Material], Iterator[Shown]]


def safely(place: object, draw: Callable[..., Shown], *given: Any) -> Shown:
    """What is drawn; a sentence where the files do not allow it."""
    try:
        return draw(*given)
    except (Failure, OSError) as error:
        return Shown(why=str(error))
    except NO_KIND as error:
        told = shortened(f"{type(error).__name__}: {error}")
        return Shown(
            why=f"{place} holds what minihmx does not write ({told}), so it is not shown; move it "
            "away, or restore it."
        )


def of_probes(name: str, draw: Callable[[Material, StoredProbe], Shown], holding: str = "") -> Draw:
    """How a probe is drawn that keeps its answers in base/probes/NAME-DIGEST.

    holding: a pattern for files; folders without such a file are another probe's, and passed over.
    """

    def found(material: Material) -> Iterator[Shown]:
        for home, runs in homes(material).items():
            folders = sorted((home / "base" / "probes").glob(f"{name}-*"))
            folders = [f for f in folders if not holding or any(f.glob(holding))]
            for folder in folders[-MOST_FOLDERS:]:
                if folder.is_dir():
                    yield safely(folder, _of_probe, material, folder, runs, draw)
            if len(folders) > MOST_FOLDERS:
                left = len(folders) - MOST_FOLDERS
                yield Shown(why=f"{left} more folders {name}-* in {home} are not shown.")

    return found


def homes(material: Material) -> dict[Path, list[ReportRun]]:
    """The models' folders (DIR/MODEL) of the page's runs, and those runs."""
    found: dict[Path, list[ReportRun]] = {}
    for run in material.runs:
        found.setdefault(model_folder(run.folder), []).append(run)
    return found


def _of_probe(
    material: Material,
    folder: Path,
    runs: list[ReportRun],
    draw: Callable[[Material, StoredProbe], Shown],
) -> Shown:
    settings = read_json(folder / SETTINGS)
    own = [run for run in runs if run.science.get("model digest") == settings["model"]]
    if not own:
        raise UserError(
            f"{folder} is of another model than the runs beside it, so it is not shown; move it to "
            "that model's folder."
        )
    size = sum(path.stat().st_size for path in folder.rglob("*.json*") if path.is_file())
    if folder.is_symlink() or size > MOST_BYTES:
        raise UserError(
            f"{folder} is a link, or holds more than {MOST_BYTES / 1e6:.0f} MB of text, so it is "
            "not read here; the command that wrote it shows it."
        )
    shown = draw(material, StoredProbe(folder, settings, own))
    if shown.tables and not (folder / SEALED).exists():
        last = shown.tables[-1]
        part = f"{folder} is being added to or was stopped, so this may be a part of it."
        shown.tables[-1] = last._replace(notes=[*last.notes, part])
    return shown


def opened_as(run: ReportRun) -> str:
    """How a command names a run's model. The name of its folder will not do: that of a model which
    lies on the disk has a digest in it, and stands nowhere else."""
    return str(part_of(run.config, "model").get("id") or run.model)


def checkpoint_of(run: ReportRun) -> Checkpoint:
    """A run's epoch that the page shows, as probes take it."""
    place = run.folder / "checkpoints" / run.epoch
    return Checkpoint(place, run.direction, run.seed, {}, str(run.science.get("model digest")))


def run_with_adapter(runs: list[ReportRun], digest: str) -> TrainedRun | None:
    """The run, at the epoch, whose adapter has this digest; None where none of them has."""
    for run in runs:
        for epoch in dict.fromkeys([run.epoch, *epochs_of(run.folder)]):
            if epoch and os.path.isdir(run.folder / "checkpoints" / epoch):
                found = read_run(run.folder, epoch)
                if found.adapter == digest:
                    return found
    return None
