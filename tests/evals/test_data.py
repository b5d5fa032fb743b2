"""Benchmarks' items: published files as people have them, the schema, the cache and the hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
from conftest import shared
from fake_hub import CONVERTED_SHA, GOOD_TOKEN, OTHER_TOKEN, SHA, TOKEN, asked, toy

from minihmx import cli
from minihmx.errors import DataError, Failure, IOFailure, UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.items import load as data
from minihmx.evals.items import published
from minihmx.evals.items.load import load_dataset, locate
from minihmx.storage.disk import dumps

PLAIN = toy("plain", "test/*.jsonl", "v0_*.json", "v1_*.json", "old.csv", total=3)
ITEMS = [{"id": f"plain-{n}", "question": f"q{n}"} for n in range(3)]
ROWS = "".join(f'{{"q": "q{n}"}}\n' for n in range(3))
DIGEST = hashlib.sha256("".join(dumps(item) + "\n" for item in ITEMS).encode()).hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def put(path: Path, content: str | bytes) -> Path:
    """Written, and gzipped where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def refused(kind: type[Failure], *words: str, where: Path) -> str:
    with pytest.raises(kind) as caught:
        load_dataset(PLAIN, str(where))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# Published files


@pytest.mark.parametrize(
    "name, content",
    [
        ("test/a.jsonl", ROWS),
        ("test/a.jsonl.gz", ROWS),
        ("a.jsonl.gz/../test/a.jsonl", "\ufeff" + ROWS.replace("\n", "\r\n\n  \n")),
        ("v0_x.json", f"[{','.join(ROWS.splitlines())}]"),
        ("v0_x.json.gz", f"[{','.join(ROWS.splitlines())}]"),
        ("old.csv", "q,n\nq0,1\nq1,2\n\nq2,3\n"),
        ("old.csv.gz", '\ufeff"q",n\r\n"q0",1\r\n"q1",\r\n"q2",3'),
        ("plain.jsonl", "".join(json.dumps(item, indent=None) + "\n" for item in ITEMS)),
        ("plain/test/a.jsonl", ROWS),
        ("PLAIN/old.csv", "q\nq0\nq1\nq2\n"),
    ],
)
def test_every_form_gives_the_same_items_and_digest(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / "a.jsonl.gz").mkdir()
    path = put(tmp_path / name, content)
    for where in (tmp_path, path):
        found = load_dataset(PLAIN, str(where))
        assert found.items == ITEMS and found.digest == DIGEST
        assert (found.total, found.partial, found.label, found.note) == (3, False, "", "")
        assert found.origin == f"files {where}"


def test_a_field_of_a_csv_may_hold_lines_and_quotes(tmp_path: Path) -> None:
    put(tmp_path / "old.csv", 'q,n\n"one ""big""\nline, two",1\nx,2\ny,3\n')
    assert load_dataset(PLAIN, str(tmp_path)).items[0]["question"] == 'one "big"\nline, two'


def test_several_files_are_one_set_and_a_part_is_marked(tmp_path: Path) -> None:
    put(tmp_path / "test" / "b.jsonl.gz", '{"q": "q1"}')
    put(tmp_path / "test" / "a.jsonl", '{"q": "q0"}')
    put(tmp_path / "test" / "a.jsonl.gz", '{"q": "the same file, packed"}')
    found = load_dataset(PLAIN, str(tmp_path))
    assert found.items == ITEMS[:2] and found.partial and found.label == "partial 2/3"


def test_the_order_of_preference_decides_and_is_said(tmp_path: Path) -> None:
    for version in ("v1", "v0"):
        put(tmp_path / f"{version}_x.json", f'[{{"q": "{version}"}}]')
    found = load_dataset(PLAIN, str(tmp_path))
    assert [item["question"] for item in found.items] == ["v0"]
    assert found.note == "v0_x.json taken, v1_x.json left out"
    put(tmp_path / "plain.jsonl", dumps(ITEMS[0]))
    assert load_dataset(PLAIN, str(tmp_path)).items == ITEMS[:1]


