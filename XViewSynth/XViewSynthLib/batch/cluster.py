"""A batch on the workers of a Dask cluster, which see its folders under the same names as this computer does.

Dask hands out the scans and gives those of a worker that was lost to another. What it sends are plain values. Its own
transport is made for networks where everybody is trusted: whoever reaches a scheduler or a worker can run code there.
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
from ..request import AUTOMATIC
from .step import Outcome, Outcomes, Step, defect, take_step
from .task import FAILED

if TYPE_CHECKING:
    from distributed import Client, Future

# Of a scan whose worker reports an error of its own; Dask itself counts the workers that a scan was lost with.
_RETRIES = 2
_CONNECTING_SECONDS = 30.0
# Without a worker, until the user is told.
_PATIENCE_SECONDS = 5.0
_CLOSING_SECONDS = 0.3
_POLL_SECONDS = 0.05
_ASKING_SECONDS = 0.25
# How long a worker that cannot do its part lets others have a scan.
_STANDING_BACK_SECONDS = 5.0
_SCANS_AT_A_TIME = 1000
_TOKEN = "token.txt"
_LOGGER = logging.getLogger(__name__)


def check_address(address: str) -> None:
    """Refuse what cannot be the address of a scheduler, and a computer without Dask.

    Raises:
        InputError: it is, or there is none.
    """
    if not re.fullmatch(r"(tcp|tls)://[^/\s]+:[0-9]+", address):
        raise InputError(f"{address} is no address of a Dask scheduler: give one such as tcp://head-node:8786.")
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise InputError("Dask is not installed: run pip install 'xviewsynth[cluster]'.") from None


@contextmanager
def cluster_crew(
    address: str,
    steps: Sequence[Step],
    model: str,
    done: Outcomes,
    say: Callable[[str], None],
    should_cancel: Callable[[], bool],
) -> Iterator[None]:
    """Let the workers of a cluster take the steps of a batch until the context ends.

    Args:
        address: of the scheduler.
        steps: what to do; they share all but the scan.
        model: name of the model, by which a worker finds it that does not see its folder.
        done: where each outcome goes with the number of its step; or -1 and an exception that ends the batch.
        say: told what the user should know.
        should_cancel: asked while workers are waited for.

    Raises:
        InputError: there is no such scheduler, or a worker cannot do its part.
        Cancelled: `should_cancel` said so.
    """
    staging = Path(steps[0].staging)
    token = uuid.uuid4().hex
    (staging / _TOKEN).write_text(token, encoding="ascii")
    common: dict[str, Any] = {"model": model, "token": token, "version": __version__}
    with _connected(address) as client:
        _check_scheduler(client, address)
        _wait_for_a_worker(client, address, say, should_cancel)
        _check_workers(client, asdict(steps[0]), common)
        topic = f"xviewsynth-{token}"
        client.subscribe_topic(topic, _teller(say))
        leaving = threading.Event()
        futures = client.map(
            take_step_here,
            [asdict(step) for step in steps],
            key=[f"{topic}-{number}" for number in range(len(steps))],
            retries=_RETRIES,
            pure=False,
            batch_size=_SCANS_AT_A_TIME,
            topic=topic,
            **common,
        )
        for number, future in enumerate(futures):
            future.add_done_callback(_deliverer(number, done, leaving))
        try:
            yield
        finally:
            leaving.set()
            with suppress(Exception):
                if client.status == "running":  # a scheduler that has gone need not be told
                    client.cancel(futures)


def take_step_here(step: dict[str, Any], *, model: str, token: str, version: str, topic: str) -> Outcome:
    """Take a step in a task, on the worker that the task was given to."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    # Cancelled once the batch, or the program that ran it, has gone.
    task = worker.state.tasks[worker.get_current_task()]
    order = Step(**step)

    def stop_if_requested() -> None:
        if task.state == "cancelled" or not os.path.isdir(order.staging):
            raise Cancelled

    problem = look(step, model=model, token=token, version=version)
    try:
        if problem:
            worker.log_event(topic, f"The worker {worker.address} {problem}")
            _stand_back(stop_if_requested)
            raise Reschedule
        return take_step(
            replace(order, request=order.request | {"model": _model_here(order, model)}), stop_if_requested
        )
    except Cancelled:
        return {"status": FAILED, "message": "It was stopped."}  # which nobody hears


def version_here() -> str:
    """Which XViewSynth this computer has."""
    return __version__


