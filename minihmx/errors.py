"""What can go wrong that is not a bug, and the exit code of each (README, "Exit codes").

A message is one sentence a user can act on: what happened, why it matters, what to type next.
"""


class Failure(Exception):
    """Something the command line reports in one sentence instead of a traceback."""

    code = 1


class UserError(Failure):
    """Unknown, gated, malformed, refused, or does not fit."""

    code = 2


class Diverged(Failure):
    """Three steps in a row were not finite."""

    code = 3


class IOFailure(Failure):
    """Disk or network."""

    code = 4


class DataError(Failure):
    """Data that fails its check: a manifest, a count."""

    code = 5
