"""The verb `sweep`: many runs as a list of ordinary commands, for a cluster or for one machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import signal
import time
from pathlib import Path

from minihmx.commands import train
from minihmx.commands.doctor import look_up
from minihmx.commands.experiment import config_values, fetch_all, planned, what_is_asked
from minihmx.config import LARGEST, check_number
from minihmx.errors import INTERRUPTED, IOFailure, UserError
from minihmx.experiment import claim
from minihmx.storage.disk import Disk, home_path, new_file
from minihmx.sweep.estimates import estimate_job
from minihmx.sweep.local import run_here
from minihmx.sweep.plan import Job, Sweep, beside, list_text, read_sweep
from minihmx.sweep.progress import (
    check_tables,
    digest_of_results,
    is_finished,
    standings,
    write_record,
)
from minihmx.sweep.slurm import Submission, is_own_script, queue, requeue, script_text
from minihmx.terminal.child import child
from minihmx.terminal.plan import seconds_of_a_run
from minihmx.terminal.sweep import status_lines, sweep_lines
from minihmx.terminal.text import program, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """An action, and what it takes."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    actions.type = lambda text: text
    plan = _action(actions, "plan", "write the job list; nothing runs", with_file=False)
    plan.add_argument("--models", metavar="LIST", help="by commas (of --config, or tiny)")
    train.config_flags(plan, left_out=("model", "seed", "direction", "out"))
    what_is_asked(plan)
    plan.add_argument("--runs", default="runs", metavar="DIR", help="holds all runs (runs)")
    plan.add_argument("--out", required=True, metavar="FILE", help="a new file, as jobs.jsonl")
    plan.add_argument("--gpu", metavar="NAME|GIB", help="plan for such GPUs, as for doctor")
    submit = _action(actions, "submit", "put the list into Slurm's queue, as arrays by stage")
    submit.add_argument("--slurm", action="store_true", help="the only queue there is so far")
    submit.add_argument("--partition", default="", metavar="NAME", help="Slurm's (its default)")
    submit.add_argument(
        "--array-limit", type=int, default=0, metavar="K", help="tasks of an array at once (all)"
    )
    submit.add_argument(
        "--time", default="", metavar="LIMIT", help="of a task, as 4:00:00 (the partition's)"
    )
    submit.add_argument(
        "--grace",
        type=int,
        default=300,
        metavar="SECONDS",
        help="before the limit a task is told to save, and is queued again (300)",
    )
    submit.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a further option of sbatch, as --sbatch=--account=me; may be given several times",
    )
    submit.add_argument("--dry-run", action="store_true", help="write the script, and print it")
    status = _action(actions, "status", "where every job stands, by the folders of the runs")
    status.add_argument("--json", action="store_true", help="one JSON object instead of text")
    here = _action(actions, "run", "do the list on this machine")
    here.add_argument("--local", action="store_true", help="the only way there is so far")
    here.add_argument("--gpus", default="", metavar="LIST", help="as 0,1: a process on each")
    here.add_argument("--jobs", type=int, default=0, metavar="K", help="processes at once (1)")
    _action(actions, "fetch", "download once all that the jobs need")
    job = _action(actions, "job", "do one job, as Slurm's script and `run` start it")
    job.add_argument("stage", metavar="STAGE", help="as train-forward")
    job.add_argument("index", type=int, metavar="NUMBER", help="of the job in its stage")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    with_file: bool = True,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    if with_file:
        parser.add_argument("file", metavar="FILE", help="the job list")
    return parser


def run(options: argparse.Namespace) -> int:
    """Do what the action says; returns the exit code."""
    if options.action == "plan":
        return make_plan(options)
    path = home_path(options.file).absolute()
    sweep = read_sweep(path)
    try:
        os.chdir(sweep.folder)  # the commands are typed there
    except OSError as error:
        raise IOFailure(
            f"The commands of {path} are for the folder {sweep.folder}, which this machine does "
            f"not see ({error.strerror}); use the list where that folder is, or make one here with "
            "`minihmx sweep plan`."
        ) from None
    if options.action == "submit":
        return submit(sweep, path, options)
    if options.action == "run":
        return run_here_with(sweep, path, options)
    if options.action == "fetch":
        for experiment in sweep.experiments:
            fetch_all(experiment)
        return 0
    if options.action == "job":
        return do_job(sweep, find_job(sweep, options.stage, options.index))
    found = standings(sweep)
    if options.json:
        print(json.dumps({name: dataclasses.asdict(each) for name, each in found.items()}))
    else:
        for line in status_lines(sweep, path, found):
            show(line)
    return 0


def make_plan(options: argparse.Namespace) -> int:
    """Write the list and print it. Raises UserError for what would stop a job."""
    path = new_file("--out", options.out)
    file = config_values(options)
    values = (file.values if file else {}) | vars(options)
    given = options.models or values.get("model", "tiny")
    models = [name.strip() for name in given.split(",") if name.strip()]
    if not models or len(set(models)) < len(models):
        raise UserError(f"--models {given!r} names no model, or one of them twice.")
    if options.data and options.data not in ("hub", "sample"):
        options.data = str(home_path(options.data))
    plans = [planned(options, model, options.runs, options.gpu) for model in models]
    experiments = tuple(experiment for experiment, _ in plans)
    report = plans[0][1]
    tables = beside(path.absolute(), ".tables.txt")
    device = report["device"]["kind"]
    runs = home_path(options.runs)
    sweep = Sweep(Path.cwd(), runs, tables, device, experiments)
    check_tables(sweep)
    shapes = {e.model: look_up(e.model, values.get("revision")).shape for e in experiments}
    reports = {e.model: report for e, report in plans}
    timed = {e.model: seconds_of_a_run(e) for e in experiments}
    estimates = {}
    for name, job in sweep.jobs.items():
        model = (job.experiment or experiments[0]).model
        estimates[name] = estimate_job(job, shapes[model], reports[model], timed[model])
    Disk().write(path, list_text(sweep, estimates).encode())
    for line in sweep_lines(sweep, estimates, report["disk"]["runs"]["free"]):
        show(line)
    show(f"written to {path}; one of these carries it out:")
    for action, where in (("run", "--local"), ("submit", "--slurm")):
        show(f"  {program('sweep')} {shlex.join(['sweep', action, str(path), where])}")
    return 0