def test_a_published_file_may_bear_the_benchmarks_name(tmp_path: Path) -> None:
    same = toy("same", "same.jsonl")
    path = put(tmp_path / "same.jsonl", ROWS)
    assert load_dataset(same, str(tmp_path)).items[0] == {"id": "same-0", "question": "q0"}
    path.write_text('{"id": "x", "question": "y"}')
    assert load_dataset(same, str(path)).items == [{"id": "x", "question": "y"}]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("test/a.jsonl", ROWS + '{"p": 1}', ["a.jsonl, line 4", "it has no q"]),
        ("test/a.jsonl", ROWS + '\n{"q": "q', ["a.jsonl, line 5", "not JSON"]),
        ("test/a.jsonl", ROWS + "[1]", ["line 4", "no JSON object"]),
        ("test/a.jsonl", '{"q": 5}', ["line 1", "its q is 5"]),
        ("test/a.jsonl", '{"q": NaN}', ["line 1", "not JSON"]),
        ("test/a.jsonl", '{"q": "x", "q": "y"}', ["line 1", "twice"]),
        ("test/a.jsonl", "[" * 100_000, ["line 1", "nested"]),
        ("test/a.jsonl", '{"q": "\\ud800"}', ["line 1"]),
        ("test/a.jsonl", b'{"q": "x"}\n{"q": "\xe9"}', ["line 2", "UTF-8"]),
        ("test/a.jsonl", "{}".encode("utf-16"), ["line 1", "UTF-8"]),
        ("test/a.jsonl", ROWS + '{"q": "q3"}', ["has 4 items", "published set 3"]),
        ("test/a.jsonl", "", ["holds no rows"]),
        ("test/a.jsonl.gz", "\n \n", ["holds no rows"]),
        ("v0_a.json", "", ["holds no rows"]),
        ("v0_a.json", "[]", ["holds no rows"]),
        ("v0_a.json", '[\n{"q": "x"},\n{"q" "y"}]', ["line 3", "not JSON"]),
        ("v0_a.json", '{"q": "x"}', ["no JSON list"]),
        ("v0_a.json", '[{"q": "x"}, 7]', ["row 2", "no JSON object"]),
        ("v0_a.json", "[" * 100_000, ["not JSON", "nested"]),
        ("old.csv", "p\nx\n", ["line 2", "it has no q"]),
        ("old.csv", "q,n\nx,1\ny\n", ["line 3", "1 columns", "header 2"]),
        ("old.csv", "q,q\nx,1\n", ["line 1", "one name"]),
        ("old.csv", "q\nx\0y\n", ["line 2", "NUL"]),
        ("old.csv", 'q\nx\n"y" z\n', ["line 3", "no CSV"]),
        ("old.csv", 'q\nx\n"y\nz\n', ["begins here", "line 3", "no CSV"]),
        ("old.csv", "q\n" + "x" * 200_000, ["line 2", "no CSV"]),
        ("old.csv", "q\n", ["holds no rows"]),
        ("plain.jsonl", '{"id": "a", "question": 1}', ["line 1", '"question" must be str']),
        ("plain.jsonl", '{"id": 1, "question": "x"}', ["line 1", '"id" must be str']),
        ("plain.jsonl", '{"id": " ", "question": "x"}', ["line 1", '"id" is empty']),
        ("plain.jsonl", '{"id": "a"}', ["line 1", '"question" is missing']),
        ("plain.jsonl", '{"question": "a"}', ["line 1", '"id" is missing']),
        ("plain.jsonl", '{"id": "a", "question": "b", "c": 1}', ["line 1", '"c" is not of']),
    ],
)
def test_bad_content_is_named_with_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, words: list[str]
) -> None:
    path = put(tmp_path / name, content)
    refused(DataError, *words, *([] if "items" in words[0] else [str(path)]), where=tmp_path)


def test_an_id_that_is_there_twice_is_named_with_both_places(tmp_path: Path) -> None:
    put(tmp_path / "plain.jsonl", "".join(dumps(item) + "\n" for item in (*ITEMS[:2], ITEMS[0])))
    refused(DataError, "line 3", 'its id "plain-0" is that of plain.jsonl, line 1', where=tmp_path)


def test_a_gzip_file_that_is_broken(tmp_path: Path) -> None:
    path = put(tmp_path / "test" / "a.jsonl.gz", os.urandom(50_000).hex())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(DataError, str(path), where=tmp_path)
    packed = gzip.compress(ROWS.encode())
    for broken in (packed[:-3], packed[:20], packed[:-8] + b"12345678", ROWS.encode()):
        path.write_bytes(broken)
        refused(DataError, str(path), "no whole gzip file", where=tmp_path)


def test_a_line_without_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "LARGEST_FILE", 100)
    put(tmp_path / "test" / "a.jsonl", '{"q": "' + "x" * 1000 + '"}')
    refused(DataError, "line 1", "more than 100 bytes", where=tmp_path)


