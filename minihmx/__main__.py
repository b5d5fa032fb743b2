# PYTHON_ARGCOMPLETE_OK
import signal

# Until main takes over, while modules load, a Ctrl-C ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from typing import NoReturn  # noqa: E402

from minihmx.cli import main  # noqa: E402
from minihmx.engine import ranks  # noqa: E402


def run() -> NoReturn:
    """The command `minihmx`."""
    ranks.leave(main())


if __name__ == "__main__":
    run()
