"""Damaged and hostile files: what comes back is a value or a Failure that names the file.

Every example is drawn from a fixed seed. A file is damaged in its bytes (flipped, cut, doubled,
spliced) and in its structure (values of other types, keys gone or doubled, names that lead out).
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import math
import os
import random
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from minihmx import lora
from minihmx.config import Config
from minihmx.engine.memory import Limit
from minihmx.engine.open import load_tokenizer
from minihmx.errors import DataError, Failure, UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking import replies, runner
from minihmx.evals.asking.results import Results, Subject
from minihmx.evals.asking.settings import Settings
from minihmx.evals.asking.task import Machine
from minihmx.evals.benchmark import switches
from minihmx.evals.items.load import load_dataset
from minihmx.judge import parse_score
from minihmx.models import adapters, hub, weights
from minihmx.models.folder import INDEX, read_config
from minihmx.models.tokenizer import Tokenizer
from minihmx.optimizer import Optimizer
from minihmx.questions import load_questions, load_rubric
from minihmx.records import Completion
from minihmx.run import Position, Run, open_run, resume
from minihmx.storage import disk, strict
from minihmx.storage.disk import dumps, read_lines, verify
from minihmx.storage.identity import check_same_experiment, earlier_starts
from minihmx.storage.run_folder import CHECKPOINT, LATEST, Store
from minihmx.train import train

# A pipe that nobody writes to, a pattern that backtracks: the test fails instead.
pytestmark = pytest.mark.usefixtures("no_waiting")


def examples(number: int) -> settings:
    """Always the same examples, on a slow machine too."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=number,
        database=None,
        suppress_health_check=slow,
    )


# --- what may be wrong with a file ----------------------------------------------------------------

PIECES = [
    *(b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\n", b"\r\n", b"NaN", b"-Infinity", b"1e999"),
    *(b"9" * 5000, b'"\\ud800"', b"[" * 3000, b'{"a":1,"a":2}', b'"', b"{", b"}", b",", b"null"),
]


ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**40, 2**63 - 1, 0.5, -0.0, 1e300, 5e-324),
    *("", "x", "\0", "..", "../x", "/x", "a/b", "x" * 5000, "\x1b[2J", "(", "(a+)+"),
    *([], {}, [1], [None], ["x"], [[]], {"a": 1}, {"": None}, [2**62] * 3),
]
LENGTHS = [0, 1, 7, 99_999_999, 10**8, 2**31, 2**62, 2**63, 2**64 - 1]

# What happens is drawn apart from what it happens to, so that a failing example is short.
PER_MILLE = st.integers(0, 1000)
ACCIDENT = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "double", "put"]),
    PER_MILLE,
    PER_MILLE,
    st.integers(0, 7),
)
CHANGE = st.tuples(
    st.sampled_from(["replace", "replace", "drop", "add"]),
    st.lists(st.integers(0, 30), max_size=4),
    st.integers(0, len(ODD) - 1),
)
ACCIDENTS, CHANGES = (st.lists(one, min_size=1, max_size=3) for one in (ACCIDENT, CHANGE))
IN_JSON = ACCIDENTS | CHANGES | CHANGES
IN_TENSORS = st.tuples(st.sampled_from(["anywhere", "header", "header"]), IN_JSON)
IN_TENSORS |= st.tuples(st.just("length"), st.integers(0, len(LENGTHS) - 1))


