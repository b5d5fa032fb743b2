"""Finding a model: names, paths, a hub that is faked at two depths, and what a user reads."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from conftest import shared
from fake_hub import GOOD_TOKEN, OTHER_TOKEN, SHA, TOKEN, asked
from huggingface_hub import constants
from huggingface_hub import errors as hub_library

from minihmx.errors import Failure, IOFailure, UserError
from minihmx.models import hub
from minihmx.models.folder import INDEX
from minihmx.models.known import MODELS


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches, nor sees the user's token."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def checkpoint(folder: Path, family: str = "llama") -> Path:
    """A golden checkpoint without its reference outputs, with the text files a hub model has."""
    folder.mkdir(parents=True)
    source = shared(f"golden_models/{family}")
    for path in [source / "config.json", source / INDEX, *source.glob("model-*.safetensors")]:
        shutil.copy(path, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    return folder


def cached(tmp_path: Path, repo: str) -> Path:
    """The checkpoint as it lies in the hub library's cache: refs, blobs and links to them."""
    home = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = checkpoint(home / "snapshots" / SHA)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(SHA)
    (home / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(home / "blobs" / str(number))
        path.symlink_to(Path("..") / ".." / "blobs" / str(number))
    return snapshot


def refused(kind: type[Failure], name: str, *words: str, revision: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        hub.resolve(name, revision)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message
    return message


# Names and paths


def test_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "my model (v2)")
    source = hub.resolve(str(folder))
    assert source.folder == folder and source.id == str(folder) and source.revision is None
    assert source.run_name == f"my-model--v2--{source.digest[:8]}"
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("my model (v2)") == source
    assert hub.resolve("./my model (v2)/") == source
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.resolve("~/my model (v2)") == source


def test_run_names_are_safe_folder_names(tmp_path: Path) -> None:
    assert hub.run_name("org/Model_1.5-x", "0123456789") == "Model_1.5-x-01234567"
    assert hub.run_name("..", "0123456789") == "model-01234567"
    assert hub.run_name("..é/\u202e", "0123456789") == "model-01234567"


def test_tiny_is_the_bundled_folder() -> None:
    source = hub.resolve("tiny")
    assert source.folder == hub.TINY
    assert (source.run_name, source.id, source.revision) == ("tiny", "tiny", None)
    assert len(source.digest) == 64
    refused(UserError, "tiny", "revision", revision="main")


def test_an_unknown_name_gets_the_nearest_and_the_list() -> None:
    message = refused(UserError, "qwen3-06b", "did you mean qwen3-0.6b?")
    for short, info in MODELS.items():
        assert f"{short} ({info.parameters}, {info.gigabytes:g} GB" in message
    assert message.count("gated") == sum(info.gated for info in MODELS.values()) == 3
    refused(UserError, "LLAMA3.2-3B", "did you mean llama3.2-3b?")
    assert "did you mean" not in refused(UserError, "zzz", "Unknown model 'zzz'")


@pytest.mark.parametrize("name", ["", "a/b/c", "a b/c", "x\0y", "org/", "x" * 5000, "é/è", "-a/b"])
def test_odd_names_are_refused_without_a_traceback(name: str) -> None:
    refused(UserError, name)


@pytest.mark.parametrize(
    "name", ["./nowhere", "/no/where", "~/nowhere/at/all", "models/", "../x/y"]
)
def test_a_path_that_does_not_exist(name: str) -> None:
    refused(UserError, name, "does not exist", name)


def test_paths_that_hold_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    refused(UserError, str(tmp_path / "model.gguf"), "is a GGUF file")
    refused(UserError, str(tmp_path), "is a GGUF file")
    (tmp_path / "model.gguf").rename(tmp_path / "model.txt")
    refused(UserError, str(tmp_path / "model.txt"), "is a file")
    refused(UserError, str(tmp_path), "holds no config.json")
    refused(UserError, str(checkpoint(tmp_path / "m")), "revision", revision="main")


# What each exception of the real library becomes


def answered(kind: str, status: int) -> Exception:
    headers: dict[str, str] = {}
    response = SimpleNamespace(status_code=status, headers=headers, request=None)
    error: Exception = getattr(hub_library, kind)(f"{status} {TOKEN}", response=response)
    return error


def wrapped(cause: Exception) -> Exception:
    """As the library raises it when neither the cache nor the network helped."""
    error: Exception = hub_library.LocalEntryNotFoundError("Cannot find the requested files")
    error.__cause__ = cause
    return error


GATED = ("gated", "https://hf.co/google/gemma-2-2b-it", "MODEL=qwen3-0.6b")
NO_ACCESS = ("no access to google/gemma-2-2b-it", "with the account of your token", "fine-grained")
NO_REVISION = ("no revision main of google/gemma-2-2b-it on the hub", "check the spelling")
CACHE = ("is full or cannot be written", "free space there", "export HF_HOME=FOLDER")
MISSING = ("no such model", "if the repository is private", "check the spelling")
CASES: list[tuple[Exception, bool, type[Failure], tuple[str, ...]]] = [
    (answered("GatedRepoError", 401), False, UserError, (*GATED, "no token", "export HF_TOKEN")),
    (answered("GatedRepoError", 403), True, UserError, (*GATED, *NO_ACCESS)),
    (answered("HfHubHTTPError", 401), True, UserError, ("refused your token",)),
    (answered("RepositoryNotFoundError", 401), True, UserError, ("refused your token",)),
    (answered("RepositoryNotFoundError", 401), False, UserError, MISSING),
    (answered("RepositoryNotFoundError", 404), True, UserError, MISSING),
    (answered("RevisionNotFoundError", 404), False, UserError, NO_REVISION),
    (answered("DisabledRepoError", 403), True, UserError, ("disabled", *NO_ACCESS)),
    (wrapped(answered("HfHubHTTPError", 403)), True, UserError, ("permissions", *NO_ACCESS)),
    (wrapped(answered("HfHubHTTPError", 503)), False, IOFailure, ("503", "wait", "continues")),
    (wrapped(hub_library.OfflineModeIsEnabled("x")), False, IOFailure, ("unset HF_HUB_OFFLINE",)),
    (wrapped(ConnectionError("Name or service")), False, IOFailure, ("Name or", "MODEL=tiny")),
    (TimeoutError("timed out"), False, IOFailure, ("check the connection", "TimeoutError: timed")),
    (OSError(errno.ENOSPC, "No space left"), False, IOFailure, (*CACHE, "No space left")),
    (RuntimeError("Data error: No space left on device (os error 28)"), False, IOFailure, CACHE),
    (OSError(errno.EROFS, "Read-only file system"), False, IOFailure, (*CACHE, "Read-only")),
    (RuntimeError(f"Illegal header value b'Bearer {TOKEN}'"), True, IOFailure, ("***",)),
]


@pytest.mark.parametrize(("error", "token", "kind", "words"), CASES)
def test_every_failure_of_the_hub_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    token: bool,
    kind: type[Failure],
    words: tuple[str, ...],
) -> None:
    def snapshot_download(repo: str, *, local_files_only: bool, **_: Any) -> str:
        raise hub_library.LocalEntryNotFoundError("not cached") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    if token:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    message = refused(kind, "gemma2-2b", *words)
    assert TOKEN not in message


