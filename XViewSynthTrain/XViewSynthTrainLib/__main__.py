"""`python -m XViewSynthTrainLib`: the training commands where the program `xviewsynth` is not installed."""

import sys

from XViewSynthLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
