"""Slicer's DICOM database, as far as a module uses it: an index of files, and copies of those that it imports."""

from __future__ import annotations

import shutil
import types
from pathlib import Path
from typing import Any

import pydicom
import slicer
from pydicom.datadict import keyword_for_tag
from PySide6.QtCore import Property, QObject

_FILE_NAME = "ctkDICOM.sql"


class ctkDICOMDatabase(QObject):
    """The database in one folder. An unknown image or element is an empty text, as in CTK."""

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._files: dict[str, Path] = {}
        self._series: dict[str, str] = {}

    def openDatabase(self, file: str) -> None:
        self._folder = Path(file).parent
        self._folder.mkdir(parents=True, exist_ok=True)

    def closeDatabase(self) -> None:
        self._folder, self._files, self._series = None, {}, {}

    def insert(self, file: str, copy: bool) -> None:
        """Add a file, which CTK's indexer does; other files than DICOM files are passed over."""
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            return
        path = Path(file)
        if copy:
            path = self._folder / "dicom" / header.SeriesInstanceUID / header.SOPInstanceUID
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
        self._files[str(header.SOPInstanceUID)] = path
        self._series[str(header.SOPInstanceUID)] = str(header.SeriesInstanceUID)

    def fileForInstance(self, instance: str) -> str:
        return str(self._files.get(instance, ""))

    def instanceForFile(self, file: str) -> str:
        return next((instance for instance, path in self._files.items() if path == Path(file)), "")

    def seriesForFile(self, file: str) -> str:
        return self._series.get(self.instanceForFile(file), "")

    def filesForSeries(self, series: str, hits: int = -1) -> list[str]:
        found = [str(path) for instance, path in self._files.items() if self._series[instance] == series]
        return found if hits < 0 else found[:hits]

    def instanceValue(self, instance: str, tag: str) -> str:
        return self.fileValue(self.fileForInstance(instance), tag) if instance in self._files else ""

    def fileValue(self, file: str, tag: str) -> str:
        if not Path(file).is_file():
            return ""
        group, element = (int(part, 16) for part in tag.split(","))
        keyword = keyword_for_tag((group, element))
        value = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[keyword]).get(keyword)
        several = value if isinstance(value, pydicom.multival.MultiValue) else [value]
        return "" if value is None else "\\".join(map(str, several))

    def removeSeries(self, series: str) -> bool:
        for file in self.filesForSeries(series):
            instance = self.instanceForFile(file)
            del self._files[instance], self._series[instance]
            if Path(file).is_relative_to(self._folder):
                Path(file).unlink()
        return True

    isOpen = Property(bool, lambda self: self._folder is not None)
    databaseDirectory = Property(str, lambda self: str(self._folder or ""))


def open_database(folder: Path) -> ctkDICOMDatabase:
    """A database in a folder, which it makes."""
    database = ctkDICOMDatabase()
    database.openDatabase(str(folder / _FILE_NAME))
    return database


def library() -> dict[str, types.ModuleType]:
    """Slicer's package DICOMLib by the names of its modules."""

    def importDicom(dicomDataDir: str, dicomDatabase: Any = None, copyFiles: bool = False) -> bool:
        database = slicer.dicomDatabase if dicomDatabase is None else dicomDatabase
        for path in sorted(Path(dicomDataDir).rglob("*")):
            if path.is_file():
                database.insert(str(path), copyFiles)
        return True

    package, utilities = types.ModuleType("DICOMLib"), types.ModuleType("DICOMLib.DICOMUtils")
    package.DICOMUtils, utilities.importDicom = utilities, importDicom
    return {module.__name__: module for module in (package, utilities)}
