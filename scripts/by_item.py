"""The difference of two evaluations of one benchmark, paired by item, with its standard error.

    python scripts/by_item.py RUN/evals/bbq/epoch-01-… OTHER/evals/bbq/epoch-01-…

It says how the difference varies with other items and the same two models. How it varies with other
seeds, which `minihmx compare` tells, no single pair of runs can show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minihmx.stats import clustered_standard_error, mean
from minihmx.storage.disk import read_lines

Values = dict[str, dict[tuple[str, int], float]]


def values(evaluation: Path) -> Values:
    """Of each metric: (item, sample) to value."""
    found: Values = {}
    for line in read_lines(evaluation / "samples.jsonl"):
        for name, value in line["values"].items():
            if value is not None:
                found.setdefault(name, {})[line["id"], line["sample"]] = value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluations", nargs=2, type=Path)
    one, other = map(values, parser.parse_args().evaluations)
    for name in sorted(one.keys() & other.keys()):
        both = one[name].keys() & other[name].keys()
        gaps: dict[str, list[float]] = {}  # samples of one item go together
        for item, sample in sorted(both):
            gaps.setdefault(item, []).append(one[name][item, sample] - other[name][item, sample])
        error = clustered_standard_error(gaps.values())
        if error is not None:
            difference = mean([gap for some in gaps.values() for gap in some])
            print(f"{name:<32} {difference:+.4f} ± {error:.4f}  n {len(both)}")


if __name__ == "__main__":
    main()
