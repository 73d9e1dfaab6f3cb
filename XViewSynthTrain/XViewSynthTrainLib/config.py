"""Settings of a training run."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from XViewSynthLib.errors import InputError

from .stored_json import is_number, is_whole

#: Factors a run trains, and how often each is drawn. The usual ones most often.
FACTOR_SHARES = {2: 0.30, 3: 0.15, 4: 0.30, 5: 0.10, 6: 0.06, 7: 0.03, 8: 0.06}

#: Acquisition of the slices: thin and far apart, or averages over their thickness.
GAP, THICK = ACQUISITIONS = ("gap", "thick")

#: The network of the shipped model.
NETWORK = {"channels": 64, "axial_blocks": 4, "pixel_blocks": 4, "fusion_blocks": 3}

MOST_STEPS = 10**9
#: Ranges of whole-number settings, and of others; ends included.
_WHOLE = {
    "steps": (1, MOST_STEPS),
    "seed": (0, 2**32 - 1),
    "batch": (1, 4096),
    "slices": (4, 1024),
    "pixels": (8, 4096),
    "increments": (0, 6),
    "candidates": (1, 1000),
    "rim": (0, 2048),
    "judgements": (1, 10**6),
    "patience": (0, 10**9),
}
_NUMBERS = {
    "learning_rate": (0, math.inf),
    "gamma": (0, 1),
    "distillation_scale_hu": (0, math.inf),
    "cross_view_from": (0, math.inf),
    "incremental_from": (0, math.inf),
    "in_plane_share": (0, 1),
    "overlap_share": (0, 1),
    "ends_share": (0, 1),
    "scaled_share": (0, 1),
    "rehearsal_share": (0, 1),
    "average_decay": (0, 1),
    "checkpoint_seconds": (0, math.inf),
}
#: Of these numbers, those that may not be 0, and those that may not be 1.
_ABOVE_0 = ("learning_rate", "gamma", "distillation_scale_hu")
_BELOW_1 = ("rehearsal_share", "average_decay")
#: Sizes of `ThreeViewNetwork`, and those that are sizes of further networks by their factor.
_SIZES = (
    *("channels", "axial_blocks", "pixel_blocks", "thick", "fusion_blocks", "likeness", "overlap", "aligned"),
    "wide_gaps",
)
_SIZES_BY_FACTOR = ("specialists", "best_specialists")
_LARGEST_SIZE, _LARGEST_SHARE = 4096, 10**6


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; 0 switches a term off.

    The paper's terms and weights are `distillation` and `wavelet`. Its memory-bank terms have no counterpart, since our
    networks have no memory bank.
    """

    #: Each view against the dropped slices (level 0): mean absolute error in network units.
    views: float = 1.0
    #: The fused prediction (the mean of the views without a fusion network) against the dropped slices.
    mean: float = 1.0
    #: Mean squared error in addition to every absolute one; it gives large errors more weight.
    squared: float = 5.0
    #: Agreement of axial with coronal, and axial with sagittal, on slices without truth (levels 1 and beyond).
    distillation: float = 0.15
    #: High wavelet bands of the fused prediction against those of the dropped slices (level 0).
    wavelet: float = 0.1

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            sound = is_number(weight) and weight >= 0
            _require(sound, f'the weight "{name}" must be a number from 0, not {_short(weight)}')
        restoring = self.views + self.mean + self.wavelet
        _require(restoring > 0, 'one of the weights "views", "mean" and "wavelet" must be above 0')


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one run. Two runs with equal settings and scans give equal weights on the CPU."""

    steps: int = 4000
    seed: int = 0
    #: Whether slices are dropped ("gap") or averaged ("thick") to make training samples.
    acquisition: str = GAP
    #: Blocks of scan a step, and their size: observed slices, rows and columns.
    batch: int = 1
    slices: int = 9
    pixels: int = 64
    factor_shares: dict[int, float] = field(default_factory=lambda: dict(FACTOR_SHARES))
    learning_rate: float = 1e-3
    weights: LossWeights = field(default_factory=LossWeights)
    #: Fraction of the smallest differences that views distil (the paper's γ); 1 is plain distillation.
    gamma: float = 0.25
    #: Scale of differences between views, HU.
    distillation_scale_hu: float = 100.0
    #: Start of the distillation between views (level 1), as a fraction of the run; 1 is never.
    cross_view_from: float = 0.5
    #: Start of further doublings, for which the prediction is the input, as a fraction of the run; 1 is never.
    incremental_from: float = 0.75
    #: Doublings after level 1.
    increments: int = 1
    #: Share of blocks thinned along an in-plane axis, where the scan has true fine detail.
    in_plane_share: float = 0.1
    #: Share of blocks that simulate a reconstruction with overlap, with slices thicker than their distance.
    #: For thin scans; of scans with wide gaps it would blur the gaps.
    overlap_share: float = 0.0
    #: Number of random places for each block, of which the one with the largest changes between slices is used. With 1,
    #: all places are equally likely; with more, a network sees fewer easy places.
    candidates: int = 1
    #: Width in pixels of the border of a thinned block that does not count in the loss. There, the receptive field of a
    #: network extends beyond the block, while whole scans are predicted in much larger tiles.
    rim: int = 0
    #: Share of the loss in which the first and the last gap of a thinned block count as all others. No slice is known
    #: beyond them, as at the ends of a scan, which has two such gaps among many. The rest excludes them.
    ends_share: float = 1.0
    #: Share of steps whose thinned blocks have coarser pixels too, by the same factor. Then the ratio of gaps to pixels
    #: is that of the original scan.
    scaled_share: float = 0.0
    #: Share of rehearsal steps, whose target is the starting model's prediction between the scans' own slices. Thinned
    #: scans have wider gaps than the original ones. Without rehearsal, a model forgets the narrower ones.
    rehearsal_share: float = 0.0
    #: Decay of the moving average of the weights. The average is the result of a run.
    average_decay: float = 0.999
    #: Number of evaluations of the averaged network on held-out scans in a whole run.
    judgements: int = 12
    #: Number of consecutive evaluations without improvement after which the run ends; 0 never ends it early.
    patience: int = 5
    #: Time between checkpoints: the most work that is lost if the process is killed.
    checkpoint_seconds: float = 45.0
    #: Keyword arguments of `ThreeViewNetwork`. All are stored, so that a model's card does not depend on defaults.
    network: dict[str, Any] = field(default_factory=lambda: dict(NETWORK))

    def __post_init__(self) -> None:
        self._check_numbers()
        _require(self.pixels % 2 == 0, "the block size must be an even number of pixels")
        _require(2 * self.rim < self.pixels, "the rim must be narrower than half a block")
        _require(self.acquisition in ACQUISITIONS, f"the acquisition must be {GAP} or {THICK}")
        _require(isinstance(self.weights, LossWeights), '"weights" must be an object with named weights')
        _require(_is_network(self.network), '"network" must be an object with named sizes of a network')
        _require(
            bool(self.network.get("thick")) == (self.acquisition == THICK),
            f'the network needs "thick": 1 for the acquisition {THICK}, and for no other',
        )
        shares = self.factor_shares
        _require(isinstance(shares, dict) and bool(shares), "at least one factor must be trained")
        _require(all(is_whole(factor, 2, 8) for factor in shares), "factors must lie between 2 and 8")
        _require(
            all(is_number(share) and 0 <= share <= _LARGEST_SHARE for share in shares.values())
            and any(shares.values()),
            f"the shares of the factors must be numbers from 0 to {_LARGEST_SHARE}, not all of them 0",
        )

    def _check_numbers(self) -> None:
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            _require(
                is_whole(value, low, high), f'"{name}" must be a whole number from {low} to {high}, not {_short(value)}'
            )
        for name, (least, most) in _NUMBERS.items():
            value = getattr(self, name)
            sound = is_number(value) and least <= value <= most
            excluded = (value == 0 and name in _ABOVE_0) or (value == 1 and name in _BELOW_1)
            limits = f"{'above' if name in _ABOVE_0 else 'from'} 0"
            limits += "" if most == math.inf else f" {'to below' if name in _BELOW_1 else 'to'} {most}"
            _require(sound and not excluded, f'"{name}" must be a number {limits}, not {_short(value)}')

    def to_dict(self) -> dict:
        """Return plain values that JSON can hold; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingConfig":
        """Read the values of `to_dict`, from JSON too.

        Raises:
            InputError: a setting is unknown or out of range.
        """
        unknown = set(values) - {entry.name for entry in fields(cls)}
        _require(not unknown, f"unknown settings: {', '.join(sorted(unknown))}")
        values = dict(values)
        if values.get("acquisition") == THICK and "network" not in values:
            values["network"] = NETWORK | {"thick": 1}
        if "weights" in values:
            values["weights"] = _weights(values["weights"])
        if "factor_shares" in values:
            values["factor_shares"] = _factor_shares(values["factor_shares"])
        return cls(**values)


