"""The verb `doctor`: what a run needs, and whether this machine has it, before any download.

It takes the flags of `minihmx train` and answers for the run that train would start.
Every figure of the estimate stands beside its arithmetic. It is an estimate: what the allocator
rounds up and what kernels borrow is in MARGIN, not in the figures. Step times are floors, the time
that memory bandwidth and arithmetic alone would take, and no measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.commands import train
from minihmx.config import FIELDS, Config, check_config, check_updates, resolve_config
from minihmx.engine.samplers import settled_samplers
from minihmx.errors import DataError, Failure, IOFailure, UserError
from minihmx.instruments import estimate, machine, time_floors
from minihmx.instruments.estimate import GIB, MARGIN, size
from minihmx.instruments.gpus import gpu_speed, planned_gpu
from minihmx.models import hub
from minihmx.models.configs import ModelConfig
from minihmx.models.folder import read_config, shipped_config, weight_names
from minihmx.models.hub_errors import failure, hub_failure
from minihmx.models.known import MODELS, short_name
from minihmx.questions import load_questions, load_rubric
from minihmx.storage.config_file import merge_flags
from minihmx.storage.disk import home_path
from minihmx.terminal import preflight


def arguments(parser: argparse.ArgumentParser) -> None:
    """Those of train, so that its whole command line can be asked about."""
    train.arguments(parser)
    parser.add_argument("--gpu", metavar="NAME|GIB", help="plan for this GPU, as 'RTX 4090' or 24")
    parser.add_argument("--judge", metavar="MODEL", help="instead: is this model a usable judge?")
    parser.add_argument("--samples", type=int, help="with --judge: verdicts sampled (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(options: argparse.Namespace) -> int:
    """Print the whole report, then fail with the first thing that would stop the run. A judge that
    is not usable fails its check, and so has another exit code."""
    from minihmx.probes import judge as probe
    from minihmx.terminal.bars import with_bars

    flags = {name: value for name, value in vars(options).items() if name in FIELDS}
    flags, came_from = merge_flags(flags, train.config_file(options))
    if options.judge is not None:
        if "model" in flags:
            raise UserError(f"Two models, {flags['model']} and --judge {options.judge}; give one.")
        if options.gpu is not None:
            raise UserError("--gpu plans a run, and --judge judges on this machine; give one.")
        samples = [] if options.samples is None else [options.samples]
        with with_bars():
            report = probe.probe(flags | {"model": options.judge}, *samples)
        lines = probe.judge_lines(report)
    else:
        if options.samples is not None:
            raise UserError("--samples counts a judge's verdicts; give --judge MODEL with it.")
        report = examine(flags, options.gpu, came_from)
        lines = preflight.preflight_lines(report)
    for line in [json.dumps(report, sort_keys=True)] if options.json else lines:
        print(line, flush=True)
    refuse_problems(report)
    return 0


def refuse_problems(report: Mapping[str, Any]) -> None:
    """Raises the Failure that the first problem of a report is."""
    for problem in report["problems"]:
        raise next(kind for kind in STOPPERS if kind.code == report["code"])(problem)


STOPPERS = (UserError, IOFailure, DataError)
UNSAID = ("shape", "refusal", "folder")  # of Found, in the report


class Found(NamedTuple):
    """A model as far as it is known without its weights.

    folder: None where config.json could not be had; then a short name's shape is the one that
    ships. refusal: why the hub does not give it.
    """

    id: str
    run_name: str | None
    cached: bool
    access: str
    shape: ModelConfig
    refusal: Failure | None = None
    folder: Path | None = None


def examine(
    flags: Mapping[str, Any],
    gpu: str | None = None,
    came_from: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The whole report as plain values; report["problems"] holds what would stop the run.

    report["code"] is the exit code that the first of them stands for. gpu: name or GiB of one to
    plan for instead of this machine's own device. Downloads nothing but config.json.
    Raises Failure where nothing can be said at all: an unknown model, values that cannot work, a
    file that is not there.
    """
    from huggingface_hub import constants

    from minihmx.run import path_or_none

    given = Config(**flags)
    check_config(given, context=sys.maxsize)
    planned = None if gpu is None else planned_gpu(gpu)
    questions = load_questions(path_or_none(given.questions), given.leave_out)
    rubric = load_rubric(path_or_none(given.rubric))
    found = look_up(given.model, given.revision or None)
    device = machine.describe_device(given, planned)
    speed = machine.cpu_speed() if device["kind"] == "cpu" else gpu_speed(device["name"])
    short, shape = short_name(given.model), found.shape
    config, _ = resolve_config(
        flags, short, shape.model_type, shape.max_positions, came_from, device["kind"]
    )
    work = estimate.Workload.of(questions, rubric)
    config = settle(config, device, shape, work)
    config, chat_notice, chat_problem = settle_chat(config, found.folder, shape.vocab_size)
    out = home_path(config.out)
    parts = estimate.parts(shape, config, work, device["memory"])
    # masters and both moments, in every checkpoint and in the replaceable one
    written = 12 * estimate.trainable(shape, config) * (config.epochs + 2)
    report: dict[str, Any] = {
        "versions": machine.versions(),
        "device": device,
        "model": {n: v for n, v in found._asdict().items() if n not in UNSAID}
        | {"shipped": found.folder is None},
        "locks": machine.locks(out / found.run_name) if found.run_name else [],
        "settings": {name: getattr(config, name) for name in FIELDS},
        "notices": chat_notice,
        "workload": work._asdict(),
        "memory": {name: part._asdict() for name, part in parts.items()},
        "peak": estimate.peaks(parts),
        "floors": time_floors.floors(shape, config, work, speed),
        "speed": speed._asdict(),
        "disk": {
            "hub cache": machine.disk(
                Path(constants.HF_HUB_CACHE), 0 if found.cached else download_size(short, shape)
            ),
            "runs": machine.disk(out, written),
        },
    }
    report["notices"] += preflight.slow_cpu(found.id, device["kind"], report["floors"], speed)
    failures = [*map(UserError, chat_problem), *problems(report, found, config, planned is None)]
    report["problems"] = list(map(str, failures))
    report["code"] = failures[0].code if failures else 0
    return report


