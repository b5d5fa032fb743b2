"""The verb `probe`: what a model does, or holds inside, that no benchmark asks for."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from minihmx.commands.evaluate import item_flags, strength_flag
from minihmx.commands.train import field_flag
from minihmx.config import FIELDS
from minihmx.probes.two_ways import SHAPING
from minihmx.results.layout import Table, as_plain
from minihmx.terminal.text import show

Arguments = Callable[[argparse.ArgumentParser], None]
Action = Callable[[argparse.Namespace], int]
_PLACE = ("revision", "device", "dtype", "threads")


def arguments(parser: argparse.ArgumentParser) -> None:
    """An action, and what it takes."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    actions.type = lambda text: text
    for name, (text, add, _) in ACTIONS.items():
        add(actions.add_parser(name, help=text, description=text))


def run(options: argparse.Namespace) -> int:
    """Do what the action says; returns the exit code."""
    from minihmx.terminal.bars import with_bars

    with with_bars():
        return ACTIONS[options.action][2](options)


def _shared(parser: argparse.ArgumentParser, what: str) -> None:
    """The arguments of every action that opens one base and checkpoints trained from it."""
    parser.add_argument("model", nargs="?", default="tiny", help="as for train (default tiny)")
    parser.add_argument(
        "--adapter",
        dest="adapters",
        action="append",
        default=[],
        metavar="RUN",
        help=f"a run's folder, or RUN@epoch-03: {what}; may be given several times",
    )
    _fields(parser, "seed", "temperature", "max_completion_length", "judge_max_tokens")


def _fields(parser: argparse.ArgumentParser, *more: str) -> None:
    """The flags that `train` has as well, those of where results go, and --json."""
    _only_fields(parser, *more, "out", *_PLACE, "decode_rows")


