"""A hub on this machine: enough of its HTTP interface for huggingface_hub to download from.

Run as a script it serves, in one process with the real library, the cases given as JSON and prints
what `resolve`, or the command `minihmx data`, said of each: the library reads its settings when it
is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from minihmx.evals.benchmark import Benchmark, Choices, Origin, Score, cell

SHA = "c0ffee" * 6 + "c0ff"
GOOD_TOKEN, OTHER_TOKEN = "hf_goodgoodgood", "hf_otherotherother"
TOKEN = "hf_averysecrettokenindeed"  # which this hub does not know
CONVERTED_SHA = "decade" * 6 + "deca"  # of a dataset's refs/convert/parquet
requests: list[str] = []


def toy(name: str, *files: str, total: int = 3, **source: Any) -> Benchmark:
    """A benchmark whose published rows hold a "q", in the dataset org/NAME."""

    def convert(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
        yield {"id": f"{name}-{number}", "question": cell(row, "q", str)}

    return Benchmark(
        name=name,
        title=name,
        fields={"question": str},
        total=total,
        chat=False,
        headline=("acc",),
        source=Origin(f"org/{name}", files, **source),
        convert=convert,
        ask=lambda item, _: Choices(item["question"], ("no", "yes")),
        score=lambda *_: Score({"acc": 1.0}, {}),
    )


TOYS = [
    toy("plain", "test/*.jsonl", "old.csv", licence="CC BY 4.0"),
    toy("gated-set", "annotated.csv", gated=True),
    toy("copied", "gone.jsonl", converted=("all/test/*.jsonl",)),
    toy("typo", "x.jsonl"),
    toy("empty", "x.jsonl"),
    toy("broken", "x.jsonl"),
    toy("busy", "x.jsonl"),
]


class Hub(BaseHTTPRequestHandler):
    """Repositories are folders of `root`, ORG/NAME or datasets/ORG/NAME.

    NAME starting with "gated" is gated. NAME@converted is a dataset's refs/convert/parquet.
    """

    root: Path

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer(status, json.dumps({"error": message}).encode(), **headers)

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        requests.append(f"{self.command} {path}")
        api, path = path.startswith("api/"), path.removeprefix("api/").removeprefix("models/")
        root = self.root / ("datasets" if path.startswith("datasets/") else "")
        parts = path.removeprefix("datasets/").split("/")
        if len(parts) < 2:  # the library also asks for its own purposes
            return self.refuse(404, None, "Not found")
        repo, rest, sha = root / "/".join(parts[:2]), parts[2:], SHA
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", GOOD_TOKEN, OTHER_TOKEN):
            return self.refuse(401, None, "Invalid credentials in Authorization header")
        if parts[1].startswith("busy"):
            return self.refuse(503, None, "Service Unavailable")
        if not repo.is_dir():
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if len(rest) > 1 and unquote(rest[1]) in ("refs/convert/parquet", CONVERTED_SHA):
            repo, sha = repo.with_name(f"{repo.name}@converted"), CONVERTED_SHA
        elif len(rest) > 1 and rest[1] not in ("main", SHA):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        files = sorted(file for file in repo.rglob("*") if file.is_file())
        names = [file.relative_to(repo).as_posix() for file in files]
        if api and rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": f.stat().st_size, "oid": f"{n:040x}"}
                for n, (name, f) in enumerate(zip(names, files, strict=True))
            ]
            return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        if api:
            siblings = [{"rfilename": name} for name in names]
            info = {"id": "/".join(parts[:2]), "sha": sha, "siblings": siblings}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        if parts[1].startswith("gated") and token != GOOD_TOKEN:
            return self.refuse(403 if token else 401, "GatedRepo", "Access is restricted")
        if parts[1].startswith("forbidden"):
            return self.refuse(403, None, "Please enable access in your token settings")
        name = "/".join(rest[2:])
        body = (repo / name).read_bytes()
        etag = f'"{hashlib.sha1(name.encode()).hexdigest()}"'
        headers = {"ETag": etag, "X_Repo_Commit": sha, "Content_Length": str(len(body))}
        return self.answer(200, body, **headers)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def said_of(case: dict[str, Any]) -> dict[str, Any]:
    """Of {"data": [...]}, the command's output and exit code; else what `resolve` found."""
    from minihmx import cli
    from minihmx.errors import Failure
    from minihmx.models.hub import resolve

    if "data" in case:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(["data", *case["data"]])
        return {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    try:
        source = resolve(case["name"], case.get("revision"))
    except Failure as failure:
        return {"code": failure.code, "message": str(failure)}
    said = {"folder": str(source.folder), "id": source.id, "revision": source.revision}
    return said | {"run_name": source.run_name, "digest": source.digest}


def asked(tmp_path: Path, *cases: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
    """What `resolve`, or `minihmx data`, says of each case in a fresh process; no token is said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tests = Path(__file__).parent
    settings = {
        "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, __file__, tmp_path / "repos", port, json.dumps(cases)],
        env={**inherited, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not [t for t in (GOOD_TOKEN, OTHER_TOKEN, TOKEN) if t in done.stdout + done.stderr]
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(root: str, port: str, cases: str) -> None:
    from minihmx.evals import BENCHMARKS

    BENCHMARKS.clear()
    BENCHMARKS.update({benchmark.name: benchmark for benchmark in TOYS})
    Hub.root = Path(root)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for case in json.loads(cases):
        requests.clear()
        os.environ.pop("HF_TOKEN", None)
        if case.get("token"):
            os.environ["HF_TOKEN"] = case["token"]
        if case.get("down"):
            server.shutdown()
            server.server_close()
        said = said_of(case)
        files = [r.split("/")[-1] for r in requests if r.startswith("GET") and "/resolve/" in r]
        print(json.dumps({**said, "requests": len(requests), "files": sorted(files)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