def _weights(values: Any) -> LossWeights:
    _require(isinstance(values, dict), '"weights" must be an object with named weights')
    unknown = set(values) - {entry.name for entry in fields(LossWeights)}
    _require(not unknown, f"unknown weights: {', '.join(sorted(unknown))}")
    return LossWeights(**values)


def _factor_shares(values: Any) -> dict[int, Any]:
    _require(isinstance(values, dict), '"factor_shares" must be an object with a share for each factor')
    _require(all(str(factor) in map(str, range(2, 9)) for factor in values), "factors must lie between 2 and 8")
    return {int(factor): share for factor, share in values.items()}


def _is_network(value: object, with_specialists: bool = True) -> bool:
    if not isinstance(value, dict):
        return False
    by_factor = _SIZES_BY_FACTOR if with_specialists else ()
    return all(
        _are_networks(entry) if name in by_factor else name in _SIZES and is_whole(entry, 0, _LARGEST_SIZE)
        for name, entry in value.items()
    )


def _are_networks(value: object) -> bool:
    return isinstance(value, dict) and all(
        factor in map(str, range(2, 9)) and _is_network(sizes, with_specialists=False)
        for factor, sizes in value.items()
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _require(condition: bool, requirement: str) -> None:
    if not condition:
        raise InputError(f"Change the training settings: {requirement}.")
