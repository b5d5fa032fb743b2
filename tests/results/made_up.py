"""Folders as training and `minihmx eval` leave them, with numbers that a test makes up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.evals.asking.averages import metrics
from minihmx.models.known import MODELS

SETTINGS = {
    "chat": True,
    "samples": 1,
    "temperature": 0.0,
    "seed": 1,
    "limit": 0,
    "switches": {"flip": "by-kind"},
    "dtype": "float32",
    "date": "26 Jul 2024",
}
DIGEST = "m" * 8


def trained(
    out: Path,
    direction: str,
    seed: int,
    model: str = "tiny",
    state: str = "complete",
    **science: Any,
) -> Path:
    """A run's folder: two epochs, no selection."""
    folder = out / model / direction / f"seed-{seed}"
    own = {"direction": direction, "seed": seed, "epochs": 2, "model digest": DIGEST} | science
    config = {"science": own, "fingerprint": f"{model} {direction} {seed}"}
    write(folder / "config.json", config | {"model": {"id": MODELS[model].repo or model}})
    write(folder / "status.json", {"state": state, "step": 3, "steps": 4, "pid": 1})
    sign = 1 if direction == "forward" else -1
    lines = [{"kind": "step", "step": 1, "epoch": 1, "kl": 0.0}] + [
        {"kind": "evaluation", "epoch": e, "score": 5.0 + sign * e, "kl": 0.1 * e, "length": 30.0}
        for e in range(3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for epoch in range(3):
        write(folder / "evaluations" / f"epoch-{epoch:02d}.jsonl", {})
    return folder


def selected(
    forward: Path, reverse: Path, winners: tuple[str, str], qualified: bool = True
) -> None:
    """What `minihmx select` leaves in both folders."""
    pair = {
        name: {
            "run": str(run),
            "winner": winner,
            "fingerprint": read(run / "config.json")["fingerprint"],
        }
        for name, run, winner in zip(
            ("forward", "reverse"), (forward, reverse), winners, strict=True
        )
    }
    for run, winner in zip((forward, reverse), winners, strict=True):
        write(run / "selected.json", {"winner": winner, "qualified": qualified, "pair": pair})


def evaluated(
    home: Path,
    benchmark: str,
    values: Sequence[Mapping[str, float]],
    epoch: str = "epoch-02",
    headline: Sequence[str] = ("flip_rate",),
    clusters: Sequence[str] = (),
    digest: str = DIGEST,
    unparsed: int = 0,
    total: int = 0,
    **settings: Any,
) -> Path:
    """A finished evaluation; values: of each item, by metric. total: items of the whole set."""
    used = SETTINGS | settings
    samples = [
        {"id": f"i{n}", "sample": 0, "values": dict(of_item)}
        | {"cluster": clusters[n] if clusters else f"i{n}"}
        for n, of_item in enumerate(values)
    ]
    partial = f"{len(values)}/{total}" if total else None
    result = {
        "benchmark": benchmark,
        "settings": used,
        "data": {"digest": "items", "origin": "hub", "partial": partial},
        "model": {"digest": digest},
        "adapter": None if epoch == "base" else {"digest": "a", "name": name_of(home, epoch)},
        "n": len(values),
        "samples": len(samples),
        "unparsed": unparsed,
        "truncated": 0,
        "metrics": metrics(samples),
        "headline": list(headline),
    }
    name = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:8]
    folder = home / "evals" / benchmark / f"{epoch}-{name}"
    write(folder / "result.json", result)
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    seal(folder)
    return folder


def name_of(run: Path, epoch: str) -> str:
    return f"{run.parent.name}/{run.name}/{epoch}"


def seal(folder: Path) -> None:
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("samples.jsonl", "result.json")
    }
    write(folder / "manifest.json", {"sha256": digests})


def flips(*values: float) -> list[dict[str, float]]:
    return [{"flip_rate": value} for value in values]


def experiment(out: Path, seeds: Sequence[int] = (1, 2), model: str = "tiny") -> Path:
    """Pairs of runs with flip rates; forward flips more by 1 of 4 items, seed 2 by 2."""
    for seed in seeds:
        forward, reverse = (trained(out, d, seed, model) for d in ("forward", "reverse"))
        evaluated(forward, "are_you_sure", flips(1, 1, 0, float(seed > 1)))
        evaluated(reverse, "are_you_sure", flips(1, 0, 0, 0))
    evaluated(out / model / "base", "are_you_sure", flips(0, 0, 1, 0), epoch="base")
    return out


def write(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record) + "\n")


def read(path: Path) -> Any:
    return json.loads(path.read_text())
