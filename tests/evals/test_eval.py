"""`minihmx eval`: the runner, what it keeps, how it goes on, and the command line around it."""

from __future__ import annotations

import hashlib
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy

from minihmx import cli, lora
from minihmx.engine.memory import Limit
from minihmx.engine.open import OpenAdapter, with_adapter
from minihmx.errors import DataError, Diverged, UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking import replies, runner
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.replies import Exchange, plain_text
from minihmx.evals.asking.results import Results, Subject, read_samples
from minihmx.evals.asking.runner import encode_choices, evaluate
from minihmx.evals.asking.settings import Settings
from minihmx.evals.asking.task import Machine, Task
from minihmx.evals.benchmark import (
    Answer,
    Benchmark,
    Choices,
    Dialogue,
    Item,
    Origin,
    Score,
    Switches,
)
from minihmx.evals.items.load import Dataset
from minihmx.models import weights
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Completion, Message
from minihmx.storage.disk import dumps, verify

ITEMS = [{"id": f"item-{i}", "text": "word " * (1 + 5 * i % 7), "even": i % 2} for i in range(12)]


def choose(item: Item, switches: Switches) -> Choices:
    return Choices(item["text"] + "is", ("one", "two", "three and four"))


def dialogue(item: Item, switches: Switches) -> Dialogue:
    prefill = "So " if item["even"] else ""
    return Dialogue((item["text"], "Are you sure?"), prefill=prefill, max_new_tokens=6)


def score(item: Item, answer: Answer, switches: Switches) -> Score:
    value = float(sum(answer.loglikelihoods) + len("".join(answer.replies)))
    return Score(
        {"all": value, **({"even": value} if item["even"] else {})}, {}, bool(item["even"])
    )


def benchmark(ask: Any) -> Benchmark:
    settings: dict[str, Any] = {"generates": ask is dialogue, "chat": ask is dialogue}
    return Benchmark(
        name="toy",
        title="Toy",
        fields={"text": str, "even": int},
        total=12,
        headline=("all",),
        source=Origin("nobody/toy", ("toy.jsonl",)),
        convert=lambda row, number: [dict(row)],
        ask=ask,
        score=score,
        switches={"rule": ("first", "last")},
        **settings,
    )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = toy.model(tmp_path / "model")
    decoder = weights.load(folder, torch.float32, torch.device("cpu"))
    tokenizer = Tokenizer.load(folder)
    return Machine(decoder, tokenizer, Limit("--batch-tokens", 200), Limit("--decode-rows", 5))


def results(home: Path, task: Benchmark, **changes: Any) -> Results:
    values: dict[str, Any] = {
        "chat": task.chat,
        "samples": 1,
        "temperature": 0.0,
        "seed": 1,
        "limit": 0,
        "switches": {"rule": "first"},
        "dtype": "float32",
        "date": "26 Jul 2024",
    }
    dataset = Dataset(list(ITEMS), "0" * 64, 12, "files here")
    subject = Subject(home, "base", {"id": "toy", "revision": None, "digest": "1"}, None)
    return Results(task, dataset, subject, Settings(**values | changes))


def samples(found: Results) -> dict[tuple[str, int], dict[str, Any]]:
    lines = read_samples(found.folder)
    by_key = {(line["id"], line["sample"]): line for line in lines}
    assert len(by_key) == len(lines), "a sample is there twice"
    return by_key


@pytest.mark.parametrize("ask", [choose, dialogue])
def test_every_item_is_asked_and_the_result_is_the_mean_of_its_samples(
    machine: Machine, tmp_path: Path, ask: Any
) -> None:
    found = results(tmp_path, benchmark(ask))
    steps = list(evaluate(machine, found))
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert len(steps) > 3 and steps[-1].result is not None
    kept = samples(found)
    assert kept.keys() == {(item["id"], 0) for item in ITEMS}
    result = json.loads((found.folder / "result.json").read_text())
    assert result == steps[-1].result
    for name, keys in (("all", kept), ("even", [k for k in kept if kept[k]["values"].get("even")])):
        values = [kept[key]["values"][name] for key in keys]
        assert result["metrics"][name]["n"] == len(values)
        assert result["metrics"][name]["value"] == pytest.approx(math.fsum(values) / len(values))
    assert result["data"] == {
        "digest": "0" * 64,
        "origin": "files here",
        "n": 12,
        "total": 12,
        "partial": None,
        "note": "",
    }
    assert [kept[item["id"], 0]["item"] for item in ITEMS] == ITEMS
    assert (result["unparsed"], result["truncated"], result["few_shot"]) == (6, 0, "none")
    assert result["model"]["digest"] == "1" and result["adapter"] is None


