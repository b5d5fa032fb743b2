# PYTHON_ARGCOMPLETE_OK
import signal

# Until main takes over, while modules load, a Ctrl-C ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from minihmx.cli import main  # noqa: E402
from minihmx.engine import ranks  # noqa: E402

if __name__ == "__main__":
    ranks.leave(main())
