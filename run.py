"""Set XViewSynth up in .venv beside this file, then run the demo, run the tests or build the documentation.

    python3 run.py demo           enhance the bundled CT and print the gain over interpolation
    python3 run.py demo --view    then show the result in the browser
    python3 run.py test           check style, types and imports, and run every test
    python3 run.py test --quick   leave out slow tests, and those that need another program
    python3 run.py docs           build the documentation in build/site; every warning is an error

Only the standard library is needed. The first start installs the exact versions of Testing/requirements.lock, which
takes minutes. `demo --view`, `docs` and `test` add those of other lock files in that folder. Later starts take seconds.
A set-up that was interrupted starts again.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
# Before anything that an older Python cannot run, so that it prints this sentence instead of a traceback.
if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
    sys.stderr.write("error: this is Python {}.{}: use Python 3.11 to 3.13\n".format(*sys.version_info[:2]))
    sys.exit(2)

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LINT_IMPORTS = PYTHON.with_name("lint-imports.exe" if os.name == "nt" else "lint-imports")
STAMP = VENV / "set-up-by-run.py"
LOG = VENV / "set-up.log"
LOCK = ROOT / "Testing" / "requirements.lock"
# Slicer's scene and a stand-in for its desktop, which only the tests need.
SLICER_LOCK = ROOT / "Testing" / "requirements-slicer.lock"
# The viewer in the browser.
WEB_LOCK = ROOT / "Testing" / "requirements-web.lock"
# The engine that spreads batches over several computers, an extra of the program.
CLUSTER_LOCK = ROOT / "Testing" / "requirements-cluster.lock"
# The DICOM node, an extra of the program.
PACS_LOCK = ROOT / "Testing" / "requirements-pacs.lock"
# MkDocs and its plugins.
DOCS_LOCK = ROOT / "Testing" / "requirements-docs.lock"
PROJECT = ROOT / "pyproject.toml"
TEST_PROCESSES = 2
# Of tests that `--quick` leaves out.
SLOW_MARKS = ("slow", "gpu", "browser", "cluster", "archive")
DEMO_OUTPUT = ROOT / "demo-output"
SITE_CONFIG, SITE = ROOT / "Resources" / "mkdocs.yml", ROOT / "build" / "site"
UNFINISHED = "unfinished\n"

# What pip says (any of these), and what it means to the person who started it. The first that fits counts.
PIP_TROUBLES = (
    (
        ("No space left on device", "[Errno 28]", "not enough space on the disk"),
        "the disk is full; free about 2 GB (8 GB for PyTorch with CUDA) and run this again",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED",),
        "pip does not trust its package index; set PIP_CERT to your network's certificates and run this again",
    ),
    (
        (
            "Failed to establish a new connection",
            "NewConnectionError",
            "NameResolutionError",
            "Network is unreachable",
            "Connection refused",
            "ConnectTimeoutError",
            "Read timed out",
            "ProxyError",
        ),
        "pip cannot reach its package index; connect this machine to the internet, or set PIP_INDEX_URL to a mirror, "
        "and run this again",
    ),
    (
        ("No matching distribution found", "requires a different Python"),
        "the locked packages are not offered for this Python or machine; use Python 3.11 to 3.13 on 64-bit Linux, "
        "64-bit Windows or an Apple silicon Mac",
    ),
)


class SetupError(Exception):
    """The set-up cannot go on; the message is one sentence that says what to do."""


def main() -> int:
    """Run the command of the command line; return 0 when all is well, 2 when the set-up is not possible."""
    parser = argparse.ArgumentParser(
        description="Set XViewSynth up in .venv, then run the demo, the tests or the documentation."
    )
    commands = parser.add_subparsers(required=True, metavar="demo|test|docs")
    demo = commands.add_parser("demo", help="enhance the bundled CT; write volumes, a picture and a report")
    demo.add_argument("--view", action="store_true", help="then show the result in the browser, until Ctrl-C")
    demo.set_defaults(run=run_demo, locks=lambda: (LOCK,))
    test = commands.add_parser("test", help="check style, types and imports, run every test")
    test.add_argument("--quick", action="store_true", help="leave out slow tests, and those that need other programs")
    test.set_defaults(run=run_tests, locks=lambda: (LOCK, SLICER_LOCK, WEB_LOCK, CLUSTER_LOCK, PACS_LOCK, DOCS_LOCK))
    docs = commands.add_parser("docs", help="build the documentation in build/site")
    docs.set_defaults(run=build_docs, locks=lambda: (LOCK, DOCS_LOCK))
    options = parser.parse_args()
    if getattr(options, "quick", False):
        options.run = run_quick_tests
    if getattr(options, "view", False):
        options.run, options.locks = run_demo_and_view, lambda: (LOCK, WEB_LOCK)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        set_up(*options.locks())
    except SetupError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the next start begins the set-up again.", file=sys.stderr)
        return 130
    return options.run()


def run_demo() -> int:
    """Enhance the bundled scan into demo-output/ and print the gains over linear and cubic."""
    return call(PYTHON, ROOT / "Testing" / "demo.py", DEMO_OUTPUT)


def run_demo_and_view() -> int:
    """Run the demo, and show what it wrote in the browser until the user ends that."""
    return run_demo() or call(
        *(PYTHON, "-m", "XViewSynthLib", "view", DEMO_OUTPUT / "observed.nrrd", DEMO_OUTPUT / "enhanced.nrrd"),
        *("--uncertainty", DEMO_OUTPUT / "uncertainty.nrrd"),
    )


def run_quick_tests() -> int:
    """Check style, types and imports, and run the tests that take little time and need no other program."""
    return run_tests("-m", f"not ({' or '.join(SLOW_MARKS)})")


def run_tests(*options: str) -> int:
    """Check style, types and imports, run every test with the engine's coverage gate; return a bad exit code, or 0."""
    checks = ((PYTHON, "-m", "ruff", "check"), (PYTHON, "-m", "ruff", "format", "--check"), (PYTHON, "-m", "mypy"))
    # The training scene is in no wheel, so that its package is found in its folder alone.
    folders = {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("XViewSynth", "XViewSynthTrain"))}
    style = max(call(*check, variables=folders) for check in (*checks, (LINT_IMPORTS, "--no-cache")))
    if style:
        print("error: fix what the checks found above; the tests run all the same", file=sys.stderr, flush=True)
    # What a file of tests sets up serves all of its tests, so that files are shared out as a whole.
    shared_out = ("--numprocesses", TEST_PROCESSES, "--dist", "loadfile")
    # Processes that take all cores each would get in each other's way.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // TEST_PROCESSES))}
    tests = call(PYTHON, "-m", "pytest", *(options or ("--cov",)), *shared_out, variables=threads)
    return style or tests


