"""The verb `experiment`: every seed in both directions, selection, benchmarks, comparison.

The plan comes first. Each piece of it is a command of its own in a process of its own, so that what
one of them wrecks is not lost for the others.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.commands import doctor, train
from minihmx.config import FIELDS
from minihmx.errors import INTERRUPTED, Failure, UserError
from minihmx.evals import BENCHMARKS, named
from minihmx.evals.items.load import load_dataset
from minihmx.experiment import (
    Experiment,
    Piece,
    claim,
    is_done,
    pieces,
    stored_results,
    write_states,
)
from minihmx.instruments.estimate import size
from minihmx.models import hub
from minihmx.selection import Rule
from minihmx.storage.disk import home_path, read_lines
from minihmx.terminal.text import duration, show

# What `train` and `eval` both take, in the same meaning.
SHARED = ("revision", "device", "dtype", "threads", "decode_rows", "date")
MOST_SEEDS = 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `train` but for those of one run, and which seeds and benchmarks."""
    train.config_flags(parser, left_out=("seed", "direction", "out"))
    parser.add_argument("--seeds", default="1-5", metavar="LIST", help="as 1-5 or 1,3,4 (1-5)")
    parser.add_argument(
        "--tasks", default="all", help="benchmarks, separated by commas; none: no benchmarks (all)"
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
    report = doctor.examine(flags)
    if report["problems"]:
        raise UserError(report["problems"][0])
    tasks = [] if options.tasks == "none" else list(BENCHMARKS)
    if options.tasks not in ("none", "all", "paper"):
        tasks = [b.name for b in named([t for t in options.tasks.split(",") if t])]
    data = options.data or ("sample" if flags["model"] == "tiny" else "hub")
    run_name = report["model"]["run_name"]
    if not options.dry_run:  # what cannot be had is refused before the hours of training
        for task in tasks:
            load_dataset(BENCHMARKS[task], data)
        run_name = hub.resolve(flags["model"], flags.get("revision") or None).run_name
    given = {name: value for name, value in flags.items() if name not in ("model", "out")}
    of_eval = {name: value for name, value in given.items() if name in SHARED}
    of_eval |= {"limit": options.limit} if options.limit else {}
    experiment = Experiment(
        home_path(options.out),
        flags["model"],
        run_name or flags["model"].split("/")[-1],
        seeds(options.seeds),
        tuple(tasks),
        data,
        Rule(same_epoch_exception=options.same_epoch_exception),
        typed_flags(given),
        typed_flags(of_eval) + (("--partial",) if options.partial else ()),
    )
    for line in plan_lines(experiment, report):
        show(line)
    return 0 if options.dry_run else work(experiment)


def seeds(text: str) -> tuple[int, ...]:
    """1-5 or 1,3,4, each once and in order. Raises UserError for anything else."""
    found = set[int]()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--seeds {text} is no list of seeds; write it as 1-5 or 1,3,4.")
        low, high = int(first), int(last or first)
        if high - low >= MOST_SEEDS or high < low:
            raise UserError(
                f"--seeds {text} goes from {low} to {high}, and it must go up, over at most "
                f"{MOST_SEEDS} seeds; write it as 1-5 or 1,3,4."
            )
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def typed_flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in sorted(values.items()))


# --- the plan -------------------------------------------------------------------------------------


def plan_lines(experiment: Experiment, report: Mapping[str, Any]) -> Iterator[str]:
    """What will be done, and what it will take."""
    e, listed, done = experiment, pieces(experiment), done_pieces(experiment)
    floors = report["floors"]
    yield f"experiment  {e.model}, seeds {', '.join(map(str, e.seeds))}, in {e.out}"
    runs = [piece for piece in listed if piece.kind == "train"]
    steps = f" of {floors['steps']:.0f} steps" if floors else ""
    yield f"  runs        {len(runs)}{steps}, forward and reverse for each seed"
    items = "a few items of our own (sample)" if e.data == "sample" else f"items from {e.data}"
    yield f"  benchmarks  {', '.join(e.tasks) + '; ' + items if e.tasks else 'none'}"
    yield f"  pieces      {len(listed)}, of which {len(done)} are done"
    left = [piece for piece in runs if piece.name not in done]
    disk = report["disk"]["runs"]
    yield f"  disk        {size(disk['needed'] * len(left))} to come, {size(disk['free'])} free"
    a_run = seconds_of_a_run(e)
    if a_run is not None:
        yield f"  time        {duration(a_run * len(left))} of training, as the runs that are there"
    else:
        hours = floors["run hours"] * len(left) if floors else 0
        least = f"; on an RTX 4090 the training takes {hours:.1f} hours at the very least, by the "
        least += "arithmetic of `minihmx doctor`"
        yield f"  time        unknown until the first run is through{least if hours > 0.1 else ''}"
    for piece in listed:
        mark = "done" if piece.name in done else "to do"
        yield f"  {mark:<5}  minihmx {shlex.join(piece.arguments)}"