@pytest.mark.parametrize("ask", [choose, dialogue])
def test_what_was_cut_off_goes_on_with_nothing_lost_or_asked_twice(
    machine: Machine, tmp_path: Path, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results(tmp_path / "whole", benchmark(ask))
    list(evaluate(machine, whole))
    found = results(tmp_path / "cut", benchmark(ask))
    going = evaluate(machine, found)
    for _ in range(3):
        next(going)
    going.close()
    found.store._lock.close()
    path = found.folder / "samples.jsonl"
    before = path.read_bytes()
    assert not (found.folder / "result.json").exists()
    path.write_bytes(before + b'{"id": "item-3", "sam')
    asked: list[str] = []
    for name in ("ask_choices", "ask_replies"):
        real = getattr(runner, name)
        monkeypatch.setattr(
            runner,
            name,
            lambda machine, task, tasks, settings, real=real: (
                asked.extend(each.item["id"] for each in tasks)
                or real(machine, task, tasks, settings)
            ),
        )
    again = results(tmp_path / "cut", benchmark(ask))
    first, *_, last = evaluate(machine, again)
    assert "torn" in first.notices[0] and first.done == before.count(b"\n")
    assert set(before.splitlines()) <= set(path.read_bytes().splitlines())
    assert sorted(asked) == sorted({i["id"] for i in ITEMS} - {k[0] for k in done_in(before)})
    for key, line in samples(whole).items():
        other = samples(again)[key]
        assert other["values"] == pytest.approx(line["values"], abs=1e-4)
        assert other.get("replies") == line.get("replies")
    assert last.result is not None


def done_in(data: bytes) -> set[tuple[str, int]]:
    return {(line["id"], line["sample"]) for line in map(json.loads, data.splitlines())}


def test_a_complete_evaluation_is_read_and_not_written_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results(tmp_path, benchmark(choose))
    first = list(evaluate(machine, found))[-1].result
    found.store._lock.close()
    contents = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in found.folder.iterdir()}
    monkeypatch.setattr(runner, "loglikelihoods", None)  # nothing is asked
    again = list(evaluate(machine, results(tmp_path, benchmark(choose))))[-1].result
    assert again == first
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in found.folder.iterdir()}
    lock = found.folder / ".lock"
    assert {**after, lock: 0} == {**contents, lock: 0}


Spoil = Callable[[dict[str, Any]], Any]
DAMAGE: dict[str, Spoil] = {
    "a score": lambda line: line["values"].update(all=1000.0),
    "a score more": lambda line: line["values"].update(acc=1000.0),
    "a score less": lambda line: line["values"].clear(),
    "no scores": lambda line: line.pop("values"),
    "scores of another type": lambda line: line.update(values=[1.0]),
    "a score as a text": lambda line: line["values"].update(all="1.0"),
    "unparsed": lambda line: line.update(unparsed=not line["unparsed"]),
    "unparsed as a number": lambda line: line.update(unparsed=1000),
    "truncated": lambda line: line.update(truncated=True),
    "no truncated": lambda line: line.pop("truncated"),
    "another cluster": lambda line: line.update(cluster="item-3"),
    "a cluster that is a list": lambda line: line.update(cluster=[]),
    "other detail": lambda line: line.update(detail={"rule": "x"}),
    "another item": lambda line: line["item"].update(even=1 - line["item"]["even"]),
    "no item": lambda line: line.pop("item"),
    "another sample": lambda line: line.update(sample=1),
    "a sample that is true": lambda line: line.update(sample=False),
    "a sample that is none": lambda line: line.update(sample=[]),
    "one more field": lambda line: line.update(more=1),
}
SAID: dict[Any, dict[str, Spoil]] = {
    choose: {
        "another context": lambda line: line.update(context="?"),
        "other choices": lambda line: line["choices"].reverse(),
        "a log-likelihood": lambda line: line["loglikelihoods"].__setitem__(0, -0.5),
        "a whole number": lambda line: line["loglikelihoods"].__setitem__(0, -1),
        "a number beyond all": lambda line: line.update(loglikelihoods=[1e308] * 3),
        "a choice too few": lambda line: line["loglikelihoods"].pop(),
        "no log-likelihoods": lambda line: line.pop("loglikelihoods"),
        "replies instead": lambda line: line.update(replies=[""], finish=["length"]),
    },
    dialogue: {
        "other turns": lambda line: line["turns"].reverse(),
        "another reply": lambda line: line["replies"].__setitem__(1, "Yes, quite sure."),
        "a reply that is none": lambda line: line["replies"].__setitem__(0, None),
        "a reply too few": lambda line: line["replies"].pop(),
        "no replies": lambda line: line.pop("replies"),
        "an unknown end": lambda line: line["finish"].__setitem__(0, "finished"),
        "an end too many": lambda line: line["finish"].append("length"),
        "no ends": lambda line: line.update(finish=None),
    },
}
LINES = (
    *(b"no json", b"[1]", b"7", b"null", b"", b"[" * 999, b"\xff", b'{"id": "item-0"}'),
    *(b'{"id": "stranger", "sample": 0}', b'{"id": [], "sample": 0}', b'{"sample": 0}'),
    b'{"id": "item-0", "sample": 9999999999999999999999}',
)


