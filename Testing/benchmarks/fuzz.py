"""Damage scans at random, read each in a child process, and count how that ends.

    python Testing/benchmarks/fuzz.py [--mutations 2000] [--seed 0] [--jobs 2] [--keep FOLDER]

Seeds are a small scan in every format that can be read: NRRD, MetaImage and NIfTI, plain, compressed and detached, and
DICOM series, uncompressed and compressed. A mutation flips bits, cuts, repeats or removes bytes, or writes hostile
numbers and lines; in DICOM it also changes, removes and exchanges tags and files. The child lists the damaged scan as
``xviewsynth scans`` does, reads it, and checks it as ``xviewsynth enhance`` does.

refused: the child ended with one sentence. equal: it gave the voxels and the place of the undamaged scan. unknowable:
it gave what the damaged file states, other numbers where any number is sound (a voxel, the spacing), or the same voxels
with a note on the place that the file lacks. wrong: it gave something else. traceback, crash, over limits: it raised
another error, was ended by a signal, took over 1 GB or 60 s of processor time.

Exits with 1 where one of the last four occurs. Needs a system with fork (Linux, macOS).
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

import numpy as np  # noqa: E402
import pydicom  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from pydicom.dataset import FileDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from scans import affine_from, anatomy, write_dicom_series  # noqa: E402
from XViewSynthLib import InputError, Volume, read_volume, write_volume  # noqa: E402
from XViewSynthLib.geometry.checks import check_enhanceable  # noqa: E402
from XViewSynthLib.io.finding import DICOM, check_scan, scan_paths  # noqa: E402

SCAN = Volume(anatomy((10, 24, 28)), affine_from((0.7, 0.7, 3.0)), slice_thickness=3.0)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MOST_BYTES, MOST_SECONDS, PATIENCE_SECONDS = 1_000_000_000, 60, 600
PLACE_MM = 0.01
REFUSED, EQUAL, UNKNOWABLE, WRONG = "refused", "equal", "unknowable", "wrong"
TRACEBACK, CRASH, OVER_LIMITS = "traceback", "crash", "over limits"
OUTCOMES = (REFUSED, EQUAL, UNKNOWABLE, WRONG, TRACEBACK, CRASH, OVER_LIMITS)
BAD = (WRONG, TRACEBACK, CRASH, OVER_LIMITS)
NUMBERS = (b"0", b"-1", b"-3", b"3000", b"65536", b"2147483648", b"99999999999999999999", b"1e300", b"nan", b"inf", b"")
# Fields of text headers whose values may be any numbers or words.
FREE_FIELDS = re.compile(
    rb"^(?:space directions|space origin|content|#.*|[^\n:=]+:=|TransformMatrix|Offset|ElementSpacing|CenterOfRotation|"
    rb"AnatomicalOrientation|ITK_\w+|SliceThickness)[ \t]*[:=]?=?([^\n]*)$",
    re.MULTILINE,
)
# Bytes of a NIfTI header that may hold anything: names, display ranges, spacing, rescale, units, transforms.
FREE_NIFTI = ((4, 40), (56, 68), (74, 108), (112, 252), (252, 344), (348, 352))
# What a mutated file is not judged by: no tag of these says what its pixels are.
TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
OTHERS = ("SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "PhotometricInterpretation", "PixelData")
VALUES = (None, "", 0, 1, -1, 7, 65535, 2**31, "nan", "1e400", "0,8", "MONOCHROME1", "RGB", "1.2.3", b"\0" * 7, [1, 2])


@dataclass(frozen=True)
class Seed:
    """An undamaged scan; `kind` is "DICOM" for a series, or the ending of the format."""

    name: str
    path: Path
    kind: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where to put scans that ended badly")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder) / "seeds")
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [
                pool.submit(one, seeds[n % len(seeds)], f"{arguments.seed}-{n}", Path(folder), arguments.keep)
                for n in range(arguments.mutations)
            ]
            counts: dict[str, Counter] = {seed.name: Counter() for seed in seeds}
            for n, job in enumerate(jobs):
                counts[seeds[n % len(seeds)].name][job.result()] += 1
    print(table(counts))
    return 1 if any(counts[name][outcome] for name in counts for outcome in BAD) else 0


def table(counts: dict[str, Counter]) -> str:
    """A row for each seed, and one for all."""
    total = sum(counts.values(), Counter())
    lines = [f"| seed | {' | '.join(OUTCOMES)} |", "|---|" + "---:|" * len(OUTCOMES)]
    for name, row in {**counts, "all": total}.items():
        lines.append(f"| {name} | {' | '.join(str(row[outcome]) for outcome in OUTCOMES)} |")
    return "\n".join(lines)


def make_seeds(folder: Path) -> list[Seed]:
    """The scan in every format."""
    folder.mkdir()
    raw = SCAN.voxels.astype("<i2").tobytes()
    for name in ("gzip.nrrd", "zlib.mha", "packed.nii.gz", "plain.nii", "detached.mhd"):
        write_volume(SCAN, folder / name)
    image = sitk.GetImageFromArray(SCAN.voxels)
    affine = LPS_TO_RAS @ SCAN.affine
    image.SetSpacing(SCAN.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / SCAN.spacing).ravel().tolist())
    for name in ("itk.nrrd", "itk.mha", "itk.nhdr"):
        sitk.WriteImage(image, str(folder / name))
    header = (folder / "itk.nrrd").read_bytes().partition(b"\n\n")[0]
    for encoding, data in ((b"bzip2", bz2.compress(raw)), (b"hex", raw.hex().encode())):
        text = header.replace(b"encoding: raw", b"encoding: " + encoding) + b"\n\n"
        (folder / f"{encoding.decode()}.nrrd").write_bytes(text + data)
    files = (path for path in sorted(folder.iterdir()) if path.suffix != ".raw")
    kinds = {".nhdr": ".nrrd", ".mhd": ".mha", ".gz": ".nii"}
    return [Seed(path.name, path, kinds.get(path.suffix, path.suffix)) for path in files] + make_series(folder)


def make_series(folder: Path) -> list[Seed]:
    series = []
    for syntax in (
        *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
        RLELossless,
    ):
        place = folder / syntax.name.replace(" ", "_")
        write_dicom_series(place, SCAN, StudyInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4")
        for file in place.iterdir():
            rewrite(file, syntax)
        series.append(Seed(place.name, place, DICOM))
    return series


def rewrite(file: Path, syntax: pydicom.uid.UID) -> None:
    """Store a DICOM file in another transfer syntax."""
    data = pydicom.dcmread(file)
    if syntax == RLELossless:
        data.compress(RLELossless)
    elif syntax == ExplicitVRBigEndian:
        data.PixelData = data.pixel_array.astype(">i2").tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    meta = data.file_meta
    whole = FileDataset(file, dict(data), file_meta=meta, is_implicit_VR=implicit, is_little_endian=little)
    whole.save_as(file, enforce_file_format=True)


def one(seed: Seed, name: str, folder: Path, keep: Path | None) -> str:
    """Damage a seed, read it in a child, and return the outcome."""
    place = folder / name
    place.mkdir()
    scan = place / seed.path.name
    rng = random.Random(f"{seed.name} {name}")
    knowable = damage_series(seed, scan, rng) if seed.kind == DICOM else damage_file(seed, scan, rng)
    outcome, said = in_a_child(lambda: read(scan, knowable))
    if outcome in BAD and keep is not None:
        shutil.copytree(place, keep / f"{outcome.replace(' ', '-')}-{seed.name}-{name}")
        (keep / f"{outcome.replace(' ', '-')}-{seed.name}-{name}" / "said.txt").write_text(said)
    shutil.rmtree(place)
    return outcome


def damage_file(seed: Seed, scan: Path, rng: random.Random) -> bool:
    """Write a damaged copy; returns whether the damage can be known from the file."""
    for beside in seed.path.parent.glob(f"{seed.path.stem}.raw*"):
        shutil.copy(beside, scan.parent)
    sound = seed.path.read_bytes()
    damaged = damaged_bytes(sound, rng)
    scan.write_bytes(damaged)
    return not within(sound, damaged, free_ranges(sound, seed))


def damaged_bytes(sound: bytes, rng: random.Random) -> bytes:
    """One kind of damage, in the header as often as anywhere."""
    data, end = bytearray(sound), rng.choice([len(sound), min(len(sound), 500)])
    at, count = rng.randrange(end), rng.choice([1, 1, 2, 4, 16, 300])
    kind = rng.choice(["flip", "flip", "cut", "append", "remove", "repeat", "zero", "noise", "number", "line", "long"])
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.choice([at, len(data) - rng.randrange(1, 20)]) :]
    elif kind == "append":
        data += rng.randbytes(count)
    elif kind == "remove":
        del data[at : at + count]
    elif kind == "repeat":
        data[at:at] = data[at : at + count]
    elif kind == "zero":
        data[at : at + count] = bytes(len(data[at : at + count]))
    elif kind == "noise":
        data[at : at + count] = rng.randbytes(len(data[at : at + count]))
    elif kind == "number":
        found = list(re.finditer(rb"-?\d+(?:\.\d+)?", sound[:500]))
        if found:
            chosen = rng.choice(found)
            data[chosen.start() : chosen.end()] = rng.choice(NUMBERS)
    elif kind == "line":
        lines = sound.split(b"\n")
        del lines[rng.randrange(min(len(lines), 15))]
        return b"\n".join(lines)
    else:
        data[at:at] = rng.choice([b"x", b"1 ", b"\n", b"("]) * rng.choice([1000, 100_000])
    return bytes(data)


def free_ranges(sound: bytes, seed: Seed) -> list[tuple[int, int]]:
    """Where any byte is as sound as another: uncompressed voxels, and values that nothing contradicts."""
    if seed.kind == ".nii":
        if sound.startswith(b"\x1f\x8b"):
            return [(3, 10)]
        return [*FREE_NIFTI, (352, len(sound))]
    end = sound.find(b"\n\n") + 2 if seed.kind == ".nrrd" else sound.find(b"LOCAL") + 6
    has_voxels = seed.name in ("itk.nrrd", "itk.mha", "hex.nrrd")
    header = sound[:end] if end > 6 else sound
    ranges = [match.span(1) for match in FREE_FIELDS.finditer(header)]
    ranges += [match.span() for match in re.finditer(rb"^#[^\n]*", header, re.MULTILINE)]
    if seed.name == "gzip.nrrd":
        ranges.append((end + 3, end + 10))
    return ranges + ([(end, len(sound))] if has_voxels else [])


def within(sound: bytes, damaged: bytes, ranges: list[tuple[int, int]]) -> bool:
    """Whether all that differs lies in one of the ranges."""
    first = next((n for n, (a, b) in enumerate(zip(sound, damaged)) if a != b), min(len(sound), len(damaged)))
    limit = min(len(sound), len(damaged)) - first
    last = next((n for n in range(limit) if sound[-1 - n] != damaged[-1 - n]), limit)
    return any(low <= first and len(sound) - last <= high for low, high in ranges)


def damage_series(seed: Seed, scan: Path, rng: random.Random) -> bool:
    shutil.copytree(seed.path, scan)
    files = sorted(scan.iterdir())
    kind = rng.choice(["bytes", "bytes", "tag", "tag", "all", "gone", "copy", "swap"])
    if kind == "bytes":
        chosen = rng.choice(files)
        chosen.write_bytes(damaged_bytes(chosen.read_bytes(), rng))
    elif kind in ("tag", "all"):
        tag, value = rng.choice(TAGS + PLACES + OTHERS), rng.choice(VALUES)
        for file in [rng.choice(files)] if kind == "tag" else files:
            change_tag(file, tag, value)
    elif kind == "gone":
        rng.choice(files).unlink()
    elif kind == "copy":
        shutil.copy(rng.choice(files), scan / f"copy{rng.choice(['', '.dcm'])}")
    else:
        first, second = rng.sample(files, 2)
        first.write_bytes(second.read_bytes())
    return True


def change_tag(file: Path, tag: str, value: object) -> None:
    with suppress(Exception):  # values that pydicom does not write
        data = pydicom.dcmread(file)
        if value is None:
            delattr(data, tag)
        elif tag == "PixelData":
            data.PixelData = data.PixelData[: rng_length(value)]
        else:
            setattr(data, tag, value)
        with open(file.with_suffix(".new"), "wb") as stream:
            data.save_as(stream, enforce_file_format=False)
        file.with_suffix(".new").replace(file)
    file.with_suffix(".new").unlink(missing_ok=True)


def rng_length(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 100


def in_a_child(work: Callable[[], str]) -> tuple[str, str]:
    """The outcome of work in a forked child with limits, and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(PATIENCE_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS + 5))
        try:
            answer = json.dumps(work())
        except BaseException:
            answer = json.dumps([TRACEBACK, traceback.format_exc()])
        os.write(writing, answer.encode()[-60_000:])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        answer = stream.read()
    _, status, usage = os.wait4(child, 0)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if peak > MOST_BYTES or usage.ru_utime + usage.ru_stime > MOST_SECONDS:
        return OVER_LIMITS, f"{peak} bytes, {usage.ru_utime} s"
    if status != 0 or not answer:
        return CRASH, f"status {status}"
    outcome, said = json.loads(answer)
    return outcome, said


