"""Whether the files of a run, an experiment or an evaluation follow from one another.

Whatever can be computed again is computed again and compared. docs/audit.md lists every field and
says whether it is made again, held against its bounds, or believed because only the model could
give it again. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minihmx.errors import Failure, UserError, quoted
from minihmx.experiment import EXPERIMENT
from minihmx.judge import SIGN
from minihmx.results.audit_cells import audit_cells
from minihmx.results.audit_evals import audit_evaluation, is_evaluation
from minihmx.results.audit_experiment import audit_experiment
from minihmx.results.audit_judged import audit_judged
from minihmx.results.audit_probes import audit_probe, is_probe
from minihmx.results.audit_readings import audit_readings
from minihmx.results.audit_run import check_files, read_facts
from minihmx.results.audit_steps import check_checkpoints, check_steps
from minihmx.results.findings import Audit, Place, Words
from minihmx.selection import Candidate, Rule, candidates, selected
from minihmx.storage.history import history
from minihmx.storage.identity import science_digest


def audit_path(path: Path) -> Audit:
    """Audit a run's folder, an evaluation's, a probe's, or all of these below a folder.

    Raises UserError if there is nothing to audit.
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
    for folder in folders(audit, path):
        seen = True
        if is_probe(folder):
            audit_probe(audit, folder)
        elif is_evaluation(folder):
            run = folder.parents[2]
            audit_evaluation(audit, folder, science_of(run).get("model digest"))
            audit_readings(audit, folder)
        else:
            audit_run(audit, folder)
    if not seen:
        raise UserError(
            f"{path} holds no run and no evaluation, so there is nothing to audit; a run's folder "
            "ends in seed-1 or the like, and holds config.json."
        )
    if not is_run(path) and not is_evaluation(path) and not is_probe(path):
        audit_cells(audit, path)
    return audit


def folders(audit: Audit, path: Path) -> Iterator[Path]:
    """The runs, evaluations and probes in a folder, itself among them, in the order of their names.

    A link to a run or an evaluation is followed, as `compare` follows it. Any other link might lead
    round in a circle, so it is noted and not followed.
    """
    if is_run(path) or is_evaluation(path) or is_probe(path):
        yield path
    if not is_evaluation(path) and not is_probe(path):
        inner = [path / "evals"] if is_run(path) else sorted(path.iterdir())
        for folder in inner:
            known = is_run(folder) or is_evaluation(folder)
            if folder.is_symlink() and not known:
                audit.note(f"{folder}: a link, so audit the folder that it leads to by itself")
            elif folder.is_dir():
                yield from folders(audit, folder)


def is_run(folder: Path) -> bool:
    """Whether training wrote in this folder, even if its config.json is gone."""
    names = ("metrics.jsonl", "status.json", "rollouts", "evaluations")
    return any((folder / name).exists() for name in names)


def science_of(run: Path) -> dict[str, Any]:
    """The fields that decide what a run computes; none if its config.json is gone or damaged."""
    found = Audit().json(run / "config.json")
    science = found[0].get("science") if found else None
    return science if isinstance(science, dict) else {}


def audit_run(audit: Audit, folder: Path) -> None:
    """Every check of one run's folder, except for its evaluations on benchmarks."""
    facts = read_facts(audit, folder)
    if facts is None:
        return
    check_files(audit, facts)
    audit_judged(audit, folder, facts.science.get("model digest"))
    check_checkpoints(audit, facts, check_steps(audit, facts))
    if (folder / "selected.json").exists():
        audit_selection(audit, folder)
    if facts.lacking:
        older = ", ".join(sorted(facts.lacking))
        why = "older code wrote none, or it was removed"
        audit.note(f"{folder}: {older} is not there to be checked ({why})")


def audit_selection(audit: Audit, folder: Path) -> None:
    """Whether selected.json follows, by the rule in it, from the histories of the two runs in it.

    The other direction's run is looked for beside this one, then at the path that the file gives.
    If it is in neither place, its candidates are believed, and a note says so.
    """
    path = folder / "selected.json"
    found = audit.json(path)
    if found is None:
        return
    stored, text = found
    try:
        rule = Rule(**stored["rule"])
        if [*map(type, vars(rule).values())] != [float, str, float]:
            raise ValueError(f"its rule is {rule}")
        own = science_of(folder)["direction"]
        histories, pair = {}, {}
        for direction in SIGN:
            said = {name: str(stored["pair"][direction][name]) for name in ("run", "fingerprint")}
            place = Path(os.path.abspath(folder))  # it may be named from within, as "."
            neighbour = place.parents[1] / direction / place.name
            places = [folder] if direction == own else [neighbour, Path(said["run"])]
            run = next((p for p in places if science_of(p).get("direction") == direction), None)
            if run is None:
                audit.note(f"{path}: its {direction} run is not found, so its history is believed")
                histories[direction] = [Candidate(**c) for c in stored["candidates"][direction]]
            else:
                histories[direction] = candidates(history(run)["evaluation"])
                said["fingerprint"] = science_digest(science_of(run))
            pair[direction] = said
        again = selected(histories["forward"], histories["reverse"], rule, pair)[own]
    except (OSError, Failure, LookupError, TypeError, ValueError, AssertionError) as error:
        what = Words(f"a selection that can be made again ({type(error).__name__}: {error})")
        audit.find("selection", Place(path, 1), "text", Words("another"), what)
        return
    audit.compare_tree("selection", (path, text), stored, again, exact=True)
