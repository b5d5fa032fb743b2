"""The verb `experiment`: every seed in both directions, selection, benchmarks, comparison.

The plan comes first. Each piece of it is a command of its own in a process of its own, so that what
one of them wrecks is not lost for the others.
"""

from __future__ import annotations

import argparse
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.commands import doctor, train
from minihmx.config import FIELDS, LARGEST, Config, check_number, science
from minihmx.errors import INTERRUPTED, UserError, shortened
from minihmx.evals import BENCHMARKS, named
from minihmx.evals.benchmark import switches
from minihmx.evals.items.load import locate, nothing
from minihmx.evals.items.made import Promise, find_items, make_dataset
from minihmx.experiment import (
    Experiment,
    Piece,
    claim,
    done_pieces,
    pieces,
    stored_results,
    write_states,
)
from minihmx.models import hub
from minihmx.models.folder import read_config
from minihmx.models.tokenizer import Tokenizer
from minihmx.questions import load_questions, load_rubric
from minihmx.selection import DIRECTIONS, Rule
from minihmx.storage import identity
from minihmx.storage.config_file import ConfigFile, merge_flags
from minihmx.storage.disk import home_path, sha256
from minihmx.storage.run_folder import Store
from minihmx.terminal.child import child
from minihmx.terminal.plan import plan_lines, time_left
from minihmx.terminal.text import show

