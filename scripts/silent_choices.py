"""Where the paper is silent, does the choice matter? Runs of `tiny` with one alternative at a time.

    python scripts/silent_choices.py --out runs-choices --seeds 1-3 --jobs 2

trains a forward and a reverse run of each seed with the defaults and with each alternative that
docs/decisions.md gives a flag, and prints a table for each direction. What is finished is not
trained again, and what was stopped goes on, so the same command can be given as often as one likes.
`--only NAME ...` takes some of the alternatives, `--list` names them.

    own, true    mean held-out score at the epoch that the rule of 7.5 chooses, by tiny's own judge
                 and by the score that is built into tiny's world
    last         the same at the last epoch
    KL           from the untouched model in nats an answer, at the chosen epoch; odd, unscored:
                 shares of the answers that look degenerate, and that have no score, there
    own +, true +  less the same run with the defaults (or with what the row names), seed by seed:
                 mean and half of its 95 % interval over seeds (Student's t). A star: 0 is outside,
                 so seeds alone do not do that; ?: with one seed nobody can say
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "tiny"))
from world import true_score

from minihmx.commands import train
from minihmx.commands.experiment import seeds
from minihmx.config import FIELDS, science
from minihmx.engine.open import find_model
from minihmx.errors import Failure
from minihmx.instruments.alarms import kl_of_answers
from minihmx.questions import load_questions, load_rubric
from minihmx.results.cells import over_seeds
from minihmx.results.layout import FORMATS, Table
from minihmx.results.statistics import has_scipy, seeds_interval
from minihmx.selection import DIRECTIONS, Rule, candidates, select
from minihmx.stats import mean
from minihmx.storage.disk import read_lines
from minihmx.storage.history import history
from minihmx.storage.identity import check_same_experiment, fingerprint
from minihmx.storage.run_folder import Store
from minihmx.terminal.text import number

WRECKED = 6  # the exit code of a run that came to its end with nothing to show for it: it counts
DEFAULT = "default"
TWICE = "--iterations 2"
# Each is `train`'s words for one alternative of docs/decisions.md. tiny has values of its own
# (models/known.py), so what is another model's default may be an alternative here.
ALTERNATIVES = {
    "judge sampled": "--judge-sampler plain",
    "judge sampled at 0.6": "--judge-sampler temperature=0.6,top_p=0.9",
    "unscored as 0": "--unscored zero",
    "top-p 0.95": "--sampler top_p=0.95",
    "sampler of Qwen3": "--sampler temperature=0.6,top_k=20,top_p=0.95",
    "divisor with n": "--advantage-divisor population",
    "divisor of the step": "--advantage-divisor batch",
    "no divisor": "--advantage-divisor none",
    "epsilon 1e-6": "--advantage-epsilon 1e-6",
    "truncated masked": "--truncated masked",
    "loss grpo": "--loss-type grpo",
    "loss dr_grpo": "--loss-type dr_grpo",
    "loss dapo": "--loss-type dapo",
    "loss bnpo shuffled": "--loss-type bnpo_shuffled",
    "beta 0": "--beta 0",
    "beta 0.001": "--beta 0.001",
    "two iterations": TWICE,
    "two, clip higher": f"{TWICE} --clip-epsilon-high 0.28",
    "alpha = rank": "--lora-alpha 16",
    "attention only": "--lora-targets q_proj,k_proj,v_proj,o_proj",
    "no warm-up": "--warmup-ratio 0",
    "first rate 0": "--first-rate zero",
    "no weight decay": "--weight-decay 0",
    "beta2 0.99": "--adam-beta2 0.99",
    "grad norm 0.1": "--max-grad-norm 0.1",
    "2 questions a step": "--prompts-per-step 2",
    "cap 48": "--max-completion-length 48",
    "one greedy answer": "--eval-sampler greedy --eval-samples 1",
}
COMPARED = {"two, clip higher": "two iterations"}  # all others with the default
COLUMNS = ("own", "true", "last own", "last true", "KL", "odd", "unscored", "own +", "true +")


class Measured(NamedTuple):
    """A run at the epoch that is chosen, and its last epoch's two scores; None where no answer has
    a score. own, last_own: by tiny's judge. kl: nats an answer."""

    own: float | None
    true: float
    last_own: float | None
    last_true: float
    kl: float | None
    odd: float
    unscored: float


