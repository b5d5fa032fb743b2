"""The verb `audit`: is everything on disk what follows from the raw answers?"""

from __future__ import annotations

import argparse
import json

from minihmx.errors import DataError
from minihmx.storage.disk import home_path
from minihmx.terminal.text import printable, show

FIRST = 10  # findings of each check


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is audited, and for whom the answer is."""
    parser.add_argument("path", help="a run's folder, an evaluation's, or one that holds some")
    parser.add_argument("--json", action="store_true", help="one JSON object with every finding")


def run(options: argparse.Namespace) -> int:
    """Print what was made again and what differs; 5 where something does."""
    from minihmx.results.alarms import alarms_below
    from minihmx.results.audit import audit_path
    from minihmx.results.findings import CHECKS

    audit = audit_path(home_path(options.path))
    alarms = list(alarms_below(home_path(options.path)))
    counts = {
        name: {"checked": len(places), "differ": len(audit.of(name))}
        for name, places in audit.looked_at.items()
        if places or audit.of(name)
    }
    if options.json:
        findings = [finding._asdict() for finding in audit.findings]
        record = {"path": options.path, "checks": counts, "findings": findings, "alarms": alarms}
        show(json.dumps(record | {"notes": list(audit.notes)}, ensure_ascii=False))
        return DataError.code if findings else 0
    for name, count in counts.items():
        outcome = f"{count['differ']:,} differ" if count["differ"] else "all equal"
        show(f"{count['checked']:9,} {CHECKS[name]}: {outcome}")
    for note in audit.notes:
        show(f"  not checked: {printable(note)}")
    for alarm in alarms:
        show(printable(alarm))
    for name in counts:
        for finding in audit.of(name)[:FIRST]:
            show(printable(finding.text))
        if len(audit.of(name)) > FIRST:
            show(f"  and {len(audit.of(name)) - FIRST:,} more of these; --json lists all")
    if audit.findings:
        show("What differs does not follow from the rest, so it was changed or is damaged.")
        return DataError.code
    show("All that can be made again is as it was logged; docs/audit.md says what cannot be.")
    return 0