def damaged(data: bytes, accidents: list[Any]) -> bytes:
    """The bytes after accidents at places in thousandths of their length."""
    for kind, first, second, bit in accidents:
        at, to = sorted(place * len(data) // 1000 for place in (first, second))
        if kind == "flip":
            data = data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[to:]
        elif kind == "double":
            data = data[:to] + data[at:to] + data[to:]
        else:
            data = data[:at] + PIECES[(bit + to) % len(PIECES)] + data[at:]
    return data


def altered(document: Any, changes: list[Any]) -> Any:
    """The JSON value with inner values replaced, dropped or added; an empty way means the whole."""
    document = copy.deepcopy(document)
    for kind, way, odd in changes:
        parent, place, node = None, None, document
        for turn in way:
            if not isinstance(node, dict | list) or not node:
                break
            parent, place = (
                node,
                list(node)[turn % len(node)] if isinstance(node, dict) else (turn % len(node)),
            )
            node = parent[place]
        value = copy.deepcopy(ODD[odd])
        if parent is None:
            document = value
        elif kind == "drop":
            del parent[place]
        elif kind == "replace":
            parent[place] = value
        elif isinstance(parent, dict):
            parent[str(ODD[odd])] = value
        else:
            parent.append(value)
    return document


def broken_json(data: bytes, damage: list[Any]) -> bytes:
    if len(damage[0]) == 4:
        return damaged(data, damage)
    return json.dumps(altered(json.loads(data), damage)).encode()


def broken_lines(data: bytes, damage: list[Any]) -> bytes:
    if len(damage[0]) == 4:
        return damaged(data, damage)
    rows = altered([json.loads(line) for line in data.splitlines()], damage)
    rows = rows if isinstance(rows, list) else [rows]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def broken_safetensors(data: bytes, damage: tuple[str, Any]) -> bytes:
    """Accidents anywhere, another header, or another length of the header."""
    where, what = damage
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = data[8 : 8 + size], data[8 + size :]
    if where == "length":
        return struct.pack("<Q", LENGTHS[what]) + data[8:]
    if where == "anywhere" and len(what[0]) == 4:
        return damaged(data, what)
    header = broken_json(header, what)
    return struct.pack("<Q", len(header)) + header + rest


def refused(act: Callable[[], Any], *names: object) -> Failure | None:
    """The refusal, which names one of the files; None when it went well."""
    try:
        act()
    except Failure as failure:
        message = str(failure)
        assert any(str(name) in message for name in names), message
        assert failure.code in (2, 4, 5)
        return failure
    return None


# --- JSON -----------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=20,
)


@examples(80)
@given(VALUES, st.booleans())
def test_what_json_writes_is_read_back(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert strict.parse(text) == value
    assert strict.parse(b"\xef\xbb\xbf" + text.encode()) == value


@examples(120)
@given(VALUES, ACCIDENTS, st.binary(max_size=40))
def test_any_bytes_are_one_plain_value_or_refused(value: Any, what: Any, data: bytes) -> None:
    if data[:1] < b"\x40":
        data = damaged(json.dumps(value).encode(), what)
    try:
        value = strict.parse(data)
    except ValueError as error:
        assert str(error)
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    assert value == json.loads(data.decode("utf-8-sig"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "'c' is there twice"),
        ("[NaN]", "no finite"),
        ("-Infinity", "no finite"),
        ("1e999", "no finite"),
        ("9" * 100_000, "too large"),
        ("-9223372036854775809", "too large"),
        ('["\\ud800"]', "surrogates"),
        ('{"\\udfff": 1}', "surrogates"),
        ("[" * 100_000, "64 deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "64 deep"),
        ('"\0"', "control character"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
    ],
)
def test_json_with_no_or_two_meanings_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        strict.parse(text)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "C:x", "a\0", 7, None]
)
def test_names_that_lead_out(name: object) -> None:
    assert not strict.is_own_name(name) and strict.is_own_name("model-00001-of-00002.safetensors")


# --- a model's folder -----------------------------------------------------------------------------


