"""What `minihmx doctor` prints of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minihmx.instruments.estimate import MARGIN, size
from minihmx.instruments.gpus import Speed, gpu_called
from minihmx.terminal.text import printable

LONG_RUN = 12  # hours, from which a run on a CPU is worth a warning


def preflight_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for a reader."""
    device, model, settings = report["device"], report["model"], report["settings"]
    yield "versions   " + ", ".join(f"{n} {v}" for n, v in report["versions"].items())
    memory = f"{size(device['memory'])} of memory"
    if device["free"] < device["memory"]:
        memory += f", {size(device['free'])} of it free"
    yield f"device     {device['kind']} ({device['name']}), {memory}, threads {device['threads']}"
    yield (
        f"model      {model['id']}, {'on this disk' if model['cached'] else 'not downloaded yet'}; "
        f"access: {model['access']}"
    )
    if model["shipped"]:
        yield "shape      the one that ships with minihmx, as config.json could not be had"
    for name, place in report["disk"].items():
        needed = f"about {size(place['needed'])} to come" if place["needed"] else "nothing to come"
        yield f"disk       {name} in {place['path']}: {size(place['free'])} free, {needed}"
    for run in report["locks"]:
        state = run["state"] or "no status"
        if run["held"]:
            state = f"held by process {run['pid']}, {state}"
        else:  # who dies at work leaves "running"
            state = "stopped" if state == "running" else f"free, {state}"
        place = f"step {run['step'] or 0} of {run['steps'] or '?'}"
        why = f": {printable(str(run['error']))}" if run["state"] == "failed" else ""
        yield f"run        {run['run']}: {state} at {place}{why}"
    yield (
        f"settings   {settings['dtype']}, checkpointing {settings['checkpointing']}, "
        f"--decode-rows {settings['decode_rows']} --micro-batch {settings['micro_batch']}"
    )
    for name, part in report["memory"].items():
        yield f"memory     {size(part['bytes']):>9}  {name:<20} {part['how']}"
    yield (
        "peak       "
        + ", ".join(f"{stage} {size(n)}" for stage, n in report["peak"].items())
        + " (an estimate; of parts that take turns the largest counts)"
    )
    yield from _floor_lines(report["floors"], Speed(**report["speed"]), device)
    largest, limit = max(report["peak"].values()), MARGIN * device["free"]
    yield (
        f"fits       {'yes' if largest <= limit else 'no'}: {size(largest)} in "
        f"{size(limit)}, {MARGIN:.0%} of what is free"
    )
    yield from (f"notice     {notice}" for notice in report["notices"])
    yield from (f"problem    {problem}" for problem in report["problems"])


def slow_cpu(model: str, device: str, floors: Mapping[str, float], speed: Speed) -> list[str]:
    """A warning where a model is so large that training it on this CPU takes long; else nothing.

    device: "cpu" or "cuda". floors: as time_floors.floors gives them for this speed.
    """
    if device != "cpu" or floors["run hours"] < LONG_RUN:
        return []
    return [
        f"{model} is large for a CPU: {floors['steps']:.0f} steps take "
        f"{floors['run hours']:.0f} hours at the very least on this one ({_figures(speed)}); take "
        "a GPU or a smaller model, or try it first with --epochs 1 --out trial"
    ]


def _figures(speed: Speed) -> str:
    return f"{speed.bandwidth / 1e9:.0f} GB/s, {speed.products / 1e12:.3g} TFLOP/s"


def _floor_lines(
    floors: Mapping[str, float], speed: Speed, device: Mapping[str, Any]
) -> Iterator[str]:
    stages = ", ".join(f"{name} {floors[name]:.3g} s" for name in ("sample", "judge", "learn"))
    yield (
        f"floors     step {floors['step']:.3g} s ({stages}), evaluation "
        f"{floors['evaluation']:.3g} s, {floors['steps']:.0f} steps {floors['run hours']:.2g} h"
    )
    whose = "fp32, tried just now" if device["kind"] == "cpu" else "fp16"
    unknown = device["kind"] == "cuda" and not gpu_called(device["name"])
    instead = ", as this GPU's figures are not known" if unknown else ""
    on = f"{speed.name} ({_figures(speed)} {whose}){instead}"
    yield f"           on {on}: bounds, not measurements"