@pytest.mark.parametrize("ask", [choose, dialogue])
def test_a_line_that_this_evaluation_would_not_write_is_asked_again(
    machine: Machine, tmp_path: Path, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_by_names(monkeypatch)
    found = results(tmp_path, benchmark(ask))
    list(evaluate(machine, found))
    found.store._lock.close()
    path, whole = found.folder / "samples.jsonl", (found.folder / "result.json").read_bytes()
    honest = path.read_bytes().splitlines(keepends=True)
    bad_lines = {repr(line[:30]): line + b"\n" for line in LINES} | {"doubled": honest[0]}
    for name, spoil in (DAMAGE | SAID[ask]).items():
        line = json.loads(honest[4])
        spoil(line)
        bad_lines[name] = (dumps(line) + "\n").encode()
        assert bad_lines[name] != honest[4]
    bad_lines["spaced"] = json.dumps(json.loads(honest[4]), indent=0).replace("\n", "").encode()
    bad_lines["spaced"] += b"\n"
    for name, bad in bad_lines.items():
        for written in ("manifest.json", "result.json", "refused.jsonl"):
            (found.folder / written).unlink(missing_ok=True)
        path.write_bytes(b"".join([*honest[:4], bad, *honest[5:]]))
        again = results(tmp_path, benchmark(ask))
        first, *_ = evaluate(machine, again)
        again.store._lock.close()
        assert first.done == 11 and "1 of 12 lines are damaged" in first.notices[0], name
        assert (found.folder / "result.json").read_bytes() == whole, name
        assert path.read_bytes() == b"".join(honest), name
        assert (found.folder / "refused.jsonl").read_bytes() == bad, name
        assert verify(found.folder) is None


def answer_by_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's numbers depend on what is asked alone, not in their last bits on the batch."""

    def sums(decoder: Any, requests: Any, limit: Limit) -> Any:
        for first in range(0, len(requests), 3):
            batch = requests[first : first + 3]
            yield [[-random.Random(repr(pair)).random() for pair in pairs] for pairs in batch]

    def completions(how: Any, requests: Any, limit: Limit) -> Any:
        for index, request in enumerate(requests):
            name = request.noise
            text = f"{name[3]} {name[4:]} {random.Random(repr(name)).random()}"
            yield index, Completion([], [], text, "stop")

    monkeypatch.setattr(runner, "loglikelihoods", sums)
    monkeypatch.setattr(replies, "complete", completions)


def test_an_evaluation_interrupted_anywhere_ends_with_the_same_bytes(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the samples of an item, in the middle of a line, and more than once."""
    answer_by_names(monkeypatch)
    options: dict[str, Any] = {"samples": 3, "temperature": 1.0}
    found = results(tmp_path, benchmark(dialogue), **options)
    list(evaluate(machine, found))
    found.store._lock.close()
    names = ("samples.jsonl", "result.json", "manifest.json")
    whole = {name: (found.folder / name).read_bytes() for name in names}
    assert whole["samples.jsonl"].count(b"\n") == 36
    for size in range(0, len(whole["samples.jsonl"]), 997):
        for name in names[1:]:
            (found.folder / name).unlink()
        (found.folder / "samples.jsonl").write_bytes(whole["samples.jsonl"][:size])
        going = results(tmp_path, benchmark(dialogue), **options)
        steps = evaluate(machine, going)
        for _ in range(size % 3 + 1):
            next(steps)
        steps.close()
        going.store._lock.close()
        last = results(tmp_path, benchmark(dialogue), **options)
        list(evaluate(machine, last))
        last.store._lock.close()
        assert {name: (found.folder / name).read_bytes() for name in names} == whole


def test_a_reply_passes_for_no_other_sample_of_its_item(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_by_names(monkeypatch)
    options: dict[str, Any] = {"samples": 2, "temperature": 1.0}
    found = results(tmp_path, benchmark(dialogue), **options)
    list(evaluate(machine, found))
    found.store._lock.close()
    path, whole = found.folder / "samples.jsonl", samples(found)
    (found.folder / "manifest.json").unlink()
    first = json.loads(path.read_bytes().splitlines()[0])
    path.write_text(dumps(first | {"sample": 1}) + "\n")
    list(evaluate(machine, results(tmp_path, benchmark(dialogue), **options)))
    assert samples(found) == whole


def sealed(folder: Path, name: str, text: str) -> None:
    """Change a file of a complete evaluation and its manifest with it."""
    (folder / name).write_text(text)
    digests = {
        file: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for file in ("samples.jsonl", "result.json")
    }
    (folder / "manifest.json").write_text(json.dumps({"sha256": digests}))


RESULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda result: [],
    "nothing": lambda result: {},
    "a text": lambda result: "x",
    "null": lambda result: None,
    "a number that does not follow": lambda result: result["metrics"]["all"].update(value=1000.0),
    "a number of another type": lambda result: result.update(unparsed="6"),
    "a count that is true": lambda result: result.update(truncated=False),
    "a count of another type": lambda result: result["data"].update(n=12.0),
    "metrics gone": lambda result: result.pop("metrics"),
    "a metric more": lambda result: result["metrics"].update(acc={"value": 1.0}),
    "data gone": lambda result: result.pop("data"),
    "data null": lambda result: result.update(data=None),
    "a total that is a text": lambda result: result["data"].update(total="12"),
    "a total of another set": lambda result: result["data"].update(total=13, partial="12/13"),
    "a whole set that is partial": lambda result: result["data"].update(partial="12/13"),
    "an origin that is none": lambda result: result["data"].update(origin=7),
    "another adapter": lambda result: result.update(adapter={"digest": "2", "name": "x"}),
    "one more field": lambda result: result.update(more=1),
}


@pytest.mark.parametrize("change", RESULTS)
def test_a_result_that_does_not_follow_from_its_samples_is_refused(
    machine: Machine, tmp_path: Path, change: str
) -> None:
    found = results(tmp_path, benchmark(choose))
    list(evaluate(machine, found))
    found.store._lock.close()
    result = json.loads((found.folder / "result.json").read_text())
    changed = RESULTS[change](result)
    text = json.dumps(changed if change in ("a list", "nothing", "a text", "null") else result)
    for written in (text, "{" + text):
        sealed(found.folder, "result.json", written)
        damaged = results(tmp_path, benchmark(choose))
        with pytest.raises(DataError, match=r"result\.json does not follow") as refusal:
            list(evaluate(machine, damaged))
        damaged.store._lock.close()
        assert "evaluate again" in str(refusal.value) and str(found.folder) in str(refusal.value)
        assert (found.folder / "result.json").read_text() == written


def test_the_same_items_from_another_place_have_the_same_result(
    machine: Machine, tmp_path: Path
) -> None:
    found = results(tmp_path, benchmark(choose))
    first = list(evaluate(machine, found))[-1].result
    found.store._lock.close()
    again = results(tmp_path, benchmark(choose))
    again.dataset = replace(again.dataset, origin="files there", note="one left out")
    assert list(evaluate(machine, again))[-1].result == first


@pytest.mark.parametrize("ask", [choose, dialogue])
def test_a_complete_evaluation_with_samples_that_are_not_its_own_is_refused(
    machine: Machine, tmp_path: Path, ask: Any
) -> None:
    found = results(tmp_path, benchmark(ask))
    list(evaluate(machine, found))
    found.store._lock.close()
    lines = (found.folder / "samples.jsonl").read_text().splitlines(keepends=True)
    bad = json.loads(lines[4])
    bad["values"]["all"] = 1000.0
    scored, short, torn = [*lines[:4], dumps(bad) + "\n", *lines[5:]], lines[:-1], [*lines, "{"]
    for kept in (scored, short, torn, [*lines, lines[0]], []):
        sealed(found.folder, "samples.jsonl", "".join(kept))
        damaged = results(tmp_path, benchmark(ask))
        with pytest.raises(DataError, match="lacks samples, or holds some that score otherwise"):
            list(evaluate(machine, damaged))
        damaged.store._lock.close()
        assert (found.folder / "samples.jsonl").read_text() == "".join(kept)
    (found.folder / "manifest.json").write_text(json.dumps({"sha256": {"samples.jsonl": "0"}}))
    with pytest.raises(DataError, match="is not what was written"):
        list(evaluate(machine, results(tmp_path, benchmark(ask))))


def test_a_prompt_that_was_cut_off_is_known_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncation is computed again from the prompts, so an honest line is never asked twice."""
    answer_by_names(monkeypatch)
    for ask in (choose, dialogue):
        for chat in (False, True):
            home = tmp_path / f"{ask.__name__}-{chat}"
            found, again = (results(home, benchmark(ask), chat=chat) for _ in range(2))
            for one in (found, again):
                one.items[:] = [{**ITEMS[0], "text": "word " * 300}, *ITEMS[1:]]
            list(evaluate(machine, found))
            found.store._lock.close()
            (found.folder / "manifest.json").unlink()
            first, *_, last = evaluate(machine, again)
            assert (first.done, first.notices) == (12, [])
            assert last.result is not None and last.result["truncated"] == 1


def test_a_changed_result_is_refused(machine: Machine, tmp_path: Path) -> None:
    found = results(tmp_path, benchmark(choose))
    list(evaluate(machine, found))
    found.store._lock.close()
    path = found.folder / "result.json"
    path.write_text(path.read_text().replace('"n": 12', '"n": 13'))
    with pytest.raises(DataError, match="differs from its manifest"):
        list(evaluate(machine, results(tmp_path, benchmark(choose))))


def test_two_at_once_are_refused(machine: Machine, tmp_path: Path) -> None:
    first, second = (results(tmp_path, benchmark(choose)) for _ in range(2))
    next(evaluate(machine, first))
    with pytest.raises(UserError, match="Another process"):
        next(evaluate(machine, second))


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 5},
        {"seed": 2},
        {"switches": {"rule": "last"}},
        {"chat": True},
        {"dtype": "float16"},
    ],
)
def test_other_settings_have_another_folder(tmp_path: Path, change: dict[str, Any]) -> None:
    task = benchmark(choose)
    assert results(tmp_path, task).folder != results(tmp_path, task, **change).folder


