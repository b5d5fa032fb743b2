import sys

from minihmx.cli import main

sys.exit(main())
