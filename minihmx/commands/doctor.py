"""Preflight: what a run needs and whether this machine has it, before anything is downloaded.

`minihmx doctor` takes the flags of `minihmx train` and answers for the run that train would start.
Every figure of the estimate stands beside its arithmetic. It is an estimate: what the allocator
rounds up and what kernels borrow is in MARGIN, not in the figures. Step times are floors, the time
that memory bandwidth and arithmetic alone would take, and no measurements.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from minihmx import __version__
from minihmx.config import FIELDS, MODELS, Config, check, resolve, short_name
from minihmx.errors import Failure, IOFailure, UserError
from minihmx.instruments.estimate import (
    CUDA_CONTEXT,
    GIB,
    Workload,
    estimate,
    floors,
    parameters,
    peaks,
    shrink,
    size,
    trainable,
    width,
)
from minihmx.models import hub
from minihmx.models.configs import ModelConfig
from minihmx.models.folder import read_config, weight_names
from minihmx.models.hub_errors import explain, failure
from minihmx.questions import load_questions, load_rubric
from minihmx.store import read_json

PACKAGES = ("torch", "safetensors", "tokenizers", "huggingface-hub", "numpy")
MARGIN = 0.95  # of the memory may be planned for; the allocator leaves gaps


class Found(NamedTuple):
    """A model as far as it is known without its weights.

    shape: None where config.json could not be had. refusal: why the hub does not give it.
    """

    id: str
    run_name: str | None
    cached: bool
    access: str
    shape: ModelConfig | None
    refusal: Failure | None = None


def examine(flags: Mapping[str, Any], gpu: float | None = None) -> dict[str, Any]:
    """The whole report as plain values; report["problems"] holds what would stop the run.

    gpu: GiB of a GPU to plan for instead of this machine's own device. Downloads nothing but
    config.json. Raises Failure where nothing can be said at all: an unknown model, values that
    cannot work, a file that is not there.
    """
    from minihmx.run import path_or_none

    given = Config(**flags)
    check(given, context=sys.maxsize)
    if gpu is not None and not 0 < gpu < math.inf:
        raise UserError(f"--gpu {gpu:g} cannot work: give the GPU's memory in GiB, such as 24.")
    questions = load_questions(path_or_none(given.questions))
    rubric = load_rubric(path_or_none(given.rubric))
    found = find(given.model, given.revision or None)
    device = describe_device(given, gpu)
    # without config.json, a short name's row knows the family
    short = short_name(given.model)
    family = found.shape.model_type if found.shape else MODELS[str(short)].family
    context = found.shape.max_positions if found.shape else sys.maxsize
    config, _ = resolve(flags, short, family, context)
    config = settle(config, device)
    out = Path(os.path.expanduser(config.out))
    report: dict[str, Any] = {
        "versions": versions(),
        "device": device,
        "model": {n: v for n, v in found._asdict().items() if n not in ("shape", "refusal")},
        "locks": locks(out / found.run_name) if found.run_name else [],
        "settings": {name: getattr(config, name) for name in FIELDS},
    }
    if found.shape:
        work = Workload.of(questions, rubric)
        parts = estimate(found.shape, config, work)
        download = 2 * sum(parameters(found.shape))  # all of them are stored in 16 bit
        report["workload"] = work._asdict()
        report["memory"] = {name: part._asdict() for name, part in parts.items()}
        report["peak"] = peaks(parts)
        report["floors"] = floors(found.shape, config, work)
        # masters and both moments, in every checkpoint and in the replaceable one
        written = 12 * trainable(found.shape, config) * (config.epochs + 2)
    else:
        download = round(MODELS[str(short)].gigabytes * 1e9)
        how = f"{MODELS[str(short)].parameters} parameters, {config.dtype}"
        weights = download * width(config.dtype) // 2
        report["memory"] = {"weights": {"bytes": weights, "how": how}}
        report["peak"], report["floors"], written = {"weights alone": weights}, {}, 0
    report["disk"] = {
        "hub cache": disk(_cache(), 0 if found.cached else download),
        "runs": disk(out, written),
    }
    report["problems"] = list(problems(report, found, config))
    return report


def problems(report: Mapping[str, Any], found: Found, config: Config) -> Iterator[str]:
    """One sentence for each thing that would stop this run."""
    if found.refusal and not isinstance(found.refusal, IOFailure):
        yield str(found.refusal)
    device, work = report["device"], report["peak"]
    limit, stage = MARGIN * device["free"], max(work, key=work.__getitem__)
    if work[stage] > limit:
        yield (
            f"{found.id} does not fit: {stage} takes {size(work[stage])}, more than "
            f"{MARGIN:.0%} of {size(device['free'])} ({device['name']}); "
            f"{remedy(found, config, report, limit)}."
        )
    for name, place in report["disk"].items():
        if place["needed"] > place["free"]:
            yield (
                f"The disk of the {name} ({place['path']}) has {size(place['free'])} free, and "
                f"{size(place['needed'])} will be written there; free space, or name another with "
                f"{'HF_HOME' if name == 'hub cache' else '--out'}."
            )


def remedy(found: Found, config: Config, report: Mapping[str, Any], limit: float) -> str:
    """What to do about a run that does not fit."""
    other = "plan for a GPU with --gpu GIB" if config.device == "cpu" else "take a larger GPU"
    if found.shape is None:
        return f"choose a smaller model or {other}"
    smaller = shrink(found.shape, config, Workload(**report["workload"]), limit)
    if smaller is None:
        return f"not even one row at a time does: choose a smaller model or {other}"
    return f"it fits with --decode-rows {smaller.decode_rows} --micro-batch {smaller.micro_batch}"


# --- the model, without its weights ---------------------------------------------------------------


def find(name: str, revision: str | None) -> Found:
    """What can be known of a model by its config.json alone; asks the hub for access first.

    Raises Failure for a name that means nothing, and for a hub id whose config.json cannot be had.
    """
    info = MODELS.get(short_name(name) or "")
    repo = info.repo if info else name if hub.HUB_ID.fullmatch(name) else ""
    if not repo or (name not in MODELS and os.path.exists(name)):
        source = hub.resolve(name, revision)
        return Found(source.id, source.run_name, True, "local", read_config(source.folder))
    access, refusal, path = ask_hub(repo, revision)
    if path is None:
        if info is None:
            raise refusal or failure("offline", repo=repo)
        return Found(repo, name if name in MODELS else None, False, access, None, refusal)
    folder = path.parent
    shape = read_config(folder)
    cached = all((folder / weights).is_file() for weights in weight_names(folder))
    run_name = name if name in MODELS else None
    if cached and run_name is None:  # its digest is the commit, which only a snapshot has
        run_name = hub.resolve(name, revision).run_name
    return Found(repo, run_name, cached, access, shape, None if cached else refusal)


def ask_hub(repo: str, revision: str | None) -> tuple[str, Failure | None, Path | None]:
    """(what to tell of the access, what refuses it, config.json if it can be had)."""
    import huggingface_hub as library
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    name = "config.json"
    cached = library.try_to_load_from_cache(repo, name, revision=revision)
    path = Path(cached) if isinstance(cached, str) else None
    if constants.HF_HUB_OFFLINE:
        refusal = None if path else failure("offline", repo=repo)
        return "unknown: HF_HUB_OFFLINE forbids to ask", refusal, path
    try:
        # a question about one file is answered, or refused, as its download would be
        library.get_hf_file_metadata(library.hf_hub_url(repo, name, revision=revision))
        path = path or Path(library.hf_hub_download(repo, name, revision=revision))
        return "granted", None, path
    except (TypeError, AttributeError):  # a bug stays one
        raise
    except EntryNotFoundError:
        raise UserError(
            f"{repo} holds no config.json, so it is no model in Hugging Face's format; name the "
            "repository that it was made from."
        ) from None
    except Exception as error:  # requests, httpx and hf_xet each raise their own
        found = explain(error, repo, revision)
        if isinstance(found, IOFailure):
            return "unknown: the hub cannot be reached", found, path
        return "refused", found, path


# --- this machine ---------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Of Python and what minihmx stands on."""
    found = {"minihmx": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def describe_device(config: Config, gpu: float | None) -> dict[str, Any]:
    """Where the run would be; bytes of memory and what others leave free.

    Raises UserError for a device that is not there, or 16 bit on a CPU.
    """
    import torch

    from minihmx.run import pick_device, pick_dtype

    device = torch.device("cuda") if gpu is not None else pick_device(config.device)
    dtype = str(pick_dtype(config.dtype, device)).removeprefix("torch.")
    if gpu is not None:
        name, free = f"--gpu {gpu:g}", round(gpu * GIB)
        total = free
    elif device.type == "cuda":
        name, (free, total) = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
        free = min(free + CUDA_CONTEXT, total)  # to ask has made this process's own context
    else:
        name = platform.machine()
        free = total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "kind": device.type,
        "name": name,
        "dtype": dtype,
        "memory": total,
        "free": free,
        "threads": torch.get_num_threads(),
    }


