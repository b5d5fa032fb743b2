"""Golden prompts and verdicts of IFEval, made by lm-evaluation-harness itself.

    pip install -e '.[bench]' langdetect immutabledict
    python scripts/golden/ifeval.py ../shared tests/evals/golden_ifeval.json

Every case, an instruction with its arguments, meets every reply; a line of verdicts has one
character a reply: 1 followed strictly, 2 loosely only, 0 not at all. Sentences are split by nltk's
punkt on a small table of our own, so that nothing is downloaded. Of a prompt that holds published
text only length and sha256 are kept.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import langdetect

DATE = "26 Jul 2024"
TEMPLATES = {"qwen3": "qwen3", "gemma2": "gemma2-it", "llama3": "llama-3.2-3b-instruct"}
BOS = {"gemma2": "<bos>", "llama3": "<|begin_of_text|>"}
ITEMS = (0, 3, 17, 100, 540)  # lines of the published file whose prompts are kept as digests
# punkt's four files: what it learnt of abbreviations, words side by side, and words that begin.
PUNKT = {
    "abbrev_types.txt": "dr\nmr\nmrs\nu.s\np.m\n",
    "collocations.tab": "##number##\tmain\n",
    "sent_starters.txt": "he\nthe\nthen\n",
    "ortho_context.tab": "the\t46\nthen\t46\nhe\t46\nmoss\t14\nteam\t32\n",
}

MORE, FEWER = "at least", "less than"


def numbered(name: str, number: str, *counts: int, relation: str = "", **rest: Any) -> list[Any]:
    """The instruction with each number, and with both relations where it has one."""
    sides = [{relation: MORE}, {relation: FEWER}] if relation else [{}]
    return [(name, {number: count, **side, **rest}) for count in counts for side in sides]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("keywords:existence", {"keywords": ["tea"]}),
    ("keywords:existence", {"keywords": ["moss", "Dr", "o cl"]}),
    ("keywords:existence", {"keywords": ["straße", "σ"]}),
    *numbered("keywords:frequency", "frequency", 1, 2, 3, relation="relation", keyword=" tea "),
    *numbered("keywords:frequency", "frequency", 1, 2, relation="relation", keyword="aa"),
    ("keywords:forbidden_words", {"forbidden_words": ["tea", "moss"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["it's", "two  words", "été"]}),
    *numbered(
        "keywords:letter_frequency", "let_frequency", 1, 5, relation="let_relation", letter="T"
    ),
    *numbered("keywords:letter_frequency", "let_frequency", 2, relation="let_relation", letter="i"),
    *numbered("length_constraints:number_words", "num_words", 1, 3, 9, 20, relation="relation"),
    *numbered(
        "length_constraints:number_sentences", "num_sentences", 1, 2, 3, 4, 6, relation="relation"
    ),
    *numbered("length_constraints:number_paragraphs", "num_paragraphs", 1, 2, 3),
    *(
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": count, "nth_paragraph": nth, "first_word": word},
        )
        for count, nth, word in (
            *(
                (1, 1, "Tea"),
                (2, 1, "tea"),
                (2, 2, "dr"),
                (3, 3, "it"),
                (3, 2, "σας"),
                (2, 2, "no"),
            ),
            (1, 1, "ΣΑΣ"),
        )
    ),
    *numbered(
        "change_case:capital_word_frequency",
        "capital_frequency",
        *(1, 2, 3, 5),
        relation="capital_relation",
    ),
    *(("language:response_language", {"language": code}) for code in ("en", "de", "hi", "it")),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    *numbered("detectable_content:number_placeholders", "num_placeholders", 1, 2, 3),
    *(
        ("detectable_content:postscript", {"postscript_marker": mark})
        for mark in ("P.S.", "P.P.S", "Nota")
    ),
    *numbered("detectable_format:number_bullet_lists", "num_bullets", 1, 2, 3),
    *numbered("detectable_format:number_highlighted_sections", "num_highlights", 1, 2, 3),
    *numbered(
        "detectable_format:multiple_sections", "num_sections", 1, 2, 3, section_spliter="Section"
    ),
    *numbered("detectable_format:multiple_sections", "num_sections", 2, section_spliter=" Day "),
    ("detectable_format:title", {}),
    ("detectable_format:json_format", {}),
    ("detectable_format:constrained_response", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": " Write about Tea.\n"}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "*Tea*"}),
    ("startend:end_checker", {"end_phrase": " That is all. "}),
    ("startend:end_checker", {"end_phrase": "tea"}),
    ("startend:quotation", {}),
    ("punctuation:no_comma", {}),
]
REPLIES = [
    "",
    " \n\t\n ",
    "\u00a0",
    "***",
    "*",
    "\n*\n",
    "tea",
    "Tea, tea; TEA steam.",
    "Tea",
    "'\"Tea, they said.",
    "\"'Tea they said.",
    "Dr. Moss drinks tea at two o'clock. Then he leaves! The end?",
    "Dr Moss, o clock, tea",
    "He lives in the U.S. The U.S. team left at 5 p.m. He too.",
    'She said "Go!" Then she left. "Fine."',
    "Wait... what?! No. 1. Main point",
    "1. One thing.\n2. Another thing.\n3. The last.",
    "no full stop here\n- one\n- two\n* three",
    "One.  Two.\n\n\nThree.Four. 3.5 is a number. Visit example.com now",
    "He said that. he did. Mr. and Mrs. Moss. The team.",
    "«Bien.» “Curly.” Then (brackets.) [More.] End.",
    "aaaa aaa aa",
    "it's a trap",
    "Two  words, l'été",
    "two words, teapot and mossy",
    "Straße STRASSE strasse ſ σ ς Σ",
    "ΣΑΣ\n\nΣΑΣ\n\nIt",
    "İstanbul is in Turkey",
    "snake_case don't 3.14 naïve 日本語 e\u0301",
    "THIS IS ALL IN CAPITAL LETTERS AND IT IS ENGLISH, IS IT NOT.",
    "this is all in small letters and it is english, is it not.",
    "DIES IST EIN DEUTSCHER SATZ MIT VIELEN WORTEN UND KEINEM ENGLISCHEN.",
    "dies ist ein deutscher satz mit vielen worten und keinem englischen.",
    "Dies ist ein längerer deutscher Satz, der eindeutig nicht auf Englisch ist.",
    "यह एक हिंदी वाक्य है और इसमें कई शब्द हैं।",
    "这是一个中文句子，里面有很多字。",
    "123 456, 789!",
    "OK",
    "ok",
    "IT'LL BE NASA. I'M A-1 and U.S. OK",
    "I AM\nHERE NOW",
    "A B C D E",
    "The NASA/ESA plan. CAN'T go. X-RAY. W/O",
    "[name] and [address] and [",
    "[a [b] c] d]\n[open\nclose]",
    "[][ ]]][",
    "[one][two][three]",
    "Bye.\nP.S. I forgot.",
    "bye p.s.",
    "p. s. spaced, p.\ns.",
    "Bye.\nP.P.S I forgot",
    "p. p. s",
    "P.P.S. Nota bene",
    "P. P.\nS.",
    "* one\n* two",
    "* one\n** two\n- three",
    "*\n* b",
    "*\n\n* b\n*",
    "  * a\n\t- b\n\n   \n * c",
    "-\n--\n- -",
    "***\n- a",
    "\u00a0* a\r\n* b\x0b* c\u2028* d",
    "* a\x0c\n\x0c- b",
    "**bold** and *italic*",
    "*one* two *three*",
    "*one*two*three*",
    "** ** * * **** *a\nb*",
    "***both***",
    "**a*b**",
    "*a**b*",
    "* item *hi*\n* item **ho**",
    "Section 1\ntext\nSection 2\nmore",
    "Section1Section2 SECTION 3 Section  4",
    "**Section 1:** x\n\n**Section 2:** y Section ٣",
    "Day 1 Day 2 Daylight 3 Day 10 11",
    "<<Title>>",
    "<<>> <<<>>> << >>",
    "<<a\nb>>",
    "text <<my title>> and <<another>>",
    "<<<x>>>",
    "< <a> >\n<<b>",
    "<<\t>><< c",
    '{"a": 1}',
    '```json\n{"a": [1, 2]}\n```',
    '```\n{"a": 1}```',
    "```JSON\nNaN\n```",
    "```json```json\n1```",
    "```python\n1\n```",
    "1",
    '"text"',
    "{'a': 1}",
    '{"a": 1,}',
    'Here it is:\n{"a": 1}',
    'Here:\n{"a": 1}\nDone.',
    '{"a": 1, "a": 2}',
    "-Infinity",
    "[1, 2",
    "My answer is yes.",
    "my answer is yes.",
    "I think: My answer is maybe. Or My answer is no",
    "My *answer* is no.",
    "one ****** two",
    "one ****** one ",
    "******one ****** two******",
    "one ****** two ****** three",
    "one ******\n****** two",
    "one ************ two",
    "one ******* two",
    "one***two",
    "one *** two *** three",
    "***one\n***\ntwo***",
    "*** *** one",
    "one\n\n***\n\ntwo\n\n***\n\n",
    "one *** *** two",
    "* * *",
    "Write about tea. Here it goes",
    "  write ABOUT tea.\n\nTea",
    "Sure!\nWrite about tea. It is hot.\nDone",
    "*Tea* is hot",
    "Here: That is all.",
    'Here: "That is all."',
    "That is all. ",
    "That is all.\nAnything else?",
    "*That is all.*",
    "That is all",
    '"quoted"',
    '"',
    '""',
    ' "a" and "b" ',
    '"open',
    "“curly”",
    '*"starred"*',
    'Sure:\n"inner"\nBye',
    "Tea is hot.\n\nDr Moss agrees.",
    "tea.\n\n\n\nDr, Moss\n\n",
    "\n\nTea\n\nNo!",
    "One\n\nTwo\n\n'It' is\n\n",
    "Tea \n\n \n\n no",
    "No comma here",
    "A fullwidth， comma",
    "Thousands: 1,000",
    "line one\nline two, with tea\nline three",
    "Intro, with comma\nbody without",
    "\r\nTea\r\n\r\nno\r\n",
    "😀 tea 😀",
    "x" * 300,
    "word " * 40,
]


def punkt_table(folder: Path) -> Path:
    """Write PUNKT where nltk looks for it; returns what is to be in nltk's path."""
    place = folder / "tokenizers" / "punkt_tab" / "english"
    place.mkdir(parents=True)
    for name, text in PUNKT.items():
        (place / name).write_text(text, "utf-8")
    return folder


