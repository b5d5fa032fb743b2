"""Data files that somebody damaged or made to harm: whatever `data check` accepts can be asked and
scored, and everything else is refused in one sentence that names the file."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hostile_texts import HOSTILE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minihmx import cli
from minihmx.errors import DataError, Failure, UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.results import Results, Subject, sample_line
from minihmx.evals.asking.settings import Settings
from minihmx.evals.benchmark import Answer, Benchmark, Choices, Item, switches
from minihmx.evals.items import published
from minihmx.evals.items.load import cached, load_dataset
from minihmx.instruments.metrics import Eta
from minihmx.storage.disk import dumps, read_lines
from minihmx.storage.history import history

SECONDS = 20  # what waits longer for a file waits for ever


@pytest.fixture(autouse=True)
def hardly_any_waiting(no_waiting: None) -> None:
    """A pipe that nobody writes into is waited for without end; that fails here."""
    signal.alarm(SECONDS)


@lru_cache
def sample(name: str) -> list[Item]:
    return load_dataset(BENCHMARKS[name], "sample").items


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- items that could not be asked or read --------------------------------------------------------

ANSWER, SURE = "sycophancy_answer", "are_you_sure"
NO_TEXT: list[Any] = ["", " \n", ".", '""', "''", "?!"]
WRONG_ITEMS = [
    *((ANSWER, "condition", value) for value in ("", "Baseline", "bias", "baseline ")),
    *((ANSWER, name, value) for name in ("correct", "incorrect") for value in NO_TEXT),
    *((ANSWER, "long_correct", value) for value in (".", " ")),
    *((ANSWER, name, " ") for name in ("prompt", "source")),
    *((SURE, name, [text]) for name in ("correct", "aliases", "incorrect") for text in NO_TEXT),
    *((SURE, name, ["Lyon", text]) for name in ("correct", "aliases") for text in (".", 1, None)),
    *((SURE, name, []) for name in ("correct", "aliases")),
    *((SURE, name, " ") for name in ("prompt", "subset")),
    *((SURE, "letters", value) for value in ("ab", "A B", "Å", "A" * 99 + "-", "BCD")),
    *(("bbq", "answers", ["Ada", text]) for text in ("", " ")),
    *(("bbq", "groups", value) for value in (["old"], ["old", " "])),
    *(("bbq", name, " ") for name in ("polarity", "category")),
    *(("eq_bench", "emotions", ["A", "B", "C", text]) for text in ("C", "two words", "")),
    *(("eq_bench", "ratings", [1.0, 2.0, 3.0, *more]) for more in ([], [11.0], [-1.0])),
    *(("squad_v2", name, " ") for name in ("context", "question")),
    ("truthfulqa_mc2", "choices", ["One.", " ", "Two.", "Three."]),
    *(("bbh", name, value) for name in ("input", "target") for value in ("", " ")),
    *(("acpbench", name, value) for name in ("context", "question") for value in ("", " ")),
    *(("acpbench", "answer", value) for value in ("", "Yes", "A")),
    *((name, field, "x") for name in ("bbh", "acpbench") for field in ("task", "shots")),
]


@pytest.mark.parametrize("name, field, value", WRONG_ITEMS)
def test_an_item_that_could_not_be_read_is_refused_before_anything_is_asked(
    name: str, field: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, wrong = sample(name)[0], {**sample(name)[1], field: value}
    if field == "letters":
        wrong["correct"] = wrong["aliases"] = ["A"]
    path = put(tmp_path / f"{name}.jsonl", f"{dumps(good)}\n{dumps(wrong)}\n")
    for line in (["data", "check", name], ["eval", "tiny", "--tasks", name]):
        assert cli.main([*line, "--data", str(tmp_path)]) == 5
        said = capsys.readouterr().err
        assert said.startswith(f"minihmx: {path}, line 2: ") and said.count("\n") == 1, said
        assert len(said) < 600


def test_truthful_qa_rows_have_no_incorrect_answer_and_need_none(tmp_path: Path) -> None:
    item = {**sample(SURE)[0], "incorrect": []}
    put(tmp_path / f"{SURE}.jsonl", dumps(item))
    assert load_dataset(BENCHMARKS[SURE], str(tmp_path)).items == [item]


def test_published_names_that_no_reply_is_searched_for_are_left_out() -> None:
    base = {"dataset": "trivia_qa", "correct_answer": "Chk Chk Chk", "incorrect_answer": "Yes"}
    row = {
        "base": base | {"answer": ["Chk Chk Chk", "!!!", ""]},
        "metadata": {"prompt_template": "x"},
        "prompt": [{"type": "human", "content": "Which band?"}],
    }
    (item,) = BENCHMARKS[SURE].convert(row, 0, Path("rows.jsonl"))
    assert item["aliases"] == ["Chk Chk Chk"]
    BENCHMARKS[SURE].check(item)


# --- what is no ordinary file ---------------------------------------------------------------------


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODDITIES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": link_to_a_device,
    "folder": Path.mkdir,
}


def oddity(kind: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ODDITIES[kind](path)
    return path


@pytest.mark.parametrize("kind", ODDITIES)
@pytest.mark.parametrize(
    "name, file",
    [
        ("truthfulqa_mc2", "v0_mc_task.json"),
        ("truthfulqa_mc2", "v0_mc_task.json.gz"),
        ("truthfulqa_mc2", "truthfulqa_mc2.jsonl"),
        ("toxigen", "annotated_test.csv"),
        ("toxigen", "annotated/test-0.parquet"),
        (ANSWER, "answer.jsonl"),
    ],
)
def test_a_data_file_that_is_none(
    kind: str, name: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = oddity(kind, tmp_path / file)
    for line in (["data", "check", name], ["eval", "tiny", "--tasks", name]):
        assert cli.main([*line, "--data", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith(f"minihmx: {path} is a {kind}, and only")


@pytest.mark.parametrize("kind", ODDITIES)
def test_records_of_a_run_that_are_no_file(kind: str, tmp_path: Path) -> None:
    path = oddity(kind, tmp_path / "metrics.jsonl")
    timings = oddity(kind, tmp_path / "timings.jsonl")
    for read in (lambda: read_lines(path), lambda: history(tmp_path)):
        with pytest.raises(UserError, match=f"{path} is a {kind}, and only an ordinary file"):
            read()
    eta = Eta()
    eta.recall(timings)
    assert eta.seconds(1, 1) is None and eta.timings["evaluation"] == []


@pytest.mark.parametrize("kind", ODDITIES)
def test_samples_of_an_evaluation_that_are_no_file(kind: str, tmp_path: Path) -> None:
    dataset = load_dataset(BENCHMARKS["bbq"], "sample")
    how = Settings(False, 1, 0.0, 1, 0, {}, "float32", "26 Jul 2024")
    results = Results(BENCHMARKS["bbq"], dataset, Subject(tmp_path, "base", {}, None), how)
    path = oddity(kind, results.folder / "samples.jsonl")
    # a folder is a failure of the disk, as wherever a file is to be opened
    refusal = IsADirectoryError if kind == "folder" else DataError
    said = f"{path} is (no ordinary file|a link)|Is a directory.*{path}"
    with pytest.raises(refusal, match=said):
        results.begin(lambda *_: False)


@pytest.mark.parametrize("kind", ODDITIES)
def test_a_record_of_the_cache_that_is_no_file_is_as_if_it_were_not_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    oddity(kind, tmp_path / "minihmx" / "data" / "bbq.json")
    assert cached(BENCHMARKS["bbq"]) is None


# --- files without end ----------------------------------------------------------------------------


def bombs(size: int) -> dict[str, bytes]:
    """Files of a few kilobytes, by name, that unpack to more than `size` bytes."""
    blank = (b" " * 4095 + b"\n") * (size // 4096 + 1)
    return {
        "answer.jsonl.gz": gzip.compress(blank),
        "v0_mc_task.json.gz": gzip.compress(b"[" + blank),
        "annotated_test.csv.gz": gzip.compress(b"text\n" + blank),
    }


@pytest.mark.slow
@pytest.mark.parametrize("file", bombs(0))
def test_a_gzip_bomb_is_left_where_it_grows_too_large(file: str, tmp_path: Path) -> None:
    path = put(tmp_path / file, bombs(published.LARGEST_FILE)[file])
    assert path.stat().st_size < 1 << 20
    documented = Path(__file__).parents[2] / "docs" / "decisions.md"
    assert f"({published.LARGEST_FILE} bytes)" in documented.read_text("utf-8")
    with pytest.raises(DataError, match=f"{file}, line .* more than {1 << 27} bytes, unpacked"):
        for _ in published.rows(path):
            pass


@pytest.mark.parametrize("file", ["answer.jsonl", "v0_mc_task.json", "annotated_test.csv"])
def test_the_bound_is_one_for_every_text_file_and_exact(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {"jsonl": '{"q": "x"}\n' * 9, "json": '[\n{"q": "x"}\n]', "csv": "q\n" + "x\n" * 9}
    path = put(tmp_path / file, text[file.split(".")[-1]])
    monkeypatch.setattr(published, "LARGEST_FILE", path.stat().st_size, raising=False)
    assert {"q": "x"} in list(published.rows(path))
    monkeypatch.setattr(published, "LARGEST_FILE", path.stat().st_size - 1, raising=False)
    with pytest.raises(DataError, match=f"{file}, line .* unpacked, and no published file does"):
        list(published.rows(path))


# --- Parquet --------------------------------------------------------------------------------------

TOXIC = {"text": ["a", "b"], "toxicity_ai": [1.0, 2.0], "toxicity_human": [5.0, 1.5]}
TRUTHS = {
    "question": ["a?", "b?"],
    "mc2_targets": [{"choices": ["x", "y"], "labels": [1, 0]}, None],
}
YEARS_300000 = 2**62 // 10**3  # microseconds since 1970 that no Python date can hold


def odd_columns() -> dict[str, Any]:
    """Columns of two rows that Python cannot take, or that are of no use here."""
    import pyarrow as pa

    return {
        "timestamp": pa.array([YEARS_300000, 1], pa.timestamp("us")),
        "timestamp of a zone": pa.array([1, 2], pa.timestamp("us", "No/Where")),
        "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
        "duration": pa.array([2**62, 1], pa.duration("us")),
        "date": pa.array([2**30, 1], pa.date32()),
        "time": pa.array([86_399_999_999_999, 1], pa.time64("ns")),
        "decimal": pa.array([None, 1], pa.decimal128(38, 10)),
        "bytes": pa.array([b"\xff", b""], pa.binary()),
        "nested": pa.array(
            [[{"a": YEARS_300000}], []], pa.list_(pa.struct({"a": pa.duration("us")}))
        ),
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "twice in it": pa.StructArray.from_arrays([pa.array([1, 2])] * 2, ["a", "a"]),
        "deep": pa.array([None, None], deep(80)),
    }


def deep(levels: int) -> Any:
    import pyarrow as pa

    kind = pa.int64()
    for _ in range(levels):
        kind = pa.struct({"a": kind})
    return kind


def write_parquet(path: Path, columns: list[tuple[str, Any]], **settings: Any) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [pa.array(values) if isinstance(values, list) else values for _, values in columns]
    table = pa.Table.from_arrays(arrays, names=[name for name, _ in columns])
    parquet.write_table(table, path, **settings)
    return path


ODD = [
    *("timestamp", "timestamp of a zone", "nanoseconds", "duration", "date", "time", "decimal"),
    *("bytes", "nested", "map", "twice in it", "deep"),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("extra", ["created", "text.created", "question"])
def test_columns_that_nobody_needs_do_not_matter(odd: str, extra: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    plain = list(TOXIC.items())
    write_parquet(tmp_path / "plain" / "annotated" / "test-0.parquet", plain)
    more = [(extra, odd_columns()[odd]), *plain, (extra, odd_columns()[odd])]
    write_parquet(tmp_path / "more" / "annotated" / "test-0.parquet", more)
    found = load_dataset(BENCHMARKS["toxigen"], str(tmp_path / "more"))
    assert found.items == load_dataset(BENCHMARKS["toxigen"], str(tmp_path / "plain")).items
    assert [item["hateful"] for item in found.items] == [True, False]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "name, file, column",
    [
        ("toxigen", "annotated/test-0.parquet", "toxicity_ai"),
        ("toxigen", "annotated/test-0.parquet", "text"),
        ("truthfulqa_mc2", "multiple_choice/validation-0.parquet", "mc2_targets"),
        ("bbq", "All/test-0.parquet", "label"),
    ],
)
def test_a_needed_column_of_an_odd_type_is_refused(
    name: str, file: str, column: str, odd: str, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    columns: dict[str, Any] = {**TOXIC, **TRUTHS} | {column: odd_columns()[odd]}
    path = write_parquet(tmp_path / file, list(columns.items()))
    said = f"{path}: its column '{column}' is of the type "
    with pytest.raises(DataError) as caught:
        load_dataset(BENCHMARKS[name], str(tmp_path))
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(said) + 200


def test_a_needed_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "annotated" / "test-0.parquet"
    write_parquet(path, [*TOXIC.items(), ("text", ["c", "d"])])
    with pytest.raises(DataError, match=r"test-0\.parquet has two columns named 'text'"):
        load_dataset(BENCHMARKS["toxigen"], str(tmp_path))


def test_a_category_of_pandas_is_read_as_its_text(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = TOXIC | {"text": pa.array(TOXIC["text"]).dictionary_encode()}
    write_parquet(tmp_path / "annotated" / "test-0.parquet", list(columns.items()))
    items = load_dataset(BENCHMARKS["toxigen"], str(tmp_path)).items
    assert [item["text"] for item in items] == ["a", "b"]


@pytest.mark.parametrize("stored_once", [True, False])
def test_a_parquet_file_that_grows_too_large_is_left_there(
    stored_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    texts = pa.array(["x" * 1000] * 20_000)
    columns = {
        "text": texts.dictionary_encode() if stored_once else texts,
        **{name: [1.0] * 20_000 for name in ("toxicity_ai", "toxicity_human")},
    }
    path = write_parquet(tmp_path / "annotated" / "test-0.parquet", list(columns.items()))
    assert path.stat().st_size < 1 << 16
    assert len(list(published.rows(path))) == 20_000
    monkeypatch.setattr(published, "LARGEST_FILE", 1 << 20, raising=False)
    with pytest.raises(DataError, match=rf"test-0.parquet, row \d+: .*{1 << 20} bytes, unpacked"):
        load_dataset(BENCHMARKS["toxigen"], str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_one_row_without_end_is_left_before_it_fills_the_memory(tmp_path: Path) -> None:
    """A kilobyte on the disk: one text of a megabyte, 4096 times in the list of the only row."""
    numpy, pa = pytest.importorskip("numpy"), pytest.importorskip("pyarrow")
    texts = pa.DictionaryArray.from_arrays(numpy.zeros(4096, "int32"), ["x" * 2**20])
    lists = [pa.ListArray.from_arrays(pa.array([0, 4096], pa.int32()), texts), pa.array([[1, 0]])]
    targets = pa.StructArray.from_arrays(lists, ["choices", "labels"])
    path = tmp_path / "multiple_choice" / "validation-0.parquet"
    write_parquet(path, [("question", ["Which?"]), ("mc2_targets", targets)], store_schema=False)
    assert path.stat().st_size < 1 << 17
    before = resource.getrlimit(resource.RLIMIT_DATA)
    said = rf"{path}, row 1: to read what begins here takes more than {1 << 31} bytes of memory"
    with pytest.raises(DataError, match=said):
        load_dataset(BENCHMARKS["truthfulqa_mc2"], str(tmp_path))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB


@pytest.mark.parametrize("name", [name for name, b in BENCHMARKS.items() if b.source.columns])
def test_the_columns_that_are_named_are_those_that_are_needed(name: str) -> None:
    asked: set[str] = set()

    class Row(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            asked.add(key)
            return super().__getitem__(key)

    row = {**ROWS, **HUB_ROWS}[name]
    list(BENCHMARKS[name].convert(Row(row), 0, Path(FILES[name])))
    assert asked == set(BENCHMARKS[name].source.columns)


# --- whatever is accepted can be asked and scored -------------------------------------------------

TEMPLATE = {"metadata": {"prompt_template": "{question}"}}
HUMAN = {"type": "human", "content": "Which?\n(A) Paris\n(B) Lyon"}
ROWS: dict[str, dict[str, Any]] = {
    "truthfulqa_mc2": {"question": "Why?", "mc2_targets": {"Because.": 1, "No idea.": 0}},
    "toxigen": {"text": "b'hello'", "toxicity_ai": "1.5", "toxicity_human": "5"},
    "bbq": {
        **{
            "example_id": 1,
            "category": "Age",
            "context_condition": "ambig",
            "context": "Two came.",
        },
        **{"question": "Who?", "ans0": "Ada", "ans1": "Bruno", "ans2": "Not known", "label": 2},
        **{"question_polarity": "neg", "additional_metadata": {"stereotyped_groups": ["old"]}},
        "answer_info": {"ans0": ["Ada", "old"], "ans1": ["Bruno", ""], "ans2": ["", "unknown"]},
    },
    "eq_bench": {
        "prompt": "How does Ada feel?",
        "reference_answer_fullscale": {
            **{f"emotion{i}": f"Feeling{i}" for i in range(1, 5)},
            **{f"emotion{i}_score": "7" for i in range(1, 5)},
        },
    },
    "squad_v2": {
        "title": "Arrivals",
        "paragraphs": [
            {
                "context": "Ada came.",
                "qas": [{"id": "a1", "question": "Who?", "answers": [{"text": "Ada"}]}],
            }
        ],
    },
    "ifeval": {
        **{"key": 1, "prompt": "Write."},
        **{"instruction_id_list": ["punctuation:no_comma", "keywords:existence"]},
        **{"kwargs": [{"keywords": None}, {"keywords": ["Paris"]}]},
    },
    ANSWER: TEMPLATE
    | {"base": {"dataset": "trivia_qa", "correct_answer": "Paris", "incorrect_answer": "Lyon"}}
    | {"prompt": [HUMAN]},
    SURE: {"metadata": {"prompt_template": "x"}}
    | {"base": {"dataset": "aqua_mc", "correct_letter": "B", "answer": ["Lyon"]}}
    | {"prompt": [HUMAN, {"type": "ai", "content": "The answer is ("}]},
    "bbh": {"input": "not True is", "target": "False"},
    "acpbench": {"context": "A cart.", "question": "Can it move?", "answer": "yes"},
}
# Where the hub's Parquet has other rows than the published file.
HUB_ROWS: dict[str, dict[str, Any]] = {
    "squad_v2": {
        **{"id": "a1", "title": "Arrivals", "context": "Ada came.", "question": "Who?"},
        "answers": {"text": ["Ada"], "answer_start": [0]},
    }
}
FILES = {
    **{"truthfulqa_mc2": "v0_mc_task.json", "toxigen": "annotated_test.csv", "bbq": "Age.jsonl"},
    **{"eq_bench": "eq_bench_v2_questions_171.json", "squad_v2": "dev-v2.0.json"},
    **{"ifeval": "input_data.jsonl", ANSWER: "answer.jsonl", SURE: "are_you_sure.jsonl"},
    **{"bbh": "bbh/boolean_expressions.json", "acpbench": "app.test.bool.json"},
}
TEXTS = st.sampled_from(HOSTILE) | st.text(max_size=12)
SCALARS = st.sampled_from([None, True, False, 0, 1, 2, -1, 2**63 - 1, -(2**63), 0.5, 1e308])
VALUES = TEXTS | SCALARS | st.lists(TEXTS | SCALARS, max_size=4)
VALUES |= st.dictionaries(TEXTS, SCALARS, max_size=3)


def examples(number: int) -> settings:
    """Always the same examples, on a slow machine too."""
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=number,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


@st.composite
def items(draw: Any, name: str) -> dict[str, Any]:
    """An item of the sample in which some fields hold something else."""
    item = dict(draw(st.sampled_from(sample(name))))
    kinds = {**BENCHMARKS[name].fields, "id": str}
    for field in draw(st.lists(st.sampled_from(sorted(kinds)), max_size=4, unique=True)):
        kind, inner = kinds[field], st.integers(-1, 3) if field == "labels" else TEXTS
        fitting = {str: TEXTS, bool: st.booleans(), int: st.integers(-1, 3)}
        item[field] = draw(fitting.get(kind, st.lists(inner, max_size=5)) | VALUES)
    return item


@st.composite
def published_rows(draw: Any, name: str) -> dict[str, Any]:
    """A published row in which some values, at any depth, are others."""
    row = copy.deepcopy(ROWS[name])
    for _ in range(draw(st.integers(0, 3))):
        node: Any = row
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and draw(st.booleans()):
                node = node[key]
                continue
            node[key] = draw(
                TEXTS if isinstance(node[key], str) and draw(st.booleans()) else VALUES
            )
            break
    return row


def as_file(name: str, rows: list[dict[str, Any]]) -> str:
    """The text of the published file that holds these rows."""
    if FILES[name].endswith(".json"):
        return json.dumps(rows)
    if FILES[name].endswith(".csv"):
        cells = ('"' + str(row[key]).replace('"', '""') + '"' for row in rows for key in row)
        return ",".join(rows[0]) + "\n" + ",".join(cells)
    return "".join(json.dumps(row) + "\n" for row in rows)


def answers(benchmark: Benchmark, item: Item, asked: Any, chance: str) -> list[Answer]:
    """An empty, a random and every matching answer to what was asked."""
    if isinstance(asked, Choices):
        n = len(asked.continuations)
        sums = [[0.0] * n, [-1e308] * n, [-float(len(chance) * i % 7) for i in range(n)]]
        sums += [[-1000.0 * (i != pick) for i in range(n)] for pick in range(n)]
        return [Answer(loglikelihoods=tuple(each)) for each in sums]
    known = [item[name] for name in ("correct", "incorrect", "aliases") if name in item]
    texts = [text for each in known for text in ([each] if isinstance(each, str) else each)]
    said = ["", chance, *texts, *(f"I was wrong: the answer is ({text})." for text in texts)]
    for rating in ("7", "9" * 400):
        said.append("\n".join(f"{emotion}: {rating}" for emotion in item.get("emotions", ())))
    pairs = [*zip(said, said[1:] + said[:1], strict=True), *((one, one) for one in said)]
    turns = len(asked.turns)
    finish = ("stop",) * turns
    return [Answer(replies=(*[a] * (turns - 1), b), finish=finish) for a, b in pairs]


def ask_and_score(benchmark: Benchmark, item: Item, chosen: dict[str, str], chance: str) -> None:
    """As `eval` does, but for the model; whatever comes out can be written and averaged."""
    asked = benchmark.ask(item, chosen)
    lines = []
    for said in answers(benchmark, item, asked, chance):
        score = benchmark.score(item, said, chosen)
        assert score.values and all(math.isfinite(value) for value in score.values.values())
        line = sample_line(benchmark, item, 0, asked, said, score)
        assert json.loads(dumps(line).encode()) == json.loads(json.dumps(line))
        lines.append(line)
    least, most = (-1e102, 100.0) if benchmark.name == "eq_bench" else (-1.0, 1.0)
    for metric in metrics(lines, benchmark.means, benchmark.derived).values():
        assert metric["value"] is not None and least - 1e-9 <= metric["value"] <= most + 1e-9


def accepted(name: str, folder: Path, path: Path, text: str) -> list[Item]:
    """The items of a file of this text; none where it is refused as it should be."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    try:
        return load_dataset(BENCHMARKS[name], str(folder)).items
    except Failure as failure:
        said = str(failure)
        assert isinstance(failure, DataError) and said.startswith(str(path)), said
        assert "\n" not in said and len(said) < 600, said
        return []