def test_a_token_that_is_no_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_sécrét")
    assert "hf_s" not in refused(UserError, "qwen3-0.6b", "refused your token")


def test_a_bug_is_not_taken_for_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo: str) -> str:
        return repo

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(TypeError):
        hub.resolve("qwen3-0.6b")


# The cache, through the real library without any network


def no_sockets(*_: Any, **__: Any) -> None:
    raise AssertionError("a complete cached model asked the network")


@pytest.mark.parametrize("offline", [True, False])
def test_a_complete_cached_model_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    snapshot = cached(tmp_path, "Qwen/Qwen3-0.6B")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(socket.socket, "connect", no_sockets)
    source = hub.resolve("qwen3-0.6b")
    assert source == hub.Source(snapshot, "qwen3-0.6b", "Qwen/Qwen3-0.6B", SHA, SHA)
    by_id = hub.resolve("Qwen/Qwen3-0.6B", SHA)
    assert by_id == hub.Source(snapshot, f"Qwen3-0.6B-{SHA[:8]}", "Qwen/Qwen3-0.6B", SHA, SHA)


@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", INDEX, "config.json"])
def test_an_incomplete_cached_model_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    (cached(tmp_path, "Qwen/Qwen3-0.6B") / lost).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", no_sockets)
    refused(IOFailure, "qwen3-0.6b", "not completely in the cache", "HF_HUB_OFFLINE")


def test_offline_an_optional_file_may_be_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(tmp_path, "Qwen/Qwen3-0.6B")
    (snapshot / "generation_config.json").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve("qwen3-0.6b").folder == snapshot


# The real library over HTTP, against a hub on this machine


