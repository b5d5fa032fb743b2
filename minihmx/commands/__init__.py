"""The verbs of the command line, each a file here and a line in COMMANDS.

A verb has `arguments`, which adds its own to a parser, and `run`, which returns the exit code.
Torch is imported within `run`, never above: `--help` answers at once.
"""

import argparse
from typing import Protocol

from minihmx.commands import (
    audit,
    chat,
    claims,
    compare,
    data,
    doctor,
    evaluate,
    examples,
    experiment,
    explain,
    export,
    judge,
    log,
    probe,
    rate,
    report,
    select,
    sweep,
    train,
)


class Verb(Protocol):
    """A file here."""

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


COMMANDS: dict[str, tuple[str, Verb]] = {
    "train": ("train a LoRA on the model's own judgement of its answers", train),
    "eval": ("run benchmarks on a model and on what training made of it", evaluate),
    "select": ("choose the checkpoints of a forward and a reverse run by the paper's rule", select),
    "experiment": ("every seed in both directions, selection, benchmarks, comparison", experiment),
    "sweep": ("many runs as a list of commands: on a cluster, or on one machine", sweep),
    "compare": ("forward against reverse: tables, intervals, plots, beside the paper's", compare),
    "report": ("one page: curves, answers side by side, tables, audit", report),
    "audit": ("make every number on disk again from the raw answers, and compare", audit),
    "explain": ("write one group of answers out, with all its numbers", explain),
    "claims": ("check the paper's statements on its own tables, or on an experiment", claims),
    "judge": ("judge stored answers again, by other models or other rubrics", judge),
    "rate": ("answers for people to rate blindly, and their ratings beside the judge's", rate),
    "examples": ("ask base, forward and reverse the same, with the judge's scores", examples),
    "probe": ("what no benchmark asks: best-of-N, emotions, equal KL, measures, on-policy", probe),
    "data": ("get, list or check the benchmarks' published items", data),
    "chat": ("talk with a model, and with what training made of it beside it", chat),
    "export": ("write base and adapter as one Hugging Face checkpoint, or the adapter", export),
    "log": ("send a run's metrics and answers to TensorBoard, wandb or trackio", log),
    "doctor": ("say what a run needs, before anything is downloaded", doctor),
}