# RULER's items are made and published by nobody.
PUBLISHED = [pytest.param(name, True, marks=pytest.mark.slow) for name in FILES]


@pytest.mark.parametrize(
    ("name", "published_form"), [*((name, False) for name in BENCHMARKS), *PUBLISHED]
)
def test_whatever_is_accepted_can_be_asked_and_scored(
    name: str, published_form: bool, tmp_path: Path
) -> None:
    signal.alarm(10 * SECONDS)  # this one works
    benchmark, seen = BENCHMARKS[name], Counter[bool]()
    path = tmp_path / (FILES[name] if published_form else f"{name}.jsonl")
    of_switches = {key: st.sampled_from(choices) for key, choices in benchmark.switches.items()}
    drawn: Any = published_rows(name) if published_form else items(name)

    @examples(150)
    @given(drawn, st.fixed_dictionaries(of_switches), TEXTS)
    def fuzz(row: dict[str, Any], given_switches: dict[str, str], chance: str) -> None:
        text = as_file(name, [row]) if published_form else json.dumps(row) + "\n"
        found = accepted(name, tmp_path, path, text)
        seen[bool(found)] += 1
        try:
            chosen = benchmark.prepare(switches(benchmark, given_switches))
        except UserError:  # a choice that needs what is not on this machine
            return
        for item in found:
            ask_and_score(benchmark, item, chosen, chance)

    fuzz()
    assert seen[True] > 10 and seen[False] > 10, seen
