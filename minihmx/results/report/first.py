"""What a reader has to know first: what the audit found, and what alarms ring. No torch."""

from __future__ import annotations

from pathlib import Path

from minihmx.instruments.wreck import is_wrecked
from minihmx.results.alarms import run_alarms
from minihmx.results.report.material import Material

NAMED = 2  # findings of a run that are written out; the audit's section lists more


def audit_alerts(material: Material) -> list[str]:
    """A sentence for each run, or other folder, in which the audit found something."""
    found: dict[str, dict[str, None]] = {}
    for audit in material.audits:
        for finding in audit.findings:
            place = _place(material, Path(finding.file))
            found.setdefault(place, {})[finding.text] = None
    return [
        f"The audit finds {len(texts):,} {'difference' if len(texts) == 1 else 'differences'} in "
        f"{place}, where what is written was changed, is damaged or is missing: "
        f"{'; '.join([*texts][:NAMED])}{'; ...' if len(texts) > NAMED else '.'}"
        for place, texts in found.items()
    ]


def alerts(material: Material) -> list[str]:
    """All of them: the audit's, what ended wrecked, then each run's alarms."""
    wrecked = [
        f"{run.model}, {run.title}: it ended wrecked: every held-out answer of its last epoch is "
        "cut, none has a score, or more than half look degenerate, so its scores say nothing "
        "about feeling."
        for run in material.runs
        if is_wrecked(run.folder)
    ]
    rung = [
        f"{run.model}, {run.title}: {alarm}."
        for run in material.runs
        for alarm in material.tried(run_alarms, run.folder) or []
    ]
    return [*audit_alerts(material), *wrecked, *rung]


def _place(material: Material, file: Path) -> str:
    """The run that a file belongs to, else the folder that it lies in."""
    runs = (run.folder for run in material.runs if file.is_relative_to(run.folder))
    return str(next(runs, file.parent))
