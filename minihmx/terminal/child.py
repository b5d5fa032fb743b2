"""A command of minihmx in a process of its own, passed on as it speaks. No torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence

from minihmx.errors import INTERRUPTED
from minihmx.terminal.plan import headline
from minihmx.terminal.text import show

PLANNED = "MINIHMX_PLANNED"  # tells a command that what comes after it is seen to


def child(
    arguments: Sequence[str], made: list[str] | None = None, lock: int | None = None
) -> tuple[int, str]:
    """Run a command of minihmx; returns its exit code and the last line that it wrote to stderr.

    made: where the folder of each result goes that `eval --json` prints. lock: the claim, which
    the child holds as well, so that it stays claimed if this process is killed.
    """
    piped = subprocess.PIPE if "--json" in arguments else None
    command = [sys.executable, "-m", "minihmx", *arguments]
    # Ctrl-C reaches parent and child alike. The child saves and ends, and the parent waits for it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    process = subprocess.Popen(
        command,
        stdout=piped,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {PLANNED: "1"},
        pass_fds=() if lock is None else (lock,),
    )
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    said: list[str] = []
    echo = threading.Thread(target=echoed, args=(process.stderr, said))
    echo.start()
    for line in process.stdout or ():
        result = json.loads(line)
        if made is not None:
            made.append(result["folder"])
        for text in headline(result):
            show(text)
    code = process.wait()
    echo.join()
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    if code < 0:
        stopped = -code in (signal.SIGINT, signal.SIGTERM)
        return INTERRUPTED if stopped else 1, f"it was killed by signal {-code}"
    return code, said[-1].removeprefix("minihmx: ") if said else f"it ended with exit code {code}"


def echoed(stream: Iterable[str], said: list[str]) -> None:
    """Pass on what a child says on stderr, and remember it."""
    for line in stream:
        print(line, end="", file=sys.stderr, flush=True)
        said += [line.strip()] if line.strip() else []
