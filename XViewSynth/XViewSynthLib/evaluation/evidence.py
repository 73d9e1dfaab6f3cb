"""Clinical evidence of a benchmark: noise floor, structures, lesions and invented structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..errors import InputError
from ..geometry import interpolation
from ..geometry.volume import Volume
from . import lesions as lesion_test
from .invented import DEVIATIONS, BlobFinder
from .recoverable import ErrorRegions, recoverable_removed
from .selfcheck import Trial
from .structures import Anatomy, agreement_to_dict

NOISE_FLOOR, STRUCTURES, LESIONS, INVENTED = "noise-floor", "structures", "lesions", "invented"
ALL = "all"
MEASURES = (NOISE_FLOOR, STRUCTURES, LESIONS, INVENTED)
#: The truth as a method: the best possible figures.
TRUTH = "truth"
_BASELINES: tuple[interpolation.Method, ...] = ("linear", "cubic")


def check_measures(names: Sequence[str]) -> tuple[str, ...]:
    """The requested measures in their order; "all" stands for every one.

    Raises:
        InputError: an unknown name.
    """
    for name in names:
        if name not in (*MEASURES, ALL):
            raise InputError(f"There is no measure {name!r}: choose {', '.join(MEASURES)} or {ALL}.")
    return tuple(measure for measure in MEASURES if measure in names or ALL in names)


class Evidence:
    """Measures of one scan at one factor, for any number of results."""

    def __init__(self, trial: Trial, measures: Sequence[str], check: Callable[[], None] = lambda: None):
        """Prepare the truth, and measure linear and cubic interpolation.

        Args:
            trial: a thinned scan with its truth.
            measures: some of `MEASURES`; without any, nothing is computed.
            check: called several times a second or so; an exception of it ends the work.
        """
        self._trial, self._check = trial, check
        self._errors = ErrorRegions(trial, check) if NOISE_FLOOR in measures else None
        self._anatomy = Anatomy(trial.reference) if STRUCTURES in measures else None
        self._blobs = BlobFinder(trial.reference, check) if INVENTED in measures else None
        self._lesions = lesion_test.plant(trial) if LESIONS in measures else None
        self._found: dict[str, dict[str, Any]] = {measure: {} for measure in measures}
        if self._lesions is not None:
            self._add_findings(TRUTH, self._lesions.trial.reference.volume, trial.reference.volume)
        for method in _BASELINES if measures else ():
            check()
            restored = _interpolated(trial, method)
            self.add(method, restored)
            self.add_lesions(method, restored, partial(_interpolated, method=method))

    def add(self, name: str, restored: Volume, uncertainty: Volume | None = None) -> None:
        """Measure the result of one method.

        Args:
            name: of the method.
            restored: on the grid of the truth.
            uncertainty: its uncertainty map, on the same grid.
        """
        if self._errors is not None:
            self._check()
            self._found[NOISE_FLOOR][name] = self._errors.errors(restored)
        if self._anatomy is not None:
            self._check()
            self._found[STRUCTURES][name] = agreement_to_dict(self._anatomy.compare(restored))
        if self._blobs is not None:
            blobs = self._blobs.compare(restored, uncertainty)
            self._found[INVENTED][name] = None if blobs is None else blobs.to_dict()

    def add_lesions(self, name: str, without: Volume, restore: Callable[[Trial], Volume]) -> None:
        """Measure the lesions in the result of one method, if requested.

        Args:
            name: of the method.
            without: its result for the scan without lesions.
            restore: returns its result for another thinned scan.
        """
        if self._lesions is not None and self._lesions.lesions:
            self._add_findings(name, restore(self._lesions.trial), without)

    def to_dict(self) -> dict[str, Any]:
        """All figures by measure, for JSON."""
        report: dict[str, Any] = {}
        if self._errors is not None:
            found = self._found[NOISE_FLOOR]
            methods = {name: self._with_removed(errors, found) for name, errors in found.items()}
            report["noise_floor"] = {"regions": self._errors.to_dict(), "methods": methods}
        if self._anatomy is not None:
            report["structures"] = {**self._anatomy.to_dict(), "methods": self._found[STRUCTURES]}
        if self._lesions is not None:
            report["lesions"] = {
                "lesions": len(self._lesions.lesions),
                "places_without": len(self._lesions.vacant),
                "missing": dict(self._lesions.missing),
                "methods": self._found[LESIONS],
            }
        if self._blobs is not None:
            report["invented"] = {
                "tissue_litres": self._blobs.litres,
                "noise_hu": self._blobs.noise_hu,
                "threshold_deviations": DEVIATIONS,
                "methods": self._found[INVENTED],
            }
        return report

    def _add_findings(self, name: str, restored: Volume, without: Volume) -> None:
        test = self._lesions
        if test is not None:
            findings = test.measure(restored, without, self._check)
            self._found[LESIONS][name] = lesion_test.summarise(test.lesions, findings)

    def _with_removed(self, errors: dict[str, float], found: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
        """Mean squared error and the share of the recoverable error that is removed, by region."""
        floors = self._errors.floors if self._errors is not None else {}
        better = {region: min(found[method][region] for method in _BASELINES) for region in errors}
        return {
            region: {
                "mse_hu2": error,
                "recoverable_removed": recoverable_removed(better[region], error, floors.get(region)),
            }
            for region, error in errors.items()
        }


def _interpolated(trial: Trial, method: interpolation.Method) -> Volume:
    return interpolation.upsample(trial.observed, trial.factor, trial.axis, method)