def test_a_limit_is_a_fixed_part_and_marked_so(machine: Machine, tmp_path: Path) -> None:
    found = results(tmp_path, benchmark(choose), limit=5)
    *_, last = evaluate(machine, found)
    assert last.result is not None and last.result["data"]["partial"] == "5/12"
    chosen = [item["id"] for item in found.items]
    assert chosen == [item["id"] for item in results(tmp_path, benchmark(choose), limit=5).items]
    assert len(set(chosen)) == 5 and chosen != [item["id"] for item in ITEMS[:5]]


def test_several_samples_of_an_item_go_together_in_the_standard_error() -> None:
    lines = [
        {"cluster": name, "values": {"x": float(value)}}
        for name, values in {"a": (1, 1), "b": (0, 0), "c": (0, 1)}.items()
        for value in values
    ]
    row = metrics(lines)["x"]
    assert (row["value"], row["n"]) == (0.5, 6)
    # residual sums by item: 1, -1, 0
    assert row["stderr"] == pytest.approx(math.sqrt(2 * 3 / 2) / 6)


def test_the_second_turn_quotes_the_first_reply_with_its_prefill(machine: Machine) -> None:
    settings = results(Path(), benchmark(dialogue)).settings
    talk = Exchange(machine, Dialogue(("Who?", "Sure?"), prefill="It is "), settings)
    first = machine.tokenizer.decode(talk.prompt(0))
    assert first == "Who?It is "
    talk.hear(0, Completion([], [], "me.", "stop"))
    assert machine.tokenizer.decode(talk.prompt(1)) == "Who?It is me.Sure?"
    talk.hear(1, Completion([], [], "yes", "length"))
    assert talk.answer() == Answer((), ("It is me.", "yes"), ("stop", "length"))


