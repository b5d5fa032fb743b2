"""Benchmark items as base, forward and reverse answered them, flips coloured by direction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.results import read_samples
from minihmx.results.evaluations import Evaluation, Result, find_evaluations, settings_key
from minihmx.results.explain_item import is_sample, readings
from minihmx.results.report.material import Material, ReportRun
from minihmx.results.report.views import AnswerView, CardView, RowView, Said, Section, pieces
from minihmx.results.runs import TrainedRun, read_run
from minihmx.terminal.text import printable

MOST_ITEMS = 300  # of a benchmark and a seed; those on which the sides differ come first
SHOWN_CHOICES = 4  # of each side, the likeliest
FLIPS = {
    "progressive": ("up", "flips from wrong to right"),
    "regressive": ("down", "flips from right to wrong"),
    "sideways": ("sideways", "flips, and neither is right"),
}
TRUTHS = ("correct", "incorrect", "aliases", "letters", "target", "answer", "labels", "gold")
Samples = dict[tuple[str, int], Mapping[str, Any]]  # by item and number


class Sides(NamedTuple):
    """One benchmark of one model and seed. found: by side, its evaluation."""

    model: str
    seed: int
    benchmark: str
    found: dict[str, Evaluation]


def items_section(material: Material) -> Section:
    """A card for each item, those first on which the three differ."""
    cards, text, commands = list[CardView](), list[str](), dict[str, None]()
    for sides in evaluated_sides(material):
        samples = {s: material.tried(lambda e=e: _samples(e), {}) for s, e in sides.found.items()}
        samples = {side: of for side, of in samples.items() if of}
        if samples:
            chosen, told = _chosen(sides, samples)
            cards += [_card(sides, samples, item) for item in chosen]
            text.append(told)
            commands |= dict.fromkeys(_eval_commands(material, sides))
    text.insert(
        0,
        "Each item was asked of the untouched model and of the chosen checkpoint of each direction. "
        "The mark in a reply is what the rules read as the answer.",
    )
    missing = "" if cards else "No benchmark is finished on these checkpoints."
    name = "items", "Benchmark items"
    return Section(*name, tuple(text), tuple(commands), cards=cards, missing=missing)


def evaluated_sides(material: Material) -> Iterator[Sides]:
    """By model, seed and benchmark the evaluations of base and runs that were asked alike."""
    for model, seed, runs in material.pairs:
        own = {d: material.tried(lambda r=r: _trained(r), None) for d, r in runs.items()}
        trained = {direction: run for direction, run in own.items() if run}
        home = next(iter(runs.values())).folder.resolve().parent.parent / "base"
        names = {path.name for run in runs.values() for path in run.folder.glob("evals/*")}
        for benchmark in [name for name in BENCHMARKS if name in names]:
            found = {d: _found(material, r.folder, benchmark, r) for d, r in trained.items()}
            found = {direction: of for direction, of in found.items() if of}
            if not found:
                continue
            common = set.intersection(*(set(of) for of in found.values()))
            keys = common or set(next(iter(found.values())))
            key = min(keys, key=lambda key: (key[1] != seed, key))
            digest = next(iter(runs.values())).science.get("model digest")
            bases = _found(material, home, benchmark, None, digest)
            seeds = [noise for settings, noise in bases if settings == key[0]]
            base = {"base": bases[key[0], min(seeds, key=lambda n: n != key[1])]} if seeds else {}
            yield Sides(
                *(model, seed, benchmark),
                base | {direction: of[key] for direction, of in found.items() if key in of},
            )


def _trained(run: ReportRun) -> TrainedRun | None:
    return read_run(run.folder, run.epoch) if run.epoch else None


def _found(
    material: Material, home: Any, benchmark: str, run: TrainedRun | None, digest: Any = None
) -> dict[tuple[str, int], Evaluation]:
    notes = list[str]()
    digest = run.science.get("model digest") if run else digest
    found = material.tried(lambda: find_evaluations(home, digest, benchmark, notes, run), {})
    for note in notes:
        material.note(note)
    return found


def _samples(evaluation: Evaluation) -> Samples:
    lines = (line for line in read_samples(evaluation.folder) if is_sample(line))
    named = (line for line in lines if (type(line["id"]), type(line["sample"])) == (str, int))
    return {(line["id"], line["sample"]): line for line in named}


# --- which items ---------------------------------------------------------------------------------


def _chosen(sides: Sides, samples: Mapping[str, Samples]) -> tuple[list[str], str]:
    """The items that are shown, and that in words."""
    headline = BENCHMARKS[sides.benchmark].headline
    items = list(dict.fromkeys(item for of in samples.values() for item, _ in of))
    differing = {
        item
        for key in dict.fromkeys(key for of in samples.values() for key in of)
        for item in [key[0]]
        if len({_verdict(of[key], headline) for of in samples.values() if key in of}) > 1
    }
    ordered = [item for item in items if item in differing]
    ordered += [item for item in items if item not in differing]
    title = f"{BENCHMARKS[sides.benchmark].title}, {sides.model} seed {sides.seed}"
    who = ", ".join(samples)
    told = f"{title}: {len(differing):,} of {len(items):,} items have another verdict for {who}."
    if len(items) > MOST_ITEMS:
        told += f" {MOST_ITEMS} are shown, those that differ first; `minihmx explain` shows any."
    return ordered[:MOST_ITEMS], told


def _verdict(line: Mapping[str, Any], headline: Sequence[str]) -> tuple[Any, ...]:
    """What the paper's metrics say of a sample, and which way it flipped."""
    return (*(line["values"].get(name) for name in headline), _flip(line))


