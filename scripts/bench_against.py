"""minihmx's step beside TRL's: two processes (bench_trl.py) that take their steps in turn."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench_shapes import Shape

SIDES = ("minihmx", "trl")
NEEDED = ("trl", "peft", "transformers", "datasets")
SAME = 0.01  # of the tokens: random bytes among an answer's words make its text a little shorter


class Side:
    """A process that waits for its turn. It is told what to do by lines, and answers by JSON."""

    def __init__(self, name: str, shape: Shape, folder: Path, threads: int):
        self.name, self.log = name, folder.parent / f"{name}.log"
        command = [sys.executable, str(Path(__file__).with_name("bench_trl.py"))]
        command += [name, json.dumps(shape._asdict()), str(folder), str(threads)]
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | quiet | {"OMP_NUM_THREADS": str(threads)},
            )

    def ask(self, wish: str) -> dict[str, Any]:
        """The answer to a wish; ends the program with the side's last words if it died."""
        assert self.process.stdin and self.process.stdout
        try:
            print(wish, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> int:
        """Let it run out; returns its exit status."""
        self.process.communicate()
        return self.process.returncode


def check_installed() -> None:
    """Ends the program, as a user's mistake does, where the other side is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"--against trl needs {', '.join(missing)}, which only the extra `bench` brings; "
            "install it with: make .venv/bench",
            file=sys.stderr,
        )
        raise SystemExit(2)


def against_trl(shape: Shape, rounds: int, threads: int) -> dict[str, Any]:
    """The comparison: medians and spread of both sides over so many steps each, after one that
    warms up; peak memory; and the floor of our last step."""
    check_installed()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if Side("make", shape, folder, threads).end():
            raise SystemExit(f"no checkpoint:\n{(Path(scratch) / 'make.log').read_text()[-2000:]}")
        sides = {name: Side(name, shape, folder, threads) for name in SIDES}
        try:
            found = {name: [side.ask("step")] for name, side in sides.items()}
            for turn in range(rounds):
                for name, side in sides.items():
                    found[name].append(side.ask("step"))
                took = "  ".join(f"{name} {found[name][-1]['seconds']:.2f} s" for name in SIDES)
                print(f"step {turn + 1} of {rounds}: {took}", flush=True)
            floor = sides["minihmx"].ask("floor")
        finally:
            for side in sides.values():
                side.process.kill()
                side.end()
    us, them = (summed(found[name]) for name in SIDES)
    for work in ("completion tokens", "judge prompt tokens"):
        if abs(us[work] - them[work]) > SAME * us[work]:
            raise SystemExit(f"not the same work: {us[work]} and {them[work]} {work}")
    return {
        "ratio": round(them["seconds"] / us["seconds"], 3),
        "memory_ratio": round(us["peak"] / them["peak"], 3),
        "floor_ratio": round(us["seconds"] / sum(floor.values()), 3),
        "shape": shape._asdict(),
        "threads": threads,
        "minihmx": us,
        "trl": them,
        "floor": floor,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", *NEEDED)},
    }


def summed(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most of the steps after the first; the last peak; tokens of a step."""
    seconds = [step["seconds"] for step in steps[1:]]
    return {
        "seconds": median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "peak": steps[-1]["peak"],
        **{key: median(s[key] for s in steps[1:]) for key in steps[0] if key.endswith("tokens")},
    }


def print_comparison(found: dict[str, Any]) -> None:
    print("| side | seconds of a step, median (least to most) | peak GiB |\n|---|---|---|")
    for name in SIDES:
        side = found[name]
        spread = f"{side['least']:.2f} to {side['most']:.2f}"
        print(f"| {name} | {side['seconds']:.2f} ({spread}) | {side['peak']:.2f} |")
    print(f"| floor | {sum(found['floor'].values()):.2f} | |")
