"""What a training run is made of."""

from dataclasses import asdict, dataclass, field, fields

from XViewSynthLib.errors import InputError

#: Factors a run trains, and how often each is drawn. The usual ones most often.
FACTOR_SHARES = {2: 0.30, 3: 0.15, 4: 0.30, 5: 0.10, 6: 0.06, 7: 0.03, 8: 0.06}

#: How the slices are made: thin and far apart, or averages over their thickness.
GAP, THICK = ACQUISITIONS = ("gap", "thick")

#: The network of the shipped model.
NETWORK = {"channels": 64, "axial_blocks": 4, "pixel_blocks": 4, "fusion_blocks": 3}


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; 0 switches a term off.

    The paper's terms and weights are `distillation` and `wavelet`; its memory-bank terms have no counterpart, as our
    students have no memory bank.
    """

    #: Each view against the dropped slices (level 0): mean absolute error in network units.
    views: float = 1.0
    #: The answer made of the views, which is their mean where the network has no fusion, against the dropped slices.
    mean: float = 1.0
    #: Mean squared error beside every absolute one, which counts large errors more.
    squared: float = 5.0
    #: Agreement of axial with coronal, and axial with sagittal, on slices nobody has seen (levels 1 and beyond).
    distillation: float = 0.15
    #: High wavelet bands of the answer made of the views against those of the dropped slices (level 0).
    wavelet: float = 0.1


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one run. Two runs with equal settings and scans give equal weights on the CPU."""

    steps: int = 4000
    seed: int = 0
    #: Whether slices are left out ("gap") or averaged ("thick") to make the exercises, and so what is learned.
    acquisition: str = GAP
    #: Blocks of scan a step, and their size: observed slices, rows and columns.
    batch: int = 1
    slices: int = 9
    pixels: int = 64
    factor_shares: dict[int, float] = field(default_factory=lambda: dict(FACTOR_SHARES))
    learning_rate: float = 1e-3
    weights: LossWeights = LossWeights()
    #: Fraction of the smallest differences that views distil (the paper's γ); 1 is plain distillation.
    gamma: float = 0.25
    #: Differences between views are counted in units of this many HU.
    distillation_scale_hu: float = 100.0
    #: When, as a fraction of the run, the views begin to teach each other (level 1); 1 is never.
    cross_view_from: float = 0.5
    #: When, as a fraction of the run, their answer goes in again for another doubling; 1 is never.
    incremental_from: float = 0.75
    #: Doublings after level 1.
    increments: int = 1
    #: Share of blocks thinned along an in-plane axis, where the scan has true fine detail.
    in_plane_share: float = 0.1
    #: Share of blocks made as if the scan had been reconstructed with overlap, slices thicker than their distance.
    #: For thin scans; where slices are far apart it blurs what lies between them.
    overlap_share: float = 0.0
    #: So many places of a scan are looked at for each block; the one where slices change most is taken. With 1 all
    #: places are equally likely, with more a network sees less of what is easy.
    candidates: int = 1
    #: Pixels along the sides of a thinned block that do not count: a network that looks further than a block goes
    #: cannot know them, and scans are not answered in pieces of their size.
    rim: int = 0
    #: Share of the loss that counts the first and the last gap of a thinned block like those between: no slice is seen
    #: beyond them, as at the ends of a scan, where there are two among many. The rest leaves them out.
    ends_share: float = 1.0
    #: Share of steps whose thinned blocks have coarser pixels too, by the same factor: gaps and pixels then have the
    #: ratio that they have in the scan itself, whose gaps will be filled one day.
    scaled_share: float = 0.0
    #: Share of steps that rehearse what the starting model answers between the scans' own slices. Thinned scans teach
    #: about gaps wider than those that will be filled; without rehearsal, a model forgets the narrower ones.
    rehearsal_share: float = 0.0
    #: Decay of the moving average of the weights, which is what a run delivers.
    average_decay: float = 0.999
    #: How often, in a whole run, the averaged network is judged on scans that are kept from it.
    judgements: int = 12
    #: So many judgements in a row without more gain end the run; 0 never ends it early.
    patience: int = 5
    #: How often the state is saved: no more than this is lost when the process is killed.
    checkpoint_seconds: float = 45.0
    #: Keyword arguments of `ThreeViewNetwork`; written out, so that a model's card does not depend on its defaults.
    network: dict[str, int] = field(default_factory=lambda: dict(NETWORK))

    def __post_init__(self):
        _require(self.steps >= 1, "the number of steps must be at least 1")
        _require(
            self.pixels >= 8 and self.pixels % 2 == 0, "the block size must be an even number of at least 8 pixels"
        )
        _require(self.slices >= 4, "a block needs at least 4 observed slices")
        _require(self.batch >= 1, "a step needs at least 1 block")
        _require(self.candidates >= 1, "at least 1 place must be looked at for a block")
        _require(0 <= 2 * self.rim < self.pixels, "the rim must be narrower than half a block")
        _require(0 < self.gamma <= 1, "gamma must lie above 0 and at most at 1")
        _require(self.judgements >= 1, "a run must be judged at least once")
        _require(self.patience >= 0, "the patience must be at least 0")
        _require(self.acquisition in ACQUISITIONS, f"the acquisition must be {GAP} or {THICK}")
        _require(
            bool(self.network.get("thick")) == (self.acquisition == THICK),
            f'the network needs "thick": 1 for the acquisition {THICK}, and for no other',
        )
        _require(0 <= self.overlap_share <= 1, "the share of overlapping blocks must lie between 0 and 1")
        _require(0 <= self.ends_share <= 1, "the share of the ends must lie between 0 and 1")
        _require(0 <= self.scaled_share <= 1, "the share of scaled blocks must lie between 0 and 1")
        _require(0 <= self.rehearsal_share < 1, "the share of rehearsing steps must lie between 0 and below 1")
        _require(all(2 <= factor <= 8 for factor in self.factor_shares), "factors must lie between 2 and 8")
        _require(bool(self.factor_shares), "at least one factor must be trained")

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
            values["weights"] = LossWeights(**values["weights"])
        if "factor_shares" in values:
            values["factor_shares"] = {int(factor): share for factor, share in values["factor_shares"].items()}
        return cls(**values)


def _require(condition: bool, requirement: str) -> None:
    if not condition:
        raise InputError(f"Change the training settings: {requirement}.")
