"""Golden prompts and scores of EQ-Bench, made by lm-evaluation-harness's own task.

    pip install 'lm-eval==0.4.13' 'transformers<5' datasets jinja2
    python scripts/golden/eq_bench.py ../shared tests/evals/golden_eq_bench.json

Rows and replies are of our own. Of the published items, which are those of v2, only length and
sha256 of each prompt are kept, as the steps that lead from v2 to the hub's v2.1 leave it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

from harness import asked, template

# As the hub has a row: the references are texts that Python reads.
ROWS: list[dict[str, str]] = [
    {
        "prompt": "Ada: You forgot the roses.\n[End dialogue]\n\nHow would Ada feel?\n\n"
        "Your answer:",
        "reference_answer": "{'emotion1': 'Angry', 'emotion2': 'Sad', 'emotion3': 'Proud', "
        "'emotion4': 'Bored', 'emotion1_score': 5, 'emotion2_score': 3, 'emotion3_score': 1, "
        "'emotion4_score': 1}",
        "reference_answer_fullscale": "{'emotion1': 'Angry', 'emotion2': 'Sad', 'emotion3': "
        "'Proud', 'emotion4': 'Bored', 'emotion1_score': '7', 'emotion2_score': '6', "
        "'emotion3_score': 0, 'emotion4_score': 0}",
    },
    {
        "prompt": ' Two blanks and «quotes» — 日本語\n\n\nKim: It\'s "mine".\n\nYour answer:\n ',
        "reference_answer": "{}",
        "reference_answer_fullscale": "{'emotion1': 'Überrascht', 'emotion2': 'Sad_2', 'emotion3': "
        "'hopeful', 'emotion4': 'Hopeful', 'emotion1_score': '10', 'emotion2_score': '2', "
        "'emotion3_score': 5, 'emotion4_score': '8'}",
    },
]
RIGHT = "Angry: 7\nSad: 6\nProud: 0\nBored: 0"
OTHER = "Überrascht: 10\nSad_2: 2\nhopeful: 5\nHopeful: 8"
REPLIES: list[tuple[int, str]] = [
    (0, RIGHT),
    (0, "Angry: 8\nSad: 4\nProud: 3\nBored: 4"),  # distances 1 to 4
    (0, "Angry: 2\nSad: 0\nProud: 5\nBored: 6"),  # 5, where the curve ends, and 6 above it
    (0, "Bored: 0\nProud: 0\nSad: 6\nAngry: 7"),  # in another order
    (0, "Angry: 7, Sad: 6, Proud: 0, Bored: 0"),
    (0, f"First pass scores:\n{RIGHT}"),  # no number follows that colon, so it counts
    (0, f"Scores: 5\n{RIGHT}"),  # a fifth word
    (0, f"{RIGHT}\nTotal: 13"),
    (0, f"{RIGHT}\nAngry: 2"),  # rated twice: the last one counts
    (0, "Angry: 7\nSad: 6\nProud: 0"),
    (0, "Angry: 7\nSad: 6\nProud: 0\nHappy: 0"),
    (0, RIGHT.lower()),  # the case counts
    (0, RIGHT.replace(": ", ":")),  # no blank behind the colon
    (0, RIGHT.replace(": ", ":\n")),
    (0, RIGHT.replace(": ", " : ")),
    (0, RIGHT.replace(": ", ":   ")),
    (0, "**Angry**: 7\n**Sad**: 6\n**Proud**: 0\n**Bored**: 0"),
    (0, "**Angry:** 7\n**Sad:** 6\n**Proud:** 0\n**Bored:** 0"),
    (0, "- Angry: 7/10\n- Sad: 6/10\n- Proud: 0/10\n- Bored: 0/10"),
    (0, "Angry: 7.9\nSad: 6.5\nProud: 0.4\nBored: 0"),  # what is behind the point is not read
    (0, "Angry: -7\nSad: 6\nProud: 0\nBored: 0"),
    (0, "Angry: 100\nSad: 6\nProud: 0\nBored: 0"),  # nothing is clipped
    (0, "Angry: 7000000000000\nSad: 6\nProud: 0\nBored: 0"),
    (0, "Angry: ７\nSad: ٦\nProud: 0\nBored: 0"),  # other scripts' digits
    (0, "VeryAngry: 7\nSad: 6\nProud: 0\nBored: 0"),
    (0, "Very Angry: 7\nSad: 6\nProud: 0\nBored: 0"),
    (0, "not-Angry: 7\nSad: 6\nProud: 0\nBored: 0"),
    (0, ""),
    (0, "I would rather not say."),
    (0, "Angry: seven\nSad: six\nProud: zero\nBored: zero"),
    (1, OTHER),
    (1, OTHER.replace("hopeful: 5\n", "")),
    (1, OTHER.replace("Überrascht", "U\u0308berrascht")),  # two characters, of which one is no word
    (1, OTHER.replace("10", "0")),
]


def local_task(folder: Path) -> Any:
    """lm-eval's own task, told to read our rows."""
    import lm_eval
    from lm_eval.tasks import TaskManager, get_task_dict

    path = folder / "eq_bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    changes = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / "eq_bench" / "default.yaml"),
        "task": "eq_bench_here",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(path)}},
    }
    path.with_suffix(".yaml").write_text(json.dumps(changes))
    (task,) = get_task_dict([str(path.with_suffix(".yaml"))], TaskManager()).values()
    return task


def second_version(prompt: str) -> str:
    """A prompt of v2.1, from that of v2 by the steps in the README beside the published file."""
    for dropped in (
        " Then critique your answer by thinking it through step by step."
        " Finally, give your revised scores.",
        "First pass scores:\n",
    ):
        assert dropped in prompt
        prompt = prompt.replace(dropped, "")
    before = prompt[: prompt.index("Critique: <your critique here>")]
    after = prompt[prompt.index("[End of answer]") :]
    return (before + "\n" + after + "\nYour answer:\n").strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="holds data/, tokenizers/ and templates/")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    golden: dict[str, Any] = {"lm_eval": importlib.metadata.version("lm_eval"), "rows": ROWS}
    with tempfile.TemporaryDirectory() as scratch:
        task = local_task(Path(scratch))
        golden["plain"] = asked(task)
        golden["chat"] = [prompt for prompt, _ in asked(task, template(options.shared))]
        golden["replies"] = [
            [row, reply, task.process_results(ROWS[row], [reply])] for row, reply in REPLIES
        ]
    path = options.shared / "data" / "eq_bench" / "eq_bench_v2_questions_171.json"
    prompts = [second_version(row["prompt"]) for row in json.loads(path.read_text()).values()]
    golden["published"] = [
        [len(prompt), hashlib.sha256(prompt.encode()).hexdigest()] for prompt in prompts[::17]
    ]
    options.out.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