def test_a_reply_ends_before_the_first_stop_text(machine: Machine) -> None:
    settings = results(Path(), benchmark(dialogue)).settings
    talk = Exchange(machine, Dialogue(("Who?",), until=("\n\n", "Q")), settings)
    talk.hear(0, Completion([], [], "I do. Q: more\n\nand more", "length"))
    assert talk.answer().replies == ("I do. ",) and talk.answer().finish == ("stop",)


def test_without_chat_the_turns_are_plain_text(machine: Machine) -> None:
    settings = results(Path(), benchmark(dialogue), chat=False).settings
    talk = Exchange(machine, Dialogue(("Who?",), system="Be brief."), settings)
    assert machine.tokenizer.decode(talk.prompt(0)) == "Be brief.\n\nWho?"


def test_what_exceeds_the_context_loses_its_first_tokens_and_is_counted(
    machine: Machine, tmp_path: Path
) -> None:
    long = [{**ITEMS[0], "text": "word " * 300}, *ITEMS[1:]]
    for ask in (choose, dialogue):
        found = results(tmp_path / ask.__name__, benchmark(ask))
        found.items[:] = long
        *_, last = evaluate(machine, found)
        assert last.result is not None and last.result["truncated"] == 1
        assert samples(found)["item-0", 0]["truncated"]


