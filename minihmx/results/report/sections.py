"""The sections of the page, in the order of reading. A new one is a function and a line here."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minihmx.models.licences import licence_on_disk
from minihmx.results.conclusions import cell_sets
from minihmx.results.findings import CHECKS
from minihmx.results.layout import Table
from minihmx.results.report.analyses import analysis_sections
from minihmx.results.report.charts import figures
from minihmx.results.report.failures import judge_section
from minihmx.results.report.items import items_section
from minihmx.results.report.material import Material, ReportRun, part_of
from minihmx.results.report.questions import (
    epochs_section,
    select_commands,
    sides_section,
    train_commands,
)
from minihmx.results.report.steps import steps_section
from minihmx.results.report.views import Section
from minihmx.results.tables import comparison_tables
from minihmx.terminal.text import number

FINDINGS_SHOWN = 50  # of the audit


def setup_section(material: Material) -> Section:
    """What was run, on which model, machine and settings."""
    rows = [
        (
            run.model,
            run.title,
            f"{run.status.get('state', 'unknown')}, step {run.status.get('step', '?')} of "
            f"{run.status.get('steps', '?')}",
            run.epoch or "-",
            run.how,
            _score(run, "epoch-00"),
            _score(run, run.epoch),
            number(run.evaluation(run.epoch).get("kl"), ".4f"),
        )
        for run in material.runs
    ]
    heads = ("model", "run", "state", "epoch shown", "how chosen", "score before", "score", "KL")
    note = "Score: 0 to 10 on the held-out questions, mean ± standard error, by the base itself."
    table, folded = Table("Runs", heads, rows, [note], 5), list(_settings(material))
    commands, name = tuple(train_commands(material)), ("setup", "What was run")
    return Section(*name, commands=commands, tables=[table, _licences(material)], folded=folded)


def _licences(material: Material) -> Table:
    """What holds for every adapter of these runs, as it holds for its base."""
    models = {run.model: part_of(run.config, "model").get("id") for run in material.runs}
    rows = []
    for model, model_id in models.items():
        licence = licence_on_disk(model_id if isinstance(model_id, str) else "")
        rows.append((model, licence.sentence, "; ".join(licence.duties)))
    heads = ("model", "licence", "whoever passes on it, or an adapter of it, has to")
    notes = ["A summary and no legal advice: the licence's own text counts."]
    return Table("Licence of the base", heads, rows, notes, 3)


def _score(run: ReportRun, epoch: str) -> str:
    line = run.evaluation(epoch)
    if not line:
        return "-"
    return f"{number(line['score'], '.2f')} ± {number(line['score_error'], '.2f')}"


def _settings(material: Material) -> Iterator[Table]:
    """One table for each model: what its runs have in common, and the values that differ."""
    for model in dict.fromkeys(run.model for run in material.runs):
        runs = [run for run in material.runs if run.model == model]
        told = [_facts(run) for run in runs]
        rows = []
        for name in told[0]:
            values = dict.fromkeys(str(facts.get(name, "-")) for facts in told)
            rows.append((name, "; ".join(values)))
        sources = part_of(runs[0].config, "sources")
        changed = [
            f"{field} = {runs[0].science.get(field)} ({source})"
            for field, source in sources.items()
            if source != "default" and field in runs[0].science
        ]
        notes = [f"Not the default: {', '.join(changed)}."] if changed else []
        yield Table(f"Model, machine and settings, {model}", ("what", "value"), rows, notes, 2)


def _facts(run: ReportRun) -> dict[str, Any]:
    model, start = part_of(run.config, "model"), run.starts[-1] if run.starts else {}
    science = run.science
    revision = model.get("revision") or "local files"
    return {
        "model": f"{model.get('id', 'unknown')} ({revision})",
        "model digest": science.get("model digest", "unknown"),
        "device and dtype": f"{start.get('device', 'unknown')}, {science.get('dtype', 'unknown')}",
        "versions": f"minihmx {start.get('minihmx', 'unknown')} (git {start.get('git')}), "
        f"torch {start.get('torch', 'unknown')}, Python {start.get('python', 'unknown')}",
        "a step": f"{science.get('prompts_per_step')} questions, {science.get('generations')} "
        f"answers each, of at most {science.get('max_completion_length')} tokens",
        "sampled at": f"temperature {science.get('temperature')}"
        f"{', ' + str(science['sampler']) if 'sampler' in science else ''}",
        "objective": f"{science.get('loss_type')}, beta {science.get('beta')}, learning rate "
        f"{science.get('learning_rate')}",
        "adapter": f"LoRA rank {science.get('lora_rank')}, alpha {science.get('lora_alpha')}",
        "length": f"{science.get('epochs')} epochs, {run.status.get('steps', '?')} steps",
        "held out": f"{science.get('eval_samples')} answers to each question, every epoch",
        "questions digest": science.get("questions digest", "unknown"),
        "rubric digest": science.get("rubric digest", "unknown"),
    }


def curves_section(material: Material) -> Section:
    """Score, KL, length and shares over the epochs."""
    found = list(figures(material.runs))
    text = (
        "Points are evaluations on the held-out questions, with a bar of one standard error; faint "
        "lines are the training steps themselves. The ring is the epoch that is shown beside the "
        "base, and the dotted line the score that the paper's rule asks of a forward run (7.5).",
    )
    commands = [*train_commands(material), *select_commands(material)]
    missing = "" if found else "No step and no evaluation can be read yet."
    name = "curves", "Curves"
    return Section(*name, text, tuple(commands), figures=found, missing=missing)


def tables_section(material: Material) -> Section:
    """What `compare` prints."""
    comparison, name = material.comparison, ("tables", "Tables with intervals")
    command = f"minihmx compare {shlex.join(material.compared)}"
    if isinstance(comparison, str):
        return Section(*name, missing=comparison, commands=(command,))
    found = cell_sets(comparison, paper=False)
    tables = material.tried(comparison_tables, comparison, found)
    missing = "" if tables else "The samples behind the tables are damaged, as is said on top."
    return Section(*name, commands=(command,), tables=tables or [], missing=missing)


def audit_section(material: Material) -> Section:
    """What `audit` says."""
    rows, findings, notes = list[tuple[str, ...]](), list[str](), list[str]()
    for check, what in CHECKS.items():
        places = sum(len(audit.looked_at[check]) for audit in material.audits)
        differ = sum(len(audit.of(check)) for audit in material.audits)
        if places or differ:
            rows.append((what, f"{places:,}", f"{differ:,} differ" if differ else "all equal"))
    for audit in material.audits:
        findings += [finding.text for finding in audit.findings]
        notes += [f"not checked: {note}" for note in audit.notes]
    tables = [Table("Made again from the raw answers", ("what", "how many", "outcome"), rows)]
    if findings:
        rest = len(findings) - FINDINGS_SHOWN
        more = [f"and {rest:,} more, which the command lists"] if rest > 0 else []
        tables.append(Table("What differs", lines=[*findings[:FINDINGS_SHOWN], *more]))
    if notes:
        tables.append(Table("What was not checked", notes=notes))
    commands = tuple(f"minihmx audit {shlex.quote(path)}" for path in material.paths)
    text = (
        "Every score, reward, advantage, weight, mean and verdict is made again from the raw texts "
        "and held against what was logged; docs/audit.md says what this shows and what it cannot.",
    )
    missing = "" if material.audits else "Nothing can be audited here."
    name = "audit", "What the audit says"
    return Section(*name, text, commands, tables, missing=missing)


def commands_section(material: Material) -> Section:
    """The command that made each part, in the order in which they were typed."""
    planned = [shlex.join(["minihmx", *piece["command"]]) for _, piece in material.plans]
    typed = planned or [*train_commands(material), *select_commands(material)]
    rows = [("experiment" if planned else "run", command) for command in typed]
    paths = shlex.join(material.paths)
    rows += [("tables", f"minihmx compare {paths}"), ("this page", f"minihmx report {paths}")]
    rows += [("audit", f"minihmx audit {shlex.quote(path)}") for path in material.paths]
    tables = [Table("Commands", ("part", "command"), rows, labels=2)]
    return Section("commands", "The commands", tables=tables)


SECTIONS: Mapping[str, Callable[[Material], Section]] = {
    "setup": setup_section,
    "curves": curves_section,
    "sides": sides_section,
    "epochs": epochs_section,
    "steps": steps_section,
    "items": items_section,
    "tables": tables_section,
    "judge": judge_section,
    "audit": audit_section,
    "commands": commands_section,
}


def all_sections(material: Material) -> list[Section]:
    """Every section, each made by its own function; the analyses stand before the audit."""
    made = {name: build(material) for name, build in SECTIONS.items()}
    analyses = list(analysis_sections(material))
    last = {name: made.pop(name) for name in ("audit", "commands")}
    return [*made.values(), *analyses, *last.values()]