def download_size(short: str | None, shape: ModelConfig) -> int:
    """Bytes of a model's weights on the hub, all of which are stored in 16 bit."""
    if short:  # some hold the tied head a second time
        return round(MODELS[short].gigabytes * 1e9)
    return 2 * sum(estimate.parameter_counts(shape))


def problems(
    report: Mapping[str, Any], found: Found, config: Config, here: bool
) -> Iterator[Failure]:
    """One for each thing that would stop this run. here: it would be on this machine."""
    if found.refusal and not isinstance(found.refusal, IOFailure):
        yield found.refusal
    device, work = report["device"], report["peak"]
    limit, stage = MARGIN * device["free"], max(work, key=work.__getitem__)
    if work[stage] > limit:
        # a cap may be above what is free
        capped = round(config.gpu_memory * GIB) == device["free"]
        place = f"--gpu-memory {config.gpu_memory:g}" if capped else device["name"]
        yield UserError(
            f"{found.id} does not fit: {stage} takes {size(work[stage])}, more than "
            f"{MARGIN:.0%} of {size(device['free'])} ({place}); "
            f"{remedy(found, config, report, limit)}."
        )
    for name, place in report["disk"].items():
        if place["needed"] > place["free"]:
            yield IOFailure(
                f"The disk of the {name} ({place['path']}) has {size(place['free'])} free, and "
                f"{size(place['needed'])} will be written there; free space, or name another with "
                f"{'HF_HOME' if name == 'hub cache' else '--out'}."
            )
    if here and isinstance(found.refusal, IOFailure):  # elsewhere the network may be another one
        yield found.refusal


def remedy(found: Found, config: Config, report: Mapping[str, Any], limit: float) -> str:
    """What to do about a run that does not fit."""
    other = "plan for a GPU with --gpu GIB" if config.device == "cpu" else "take a larger GPU"
    work, memory = estimate.Workload(**report["workload"]), report["device"]["memory"]
    smaller = estimate.shrink(found.shape, config, work, limit, memory)
    if smaller is None:
        return f"not even one row at a time does: choose a smaller model or {other}"
    return f"it fits with --decode-rows {smaller.decode_rows} --micro-batch {smaller.micro_batch}"


