"""The verb `select`: which checkpoints of a forward and a reverse run are compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minihmx.errors import DataError, UserError, quoted
from minihmx.selection import Rule, candidates, selected
from minihmx.storage.disk import home_path, verify
from minihmx.storage.history import history
from minihmx.storage.identity import differences
from minihmx.storage.run_folder import CHECKPOINT, Store
from minihmx.storage.strict import read_json
from minihmx.terminal.text import number

SELECTED = "selected.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Two runs, and what the paper's rule leaves open."""
    rule = Rule()
    parser.add_argument("forward", metavar="FORWARD", help="a forward run's folder")
    parser.add_argument("reverse", metavar="REVERSE", help="the reverse run of the same seed")
    parser.add_argument(
        "--threshold", type=float, default=rule.threshold, metavar="SCORE", help="(%(default)s)"
    )
    parser.add_argument(
        "--same-epoch-exception",
        choices=("on", "off"),
        default=rule.same_epoch_exception,
        help="on: the same epoch where the forward KL is the lower one at every epoch (on)",
    )
    parser.add_argument(
        "--max-unscored",
        type=float,
        default=rule.max_unscored,
        metavar="SHARE",
        help="no epoch with more answers without a score is taken; ours, not the paper's (0.2)",
    )
    parser.add_argument("--json", action="store_true", help="both selected.json on a line instead")


def run(options: argparse.Namespace) -> int:
    """Write selected.json in both runs, and say why."""
    rule = Rule(options.threshold, options.same_epoch_exception, options.max_unscored)
    if not (0 <= rule.threshold <= 10 and 0 <= rule.max_unscored <= 1):
        raise UserError(
            f"--threshold {rule.threshold:g} and --max-unscored {rule.max_unscored:g} must be a "
            "score from 0 to 10 and a share from 0 to 1; leave them out for the paper's rule."
        )
    made = choose(home_path(options.forward), home_path(options.reverse), rule)
    if options.json:
        print(json.dumps(made, sort_keys=True))
        return 0
    for direction, record in made.items():
        print(f"{direction}  {record['pair'][direction]['run']}: {record['winner']}")
        print(f"  {'' if record['qualified'] else 'NOT BY THE RULE: '}{record['why']}")
        for c in record["candidates"][direction]:
            mark = "*" if record["winner"] == f"epoch-{c['epoch']:02d}" else " "
            score, error = number(c["score"], ".2f"), number(c["score_error"], ".2f")
            kls = f"kl {number(c['kl'], '.4f')} (by token {number(c['kl_tokens'], '.4f')})"
            print(f"  {mark} epoch {c['epoch']:>2}  score {score} ± {error}  {kls}", end="")
            print(f"  {c['unscored']:.0%} unscored")
    print("± is the standard error over the held-out questions; chat, export and eval take *")
    return 0


def choose(forward: Path, reverse: Path, rule: Rule) -> dict[str, dict[str, Any]]:
    """Select, and write selected.json in both runs; returns what they hold, by direction.

    Raises UserError for two folders that are no finished pair, DataError for a damaged checkpoint.
    """
    folders = {"forward": forward, "reverse": reverse}
    configs = {which: finished_config(folder, which) for which, folder in folders.items()}
    check_pair(configs, folders)
    histories = [candidates(history(folder)["evaluation"]) for folder in folders.values()]
    epochs = [[candidate.epoch for candidate in each] for each in histories]
    if not epochs[0] or epochs[0] != epochs[1]:
        raise UserError(
            f"{forward} has evaluations of the epochs {epochs[0]} and {reverse} of {epochs[1]}, "
            "so they cannot be compared epoch by epoch; train both with the same --epochs, at "
            "least one."
        )
    pair = {
        which: {"run": str(folder), "fingerprint": configs[which]["fingerprint"]}
        for which, folder in folders.items()
    }
    made = selected(histories[0], histories[1], rule, pair)
    for which, folder in folders.items():
        winner = folder / "checkpoints" / made[which]["winner"]
        if problem := verify(winner, CHECKPOINT):
            raise DataError(
                f"The checkpoint {winner} is not what was saved ({problem}), so it cannot be the "
                "one that is selected; restore it, or train again with another --out."
            )
    for which, folder in folders.items():
        store = Store(folder)
        store.lock()  # until the store is gone
        store.write_json(SELECTED, made[which])
    return made


def finished_config(folder: Path, direction: str) -> dict[str, Any]:
    """What config.json of a complete run in this direction holds. Raises UserError otherwise."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is no run: it holds no config.json; give the folder that `minihmx train` "
            "made, as runs/MODEL/DIRECTION/seed-N."
        )
    config: dict[str, Any] = read_json(folder / "config.json")
    status = read_json(folder / "status.json")
    science = config.get("science") if isinstance(config, dict) else None
    if not isinstance(science, dict) or not isinstance(config.get("fingerprint"), str):
        raise UserError(f"{folder / 'config.json'} is no config of a run; give another run.")
    if science.get("direction") != direction:
        raise UserError(
            f"{folder} is a {quoted(science.get('direction'))} run where the {direction} one was "
            "to stand; the order is: minihmx select FORWARD REVERSE."
        )
    state = status.get("state") if isinstance(status, dict) else None
    if state != "complete":
        raise UserError(
            f"{folder} is not finished (its status is {quoted(state)}), and its best epoch may be "
            "still to come; the same train command as before goes on with it."
        )
    return config


def check_pair(configs: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Path]) -> None:
    """Raises UserError, naming each field, where two runs differ in more than the direction."""
    forward, reverse = (configs[which]["science"] for which in folders)
    if differ := differences(forward, reverse, {"direction"}, ("forward", "in reverse")):
        raise UserError(
            f"{folders['forward']} and {folders['reverse']} are no pair ({differ}), so a "
            "difference between them would not come from the direction alone; give two runs of the "
            "same model, seed and options."
        )
