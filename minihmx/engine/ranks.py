"""One run in several processes: `torchrun --nproc-per-node N -m minihmx train ...`.

Every process, called a rank, holds the whole model. Rows are split among them and what each made of
its own is gathered, so that all ranks know the same rollouts, take the same advantages, sum one
gradient and make the same step. Noise is named by row (seeding.py), so a split changes nothing but
the shapes of batches. Rank 0 alone writes to the disk and to the terminal.

In a single process each function gives back what it was given, and no other process is waited for.
Everything travels by gloo through the CPU: an adapter's gradient is small, and gloo notices at once
that another process has died.

Whatever waits for other ranks must stand outside work that is done anew where memory runs out
(memory.py): one rank would ask a second time, and the others would never answer.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from minihmx.errors import IOFailure, UserError
from minihmx.storage.identity import differences
from minihmx.storage.run_folder import Store
from minihmx.terminal.text import SPLIT_BY_RANK

if TYPE_CHECKING:  # the command line asks for its rank before it needs torch
    import torch
    from torch import Tensor, nn

    from minihmx.optimizer import Optimizer

_T = TypeVar("_T")
# How long the others wait for a rank that hangs; one that died is noticed at once. It is more than
# the longest answers of one rank can take beyond those of another.
LONGEST_WAIT = timedelta(minutes=30)


def world() -> int:
    """How many processes share this run; 1 where torchrun did not start it."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """This process's number, from 0; process 0 alone writes files and prints."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def neighbours() -> int:
    """How many processes of this run are on this machine and share its memory."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if world() > 1 else 1


def check_shared(command: str) -> None:
    """Raises UserError where torchrun started several processes of what is the work of one."""
    if world() > 1 and command not in SPLIT_BY_RANK:
        raise UserError(
            f"`minihmx {command}` is the work of one process, and torchrun started {world()}; type "
            f"it without torchrun ({' and '.join(SPLIT_BY_RANK)} can be shared)."
        )


def own_gpu() -> torch.device:
    """The GPU with this process's number on this machine.

    Raises UserError where the machine has fewer GPUs than processes.
    """
    import torch

    there, wanted = torch.cuda.device_count(), neighbours()
    if wanted > there:
        raise UserError(
            f"torchrun started {wanted} processes here, and torch sees {there} GPUs; two on one "
            f"GPU would be slower than one, so give --nproc-per-node {there}."
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


class Onlooker(Store):
    """A run's folder for a rank that only computes: it reads there, and changes nothing."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    lock = write_text = write_json = write_lines = append = _nothing
    write_status = finish = publish = drop = _nothing


# --- gathering ------------------------------------------------------------------------------------


def share(value: _T) -> list[_T]:
    """The values of all ranks, in the order of the ranks."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    with _met() as dist:
        dist.all_gather_object(found, value)
    return found


def from_first(work: Callable[[], _T]) -> _T:
    """The result of `work`, which rank 0 alone does for all."""
    if world() == 1:
        return work()
    found = [cast(_T, work() if rank() == 0 else None)]
    with _met() as dist:
        dist.broadcast_object_list(found, src=0)
    return found[0]


def split(rows: Sequence[_T]) -> Sequence[_T]:
    """This rank's rows, every world-th one: of sorted rows each rank gets long and short ones."""
    return rows[rank() :: world()]


def gather(mine: Sequence[_T]) -> list[_T]:
    """One result for each row, in the order of the rows that were split."""
    return _interleaved(share(list(mine)))


def gather_tokens(mine: Tensor, lengths: Sequence[int]) -> Tensor:
    """Values [K, tokens of all rows] from each rank's own. lengths: tokens of each own row."""
    if world() == 1:
        return mine
    import torch

    parts = share((mine.cpu(), list(lengths)))
    rows = _interleaved([torch.split(values, of_rows, dim=1) for values, of_rows in parts])
    return torch.cat(rows, dim=1).to(mine.device)


def largest(values: Tensor) -> Tensor:
    """The elementwise maximum over the ranks; NaN where any rank has NaN."""
    if world() == 1:
        return values
    import torch

    return torch.stack(share(values.cpu())).amax(0)