def submit(sweep: Sweep, path: Path, options: argparse.Namespace) -> int:
    """Write the script, print it, and run it."""
    if not options.slurm:
        raise UserError("`minihmx sweep submit` needs to know the queue; add --slurm.")
    check_number("array_limit", options.array_limit, 1, LARGEST, or_zero=True)
    check_number("grace", options.grace, 1, 65535)
    undone = {name for name, job in sweep.jobs.items() if not is_finished(sweep, job)}
    if not undone:
        show(f"all {len(sweep.jobs)} jobs are done")
        return 0
    script = beside(path, ".slurm.sh")
    names = (*Submission._fields[:-1], "sbatch")
    asked = Submission(*(getattr(options, name) for name in names))
    text = script_text(sweep, path, script, asked, undone)
    if os.path.lexists(script) and not is_own_script(script):
        raise UserError(
            f"{script}, where the script goes, is there already and minihmx did not write it, so "
            "nothing is replaced or queued; move it away, or give the list another name."
        )
    Disk().write(script, text.encode())
    show(text.rstrip("\n"))
    show(f"# written to {script}")
    if not options.dry_run:
        queue(script, asked)
    return 0


def run_here_with(sweep: Sweep, path: Path, options: argparse.Namespace) -> int:
    """Do the list with a process on each GPU, or so many as are asked for."""
    if not options.local:
        raise UserError("`minihmx sweep run` needs to know where; add --local for this machine.")
    check_number("jobs", options.jobs, 1, 1024, or_zero=True)
    gpus = [name.strip() for name in options.gpus.split(",") if name.strip()]
    if gpus and options.jobs:
        raise UserError("--gpus starts one process on each GPU, so --jobs does not go with it.")
    if not all(name.isalnum() or name.replace("-", "").isalnum() for name in gpus):
        raise UserError(f"--gpus {options.gpus} is no list of GPUs; write it as 0,1.")
    if len(set(gpus)) < len(gpus):
        raise UserError(f"--gpus {options.gpus} names a GPU twice; give each once.")
    for experiment in sweep.experiments:
        fetch_all(experiment)
    slots: list[str | None] = [*gpus] if gpus else [None] * (options.jobs or 1)
    code = run_here(sweep, path, slots)
    if sweep.tables.is_file():
        show(f"\n{sweep.tables.read_text('utf-8').rstrip()}\n(from {sweep.tables})")
    return code


def find_job(sweep: Sweep, stage: str, index: int) -> Job:
    """Raises UserError where the list has none of that name."""
    for job in sweep.jobs.values():
        if (job.stage, job.index) == (stage, index):
            return job
    stages = ", ".join(dict.fromkeys(job.stage for job in sweep.jobs.values()))
    raise UserError(f"The list has no job {stage} {index}; its stages are {stages}.")


def do_job(sweep: Sweep, job: Job) -> int:
    """Do one job, once whoever is at it now has ended; returns its exit code.

    SIGUSR1 is Slurm's word that the time is nearly over: the job saves, and is queued again.
    SIGTERM, from `scancel` or an operator, ends it for good. Both are passed on.
    """
    warned, ended = list[int](), list[int]()

    def warn(number: int, _: object) -> None:
        warned.append(number)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGUSR1, warn)
    signal.signal(signal.SIGTERM, lambda n, _: ended.append(n))
    while not ended:
        with claim(sweep.runs, job.key) as lock:
            if lock is not None:
                code = _do(sweep, job, lock, ended)
                break
        time.sleep(1)
    else:
        code = INTERRUPTED
    if code == INTERRUPTED and warned and requeue():
        show("saved; back into the queue")
    return code


def _do(sweep: Sweep, job: Job, lock: int, ended: list[int]) -> int:
    """The job itself, under its claim."""
    if is_finished(sweep, job):
        show(f"{job.name} is done already")
        return 0
    for need in job.needs:
        if not is_finished(sweep, sweep.jobs[need]):
            raise UserError(f"{job.name} needs {need}, which is not done; do that first.")
    read = None
    if job.experiment is None:
        check_tables(sweep)
        read = digest_of_results(sweep)  # before it reads: what changes meanwhile is seen
    write_record(sweep, job, None)
    if job.experiment is None and sweep.tables.exists():
        Disk().remove(sweep.tables)  # its own, of results that are others now
    made, began = list[str](), time.time()
    code, sentence = child(job.piece.arguments, made, lock) if not ended else (INTERRUPTED, "")
    runs = sweep.runs.resolve()
    results = [str(Path(folder).resolve().relative_to(runs)) for folder in made]
    write_record(sweep, job, code, sentence if code else "", results, time.time() - began, read)
    return code
