"""Runs a batch on the workers of a Dask cluster, which mount its folders under the same names as this computer.

Dask distributes the scans, and reassigns those of a lost worker. Only plain values are sent. Dask's transport is for
trusted networks: any computer that can connect to a scheduler or a worker can run code there.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import Cancelled, InputError
from ..model.catalogue import model_folder, model_identity
from ..progress import Monitor
from ..request import AUTOMATIC
from .step import Outcome, Outcomes, Step, internal_error, run_step
from .task import FAILED

if TYPE_CHECKING:
    from distributed import Client, Future

# Retries of a scan after an error of its worker. Dask itself counts the workers that were lost with a scan.
_RETRIES = 2
_CONNECTING_SECONDS = 30.0
# Time without a worker until the user gets a message.
_PATIENCE_SECONDS = 5.0
_CLOSING_SECONDS = 0.3
_POLL_SECONDS = 0.05
_WORKER_POLL_SECONDS = 0.25
# Time that a worker with a problem waits before it returns a scan, so that others can take it.
_BACK_OFF_SECONDS = 5.0
_SCANS_AT_A_TIME = 1000
_TOKEN = "token.txt"
_LOGGER = logging.getLogger(__name__)


def check_address(address: str) -> None:
    """Refuse an invalid address of a scheduler, and a computer without Dask.

    Raises:
        InputError: the address is invalid, or Dask is not installed.
    """
    if not re.fullmatch(r"(tcp|tls)://[^/\s]+:[0-9]+", address):
        raise InputError(f"{address} is no address of a Dask scheduler: give one such as tcp://head-node:8786.")
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise InputError("Dask is not installed: run pip install 'xviewsynth[cluster]'.") from None


@contextmanager
def cluster_executor(
    address: str, steps: Sequence[Step], model: str, done: Outcomes, say: Callable[[str], None], monitor: Monitor
) -> Iterator[None]:
    """Run the steps of a batch on the workers of a cluster until the context ends.

    Args:
        address: of the scheduler.
        steps: of the batch; they differ only in the scan.
        model: name of the model, for workers that do not see its folder.
        done: receives the number and outcome of each step, or -1 and an exception that ends the batch.
        say: called with each message to the user.
        monitor: checked for a stop request while the batch waits for workers.

    Raises:
        InputError: there is no such scheduler, or a worker cannot run steps.
        Cancelled: a stop was requested.
    """
    staging = Path(steps[0].staging)
    token = uuid.uuid4().hex
    (staging / _TOKEN).write_text(token, encoding="ascii")
    common: dict[str, Any] = {"model": model, "token": token, "version": __version__}
    with _connected(address) as client:
        _check_scheduler(client, address)
        _wait_for_a_worker(client, address, say, monitor)
        _check_workers(client, asdict(steps[0]), common)
        topic = f"xviewsynth-{token}"
        client.subscribe_topic(topic, _message_callback(say))
        leaving = threading.Event()
        futures = client.map(
            run_step_here,
            [asdict(step) for step in steps],
            key=[f"{topic}-{number}" for number in range(len(steps))],
            retries=_RETRIES,
            pure=False,
            batch_size=_SCANS_AT_A_TIME,
            topic=topic,
            **common,
        )
        for number, future in enumerate(futures):
            future.add_done_callback(_result_callback(number, done, leaving))
        try:
            yield
        finally:
            leaving.set()
            with suppress(Exception):
                if client.status == "running":  # else the scheduler has gone
                    client.cancel(futures)


def run_step_here(step: dict[str, Any], *, model: str, token: str, version: str, topic: str) -> Outcome:
    """Run a step in a task, on the worker of the task."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    # Cancelled once the batch or its program has ended.
    task = worker.state.tasks[worker.get_current_task()]
    order = Step(**step)

    def stop_if_requested() -> None:
        if task.state == "cancelled" or not os.path.isdir(order.staging):
            raise Cancelled

    problem = look(step, model=model, token=token, version=version)
    try:
        if problem:
            worker.log_event(topic, f"The worker {worker.address} {problem}")
            _back_off(stop_if_requested)
            raise Reschedule
        return run_step(replace(order, request=order.request | {"model": _model_here(order, model)}), stop_if_requested)
    except Cancelled:
        return {"status": FAILED, "message": "It was stopped."}  # the scheduler ignores it


def version_here() -> str:
    """Version of XViewSynth on this computer."""
    return __version__