def _interleaved(parts: Sequence[Sequence[_T]]) -> list[_T]:
    rows: list[Any] = [None] * sum(map(len, parts))
    for number, part in enumerate(parts):
        rows[number :: len(parts)] = part
    return rows


def agree(facts: Mapping[str, Any]) -> None:
    """Raises UserError, naming what differs, where the ranks would not compute the same."""
    said = share(dict(facts))
    for number, theirs in enumerate(said):
        if differ := differences(said[0], theirs, where=("on rank 0", f"on rank {number}")):
            raise UserError(
                f"The processes of this run differ ({differ}), so they would not make one "
                "result; start all of them in one environment, with the same options."
            )


def tell(notices: list[str]) -> list[str]:
    """The notices of all ranks, those of others with their number."""
    told = share(notices)
    return told[0] + [f"rank {r}: {line}" for r in range(1, len(told)) for line in told[r]]


# --- tensors --------------------------------------------------------------------------------------


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by the sum over the ranks; one that had no rows adds nothing.

    The terms are added in the order of the ranks, so that the sum is the same to the last bit on
    all of them and in every repetition.
    """
    if world() == 1:
        return
    import torch

    parameters = list(parameters)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    own = torch.cat([grad.flatten().cpu() for grad in grads])
    total = torch.zeros_like(own)
    for source in range(world()):
        term = own if source == rank() else torch.empty_like(own)
        with _met() as dist:
            dist.broadcast(term, source)
        total += term
    parts = torch.split(total, [p.numel() for p in parameters])
    for p, grad, part in zip(parameters, grads, parts, strict=True):
        p.grad = grad.copy_(part.view_as(grad))


def align(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
    """Give every rank the adapter and the optimizer's state that rank 0 has."""
    if world() == 1:
        return
    import torch

    values, moments, counters = from_first(
        lambda: (
            {name: p.detach().cpu() for name, p in parameters.items()},
            optimizer.tensors(),
            optimizer.counters(),
        )
    )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(values[name])
    optimizer.load(moments, counters)


# --- meeting, and parting -------------------------------------------------------------------------


@functools.cache
def _store() -> Any:
    """What torchrun keeps for its processes, as long as one of them lives."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


@functools.cache
def _group() -> Any:
    import torch.distributed as dist

    atexit.register(dist.destroy_process_group)  # else gloo's threads may outlive the interpreter
    dist.init_process_group(
        "gloo", store=_store(), rank=rank(), world_size=world(), timeout=LONGEST_WAIT
    )
    return dist


@contextmanager
def _met() -> Iterator[Any]:
    """torch.distributed, once all ranks have met. Raises IOFailure where one of them has gone."""
    try:
        yield _group()
    except RuntimeError:
        raise _gone() from None


def _gone() -> IOFailure:
    """What ended this run, as the first process to fail said it."""
    try:
        if _store().check(["why"]):
            return IOFailure(_store().get("why").decode())
    except RuntimeError:  # torchrun itself has gone
        pass
    return IOFailure(
        f"One of the {world()} processes of this run ended without a word (killed, or out of "
        "memory), so the others stop too; what was saved before is whole, and the same command "
        "continues, with as many processes as you like."
    )


def first_to_fail(why: str) -> bool:
    """Whether this process is the first of its run to fail: then it says why, and no other."""
    if world() == 1:
        return True
    try:
        if _store().add("failures", 1) > 1:
            return False
        _store().set("why", why)
    except RuntimeError:  # nobody can be asked, so rather twice than never
        return True
    # torchrun shows the earliest, of those within a second the lowest rank's: hence the - 1.
    if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            Path(place).write_text(json.dumps({"message": why, "timestamp": int(time.time()) - 1}))
    return True


def leave(code: int) -> NoReturn:
    """End this process with its exit code; where it is one of several, at once.

    torchrun reports the first that has ended. The others notice a failure once connections close,
    and a process that still took its modules apart would end after them, its exit code unseen.
    """
    if world() == 1:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):  # its reader has gone, or it is closed
            pass
        except OSError:  # a full disk, for which Python itself would end with this code
            code = code or 120
    os._exit(code)
