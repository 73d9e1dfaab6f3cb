"""Archives that speak DICOMweb: results go out by STOW-RS, series come in by QIDO-RS and WADO-RS.

Credentials are those that `requests` finds, such as in ``~/.netrc``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite

from .delivery import NotDelivered
from .queue import RECEIVING, Queue
from .settings import NETWORK_SECONDS

#: Receives the bytes of an instance; false if it cannot be taken now.
Store = Callable[[bytes], bool]

_IMAGES_AT_ONCE = 16
_PAGE = 100
# Studies of so many days are looked through.
_DAYS = 2
_ANY_SYNTAX = (("application/dicom", "*"),)
_STUDY, _SERIES, _COUNT = "0020000D", "0020000E", "00201209"


def deliver_by_web(files: list[Path], url: str, stop_if_requested: Callable[[], None]) -> None:
    """Send images by STOW-RS.

    Args:
        files: the images.
        url: of the DICOMweb service.
        stop_if_requested: called now and then; may raise.

    Raises:
        NotDelivered: the service cannot be reached, or has refused an image.
    """
    client = _client(url)
    for first in range(0, len(files), _IMAGES_AT_ONCE):
        stop_if_requested()
        try:
            response = client.store_instances([dcmread(file) for file in files[first : first + _IMAGES_AT_ONCE]])
        except (requests.RequestException, ValueError) as error:
            raise NotDelivered(f"The DICOMweb service does not take images ({_reason(error)}).") from error
        if response.get("FailedSOPSequence"):
            raise NotDelivered("The DICOMweb service refuses images.")


class WebSource:
    """The CT series of the last two days in an archive; each is fetched once it grows no more.

    Args:
        url: of the DICOMweb service.
        queue: knows which series were fetched before.
        store: gets the instances.
    """

    def __init__(self, url: str, queue: Queue, store: Store):
        self._client, self._queue, self._store = _client(url), queue, store
        self._counts: dict[str, int] = {}
        self._fetched: set[str] = set()

    def fetch(self, stop_if_requested: Callable[[], None]) -> int:
        """Fetch the series that are new, and return their number.

        Args:
            stop_if_requested: called before each image; may raise.

        Raises:
            OSError: the service cannot be reached, or has answered with an error; the message holds no UID.
        """
        try:
            return sum(self._fetch(found, stop_if_requested) for found in list(self._found()))
        except (requests.RequestException, ValueError) as error:
            raise OSError(f"the DICOMweb service fails: {_reason(error)}") from error

    def _found(self) -> Iterator[dict[str, Any]]:
        today = date.today()
        days = f"{today - timedelta(days=_DAYS - 1):%Y%m%d}-{today:%Y%m%d}"
        seen: set[str] = set()
        while page := self._new_on_page(days, seen):
            yield from page

    def _new_on_page(self, days: str, seen: set[str]) -> list[dict[str, Any]]:
        """The series after those that were seen, as far as the service returns them at once."""
        page = self._client.search_for_series(
            fields=["NumberOfSeriesRelatedInstances"],
            search_filters={"Modality": "CT", "StudyDate": days},
            limit=_PAGE,
            offset=len(seen),
        )
        # A service that ignores the offset returns the same ones again.
        new = [found for found in page if _value(found, _SERIES) not in seen]
        seen.update(_value(found, _SERIES) for found in new)
        return new

    def _fetch(self, found: dict[str, Any], stop_if_requested: Callable[[], None]) -> bool:
        """Fetch a series unless it was fetched before or has grown since the last look."""
        study, series, count = (_value(found, tag) for tag in (_STUDY, _SERIES, _COUNT))
        key = self._queue.key_of(str(series))
        if key in self._fetched or self._queue.state_of(key) not in (None, RECEIVING):
            return False
        if self._counts.get(key) != count:
            self._counts[key] = count
            return False
        for image in self._client.iter_series(study, series, media_types=_ANY_SYNTAX):
            stop_if_requested()
            if not self._store(_bytes_of(image)):
                return False
        self._fetched.add(key)
        return True


def _client(url: str) -> DICOMwebClient:
    client = DICOMwebClient(url, timeout=NETWORK_SECONDS)
    # The node itself tries again later.
    client.set_http_retry_params(retry=False)
    return client


def _value(found: dict[str, Any], tag: str) -> Any:
    return next(iter(found.get(tag, {}).get("Value", [])), 0)


def _bytes_of(image: Dataset) -> bytes:
    with io.BytesIO() as buffer:
        dcmwrite(buffer, image)
        return buffer.getvalue()


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"status {response.status_code}"
