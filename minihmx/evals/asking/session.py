"""The subjects and tasks of `minihmx eval`, found and checked before the first item is asked."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from minihmx.config import LARGEST, MOST, Config, check_number
from minihmx.engine import ranks
from minihmx.engine.memory import Limit
from minihmx.engine.open import (
    OpenAdapter,
    check_strength,
    find_model,
    load_decoder,
    open_adapter,
    with_adapter,
)
from minihmx.engine.samplers import LEAST_TEMPERATURE
from minihmx.errors import UserError
from minihmx.evals import BENCHMARKS, named
from minihmx.evals.asking.results import Results, Subject
from minihmx.evals.asking.runner import Progress, check_room, evaluate
from minihmx.evals.asking.settings import (
    Settings,
    refuse_without_passage,
    strength_name,
    system_text,
)
from minihmx.evals.asking.task import Machine
from minihmx.evals.benchmark import Benchmark, switches
from minihmx.evals.items.load import Dataset
from minihmx.evals.items.made import find_items, make_dataset
from minihmx.instruments.machine import versions
from minihmx.models import adapters, hub
from minihmx.storage.disk import home_path, sha256

MOST_REPLIES = 10_000_000
WHOLE_TABLE = ("paper", "all")  # names of all benchmarks together


class Options(NamedTuple):
    """What commands/evaluate.py was given; 0 and "" mean not given.

    adapters: each RUN, RUN@epoch-03, an adapter's folder, or "base"; if empty, the base alone.
    strengths: the factors by which each adapter is multiplied in turn. system: a name or a file, as
    settings.system_text takes it.
    """

    tasks: str
    adapters: Sequence[str]
    data: str
    limit: int
    chat: str
    samples: int
    temperature: float | None
    switches: Sequence[str]
    partial: bool
    batch_tokens: int
    strengths: Sequence[float] = (1.0,)
    system: str = ""
    passage: bool = False


@dataclass(frozen=True, eq=False)
class Loaded:
    """A subject, and its adapter in memory (None for the base). strength: the factor by which the
    adapter is multiplied."""

    subject: Subject
    adapter: OpenAdapter | None
    strength: float = 1.0

    @property
    def notices(self) -> list[str]:
        """What remains uncertain about the adapter's belonging to the model."""
        return self.adapter.notices if self.adapter else []


@dataclass(frozen=True)
class Session:
    """Everything that is loaded. jobs: one for each subject and benchmark, subject by subject.
    whole_table: whether all of the paper's benchmarks are asked."""

    machine: Machine
    source: hub.Source
    config: Config
    jobs: list[tuple[Loaded, Results]]
    whole_table: bool = False

    @property
    def doubt(self) -> str:
        """What is uncertain about the chat format; "" if nothing is, or no benchmark uses one."""
        in_chat = any(results.settings.chat for _, results in self.jobs)
        return self.machine.tokenizer.chat_format.notice if in_chat else ""


def open_session(flags: Mapping[str, Any], options: Options) -> Session:
    """Check the cheap things first, then load the model once. Raises Failure (errors.py)."""
    check_options(options)
    options = options._replace(system=system_text(options.system))
    chosen = benchmarks(options.tasks, flags.get("model", "tiny"))
    refuse_without_passage(chosen if options.passage else [])
    given = switch_values(options.switches, chosen)
    datasets = [find_items(benchmark, options.data, options.partial) for benchmark in chosen]
    refuse_partial(options, datasets, chosen)
    model = find_model(flags)
    config, source = model.config, model.source
    tokenizer = model.tokenizer.count, sha256(source.folder / "tokenizer.json")
    datasets = [
        make_dataset(benchmark, dataset, *tokenizer, model.shape.max_positions)
        for benchmark, dataset in zip(chosen, datasets, strict=True)
    ]
    found = [load_subject(name, source, config) for name in options.adapters or [adapters.BASE]]
    subjects = scaled(told_apart(found), options.strengths)
    jobs = []
    for loaded in subjects:
        for benchmark, dataset in zip(chosen, datasets, strict=True):
            own = settings(options, benchmark, dataset, given, config)
            own = replace(own, strength=loaded.strength)
            results = Results(benchmark, dataset, loaded.subject, own)
            if len(results.items) * own.samples > MOST_REPLIES:
                raise UserError(
                    f"--samples {own.samples} on {len(results.items)} items of {benchmark.name} "
                    f"are more than {MOST_REPLIES:,} replies, which no memory holds; lower "
                    "--samples, or take a part with --limit."
                )
            jobs.append((loaded, results))
    names = [f"{results.benchmark.name}/{results.folder.name}" for _, results in jobs]
    ranks.agree({**versions(), "device": model.device.type, "evaluations": names})
    decoder = load_decoder(model)
    tokens = Limit("--batch-tokens", options.batch_tokens)
    rows = Limit("--decode-rows", config.decode_rows)
    machine = Machine(decoder, model.tokenizer, tokens, rows)
    for loaded in subjects:  # so that an unfit adapter is refused before hours of other work
        with with_adapter(decoder, loaded.adapter):
            pass
    for _, results in jobs:
        check_room(machine, results)
    return Session(machine, source, config, jobs, options.tasks.strip() in WHOLE_TABLE)


def told_apart(found: Sequence[Loaded]) -> list[Loaded]:
    """Each subject once. Runs of different folders with the same title get their paths as titles,
    because tables and differences would otherwise take one for the other."""
    once = {(each.subject.home, each.subject.place): each for each in found}
    titles = Counter(each.subject.title for each in once.values())
    for (home, place), each in once.items():
        if titles[each.subject.title] > 1:
            subject = replace(each.subject, label=str(home / place))
            once[home, place] = replace(each, subject=subject)
    return list(once.values())