def look(step: dict[str, Any], *, model: str, token: str, version: str) -> str | None:
    """Why this computer cannot run steps, as the end of a sentence; None if it can."""
    if version != __version__:
        return f"has XViewSynth {__version__}, and not {version}: install the same version there."
    order = Step(**step)
    if not os.path.isdir(order.root):
        return f"does not see {order.root}: mount it there under the same name."
    outputs = Path(order.staging).parent
    try:
        # The token distinguishes it from another folder of the same name.
        if (Path(order.staging) / _TOKEN).read_text(encoding="ascii") != token:
            return f"has another folder {outputs}: mount the one of this computer there under the same name."
    except OSError:
        return f"does not see {outputs}: mount it there under the same name."
    try:
        with tempfile.TemporaryFile(dir=order.staging):
            pass
    except OSError as error:
        return f"cannot write to {outputs} ({error.strerror or error}): allow it."
    try:
        _model_here(order, model)
    except InputError as problem:
        return f"lacks the model: {problem}"
    return None


def _model_here(step: Step, name: str) -> str:
    for model in (step.request["model"], name):
        with suppress(InputError):
            if model_identity(model) == step.settings["model"]:
                return model if model == AUTOMATIC else str(model_folder(model))
    raise InputError(f"{name} is missing or another one; import it there, or keep it in a shared folder.")


def _back_off(stop_if_requested: Callable[[], None]) -> None:
    until = time.monotonic() + _BACK_OFF_SECONDS
    while time.monotonic() < until:
        stop_if_requested()
        time.sleep(_POLL_SECONDS)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    import distributed

    # Errors are reported by our own messages.
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        try:
            client = distributed.Client(address, timeout=_CONNECTING_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler responds at {address}: start one with `dask scheduler`, or correct the address."
            ) from error
        try:
            yield client
        finally:
            with suppress(Exception):
                client.close(_CLOSING_SECONDS)
    finally:
        logger.setLevel(level)


def _check_scheduler(client: Client, address: str) -> None:
    # The scheduler unpickles our functions.
    try:
        found = client.run_on_scheduler(version_here)
    except Exception as error:  # any exception of the import there
        raise InputError(
            f"The scheduler {address} has no XViewSynth, or another version ({error}): install {__version__} there."
        ) from error
    if found != __version__:
        raise InputError(f"The scheduler {address} has XViewSynth {found}: install {__version__} there.")


def _wait_for_a_worker(client: Client, address: str, say: Callable[[str], None], monitor: Monitor) -> None:
    shown, began = False, time.monotonic()
    while not client.scheduler_info()["workers"]:
        if monitor.cancelled:
            raise Cancelled("Nothing was begun.")
        if client.status != "running":
            raise _gone(client)
        if not shown and time.monotonic() - began > _PATIENCE_SECONDS:
            say(f"No worker has come yet: start them with `dask worker {address} --nthreads 1`.")
            shown = True
        time.sleep(_WORKER_POLL_SECONDS)


def _check_workers(client: Client, step: dict[str, Any], common: dict[str, Any]) -> None:
    problems = client.run(look, step, on_error="return", **common)
    for address, problem in sorted(problems.items()):
        if isinstance(problem, ImportError | AttributeError):
            problem = f"has no XViewSynth, or another version ({problem}): install {__version__} there."
        elif isinstance(problem, Exception):
            problem = f"does not respond ({problem}): restart it."
        if problem:
            raise InputError(f"The worker {address} {problem}")


def _message_callback(say: Callable[[str], None]) -> Callable[[tuple[float, str]], None]:
    """A callback that passes each message of workers to the user once."""
    shown: set[str] = set()

    def receive(event: tuple[float, str]) -> None:
        if event[1] not in shown:
            shown.add(event[1])
            say(event[1])

    return receive


def _result_callback(number: int, done: Outcomes, leaving: threading.Event) -> Callable[[Future], None]:
    """A callback for the end of a step. Dask calls it in a thread of its own."""

    def receive(future: Future) -> None:
        if leaving.is_set():
            return
        try:
            done.put((number, _outcome(future)))
        except Exception as error:
            if not leaving.is_set():
                done.put((-1, error))
        finally:
            future.release()

    return receive


def _outcome(future: Future) -> Outcome:
    if future.status == "error":
        from distributed import KilledWorker

        error = future.exception()
        if isinstance(error, KilledWorker):
            message = (
                "Every worker that took it was lost, perhaps for lack of memory: see their logs, use less --memory."
            )
            return {"status": FAILED, "message": message}
        return internal_error(error)
    if future.status in ("cancelled", "lost"):
        raise _gone(future.client)
    return future.result()


def _gone(client: Client) -> InputError:
    address = client.scheduler.address if client.scheduler else "the given address"
    return InputError(f"The Dask scheduler at {address} has gone: start it again, then add --resume.")