def look(step: dict[str, Any], *, model: str, token: str, version: str) -> str | None:
    """What keeps this computer from doing its part, as the end of a sentence; None where nothing does."""
    if version != __version__:
        return f"has XViewSynth {__version__}, and not {version}: install the same version there."
    order = Step(**step)
    if not os.path.isdir(order.root):
        return f"does not see {order.root}: mount it there under the same name."
    outputs = Path(order.staging).parent
    try:
        # Not just a folder of the same name.
        if (Path(order.staging) / _TOKEN).read_text(encoding="ascii") != token:
            return f"has another folder {outputs}: mount the one of this computer there under the same name."
    except OSError:
        return f"does not see {outputs}: mount it there under the same name."
    try:
        with tempfile.TemporaryFile(dir=order.staging):
            pass
    except OSError as error:
        return f"cannot write to {outputs} ({error.strerror or error}): let it."
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
    raise InputError(f"{name} is missing or another one; import it there, or keep it in a folder that all see.")


def _stand_back(stop_if_requested: Callable[[], None]) -> None:
    until = time.monotonic() + _STANDING_BACK_SECONDS
    while time.monotonic() < until:
        stop_if_requested()
        time.sleep(_POLL_SECONDS)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    import distributed

    # What goes wrong is told in sentences of ours.
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        try:
            client = distributed.Client(address, timeout=_CONNECTING_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address}: start one with `dask scheduler`, or mend the address."
            ) from error
        try:
            yield client
        finally:
            with suppress(Exception):
                client.close(_CLOSING_SECONDS)
    finally:
        logger.setLevel(level)


def _check_scheduler(client: Client, address: str) -> None:
    # It unpacks what it hands on.
    try:
        found = client.run_on_scheduler(version_here)
    except Exception as error:  # whatever importing provokes there
        raise InputError(
            f"The scheduler {address} has no XViewSynth, or another version ({error}): install {__version__} there."
        ) from error
    if found != __version__:
        raise InputError(f"The scheduler {address} has XViewSynth {found}: install {__version__} there.")


def _wait_for_a_worker(
    client: Client, address: str, say: Callable[[str], None], should_cancel: Callable[[], bool]
) -> None:
    told, began = False, time.monotonic()
    while not client.scheduler_info()["workers"]:
        if should_cancel():
            raise Cancelled("Nothing was begun.")
        if client.status != "running":
            raise _gone(client)
        if not told and time.monotonic() - began > _PATIENCE_SECONDS:
            say(f"No worker has come yet: start them with `dask worker {address} --nthreads 1`.")
            told = True
        time.sleep(_ASKING_SECONDS)


def _check_workers(client: Client, step: dict[str, Any], common: dict[str, Any]) -> None:
    answers = client.run(look, step, on_error="return", **common)
    for address, problem in sorted(answers.items()):
        if isinstance(problem, ImportError | AttributeError):
            problem = f"has no XViewSynth, or another version ({problem}): install {__version__} there."
        elif isinstance(problem, Exception):
            problem = f"does not answer ({problem}): restart it."
        if problem:
            raise InputError(f"The worker {address} {problem}")


def _teller(say: Callable[[str], None]) -> Callable[[tuple[float, str]], None]:
    """Says each sentence once that workers have for the user."""
    told: set[str] = set()

    def tell(event: tuple[float, str]) -> None:
        if event[1] not in told:
            told.add(event[1])
            say(event[1])

    return tell


def _deliverer(number: int, done: Outcomes, leaving: threading.Event) -> Callable[[Future], None]:
    """What is called once a step has come to its end, in a thread of Dask's."""

    def deliver(future: Future) -> None:
        if leaving.is_set():
            return
        try:
            done.put((number, _outcome(future)))
        except Exception as error:
            if not leaving.is_set():
                done.put((-1, error))
        finally:
            future.release()

    return deliver


def _outcome(future: Future) -> Outcome:
    if future.status == "error":
        from distributed import KilledWorker

        error = future.exception()
        if isinstance(error, KilledWorker):
            message = (
                "Every worker that took it was lost, perhaps for lack of memory: see their logs, use less --memory."
            )
            return {"status": FAILED, "message": message}
        return defect(error)
    if future.status in ("cancelled", "lost"):
        raise _gone(future.client)
    return future.result()


def _gone(client: Client) -> InputError:
    address = client.scheduler.address if client.scheduler else "the given address"
    return InputError(f"The Dask scheduler at {address} has gone: start it again, then add --resume.")