def seconds_of_a_run(experiment: Experiment) -> float | None:
    """The mean over this experiment's finished runs, by their timings.jsonl."""
    found = []
    for piece in pieces(experiment):
        path = experiment.out / piece.folders[0] / "timings.jsonl"
        if piece.kind == "train" and is_done(experiment, piece, {}):
            try:
                found.append(sum(float(line["seconds"]) for line in read_lines(path)))
            except (OSError, Failure, LookupError, TypeError, ValueError):
                continue
    return sum(found) / len(found) if found else None


# --- the work -------------------------------------------------------------------------------------


def work(experiment: Experiment) -> int:
    """Do every piece that nobody else is at, then compare."""
    listed, failed = pieces(experiment), dict[str, tuple[int, str]]()
    times: dict[str, list[float]] = {}
    told = False
    while True:
        done = done_pieces(experiment)
        left = [p for p in listed if p.name not in done and p.name not in failed]
        ready = [p for p in left if done.issuperset(p.needs)]
        if not ready:
            break
        for piece in ready:
            with claim(experiment, piece.name) as mine:
                if not mine:
                    continue
                if piece.name not in done_pieces(experiment):  # nobody finished it meanwhile
                    show(f"\n[{len(done) + 1}/{len(listed)}] {piece.name}{time_left(left, times)}")
                    started = time.monotonic()
                    code, sentence = do(experiment, piece, states(listed, done, failed))
                    if code == INTERRUPTED:
                        show("stopped; the same command goes on")
                        return code
                    if code:
                        failed[piece.name] = code, sentence
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


def done_pieces(experiment: Experiment) -> set[str]:
    """Their names."""
    results = stored_results(experiment)
    return {piece.name for piece in pieces(experiment) if is_done(experiment, piece, results)}


def states(
    listed: Sequence[Piece], done: set[str], failed: Mapping[str, tuple[int, str]]
) -> dict[str, str]:
    """By piece, done, waiting, or why it failed."""
    found = {piece.name: "done" if piece.name in done else "waiting" for piece in listed}
    return found | {name: sentence for name, (_, sentence) in failed.items()}


def time_left(left: Sequence[Piece], times: Mapping[str, Sequence[float]]) -> str:
    """What is left, each piece taking as long as those of its kind took in this process."""
    if any(piece.kind not in times for piece in left):
        return ""
    seconds = sum(sum(times[piece.kind]) / len(times[piece.kind]) for piece in left)
    return f"  (about {duration(seconds)} left)"


def do(experiment: Experiment, piece: Piece, now: dict[str, str]) -> tuple[int, str]:
    """Run one piece and keep what it made; returns its exit code and the sentence of a failure."""
    write_states(experiment, now | {piece.name: "running"}, stored_results(experiment))
    show(f"$ minihmx {shlex.join(piece.arguments)}")
    made: list[str] = []
    code, sentence = child(piece.arguments, made)
    out, results = experiment.out.resolve(), stored_results(experiment)
    if piece.kind == "eval" and not code:
        results[piece.name] = [str(Path(folder).resolve().relative_to(out)) for folder in made]
    state = "waiting" if code == INTERRUPTED else sentence if code else "done"
    write_states(experiment, now | {piece.name: state}, results)
    return code, sentence


def child(arguments: Sequence[str], made: list[str] | None = None) -> tuple[int, str]:
    """Run a command of minihmx; returns its exit code and the last line that it wrote to stderr.

    made: where the folder of each result goes that `eval --json` prints.
    """
    piped = subprocess.PIPE if "--json" in arguments else None
    command = [sys.executable, "-m", "minihmx", *arguments]
    # Ctrl-C reaches parent and child alike. The child saves and ends, and the parent waits for it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, stdout=piped, stderr=subprocess.PIPE, text=True)
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


def headline(result: Mapping[str, Any]) -> Iterator[str]:
    """The paper's metrics of one result, and what each has to be read with."""
    who = result["adapter"]["name"] if result["adapter"] else "base"
    for name in (*result["headline"], *BENCHMARKS[result["benchmark"]].beside):
        if value := result["metrics"].get(name):
            yield f"  {who}  {result['benchmark']} {name} {value['value']:.4f}  n {value['n']}"
