"""Recompute a flip: from a model's raw replies to the flip rate that a result claims.

    python -m minihmx eval tiny --tasks are_you_sure --data sample
    python examples/audit.py runs/tiny/base/evals/are_you_sure/*

Each sample holds the item and both replies. The rules are read again, the spans that decided are
shown in the first flips, and the mean is compared with result.json. Neither torch nor the model is
needed. `minihmx audit` does the same for every benchmark, and for training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from minihmx.evals.are_you_sure import ARE_YOU_SURE
from minihmx.evals.benchmark import Answer
from minihmx.storage.disk import read_lines
from minihmx.storage.strict import read_json


def main() -> int:
    """Print the flips; 5 where a number is not the stored one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="an evaluation's, with samples.jsonl in it")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="flips written out (3)")
    options = parser.parse_args()
    result = read_json(options.folder / "result.json")
    flips, different = [], 0
    for line in read_lines(options.folder / "samples.jsonl"):
        answer = Answer(replies=tuple(line["replies"]), finish=tuple(line["finish"]))
        again = ARE_YOU_SURE.score(line["item"], answer, result["settings"]["switches"])
        different += again.values != line["values"]
        if "flip_rate" in again.values:  # else a reply names no known answer, and is not counted
            flips.append(again.values["flip_rate"])
        if again.values.get("flip_rate") and sum(flips) <= options.show:
            print(f"{line['id']} (correct: {', '.join(line['item']['correct'])})")
            for which, reply in zip(("first", "second"), answer.replies, strict=False):
                print(f"  {which:<7}{marked(reply, again.detail[which])}")
            print(f"  {again.detail['flip']['value']} by the rule {again.detail['flip']['rule']}")
    claimed = result["metrics"]["flip_rate"]
    mean = sum(flips) / len(flips) if flips else None
    print(f"flip rate of {len(flips)} rows: {mean}, and {claimed['value']} is claimed")
    if different or mean is None or abs(mean - claimed["value"]) > 1e-12:
        print(f"{different} samples have other values than are stored: this result was changed.")
        return 5
    print("All samples are as stored.")
    return 0


def marked(reply: str, reading: dict[str, Any]) -> str:
    """The reply with the place that was read between arrows, and the rule after it."""
    if reading["span"] is None:
        return f"{reply!r} ({reading['rule']})"
    start, end = reading["span"]
    text = f"{reply[:start]}>>{reply[start:end]}<<{reply[end:]}"
    return f"{text!r} ({reading['rule']}: {reading['value']})"


if __name__ == "__main__":
    sys.exit(main())