class Place:
    """A folder whose files are put back before each example."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.whole = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def put(self, name: str, data: bytes) -> Path:
        """All files as they were, but one."""
        for path, content in self.whole.items():
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        (self.folder / name).write_bytes(data)
        return self.folder

    def __getitem__(self, name: str) -> bytes:
        return self.whole[self.folder / name]


MODEL_FILES = ["config.json", "generation_config.json", "tokenizer.json", INDEX]
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two shards and every text file; Gemma's config, which has the most keys."""
    gemma = {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16}
    folder = toy.model(tmp_path_factory.mktemp("fuzz") / "model", **gemma)
    gemma |= {"query_pre_attn_scalar": 16, "sliding_window": 64, "final_logit_softcapping": 30.0}
    gemma |= {"layer_types": ["sliding_attention", "full_attention"], "rms_norm_eps": 1e-6}
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    gemma |= {"rope_scaling": rope | {"original_max_position_embeddings": 512}}
    gemma |= {"rope_theta": 1e4, "attn_logit_softcapping": 50.0}
    (folder / "config.json").write_text(json.dumps(toy.CONFIG | gemma))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 0]}))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, where = sorted(tensors), {}
    for shard, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{shard:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return Place(folder)


def use(folder: Path) -> None:
    """Load all of a model's folder and answer from it."""
    decoder = weights.load(folder, torch.float32, "cpu")
    tokenizer = load_tokenizer(folder, read_config(folder))
    ids = tokenizer.encode_text("Who are you?")
    with torch.no_grad():
        decoder.logits(decoder(torch.tensor([ids or [1]])))
    tokenizer.decode(range(tokenizer.vocab_size))


def test_the_whole_model_can_be_used(model: Place) -> None:
    use(model.put("config.json", model["config.json"]))


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_s_text_files(name: str, model: Place) -> None:
    @examples(60)
    @given(IN_JSON)
    def fuzz(damage: Any) -> None:
        data = broken_json(model[name], damage)
        refused(lambda: use(model.put(name, data)), model.folder)

    fuzz()


def test_a_model_s_weights(model: Place) -> None:
    refusals = []

    @examples(80)
    @given(IN_TENSORS)
    def fuzz(damage: Any) -> None:
        data = broken_safetensors(model[SHARD], damage)
        refusals.append(refused(lambda: use(model.put(SHARD, data)), model.folder))

    fuzz()
    assert sum(r is not None for r in refusals) > 40


def test_tokenizers_of_every_structure() -> None:
    """tiny's own too, whose vocabulary has merges."""
    document = json.loads((hub.TINY / "tokenizer.json").read_bytes())
    document["model"]["vocab"] = dict(list(document["model"]["vocab"].items())[:300])
    document["model"]["merges"] = document["model"]["merges"][:20]

    @examples(200)
    @given(CHANGES)
    def fuzz(changes: Any) -> None:
        def act() -> None:
            changed = json.dumps(altered(document, changes))
            found = Tokenizer.from_bytes(changed.encode(), "the file")
            found.decode(found.encode_text("Who are you? \0 é <|user|>"))

        refused(act, "the file")

    fuzz()


@pytest.mark.parametrize("kind", ["twice", "giant", "zero"])
def test_what_the_library_lets_pass_is_refused(kind: str, model: Place, tmp_path: Path) -> None:
    """A name there twice (the last wins), a header of 32 MB, and a shape that overflows."""
    norm = b'{"dtype":"F32","shape":[32],"data_offsets":[0,128]}'
    header = {
        "twice": b'{"a":%b,"a":%b}' % (norm, norm),
        "giant": b'{"a":%b}' % norm + b" " * 2**25,
        "zero": b'{"a":%b,"b":{"dtype":"F32","shape":[0,9223372036854775808],'
        b'"data_offsets":[128,128]}}' % norm,
    }[kind]
    data = struct.pack("<Q", len(header)) + header + bytes(128)
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.safetensors"):
        weights.read_tensors(tmp_path / "a.safetensors")
    assert refused(lambda: use(model.put(SHARD, data)), model.folder / SHARD)


def test_an_oversized_header_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for claimed in (99_999_999, 10**8, 2**40, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", claimed) + b'{"a":')
        with pytest.raises(UserError, match="corrupt"):
            weights.read_tensors(path)
        with path.open("r+b") as file:  # sixteen gigabytes of holes
            file.truncate(2**34)
        with pytest.raises(UserError, match="corrupt"):
            weights.read_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("layers", [2**10 + 1, 2**31, 10**18])
def test_a_number_of_layers_is_checked_before_they_are_counted(layers: int, model: Place) -> None:
    config = json.loads(model["config.json"]) | {"num_hidden_layers": layers}
    del config["layer_types"]
    folder = model.put("config.json", json.dumps(config).encode())
    assert "num_hidden_layers" in str(refused(lambda: read_config(folder), folder))


# --- adapters and checkpoints ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished run of four steps, and a checkpoint within its last epoch."""
    folder = tmp_path_factory.mktemp("fuzz-run")
    flags = toy.flags(folder, lora_rank=4, lora_targets="q_proj,v_proj")
    flags["questions"] = str(toy.questions(folder / "questions.jsonl", train=4, held_out=1))
    ready = open_run(flags)
    for _ in train(ready):
        pass
    shutil.copytree(ready.store.checkpoints / "epoch-02", ready.store.checkpoints / LATEST)
    release(ready)
    place = Place(ready.store.folder)
    place.flags, place.model = flags, folder / "toy"  # type: ignore[attr-defined]
    return place


def release(ready: Run) -> None:
    """Give the folder back, which `put` makes anew, so that the same run may enter it again."""
    ready.store._lock.close()
    ready.store.disk.lock = None


def sealed(folder: Path, name: str, data: bytes) -> Path:
    """Change a file of a checkpoint and its manifest with it, as nobody does by accident."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["sha256"][name] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


EPOCH = "checkpoints/epoch-02"


def put_on(place: Any) -> None:
    """Find the run's adapter and put it on."""
    adapter = adapters.read_adapter(adapters.find_adapter(str(place.folder)))
    adapters.belongs(adapter, hub.resolve(str(place.model)))
    adapters.attach_adapter(weights.load(place.model, torch.float32, "cpu"), adapter,
                    adapters.tensors(adapter))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_from_elsewhere(name: str, run: Place) -> None:
    text = name.endswith(".json")
    broken, refusals = broken_json if text else broken_safetensors, []

    @examples(60)
    @given(IN_JSON if text else IN_TENSORS)
    def fuzz(damage: Any) -> None:
        data = broken(run[f"{EPOCH}/{name}"], damage)
        folder = run.put(f"{EPOCH}/{name}", data) / EPOCH
        sealed(folder, name, data)
        refusals.append(refused(lambda: put_on(run), folder, "The adapter does not fit"))

    run.put(f"{EPOCH}/{name}", run[f"{EPOCH}/{name}"])
    put_on(run)
    fuzz()
    assert sum(r is not None for r in refusals) > 25


@pytest.mark.parametrize("name", [f"{EPOCH}/manifest.json", "selected.json", "config.json"])
def test_what_leads_to_an_adapter(name: str, run: Place) -> None:
    selected = b'{"winner": "epoch-02"}'
    whole = selected if name == "selected.json" else run[name]

    @examples(40)
    @given(IN_JSON)
    def fuzz(damage: Any) -> None:
        run.put(name, broken_json(whole, damage))
        refused(lambda: put_on(run), run.folder)
        (run.folder / "selected.json").unlink(missing_ok=True)

    fuzz()


def test_patterns_that_never_end_are_refused(run: Place) -> None:
    config = json.loads(run[f"{EPOCH}/adapter_config.json"])
    endless = (".*" * 20 + "z", "(?:.|.)?" * 25 + "z", "[\\w.]*" * 15 + "!", "(.*)*!", "(?:.+)+!")
    for pattern in (*endless, "(.|.)*!", "(.*){9,}!", "(" * 9999, "a{99999999999}"):
        data = json.dumps(config | {"target_modules": pattern}).encode()
        sealed(run.put(f"{EPOCH}/adapter_config.json", data) / EPOCH, "adapter_config.json", data)
        message = str(refused(lambda: put_on(run), run.folder))
        assert "target_modules" in message and "write its modules out as a list" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_a_checkpoint_that_lies_touches_nothing_else(name: str, run: Place) -> None:
    """Found, cut and loaded again; whatever it says, a file outside stays as it is."""
    outside = run.folder.parent / "x"
    ready = open_run(run.flags)  # type: ignore[attr-defined]
    release(ready)
    optimizer = Optimizer(lora.parameters(ready.decoder), ready.config, ready.total_steps)

    @examples(60)
    @given(IN_JSON)
    def fuzz(damage: Any) -> None:
        data = broken_json(run[f"{EPOCH}/{name}"], damage)
        run.put(f"{EPOCH}/{name}", data)
        outside.write_text("x\n" * 9)
        for checkpoint in ("epoch-00", "epoch-01", LATEST):
            shutil.rmtree(run.folder / "checkpoints" / checkpoint, ignore_errors=True)
        if name == "state.json":
            sealed(run.folder / EPOCH, name, data)
        refused(lambda: resume(ready, optimizer), run.folder, "The optimizer's state")
        assert outside.read_text() == "x\n" * 9

    fuzz()


# What `step` never leaves behind: in any run, in one of fp32, and in one of fp16.
IMPOSSIBLE: dict[str, list[dict[str, Any]]] = {
    "float32": [
        *({"update": odd} for odd in (999_999_999, 5, 3, 0, -1, 4.0, True, "4", None, [4])),
        *({"update": 5, "since_growth": 5}, {"update": 3}, {"update": 0, "since_growth": 0}),
        *({"scale": odd} for odd in (2.0, 65536.0, 0.0, -1.0, 1, True, "1.0", None)),
        *({"since_growth": odd} for odd in (3, 5, -1, 4.0, True, None)),
    ],
    "float16": [
        *({"update": odd} for odd in (5, -1, 4.0, True, 0, 2**53)),
        *({"scale": odd} for odd in (0.5, 0.0, -2.0, 3.0, 2.0**25, 1e300, 5e-324, 65536, None)),
        *({"since_growth": odd} for odd in (5, 50, 51, -1, 3.0, True, None)),
    ],
}


@pytest.mark.parametrize("dtype", IMPOSSIBLE)
def test_counters_that_no_step_leaves_behind(dtype: str) -> None:
    parameters = {"x": torch.nn.Parameter(torch.ones(2))}
    made = Optimizer(parameters, Config(dtype=dtype), 4)
    for _ in range(4):
        made.zero_grad()
        made.backward(parameters["x"].sum())
        made.step(0.0, made.unscale(0.0))
    moments, counters = made.tensors(), made.counters()
    good = Optimizer(parameters, Config(dtype=dtype), 4)
    good.load(moments, counters)
    assert good.counters() == counters and counters["update"] == 4
    for change in IMPOSSIBLE[dtype]:
        fresh = Optimizer(parameters, Config(dtype=dtype), 4)
        before = fresh.counters()
        with pytest.raises(DataError, match=r"The optimizer's state in here is not this run's"):
            fresh.load(moments, counters | change, "here")
        assert fresh.counters() == before and fresh.tensors() == {}
    for odd in (None, [], {}, "x", {"update": 4}):
        with pytest.raises(DataError, match="The optimizer's state"):
            good.load(moments, odd)
    spoilt = {name: tensor * math.nan for name, tensor in moments.items()}
    for odd in ({}, spoilt):  # four updates, and no moments, or none that is a number
        with pytest.raises(DataError, match="The optimizer's state"):
            good.load(odd, counters)


@pytest.mark.parametrize(
    "change",
    [
        *({"optimizer": odd} for odd in ({}, None, {"update": 999_999_999})),
        *({"optimizer": {"update": n, "scale": 1.0, "since_growth": n}} for n in (1, 3, 4)),
        *({"bad_steps": n} for n in (1, 2, 3, 999)),
        {"epoch": 2},
        {"lines": {"metrics.jsonl": 3, "timings.jsonl": 3, "amax.jsonl": 0}},
    ],
)
def test_a_checkpoint_with_impossible_counts_is_refused_and_nothing_is_cut(
    change: dict[str, Any], run: Place
) -> None:
    """Signed anew, and within the run: two steps of four."""
    ready = open_run(run.flags)  # type: ignore[attr-defined]
    release(ready)
    optimizer = Optimizer(lora.parameters(ready.decoder), ready.config, ready.total_steps)
    checkpoint = run.put(f"{EPOCH}/state.json", run[f"{EPOCH}/state.json"]) / "checkpoints/epoch-01"
    for other in ("epoch-02", LATEST):
        shutil.rmtree(run.folder / "checkpoints" / other)
    state = json.loads((checkpoint / "state.json").read_bytes())
    assert (state["step"], state["epoch"], state["optimizer"]["update"]) == (2, 1, 2)
    sealed(checkpoint, "state.json", json.dumps(state | change).encode())
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    failure = refused(lambda: resume(ready, optimizer), checkpoint)
    assert isinstance(failure, DataError) and "move that folder away" in str(failure)
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before
    sealed(checkpoint, "state.json", json.dumps(state).encode())
    assert resume(ready, optimizer)[0] == Position(2, 1, 0)
    run.put(f"{EPOCH}/state.json", run[f"{EPOCH}/state.json"])


@pytest.mark.parametrize("field", ["update", "not_finite"])
def test_a_checkpoint_goes_on_where_older_records_lack_its_counts(field: str, run: Place) -> None:
    ready = open_run(run.flags)  # type: ignore[attr-defined]
    release(ready)
    optimizer = Optimizer(lora.parameters(ready.decoder), ready.config, ready.total_steps)
    run.put(f"{EPOCH}/state.json", run[f"{EPOCH}/state.json"])
    for other in ("epoch-02", LATEST):
        shutil.rmtree(run.folder / "checkpoints" / other)
    metrics = run.folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    older = [{k: v for k, v in line.items() if k != field} for line in lines]
    metrics.write_text("".join(dumps(line) + "\n" for line in older))
    assert resume(ready, optimizer)[0] == Position(2, 1, 0)
    run.put(f"{EPOCH}/state.json", run[f"{EPOCH}/state.json"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.safetensors"])
def test_a_checkpoint_s_tensors(name: str, run: Place) -> None:
    ready = open_run(run.flags)  # type: ignore[attr-defined]
    release(ready)
    optimizer = Optimizer(lora.parameters(ready.decoder), ready.config, ready.total_steps)

    @examples(60)
    @given(IN_TENSORS)
    def fuzz(damage: Any) -> None:
        data = broken_safetensors(run[f"{EPOCH}/{name}"], damage)
        run.put(f"{EPOCH}/{name}", data)
        for checkpoint in ("epoch-02", LATEST):
            sealed(run.folder / "checkpoints" / checkpoint, name, data)
        refused(lambda: resume(ready, optimizer), run.folder, "The optimizer's state",
                "The adapter does not fit")  # fmt: skip

    fuzz()


def test_a_run_s_own_config_and_starts(run: Place) -> None:
    own = json.loads(run["config.json"])["science"]
    here = Store(run.folder)

    @examples(40)
    @given(IN_JSON, IN_JSON)
    def fuzz(config: Any, starts: Any) -> None:
        run.put("config.json", broken_json(run["config.json"], config))
        refused(lambda: check_same_experiment(here, own), run.folder)
        (run.folder / "env.json").write_bytes(broken_json(run["env.json"], starts))
        assert isinstance(earlier_starts(here), list)

    fuzz()


@pytest.mark.parametrize("name", ["../x", "/x", "sub/../../x", "..", ".", "", "a\\..\\x", "x\0"])
def test_a_manifest_names_only_files_of_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"secret")
    read: list[Path] = []
    digest = disk.sha256
    monkeypatch.setattr(disk, "sha256", lambda path: read.append(path) or digest(path))
    name = str(tmp_path / "x") if name == "/x" else name
    manifest = {"sha256": {name: hashlib.sha256(b"secret").hexdigest()}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "no file of its own folder" in str(verify(folder)) and read == []


def test_a_manifest_names_every_file_that_is_needed(run: Place) -> None:
    """Else a file could be changed and the manifest thinned out to hide it."""
    folder = run.put(f"{EPOCH}/manifest.json", run[f"{EPOCH}/manifest.json"]) / EPOCH
    whole = json.loads((folder / "manifest.json").read_bytes())["sha256"]
    for name in whole:
        left = {key: value for key, value in whole.items() if key != name}
        (folder / "manifest.json").write_text(json.dumps({"sha256": left}))
        assert name in str(verify(folder, CHECKPOINT))
        if name.startswith("adapter"):
            assert isinstance(refused(lambda: put_on(run), folder), DataError)
    (folder / "manifest.json").write_text('{"sha256": {}}')
    assert "names no files" in str(verify(folder))


# --- evaluations ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A model whose context is too short for some prompts."""
    folder = tmp_path_factory.mktemp("asker")
    toy.model(folder, max_position_embeddings=640)
    decoder = weights.load(folder, torch.float32, "cpu")
    limits = Limit("--batch-tokens", 999), Limit("--decode-rows", 5)
    return Machine(decoder, Tokenizer.load(folder), *limits)


def evaluation(home: Path, name: str) -> Results:
    """The built-in sample's first items; a reply twice."""
    task = BENCHMARKS[name]
    dataset = load_dataset(task, "sample")
    samples, temperature = (2, 1.0) if task.generates else (1, 0.0)
    own = Settings(
        *(task.chat, samples, temperature, 1, 5, switches(task, {}), "float32", "26 Jul 2024")
    )
    subject = Subject(home, "base", {"id": "toy", "revision": None, "digest": "1"}, None)
    return Results(task, dataset, subject, own)


def answer_by_names(patch: pytest.MonkeyPatch, items: Any) -> None:
    """Numbers and replies that depend on what is asked alone; the replies name known answers."""
    words = ["I cannot say.", "(A)", *(str(item.get("correct")) for item in items)]

    def sums(decoder: Any, requests: Any, limit: Limit) -> Any:
        for first in range(0, len(requests), 3):
            batch = requests[first : first + 3]
            yield [[-9 * random.Random(repr(pair)).random() for pair in p] for p in batch]

    def completions(how: Any, requests: Any, limit: Limit) -> Any:
        for index, request in enumerate(requests):
            word = random.Random(repr(request.noise)).choice(words)
            yield index, Completion([], [], f"It is {word}.", "stop")

    patch.setattr(runner, "loglikelihoods", sums)
    patch.setattr(replies, "complete", completions)


# One benchmark of each kind is quick: answers that are compared, and replies that are read.
KINDS = ("truthfulqa_mc2", "are_you_sure")


@pytest.mark.parametrize(
    "name",
    [*KINDS, *(pytest.param(n, marks=pytest.mark.slow) for n in BENCHMARKS if n not in KINDS)],
)
def test_samples_that_are_damaged_never_make_another_number(
    name: str, asker: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again or refused, the result has the same bytes or there is none."""
    found = evaluation(tmp_path, name)
    answer_by_names(monkeypatch, found.items)
    list(runner.evaluate(asker, found))
    found.store._lock.close()
    path = found.folder / "samples.jsonl"
    samples, result = path.read_bytes(), (found.folder / "result.json").read_bytes()
    asked_again = []

    def goes_on(data: bytes) -> None:
        for file in found.folder.glob("*.json*"):
            file.unlink()
        path.write_bytes(data)
        again = evaluation(tmp_path, name)
        try:
            first, *_ = runner.evaluate(asker, again)
            asked_again.append(len(found.wanted) - first.done)
        finally:
            again.store._lock.close()
        assert (found.folder / "result.json").read_bytes() == result

    @examples(60)
    @given(IN_JSON)
    def fuzz(damage: Any) -> None:
        refused(lambda: goes_on(broken_lines(samples, damage)), found.folder)

    @examples(60)
    @given(st.integers(0, 4), CHANGE)
    def one_field(row: int, change: Any) -> None:
        lines = samples.splitlines(keepends=True)
        changed = altered(json.loads(lines[row]), [change])
        lines[row] = (disk.dumps(changed) + "\n").encode()
        refused(lambda: goes_on(b"".join(lines)), found.folder)

    goes_on(samples)
    assert asked_again == [0]
    fuzz()
    one_field()
    assert sum(number > 0 for number in asked_again) > 40


@pytest.mark.parametrize("name", ["toxigen", "are_you_sure"])
def test_a_result_that_is_damaged_and_signed_anew(
    name: str, asker: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluation(tmp_path, name)
    answer_by_names(monkeypatch, found.items)
    first = list(runner.evaluate(asker, found))[-1].result
    found.store._lock.close()
    whole, refusals = (found.folder / "result.json").read_bytes(), []

    def is_read() -> None:
        again = evaluation(tmp_path, name)
        try:
            numbers = list(runner.evaluate(asker, again))[-1].result
        finally:
            again.store._lock.close()
        assert numbers is not None and numbers["metrics"] == (first or {})["metrics"]

    @examples(60)
    @given(IN_JSON)
    def fuzz(damage: Any) -> None:
        sealed(found.folder, "result.json", broken_json(whole, damage))
        failure = refused(is_read, found.folder)
        assert failure is None or isinstance(failure, DataError)
        refusals.append(failure)

    fuzz()
    assert sum(failure is not None for failure in refusals) > 40


# --- what is no file ------------------------------------------------------------------------------


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODDITIES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a loop": _loop,
    "a dangling link": _dangling,
    "an endless device": _endless,
}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("name", [*MODEL_FILES, SHARD])
def test_a_model_s_file_that_is_none(name: str, oddity: str, model: Place, tmp_path: Path) -> None:
    shutil.copytree(model.put(SHARD, model[SHARD]), tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    ODDITIES[oddity](tmp_path / "model" / name)
    failure = refused(lambda: use(tmp_path / "model"), tmp_path / "model")
    assert failure or name == "generation_config.json"  # as if it were not there


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.safetensors", "manifest.json", "state.json"],
)
def test_a_checkpoint_s_file_that_is_none(
    name: str, oddity: str, run: Place, tmp_path: Path
) -> None:
    checkpoint = run.put(f"{EPOCH}/{name}", run[f"{EPOCH}/{name}"]) / EPOCH
    shutil.copytree(checkpoint, tmp_path / "run/checkpoints/epoch-02")
    path = tmp_path / "run/checkpoints/epoch-02" / name
    path.unlink()
    ODDITIES[oddity](path)
    assert verify(path.parent, CHECKPOINT) is not None
    assert refused(lambda: Store(tmp_path / "run").find_resume(), tmp_path / "run")
    (path.parent / "manifest.json").unlink(missing_ok=True) if path.is_file() else None
    refused(lambda: adapters.read_adapter(adapters.find_adapter(str(path.parent))), path.parent)


# --- lines ----------------------------------------------------------------------------------------


def test_question_and_rubric_files(tmp_path: Path) -> None:
    path = toy.questions(tmp_path / "q.jsonl", train=2, held_out=1)
    good = path.read_bytes()

    @examples(120)
    @given(IN_JSON)
    def fuzz(damage: Any) -> None:
        path.write_bytes(broken_lines(good, damage))
        if refused(lambda: load_questions(path), path) is None:
            found = load_questions(path)
            assert len({q.id for q in found}) == len(found) > 1
        if refused(lambda: load_rubric(path), path) is None:
            assert load_rubric(path).strip()

    fuzz()


def test_lines_of_a_run(run: Place, tmp_path: Path) -> None:
    """A torn last line is left out; any other fault is said with its line."""
    path = tmp_path / "lines.jsonl"
    whole = run["metrics.jsonl"] + run["rollouts/step-000001.jsonl"]
    path.write_bytes(whole[:-9])
    expected = [json.loads(line) for line in whole.splitlines()[:-1]]
    assert read_lines(path) == expected

    @examples(60)
    @given(IN_JSON)
    def fuzz(damage: Any) -> None:
        path.write_bytes(broken_lines(whole, damage))
        failure = refused(lambda: read_lines(path), f"{path}, line ")
        if failure is None:
            assert all(isinstance(record, dict) for record in read_lines(path))
        else:
            assert isinstance(failure, DataError)

    fuzz()


# --- time -----------------------------------------------------------------------------------------


def seconds(act: Callable[[], object]) -> float:
    """Processor time, the least of five tries, since a busy machine disturbs most of them, and
    without the garbage collector's."""
    least = float("inf")
    gc.disable()
    try:
        for _ in range(5):
            started = time.process_time()
            act()
            least = min(least, time.process_time() - started)
    finally:
        gc.enable()
    return least


# The shorter of two inputs, and how often it goes into the longer one. A linear reader may take
# three times as long for a byte of the longer one: its objects do not fit in the processor's
# caches, and their memory is given back to the system and asked for anew at each try. A quadratic
# one takes the square of the factor. The bound is as far above the first as below the second.
SHORT, TIMES = 2**14, 32
MOST_TIMES = TIMES**1.5


def takes_linear_time(of: Callable[[int], Callable[[], object]]) -> bool:
    """Whether the work that is made for a length grows no faster than the length."""
    short, long = (seconds(of(length)) for length in (SHORT, SHORT * TIMES))
    return long < MOST_TIMES * max(short, 1e-4)


LINEAR: dict[str, Callable[[int], bytes]] = {
    "objects": lambda n: b"[" + b'{"a": 1.5},' * (n // 11) + b"1]",
    "keys": lambda n: b"{" + b"".join(b'"%d":1,' % i for i in range(n // 9)) + b'"":1}',
    "a key twice": lambda n: b"{" + b"".join(b'"%d":1,' % i for i in range(n // 9)) + b'"0":1}',
    "a long text": lambda n: b'"' + b"\\u00e9" * (n // 6) + b'"',
    "a long text, unclosed": lambda n: b'"' + b"\\\\" * (n // 2),
    "a long number": lambda n: b"9" * n,
    "deep": lambda n: b"[" * n,
    "halves": lambda n: b'"' + b"\\ud83d\\ude00" * (n // 12) + b'"',
    "blanks": lambda n: b" " * n,
}


@pytest.mark.parametrize("kind", LINEAR)
def test_time_grows_with_the_length_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def reading(length: int) -> Callable[[], object]:
        data = LINEAR[kind](length)
        path.write_bytes(data)
        acts: tuple[Callable[[], object], ...] = (
            lambda: strict.read_json(path, "x"),
            lambda: read_lines(path),
            lambda: load_questions(path),
            lambda: parse_score(data.decode(), True),
        )
        return lambda: [refused(act, path) for act in acts]

    assert takes_linear_time(reading)


def test_lines_and_headers_take_linear_time(tmp_path: Path) -> None:
    """Many short lines, and many tensors in one file."""
    path = tmp_path / "file"

    def lines(length: int) -> Callable[[], object]:
        path.write_bytes(b'{"a": 1}\n' * (length // 16))
        return lambda: read_lines(path)

    def tensors(length: int) -> Callable[[], object]:
        path.write_bytes(save({f"t{i}": torch.zeros(1) for i in range(length // 256)}))
        return lambda: weights.read_tensors(path)

    assert takes_linear_time(lines)
    assert takes_linear_time(tensors)


@pytest.mark.slow
def test_time_that_grows_with_the_square_is_seen() -> None:
    """As of a reader that cuts off what it has read, a few bytes at a time."""

    def cutting(length: int) -> Callable[[], object]:
        text = bytes(length)
        return lambda: [text[start:] and None for start in range(0, length, 8)]

    assert not takes_linear_time(cutting)
