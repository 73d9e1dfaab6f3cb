"""Every scan below a folder, enhanced one after the other or several at once, each in a process of its own.

A scan that cannot be enhanced, or whose process crashes, stops no other. The process works in a hidden folder of the
batch, on this computer or another; what it made is moved to its place when it is whole. A record beside each output
holds the checksum of the scan and of the settings, by which a batch that is started again knows what is done.
"""

from __future__ import annotations

import math
import os
import queue
import shutil
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import Cancelled, InputError
from ..io.finding import check_folder, scan_paths
from ..model.catalogue import known_factors, model_folder, model_identity
from ..progress import Progress, Report
from ..request import AUTOMATIC, Request
from ..system.locks import LockHeld
from ..system.names import portable_path, same_name_key
from ..system.outputs import STAGING_PREFIX, held_staging_folder
from ..system.streams import visible
from .cluster import check_address, cluster_crew
from .records import facts_of
from .step import ENHANCED_BEFORE, Outcome, Outcomes, Step, Study, defect, read_record, take_step, unwritable_message
from .summary import PAGE, TABLE, Row, write_summary
from .task import ENHANCED, FAILED, FORMATS

# Of all that may lie beside each other for one scan.
_ENDINGS = (*(f".{ending}" for ending in FORMATS), ".json", ".png")
# The exit code where scans that qualify are not enhanced.
SOME_FAILED = 4

_STAGING = f"{STAGING_PREFIX}batch"
_POLL_SECONDS = 0.05
# What a batch that was killed has left running ends within a second, or a few on a busy machine.
_LOCK_SECONDS = 20.0
# Of the time between two writings of the summary, the share that writing may take.
_SUMMARY_SHARE = 0.05
_MEMORY_SHARE = 0.8


