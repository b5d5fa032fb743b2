"""What can go wrong that is not a bug, and the exit code of each (README, "Exit codes").

A message is one sentence a user can act on: what happened, why it matters, what to type next.
"""

import difflib
import errno
from collections.abc import Collection

EXIT_CODES = """\
exit codes:
  0    done
  1    a bug
  2    something for you to mend (unknown, gated, malformed, does not fit)
  3    diverged
  4    disk or network
  5    data or a judge that fails its check
  6    a run that ended wrecked (all answers cut, none scored, or degenerate)
  130  interrupted"""
LONGEST_QUOTE = 100  # characters
INTERRUPTED = 130  # the exit code after a Ctrl-C, which is nobody's failure


class Failure(Exception):
    """Something the command line reports in one sentence instead of a traceback."""

    code = 1


class UserError(Failure):
    """Unknown, gated, malformed, refused, or does not fit."""

    code = 2


class Diverged(Failure):
    """Numbers that are not finite: three steps in a row, an update, an answer of a benchmark."""

    code = 3


class IOFailure(Failure):
    """Disk or network."""

    code = 4


class DataError(Failure):
    """What fails its check: a manifest, a count, a judge."""

    code = 5


class Wrecked(Failure):
    """A run that came to its end, whole on the disk, with answers that are worth nothing."""

    code = 6


def quoted(value: object) -> str:
    """A value as a message quotes it; of a long one, as a file may hold, its two ends."""
    return shortened(repr(value))


def shortened(text: str) -> str:
    """The text, or the first and last of a long one: about a hundred characters at most."""
    return text if len(text) <= LONGEST_QUOTE else f"{text[:60]} [...] {text[-30:]}"


def nearest(word: str, known: Collection[str], otherwise: str) -> str:
    """The end of a sentence about a word that is not known."""
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else otherwise


def as_failure(error: BaseException) -> Failure | None:
    """The sentence for an exception of a library that is no bug of ours; None if it may be one."""
    if isinstance(error, OSError):
        place = error.filename or "the output"
        cause, remedy = "The disk or network failed", "mend that"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            cause, remedy = f"There is no room to write {place}", "free some space"
        elif error.filename and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            cause, remedy = f"{place} may not be read or written", "permit it"
        elif error.filename:
            cause += f" at {place}"
        return IOFailure(
            f"{cause} ({error.strerror or error}); what was saved before is whole: {remedy}, and "
            "the same command continues."
        )
    if type(error).__name__ == "OutOfMemoryError":  # memory.py has halved down to one row
        return UserError(
            "Not even one row at a time fits in the GPU's memory; lower --max-completion-length "
            "(train, chat), or choose a smaller model."
        )
    if out_of_memory(error):
        return UserError(
            "This does not fit in memory; lower --decode-rows and --micro-batch (train) or "
            "--batch-tokens (eval), or choose a smaller model."
        )
    return None


# What torch, CUDA, cuBLAS and cuDNN write where memory is short. cuBLAS allocates as it starts.
OUT_OF_MEMORY = ["out of memory", "_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED"]
OUT_OF_MEMORY += ["DefaultCPUAllocator"]


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory running out, a device's or the machine's; it has several exceptions.

    >>> out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."))
    True
    """
    told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)
    return told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
