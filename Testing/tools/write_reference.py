"""Write the reference page of the command line from the program's own parser.

    python Testing/tools/write_reference.py

Rewrites Resources/Docs/reference/command-line.md. A test fails while the page differs from what this writes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "XViewSynthTrain")]

from XViewSynthLib.cli import main as cli  # noqa: E402
from XViewSynthTrainLib.command import register_ablate, register_train  # noqa: E402
from XViewSynthWeb.command import register_view  # noqa: E402

PAGE = ROOT / "Resources" / "Docs" / "reference" / "command-line.md"
INTRODUCTION = """# Command line

<!-- Written by Testing/tools/write_reference.py from the program's own parser. Do not edit this page. -->

`xviewsynth` is `.venv/bin/xviewsynth` after `python3 run.py demo`, on Windows `.venv\\Scripts\\xviewsynth`.
`python -m XViewSynthLib` does the same. `xviewsynth COMMAND --help` prints the options of a command, and
`xviewsynth --version` the version.

See also: [recipes for one scan](../how-to/enhance.md), [exit codes, progress and reports](files.md).
"""


def main() -> None:
    """Rewrite the page."""
    argparse.ArgumentParser(description="Write the reference page of the command line.").parse_args()
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The text of the page."""
    # Named, so that commands of other installed packages stay out.
    parser = cli._parser(["enhance"], (register_train, register_ablate, register_view))
    commands = _subcommands(parser)
    rows = [f"| [`{name}`](#{cli.PROGRAM}-{name}) | {help} |" for name, (_, help) in commands.items()]
    overview = "\n".join(["| command | what it does |", "|---|---|", *rows])
    sections = [section for name, (command, _) in commands.items() for section in _sections(name, command)]
    return "\n".join([INTRODUCTION, overview, "", *sections])


def _sections(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The section of a command, and those of the commands below it."""
    below = _subcommands(parser)
    if not below:
        yield f"## {cli.PROGRAM} {name}\n"
        yield from _body(f"{cli.PROGRAM} {name}", parser)
        return
    yield f"## {cli.PROGRAM} {name}\n"
    for action, (command, help) in below.items():
        yield f"### {cli.PROGRAM} {name} {action}\n"
        yield f"{_sentence(help)}\n"
        yield from _body(f"{cli.PROGRAM} {name} {action}", command)


def _body(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    arguments = [action for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    if parser.description:
        yield f"{_marked_up(parser.description)}\n"
    yield f"`{' '.join([name, *['[OPTION ...]'] * bool(options), *map(_in_usage, arguments)])}`\n"
    if any(action.help for action in arguments):
        yield _table("argument", [(f"`{action.metavar}`", "", _help(action)) for action in arguments])
    if options:
        yield _table("option", [(_names(action), _values(action), _help(action)) for action in options])
    for group in parser._mutually_exclusive_groups:
        together = ", ".join(f"`{action.option_strings[0]}`" for action in group._group_actions)
        yield f"Only one of {together} can be given.\n"


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """The commands of a parser by name, each with its one line of help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            return {name: (command, helps[name]) for name, command in action.choices.items()}
    return {}


def _in_usage(action: argparse.Action) -> str:
    name = str(action.metavar)
    return {"+": f"{name} [{name} ...]", "*": f"[{name} ...]", "?": f"[{name}]"}.get(action.nargs, name)


def _names(action: argparse.Action) -> str:
    required = ", required" if action.required else ""
    return ", ".join(f"`{name}`" for name in action.option_strings) + required


def _values(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    values = action.choices or str(action.metavar or action.dest.upper()).split("|")
    repeated = " ..." if action.nargs == "+" else ""
    return ", ".join(f"`{value}`" for value in values) + repeated


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": cli.PROGRAM}
    repeated = isinstance(action, argparse._AppendAction) and "repeated" not in text
    return _marked_up(text).replace("|", "\\|") + ("; may be repeated" if repeated else "")


def _marked_up(text: str) -> str:
    """The text with options as code."""
    return re.sub(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", lambda found: f"`{found.group()}`", text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(kind: str, rows: list[tuple[str, str, str]]) -> str:
    head = [f"| {kind} | values | meaning |", "|---|---|---|"]
    if not any(values for _, values, _ in rows):
        head, rows = [f"| {kind} | meaning |", "|---|---|"], [(name, text) for name, _, text in rows]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows), ""])


if __name__ == "__main__":
    main()
