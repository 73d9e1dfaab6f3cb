"""What the tests do with a command that a document tells to type."""

from __future__ import annotations

import argparse
import glob
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from documents import ROOT
from XViewSynthLib.cli import main as cli
from XViewSynthLib.system.stop import stop_signals
from XViewSynthTrainLib.command import register_ablate, register_train
from XViewSynthWeb.command import register_view

LIBRARIES = (ROOT / "XViewSynth", ROOT / "XViewSynthTrain")
PACKAGES = {"XViewSynthLib", "XViewSynthTrainLib"}
FURTHER_COMMANDS = (register_train, register_ablate, register_view)
# As long as the tests can bear.
TRAINING_STEPS = "2"
TIMEOUT_SECONDS = 900


class UnknownCommandError(Exception):
    """The tests do not know what to do with a command; the message names it."""


class _ParsedError(Exception):
    """The arguments were given to a parser, which had nothing against them."""


def run_command(words: Sequence[str]) -> int:
    """Run a command in the working folder, with trainings cut short; print what it says, and give its exit code.

    Raises:
        UnknownCommandError: it is no program of this repository.
    """
    kind, words = _program(_without_settings(words))
    words = [found for word in words for found in (sorted(glob.glob(word)) or [word])]
    if kind == "engine":
        _engine_parser(words).parse_args(words)
        return _run_engine(_cut_short(words))
    if kind == "run.py":
        return _run_set_up(words)
    if kind == "script":
        return _run_script(words)
    raise UnknownCommandError(" ".join(words))


def parse_command(words: Sequence[str]) -> None:
    """Give the arguments of a command to its real parser, and go no further.

    Raises:
        UnknownCommandError: it is no program of this repository.
        XViewSynthLib.InputError, SystemExit: the parser refuses the arguments.
        FileNotFoundError: it names a file that is not here.
    """
    kind, words = _program(_without_settings(words))
    if kind == "engine":
        _engine_parser(words).parse_args(words)
    elif kind == "script":
        _parse_script(words)
    elif kind == "torchrun":
        from torch.distributed.run import get_args_parser

        started = get_args_parser().parse_args(words)
        if started.training_script not in PACKAGES or not started.module:
            raise UnknownCommandError(started.training_script)
        _engine_parser(started.training_script_args).parse_args(started.training_script_args)
    elif kind == "pytest":
        for word in words:
            if not (ROOT / word).is_file():
                raise FileNotFoundError(word)
    else:
        raise UnknownCommandError(" ".join(words))


def _program(words: Sequence[str]) -> tuple[str, list[str]]:
    """What a command starts, and the arguments for that."""
    words = list(words)
    name = Path(words[0]).stem
    if name == "srun" and "torchrun" in words:
        return "torchrun", words[words.index("torchrun") + 1 :]
    if name == "torchrun":
        return name, words[1:]
    if name == "xviewsynth":
        return "engine", words[1:]
    if name == "Slicer" and "--python-script" in words:
        return "script", words[words.index("--python-script") + 1 :]
    if name in ("python", "python3") and len(words) > 1:
        if words[1] == "-m" and words[2] in PACKAGES:
            return "engine", words[3:]
        if words[1] == "-m" and words[2] == "pytest":
            return "pytest", words[3:]
        if words[1] == "run.py":
            return "run.py", words[2:]
        if words[1].endswith(".py"):
            return "script", words[1:]
    raise UnknownCommandError(" ".join(words))


def _without_settings(words: Sequence[str]) -> list[str]:
    """The command without the environment variables that are set before it."""
    start = next(index for index, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    return list(words[start:])


def _cut_short(words: list[str]) -> list[str]:
    if words[0] != "train" or "--resume" in words:
        return words
    for option in ("--minutes", "--steps"):
        if option in words:
            place = words.index(option)
            words = [*words[:place], *words[place + 2 :]]
    return [*words, "--steps", TRAINING_STEPS]


def _engine_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    return cli._parser(words, FURTHER_COMMANDS)


def _run_engine(words: Sequence[str]) -> int:
    with stop_signals(restore=True) as request:
        return cli._run(words, request, FURTHER_COMMANDS)


def _run_set_up(words: Sequence[str]) -> int:
    """run.py without its set-up, which would download; what it would start then must be there."""
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    started: list[tuple] = []
    with (
        mock.patch.object(module, "set_up"),
        mock.patch.object(module, "call", lambda *command, **_: started.append(command) or 0),
        mock.patch.object(module.signal, "signal"),
        mock.patch.object(sys, "argv", ["run.py", *words]),
    ):
        code = module.main()
    files = [part for command in started for part in map(str, command) if Path(part).suffix == ".py"]
    return code if started and all(Path(file).is_file() for file in files) else 1


def _run_script(words: Sequence[str]) -> int:
    """A script in a process of its own; its output joins that of this one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, LIBRARIES))}
    finished = subprocess.run(
        [sys.executable, str(ROOT / words[0]), *words[1:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    print(finished.stdout, finished.stderr, sep="")
    return finished.returncode


def _parse_script(words: Sequence[str]) -> None:
    """Run a script up to where its arguments have been read."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, *_: object) -> None:
        parse(parser, arguments)
        raise _ParsedError

    script = ROOT / words[0]
    path = list(sys.path)
    try:
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", parse_only),
            mock.patch.object(sys, "argv", [str(script), *words[1:]]),
        ):
            # As Python does for the script it is started with.
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
    except _ParsedError:
        return
    finally:
        sys.path[:] = path
    raise UnknownCommandError(f"{words[0]} reads no arguments")
