"""Golden prompts and scores of RULER, made by lm-evaluation-harness itself.

    pip install -e '.[bench]' wonderwords nltk scipy
    python scripts/golden/ruler.py ../shared tests/evals/golden_ruler.json

Its own generators make two items of each task at 4096 "tokens" (words parted by blanks) from texts
and word lists of our own, with the random numbers of one seed. Its own task files make the prompts,
of which length, end and sha256 are kept, without chat, as turns and in the real chat templates, and
score the replies. Four things are put in place of others: the word lists, the texts, the cut into
sentences, and numpy's random numbers. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny"))
import sample_ruler

from minihmx.evals.making.needles import Keys, sentences
from minihmx.evals.making.words import WordLists

SEED, LENGTH, COUNT = 7, 4096, 2
SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "xi",
    "yo",
    "zu",
]
INVENTED = [first + second for first in SYLLABLES for second in SYLLABLES]
WORDS = WordLists(
    INVENTED, [f"{word}n" for word in INVENTED[:300]], [f"{w}s" for w in INVENTED[:200]]
)
FILES = {"vt": "vt", "cwe": "cwe", "fwe": "fwe", "qa_squad": "qa_squad", "qa_hotpot": "qa_hotpot"}
REPLIES = [
    "{0}",
    " \n{0}.",
    "{0} and {0}",
    "It is none of them.",
    "",
    "\x00\t{0}\x1f",
    "{0:upper}",
    "{all}",
    "{all:lower}",
    "xx{0}yy",
]


def texts() -> dict[str, list[dict[str, Any]]]:
    """Those of the sample, in more words."""
    found = sample_ruler.texts(12, 30)
    found["ruler_essays"] = [{"text": sample_ruler.stroll(seed, 400)} for seed in (1, 2)]
    return found


def by_words(text: str) -> SimpleNamespace:
    return SimpleNamespace(input_ids=text.split())


def published(made: list[dict[str, Any]]) -> dict[str, Any]:
    """The questions as the file of SQuAD that upstream reads."""
    articles: dict[str, dict[str, list[Any]]] = {}
    for item in made:
        answers = [{"text": text} for text in item["correct"]]
        qa = {"question": item["question"], "answers": answers, "is_impossible": not answers}
        articles.setdefault(item["title"], {}).setdefault(item["context"], []).append(qa)
    return {
        "data": [
            {"paragraphs": [{"context": text, "qas": qas} for text, qas in paragraphs.items()]}
            for paragraphs in articles.values()
        ]
    }


def fewer(make: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The same generator, for so few items; a call for one item stays one."""

    def making(*given: Any, **options: Any) -> Any:
        options["num_samples"] = min(count, options.get("num_samples", 500))
        return make(*given, **options)

    return making