def read(scan: Path, knowable: bool) -> list[str]:
    """The outcome of listing, reading and checking a damaged scan, and its sentence."""
    for path, kind in scan_paths(scan.parent):
        check_scan(path, kind)
    try:
        volume = read_volume(scan)
        check_enhanceable(volume, factor=2, forced=True)
    except InputError as problem:
        sentence = str(problem)
        return [REFUSED if sentence.isprintable() else TRACEBACK, sentence]
    if is_equal(volume):
        return [EQUAL, ""]
    if volume.notes and np.array_equal(volume.voxels, SCAN.voxels):
        return [UNKNOWABLE, ""]
    if scan.is_dir():
        knowable = not is_what_pydicom_reads(volume, scan)
    return [WRONG if knowable else UNKNOWABLE, f"{volume.voxels.shape} {volume.affine.tolist()} {volume.notes}"]


def is_equal(volume: Volume) -> bool:
    return np.array_equal(volume.voxels, SCAN.voxels) and bool(np.abs(volume.affine - SCAN.affine).max() < PLACE_MM)


def is_what_pydicom_reads(volume: Volume, folder: Path) -> bool:
    """Whether one of the series in a folder was read as pydicom reads each of its files, in the order of their places.

    A file that names another series or another kind of image is none of it.
    """
    from pydicom.pixels import apply_rescale

    series: dict[tuple[str, str], dict[float, np.ndarray]] = {}
    for file in sorted(folder.iterdir()):
        with suppress(Exception):
            data = pydicom.dcmread(file, force=True)
            identity = str(data.get("SeriesInstanceUID")), str(data.get("SOPClassUID"))
            place = float(data.ImagePositionPatient[2])
            series.setdefault(identity, {})[place] = apply_rescale(data.pixel_array, data)
    stacks = ([planes[place] for place in sorted(planes)] for planes in series.values())
    return any(
        len(stack) == len(volume.voxels) and all(np.array_equal(*pair) for pair in zip(volume.voxels, stack))
        for stack in stacks
    )


if __name__ == "__main__":
    sys.exit(main())