def run_batch(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    request: Request,
    *,
    format: str = FORMATS[0],
    selfcheck: bool = False,
    jobs: int | None = None,
    resume: bool = False,
    follow_links: bool = False,
    dask: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> list[Row]:
    """Enhance every scan below a folder that can be enhanced, and write a summary after each.

    The output of ``a/chest.nrrd`` is ``a/chest.nrrd.enhanced.nrrd``; beside it lie a thumbnail (.png) and a record
    (.json). What is in the output folder is no scan to enhance.

    Args:
        source: folder with scans, at any depth.
        target: folder for the outputs; made where missing.
        request: what to do to every scan. "auto" as device shares the scans out among all GPUs. Memory is what all may
            take together, on a cluster each; default is most of what is free.
        format: ending of the outputs, one of `FORMATS`.
        selfcheck: whether to measure on each scan how well slices of it are restored.
        jobs: how many scans at once; one a device by default. Not for a cluster, whose workers know.
        resume: pass over the scans that an earlier batch has done with the same settings, and replace the outputs of
            those that have changed, or were done with others.
        follow_links: also enhance what links lead to that point out of `source`.
        dask: address of a Dask scheduler, whose workers see both folders under the same names; without it the scans
            are enhanced on this computer.
        say: told one sentence a scan.
        progress: told after every scan.
        should_cancel: asked many times a second.

    Returns:
        What became of each scan, in the order of their names.

    Raises:
        InputError: the settings, the folders, the model or the cluster cannot be used, nothing was found, there are
            outputs already (unless resuming), another batch works there, or the summary cannot be written.
        Cancelled: `should_cancel` said so. What was finished is kept.
    """
    if dask is not None:
        check_address(dask)
        if jobs is not None:
            raise InputError(
                "A cluster's workers take as many scans at once as they have threads: leave --jobs out, or --dask."
            )
    tell = progress or (lambda step: None)
    tell(Progress("searching", 0, 1))
    model = request.model if request.model == AUTOMATIC else str(model_folder(request.model).resolve())
    identity, factors = model_identity(model), known_factors(model)
    if request.factor is not None and request.factor not in factors:
        known = ", ".join(str(factor) for factor in factors)
        raise InputError(f"{request.model} was trained for factors {known}: choose one of these or another model.")
    source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    studies = find_studies(source, target, should_cancel, follow_links=follow_links, say=say)
    with _output_folder(target) as (staging, lock):
        _check_outputs(studies, target, format, resume)
        should_cancel = should_cancel or (lambda: False)
        done: Outcomes = queue.SimpleQueue()
        devices = [] if dask is not None else _devices(request.device)
        at_once = jobs or max(1, len(devices))
        threads = max(1, _cores() // at_once) if at_once > 1 else None
        memory = request.memory if dask is not None else _share(request.memory, at_once)
        settings = _recorded(request, identity) | {"selfcheck": selfcheck, "format": format}
        here = replace(request, model=model, memory=memory).to_json()
        common = (str(source), str(staging), settings, here, threads)
        steps = [Step(study.name, str(study.source), str(study.place), *common) for study in studies]
        if dask is None:
            crew = _local_crew(steps, devices, at_once, lock, done)
        else:
            crew = cluster_crew(dask, steps, request.model, done, say, should_cancel)
        return _Batch(target, staging, studies, done).run(crew, say, tell, should_cancel)


def find_studies(
    source: Path,
    target: Path,
    should_cancel: Callable[[], bool] | None = None,
    *,
    follow_links: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Study]:
    """All that looks like a scan below a folder, and a place of its own for what becomes of each.

    Args:
        source: folder with scans.
        target: folder for the outputs; what is in it is no scan.
        should_cancel, follow_links, say: as for `scan_paths`.

    Raises:
        InputError: there is no such folder, no scan in it, or the outputs would lie among the scans.
        Cancelled: the user asked to stop.
    """
    if not os.path.isdir(source):
        raise InputError(f"{source} is no folder: name the folder that holds the scans.")
    if os.path.realpath(target) == os.path.realpath(source):
        raise InputError(f"{target} holds the scans: choose another folder for the outputs.")
    check_folder(source)
    found = scan_paths(source, should_cancel, follow_links=follow_links, leave_out=target, say=say)
    names = sorted(path.relative_to(source).as_posix() for path, _ in found)
    if not names:
        raise InputError(
            f"{source} holds no scan: name a folder with DICOM, NRRD, NIfTI, MHA or MHD files in or below it."
        )
    folders = {parent.as_posix() for name in names for parent in Path(name).parents}
    taken = {same_name_key(portable_path(folder)) for folder in folders}
    studies = []
    for name in names:
        place = _free_place("enhanced" if name == "." else portable_path(name, ".enhanced"), taken)
        taken.add(same_name_key(place))
        studies.append(Study(name, source / name, target / place))
    return studies


def _free_place(wanted: str, taken: set[str]) -> str:
    # Only names that some file system takes for one, and folders that are named like outputs, ever meet.
    place, number = wanted, 1
    while taken & {same_name_key(f"{place}{ending}") for ending in ("", *_ENDINGS)}:
        number += 1
        place = f"{wanted}~{number}"
    return place


def _recorded(request: Request, model: str) -> dict[str, Any]:
    """What decides on the result: where the model lies and how much memory there is do not, the weights do."""
    settings = {name: value for name, value in request.to_json().items() if name != "memory"}
    return settings | {"model": model, "program": __version__}


def _check_outputs(studies: Sequence[Study], target: Path, format: str, resume: bool) -> None:
    if resume:
        return
    ours = [file for study in studies for file in (study.file(format), study.file("png"), study.record)]
    for file in (target / TABLE, target / PAGE, *ours):
        if os.path.lexists(file):
            raise InputError(f"{file} exists already: add --resume to go on there, or choose another folder.")


def _devices(requested: str) -> list[str]:
    if requested == "cpu":
        return [requested]
    import torch

    from ..inference.hardware import resolve_device

    device = resolve_device(requested)
    if requested == "auto" and device.type == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]


def _share(memory: int | None, jobs: int) -> int | None:
    """Bytes that each of several processes may take; one alone sees for itself what is free."""
    if jobs == 1:
        return memory
    if memory is None:
        import psutil

        memory = int(_MEMORY_SHARE * psutil.virtual_memory().available)
    return memory // jobs


@contextmanager
def _local_crew(
    steps: Sequence[Step], devices: Sequence[str], jobs: int, lock: int | None, done: Outcomes
) -> Iterator[None]:
    """Take the steps in as many threads as scans are enhanced at once, each waiting for a process."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(steps)):
        waiting.put(number)
    stopping = threading.Event()

    def stop_if_requested() -> None:
        if stopping.is_set():
            raise Cancelled

    def work(device: str) -> None:
        with suppress(queue.Empty, Cancelled):
            while not stopping.is_set():
                number = waiting.get_nowait()
                step = steps[number]
                step = replace(step, request=step.request | {"device": device})
                try:
                    done.put((number, take_step(step, stop_if_requested, lock)))
                except Cancelled:
                    raise
                except Exception as error:  # not even a defect of ours may stop the others
                    done.put((number, defect(error)))

    threads = [
        threading.Thread(target=work, args=(devices[n % len(devices)],), daemon=True)
        for n in range(min(jobs, len(steps)))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@dataclass
class _Batch:
    """A batch at work: what its crew has made is put in place, and told of."""

    target: Path
    staging: Path
    studies: Sequence[Study]
    done: Outcomes

    def run(
        self,
        crew: AbstractContextManager[None],
        say: Callable[[str], None],
        tell: Report,
        should_cancel: Callable[[], bool],
    ) -> list[Row]:
        total = len(self.studies)
        summary = _Summary(self.target, self.staging, [study.name for study in self.studies])
        began = False
        try:
            with crew:
                began = True
                tell(Progress("enhancing", 0, total))
                while len(summary.rows) < total:
                    row = self._settle(*_next(self.done, should_cancel))
                    summary.add(row)
                    say(_sentence(row, len(summary.rows), total))
                    tell(Progress("enhancing", len(summary.rows), total, summary.seconds_left()))
        finally:
            # What was finished while somebody asked to stop.
            with suppress(queue.Empty):
                while True:
                    number, told = self.done.get_nowait()
                    if not isinstance(told, Exception):
                        summary.add(self._settle(number, told))
            # A crew that could not begin leaves no trace.
            if began:
                summary.write()
        return summary.rows

    def _settle(self, number: int, told: Outcome) -> Row:
        """What became of a scan, once that has its final names."""
        study = self.studies[number]
        if told["status"] == ENHANCED:
            try:
                _put_in_place(study, Path(told["folder"]), told["record"])
            except OSError as error:
                return Row(study.name, FAILED, message=unwritable_message(error))
        if "record" in told:
            return _row(study, told["record"], self.target, told["status"])
        return Row(study.name, told["status"], message=told["message"])


@dataclass
class _Summary:
    """The rows so far; written after each, unless writing would then be most of the work."""

    target: Path
    staging: Path
    names: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    due: float = -math.inf

    def __post_init__(self) -> None:
        self._order = {name: number for number, name in enumerate(self.names)}

    def add(self, row: Row) -> None:
        insort(self.rows, row, key=lambda row: self._order[row.scan])
        if time.monotonic() >= self.due:
            # A table that somebody has opened, or a full disk, may be free again by the time that the batch ends.
            with suppress(InputError):
                self.write()

    def write(self) -> None:
        began = time.monotonic()
        try:
            write_summary(self.target, self.staging, self.rows, len(self.names))
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"Cannot write {self.target / TABLE} ({reason}): make room, close it elsewhere, then add --resume."
            ) from error
        finally:
            now = time.monotonic()
            self.due = now + (now - began) / _SUMMARY_SHARE

    def seconds_left(self) -> float | None:
        worked = sum(row.status != ENHANCED_BEFORE for row in self.rows)
        if not worked:
            return None
        return (time.monotonic() - self.began) / worked * (len(self.names) - len(self.rows))


def _put_in_place(study: Study, folder: Path, record: dict[str, Any]) -> None:
    """Give a finished scan its final names, so that at no moment a record stands beside an output that is not its own.

    A record whose output is missing counts for nothing, so the former output goes first and the new one comes last.
    """
    study.place.parent.mkdir(parents=True, exist_ok=True)
    former = read_record(study)
    if former is not None:
        with suppress(FileNotFoundError):
            os.replace(study.record.with_name(former["output"]["file"]), folder / "former")
    output = record["output"]["file"]
    for file in (study.file("png"), study.record, study.record.with_name(output)):
        os.replace(folder / file.name, file)
    shutil.rmtree(folder, ignore_errors=True)


def _row(study: Study, record: dict[str, Any], target: Path, status: str) -> Row:
    output, thumbnail = study.record.with_name(record["output"]["file"]), study.file("png")
    return Row(
        scan=study.name,
        status=status,
        output=output.relative_to(target).as_posix(),
        thumbnail=thumbnail.relative_to(target).as_posix() if os.path.exists(thumbnail) else None,
        **facts_of(record["report"], record.get("selfcheck"), record["seconds"]),
    )


def _sentence(row: Row, number: int, total: int) -> str:
    seconds = f" in {row.seconds:.0f} s" if row.status == ENHANCED else ""
    text = f"{number} of {total}: {row.scan}: {row.status}{seconds}{': ' if row.message else ''}{row.message}"
    return visible(text)


def _next(done: Outcomes, should_cancel: Callable[[], bool]) -> tuple[int, Outcome]:
    while True:
        if should_cancel():
            raise Cancelled("What was finished is kept: add --resume to go on.")
        with suppress(queue.Empty):
            number, told = done.get(timeout=_POLL_SECONDS)
            if isinstance(told, Exception):
                raise told
            return number, told


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _output_folder(target: Path) -> Iterator[tuple[Path, int | None]]:
    """Make the output folder where missing, and hold it for this batch alone.

    Gives a hidden folder in it, empty whatever a batch that was killed has left there, and the descriptor of its lock.
    """
    with ExitStack() as stack:
        try:
            target.mkdir(parents=True, exist_ok=True)
            staging = target / _STAGING
            if os.path.lexists(staging) and (os.path.islink(staging) or not os.path.isdir(staging)):
                os.unlink(staging)
            lock = stack.enter_context(held_staging_folder(staging, _LOCK_SECONDS))
        except LockHeld as error:
            raise InputError(f"Another batch works in {target}: wait for its end, or choose another folder.") from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{target} cannot be used ({reason}): choose another folder for the outputs.") from error
        yield staging, None if lock is None else lock.descriptor