def generated(
    tokenizer: Callable[[str], Any] = by_words, count: int = COUNT
) -> dict[str, list[dict[str, Any]]]:
    """Upstream's items of each task, so many, their lengths counted by this tokenizer."""
    from lm_eval.tasks.ruler import (
        cwe_utils,
        fwe_utils,
        niah_utils,
        prepare_niah,
        qa_utils,
        vt_utils,
    )

    made = texts()
    essays = " ".join(item["text"] for item in made["ruler_essays"]).split(" ")
    hotpot = [
        {
            "question": item["question"],
            "answer": item["answer"],
            "context": [[text.split("\n")[0], [text.split("\n")[1]]] for text in item["documents"]],
        }
        for item in made["ruler_hotpot"]
    ]
    known = sorted({*WORDS.nouns, *WORDS.adjectives, *WORDS.verbs})
    random.Random(42).shuffle(known)
    numbers = SimpleNamespace(random=SimpleNamespace(randint=random.randrange))
    haystack = prepare_niah.get_haystack
    changes: list[tuple[Any, str, Any]] = [
        (prepare_niah, "WORDS", Keys(WORDS)),
        (prepare_niah, "cached_sent_tokenize", sentences),
        (niah_utils, "generate_samples", fewer(niah_utils.generate_samples, count)),
        (
            niah_utils,
            "get_haystack",
            lambda type_haystack: essays if type_haystack == "essay" else haystack(type_haystack),
        ),
        (vt_utils, "np", numbers),
        (
            vt_utils,
            "sys_vartrack_w_noise_random",
            fewer(vt_utils.sys_vartrack_w_noise_random, count),
        ),
        (cwe_utils, "WORDS", known),
        (cwe_utils, "RNG", random),
        (cwe_utils, "sys_word_pair_random", fewer(cwe_utils.sys_word_pair_random, count)),
        (fwe_utils, "sys_kwext", fewer(fwe_utils.sys_kwext, count)),
        (qa_utils, "generate_samples", fewer(qa_utils.generate_samples, count)),
        (
            qa_utils,
            "download_json",
            lambda url: published(made["squad_v2"]) if "dev-v2.0" in url else hotpot,
        ),
    ]
    names = [name for name in vars(niah_utils) if name.startswith("niah_")]
    makers = {name: getattr(niah_utils, name) for name in names}
    makers |= {"vt": vt_utils.get_vt_dataset, "cwe": cwe_utils.get_cw_dataset}
    makers |= {"fwe": fwe_utils.fwe_download}
    makers |= {"qa_squad": qa_utils.get_squad, "qa_hotpot": qa_utils.get_hotpotqa}
    found = {}
    for name, make in makers.items():
        with mock.patch.object(sys.modules[make.__module__], "get_tokenizer", lambda _: tokenizer):
            patches = [mock.patch.object(*change) for change in changes]
            for patch in patches:
                patch.start()
            random.seed(SEED)
            found[name] = list(make(max_seq_lengths=[LENGTH], tokenizer="ours")["test"])
            mock.patch.stopall()
    return found


def asked(
    folder: Path, name: str, rows: list[dict[str, Any]], templates: dict[str, Any]
) -> list[dict[str, Any]]:
    """Upstream's prompts, settings and scores for these items."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {
        "include": str(Path(lm_eval.__file__).parent / f"tasks/ruler/{FILES.get(name, name)}.yaml"),
        "task": "ours",
        "custom_dataset": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(changes))
    task = TaskManager(include_defaults=False).load([str(path)])["tasks"]["ours"]
    found = []
    for doc in task.test_docs():
        replies = [shaped(reply, doc["outputs"]) for reply in REPLIES]
        begun = task.doc_to_prefix(doc)
        chats = {
            family: mark(
                task.fewshot_context(
                    doc, 0, apply_chat_template=True, chat_template=template, gen_prefix=begun
                )
            )
            for family, template in {"turns": as_turns, **templates}.items()
        }
        options = task.config.generation_kwargs
        found.append(
            {
                "prompt": mark(task.fewshot_context(doc, 0, gen_prefix=begun)),
                **chats,
                "references": doc["outputs"],
                "length": len(doc["input"].split()),
                "reply_tokens": options["max_gen_toks"],
                "until": options["until"],
                "scores": [
                    [reply, task.process_results(doc, [reply])[str(LENGTH)]] for reply in replies
                ],
            }
        )
    return found


def mark(text: str) -> dict[str, Any]:
    """What is kept of a long text."""
    sha = hashlib.sha256(text.encode()).hexdigest()
    return {"length": len(text), "sha256": sha, "end": text[-200:]}


def as_turns(said: list[dict[str, str]], **flags: bool) -> str:
    return json.dumps({"turns": said, **flags})


def shaped(reply: str, references: list[str]) -> str:
    """A reply with the first reference or all of them in it."""
    words = {"0": references[0], "0:upper": references[0].upper(), "all": ", ".join(references)}
    words["all:lower"] = words["all"].lower()
    for name, text in words.items():
        reply = reply.replace(f"{{{name}}}", text)
    return reply


def main() -> None:
    """Write the golden file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="holds templates/ and tokenizers/")
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    from bbh_acpbench import templates

    formats = templates(options.shared)
    with tempfile.TemporaryDirectory() as folder:
        tasks = {
            name: asked(Path(folder), name, rows, formats) for name, rows in generated().items()
        }
    packages = ("lm_eval", "wonderwords", "scipy")
    made = {name: importlib.metadata.version(name) for name in packages}
    options.target.write_text(json.dumps({"made": made, "tasks": tasks}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