def test_what_is_not_there_or_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(UserError, "nowhere", "does not exist", where=tmp_path / "nowhere")
    refused(UserError, "holds nothing of plain", "plain.jsonl or test/*.jsonl", where=tmp_path)
    other = put(tmp_path / "notes.txt", "x")
    refused(UserError, "holds nothing of plain", where=other)
    (tmp_path / "old.csv").mkdir()
    refused(UserError, "old.csv is a folder", where=tmp_path)
    with pytest.raises(UserError, match="There is no sample of plain"):
        load_dataset(PLAIN, "sample")
    with pytest.raises(UserError, match="does not exist"):
        load_dataset(PLAIN, "")
    with pytest.raises(UserError, match="format that is not read"):
        list(published.rows(other))

    def fails(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = put(tmp_path / "x.jsonl", ROWS)
    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(IOFailure, match="Permission denied"):
        list(published.rows(path))


def test_parquet_needs_its_library_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "x.parquet", b"PAR1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        list(published.rows(path))


def test_parquet_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"q": f"q{n}", "targets": {"choices": ["a"], "labels": [n]}} for n in range(3000)]
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert list(published.rows(path)) == rows
    whole = path.read_bytes()
    for broken in (b"", whole[:1000], whole[-1000:], b"x" * 100, whole[:100] + whole[160:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="no whole Parquet file"):
            list(published.rows(path))


# The hub


def hub_files(tmp_path: Path) -> Path:
    """Datasets as tests/fake_hub.py has them in TOYS; "typo" is not there."""
    root = tmp_path / "repos" / "datasets" / "org"
    put(root / "plain" / "test" / "a.jsonl", '{"q": "q0"}\n')
    put(root / "plain" / "test" / "b.jsonl.gz", '{"q": "q1"}\n{"q": "q2"}\n')
    put(root / "plain" / "deep" / "test" / "c.jsonl", "never fetched")
    put(root / "plain" / "old.csv", "never fetched")
    put(root / "gated-set" / "annotated.csv", "q\na\nb\n")
    put(root / "copied" / "README.md", "")
    put(root / "copied@converted" / "all" / "test" / "0.jsonl", ROWS)
    put(root / "empty" / "README.md", "")
    put(root / "broken" / "x.jsonl", '{"q": "x"}\n{"q": 1}\n')
    return root


def test_get_list_and_check_against_a_hub(tmp_path: Path) -> None:
    root = hub_files(tmp_path)
    get = {"data": ["get"]}
    one = {"data": ["get", "plain"]}
    before, every, again, force, gated, other, bad, good, listed, checked, down = asked(
        tmp_path,
        {"data": ["list", "--json"]},
        get,
        one,
        {"data": ["get", "plain", "--force"]},
        {"data": ["get", "gated-set"]},
        {"data": ["get", "gated-set"], "token": OTHER_TOKEN},
        {"data": ["get", "gated-set"], "token": TOKEN},
        {"data": ["get", "gated-set"], "token": GOOD_TOKEN},
        {"data": ["list"]},
        {"data": ["check", "--json"]},
        {"data": ["get", "plain", "typo"], "down": True},
        XDG_CACHE_HOME=str(tmp_path / "xdg"),
    )
    assert before["requests"] == 0 and not any(x["cached"] for x in json.loads(before["out"]))

    # one line or sentence for each, none keeping the others from their turn; 5 is the worst
    assert every["code"] == 5
    assert every["out"].splitlines() == [
        f"plain              fetched: 3 items from hub org/plain@{SHA}",
        f"copied             fetched: 3 items from hub org/copied@{CONVERTED_SHA}",
    ]
    order = ("gated", "typo", "empty", "broken", "busy")
    said = dict(zip(order, every["err"].splitlines(), strict=True))
    assert "no token is set: accept its licence at https://hf.co/datasets/org/" in said["gated"]
    assert "HF_TOKEN=hf_" in said["gated"] and "MODEL=" not in every["err"]
    assert "no dataset org/typo" in said["typo"]
    assert "org/empty holds no x.jsonl any more" in said["empty"]
    assert "x.jsonl, line 2: its q is 1" in said["broken"]
    assert "org/busy is not completely in the cache" in said["busy"] and "503" in said["busy"]
    assert every["files"] == ["0.jsonl", "a.jsonl", "b.jsonl.gz", "x.jsonl"]

    assert again["requests"] == 0 and "was there: 3 items" in again["out"]
    assert force["requests"] > 0 and "fetched: 3 items" in force["out"]
    assert [gated["code"], other["code"], bad["code"], good["code"]] == [2, 2, 2, 0]
    assert "no access to org/gated-set" in other["err"] and "refused your token" in bad["err"]
    assert "fetched: partial 2/3" in good["out"]

    lines = {line.split()[0]: line for line in listed["out"].splitlines()}
    assert f"cached: 3 at {SHA[:12]}" in lines["plain"]
    assert lines["plain"].endswith("org/plain (CC BY 4.0)")
    assert f"cached: partial 2/3 at {SHA[:12]}" in lines["gated-set"]
    assert "gated: needs HF_TOKEN" in lines["gated-set"]
    assert "not fetched" in lines["broken"] and listed["requests"] == 0

    found = {report["name"]: report for report in json.loads(checked["out"])}
    assert checked["code"] == 5 and "gated-set is partial 2/3" in checked["err"]
    assert found["plain"]["items"] == 3 and found["plain"]["sha256"] == DIGEST
    assert found["plain"]["problem"] is None and found["broken"]["items"] is None

    # no network: what is in the cache is there
    assert down["code"] == 4 and "was there: 3 items" in down["out"]
    assert "check the connection" in down["err"] and "minihmx eval" in down["err"]

    folder = tmp_path / "xdg" / "minihmx" / "data"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("plain", "gated-set", "copied") for kind in ("json", "jsonl")
    )
    record = json.loads((folder / "plain.json").read_text())
    assert record == {
        "repo": "org/plain",
        "revision": SHA,
        "files": ["test/a.jsonl", "test/b.jsonl.gz"],
        "count": 3,
        "sha256": DIGEST,
    }
    assert hashlib.sha256((folder / "plain.jsonl").read_bytes()).hexdigest() == DIGEST

    # offline, and a copy that was replaced only when the new one was whole
    put(root / "plain" / "test" / "a.jsonl", '{"q": 5}\n')
    (spoiled,) = asked(
        tmp_path, {"data": ["get", "plain", "--force"]}, XDG_CACHE_HOME=str(tmp_path / "xdg")
    )
    assert spoiled["code"] == 5 and load_dataset(PLAIN, "hub").items == ITEMS
    (offline,) = asked(
        tmp_path,
        {"data": ["get", "busy", "plain"]},
        XDG_CACHE_HOME=str(tmp_path / "xdg"),
        HF_HUB_OFFLINE="1",
    )
    assert offline["code"] == 4 and "HF_HUB_OFFLINE" in offline["err"]
    assert "was there" in offline["out"]