def settle(config: Config, device: Mapping[str, Any]) -> Config:
    """What "auto" means on this device, as in training."""
    on = config.checkpointing == "auto" and device["kind"] == "cuda"
    keep = "on" if on else "off" if config.checkpointing == "auto" else config.checkpointing
    return replace(config, device=device["kind"], dtype=device["dtype"], checkpointing=keep)


def disk(place: Path, needed: int) -> dict[str, Any]:
    """Free bytes where a folder is or would be made, and what will be written there."""
    existing = next(
        folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists()
    )
    return {"path": str(place), "free": shutil.disk_usage(existing).free, "needed": needed}


def locks(folder: Path) -> list[dict[str, Any]]:
    """Every run of this model: whether a process holds it, and how far its status says it is."""
    found = []
    for path in sorted(folder.glob("*/seed-*/.lock")):
        status = path.with_name("status.json")
        try:
            state = read_json(status) if status.exists() else {}
        except Failure:
            state = {}
        state = state if isinstance(state, dict) else {}
        with path.open() as file:
            try:  # shared and given back at once: nothing is made, nobody is kept out
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                held = False
            except BlockingIOError:
                held = True
        facts = {name: state.get(name) for name in ("state", "step", "steps", "pid")}
        found.append({"run": str(path.parent), "held": held, **facts})
    return found


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