# What `train` and `eval` both take, in the same meaning.
SHARED = ("revision", "device", "dtype", "threads", "decode_rows", "date", "chat_format")
# What a file of --config cannot give to several runs, and what is given instead.
OF_ONE_RUN = {"seed": "--seeds", "direction": "nothing, as both are trained", "out": "--out"}
MOST_SEEDS = 1000
PARTIAL = "--partial"
# On the bundled model the others only show that they run, and take ten seconds more for each model.
OF_TINY = ("truthfulqa_mc2", "toxigen", "bbq", "sycophancy_answer", "are_you_sure")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train` but for those of one run, and which seeds and benchmarks."""
    train.config_flags(parser, left_out=("seed", "direction", "out"))
    what_is_asked(parser)
    out = FIELDS["out"].default
    parser.add_argument("--out", default=out, metavar="DIR", help=f"holds all runs ({out})")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def what_is_asked(parser: argparse.ArgumentParser) -> None:
    """The seeds and benchmarks of an experiment, and how it selects."""
    parser.add_argument("--seeds", default="1-5", metavar="LIST", help="as 1-5 or 1,3,4 (1-5)")
    parser.add_argument(
        "--tasks",
        default="",
        help=f"benchmarks, separated by commas; all; none (all; tiny: {','.join(OF_TINY)})",
    )
    parser.add_argument(
        "--data", default="", metavar="hub|sample|DIR", help="as for eval (hub; tiny: sample)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="as for eval (all)")
    parser.add_argument("--partial", action="store_true", help="as for eval")
    parser.add_argument(
        "--same-epoch-exception", choices=("on", "off"), default="on", help="as for select (on)"
    )


def run(options: argparse.Namespace) -> int:
    """Plan, do what is not done, compare. Returns 0, or the exit code of the first failure."""
    file = config_values(options)
    model = vars(options).get("model") or (file.values if file else {}).get("model", "tiny")
    experiment, report = planned(options, model, options.out)
    if not options.dry_run:
        fetch_all(experiment)
        experiment, report = planned(options, experiment.model, options.out)
    for line in plan_lines(experiment, report):
        show(line)
    return 0 if options.dry_run else work(experiment)


def planned(
    options: argparse.Namespace, model: str, out: str, gpu: str | None = None
) -> tuple[Experiment, dict[str, Any]]:
    """One model's experiment, and what doctor says of a run of it. Downloads only config.json.

    out: the folder of the runs. gpu: as for doctor. Raises UserError for what cannot be had, and
    for a run of another config that is there.
    """
    typed = {name: value for name, value in vars(options).items() if name in FIELDS}
    typed |= {"model": model, "out": out}
    file = config_values(options)
    flags, came_from = merge_flags(typed, file)
    check_number("limit", options.limit, 1, LARGEST, or_zero=True)
    report = examined(flags, gpu, came_from)
    tasks = benchmark_names(options.tasks or (",".join(OF_TINY) if model == "tiny" else "all"))
    data = options.data or ("sample" if model == "tiny" else "hub")
    for task in tasks:  # what cannot be had is refused before the hours of training
        BENCHMARKS[task].prepare(switches(BENCHMARKS[task], {}))
        if data != "hub" and BENCHMARKS[task].recipe:
            find_items(BENCHMARKS[task], data, options.partial)
        elif data != "hub" and locate(BENCHMARKS[task], data) is None:
            raise UserError(nothing(BENCHMARKS[task], data))
    given = {name: value for name, value in flags.items() if name not in ("model", "out")}
    of_eval = {name: value for name, value in given.items() if name in SHARED}
    of_eval |= {"limit": options.limit} if options.limit else {}
    experiment = Experiment(
        home_path(out),
        model,
        report["model"]["run_name"] or model.split("/")[-1],
        seeds(options.seeds),
        tuple(tasks),
        data,
        Rule(same_epoch_exception=options.same_epoch_exception),
        typed_flags(given),
        typed_flags(of_eval) + ((PARTIAL,) if options.partial else ()),
    )
    if experiment.out.exists() and not experiment.out.is_dir():
        raise UserError(
            f"{experiment.out} is no folder; name the folder that holds the runs, or a new one."
        )
    if report["model"]["cached"]:
        digest = hub.resolve(model, flags.get("revision") or None).digest
        own = check_runs(experiment, report["settings"], digest)
        if file:
            file.check_same_files(own, typed)
    return experiment, report


def fetch_all(experiment: Experiment) -> None:
    """Download what an experiment needs and this disk lacks: the model, and the items.

    Items that are made with the model's tokenizer are made, so that no two processes do it at once.
    """
    e = experiment
    found = [find_items(BENCHMARKS[task], e.data, PARTIAL in e.eval_flags) for task in e.tasks]
    revision = next((f.partition("=")[2] for f in e.flags if f.startswith("--revision=")), None)
    source = hub.resolve(e.model, revision or None)
    for task, dataset in zip(e.tasks, found, strict=True):
        if isinstance(dataset, Promise):
            tokenizer = Tokenizer.load(source.folder)
            digest = sha256(source.folder / "tokenizer.json")
            context = read_config(source.folder).max_positions
            make_dataset(BENCHMARKS[task], dataset, tokenizer.count, digest, context)


def config_values(options: argparse.Namespace) -> ConfigFile | None:
    """What --config gives to every run; see ConfigFile.without."""
    file = train.config_file(options)
    return file and file.without(OF_ONE_RUN)


def examined(
    flags: Mapping[str, Any], gpu: str | None, came_from: Mapping[str, str]
) -> dict[str, Any]:
    """What doctor says of a run. Raises Failure for the first thing that would stop it."""
    report = doctor.examine(flags, gpu, came_from)
    doctor.refuse_problems(report)
    return report


def benchmark_names(text: str) -> list[str]:
    """Of --tasks: those that are named, none, or all."""
    if text in ("all", "paper"):
        return list(BENCHMARKS)
    names = [name.strip() for name in text.split(",")]
    return [] if names == ["none"] else [benchmark.name for benchmark in named(names)]


def check_runs(experiment: Experiment, settings: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """Returns the fields of a run's fingerprint. Raises UserError, naming each field, where a run
    of the plan is there with another config.

    settings: every field of the config, resolved. digest: of the model.
    """
    from minihmx.run import path_or_none

    questions = load_questions(path_or_none(settings["questions"]), settings["leave_out"])
    rubric = load_rubric(path_or_none(settings["rubric"]))
    shared = science(Config(**settings))
    for seed in experiment.seeds:
        for direction in DIRECTIONS:
            own = identity.fingerprint(
                shared | {"seed": seed, "direction": direction}, digest, questions, rubric
            )
            identity.check_same_experiment(Store(experiment.folder(direction, seed)), own)
    return own


def seeds(text: str) -> tuple[int, ...]:
    """1-5 or 1,3,4, each once and in order. Raises UserError for anything else."""
    found = set[int]()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last] if dash else [first]
        if not all(re.fullmatch("[0-9]{1,18}", end) for end in ends):
            what = f"--seeds {shortened(text)} is no list of seeds"
            raise UserError(f"{what}; write it as 1-5 or 1,3,4.")
        low, high = int(first), int(last or first)
        check_number("seeds", high, 0, LARGEST)
        if high - low >= MOST_SEEDS or high < low:
            raise UserError(
                f"--seeds {shortened(text)} goes from {low} to {high}, and it must go up, over at "
                f"most {MOST_SEEDS} seeds; write it as 1-5 or 1,3,4."
            )
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def typed_flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in sorted(values.items()))


# --- the work -------------------------------------------------------------------------------------


def work(experiment: Experiment) -> int:
    """Do every piece that nobody else is at, then compare."""
    listed, failed = pieces(experiment), dict[str, tuple[int, str]]()
    times: dict[str, list[float]] = {}
    # What this process has done it does not do again, whatever another one writes meanwhile.
    own, told = set[str](), False
    while True:
        done = done_pieces(experiment) | own
        failed = {name: why for name, why in failed.items() if name not in done}
        left = [p for p in listed if p.name not in done and p.name not in failed]
        ready = [p for p in left if done.issuperset(p.needs)]
        if not ready:
            break
        for piece in ready:
            with claim(experiment.out, f"{experiment.run_name} {piece.name}") as lock:
                if lock is None:
                    continue
                if piece.name not in done_pieces(experiment) | own:  # nobody finished it meanwhile
                    show(f"\n[{len(done) + 1}/{len(listed)}] {piece.name}{time_left(left, times)}")
                    started = time.monotonic()
                    code, sentence = do(experiment, piece, states(listed, done, failed), lock)
                    if code == INTERRUPTED:
                        show("stopped; the same command goes on")
                        return code
                    if code:
                        failed[piece.name] = code, sentence
                    else:
                        own.add(piece.name)
                    times.setdefault(piece.kind, []).append(time.monotonic() - started)
                break
        else:
            if not told:
                show("waiting for what another process is at")
            told = True
            time.sleep(1)
    write_states(experiment, states(listed, done, failed), stored_results(experiment))
    for name, (_, sentence) in failed.items():
        show(f"FAILED  {name}: {sentence}")
    codes = [code for code, _ in failed.values()]
    if any(name.startswith("eval seed") for name in done):
        show("")
        codes.append(child(("compare", str(experiment.out)))[0])
    return next(filter(None, codes), 0)


def states(
    listed: Sequence[Piece], done: set[str], failed: Mapping[str, tuple[int, str]]
) -> dict[str, str]:
    """By piece, done, waiting, or why it failed."""
    found = {piece.name: "done" if piece.name in done else "waiting" for piece in listed}
    return found | {name: sentence for name, (_, sentence) in failed.items()}


def do(experiment: Experiment, piece: Piece, now: dict[str, str], lock: int) -> tuple[int, str]:
    """Run one piece and keep what it made; returns its exit code and the sentence of a failure."""
    write_states(experiment, now | {piece.name: "running"}, stored_results(experiment))
    show(f"$ minihmx {shlex.join(piece.arguments)}")
    made: list[str] = []
    code, sentence = child(piece.arguments, made, lock)
    out, results = experiment.out.resolve(), stored_results(experiment)
    if piece.kind == "eval" and not code:
        results[piece.name] = [str(Path(folder).resolve().relative_to(out)) for folder in made]
    state = "interrupted" if code == INTERRUPTED else sentence if code else "done"
    write_states(experiment, now | {piece.name: state}, results)
    return code, sentence