def build_docs() -> int:
    """Build the documentation; a warning, such as a link that leads nowhere, is an error."""
    build = (PYTHON, "-m", "mkdocs", "build", "--strict", "--config-file", SITE_CONFIG, "--site-dir", SITE)
    code = call(*build, variables={"NO_MKDOCS_2_WARNING": "1"})
    if code == 0:
        print(f"Open {SITE / 'index.html'} in a browser.")
    return code


def call(*command: object, variables: dict[str, str] | None = None) -> int:
    """Run a command in the repository to its end and return its exit code; signals are the command's to answer.

    `variables` are added to its environment.
    """
    arguments = [str(part) for part in command]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment() | (variables or {})) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            try:
                code = process.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:
                continue  # Ctrl-C reaches the command as well: let it clean up and say so itself


def environment() -> dict[str, str]:
    """Return this process's environment without what would make .venv use packages from elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def set_up(*locks: Path) -> None:
    """Make .venv hold what the locks say, unless it already does.

    The stamp is `unfinished` while the work goes on and names what was installed once it is done.

    Raises:
        SetupError: If that is not possible, with what to do.
    """
    home = f"{VENV} Python {sys.version.split()[0]}\n"
    needed = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (PROJECT, *locks)}
    stamp = STAMP.read_text(encoding="utf-8") if STAMP.is_file() else ""
    ready = stamp.startswith(home) and PYTHON.is_file()
    if ready and needed <= set(stamp.splitlines()):
        return
    print("Setting up .venv; this takes some minutes, once.", flush=True)
    try:
        if not ready:
            make_environment()
        STAMP.write_text(UNFINISHED, encoding="utf-8")
        install(*locks)
        STAMP.write_text(home + "".join(f"{line}\n" for line in sorted(needed)), encoding="utf-8")
    except OSError as problem:
        raise SetupError(f"{VENV} cannot be written ({problem.strerror or problem}); make it writable") from problem
    print("Set up.", flush=True)


def make_environment() -> None:
    """Begin .venv anew. What lies there is removed only when its stamp says that it was made here."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "this Python cannot make virtual environments; on Debian or Ubuntu run `apt install python3-venv`, "
            "elsewhere use the Python of python.org, and run this again"
        ) from None
    if Path(sys.prefix).resolve() == VENV:
        raise SetupError(f"{VENV} must be made anew, which its own Python cannot do; run this with another one")
    if VENV.is_dir() and not STAMP.is_file() and any(VENV.iterdir()):
        raise SetupError(f"{VENV} was not made by run.py; move it away or delete it, and run this again")
    VENV.mkdir(exist_ok=True)
    # The stamp goes in first and stays: whenever this is cut short, the next start knows the folder as its own.
    STAMP.write_text(UNFINISHED, encoding="utf-8")
    for leftover in VENV.iterdir():
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        elif leftover != STAMP:
            leftover.unlink()
    if logged(sys.executable, "-m", "venv", VENV).returncode:
        raise SetupError(f"the virtual environment could not be made; {LOG} holds what Python said")


def install(*locks: Path) -> None:
    """Install the locked packages, then this repository in place: its commands exist, and its code can be edited."""
    if sys.platform == "linux" and not Path("/proc/driver/nvidia").exists():
        print("pip may take PyTorch with CUDA (about 3 GB); for the small build see README.md, Start.", flush=True)
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "3", "install")
    requirements = [part for lock in locks for part in ("--requirement", lock)]
    for what in (requirements, ("--no-deps", "--no-build-isolation", "--editable", ROOT)):
        step = logged(*pip, *what)
        if step.returncode:
            raise SetupError(explain(step.stdout))


def logged(*command: object) -> subprocess.CompletedProcess:
    """Run a step of the set-up; all that it says goes to the log as well, and what it downloads to the terminal."""
    arguments = [str(part) for part in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    said = []
    with subprocess.Popen(arguments, cwd=ROOT, env=environment() | {"PYTHONIOENCODING": "utf-8"}, **pipes) as process:
        try:
            for line in process.stdout:
                said.append(line)
                if line.lstrip().startswith(("Downloading", "Installing")) and ".metadata" not in line:
                    print(f"  {line.strip()[:110]}", flush=True)
        except KeyboardInterrupt:
            process.terminate()
            raise
    with LOG.open("a", encoding="utf-8") as log:
        log.writelines(said)
    return subprocess.CompletedProcess(arguments, process.returncode, "".join(said))


def explain(said: str) -> str:
    """Turn what pip said into one sentence that tells what to do."""
    for signs, sentence in PIP_TROUBLES:
        if any(sign in said for sign in signs):
            return sentence
    return f"pip could not install the locked packages; {LOG} holds what it said"


if __name__ == "__main__":
    sys.exit(main())
