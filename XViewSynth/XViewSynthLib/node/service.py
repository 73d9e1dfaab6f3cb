"""The work of a node: complete series are enhanced one after another, and results are sent to the archive.

A crash at any moment loses nothing, and the archive gets each result once. A result becomes one by the renaming of its
folder; until then its enhancement starts anew. Afterwards the archive gets the same images, with the same UIDs, until
it has them all.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from ..batch.process import TASK, run_worker
from ..batch.task import ENHANCED, REFUSED, Task
from ..errors import Cancelled, InputError
from ..io.dicom.files import read_header
from ..io.dicom.series import read_series
from ..model.catalogue import model_folder
from ..request import AUTOMATIC
from ..system.durable import names_to_disk, to_disk
from ..system.locks import FileLock, LockHeld
from .delivery import NotDelivered, deliver
from .queue import DELIVERING, DONE, ENDED, FAILED, RECEIVING, SKIPPED, Queue, Series
from .receiver import OUT_OF_RESOURCES, Store, receiver, remove_parts
from .settings import FAILURES, REASON, RECEIVED, Settings
from .status import status_page

#: More folders of a node: results to deliver, and work in progress.
RESULTS, WORK = "results", "work"
_SERIES, _THUMBNAIL = "series", "thumbnail.png"
_MOST_ATTEMPTS = 5
# Seconds: between attempts to enhance, and the first and longest wait between attempts to deliver.
_RETRY_SECONDS, _FIRST_WAIT, _LONGEST_WAIT = 10.0, 5.0, 900.0
_MOST_DOUBLINGS = 10
_POLL_SECONDS, _FETCH_SECONDS = 0.2, 15.0
# The instances of series that have ended are forgotten after so long, at the start and every hour.
_REMEMBERED_SECONDS, _TIDY_SECONDS = 30 * 86400.0, 3600.0
# How long a stop waits for an archive that is silent.
_JOIN_SECONDS = 3.0
_UID = re.compile(r"\d+(\.\d+){3,}")


class Node:
    """A node at work in its folder.

    Args:
        settings: of the node.
        say: receives lines for the log, without patient data.
        should_cancel: whether to stop.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None], should_cancel: Callable[[], bool]):
        model = settings.request.model
        if model != AUTOMATIC:
            model = str(model_folder(model).resolve())
        self._settings = replace(settings, request=replace(settings.request, model=model))
        self._say, self._should_cancel = say, should_cancel
        self._ended = threading.Event()
        self._defects: list[BaseException] = []

    def run(self) -> None:
        """Work until a stop is requested. Series that wait go on when the node starts again.

        Raises:
            InputError: the folder is in use or cannot be used, or an address is taken.
        """
        folder = self._settings.folder
        with ExitStack() as stack:
            stack.callback(_locked(folder).release)
            for name in (RECEIVED, RESULTS, WORK, FAILURES):
                (folder / name).mkdir(exist_ok=True)
            self._queue = Queue(folder)
            stack.callback(self._queue.close)
            self._recover()
            if self._settings.page is not None:
                self._note(f"Its page is {stack.enter_context(status_page(self._settings.page, self._queue))}.")
            store = Store(self._settings, self._queue, self._note)
            port = stack.enter_context(receiver(self._settings, store))
            stack.enter_context(self._beside(self._deliver_next))
            if self._settings.source is not None:
                stack.enter_context(self._beside(self._fetching(self._settings.source, store)))
            stack.callback(self._ended.set)
            self._note(f"{self._settings.title} listens at {self._settings.host}:{port}.")
            self._enhance_all()
        if self._defects:
            raise self._defects[0]

    def _recover(self) -> None:
        """Continue after a crash: remove what was unfinished, and put interrupted series back into the queue."""
        folder = self._settings.folder
        remove_parts(folder)
        for left in (folder / WORK).iterdir():
            shutil.rmtree(left, ignore_errors=True)
        self._queue.resume()
        for key in self._queue.keys_in(*ENDED):
            self._clear(key)

    def _enhance_all(self) -> None:
        tidied = -_TIDY_SECONDS
        while not self._stops():
            with self._troubles_noted():
                if time.monotonic() - tidied > _TIDY_SECONDS:
                    self._queue.forget(time.time() - _REMEMBERED_SECONDS)
                    tidied = time.monotonic()
                series = self._queue.next_complete(self._settings.quiet_seconds)
                if series is not None:
                    self._enhance(series)
                    continue
            time.sleep(_POLL_SECONDS)

    def _enhance(self, series: Series) -> None:
        if not self._queue.begin(series):
            return
        try:
            self._enhance_begun(series)
        except (Cancelled, OSError, sqlite3.Error):  # a stop, or a full disk
            self._queue.put_back(series)
            raise

    def _enhance_begun(self, series: Series) -> None:
        source = self._settings.folder / RECEIVED / series.key
        try:
            unfit = self._unfitness(source)
        except InputError as problem:
            self._end(series, FAILED, str(problem))
            return
        if series.missing:
            reason = (
                f"It ended before with more images ({series.missing} more), which are gone: send all of them again."
            )
            self._end(series, FAILED, reason)
        elif unfit:
            self._end(series, SKIPPED, unfit)
        elif series.attempts >= _MOST_ATTEMPTS:
            self._end(series, FAILED, f"Its enhancement ended the node {series.attempts} times.")
        else:
            self._make_result(series, source)

    def _make_result(self, series: Series, source: Path) -> None:
        began, result = time.monotonic(), self._settings.folder / RESULTS / series.key
        if result.exists():  # of an earlier run, or of fewer instances
            shutil.rmtree(result)
        work = Path(tempfile.mkdtemp(dir=self._settings.folder / WORK))
        try:
            outcome = self._worked(source, work)
            if outcome["status"] == ENHANCED:
                self._keep(series, work / _SERIES, result, time.monotonic() - began)
            elif outcome["status"] == REFUSED or series.attempts + 1 >= _MOST_ATTEMPTS:
                self._end(series, FAILED, outcome["message"])
            else:
                self._note(f"{series.key}: {outcome['message']} It is tried again.")
                self._queue.retry(series, RECEIVING, _RETRY_SECONDS, _scrubbed(outcome["message"]))
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _unfitness(self, source: Path) -> str:
        """Why a series does not qualify; empty if it does.

        Raises:
            InputError: it is damaged, or no CT series.
            OSError: the disk fails.
        """
        headers = [read_header(file, ("ImageType",)) for file in sorted(source.iterdir())]
        if all("LOCALIZER" in header.texts("ImageType") for header in headers):
            return "It is a localizer."
        volume, _ = read_series(source)
        if volume.synthetic:
            return "It was made by XViewSynth."
        spacing = volume.spacing_along("K")
        if spacing <= self._settings.thicker_than:
            return f"Its slices are {spacing:g} mm apart."
        return ""

    def _worked(self, source: Path, work: Path) -> dict:
        task = Task(
            name="series",
            source=str(source),
            output=_SERIES,
            dicom=True,
            thumbnail=_THUMBNAIL,
            request=self._settings.request.to_json(),
            selfcheck=False,
        )
        (work / TASK).write_text(json.dumps(asdict(task)), encoding="utf-8")
        return run_worker(work, None, self._stop_if_requested, None)

    def _keep(self, series: Series, made: Path, result: Path, seconds: float) -> None:
        for file in made.iterdir():
            to_disk(file)
        made.replace(result)
        names_to_disk(result.parent)
        if self._queue.enhanced(series, seconds):
            self._note(f"{series.key}: enhanced in {seconds:.0f} s.")
        else:
            self._note(f"{series.key}: more images have arrived, so it is enhanced again.")

    @contextmanager
    def _beside(self, work: Callable[[], float]) -> Iterator[None]:
        """Do some work again and again in another thread; it returns the seconds to wait before the next time."""

        def repeat() -> None:
            try:
                while not self._stops():
                    with self._troubles_noted():
                        self._ended.wait(work())
            except BaseException as defect:  # ends the node, which would not do all of its work any more
                self._defects.append(defect)
                self._ended.set()

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(_JOIN_SECONDS)

    def _fetching(self, url: str, store: Store) -> Callable[[], float]:
        """The work of fetching new series from a DICOMweb service."""
        from .web import WebSource

        source = WebSource(url, self._queue, lambda instance: store.keep(instance) != OUT_OF_RESOURCES)

        def fetch() -> float:
            count = source.fetch(self._stop_if_requested)
            if count:
                self._note(f"Fetched {count} series.")
            return _FETCH_SECONDS

        return fetch

    def _deliver_next(self) -> float:
        series = self._queue.next_delivery()
        if series is None:
            return _POLL_SECONDS
        self._deliver(series)
        return 0.0

    def _deliver(self, series: Series) -> None:
        try:
            count = deliver(self._settings.folder / RESULTS / series.key, self._settings, self._stop_if_requested)
        except (NotDelivered, OSError) as problem:
            reason = _scrubbed(str(getattr(problem, "strerror", None) or problem))
            seconds = min(_FIRST_WAIT * 2 ** min(series.attempts, _MOST_DOUBLINGS), _LONGEST_WAIT)
            if self._queue.retry(series, DELIVERING, seconds, reason):
                self._note(f"{series.key}: {reason} It is sent again in {seconds:.0f} s.")
            return
        self._end(series, DONE, words=f"delivered as {count} images")

    def _end(self, series: Series, state: str, reason: str = "", words: str = "") -> None:
        """Note the end of a series, unless images have arrived meanwhile, and remove its files."""
        with self._queue.files:
            if not self._queue.end(series, state, _scrubbed(reason)):
                return
            self._clear(series.key, reason)
        self._note(f"{series.key}: {words or state}. {_scrubbed(reason)}".rstrip())

    def _clear(self, key: str, reason: str = "") -> None:
        """Remove the files of a series that has ended, or move them to the failures."""
        folder = self._settings.folder
        received, failed = folder / RECEIVED / key, folder / FAILURES / key
        if self._queue.state_of(key) == FAILED and received.exists():
            shutil.rmtree(failed, ignore_errors=True)
            received.replace(failed)
            (failed / REASON).write_text(f"{reason or 'The node was interrupted.'}\n", encoding="utf-8")
        elif not self._settings.keep:
            for place in (received, folder / RESULTS / key):
                shutil.rmtree(place, ignore_errors=True)

    def _stops(self) -> bool:
        return self._should_cancel() or self._ended.is_set()

    def _stop_if_requested(self) -> None:
        if self._stops():
            raise Cancelled

    @contextmanager
    def _troubles_noted(self) -> Iterator[None]:
        """Go on after a while where the disk is full or fails, or a certificate cannot be read."""
        try:
            yield
        except Cancelled:
            return
        except (OSError, sqlite3.Error, InputError) as error:
            reason = _scrubbed(str(getattr(error, "strerror", None) or error))
            self._note(f"Work had to stop ({reason}); it goes on soon.")
            self._ended.wait(_RETRY_SECONDS)

    def _note(self, sentence: str) -> None:
        with suppress(InputError):  # nobody reads the log any more
            self._say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}")


def _locked(folder: Path) -> FileLock:
    """The lock of the node's folder, which is made if it is missing.

    Raises:
        InputError: another node uses the folder, or it cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(folder / "lock")
    except LockHeld:
        raise InputError(f"Another node uses {folder}: choose another --folder.") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be used ({error.strerror or error}): choose another --folder.") from error


def _scrubbed(reason: str) -> str:
    """A message without UIDs."""
    return _UID.sub("(UID)", reason)