# --- the page -------------------------------------------------------------------------------------


def lines(report: Mapping[str, Any]) -> Iterator[str]:
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
        yield f"run        {run['run']}: {state} at {place}"
    yield f"settings   {settings['dtype']}, checkpointing {settings['checkpointing']}"
    for name, part in report["memory"].items():
        yield f"memory     {size(part['bytes']):>9}  {name:<20} {part['how']}"
    yield (
        "peak       "
        + ", ".join(f"{stage} {size(n)}" for stage, n in report["peak"].items())
        + " (an estimate; of parts that take turns the largest counts)"
    )
    if not report["floors"]:
        yield "shapes     unknown, as config.json could not be had: weights from the name alone"
    else:
        yield from _floor_lines(report["floors"])
    largest, limit = max(report["peak"].values()), MARGIN * device["free"]
    verdict = "yes" if report["floors"] else "the weights alone would"
    yield (
        f"fits       {verdict if largest <= limit else 'no'}: {size(largest)} in "
        f"{size(limit)}, {MARGIN:.0%} of what is free"
    )
    yield from (f"problem    {problem}" for problem in report["problems"])


def _floor_lines(floors: Mapping[str, float]) -> Iterator[str]:
    stages = ", ".join(f"{name} {floors[name]:.3g} s" for name in ("sample", "judge", "learn"))
    yield (
        f"floors     step {floors['step']:.3g} s ({stages}), evaluation "
        f"{floors['evaluation']:.3g} s, {floors['steps']:.0f} steps {floors['run hours']:.2g} h"
    )
    yield "           on an RTX 4090 (1008 GB/s, 165 TFLOP/s fp16): bounds, not measurements"