def settle(
    config: Config, device: Mapping[str, Any], shape: ModelConfig, work: estimate.Workload
) -> Config:
    """What "auto" means on this device, and the rows that fit a GPU, as in training; raises
    UserError for a run without an update that moves."""
    check_updates(config, work.train)
    keep = estimate.checkpointing(config, device["kind"])
    config = replace(config, device=device["kind"], dtype=device["dtype"], checkpointing=keep)
    if device["kind"] == "cpu":
        return config
    limit = MARGIN * device["free"]
    return estimate.shrink(shape, config, work, limit, device["memory"]) or config


def settle_chat(
    config: Config, folder: Path | None, vocabulary: int
) -> tuple[Config, list[str], list[str]]:
    """The config with the samplers and the chat format that training would take, a notice on the
    format, and a problem.

    What the folder would say stays open where it, or the tokenizer in it, is not on this disk yet.
    """
    from minihmx.models.tokenizer import Tokenizer

    whole = folder if folder and (folder / "tokenizer.json").is_file() else None
    try:
        config = replace(config, **settled_samplers(config, whole, vocabulary))
        if whole is None:
            return config, [], []
        tokenizer = Tokenizer.load(whole, config.chat_format)
    except UserError as refusal:
        return config, [], [str(refusal)]
    notices = list(filter(None, [tokenizer.chat_format.notice]))
    return replace(config, chat_format=tokenizer.family), notices, []


# --- the model, without its weights ---------------------------------------------------------------


def look_up(name: str, revision: str | None) -> Found:
    """What can be known of a model by its config.json alone; asks the hub for access first.

    Raises Failure for a name that means nothing, and for a hub id whose config.json cannot be had.
    """
    short = short_name(name)
    info = MODELS.get(short or "")
    repo = info.repo if info else name if hub.HUB_ID.fullmatch(name) else ""
    if not repo or (name not in MODELS and os.path.exists(name)):
        source = hub.resolve(name, revision)
        shape = read_config(source.folder)
        return Found(source.id, source.run_name, True, "local", shape, folder=source.folder)
    access, refusal, path = ask_hub(repo, revision)
    if path is None:
        if short is None:
            raise refusal or failure("offline", repo)
        shape, run_name = shipped_config(short), name if name in MODELS else None
        return Found(repo, run_name, False, access, shape, refusal)
    folder = path.parent
    shape = read_config(folder)
    cached = all((folder / weights).is_file() for weights in weight_names(folder))
    run_name = name if name in MODELS else hub.run_name(name, folder.name)  # which is the commit
    return Found(repo, run_name, cached, access, shape, None if cached else refusal, folder)


def ask_hub(repo: str, revision: str | None) -> tuple[str, Failure | None, Path | None]:
    """(what to tell of the access, what refuses it, config.json if it can be had)."""
    import huggingface_hub as library
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError

    name = "config.json"
    cached = library.try_to_load_from_cache(repo, name, revision=revision)
    path = Path(cached) if isinstance(cached, str) else None
    if constants.HF_HUB_OFFLINE:
        refusal = None if path else failure("offline", repo)
        return "unknown: HF_HUB_OFFLINE forbids to ask", refusal, path
    try:
        # a question about one file is answered, or refused, as its download would be
        library.get_hf_file_metadata(library.hf_hub_url(repo, name, revision=revision))
        path = path or Path(library.hf_hub_download(repo, name, revision=revision))
        return "granted", None, path
    except (TypeError, AttributeError):  # a bug stays one
        raise
    except EntryNotFoundError:
        raise UserError(f"{repo} {hub.NO_CONFIG}") from None
    except Exception as error:  # requests, httpx and hf_xet each raise their own
        found = hub_failure(error, repo, revision)
        if isinstance(found, IOFailure):
            return "unknown: the hub cannot be reached", found, path
        return "refused", found, path
