"""A hub on this machine: enough of its HTTP interface for huggingface_hub to download from.

Run as a script it serves, in one process with the real library, the cases given as JSON and prints
what `resolve` said of each: the library reads its settings when it is imported.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHA = "c0ffee" * 6 + "c0ff"
GOOD_TOKEN, OTHER_TOKEN = "hf_goodgoodgood", "hf_otherotherother"
requests: list[str] = []


class Hub(BaseHTTPRequestHandler):
    """Repositories are folders of `root`, ORG/NAME; NAME starting with "gated" is gated."""

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
        api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        repo, rest = self.root / "/".join(parts[:2]), parts[2:]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", GOOD_TOKEN, OTHER_TOKEN):
            return self.refuse(401, None, "Invalid credentials in Authorization header")
        if parts[1].startswith("busy"):
            return self.refuse(503, None, "Service Unavailable")
        if not repo.is_dir():
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if len(rest) > 1 and rest[1] not in ("main", SHA):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        files = sorted(file for file in repo.iterdir())
        if api and rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f"{n:040x}"}
                for n, f in enumerate(files)
            ]
            return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        if api:
            siblings = [{"rfilename": file.name} for file in files]
            info = {"id": "/".join(parts[:2]), "sha": SHA, "siblings": siblings}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        if parts[1].startswith("gated") and token != GOOD_TOKEN:
            return self.refuse(403 if token else 401, "GatedRepo", "Access is restricted")
        if parts[1].startswith("forbidden"):
            return self.refuse(403, None, "Please enable access in your token settings")
        body = (repo / rest[-1]).read_bytes()
        etag = f'"{files.index(repo / rest[-1]):040x}"'
        headers = {"ETag": etag, "X_Repo_Commit": SHA, "Content_Length": str(len(body))}
        return self.answer(200, body, **headers)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def main(root: str, port: str, cases: str) -> None:
    from minihmx.errors import Failure
    from minihmx.models.hub import resolve

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
        try:
            source = resolve(case["name"], case.get("revision"))
            said = {"folder": str(source.folder), "id": source.id, "revision": source.revision}
            said |= {"run_name": source.run_name, "digest": source.digest}
        except Failure as failure:
            said = {"code": failure.code, "message": str(failure)}
        files = [r.split("/")[-1] for r in requests if r.startswith("GET") and "/resolve/" in r]
        print(json.dumps({**said, "requests": len(requests), "files": sorted(files)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
