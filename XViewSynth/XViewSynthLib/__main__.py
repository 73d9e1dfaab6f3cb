"""The program ``xviewsynth``, also ``python -m XViewSynthLib``."""

import sys
from collections.abc import Callable

from XViewSynthLib.stop import stop_signals


def main(*registers: Callable) -> int:
    """Run the command that the process was started with, and give its exit code.

    Other packages that are not installed, only found, hand in their functions ``register(subparsers)``.

    Stop signals stay caught until the process has ended, so that a late one cannot turn done work into a failure.
    """
    with stop_signals(restore=False) as request:
        # Takes long enough for a signal to come meanwhile.
        from XViewSynthLib.cli import run_program

        return run_program(request, *registers)


if __name__ == "__main__":
    sys.exit(main())
