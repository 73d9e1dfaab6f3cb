"""The program ``xviewsynth``, also ``python -m XViewSynthLib``."""

import sys
from collections.abc import Callable

from XViewSynthLib.system.memory import is_hopeless, is_out_of_memory, shortage
from XViewSynthLib.system.stop import stop_signals

_WRONG_INPUT = 2


def main(*registers: Callable) -> int:
    """Run the command of this process and return its exit code.

    Packages that are found but not installed pass their functions ``register(subparsers)``.

    Stop signals stay caught until the process has ended, so that a late one cannot turn finished work into a failure.
    """
    with stop_signals(restore=False) as request:
        if is_hopeless():
            return _refuse()
        try:
            # Slow enough that a signal can arrive during the import.
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
