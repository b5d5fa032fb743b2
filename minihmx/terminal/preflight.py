"""What `minihmx doctor` prints of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minihmx.instruments.estimate import MARGIN, size
from minihmx.terminal.text import printable


def preflight_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for a reader."""
    device, model, settings = report["device"], report["model"], report["settings"]
    yield "versions   " + ", ".join(f"{n} {v}" for n, v in report["versions"].items())
    memory = f"{size(device['memory'])} of memory"
    if device["free"] < device["memory"]:
        memory += f", {size(device['free'])} of it free"
    yield f"device     {device['kind']} ({device['name']}), {memory}, {device['threads']} threads"
    yield (
        f"model      {model['id']}, {'on this disk' if model['cached'] else 'not downloaded yet'}; "
        f"access: {model['access']}"
    )
    if model["shipped"]:
        yield "shape      the one that ships with minihmx, as config.json could not be had"
    for name, place in report["disk"].items():
        needed = f"about {size(place['needed'])} to come" if place["needed"] else "nothing to come"
        yield f"disk       {name} {place['path']}: {size(place['free'])} free, {needed}"
    for run in report["locks"]:
        state = run["state"] or "no status"
        if run["held"]:
            state = f"held by process {run['pid']}, {state}"
        else:  # who dies at work leaves "running"
            state = "stopped" if state == "running" else f"free, {state}"
        place = f"step {run['step'] or 0} of {run['steps'] or '?'}"
        why = f": {printable(str(run['error']))}" if run["state"] == "failed" else ""
        yield f"run        {run['run']}: {state} at {place}{why}"
    yield f"settings   {settings['dtype']}, checkpointing {settings['checkpointing']}"
    for name, part in report["memory"].items():
        yield f"memory     {size(part['bytes']):>9}  {name:<20} {part['how']}"
    yield (
        "peak       "
        + ", ".join(f"{stage} {size(n)}" for stage, n in report["peak"].items())
        + " (an estimate; of parts that take turns the largest counts)"
    )
    yield from _floor_lines(report["floors"])
    largest, limit = max(report["peak"].values()), MARGIN * device["free"]
    yield (
        f"fits       {'yes' if largest <= limit else 'no'}: {size(largest)} in "
        f"{size(limit)}, {MARGIN:.0%} of what is free"
    )
    yield from (f"notice     {notice}" for notice in report["notices"])
    yield from (f"problem    {problem}" for problem in report["problems"])


def _floor_lines(floors: Mapping[str, float]) -> Iterator[str]:
    stages = ", ".join(f"{name} {floors[name]:.3g} s" for name in ("sample", "judge", "learn"))
    yield (
        f"floors     step {floors['step']:.3g} s ({stages}), evaluation "
        f"{floors['evaluation']:.3g} s, {floors['steps']:.0f} steps {floors['run hours']:.2g} h"
    )
    yield "           on an RTX 4090 (1008 GB/s, 165 TFLOP/s fp16): bounds, not measurements"
