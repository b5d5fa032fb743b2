"""Where people watch runs: TensorBoard, Weights & Biases, trackio. One function and one line each.

Each is a context that gives a function which takes what replay.py yields. What was logged of the
same run before is replaced, so that a second time no point is there twice. Nothing is imported
before it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

from minihmx.errors import IOFailure, UserError
from minihmx.results.replay import TABLE_COLUMNS, AnswerTable, LoggedRun, Numbers
from minihmx.storage.disk import Disk, home_path
from minihmx.terminal.text import number

Write = Callable[[Numbers | AnswerTable], None]
OWN_FILES = ".minihmx"  # ends the names of the event files that are ours to replace


def load_package(name: str) -> Any:
    """A tracker's package. Raises UserError where it is not installed."""
    with contextlib.suppress(ImportError):
        found = importlib.import_module(name)
        if getattr(found, "__file__", None):  # else it is a folder of that name, as --out may be
            return found
    raise UserError(
        f"--to {name} needs the package {name}, which is not installed (it is in the extra `log`): "
        f"type `{sys.executable} -m pip install {name}` and the same command again."
    )


@contextlib.contextmanager
def tensorboard(run: LoggedRun, out: str, project: str) -> Iterator[tuple[Write, str]]:
    """Event files in OUT/PROJECT/RUN, written with TensorBoard's own writer."""
    load_package("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    above = home_path(out or "tensorboard") / project
    folder = above / run.id
    for old in folder.glob(f"events.out.tfevents.*{OWN_FILES}"):
        Disk().remove(old)
    writer = EventFileWriter(str(folder), flush_secs=2, filename_suffix=OWN_FILES)

    def write(item: Numbers | AnswerTable) -> None:
        if isinstance(item, Numbers):
            pairs = item.values.items()
            found = Summary(value=[Summary.Value(tag=n, simple_value=v) for n, v in pairs])
        else:
            found = text_pb(item.name, markdown_table(item))
        writer.add_event(Event(wall_time=item.when, step=item.step, summary=found))

    config = "".join(f"- {name}: {unmarked(value)}\n" for name, value in sorted(run.values.items()))
    writer.add_event(Event(step=0, summary=text_pb("config", config)))
    try:
        yield write, f"in {folder}; `tensorboard --logdir {shlex.quote(str(above))}` shows it"
    finally:
        writer.close()


@contextlib.contextmanager
def wandb(run: LoggedRun, out: str, project: str) -> Iterator[tuple[Write, str]]:
    """A run of Weights & Biases, on its server, or with WANDB_MODE=offline in OUT/wandb."""
    library = load_package("wandb")
    folder = home_path(out or ".")
    for old in (folder / "wandb").glob(f"offline-run-*-{run.id}"):
        Disk().remove(old)
    settings = library.Settings(
        silent=True, console="off", init_timeout=30, x_disable_stats=True, disable_git=True
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        logged = library.init(
            project=project,
            id=run.id,  # without `resume`, the server replaces a run of this id
            name=run.name,
            dir=str(folder),
            config=run.values,
            settings=settings,
        )
    except library.errors.UsageError as error:
        raise UserError(
            f"Weights & Biases takes no run ({error}), and nothing was logged; type `wandb login` "
            "first, or set WANDB_MODE=offline to keep it on this disk."
        ) from None
    except library.errors.Error as error:
        raise unreachable("wandb", error, "set WANDB_MODE=offline to keep all here") from None

    def write(item: Numbers | AnswerTable) -> None:
        if isinstance(item, Numbers):
            logged.log(item.values, step=item.step)
        else:
            rows = [list(row.values()) for row in item.rows]
            logged.log({item.name: library.Table(list(TABLE_COLUMNS), rows)}, step=item.step)

    place, offline = logged.dir, logged.url is None
    try:
        yield write, f"in {place}; `wandb sync` sends it" if offline else f"at {logged.url}"
    finally:
        logged.finish()


@contextlib.contextmanager
def trackio(run: LoggedRun, out: str, project: str) -> Iterator[tuple[Write, str]]:
    """A run of trackio, in its own folder or in OUT, or where its environment variables say."""
    if out:
        os.environ["TRACKIO_DIR"] = str(home_path(out))  # read when the package is imported
    library = load_package("trackio")
    said = io.StringIO()  # it talks on stdout, where only our own lines belong
    try:
        with contextlib.redirect_stdout(said):
            with contextlib.suppress(ValueError):  # there is no such project yet
                for old in library.Api().runs(project):
                    if old.name == run.id:
                        old.delete()
            logged = library.init(
                project=project,
                name=run.id,
                config=run.values,
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
    except Exception as error:  # of its client, its server and its database, each its own
        remedy = "unset TRACKIO_SPACE_ID and TRACKIO_SERVER_URL to keep all here"
        raise unreachable("trackio", error, remedy) from None

    def write(item: Numbers | AnswerTable) -> None:
        values: dict[str, Any] = dict(item.values) if isinstance(item, Numbers) else {}
        if isinstance(item, AnswerTable):
            values[item.name] = library.Table(data=item.rows)
        logged.log(values, step=item.step)

    try:
        yield write, f"as {run.id}; `trackio show --project {project}` shows it"
    finally:
        with contextlib.redirect_stdout(said):
            library.finish()


def unreachable(name: str, error: Exception, remedy: str) -> IOFailure:
    """The failure of a tracker that does not answer."""
    why = " ".join(str(error).split())
    return IOFailure(
        f"{name} cannot be reached ({why}); the run itself is whole, as it is only read: {remedy}, "
        "or try again later."
    )


def unmarked(value: object) -> str:
    """As a cell of a Markdown table, in which nothing is markup: what a model says is data."""
    text = number(value, ".4g") if isinstance(value, float) else str(value)
    marked = "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|~&" else c for c in text)
    return " ".join(marked.split())


def markdown_table(answers: AnswerTable) -> str:
    """The rows as TensorBoard's text page shows them."""
    head = f"| {' | '.join(TABLE_COLUMNS)} |\n{'|---' * len(TABLE_COLUMNS)}|\n"
    cells = ([unmarked("" if v is None else v) for v in row.values()] for row in answers.rows)
    return head + "".join(f"| {' | '.join(row)} |\n" for row in cells)


TRACKERS = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}