def verdicts() -> list[str]:
    """A line for each case."""
    from lm_eval.tasks.ifeval.utils import process_results

    lines = []
    for name, given in CASES:
        doc = {"key": 0, "prompt": "", "instruction_id_list": [name], "kwargs": [given]}
        found = [process_results(doc, [reply]) for reply in REPLIES]
        lines.append(
            "".join(
                "1" if each["prompt_level_strict_acc"] else "02"[each["prompt_level_loose_acc"]]
                for each in found
            )
        )
        assert all(each["inst_level_strict_acc"] in ([True], [False]) for each in found)
    return lines


def prompts(shared: Path, scratch: Path) -> dict[str, Any]:
    """Digests of the prompts of some published items, without chat ("") and with each template."""
    from types import SimpleNamespace

    import tokenizers
    import transformers
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    lines = (shared / "data" / "ifeval" / "input_data.jsonl").read_text("utf-8").splitlines()
    path = scratch / "items.jsonl"
    path.write_text("".join(lines[i] + "\n" for i in ITEMS), "utf-8")
    config = {
        "task": "ifeval",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": str(path)}},
        "output_type": "generate_until",
        "test_split": "train",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_target": 0,
    }
    task = ConfigurableTask(config=config)
    docs = list(task.test_docs())
    found = {"": [mark(task.fewshot_context(doc, 0)) for doc in docs]}
    for family, file in TEMPLATES.items():
        raw = gzip.decompress((shared / "tokenizers" / "qwen3" / "tokenizer.json.gz").read_bytes())
        tokenizer = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizers.Tokenizer.from_str(raw.decode()),
            bos_token=BOS.get(family),
            chat_template=(shared / "templates" / f"{file}.jinja").read_text("utf-8"),
        )
        options = {"enable_thinking": False, "date_string": DATE}
        model = SimpleNamespace(tokenizer=tokenizer, chat_template_args=options)

        def template(said: Any, model: Any = model, **flags: Any) -> str:
            return str(HFLM.apply_chat_template(model, said, **flags))

        found[family] = [
            mark(task.fewshot_context(doc, 0, apply_chat_template=True, chat_template=template))
            for doc in docs
        ]
    return found


def mark(text: str) -> list[Any]:
    """What is kept of a published text."""
    return [len(text), hashlib.sha256(text.encode()).hexdigest()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="holds data/, templates/ and tokenizers/")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    import nltk

    logging.disable(logging.ERROR)  # of each text without letters
    langdetect.DetectorFactory.seed = 0
    names = ("lm_eval", "nltk", "langdetect", "transformers")
    golden: dict[str, Any] = {n: importlib.metadata.version(n) for n in names}
    with tempfile.TemporaryDirectory() as scratch:
        nltk.data.path[:] = [str(punkt_table(Path(scratch)))]
        golden["verdicts"] = verdicts()
        golden["prompts"] = prompts(options.shared, Path(scratch))
    options.out.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
