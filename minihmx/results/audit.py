"""Whether what stands on disk follows from itself: a run, an experiment, or benchmark results.

Nothing is believed that can be made again. docs/audit.md lists every field: made again, held
against what it can be, or the model's own, which needs the model to be checked. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from minihmx.errors import UserError, quoted
from minihmx.results.audit_evals import audit_evaluation, is_evaluation
from minihmx.results.audit_run import check_files, read_facts
from minihmx.results.audit_steps import check_checkpoints, check_steps
from minihmx.results.findings import Audit, Place

EXPERIMENT = "experiment.json"


def audit_path(path: Path) -> Audit:
    """Audit a run's folder, one evaluation's, or all that stand below a folder.

    Raises UserError where there is nothing to audit.
    """
    audit = Audit()
    if not path.is_dir():
        raise UserError(
            f"{quoted(str(path))} is no folder, so there is nothing to audit; give a run's folder, "
            "an evaluation's, or a folder that holds some."
        )
    if (path / EXPERIMENT).exists():
        audit_experiment(audit, path)
    seen = False
    for folder in folders(path):
        seen = True
        if is_evaluation(folder):
            run = folder.parents[2]
            audit_evaluation(audit, folder, model_digest(run) if is_run(run) else None)
        else:
            audit_run(audit, folder)
    if not seen:
        raise UserError(
            f"{path} holds no run and no evaluation, so there is nothing to audit; a run's folder "
            "ends in seed-1 or the like, and holds config.json."
        )
    return audit


def folders(path: Path) -> Iterator[Path]:
    """The runs and evaluations in a folder, itself among them, in the order of their names."""
    if is_run(path) or is_evaluation(path):
        yield path
    if not is_evaluation(path):
        inner = [path / "evals"] if is_run(path) else sorted(path.iterdir())
        for folder in inner:
            if folder.is_dir() and not folder.is_symlink():
                yield from folders(folder)


def is_run(folder: Path) -> bool:
    """Whether training wrote here, even if its config.json is gone."""
    names = ("metrics.jsonl", "status.json", "rollouts", "evaluations")
    return any((folder / name).exists() for name in names)


def model_digest(run: Path) -> str | None:
    """The digest of the model that a run was made with, where its config.json tells it."""
    found = Audit().json(run / "config.json")
    science = found[0].get("science") if found else None
    digest = science.get("model digest") if isinstance(science, dict) else None
    return digest if isinstance(digest, str) else None


def audit_run(audit: Audit, folder: Path) -> None:
    """Every check of one run's folder, its evaluations on benchmarks aside."""
    facts = read_facts(audit, folder)
    if facts is None:
        return
    check_files(audit, facts)
    check_checkpoints(audit, facts, check_steps(audit, facts))
    if facts.lacking:
        older = ", ".join(sorted(facts.lacking))
        audit.note(f"{folder}: made by older code, so there is no {older} to be checked")


def audit_experiment(audit: Audit, folder: Path) -> None:
    """Whether each piece that experiment.json calls done stands where it says, and is finished."""
    path = folder / EXPERIMENT
    found = audit.json(path)
    if found is None:
        return
    models, text = found[0].get("models"), found[1]
    for model in models.values() if isinstance(models, dict) else ():
        pieces = model.get("pieces") if isinstance(model, dict) else None
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict) and piece.get("state") == "done":
                where = str(piece.get("path"))
                place, there = Place(path, text.partition(where)[0].count("\n") + 1), folder / where
                audit.require("experiment", place, "path", where, there.exists(), "there")
                if is_run(there):
                    sealed = (there / "manifest.json").exists()
                    audit.require("experiment", place, "state", "done", sealed, "true of that run")
