"""Which evaluations of paired runs are compared: finished, and asked alike. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import DataError, UserError
from minihmx.evals.asking.results import RESULT, SAMPLES
from minihmx.evals.asking.settings import measures_in, strength_name
from minihmx.results.runs import SeedPair, TrainedRun
from minihmx.storage.disk import verify
from minihmx.storage.strict import read_json

Result = Mapping[str, Any]


class Evaluation(NamedTuple):
    """A finished evaluation: its folder, and what its result.json holds."""

    folder: Path
    result: Result


class EvaluatedPair(NamedTuple):
    """One seed's two evaluations on one benchmark, under the same settings."""

    seed: int
    forward: Evaluation
    reverse: Evaluation

    @property
    def both(self) -> tuple[Evaluation, Evaluation]:
        return self.forward, self.reverse


def settings_of(result: Result) -> dict[str, Any]:
    """All that decides a number beside model, adapter and noise, flat: settings, switches, items.

    The seed of sampled replies is the evaluations' own: each training seed may have another one.
    """
    settings = {name: value for name, value in result["settings"].items() if name != "seed"}
    switches = settings.pop("switches")
    return {**settings, **switches, "items": result["data"]["digest"]}


def noise_seed(result: Result) -> int:
    """The seed that sampled replies were drawn with; forward and reverse have it in common."""
    return int(result["settings"]["seed"])


def settings_key(result: Result, but: Collection[str] = ()) -> str:
    """All of settings_of as one text. but: what may differ."""
    settings = {name: value for name, value in settings_of(result).items() if name not in but}
    return json.dumps(settings, sort_keys=True)


def find_evaluations(
    home: Path,
    digest: str | None,
    benchmark: str,
    notes: list[str],
    run: TrainedRun | None = None,
) -> dict[tuple[str, int], Evaluation]:
    """By settings and seed of the noise, the finished evaluations of a run's epoch or the base."""
    found: dict[tuple[str, int], Evaluation] = {}
    scaled, measured = list[float](), False
    for evaluation in all_evaluations(home, digest, benchmark, notes, run):
        folder, result = evaluation
        if "strength" in result["settings"]:
            scaled.append(result["settings"]["strength"])
            continue
        if measures_in(result["settings"]):
            measured = True
            continue
        key = settings_key(result), noise_seed(result)
        other = found.setdefault(key, evaluation)
        if other.folder != folder:
            raise UserError(
                f"{other.folder} and {folder} are two evaluations under the same settings, of "
                "adapters that differ, so it is not clear which one is meant; move one away."
            )
    notes += _left_out(home / "evals" / benchmark, scaled, measured)
    return found


def all_evaluations(
    home: Path,
    digest: str | None,
    benchmark: str,
    notes: list[str],
    run: TrainedRun | None = None,
) -> Iterator[Evaluation]:
    """Those of a run's epoch or the base at any strength of the adapter. Raises DataError where one
    is not as it was written, or is of something else."""
    place = run.epoch if run else "base"
    for folder in sorted((home / "evals" / benchmark).glob(f"{place}-*")):
        if not re.fullmatch(r"[0-9a-f]{8}", folder.name[len(place) + 1 :]):
            continue
        if not (folder / "manifest.json").exists():
            notes.append(f"{folder} is left out: it is still being evaluated, or was stopped")
            continue
        problem = verify(folder, (SAMPLES, RESULT))
        result = None if problem else read_json(folder / RESULT)
        if not problem and not _is_result(result):
            problem = f"{RESULT} is no result of a benchmark"
        elif result and digest is not None and result["model"]["digest"] != digest:
            problem = "it is of a model with other weights than the run's"
        elif result and not _is_own(result["adapter"], run):
            of = (result["adapter"] or {}).get("name", "the untouched model")
            own = f"the {place} of {run.title} that stands here" if run else "the untouched model"
            problem = f"it is of {of}, and not of {own}"
        if problem:
            raise DataError(
                f"{folder} is not what was written ({problem}), so its numbers mean nothing; move "
                "it away and evaluate again."
            )
        assert result is not None
        yield Evaluation(folder, result)


def _left_out(where: Path, scaled: Sequence[float], measured: bool) -> Iterable[str]:
    """The notes on what is not asked as the paper asks: at other strengths, or told more."""
    if scaled:
        strengths = ", ".join(map(strength_name, sorted({*scaled})))
        yield (
            f"{where}: evaluations at other strengths than 1 ({strengths}) are left out, as the "
            "adapter was not trained so"
        )
    if measured:
        yield (
            f"{where}: evaluations with a system text or a passage before the question are left "
            "out, as the paper asks without"
        )


