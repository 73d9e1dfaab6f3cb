"""`python -m XViewSynthTrainLib`: the training commands where the program `xviewsynth` is not installed."""

from __future__ import annotations

import sys

from XViewSynthLib.__main__ import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def _register(subparsers: argparse._SubParsersAction) -> None:
    # Here, so that the program listens to stop signals before it imports anything.
    from .command import register_ablate, register_train

    register_train(subparsers)
    register_ablate(subparsers)


if __name__ == "__main__":
    sys.exit(main(_register))
