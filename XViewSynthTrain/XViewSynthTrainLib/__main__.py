"""`python -m XViewSynthTrainLib`: the training commands where the program `xviewsynth` is not installed."""

import sys

from XViewSynthLib.__main__ import main

from .command import register_ablate, register_train

if __name__ == "__main__":
    sys.exit(main(register_train, register_ablate))
