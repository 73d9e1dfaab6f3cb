"""Enhances every scan below a folder, one or several at a time, each in a separate process.

A scan that cannot be enhanced, or whose process crashes, does not stop the others. The process works in a hidden folder
of the batch, on this computer or another. Complete outputs are moved to their places. A record beside each output holds
the checksums of scan and settings, from which a resumed batch recognises finished scans.
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
from ..progress import Monitor, Report
from ..request import AUTOMATIC, Request
from ..system.locks import LockHeld
from ..system.names import portable_path, same_name_key
from ..system.staging import STAGING_PREFIX, held_staging_folder
from ..system.streams import visible
from .cluster import check_address, cluster_executor
from .records import facts_of
from .step import (
    ENHANCED_BEFORE,
    BatchItem,
    Outcome,
    Outcomes,
    Step,
    internal_error,
    read_record,
    run_step,
    unwritable_message,
)
from .summary import PAGE, TABLE, Row, write_summary
from .task import ENHANCED, FAILED, FORMATS

# Endings of all files of one scan.
_ENDINGS = (*(f".{ending}" for ending in FORMATS), ".json", ".png")
# The exit code if scans that qualify were not enhanced.
SOME_FAILED = 4

_STAGING = f"{STAGING_PREFIX}batch"
_POLL_SECONDS = 0.05
# Processes of a killed batch end within a second, or a few on a busy machine.
_LOCK_SECONDS = 20.0
# Largest share of the time for writing the summary.
_SUMMARY_SHARE = 0.05
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Batch:
    """What is enhanced, and on which computers.

    Attributes:
        source: folder with scans, at any depth.
        target: folder for the outputs; made if missing.
        request: settings for every scan. "auto" as device distributes the scans over all GPUs. Memory is the limit for
            all scans together, on a cluster for each; default is most of the free memory.
        format: ending of the outputs, one of `FORMATS`.
        selfcheck: whether to measure on each scan how well slices of it are restored.
        jobs: number of scans at a time; one a device by default. Not allowed with a cluster.
        follow_links: also enhance scans behind links that lead out of `source`.
        dask: address of a Dask scheduler, whose workers mount both folders under the same names; None to enhance the
            scans on this computer.
    """

    source: str | os.PathLike[str]
    target: str | os.PathLike[str]
    request: Request
    format: str = FORMATS[0]
    selfcheck: bool = False
    jobs: int | None = None
    follow_links: bool = False
    dask: str | None = None


def run_batch(
    batch: Batch,
    *,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> list[Row]:
    """Enhance every scan below a folder that can be enhanced, and write a summary after each.

    The output of ``a/chest.nrrd`` is ``a/chest.nrrd.enhanced.nrrd``. A thumbnail (.png) and a record (.json) lie beside
    it. Scans in the output folder are ignored.

    Args:
        batch: scans, settings and computers.
        resume: skip scans that an earlier batch has enhanced with the same settings. Outputs of scans with changes, or
            with other settings, are replaced.
        say: called with one sentence a scan.
        progress: called after every scan.
        should_cancel: called many times a second; true ends the work.

    Returns:
        A row for each scan, in the order of their names.

    Raises:
        InputError: the settings, the folders, the model or the cluster cannot be used, no scan was found, outputs exist
            (unless resuming), another batch uses the folder, or the summary cannot be written.
        Cancelled: `should_cancel` returned true. Finished outputs are kept.
    """
    request, dask = batch.request, batch.dask
    if dask is not None:
        check_address(dask)
        if batch.jobs is not None:
            raise InputError(
                "A cluster's workers take as many scans at once as they have threads: leave --jobs out, or --dask."
            )
    monitor = Monitor(progress, should_cancel)
    monitor.step("searching", 0, 1)
    model = request.model if request.model == AUTOMATIC else str(model_folder(request.model).resolve())
    identity, factors = model_identity(model), known_factors(model)
    if request.factor is not None and request.factor not in factors:
        trained = ", ".join(str(factor) for factor in factors)
        raise InputError(f"{request.model} was trained for factors {trained}: choose one of these or another model.")
    source, target = Path(os.path.abspath(batch.source)), Path(os.path.abspath(batch.target))
    items = find_items(source, target, should_cancel, follow_links=batch.follow_links, say=say)
    with _output_folder(target) as (staging, lock):
        _check_outputs(items, target, batch.format, resume)
        done: Outcomes = queue.SimpleQueue()
        devices = [] if dask is not None else _devices(request.device)
        at_once = batch.jobs or max(1, len(devices))
        threads = max(1, _cores() // at_once) if at_once > 1 else None
        memory = request.memory if dask is not None else _share(request.memory, at_once)
        settings = _recorded(request, identity) | {"selfcheck": batch.selfcheck, "format": batch.format}
        here = replace(request, model=model, memory=memory).to_json()
        common = (str(source), str(staging), settings, here, threads)
        steps = [Step(item.name, str(item.source), str(item.place), *common) for item in items]
        if dask is None:
            executor = _local_executor(steps, devices, at_once, lock, done)
        else:
            executor = cluster_executor(dask, steps, request.model, done, say, monitor)
        return _RunningBatch(target, staging, items, done).run(executor, say, monitor)


def find_items(
    source: Path,
    target: Path,
    should_cancel: Callable[[], bool] | None = None,
    *,
    follow_links: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[BatchItem]:
    """All possible scans below a folder, each with an own place for its output.

    Args:
        source: folder with scans.
        target: folder for the outputs; scans in it are ignored.
        should_cancel, follow_links, say: as for `scan_paths`.

    Raises:
        InputError: there is no such folder, no scan in it, or the outputs would lie among the scans.
        Cancelled: `should_cancel` returned true.
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
    items = []
    for name in names:
        place = _free_place("enhanced" if name == "." else portable_path(name, ".enhanced"), taken)
        taken.add(same_name_key(place))
        items.append(BatchItem(name, source / name, target / place))
    return items


