"""The program ``xviewsynth``, also ``python -m XViewSynthLib``."""

import sys

from XViewSynthLib.stop import stop_signals


def main() -> int:
    """Run the command that the process was started with, and give its exit code.

    Stop signals stay caught until the process has ended, so that a late one cannot turn done work into a failure.
    """
    with stop_signals(restore=False) as request:
        # Takes long enough for a signal to come meanwhile.
        from XViewSynthLib.cli import run_program

        return run_program(request)


if __name__ == "__main__":
    sys.exit(main())