def test_with_chat_a_choice_opens_the_models_turn_and_has_no_blank(machine: Machine) -> None:
    task = Task(ITEMS[0], 0, Choices("Is it?", ("Yes", "No")))
    chat = encode_choices(machine, task, results(Path(), benchmark(choose), chat=True).settings)
    plain = encode_choices(machine, task, results(Path(), benchmark(choose)).settings)
    tokenizer = machine.tokenizer
    assert [tokenizer.decode(list(pair.continuation)) for pair in chat] == ["Yes", "No"]
    assert [tokenizer.decode(list(pair.continuation)) for pair in plain] == [" Yes", " No"]
    assert chat[0].context[-1] == tokenizer.id("<|assistant|>")
    assert tokenizer.decode(list(plain[0].context)) == "Is it?"


def test_numbers_that_are_not_finite_name_the_item_and_keep_the_rest(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results(tmp_path, benchmark(choose))
    real = runner.loglikelihoods

    def broken(*arguments: Any) -> Any:
        for number, sums in enumerate(real(*arguments)):
            yield [[math.nan] * 3 for _ in sums] if number == 2 else sums

    monkeypatch.setattr(runner, "loglikelihoods", broken)
    with pytest.raises(Diverged, match=r"toy, item item-\d+: .* not finite"):
        list(evaluate(machine, found))
    assert 0 < len(samples(found)) < 12
    assert not (found.folder / "result.json").exists()


def test_out_of_memory_goes_on_with_less_and_says_so(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results(tmp_path / "whole", benchmark(dialogue), temperature=1.0)
    list(evaluate(machine, whole))
    forward = type(machine.decoder).forward

    def small(self: Any, ids: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("fake")
        return forward(self, ids, *rest, **named)

    monkeypatch.setattr(type(machine.decoder), "forward", small)
    found = results(tmp_path / "small", benchmark(dialogue), temperature=1.0)
    notices = [notice for step in evaluate(machine, found) for notice in step.notices]
    assert notices and all("--decode-rows" in notice for notice in notices)
    replies = {key: line["replies"] for key, line in samples(found).items()}
    assert replies == {key: line["replies"] for key, line in samples(whole).items()}


def test_an_adapter_comes_off_again_and_the_base_is_untouched(
    machine: Machine, tmp_path: Path
) -> None:
    from minihmx.models import adapters

    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        before = machine.decoder(ids)
    adapter = adapters.Adapter(tmp_path, "toy", 4, 8.0, ["q_proj", "down_proj"])
    other = weights.load(tmp_path / "model", torch.float32, torch.device("cpu"))
    lora.attach(other, 4, 8.0, 0, ["q_proj", "down_proj"])
    tensors = {
        name: torch.full_like(p, 0.1).requires_grad_(False)
        for name, p in lora.parameters(other).items()
    }
    opened = OpenAdapter(adapter, tensors, [])
    with with_adapter(machine.decoder, opened), torch.no_grad():
        assert not torch.equal(machine.decoder(ids), before)
    with torch.no_grad():
        assert torch.equal(machine.decoder(ids), before)
    assert not list(lora.layers(machine.decoder))
    names = {name for name, _ in machine.decoder.named_parameters()}
    assert names == {
        name
        for name, _ in weights.load(
            tmp_path / "model", torch.float32, torch.device("cpu")
        ).named_parameters()
    }


# --- the command line -----------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["eval", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.slow
def test_base_and_adapters_are_evaluated_on_one_loaded_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    train = ["train", "tiny", "--out", str(runs), "--epochs", "1", "--prompts-per-step", "45"]
    assert cli.main([*train, "--max-completion-length", "8", "--eval-samples", "1"]) in (0, 6)
    capsys.readouterr()
    loaded: list[Path] = []
    real = weights.load

    def counted(folder: Path, *rest: Any) -> Any:
        loaded.append(folder)
        return real(folder, *rest)

    monkeypatch.setattr(weights, "load", counted)
    forward = runs / "tiny" / "forward" / "seed-1"
    code, out, err = run(
        capsys,
        "tiny",
        *("--adapter", "base", "--adapter", str(forward), "--adapter", f"{forward}@epoch-00"),
        *("--adapter", f"{forward}@epoch-01", "--adapter", "base"),  # named twice, asked once
        *("--tasks", "bbq,toxigen", "--data", "sample", "--out", str(runs)),
    )
    assert (code, err, len(loaded)) == (0, "", 1)
    assert out.count("BBQ, forward/seed-1/epoch-01: 12 items from sample") == 1
    assert out.count("BBQ, base:") == 1 and "a few items of our own" in out
    *_, amb, disamb = out.splitlines()[-5:]
    assert amb.split()[:2] == ["bbq", "accuracy_amb"] and len(amb.split()) == 5
    assert disamb.split()[1] == "accuracy_disamb"
    (base,) = (runs / "tiny" / "base" / "evals" / "bbq").iterdir()
    trained, untrained = sorted((forward / "evals" / "bbq").iterdir(), reverse=True)
    assert base.name.startswith("base-") and trained.name.startswith("epoch-01-")
    first, second, third = (
        [x for line in by_key(folder) for x in line["loglikelihoods"]]
        for folder in (base, untrained, trained)
    )
    assert first == pytest.approx(second) and first != third
    assert json.loads((trained / "result.json").read_text())["adapter"]["digest"]


def test_an_adapter_that_does_not_fit_is_refused_before_the_base_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, folder = tmp_path / "runs", toy.model(tmp_path / "toy")
    train = ["train", str(folder), "--out", str(runs), "--epochs", "1", "--generations", "2"]
    train += ["--prompts-per-step", "90", "--max-completion-length", "2", "--eval-samples", "1"]
    assert cli.main([*train, "--lora-rank", "2", "--max-sequence-length", "900"]) == toy.ENDED
    (adapter,) = runs.glob("*/forward/seed-1")
    flags = ["--tasks", "bbq", "--data", "sample", "--out", str(tmp_path / "out")]
    capsys.readouterr()
    code, out, err = run(capsys, "tiny", *flags, "--adapter", "base", "--adapter", str(adapter))
    assert code == 2 and out == "" and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_with_no_chat_format_is_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = toy.model(tmp_path / "toy")
    file = json.loads((folder / "tokenizer.json").read_text())
    file["added_tokens"] = [t for t in file["added_tokens"] if t["content"] != "<|user|>"]
    (folder / "tokenizer.json").write_text(json.dumps(file))
    flags = ["--tasks", "all", "--data", "sample", "--out", str(tmp_path / "out")]
    code, out, err = run(capsys, str(folder), *flags)
    assert code == 2 and "no known chat format" in err and out == ""
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_set_is_marked_wherever_its_score_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    sample = Path(cli.__file__).parent / "data" / "sample"
    for name in BENCHMARKS:
        lines = (sample / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)[:2]
        (data / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    flags = ["--data", str(data), "--out", str(tmp_path / "out")]
    code, out, err = run(capsys, "--tasks", "paper", *flags)
    assert code == 2 and "bbq partial 2/58492" in err
    code, out, _ = run(capsys, "--tasks", "paper", "--partial", *flags)
    assert code == 0 and out.partition("the paper’s")[0].count("partial 2/") == len(BENCHMARKS)
    code, out, _ = run(capsys, "--tasks", "bbq", "--json", *flags)
    assert code == 0 and json.loads(out)["data"]["partial"] == "2/58492"


def test_a_limit_above_the_number_of_items_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--tasks", "bbq", "--data", "sample", "--out", str(tmp_path)]
    for limit in ("0", "12", "500"):
        assert run(capsys, *flags, "--limit", limit)[0] == 0
    assert len(list((tmp_path / "tiny" / "base" / "evals" / "bbq").iterdir())) == 1


def test_more_replies_than_memory_holds_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minihmx.evals.asking.session.MOST_REPLIES", 10)
    typed = ["--tasks", "are_you_sure", "--data", "sample", "--out", str(tmp_path)]
    code, out, err = run(capsys, *typed, "--limit", "5", "--samples", "3", "--temperature", "1")
    assert (code, out) == (2, "") and "--samples 3 on 5 items" in err and err.count("\n") == 1


def by_key(folder: Path) -> list[dict[str, Any]]:
    return sorted(read_samples(folder), key=lambda line: str(line["id"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "bqq"], "did you mean bbq"),
        (["--tasks", ""], "`minihmx eval tiny --tasks all --data sample`"),
        (["--tasks", "bbq", "--limit", "-1"], "--limit -1"),
        (["--tasks", "bbq", "--samples", "2", "--temperature", "0"], "the same reply"),
        (["--tasks", "bbq", "--temperature", "nan"], "--temperature nan"),
        (["--tasks", "bbq", "--batch-tokens", "0"], "--batch-tokens 0"),
        (["--tasks", "bbq", "--switch", "speed=high"], "names no switch"),
        (["--tasks", "paper", "--limit", "3"], "--partial"),
        (["--tasks", "paper"], "sample of our own"),
        (["--tasks", "bbq", "--adapter", "nowhere"], "no run or adapter"),
        (["--tasks", "bbq", "--data", "nowhere"], "nowhere"),
        (["no-such-model", "--tasks", "bbq"], "Unknown model"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], said: str
) -> None:
    if "--data" not in arguments:
        arguments = [*arguments, "--data", "sample"]
    code, out, err = run(capsys, *arguments, "--out", str(tmp_path))
    assert code == 2 and said in err and out == "" and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_json_is_one_result_on_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--tasks", "bbq,toxigen", "--data", "sample", "--json", "--out", str(tmp_path)]
    code, out, _ = run(capsys, *flags)
    assert code == 0
    assert [json.loads(line)["benchmark"] for line in out.splitlines()] == ["toxigen", "bbq"]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_never_was(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minihmx", "eval", "tiny", "--data", "sample"]
    # greedy: a sampled reply may hang on the last bit, which depends on what is in a batch
    command += ["--tasks", "sycophancy_answer,are_you_sure", "--temperature", "0"]
    command += ["--decode-rows", "8", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = time.monotonic()
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    seconds = time.monotonic() - started
    rng, kills = random.Random(3), 0
    for _ in range(40):
        process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL)
        try:  # the first two well before the end, however fast the machine has become meanwhile
            share = rng.uniform(0.3, 0.5) if kills < 2 else rng.uniform(0.5, 0.95)
            process.wait(share * seconds)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0 and kills >= 2
    for folder in (whole / "tiny" / "base" / "evals").glob("*/*"):
        twin = killed / folder.relative_to(whole)
        ours, theirs = (
            {(line["id"], line["sample"]): line["replies"] for line in read_samples(f)}
            for f in (folder, twin)
        )
        assert ours == theirs
        one, two = (json.loads((f / "result.json").read_text()) for f in (folder, twin))
        assert one == two


def test_a_mean_of_metrics_counts_each_part_once() -> None:
    """Two tasks of one and three items: the mean of the tasks, not of the items."""
    values = [("a", 1.0), ("b", 0.0), ("b", 0.0), ("b", 1.0)]
    lines = [
        {"cluster": str(number), "values": {f"right/{task}": value}}
        for number, (task, value) in enumerate(values)
    ]
    parts = {"mean": ("right/a", "right/b", "right/absent"), "none": ("right/absent",)}
    table = metrics(lines, parts)
    assert table["mean"]["value"] == pytest.approx((1 + 1 / 3) / 2)
    assert table["mean"]["n"] == 4 and table["mean"]["stderr"] is None  # of one item
    assert "none" not in table
    again = metrics([*lines, {**lines[0], "cluster": "4"}], parts)
    errors = [again[f"right/{task}"]["stderr"] for task in "ab"]
    assert again["mean"]["stderr"] == pytest.approx(sum(e**2 for e in errors if e) ** 0.5 / 2)


def test_shots_without_chat() -> None:
    """As lm-eval joins them: an answer stands behind its own question's delimiter."""
    shots = (Message("user", "Q: 1+1\nA:"), Message("assistant", "2"))
    request = Dialogue(("Q: 2+2\nA:",), "4", "Add.", shots, delimiter=" ")
    said = [*shots, Message("user", "Q: 2+2\nA:")]
    assert plain_text(request, said, "4") == "Add.\n\nQ: 1+1\nA: 2\n\nQ: 2+2\nA: 4"
    assert plain_text(request._replace(system="", shots=()), said[2:], "") == "Q: 2+2\nA:"


def test_a_cache_that_no_memory_holds_gets_fewer_rows(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [replies.GenerationRequest([1] * size, 14) for size in (50, 20)]
    row = 64 * replies.kv_bytes(machine.decoder.config, "float32")
    rows = machine.row_limit.rows
    for free, most in ((2 * row * rows, rows), (2 * row * 3, 3), (row, 1)):
        monkeypatch.setattr(replies, "free_memory", lambda device, free=free: (free, free))
        assert replies.row_limit(machine, requests).rows == most
    assert machine.row_limit.rows == rows > 3