def _free_place(preferred: str, taken: set[str]) -> str:
    # Collisions are possible for names that a file system treats as one, and for folders with names of outputs.
    place, number = preferred, 1
    while taken & {same_name_key(f"{place}{ending}") for ending in ("", *_ENDINGS)}:
        number += 1
        place = f"{preferred}~{number}"
    return place


def _recorded(request: Request, model: str) -> dict[str, Any]:
    """Settings that determine the result: the weights of the model, but neither its folder nor the memory."""
    settings = {name: value for name, value in request.to_json().items() if name != "memory"}
    return settings | {"model": model, "program": __version__}


def _check_outputs(items: Sequence[BatchItem], target: Path, format: str, resume: bool) -> None:
    if resume:
        return
    ours = [file for item in items for file in (item.file(format), item.file("png"), item.record)]
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
    """Memory limit of each of several processes, bytes. A single process measures the free memory itself."""
    if jobs == 1:
        return memory
    if memory is None:
        import psutil

        memory = int(_MEMORY_SHARE * psutil.virtual_memory().available)
    return memory // jobs


@contextmanager
def _local_executor(
    steps: Sequence[Step], devices: Sequence[str], jobs: int, lock: int | None, done: Outcomes
) -> Iterator[None]:
    """Run the steps in one thread for each parallel scan. Each thread waits for a process."""
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
                    done.put((number, run_step(step, stop_if_requested, lock)))
                except Cancelled:
                    raise
                except Exception as error:  # even an internal error must not stop the others
                    done.put((number, internal_error(error)))

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
class _RunningBatch:
    """A running batch: moves outputs of the executor to their places, and reports them."""

    target: Path
    staging: Path
    items: Sequence[BatchItem]
    done: Outcomes

    def run(self, executor: AbstractContextManager[None], say: Callable[[str], None], monitor: Monitor) -> list[Row]:
        total = len(self.items)
        summary = _Summary(self.target, self.staging, [item.name for item in self.items])
        began = False
        try:
            with executor:
                began = True
                monitor.step("enhancing", 0, total)
                while len(summary.rows) < total:
                    row = self._settle(*_next(self.done, monitor))
                    summary.add(row)
                    say(_sentence(row, len(summary.rows), total))
                    monitor.step("enhancing", len(summary.rows), total, summary.seconds_left())
        finally:
            # Scans that were finished after the stop request.
            with suppress(queue.Empty):
                while True:
                    number, outcome = self.done.get_nowait()
                    if not isinstance(outcome, Exception):
                        summary.add(self._settle(number, outcome))
            # An executor that could not begin leaves no trace.
            if began:
                summary.write()
        return summary.rows

    def _settle(self, number: int, outcome: Outcome) -> Row:
        """Give the outputs of a scan their final names, and return its row."""
        item = self.items[number]
        if outcome["status"] == ENHANCED:
            try:
                _put_in_place(item, Path(outcome["folder"]), outcome["record"])
            except OSError as error:
                return Row(item.name, FAILED, message=unwritable_message(error))
        if "record" in outcome:
            return _row(item, outcome["record"], self.target, outcome["status"])
        return Row(item.name, outcome["status"], message=outcome["message"])


@dataclass
class _Summary:
    """The rows so far. Written after each, unless that would take most of the time."""

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
            # The table may be open in a program, or the disk full. Both may change before the batch ends.
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


def _put_in_place(item: BatchItem, folder: Path, record: dict[str, Any]) -> None:
    """Give the outputs of a scan their final names, so that a record never lies beside an output of another run.

    A record without its output is ignored, so the former output is removed first and the new one comes last.
    """
    item.place.parent.mkdir(parents=True, exist_ok=True)
    former = read_record(item)
    if former is not None:
        with suppress(FileNotFoundError):
            os.replace(item.record.with_name(former["output"]["file"]), folder / "former")
    output = record["output"]["file"]
    for file in (item.file("png"), item.record, item.record.with_name(output)):
        os.replace(folder / file.name, file)
    shutil.rmtree(folder, ignore_errors=True)


def _row(item: BatchItem, record: dict[str, Any], target: Path, status: str) -> Row:
    output, thumbnail = item.record.with_name(record["output"]["file"]), item.file("png")
    return Row(
        scan=item.name,
        status=status,
        output=output.relative_to(target).as_posix(),
        thumbnail=thumbnail.relative_to(target).as_posix() if os.path.exists(thumbnail) else None,
        **facts_of(record["report"], record.get("selfcheck"), record["seconds"]),
    )


def _sentence(row: Row, number: int, total: int) -> str:
    seconds = f" in {row.seconds:.0f} s" if row.status == ENHANCED else ""
    text = f"{number} of {total}: {row.scan}: {row.status}{seconds}{': ' if row.message else ''}{row.message}"
    return visible(text)


def _next(done: Outcomes, monitor: Monitor) -> tuple[int, Outcome]:
    while True:
        if monitor.cancelled:
            raise Cancelled("What was finished is kept: add --resume to go on.")
        with suppress(queue.Empty):
            number, outcome = done.get(timeout=_POLL_SECONDS)
            if isinstance(outcome, Exception):
                raise outcome
            return number, outcome


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _output_folder(target: Path) -> Iterator[tuple[Path, int | None]]:
    """Make the output folder if it is missing, and lock it for this batch.

    Yields an empty hidden folder in it, and the descriptor of its lock. Remains of a killed batch are removed.
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