def scaled(subjects: Sequence[Loaded], strengths: Sequence[float]) -> list[Loaded]:
    """Every adapter at every strength, and the base once, as it has nothing to scale.

    Raises UserError for a strength that is out of range, or that only a base would have.
    """
    for strength in strengths:
        check_strength(strength, any(each.adapter for each in subjects))
    found = []
    for each in subjects:
        for strength in dict.fromkeys(strengths) if each.adapter else [1.0]:
            title = each.subject.title + ("" if strength == 1 else f" x {strength_name(strength)}")
            subject = each.subject if strength == 1 else replace(each.subject, label=title)
            found.append(replace(each, subject=subject, strength=strength))
    return found


def run_session(session: Session) -> Iterator[tuple[Results, Progress]]:
    """Every job in turn, on the one loaded base."""
    for loaded, results in session.jobs:
        with with_adapter(session.machine.decoder, loaded.adapter, loaded.strength):
            for progress in evaluate(session.machine, results):
                yield results, progress


def check_options(options: Options) -> None:
    """Raises UserError for a number that cannot work."""
    check_number("limit", options.limit, 1, LARGEST, or_zero=True)
    check_number("samples", options.samples, 1, MOST["eval_samples"], or_zero=True)
    check_number("temperature", options.temperature or 0.0, LEAST_TEMPERATURE, 1e30, or_zero=True)
    check_number("batch_tokens", options.batch_tokens, 1, LARGEST)
    if options.samples > 1 and options.temperature == 0:
        raise UserError(
            f"--samples {options.samples} at --temperature 0 would be the same reply each time; "
            "give a temperature above 0, or one sample."
        )


def benchmarks(tasks: str, model: str) -> list[Benchmark]:
    """Those of a comma-separated list; "paper" and "all" are every one there is.

    Raises UserError where none is named, saying what to type for this model.
    """
    if tasks.strip() in WHOLE_TABLE:
        return list(BENCHMARKS.values())
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        data = "sample" if model == "tiny" else "hub"
        raise UserError(
            "--tasks names no benchmark, and some take hours, so none is asked; `make eval` asks "
            f"all of them, as `minihmx eval {shlex.quote(model)} --tasks all --data {data}` does; "
            f"or take some of {','.join(BENCHMARKS)}."
        )
    return named(names)


def switch_values(texts: Sequence[str], chosen: Sequence[Benchmark]) -> dict[str, str]:
    """NAME=VALUE of every --switch. Raises UserError for a name that no chosen benchmark has, and
    where something is not installed that one of them needs."""
    known = {name: choices for b in chosen for name, choices in b.switches.items()}
    given = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            has = ", ".join(f"{n}={'|'.join(c)}" for n, c in known.items()) or "none"
            raise UserError(
                f"--switch {text} names no switch of these benchmarks, which have {has}."
            )
        given[name] = value
    for benchmark in chosen:
        benchmark.prepare(switches(benchmark, given))
    return given


def refuse_partial(
    options: Options, datasets: Sequence[Dataset], chosen: Sequence[Benchmark]
) -> None:
    """The paper's table is made of whole sets. Raises UserError unless --partial says otherwise."""
    parts = [
        f"{benchmark.name} {dataset.label or 'is a sample of our own'}"
        for benchmark, dataset in zip(chosen, datasets, strict=True)
        if dataset.partial or dataset.origin == "sample"
    ]
    if any(0 < options.limit < len(dataset.items) for dataset in datasets):
        parts.append(f"--limit {options.limit}")
    if options.tasks.strip() == "paper" and parts and not options.partial:
        raise UserError(
            f"--tasks paper stands for the whole sets, and these are parts ({'; '.join(parts)}); "
            "get the rest (minihmx data get), or add --partial to run what is there, marked so."
        )


def settings(
    options: Options,
    benchmark: Benchmark,
    dataset: Dataset,
    given: Mapping[str, str],
    config: Config,
) -> Settings:
    """The settings of one benchmark: by default one greedy reply, or four at temperature 1 on the
    built-in sample, because the bundled model's greedy replies there are all right or all wrong.
    """
    sample = dataset.origin == "sample"
    temperature = options.temperature
    if temperature is None:
        temperature = 1.0 if sample or options.samples > 1 else 0.0
    samples = options.samples or (4 if sample and temperature > 0 else 1)
    chat = benchmark.chat if options.chat == "auto" else options.chat == "on"
    if not benchmark.generates:
        samples, temperature = 1, 0.0
    return Settings(
        chat,
        samples,
        temperature,
        config.seed,
        options.limit if options.limit < len(dataset.items) else 0,
        benchmark.prepare(switches(benchmark, given)),
        config.dtype,
        config.date,
        config.chat_format if chat else "",
        system=options.system,
        passage=options.passage,
    )


def load_subject(name: str, source: hub.Source, config: Config) -> Loaded:
    """Find and read one adapter ("base": none), and say where its evaluations stand."""
    runs = home_path(config.out) / source.run_name
    model = {"id": source.id, "revision": source.revision, "digest": source.digest}
    if name == adapters.BASE:
        return Loaded(Subject(runs / adapters.BASE, adapters.BASE, model, None), None)
    opened = open_adapter(name, source, config.chat_format)
    folder = opened.adapter.folder
    sha = adapters.adapter_digest(folder)
    if folder.parent.name == "checkpoints":
        home, place = folder.parent.parent, folder.name
        title = "/".join([*home.parts[-2:], place])
    else:
        home, place = runs / f"adapter-{sha[:8]}", "adapter"
        title = home.name
    own = {"digest": sha, "name": title}
    return Loaded(Subject(home, place, model, own), opened)
