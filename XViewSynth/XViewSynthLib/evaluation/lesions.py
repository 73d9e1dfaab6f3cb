"""Simulated lesions: balls added to the thin scan before thinning, and what is left of them in each result.

The scan is restored once with all lesions and once without. The difference of both results is what a method makes of
the lesions, with the same noise and anatomy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ..geometry.intensity import to_scalar_type
from ..geometry.volume import Volume, affine_column
from .balls import MARGIN_MM, Centre, ball_in_scan, near_ball, slice_thickness
from .metrics import Reference, candidate_slices, clip_hu
from .selfcheck import Trial, drop_slices

LUNG, SOFT_TISSUE = "lung", "soft tissue"
DIAMETERS_MM = (3.0, 4.0, 6.0, 8.0)
#: Contrasts in HU by region.
CONTRASTS_HU = {LUNG: (100.0, 300.0, 900.0), SOFT_TISSUE: (-80.0, -40.0, 40.0, 80.0)}
#: Thirds of the way from the nearest observed slice to the middle between two.
PHASES = ("at a slice", "off a slice", "midway")
PLACES = 200

# Range in HU of the smoothed truth in each region, and the depth in mm of a lesion's centre in it.
_RANGES = {LUNG: (-1000.0, -600.0), SOFT_TISSUE: (-50.0, 150.0)}
_DEPTH_MM, _SMOOTHING_MM = 6.5, 1.5
# Centres are at least this far apart.
_APART_MM = 16.0
_ATTEMPTS = 40
# Below this share of its contrast, a lesion has no centre.
_LOST = 0.1
# Share of the contrast at which the border of a lesion lies.
_HALF = 0.5
_FEWEST_PLACES = 8


@dataclass(frozen=True)
class Place:
    """A place in a scan.

    Attributes:
        region: LUNG or SOFT_TISSUE.
        centre_mm: (slices, rows, columns) mm from the first voxel of the truth.
        phase: index in `PHASES`.
    """

    region: str
    centre_mm: Centre
    phase: int


@dataclass(frozen=True)
class Lesion:
    """A ball in a scan.

    Attributes:
        place: its centre.
        diameter_mm: of the ball.
        contrast_hu: HU added in its middle.
        observed: whether an observed slice cuts it.
    """

    place: Place
    diameter_mm: float
    contrast_hu: float
    observed: bool


@dataclass(frozen=True)
class Finding:
    """The signal of one lesion in a result.

    Attributes:
        contrast: share of the contrast recovered: factor of the truth's lesion that fits best; 1 in the truth.
        volume_ratio: volume above half of the contrast over that of the truth; None if the truth has none.
        centre_error_mm: distance of the centre of mass from the true centre; None for a lost lesion.
        detectability: share of the places without a lesion, in the same region and phase, where the matched filter
            responds less. Its mean over lesions is the area under the ROC curve. None without such places.
    """

    contrast: float
    volume_ratio: float | None
    centre_error_mm: float | None
    detectability: float | None


@dataclass(frozen=True)
class LesionTest:
    """A scan with lesions.

    Attributes:
        trial: the scan with lesions, thinned.
        without: the scan without lesions, thinned.
        lesions: the lesions.
        vacant: places without a lesion.
        missing: for each region without places, the reason.
    """

    trial: Trial
    without: Trial
    lesions: tuple[Lesion, ...]
    vacant: tuple[Place, ...]
    missing: Mapping[str, str]

    def measure(
        self, restored: Volume, restored_without: Volume, check: Callable[[], None] = lambda: None
    ) -> list[Finding]:
        """The signal of each lesion in a result.

        Args:
            restored: the result for `trial`.
            restored_without: the result for `without`.
            check: called for every lesion; an exception of it ends the work.
        """
        reference = self.without.reference
        slices, before = (candidate_slices(reference, volume) for volume in (restored, restored_without))
        vacant: dict[tuple[str, int, float], list[float]] = {}
        for place in self.vacant:
            check()
            for diameter in DIAMETERS_MM:
                box, ball = ball_in_scan(place.centre_mm, diameter, reference)
                near = near_ball(place.centre_mm, diameter, box, reference)
                responses = vacant.setdefault((place.region, place.phase, diameter), [])
                responses.append(_response(ball[near], before[box][near]))
        findings = []
        for lesion in self.lesions:
            check()
            place = lesion.place
            others = np.array(vacant.get((place.region, place.phase, lesion.diameter_mm), []))
            findings.append(_finding(lesion, reference, slices, before, others))
        return findings


def plant(trial: Trial, seed: int = 0, places: int = PLACES) -> LesionTest:
    """Add lesions to a scan at random places, well apart, and thin it again.

    Args:
        trial: the thinned scan without lesions.
        seed: of the random places.
        places: number of lesions in each region, and of places without, as far as they fit.
    """
    random = np.random.default_rng(seed)
    lesions: list[Lesion] = []
    vacant: list[Place] = []
    missing: dict[str, str] = {}
    for region, inside in _regions(trial.reference):
        found = [_place(region, centre, trial) for centre in _spread(inside, trial.reference, 2 * places, random)]
        if len(found) < _FEWEST_PLACES:
            missing[region] = f"there is room for {len(found)} lesions, and {_FEWEST_PLACES} are needed"
            continue
        vacant += found[1::2]
        for number, place in enumerate(found[::2]):
            diameter = DIAMETERS_MM[number % len(DIAMETERS_MM)]
            lesions.append(_lesion(place, diameter, float(random.choice(CONTRASTS_HU[region])), trial))
    return LesionTest(
        trial=drop_slices(with_lesions(trial, lesions), trial.factor, trial.axis, trial.acquisition),
        without=trial,
        lesions=tuple(lesions),
        vacant=tuple(vacant),
        missing=missing,
    )


def with_lesions(trial: Trial, lesions: Iterable[Lesion]) -> Volume:
    """The scan before thinning, with lesions, in its scalar type."""
    reference, source = trial.reference, trial.source
    voxels = source.voxels.copy()
    view = reference.order.apply(voxels)
    start = _first_slice(trial)
    for lesion in lesions:
        box, ball = ball_in_scan(lesion.place.centre_mm, lesion.diameter_mm, reference)
        # The source has slices before the first one of the truth.
        box = (slice(box[0].start + start, box[0].stop + start), *box[1:])
        view[box] = to_scalar_type(view[box] + lesion.contrast_hu * ball, voxels.dtype)
    return source.with_voxels(voxels)


def summarise(lesions: Sequence[Lesion], findings: Sequence[Finding]) -> dict[str, list[dict[str, Any]]]:
    """Means over groups of lesions, for JSON; a group without lesions is left out.

    Groups are by region, size and phase; by region and contrast; by region and whether an observed slice cuts them.
    """
    groupings: dict[str, Callable[[Lesion], dict[str, Any]]] = {
        "by_size_and_phase": lambda lesion: {"diameter_mm": lesion.diameter_mm, "phase": PHASES[lesion.place.phase]},
        "by_contrast": lambda lesion: {"contrast_hu": lesion.contrast_hu},
        "by_observed": lambda lesion: {"observed": lesion.observed},
    }
    pairs = list(zip(lesions, findings, strict=True))
    return {name: _grouped(pairs, labels_of) for name, labels_of in groupings.items()}


def _grouped(
    pairs: Iterable[tuple[Lesion, Finding]], labels_of: Callable[[Lesion], dict[str, Any]]
) -> list[dict[str, Any]]:
    groups: dict[tuple, list[Finding]] = {}
    names: dict[str, None] = {}
    for lesion, finding in pairs:
        labels = {"region": lesion.place.region, **labels_of(lesion)}
        names.update(dict.fromkeys(labels))
        groups.setdefault(tuple(labels.values()), []).append(finding)
    words = (LUNG, SOFT_TISSUE, *PHASES)
    order = sorted(groups, key=lambda group: [words.index(value) if value in words else value for value in group])
    return [{**dict(zip(names, group, strict=True)), **_means(groups[group])} for group in order]


def _regions(reference: Reference) -> Iterator[tuple[str, np.ndarray]]:
    """For each region a mask of the possible centres of lesions."""
    smooth = ndimage.gaussian_filter(clip_hu(reference.slices), [_SMOOTHING_MM / mm for mm in reference.spacing])
    for region, (lowest, highest) in _RANGES.items():
        inside = (smooth > lowest) & (smooth < highest) & reference.body & reference.in_view
        size = [2 * round(_DEPTH_MM / mm) + 1 for mm in reference.spacing]
        # Vessels and noise of the lung leave holes, which are no border.
        share = ndimage.uniform_filter(inside.astype(np.float32), size, mode="constant")
        yield region, inside & (share > (0.8 if region == LUNG else 0.95))


def _spread(inside: np.ndarray, reference: Reference, count: int, random: np.random.Generator) -> list[Centre]:
    """Random centres in mm within a mask, apart from each other and from the ends of the scan."""
    spacing = np.asarray(reference.spacing)
    reach = [round((max(DIAMETERS_MM) / 2 + MARGIN_MM) / mm) + 1 for mm in spacing]
    inner = tuple(slice(margin, -margin) for margin in reach)
    places = np.argwhere(inside[inner])
    if not len(places):
        return []
    chosen = np.zeros((0, 3))
    for place in random.permutation(places)[: _ATTEMPTS * count] + reach:
        centre = (place + random.uniform(-0.5, 0.5, 3)) * spacing
        if not len(chosen) or np.min(np.sum((chosen - centre) ** 2, axis=1)) >= _APART_MM**2:
            chosen = np.vstack([chosen, centre])
        if len(chosen) == count:
            break
    return [(float(z), float(y), float(x)) for z, y, x in chosen]


def _place(region: str, centre: Centre, trial: Trial) -> Place:
    _, off = _from_observed(centre, trial)
    return Place(region, centre, min(int(off * 2 * len(PHASES)), len(PHASES) - 1))


def _lesion(place: Place, diameter: float, contrast: float, trial: Trial) -> Lesion:
    millimetres, _ = _from_observed(place.centre_mm, trial)
    reach = (diameter + slice_thickness(trial.reference)) / 2
    return Lesion(place, diameter, contrast, observed=trial.acquisition == "thick" or millimetres < reach)


def _from_observed(centre: Centre, trial: Trial) -> tuple[float, float]:
    """Distance to the nearest observed slice in mm, and over the distance of observed slices, 0 to 0.5."""
    distance = trial.reference.spacing[0] * trial.factor
    off = abs((centre[0] / distance + 0.5) % 1 - 0.5)
    return off * distance, off


def _finding(
    lesion: Lesion, reference: Reference, slices: np.ndarray, before: np.ndarray, vacant: np.ndarray
) -> Finding:
    """Args: responses of the matched filter at places without lesions in `vacant`; others as in `measure`."""
    box, ball = ball_in_scan(lesion.place.centre_mm, lesion.diameter_mm, reference)
    change = (clip_hu(slices[box]) - clip_hu(before[box])) / lesion.contrast_hu
    contrast = float(np.sum(change * ball) / np.sum(ball * ball))
    true_volume = np.count_nonzero(ball > _HALF)
    sign = np.sign(lesion.contrast_hu)
    near = near_ball(lesion.place.centre_mm, lesion.diameter_mm, box, reference)
    difference = sign * (_response(ball[near], slices[box][near]) - vacant)
    return Finding(
        contrast=contrast,
        volume_ratio=float(np.count_nonzero(change > _HALF) / true_volume) if true_volume else None,
        centre_error_mm=_centre_error(lesion.place, change, box, reference) if contrast > _LOST else None,
        detectability=float(np.mean((difference > 0) + 0.5 * (difference == 0))) if vacant.size else None,
    )


def _response(ball: np.ndarray, values: np.ndarray) -> float:
    """Response of a matched filter with mean 0, HU: the contrast of a lesion on constant tissue."""
    template = ball - ball.mean()
    return float(np.sum(template * clip_hu(values)) / np.sum(template * ball))


def _centre_error(place: Place, change: np.ndarray, box: tuple[slice, ...], reference: Reference) -> float | None:
    mass = np.maximum(change, 0)
    total = float(mass.sum())
    if not total:
        return None
    centre = []
    for axis, (part, mm) in enumerate(zip(box, reference.spacing, strict=True)):
        profile = mass.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        centre.append(float(profile @ (np.arange(part.start, part.stop) * mm)) / total)
    return float(np.linalg.norm(np.subtract(centre, place.centre_mm)))


def _means(findings: Sequence[Finding]) -> dict[str, Any]:
    volume = _mean(finding.volume_ratio for finding in findings)
    return {
        "lesions": len(findings),
        "contrast_recovered": _mean(finding.contrast for finding in findings),
        "volume_error_percent": None if volume is None else 100 * (volume - 1),
        "centre_error_mm": _mean(finding.centre_error_mm for finding in findings),
        "lost": sum(finding.centre_error_mm is None for finding in findings),
        "area_under_roc": _mean(finding.detectability for finding in findings),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _first_slice(trial: Trial) -> int:
    """Index in the source, in canonical order, of the first slice of the truth."""
    truth, source, axis = trial.reference.volume, trial.source, trial.axis
    start = round(float(source.ras_to_ijk(truth.origin)[affine_column(axis)]))
    backwards = trial.reference.order.reversed[0]
    return source.slices(axis) - start - truth.slices(axis) if backwards else start