def test_download_then_cache_then_no_network(tmp_path: Path) -> None:
    for name in ("good", "gated-x"):
        repo = checkpoint(tmp_path / "repos" / "org" / name)
        (repo / "pytorch_model.bin").write_bytes(b"never fetched")
        (repo / "consolidated.safetensors").write_bytes(b"not in the index, never fetched")
    gated = {"name": "org/gated-x"}
    first, again, none, other, bad, good, missing, revision, down = asked(
        tmp_path,
        {"name": "org/good"},
        {"name": "org/good"},
        gated,
        {**gated, "token": OTHER_TOKEN},
        {**gated, "token": TOKEN},
        {**gated, "token": GOOD_TOKEN},
        {"name": "org/typo"},
        {"name": "org/good", "revision": "v9"},
        {"name": "org/typo", "down": True},
    )
    assert Path(first["folder"]).name == first["revision"] == first["digest"] == SHA
    assert first["run_name"] == f"good-{SHA[:8]}"
    assert first["files"] == sorted(p.name for p in checkpoint(tmp_path / "same").iterdir())
    assert again["folder"] == first["folder"] and again["requests"] == 0
    assert "no token is set" in none["message"]
    assert "no access to org/gated-x" in other["message"]
    assert "refused your token" in bad["message"]
    assert good["revision"] == SHA
    assert "no such model" in missing["message"]
    assert "no revision v9 of org/good" in revision["message"]
    assert "check the connection" in down["message"]
    codes = [case.get("code", 0) for case in (none, other, bad, missing, revision, down)]
    assert codes == [2, 2, 2, 2, 2, 4]


def test_a_template_in_a_file_of_its_own_comes_along_and_needs_no_network_where_there_is_none(
    tmp_path: Path,
) -> None:
    repo = checkpoint(tmp_path / "repos" / "org" / "new")
    (repo / "chat_template.jinja").write_text("{{ 'one' }}")
    checkpoint(tmp_path / "repos" / "org" / "old")
    new, old, again = asked(tmp_path, *({"name": f"org/{name}"} for name in ("new", "old", "old")))
    assert (Path(new["folder"]) / "chat_template.jinja").read_text() == "{{ 'one' }}"
    assert "chat_template.jinja" not in old["files"] and again["requests"] == 0


def test_a_licence_and_the_card_that_names_it_come_along(tmp_path: Path) -> None:
    repo = checkpoint(tmp_path / "repos" / "org" / "open")
    texts = {"LICENSE": "theirs", "NOTICE": "theirs", "README.md": "---\nlicense: mit\n---"}
    for name, text in {**texts, "training_log.md": "long"}.items():
        (repo / name).write_text(text)
    (found,) = asked(tmp_path, {"name": "org/open"})
    folder = Path(found["folder"])
    assert {name: (folder / name).read_text() for name in texts} == texts
    assert not (folder / "training_log.md").exists()


def test_what_cannot_be_used_is_refused_before_its_weights_are_fetched(tmp_path: Path) -> None:
    repos = tmp_path / "repos" / "org"
    (checkpoint(repos / "mistral") / "config.json").write_text('{"model_type": "mistral"}')
    pickled = checkpoint(repos / "pickled")
    for path in [*pickled.glob("*.safetensors"), pickled / INDEX]:
        path.unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"pickle")
    outside = checkpoint(repos / "outside")
    (outside / INDEX).write_text('{"weight_map": {"a": "../../x.safetensors"}}')
    (repos / "gguf").mkdir()
    (repos / "gguf" / "model.gguf").write_bytes(b"GGUF")
    names = ("mistral", "pickled", "outside", "gguf")
    said = asked(tmp_path, *({"name": f"org/{name}"} for name in names))
    words = ["model_type 'mistral'", "model.safetensors", "../../x.safetensors"]
    words.append("it holds no config.json, so it is no model in Hugging Face's format (a repo")
    for name, word, case in zip(names, words, said, strict=True):
        assert case["code"] == 2 and case["message"].startswith(f"org/{name} cannot be used")
        assert word in case["message"]
        assert not [file for file in case["files"] if file.endswith((".safetensors", ".bin"))]


def test_a_download_that_was_cut_short_is_continued(tmp_path: Path) -> None:
    checkpoint(tmp_path / "repos" / "org" / "good")
    (first,) = asked(tmp_path, {"name": "org/good"})
    shard = Path(first["folder"]) / "model-00002-of-00002.safetensors"
    shard.resolve().unlink()
    shard.unlink()
    (offline,) = asked(tmp_path, {"name": "org/good"}, HF_HUB_OFFLINE="1")
    assert offline["code"] == 4 and "not completely in the cache" in offline["message"]
    (continued,) = asked(tmp_path, {"name": "org/good"})
    assert continued["folder"] == first["folder"] and continued["files"] == [shard.name]


def test_the_room_imports_neither_torch_nor_the_hub_library() -> None:
    code = "import sys, minihmx.models.hub; print({'torch', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
