"""`python -m XViewSynthTrainLib`: the training commands without the installed program `xviewsynth`."""

from __future__ import annotations

import sys

from XViewSynthLib.__main__ import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def _register(subparsers: argparse._SubParsersAction) -> None:
    # Imported here, so that the program catches stop signals before slow imports.
    from .command import register_ablate, register_train

    register_train(subparsers)
    register_ablate(subparsers)


if __name__ == "__main__":
    sys.exit(main(_register))
