"""The verb `experiment`: every seed in both directions, selection, benchmarks, comparison.

The plan comes first. Each piece of it is a command of its own in a process of its own, so that what
one of them wrecks is not lost for the others.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.commands import doctor, train
from minihmx.config import FIELDS, LARGEST, check_number
from minihmx.errors import INTERRUPTED, UserError, shortened
from minihmx.evals import BENCHMARKS, named
from minihmx.evals.benchmark import switches
from minihmx.evals.items.load import locate, nothing
from minihmx.evals.items.made import find_items
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
from minihmx.questions import load_questions, load_rubric
from minihmx.selection import DIRECTIONS, Rule
from minihmx.storage import identity
from minihmx.storage.disk import home_path
from minihmx.storage.run_folder import Store
from minihmx.terminal.plan import headline, plan_lines, time_left
from minihmx.terminal.text import show

# What `train` and `eval` both take, in the same meaning.
SHARED = ("revision", "device", "dtype", "threads", "decode_rows", "date", "chat_format")
MOST_SEEDS = 1000
# On the bundled model the others only show that they run, and take ten seconds more for each model.
OF_TINY = ("truthfulqa_mc2", "toxigen", "bbq", "sycophancy_answer", "are_you_sure")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train` but for those of one run, and which seeds and benchmarks."""
    train.config_flags(parser, left_out=("seed", "direction", "out"))
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
    out = FIELDS["out"].default
    parser.add_argument("--out", default=out, metavar="DIR", help=f"holds all runs ({out})")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def run(options: argparse.Namespace) -> int:
    """Plan, do what is not done, compare. Returns 0, or the exit code of the first failure."""
    flags = {name: value for name, value in vars(options).items() if name in FIELDS}
    flags.setdefault("model", "tiny")
    check_number("limit", options.limit, 1, LARGEST, or_zero=True)
    report = examined(flags)
    tasks = benchmark_names(
        options.tasks or (",".join(OF_TINY) if flags["model"] == "tiny" else "all")
    )
    data = options.data or ("sample" if flags["model"] == "tiny" else "hub")
    for task in tasks:  # what cannot be had is refused before the hours of training
        BENCHMARKS[task].prepare(switches(BENCHMARKS[task], {}))
        if not options.dry_run or (data != "hub" and BENCHMARKS[task].recipe):
            find_items(BENCHMARKS[task], data, options.partial)
        elif data != "hub" and locate(BENCHMARKS[task], data) is None:
            raise UserError(nothing(BENCHMARKS[task], data))
    found = report["model"]["run_name"], ""
    if report["model"]["cached"] or not options.dry_run:
        source = hub.resolve(flags["model"], flags.get("revision") or None)
        found = source.run_name, source.digest
        if not report["model"]["cached"]:  # what was downloaded now tells the chat format
            report = examined(flags)
    given = {name: value for name, value in flags.items() if name not in ("model", "out")}
    of_eval = {name: value for name, value in given.items() if name in SHARED}
    of_eval |= {"limit": options.limit} if options.limit else {}
    experiment = Experiment(
        home_path(options.out),
        flags["model"],
        found[0] or flags["model"].split("/")[-1],
        seeds(options.seeds),
        tuple(tasks),
        data,
        Rule(same_epoch_exception=options.same_epoch_exception),
        typed_flags(given),
        typed_flags(of_eval) + (("--partial",) if options.partial else ()),
    )
    if experiment.out.exists() and not experiment.out.is_dir():
        raise UserError(
            f"{experiment.out} is no folder; give --out the folder that holds the runs."
        )
    if found[1]:
        check_runs(experiment, report["settings"], found[1])
    for line in plan_lines(experiment, report):
        show(line)
    return 0 if options.dry_run else work(experiment)


def examined(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What doctor says of a run. Raises Failure for the first thing that would stop it."""
    report = doctor.examine(flags)
    doctor.refuse_problems(report)
    return report


def benchmark_names(text: str) -> list[str]:
    """Of --tasks: those that are named, none, or all."""
    if text in ("all", "paper"):
        return list(BENCHMARKS)
    names = [name.strip() for name in text.split(",")]
    return [] if names == ["none"] else [benchmark.name for benchmark in named(names)]


def check_runs(experiment: Experiment, settings: Mapping[str, Any], digest: str) -> None:
    """Raises UserError, naming each field, where a run of the plan is there with another config.

    settings: every field of the config, resolved. digest: of the model.
    """
    from minihmx.run import path_or_none

    questions = load_questions(path_or_none(settings["questions"]))
    rubric = load_rubric(path_or_none(settings["rubric"]))
    shared = {name: settings[name] for name, field in FIELDS.items() if field.metadata["science"]}
    for seed in experiment.seeds:
        for direction in DIRECTIONS:
            own = identity.fingerprint(
                shared | {"seed": seed, "direction": direction}, digest, questions, rubric
            )
            identity.check_same_experiment(Store(experiment.folder(direction, seed)), own)


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
            with claim(experiment, piece.name) as lock:
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


def child(
    arguments: Sequence[str], made: list[str] | None = None, lock: int | None = None
) -> tuple[int, str]:
    """Run a command of minihmx; returns its exit code and the last line that it wrote to stderr.

    made: where the folder of each result goes that `eval --json` prints. lock: the claim, which
    the child holds as well, so that it stays claimed if this process is killed.
    """
    piped = subprocess.PIPE if "--json" in arguments else None
    command = [sys.executable, "-m", "minihmx", *arguments]
    # Ctrl-C reaches parent and child alike. The child saves and ends, and the parent waits for it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(
        command,
        stdout=piped,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=() if lock is None else (lock,),
    )
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    said: list[str] = []
    echo = threading.Thread(target=echoed, args=(process.stderr, said))
    echo.start()
    for line in process.stdout or ():
        result = json.loads(line)
        if made is not None:
            made.append(result["folder"])
        for text in headline(result):
            show(text)
    code = process.wait()
    echo.join()
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code < 0:
        stopped = -code in (signal.SIGINT, signal.SIGTERM)
        return INTERRUPTED if stopped else 1, f"it was killed by signal {-code}"
    return code, said[-1].removeprefix("minihmx: ") if said else f"it ended with exit code {code}"


def echoed(stream: Iterable[str], said: list[str]) -> None:
    """Pass on what a child says on stderr, and remember it."""
    for line in stream:
        print(line, end="", file=sys.stderr, flush=True)
        said += [line.strip()] if line.strip() else []
