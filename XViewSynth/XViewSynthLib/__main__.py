"""``python -m XViewSynthLib``: the same as the command ``xviewsynth``."""

import sys

from XViewSynthLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