def _flip(line: Mapping[str, Any]) -> str:
    flip = line["detail"].get("flip")
    return str(flip.get("value")) if isinstance(flip, dict) else ""


# --- one item ------------------------------------------------------------------------------------


def _card(sides: Sides, samples: Mapping[str, Samples], item: str) -> CardView:
    benchmark, headline = BENCHMARKS[sides.benchmark], BENCHMARKS[sides.benchmark].headline
    numbers = sorted({number for of in samples.values() for name, number in of if name == item})
    rows, first = list[RowView](), {}
    for number in numbers:
        there = {side: of[item, number] for side, of in samples.items() if (item, number) in of}
        first = first or next(iter(there.values()))
        trained = {_verdict(line, headline) for side, line in there.items() if side != "base"}
        columns = []
        for side, line in there.items():
            view = _answer(line, side, headline, there.get("base"))
            also = ("differs",) if len(trained) > 1 and side != "base" else ()
            columns.append((side, side, (view._replace(verdicts=(*view.verdicts, *also)),)))
        label = f"sample {number + 1}" if len(numbers) > 1 else ""
        rows.append(RowView(label, sides.benchmark, tuple(columns)))
    badges = {}
    for _, side, views in (column for row in rows for column in row.columns):
        badges.setdefault(side, views[0].badge)
    asked = first.get("turns") or [_question(first)]
    facts = [f"{n}: {_listed(first['item'][n])}" for n in TRUTHS if n in first["item"]]
    home = next((e.folder for s, e in sides.found.items() if s != "base"), None)
    run = f"{home.parents[2]}@{home.name}" if home else ""
    return CardView(
        printable(str(asked[0])).strip(),
        f"{benchmark.title} · {printable(item)} · {sides.model} · seed {sides.seed}",
        tuple(rows),
        tuple(badges.items()) if len(numbers) == 1 else (),
        tuple(map(printable, facts)),
        f"minihmx explain {run} --benchmark {sides.benchmark} --item {printable(item)}",
    )