Key = tuple[str, str, int]  # alternative, direction and seed
Runs = Mapping[Key, Path]


def train_all(
    out: Path, names: Sequence[str], numbers: Sequence[int], jobs: int
) -> tuple[Runs, list[str]]:
    """Train what is not finished, so many runs at once; the runs, and why some are not there."""
    wanted = {
        (name, direction, seed): out / name.replace(" ", "-")
        for seed in numbers
        for name in names
        for direction in DIRECTIONS
    }
    folders = {key: place / "tiny" / key[1] / f"seed-{key[2]}" for key, place in wanted.items()}
    for key, folder in folders.items():
        refuse_another(key, wanted[key], folder)
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(lambda key: train_one(key, wanted[key], folders[key]), wanted))
    failed = [
        f"{name}, {direction}, seed {seed}: {why}"
        for (name, direction, seed), why in zip(wanted, codes, strict=True)
        if why
    ]
    return {key: folder for key, folder in folders.items() if finished(folder)}, failed


def finished(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def refuse_another(key: Key, place: Path, folder: Path) -> None:
    """Raises UserError where the run in this folder is not that of the alternative."""
    name, direction, seed = key
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    train.arguments(parser)
    typed = ["tiny", "--out", str(place), "--direction", direction, "--seed", str(seed)]
    options = vars(parser.parse_args([*typed, *ALTERNATIVES.get(name, "").split()]))
    model = find_model({field: options[field] for field in options.keys() & FIELDS.keys()})
    questions, rubric = load_questions(None), load_rubric(None)
    own = fingerprint(science(model.config), model.source.digest, questions, rubric)
    check_same_experiment(Store(folder), own)


def train_one(key: Key, place: Path, folder: Path) -> str:
    """Train one run to its end, unless it is there; why not, or ""."""
    name, direction, seed = key
    if finished(folder):
        return ""
    words = ALTERNATIVES.get(name, "").split()
    command = [sys.executable, "-m", "minihmx", "train", "tiny", "--out", str(place), *words]
    command += ["--direction", direction, "--seed", str(seed), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    what = f"{name}, {direction}, seed {seed}: exit code {done.returncode}"
    print(what, file=sys.stderr, flush=True)
    if done.returncode in (0, WRECKED):
        return ""
    return (done.stderr.strip().splitlines() or ["it was interrupted"])[-1]


def measured(pair: Mapping[str, Path]) -> dict[str, Measured]:
    """Both directions of one seed, at the epochs that the rule chooses for them."""
    lines = {direction: history(folder)["evaluation"] for direction, folder in pair.items()}
    forward, reverse = (candidates(lines[direction]) for direction in DIRECTIONS)
    chosen = select(forward, reverse, Rule())
    found = {}
    for direction, choice in zip(DIRECTIONS, chosen, strict=True):
        of_epoch = {line["epoch"]: line for line in lines[direction]}
        here, last = of_epoch[choice.epoch], of_epoch[max(of_epoch)]
        rows = answers(pair[direction], choice.epoch)
        kl = kl_of_answers([(row["policy_logprob"], row["reference_logprob"]) for row in rows])
        found[direction] = Measured(
            here["score"],
            truth(rows),
            last["score"],
            truth(answers(pair[direction], max(of_epoch))),
            kl,
            here["degenerate"],
            here["unscored"],
        )
    return found


def answers(folder: Path, epoch: int) -> list[dict[str, Any]]:
    """The held-out answers of an epoch."""
    return read_lines(folder / "evaluations" / f"epoch-{epoch:02d}.jsonl")


def truth(rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean true score of answers."""
    return sum(true_score(str(row["completion"])) for row in rows) / len(rows)


def all_measured(runs: Runs) -> dict[tuple[str, str], dict[int, Measured]]:
    """By alternative and direction, of each seed whose two runs are there."""
    found: dict[tuple[str, str], dict[int, Measured]] = {}
    for name, seed in dict.fromkeys((name, seed) for name, _, seed in runs):
        pair = {d: runs[name, d, seed] for d in DIRECTIONS if (name, d, seed) in runs}
        if len(pair) == len(DIRECTIONS):
            for direction, values in measured(pair).items():
                found.setdefault((name, direction), {})[seed] = values
    return found


def difference(ours: Mapping[int, Measured], default: Mapping[int, Measured], field: str) -> str:
    """An alternative less another, over the seeds that both have: "+0.31 ± 0.20 *"."""
    pairs = [
        (getattr(ours[seed], field), getattr(default[seed], field))
        for seed in sorted(ours.keys() & default.keys())
    ]
    values = [one - other for one, other in pairs if None not in (one, other)]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:+.2f} ?"
    spread = over_seeds(values)
    half = seeds_interval(spread)
    beyond = half is not None and abs(spread.mean) > half
    return f"{spread.mean:+.2f} ± {number(half, '.2f')}{' *' if beyond else ''}"


def tables(found: Mapping[tuple[str, str], Mapping[int, Measured]]) -> Iterator[Table]:
    """One for each direction."""
    for direction in DIRECTIONS:
        rows, counts = [], set[int]()
        for (name, where), by_seed in found.items():
            if where == direction:
                cells = [cell(by_seed, field) for field in Measured._fields]
                with_what = COMPARED.get(name, DEFAULT)
                base = found.get((with_what, direction), {})
                other = [difference(by_seed, base, field) for field in ("own", "true")]
                title = name if with_what == DEFAULT else f"{name} (less {with_what})"
                rows.append((title, *cells, *(other if name != DEFAULT else ("", ""))))
                counts.add(len(by_seed))
        seen = " to ".join(map(str, sorted({min(counts, default=0), max(counts, default=0)})))
        notes = [
            f"Mean over {seen} seed(s). *: 0 is outside the 95 % interval of the difference over "
            f"seeds; of {2 * (len(rows) - 1)} differences that are none, one in twenty is so. "
            "?: with one seed it cannot be said."
        ]
        yield Table(f"{direction}, one alternative at a time", ("", *COLUMNS), rows, notes)


def cell(by_seed: Mapping[int, Measured], field: str) -> str:
    """The mean over seeds; a share as percent."""
    values = [value for m in by_seed.values() if (value := getattr(m, field)) is not None]
    return number(mean(values), ".0%" if field in ("odd", "unscored") else ".2f")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs-choices"), help="holds all runs")
    parser.add_argument("--seeds", default="1-3", help="as 1-5 or 1,3,4 (1-3)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alternatives (all)")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="runs at once (1)")
    parser.add_argument("--list", action="store_true", help="name the alternatives, and stop")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--json", action="store_true", help="every run's numbers")
    options = parser.parse_args()
    if not has_scipy():
        raise SystemExit("The intervals need scipy; install it, or the extra `report`.")
    if options.list:
        print("\n".join(f"{name:<22}{words}" for name, words in ALTERNATIVES.items()))
        return
    only = options.only or list(ALTERNATIVES)
    if unknown := [name for name in only if name not in ALTERNATIVES]:
        raise SystemExit(f"There is no alternative {unknown[0]!r}; --list names those there are.")
    names = dict.fromkeys([DEFAULT, *(COMPARED[name] for name in only if name in COMPARED), *only])
    try:
        runs, failed = train_all(options.out, [*names], seeds(options.seeds), options.jobs)
        found = all_measured(runs)
    except Failure as failure:
        raise SystemExit(str(failure)) from None
    if options.json:
        told = [
            {"alternative": name, "direction": direction, "seed": seed, **values._asdict()}
            for (name, direction), by_seed in found.items()
            for seed, values in by_seed.items()
        ]
        print(json.dumps(told, indent=1))
    else:
        print(FORMATS[options.format](list(tables(found))), end="")
    if failed:
        raise SystemExit("\n".join(["These runs are not there:", *failed]))


if __name__ == "__main__":
    main()