def _is_own(adapter: Mapping[str, str] | None, run: TrainedRun | None) -> bool:
    """Whether what was evaluated is this run's checkpoint; without a run, the untouched model."""
    if adapter is None or run is None:
        return adapter is None and run is None
    if run.adapter:
        return adapter["digest"] == run.adapter
    # The checkpoint is gone. Its name is short where `eval` was given a path such as `seed-1`.
    return f"/{run.direction}/seed-{run.seed}/{run.epoch}".endswith(f"/{adapter['name']}")


def _is_result(result: Any) -> bool:
    try:
        settings_key(result)
        noise_seed(result)
        numbers = [result["n"], result["samples"], result["unparsed"], result["truncated"]]
        numbers.append(result["settings"].get("strength", 1.0))
        for metric in result["metrics"].values():
            numbers += [metric["value"], metric["n"]]
        names = [*result["headline"], result["data"]["origin"]]
        if result["adapter"] is not None:
            names += [result["adapter"]["name"], result["adapter"]["digest"]]
        result["data"]["partial"], result["model"]["digest"]
    except (TypeError, LookupError, AttributeError, ValueError):
        return False
    numeric = all(type(number) in (int, float) for number in numbers)
    return numeric and all(isinstance(name, str) for name in names)


def choose_evaluations(
    pairs: Sequence[SeedPair], benchmark: str, notes: list[str]
) -> list[EvaluatedPair]:
    """What is compared of one model: the settings that most pairs have, then those of most items.

    Everything else is left out and noted.
    """
    by_settings: dict[str, list[EvaluatedPair]] = {}
    where = f"{pairs[0].model}, {benchmark}"
    for pair in pairs:
        forward, reverse = (_of_run(run, benchmark, notes) for run in pair.runs)
        common = forward.keys() & reverse.keys()
        # of several seeds of the noise, the one with the training seed's number, else the lowest
        preferred = sorted(common, key=lambda key: (key[1] != pair.seed, key[1]))
        for key in {key[0]: key for key in reversed(preferred)}.values():
            both = EvaluatedPair(pair.seed, forward[key], reverse[key])
            by_settings.setdefault(key[0], []).append(both)
        if forward and reverse and not common:
            one, other = (next(iter(found.values())).result for found in (forward, reverse))
            notes.append(
                f"{where}: seed {pair.seed} is left out, as forward and reverse were not asked "
                f"alike ({_differences(one, other)})"
            )
        elif not common:
            lacking = " and ".join(
                f"{run.direction} ({run.epoch})"
                for run, found in zip(pair.runs, (forward, reverse), strict=True)
                if not found
            )
            have = "has" if forward or reverse else "have"
            notes.append(f"{where}: seed {pair.seed} is left out, as {lacking} {have} no result")
    if not by_settings:
        return []
    best = max(by_settings.values(), key=lambda e: (len(e), e[0].forward.result["n"], e[0].seed))
    for others in by_settings.values():
        if others is not best:
            seeds = ", ".join(str(each.seed) for each in others)
            differ = _differences(best[0].forward.result, others[0].forward.result)
            notes.append(
                f"{where}: results under other settings are left out (seed {seeds}; {differ})"
            )
    return best


def _of_run(run: TrainedRun, benchmark: str, notes: list[str]) -> dict[tuple[str, int], Evaluation]:
    digest = run.science.get("model digest")
    return find_evaluations(run.folder, digest, benchmark, notes, run)


def _differences(one: Result, other: Result) -> str:
    a, b = settings_of(one), settings_of(other)
    told = [
        "other items" if name == "items" else f"{name} {a.get(name)} and {b.get(name)}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]
    return ", ".join(told) or f"--seed {noise_seed(one)} and {noise_seed(other)}"


def asked_otherwise(evaluated: Mapping[tuple[str, str], list[EvaluatedPair]]) -> Iterable[str]:
    """Where models stand in one row of a table, and were not asked the same in the same way."""
    first: dict[str, tuple[str, Result]] = {}
    for (model, benchmark), found in evaluated.items():
        result = found[0].forward.result
        other, there = first.setdefault(benchmark, (model, result))
        if settings_key(there) != settings_key(result):
            yield (
                f"{benchmark}: {other} and {model} were not asked alike "
                f"({_differences(there, result)}), so their columns are not like with like"
            )
