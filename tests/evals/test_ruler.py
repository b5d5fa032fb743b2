"""RULER: its prompts and scores against lm-evaluation-harness's, and the lengths of its items."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from command_line import in_process
from conftest import shared
from upstream_ruler import SCRIPT, TEXTS, sample_ruler, upstream_items

from minihmx.commands import data
from minihmx.errors import IOFailure, UserError
from minihmx.evals import ruler
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.replies import plain_text
from minihmx.evals.benchmark import Answer
from minihmx.evals.items import made
from minihmx.evals.items.load import load_dataset, locate, read_items
from minihmx.evals.making import lengths, words
from minihmx.evals.making.documents import squad_questions
from minihmx.evals.making.needles import Keys, sentences
from minihmx.evals.making.words import WordLists, word_lists
from minihmx.evals.ruler import REPLIES, RULER
from minihmx.evals.squad_v2 import SQUAD_V2
from minihmx.models import chat
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Message
from minihmx.storage.disk import dumps

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_ruler.json").read_text())
NO_TEXTS = ["niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe"]


def by_words(text: str) -> int:
    return len(text.split())


def same(text: str, kept: Mapping[str, Any]) -> None:
    assert text[-200:] == kept["end"]
    assert len(text) == kept["length"]
    assert hashlib.sha256(text.encode()).hexdigest() == kept["sha256"]


def test_the_golden_file_has_every_task() -> None:
    assert set(GOLDEN["tasks"]) == set(REPLIES) == set(ruler.RULER.recipe.tasks)  # type: ignore[union-attr]


@pytest.mark.parametrize("task", REPLIES)
def test_prompts_are_those_of_lm_eval_to_the_letter(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = upstream_items(task, by_words, SCRIPT.COUNT, monkeypatch)
    golden = GOLDEN["tasks"][task]
    assert len(items) == len(golden) == 2
    for item, theirs in zip(items, golden, strict=True):
        assert by_words(item["prompt"]) == theirs["length"]
        asked = ruler.ask(item, {})
        same(plain_text(asked, [Message("user", asked.turns[0])], asked.prefill), theirs["prompt"])
        said = [
            {"role": "user", "content": asked.turns[0]},
            {"role": "assistant", "content": asked.prefill},
        ]
        same(json.dumps({"turns": said, "add_generation_prompt": False}), theirs["turns"])
        for family in ("qwen3", "gemma2", "llama3"):
            turn = chat.render(family, [Message("user", asked.turns[0])], date="26 Jul 2024")
            same("".join(s.text for s in turn) + asked.prefill, theirs[family])
        assert item["references"] == theirs["references"] == list(asked.complete)
        assert (asked.max_new_tokens, list(asked.until)) == (
            theirs["reply_tokens"],
            theirs["until"],
        )
        for reply, verdict in theirs["scores"]:
            scored = ruler.score(item, Answer(replies=(asked.prefill + reply,)), {})
            assert scored.values == {f"4096/{task}": pytest.approx(verdict, abs=1e-12)}, reply


def test_what_the_prompt_began_with_is_no_part_of_the_reply() -> None:
    item = load_dataset(RULER, "sample").items[-1]
    assert item["prefill"] == "Answer:"
    asked = {**item, "references": ["answer", item["references"][0]]}
    score = ruler.score(asked, Answer(replies=(f"Answer: {item['references'][0]}",)), {})
    assert score.values == {"512/qa_hotpot": 0.5} and score.detail == {"found": [False, True]}


# Lengths


@cache
def tokenizer(family: str) -> Tokenizer:
    """A real one, which takes a second to read."""
    packed = shared(f"tokenizers/{family}/tokenizer.json.gz").read_bytes()
    return Tokenizer.from_bytes(gzip.decompress(packed))


# The size is searched once and never grows, as upstream does it. Where what a size counts is not of
# one length (uuids, invented words, documents), or the search counts an example that is not shown
# (cwe), an item of that size may be short of the limit by more than one step.
UNEVEN = {"niah_multikey_3", "cwe", "fwe", "qa_squad", "qa_hotpot"}


@pytest.mark.parametrize("family", ["qwen3", "llama3"])
@pytest.mark.parametrize("task", REPLIES)
def test_lengths_on_real_tokenizers(task: str, family: str) -> None:
    """Counted in full: no item is above 4,096 tokens, none is shorter than that and the search for
    its size ask for, and where sentences are alike one more step would be too much."""
    tokens = tokenizer(family).count
    maker, _ = ruler.maker(task, tokens, "a seed", 4096, SCRIPT.WORDS, TEXTS)
    drawn: list[tuple[int, int, int, int, int]] = []

    def watched(rng: Random, number: int, size: int) -> lengths.Draft:
        made, more = maker.draft(rng, number, size), maker.draft(Random(1), number, size)
        longer = maker.draft(Random(1), number, size + maker.step)
        step = tokens(longer.counted) - tokens(more.counted)
        counts = [tokens(text) + maker.reply for text in (made.sized, made.counted)]
        drawn.append((number, size, *counts, step))
        return made

    watching = dataclasses.replace(maker, draft=watched)
    items = list(lengths.make_items(task, watching, tokens, "a seed", 4096, 8))
    over = next(n for n, (_, _, sized, _, _) in enumerate(drawn) if sized >= 4096)
    searched, attempts = drawn[: over + 1], drawn[over + 1 :]
    assert all(sized < 4096 for _, _, sized, _, _ in searched[:-1])
    found = searched[-1][1] - maker.step
    for number, item in enumerate(items):
        tried = [each for each in attempts if each[0] == number]
        assert tried[0][1] == max(found, maker.least(number))
        assert all(counted > 4096 for *_, counted, _ in tried[:-1])
        *_, counted, step = tried[-1]
        assert counted <= 4096
        assert task in UNEVEN or counted + step + 20 > 4096  # a key has a few tokens more or less
        assert tokens(item["prompt"]) <= 4096 - (0 if task == "fwe" else REPLIES[task])
    assert len(items) == 8


@pytest.mark.parametrize("family", ["qwen3", "llama3"])
def test_estimates_are_close_enough_to_be_believed(family: str) -> None:
    tokens = tokenizer(family).count
    estimate = lengths.estimator(tokens)
    for task in REPLIES:
        maker, _ = ruler.maker(task, tokens, "s", 4096, SCRIPT.WORDS, TEXTS)
        _, trusted = lengths._search(task, maker, tokens, estimate, Random(3), 4096)
        assert trusted, task


def test_a_tokenizer_whose_words_do_not_add_up_is_asked_about_every_item() -> None:
    """One that needs a token less for every word but the first of a text."""
    calls = []

    def odd(text: str) -> int:
        calls.append(text)
        return len(text.split()) * 2 if len(text.split()) < 3 else len(text.split())

    maker, _ = ruler.maker("niah_single_1", odd, "s", 4096, SCRIPT.WORDS, {})
    items = list(lengths.make_items("niah_single_1", maker, odd, "s", 4096, 5))
    assert {item["prompt"] for item in items} <= {*calls}
    assert all(3900 - 475 < odd(item["prompt"]) + 128 <= 4096 for item in items)


def test_a_tokenizer_that_cannot_reach_the_length_is_refused() -> None:
    for task in ("niah_single_1", "vt", "cwe"):
        with pytest.raises(UserError, match=r"cannot be made [45][\d,]+ tokens long") as caught:
            maker, _ = ruler.maker(task, lambda text: 0, "s", 4096, SCRIPT.WORDS, {})
            list(lengths.make_items(task, maker, lambda text: 0, "s", 4096, 1))
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_stay_within_it_is_refused() -> None:
    for task in NO_TEXTS:
        with pytest.raises(UserError, match=r"does not fit into [45][\d,]+ tokens") as caught:
            maker, _ = ruler.maker(task, lambda text: 40 * len(text), "s", 4096, SCRIPT.WORDS, {})
            list(lengths.make_items(task, maker, lambda text: 40 * len(text), "s", 4096, 1))
        assert "\n" not in str(caught.value)


def test_texts_that_are_too_short_are_refused() -> None:
    essays = {"ruler_essays": [{"text": "One word. " * 300}]}
    maker, _ = ruler.maker("niah_single_2", by_words, "s", 4096, SCRIPT.WORDS, essays)
    with pytest.raises(UserError, match="500 words of the essays make only"):
        list(lengths.make_items("niah_single_2", maker, by_words, "s", 4096, 1))


def test_a_question_that_is_too_long_is_left_out() -> None:
    texts = json.loads(json.dumps(TEXTS["ruler_hotpot"]))
    texts[1]["documents"][0] = "A title\n" + "word " * 5000
    maker, count = ruler.maker("qa_hotpot", by_words, "s", 4096, WORDS, {"ruler_hotpot": texts})
    items = lengths.make_items("qa_hotpot", maker, by_words, "s", 4096, count)
    ids = [item["id"] for item in items]
    assert ids[:2] == ["qa_hotpot-000", "qa_hotpot-002"] and len(ids) == count - 1


# WordLists


WORDS = SCRIPT.WORDS


def test_the_words_are_those_of_the_package_as_upstream_uses_them() -> None:
    pytest.importorskip("wonderwords")
    found = word_lists()
    for name, theirs in zip(("noun", "adjective", "verb"), found, strict=True):
        lines = shared(f"data/ruler/{name}list.txt").read_text("utf-8").splitlines()
        assert {*map(str.strip, lines)} == {*theirs}, name
    keys = Keys(found)
    assert len(keys) == 6_171_620
    assert keys[0] < keys[1] and keys[len(keys) - 1].count("-") >= 1


def test_keys_are_all_pairs() -> None:
    keys = Keys(WordLists(["b", "a", "b"], ["y", "x"], []))
    assert [keys[i] for i in range(len(keys))] == ["x-a", "x-b", "y-a", "y-b"]


def test_without_the_package_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    words.word_lists.cache_clear()
    with pytest.raises(UserError, match="extra `evals`") as caught:
        made.find_items(RULER, "hub")
    assert "\n" not in str(caught.value) and "wonderwords" in str(caught.value)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("One. Two! Three? four", 3),
        ('He said "Go." Then he went.', 2),
        ("It is 3.5 long, e.g. this. 7 more.", 2),
        ("no end", 1),
    ],
)
def test_sentences(text: str, parts: int) -> None:
    assert len(sentences(text)) == parts and " ".join(sentences(text)) == text


# Made and kept


def put(folder: Path, *names: str) -> Path:
    """A folder with texts in the schema."""
    folder.mkdir(exist_ok=True)
    for name in names:
        rows = [{"id": f"{name}-{n}", **row} for n, row in enumerate(TEXTS[name])]
        (folder / f"{name}.jsonl").write_text("".join(dumps(row) + "\n" for row in rows), "utf-8")
    return folder


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Word lists of our own, an empty cache, and five items a task."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ruler, "word_lists", lambda: SCRIPT.WORDS)
    recipe = RULER.recipe
    assert recipe
    monkeypatch.setattr(ruler, "ITEMS_EACH", 5)
    object.__setattr__(RULER, "recipe", recipe._replace(each=5, need=lambda: None))
    yield
    object.__setattr__(RULER, "recipe", recipe)


def make(where: Path | str, partial: bool = False, sha: str = "f" * 64, **given: int) -> Any:
    promise = made.find_items(RULER, str(where), partial)
    context = given.get("context", 8192)
    return made.make_dataset(RULER, promise, by_words, sha, context)


def test_texts_that_are_not_there_are_named_in_one_sentence(ours: None, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(put(tmp_path / "own", "squad_v2"))
    said = str(caught.value)
    assert "\n" not in said and "6 of RULER's 13 tasks" in said
    assert "essays.parquet" in said and "hotpot_dev_distractor_v1.json" in said
    assert "dev-v2.0" not in said and "`minihmx data get ruler`" in said
    assert "--partial to run the other 7" in said


def test_texts_that_the_hub_does_not_give_are_named_in_one_sentence(
    ours: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> None:
        raise IOFailure("The hub cannot be reached.")

    monkeypatch.setattr(made, "fetch", offline)
    with pytest.raises(IOFailure, match="data get ruler` where there is a network") as caught:
        make("hub")
    assert "cannot be reached); type" in str(caught.value) and "\n" not in str(caught.value)
    found = make("hub", partial=True)
    assert len(found.items) == 30 and found.origin == "hub"


def test_data_lists_and_checks_the_texts_and_the_sample(ours: None, tmp_path: Path) -> None:
    (line,) = map(str, data.listing(["ruler"], as_json=True))
    listed = json.loads(line)
    assert [each["name"] for each in listed] == ["ruler_essays", "squad_v2", "ruler_hotpot"]
    own = put(tmp_path / "own", "ruler_essays")
    (checked,) = data.check_items(["ruler_essays"], str(own))
    assert str(checked).startswith("ruler_essays       2 items")
    (checked,) = data.check_items(["ruler"], "sample")
    assert str(checked).startswith("ruler              26 items")


def test_six_tasks_run_without_any_text(ours: None, tmp_path: Path) -> None:
    found = make(put(tmp_path / "own"), partial=True)
    assert list(dict.fromkeys(item["task"] for item in found.items)) == NO_TEXTS
    assert found.label == "partial 30/6500" and "qa_hotpot left out" in found.note
    lines = "".join(dumps(item) + "\n" for item in found.items)
    assert found.digest == hashlib.sha256(lines.encode()).hexdigest()


def test_items_are_made_once_for_a_tokenizer_and_its_texts(
    ours: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = put(tmp_path / "own", "ruler_essays", "squad_v2", "ruler_hotpot")
    first = make(own)
    assert len(first.items) == 65 and len({item["id"] for item in first.items}) == 65
    other = make(own, sha="e" * 64)
    assert other.digest != first.digest
    kept = sorted((tmp_path / "cache").rglob("*.jsonl"))
    assert len(kept) == 26
    # a spoilt file is made again, the same; what is whole is not
    spoilt = next(path for path in kept if path.parent.name.startswith("f") and path.stem == "vt")
    whole = spoilt.read_bytes()
    asked: list[str] = []
    real = ruler.maker
    monkeypatch.setattr(ruler, "maker", lambda *given: asked.append(given[0]) or real(*given))
    for damage in (whole[:-9], whole.replace(b"grass", b"grasz", 1), b"", b"\xff\n"):
        spoilt.write_bytes(damage)
        assert make(own).digest == first.digest and spoilt.read_bytes() == whole
    assert asked == ["vt"] * 4
    # other essays are other items of the tasks with essays alone
    essays = own / "ruler_essays.jsonl"
    essays.write_text(essays.read_text("utf-8").replace("Anso", "Ansa"), "utf-8")
    assert make(own).digest != first.digest
    essay_tasks = [task for task, names in ruler.TEXTS.items() if names == ("ruler_essays",)]
    assert asked[4:] == essay_tasks and len(essay_tasks) == 5
    essays.rename(own / "essays.jsonl")  # as one might publish them
    assert len(make(own).items) == 65


def test_a_context_below_the_length_is_refused(ours: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4,096 tokens long, and the model's context is only 1,024"):
        make(put(tmp_path / "own"), partial=True, context=1024)


def test_the_published_files_become_texts(tmp_path: Path) -> None:
    found = locate(SQUAD_V2, str(shared("data/squad_v2")))
    assert found
    items = read_items(SQUAD_V2, found).items
    questions, documents = squad_questions(items)
    assert len(items) == 6078 and len(questions) == 6078 - 3168
    assert documents == sorted(set(documents))
    hotpot = {"question": "Q?", "answer": "a", "context": [["T", ["One.", " Two."]]]}
    (item,) = ruler.hotpot(hotpot, 3, tmp_path)
    assert item["documents"] == ["T\nOne. Two."] and item["id"] == "hotpot-0003"


def test_an_item_that_could_not_be_scored_is_refused() -> None:
    item = dict(load_dataset(RULER, "sample").items[0])
    ruler.check(item)
    wrong = {"task": "x", "length": 8, "prompt": " ", "references": []}
    for name, value in [*wrong.items(), ("references", ["a", "b "]), ("references", ["\na"])]:
        with pytest.raises(ValueError):
            ruler.check({**item, name: value})


def test_an_answer_that_ends_in_a_blank_can_still_be_found() -> None:
    texts = {**TEXTS, "ruler_hotpot": [dict(item) for item in TEXTS["ruler_hotpot"]]}
    for item in texts["ruler_hotpot"]:
        item["answer"] = f"{item['answer']} "
    maker, _ = ruler.maker("qa_hotpot", by_words, "s", 4096, SCRIPT.WORDS, texts)
    for item in lengths.make_items("qa_hotpot", maker, by_words, "s", 4096, 2):
        ruler.check(item)


# The sample


def test_the_sample_is_what_its_script_writes_and_512_tokens_long(tmp_path: Path) -> None:
    sample_ruler.write(tmp_path)
    name = "ruler.jsonl"
    assert (tmp_path / name).read_bytes() == (sample_ruler.FOLDER / name).read_bytes()
    tokens = Tokenizer.load(sample_ruler.TINY).count
    items = load_dataset(RULER, "sample").items
    assert [item["task"] for item in items] == [task for task in REPLIES for _ in range(2)]
    for item in items:
        room = 0 if item["task"] == "fwe" else REPLIES[item["task"]]
        assert 400 <= tokens(item["prompt"]) + room <= 512 or item["task"] in ("vt", "qa_squad")


def test_the_headline_is_the_plain_mean_of_the_tasks() -> None:
    lines: list[dict[str, Any]] = [
        {"values": {"4096/vt": 1.0}, "cluster": str(n)} for n in range(3)
    ]
    lines += [{"values": {"4096/cwe": 0.0}, "cluster": "x"}]
    found = metrics(lines, RULER.means)
    assert found["4096"]["value"] == 0.5 and "512" not in found
    assert RULER.headline == ("4096",) and len(RULER.means["4096"]) == 13
    assert RULER.total == 6500


def test_the_sample_runs_on_tiny_under_a_name_of_its_own(tmp_path: Path) -> None:
    words = ["eval", "tiny", "--tasks", "ruler", "--data", "sample", "--samples", 1, "--json"]
    done = in_process(*words, "--limit", 6, "--temperature", 0, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["data"]["origin"] == "sample" and result["n"] == 6
    assert "512" in result["metrics"] and "4096" not in result["metrics"]
    assert in_process("audit", tmp_path).returncode == 0