def into_cache(items: list[dict[str, str]], **changes: Any) -> Path:
    """A converted copy of PLAIN."""
    text = "".join(dumps(item) + "\n" for item in items)
    sha = hashlib.sha256(text.encode()).hexdigest()
    record = {"repo": "org/plain", "revision": SHA, "files": ["a"], "count": len(items)}
    path = put(data._home() / "plain.jsonl", text)
    put(data._home() / "plain.json", json.dumps(record | {"sha256": sha} | changes))
    return path


def test_the_cached_copy_is_what_is_read_and_must_be_what_was_fetched() -> None:
    path = into_cache(ITEMS)
    found = load_dataset(PLAIN, "hub")
    assert (
        found.items == ITEMS and found.digest == DIGEST and found.origin == f"hub org/plain@{SHA}"
    )
    path.write_text(path.read_text().replace("q1", "Q1"))
    with pytest.raises(DataError, match="minihmx data get plain"):
        load_dataset(PLAIN, "hub")


@pytest.mark.parametrize("note", ["", "[]", "{}", "null", '{"repo": 1', "\0", "[" * 9999])
def test_a_copy_without_a_readable_note_counts_as_absent(
    note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = into_cache(ITEMS)
    put(path.with_suffix(".json"), note)
    fetched = []
    monkeypatch.setattr(data, "fetch", lambda benchmark: fetched.append(into_cache(ITEMS[:2])))
    assert load_dataset(PLAIN, "hub").label == "partial 2/3" and len(fetched) == 1


def test_a_disk_that_fails_half_way_leaves_the_old_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = put(tmp_path / "a.jsonl", ROWS.replace("q1", "Q1"))
    monkeypatch.setattr(data, "download", lambda source, force: ([new], SHA, ["a.jsonl"]))
    monkeypatch.setattr(data, "LINES_AT_ONCE", 1)
    monkeypatch.setitem(BENCHMARKS, "plain", PLAIN)
    path, writes = into_cache(ITEMS), []
    real = data.Disk.write

    def full(self: data.Disk, target: Path, raw: bytes, mode: str = "wb") -> None:
        writes.append(target)
        if len(writes) == 2:
            raise OSError(28, "No space left on device", str(target))
        real(self, target, raw, mode)

    monkeypatch.setattr(data.Disk, "write", full)
    assert cli.main(["data", "get", "--force", "plain"]) == 4
    assert "No space left" in capsys.readouterr().err
    assert load_dataset(PLAIN, "hub").items == ITEMS
    assert sorted(p.name for p in path.parent.iterdir()) == ["plain.json", "plain.jsonl"]


# The command


@pytest.fixture
def only_plain() -> Iterator[None]:
    every = dict(BENCHMARKS)  # not monkeypatch, which would put them back in another order
    BENCHMARKS.clear()
    BENCHMARKS.update({"plain": PLAIN, "other": toy("other", "other.csv")})
    yield
    BENCHMARKS.clear()
    BENCHMARKS.update(every)


@pytest.mark.usefixtures("only_plain")
def test_check_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    path = put(folder / "test" / "a.jsonl", ROWS)
    at = ["data", "check", "--data", str(folder)]
    assert cli.main(at) == 0
    plain, other = capsys.readouterr().out.splitlines()
    assert plain == f"plain              3 items, sha256 {DIGEST[:12]}, files {folder} (a.jsonl)"
    assert other == "other              not there"
    assert cli.main([*at, "other"]) == 2  # absent, and asked for by name
    assert "holds nothing of other" in capsys.readouterr().err
    put(path, '{"q": "q0"}\n')
    assert cli.main(at) == 5
    said = capsys.readouterr()
    assert "partial 1/3" in said.out and "plain is partial 1/3" in said.err
    put(path, '{"q": 0}\n')
    assert cli.main([*at, "--json"]) == 5
    said = capsys.readouterr()
    reports = json.loads(said.out)
    assert reports[0]["items"] is None and "line 1: its q is 0" in reports[0]["problem"]
    assert "line 1: its q is 0" in said.err and reports[1]["problem"] is None


@pytest.mark.usefixtures("only_plain")
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["check", "--data", "no/where"], "'no/where' does not exist"),
        (["check"], "`minihmx data get` fetches"),
        (["check", "plian"], "did you mean plain?"),
        (["check", "plain"], "plain is not in the cache"),
        (["check", "--data", "sample", "plain"], "no sample of plain"),
        (["get", "plian"], "did you mean plain?"),
        (["list", "--force"], "--force belongs to `minihmx data get`"),
        (["get", "--json"], "--json belongs to"),
        (["get", "--data", "x"], "--data belongs to"),
        (["list", "--jsn"], "did you mean --json?"),
    ],
)
def test_what_the_user_mistyped(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("minihmx: ") == 1


# The paper's benchmarks and their published files


@pytest.mark.parametrize(
    "name, count, label",
    [
        ("truthfulqa_mc2", 817, ""),
        ("ifeval", 541, ""),
        pytest.param("bbq", 11956, "partial 11956/58492", marks=pytest.mark.slow),
        ("eq_bench", 171, ""),
        ("squad_v2", 6078, "partial 6078/11873"),
        ("sycophancy_answer", 3272, "partial 3272/7268"),
        ("are_you_sure", 817, "partial 817/4888"),
        ("bbh", 6511, ""),
        ("acpbench", 1800, ""),
    ],
)
def test_published_files_become_items(name: str, count: int, label: str, tmp_path: Path) -> None:
    found = load_dataset(BENCHMARKS[name], str(shared("data")))
    assert (len(found.items), found.label) == (count, label)
    assert len({item["id"] for item in found.items}) == count
    # and those, written in the schema, are the same set
    put(tmp_path / f"{name}.jsonl.gz", "".join(dumps(item) + "\n" for item in found.items))
    again = load_dataset(BENCHMARKS[name], str(tmp_path))
    assert again.items == found.items and again.digest == found.digest


def test_the_elements_of_a_list_are_checked_too(tmp_path: Path) -> None:
    item = {"id": "a", "question": "b?", "choices": ["c", 1], "labels": [0, 1]}
    put(tmp_path / "truthfulqa_mc2.jsonl", dumps(item))
    with pytest.raises(DataError, match='line 1: the field "choices" must hold str only'):
        load_dataset(BENCHMARKS["truthfulqa_mc2"], str(tmp_path))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_sample_in_the_package_is_whole(name: str) -> None:
    found = locate(BENCHMARKS[name], "sample")
    assert found is not None, f"minihmx/data/sample/{name}.jsonl is missing"
    dataset = data.read_items(BENCHMARKS[name], found)
    assert dataset.origin == "sample" and dataset.total == len(dataset.items) >= 4


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_where_its_items_are_and_what_they_hold(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert benchmark.name == name and "id" not in benchmark.fields
    kinds = {get_origin(kind) or kind for kind in benchmark.fields.values()}
    assert kinds <= {str, int, float, bool, list, dict}
    assert benchmark.source.licence and benchmark.source.repo.count("/") == 1