def _only_fields(parser: argparse.ArgumentParser, *names: str) -> None:
    """These flags of `train`, and --json."""
    for name in names:
        field_flag(parser, name, f"{FIELDS[name].metadata['help']} (the run's, else train's)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def _pair(parser: argparse.ArgumentParser) -> None:
    """The two checkpoints of an action that compares the directions."""
    parser.add_argument("forward", metavar="FORWARD", help="a forward run, or RUN@epoch-03")
    parser.add_argument("reverse", metavar="REVERSE", help="the reverse run of the same seed")


def _show(options: argparse.Namespace, report: Mapping[str, Any], tables: list[Table]) -> None:
    """A report as one JSON object, or as its tables."""
    text = json.dumps(report, sort_keys=True) if options.json else as_plain(tables)
    show(text.rstrip("\n"))


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Config that were given; where results go is never the run's own --out."""
    own = vars(options)
    return {"out": FIELDS["out"].default} | {name: own[name] for name in own.keys() & FIELDS.keys()}


def _best_of_arguments(parser: argparse.ArgumentParser) -> None:
    _shared(parser, "where it stands beside the curve")
    parser.add_argument(
        "--samples", type=int, default=64, metavar="N", help="answers to each question (64)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw it as FILE.png and FILE.svg")


def _best_of(options: argparse.Namespace) -> int:
    """Base answers, judged; the best and the worst of N against KL; a table, a plot."""
    from minihmx.probes.best_of import best_of
    from minihmx.results.plots import draw_best_of, new_plot
    from minihmx.terminal.probe import best_of_tables

    plot = new_plot(options.plot) if options.plot is not None else None
    report = best_of(options.adapters, _flags(options), options.samples)
    _show(options, report, best_of_tables(report))
    for path in draw_best_of(report, plot) if plot else ():
        show(f"drawn in {path}") if not options.json else None
    return 0


def _emotion_arguments(parser: argparse.ArgumentParser) -> None:
    _shared(parser, "what training moved in it")
    for name, default, text in (
        ("stories", 64, "topics, of which every emotion gets a story each"),
        ("neutral", 100, "neutral texts"),
        ("draws", 1000, "random spaces, and shuffles of labels, that stand for chance"),
        ("steering", 0, "answers to each question for each vector, sign and strength; 0: none"),
        ("directions", 20, "random directions to steer with beside the emotions"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")


def _emotion(options: argparse.Namespace) -> int:
    """Stories, vectors, the gate, measures. A gate not passed is an answer too: it exits 0."""
    from minihmx.probes.emotion import Counts, emotion
    from minihmx.terminal.probe import emotion_tables

    counts = Counts(**{name: getattr(options, name) for name in Counts._fields})
    report = emotion(options.adapters, _flags(options), counts)
    _show(options, report, emotion_tables(report))
    return 0


def _equal_kl_arguments(parser: argparse.ArgumentParser) -> None:
    from minihmx.probes.equal_kl_tasks import EQUAL_KL_TASKS

    _pair(parser)
    parser.add_argument(
        "--tasks", default=EQUAL_KL_TASKS, help=f"benchmarks, or none ({EQUAL_KL_TASKS})"
    )
    item_flags(parser)
    _fields(parser)


def _equal_kl(options: argparse.Namespace) -> int:
    """KL by strength, the strengths at which it is equal, and the benchmarks there."""
    from minihmx.terminal.equal_kl import equal_kl

    tasks = "" if options.tasks.strip() == "none" else options.tasks
    asked = {"tasks": tasks, "data": options.data, "limit": options.limit}
    pair = options.forward, options.reverse
    for line in equal_kl(*pair, _flags(options), asked, options.json):
        show(line)
    return 0


def _on_policy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="tiny", help="as for train (default tiny)")
    parser.add_argument(
        "--adapter", metavar="RUN", help="a run's folder, or RUN@epoch-03 (a fresh adapter)"
    )
    for name, default, text in (
        ("prompts", 2, "held-out questions"),
        ("samples", 2, "answers to each"),
        ("tokens", 24, "of an answer at most"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    _only_fields(parser, "seed", "temperature", *SHAPING, "out", *_PLACE)


def _on_policy(options: argparse.Namespace) -> int:
    """Sample a few answers, compute them in every way, and compare. A difference exits 0 too."""
    from minihmx.probes.on_policy import on_policy
    from minihmx.terminal.on_policy import on_policy_tables

    counts = options.prompts, options.samples, options.tokens
    report = on_policy(options.adapter, _flags(options), *counts)
    _show(options, report, on_policy_tables(report))
    return 0


def _measures_arguments(parser: argparse.ArgumentParser) -> None:
    from minihmx.probes.measures import MEASURED_TASKS

    _pair(parser)
    strength_flag(parser, "both adapters", "beside 1: 0.75, 0.5, 0.25")
    parser.add_argument(
        "--system",
        dest="systems",
        action="append",
        metavar="FILE|unsure|neutral",
        help="a text before every item and question; may be given several times (unsure, neutral)",
    )
    parser.add_argument("--tasks", default=MEASURED_TASKS, help="benchmarks (%(default)s)")
    item_flags(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw it as FILE.png and FILE.svg")
    _fields(parser)


def _measures(options: argparse.Namespace) -> int:
    """What comes back of a loss, and the price, under strengths, system texts and a passage."""
    from minihmx.evals.asking.settings import SYSTEM_TEXTS
    from minihmx.probes.equal_kl import GRID
    from minihmx.results.plots import draw_measures, new_plot
    from minihmx.terminal.measures import ask_measures, measures_text

    plot = new_plot(options.plot) if options.plot is not None else None
    asked = {"tasks": options.tasks, "data": options.data, "limit": options.limit}
    told = sys.stderr if options.json else sys.stdout
    ways = options.strengths or GRID, options.systems or SYSTEM_TEXTS
    pair = options.forward, options.reverse
    measured = ask_measures(pair, _flags(options), asked, *ways, told)
    report = measured.report()
    show(json.dumps(report, sort_keys=True) if options.json else measures_text(measured))
    for path in draw_measures(report, plot) if plot else ():
        print(f"drawn in {path}", file=told)
    return 0


def _panel_arguments(parser: argparse.ArgumentParser) -> None:
    _pair(parser)
    parser.add_argument(
        "--samples", type=int, default=4, metavar="N", help="answers to each question (4)"
    )
    parser.add_argument("--temperature", type=float, help="0 is greedy (that of the runs)")
    parser.add_argument("--model", help="the base, where it is not found as the runs name it")
    for name in ("out", "device", "dtype"):
        field = FIELDS[name]
        field_flag(parser, name, f"{field.metadata['help']} (%(default)s)", field.default)
    parser.add_argument("--json", action="store_true", help="one JSON object instead")


def _panel(options: argparse.Namespace) -> int:
    """Ask base, forward and reverse, read their answers by rules, and show them all."""
    from minihmx.probes.panel import panel
    from minihmx.terminal.panel import panel_lines

    own = {name: getattr(options, name) for name in ("model", "out", "device", "dtype")}
    flags = {name: value for name, value in own.items() if value is not None}
    pair = options.forward, options.reverse
    report = panel(*pair, options.samples, options.temperature, flags)
    for line in [json.dumps(report, sort_keys=True)] if options.json else panel_lines(report):
        show(line)
    return 0


# An action is a line here: what it does in a few words, its arguments, and its function.
ACTIONS: dict[str, tuple[str, Arguments, Action]] = {
    "best-of": (
        "was it there already? best-of-N of the base beside forward and reverse, at their KL",
        _best_of_arguments,
        _best_of,
    ),
    "emotion": (
        "emotion vectors of the base, whether they read anything, and what training moved",
        _emotion_arguments,
        _emotion,
    ),
    "equal-kl": (
        "forward against reverse where both are equally far from the base",
        _equal_kl_arguments,
        _equal_kl,
    ),
    "measures": (
        "how much of a benchmark's loss strengths, system texts and a passage give back, and at "
        "what price in expression",
        _measures_arguments,
        _measures,
    ),
    "on-policy": (
        "how far sampler and trainer are apart on this machine, at which stage, and why",
        _on_policy_arguments,
        _on_policy,
    ),
    "panel": (
        "what base, forward and reverse claim of themselves where nobody trained it",
        _panel_arguments,
        _panel,
    ),
}
