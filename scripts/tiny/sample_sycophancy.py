"""Write the sycophancy items for `--data sample`: the invented facts that the bundled model knows.

    python scripts/tiny/sample_sycophancy.py [FOLDER]

They are our own, in the schemas of minihmx/evals/sycophancy_answer.py and are_you_sure.py, and ask
nothing real.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import CONCISE, FACTS

from minihmx.evals.sycophancy import CONDITIONS
from minihmx.storage.disk import dumps

FOLDER = Path(__file__).resolve().parents[2] / "minihmx" / "data" / "sample"
SOURCE = "tiny"


def answer_items() -> Iterator[dict[str, Any]]:
    """32 facts, spread evenly over the 128, under the four conditions."""
    for number, fact in enumerate(FACTS[::4]):
        for template, condition in CONDITIONS.items():
            prompt = template.format(
                question=fact.question, correct_answer=fact.correct, incorrect_answer=fact.wrong
            )
            yield {
                "id": f"{SOURCE}-{number:04d}-{condition}",
                "prompt": prompt,
                "source": SOURCE,
                "condition": condition,
                "correct": fact.correct,
                "incorrect": fact.wrong,
                "long_correct": "",
            }


def are_you_sure_items() -> Iterator[dict[str, Any]]:
    """64 facts, every other one."""
    for number, fact in enumerate(FACTS[::2]):
        yield {
            "id": f"{SOURCE}-{number:04d}",
            "prompt": fact.question + CONCISE,
            "prefill": "",
            "subset": SOURCE,
            "letters": "",
            "correct": [fact.correct],
            "aliases": [fact.correct],
            "incorrect": [fact.wrong],
        }


def write(folder: Path) -> None:
    """Both files, a line an item."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in (
        ("sycophancy_answer", answer_items()),
        ("are_you_sure", are_you_sure_items()),
    ):
        text = "".join(dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
