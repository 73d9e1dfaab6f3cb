"""The program ``xviewsynth``, also ``python -m XViewSynthLib``."""

import sys
from collections.abc import Callable

from XViewSynthLib.system.memory import is_hopeless, is_out_of_memory, shortage
from XViewSynthLib.system.stop import stop_signals

_WRONG_INPUT = 2


def main(*registers: Callable) -> int:
    """Run the command that the process was started with, and give its exit code.

    Other packages that are not installed, only found, hand in their functions ``register(subparsers)``.

    Stop signals stay caught until the process has ended, so that a late one cannot turn done work into a failure.
    """
    with stop_signals(restore=False) as request:
        if is_hopeless():
            return _refuse()
        try:
            # Takes long enough for a signal to come meanwhile.
            from XViewSynthLib.cli.main import run_program
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return _refuse()
        return run_program(request, *registers)


def _refuse() -> int:
    print(f"error: {shortage()}", file=sys.stderr)
    return _WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main())