def _question(line: Mapping[str, Any]) -> str:
    """The item's own part of a context, which may begin with worked examples that all have."""
    return str(line["context"]).rpartition("\n\nQ: ")[2].removesuffix("\nA:")


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _answer(
    line: Mapping[str, Any], side: str, headline: Sequence[str], base: Mapping[str, Any] | None
) -> AnswerView:
    values = {name: line["values"][name] for name in headline if name in line["values"]}
    flip, tone, change = _flip(line), "", ""
    badge = ", ".join(_told(name, value) for name, value in values.items()) or "no answer read"
    if flip:
        tone, change = FLIPS.get(flip, ("", ""))
        badge = f"{flip} flip" if flip in FLIPS else badge if not values else flip
    elif base is not None and side != "base":
        tone, change = _against(values, base["values"])
    found = [r for r in readings(line["detail"], len(line.get("replies", []))) if r.span]
    found = [read for read in found if "careful" not in read.name]
    verdicts = [flip] if flip in FLIPS else [tone] if tone else []
    verdicts += ["unread"] if line.get("unparsed") or not values else []
    if not flip and {*values.values()} <= {0.0, 1.0} and values:
        verdicts.append("right" if all(values.values()) else "wrong")
    said = list(_choices(line) if "choices" in line else _dialogue(line, found))
    if "length" in line.get("finish", ()):
        verdicts.append("cut")
    return AnswerView(side, "", tuple(said), badge, None, tone, change, tuple(verdicts))


def _told(name: str, value: float) -> str:
    return f"{name} {'✓' if value else '✗'}" if value in (0.0, 1.0) else f"{name} {value:.3g}"


def _against(values: Mapping[str, float], base: Mapping[str, float]) -> tuple[str, str]:
    """Which way the verdict went from the base's."""
    changes = {n: v - base[n] for n, v in values.items() if n in base and v != base[n]}
    if not changes:
        return "", ""
    ups = sum(change > 0 for change in changes.values())
    tone = "up" if ups == len(changes) else "down" if not ups else "sideways"
    words = ", ".join(f"{n} {'▲' if c > 0 else '▼'} {abs(c):.2g}" for n, c in changes.items())
    return tone, f"{words} against the base"


def _dialogue(line: Mapping[str, Any], found: Iterable[Any]) -> Iterator[Said]:
    for i, (turn, reply) in enumerate(zip(line["turns"], line["replies"], strict=True)):
        if i:
            yield Said("asked", pieces(turn))
        yield Said("words", pieces(reply, [read.span for read in found if read.reply == i]))


def _choices(line: Mapping[str, Any]) -> Iterator[Said]:
    """The likeliest choices, each with its log-likelihood, the first of them marked."""
    listed = sorted(zip(line["loglikelihoods"], line["choices"], strict=True), reverse=True)
    labels = line["item"].get("labels")
    right = dict(zip(line["choices"], labels, strict=False)) if isinstance(labels, list) else {}
    for place, (value, choice) in enumerate(listed[:SHOWN_CHOICES]):
        tick = "  ✓" if right.get(choice) else ""
        text = str(choice)
        spans = [[0, len(text)]] if place == 0 else []
        yield Said("choice", (*pieces(text, spans), (f"  {value:.1f}{tick}", False)))
    if len(listed) > SHOWN_CHOICES:
        yield Said("note", ((f"and {len(listed) - SHOWN_CHOICES} less likely", False),))


def _eval_commands(material: Material, sides: Sides) -> Iterator[str]:
    """What evaluated them: of an experiment its own commands, else what their settings say."""
    planned = [piece["command"] for _, piece in material.plans if piece["command"][:1] == ["eval"]]
    if planned:
        yield from (" ".join(["minihmx", *command]) for command in planned)
        return
    for side, evaluation in sides.found.items():
        result: Result = evaluation.result
        where = "base" if side == "base" else str(evaluation.folder.parents[2])
        settings = result["settings"]
        limit = f" --limit {settings['limit']}" if settings.get("limit") else ""
        yield (
            f"minihmx eval {sides.model} --tasks {sides.benchmark} --adapter {where} "
            f"--seed {settings['seed']}{limit}"
        )
