"""Compares face detectors on clips of one talking person: CenterFace, which bundles hold, with MTCNN.

    pip install --no-deps facenet-pytorch      # MTCNN's weights
    python bench/face_detectors.py /path/to/corpora/clips/grid_*.mpg /path/to/corpora/clips/pyfeat_*.mp4

Nobody has marked the faces in the clips. A frame's face is where both detectors, at the finest setting of each, find
exactly one and agree (intersection over union of at least 0.4), halfway between the two. Prints Markdown: how often
each setting finds that face and nothing else, in the clips and in spoilt copies of every fifth frame; how steady its
boxes are; how often it finds one where none is; and its time on one thread, of settings that take turns. Time of CPU
leaves out what other programs took on a busy machine.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
import numpy.typing as npt
from mtcnn import Mtcnn

from telme.bundle import COMPACT, Bundle
from telme.features.faces import Box, FaceDetector
from telme.features.video import crop_face
from telme.models.sources import locate

Picture = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.float64]  # left, top, right, bottom

SEED = 3
AGREED = 0.4  # intersection over union from which two boxes are the same face
SPOILT_EVERY = 5  # frames
NEGATIVES = 300
TIMED = 12  # frames, evenly spaced over all


class Detector(Protocol):
    def detect(self, rgb: Picture) -> list[Box]: ...


@dataclass(frozen=True)
class Frame:
    """corners: of the face that both detectors agree on, or None."""

    clip: str
    rgb: Picture
    corners: Corners | None


@dataclass(frozen=True)
class Spoilt:
    """change: a picture and the corners of its face -> the same, changed."""

    name: str
    change: Callable[[Picture, Corners], tuple[Picture, Corners]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="videos that show one person each")
    parser.add_argument("--weights", default="package:facenet_pytorch/data", help="folder with MTCNN's three .pt files")
    parser.add_argument("--repeats", type=int, default=20, help="of each timed frame (default: 20)")
    parser.add_argument("--only-timing", action="store_true", help="leave out the first table")
    parser.add_argument("--crops", type=Path, metavar="DIR", help="write what the boxes cut out, side by side, as PNG")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    detectors = settings(Path(locate(options.weights)))
    frames = read(options.clips, detectors["CenterFace 480 px"], detectors["MTCNN 640 px, from 1/20"])
    agreed = sum(frame.corners is not None for frame in frames)
    print(f"{len(options.clips)} clips, {len(frames)} frames; both find the same one face in {agreed}.\n")
    if not options.only_timing:
        print(*accuracy_table(detectors, frames), sep="\n")
        print()
    print(*timing_table(detectors, frames, options.repeats), sep="\n")
    if options.crops is not None:
        write_crops(options.crops, detectors, frames)


def settings(weights: Path) -> dict[str, Detector]:
    """Input sizes, as the longer side; for MTCNN also the smallest face that is sought, as a share of that side."""
    bundle = Bundle.open(COMPACT)
    assert bundle.manifest.parts.face_detector is not None
    path = bundle.path(bundle.manifest.parts.face_detector)
    sides = (128, 160, 192, 224, 256, 320, 480)
    found: dict[str, Detector] = {f"CenterFace {side} px": FaceDetector(path, longest_side_px=side) for side in sides}
    for side, share in ((256, 5), (256, 10), (384, 10), (640, 20)):
        found[f"MTCNN {side} px, from 1/{share}"] = Mtcnn(weights, side, 1 / share)
    return found


def read(clips: Sequence[Path], first: Detector, second: Detector) -> list[Frame]:
    frames = []
    for clip in clips:
        with av.open(str(clip)) as container:
            for decoded in container.decode(video=0):
                rgb = decoded.to_ndarray(format="rgb24")
                frames.append(Frame(clip.stem, rgb, common(first.detect(rgb), second.detect(rgb))))
    return frames


def common(first: Sequence[Box], second: Sequence[Box]) -> Corners | None:
    """The face that both found, if it is the same one and only one."""
    if len(first) != 1 or len(second) != 1:
        return None
    one, other = corners(first[0]), corners(second[0])
    return (one + other) / 2 if overlap(one, other) >= AGREED else None


def corners(box: Box) -> Corners:
    return np.array([box.left, box.top, box.right, box.bottom])


def overlap(first: Corners, second: Corners) -> float:
    """Intersection over union."""
    sides = (np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])).clip(min=0)
    areas = [float((one[2:] - one[:2]).prod()) for one in (first, second)]
    return float(sides.prod()) / (sum(areas) - float(sides.prod()))


def accuracy_table(detectors: Mapping[str, Detector], frames: Sequence[Frame]) -> Iterator[str]:
    known = [frame for frame in frames if frame.corners is not None]
    sample = known[::SPOILT_EVERY]
    spoiling = spoilings()
    nothing = negatives(frames)
    head = ("setting", "found %", "overlap", "jitter %", *(f"{one.name} %" for one in spoiling), "false finds %")
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, detector in detectors.items():
        answers = [detector.detect(frame.rgb) for frame in known]
        found = [alone(faces, frame.corners) for faces, frame in zip(answers, known, strict=True)]
        overlaps = [
            overlap(corners(faces[0]), frame.corners)
            for faces, frame, good in zip(answers, known, found, strict=True)
            if good and frame.corners is not None
        ]
        shares = [share(detector, sample, one) for one in spoiling]
        false = np.mean([len(detector.detect(picture)) > 0 for picture in nothing])
        cells = (f"{np.mean(found):.1%}", f"{np.mean(overlaps):.3f}", f"{jitter(known, answers):.2%}")
        yield f"| {name} | {' | '.join((*cells, *(f'{one:.1%}' for one in shares), f'{false:.1%}'))} |"


def alone(faces: Sequence[Box], truth: Corners | None) -> bool:
    """Whether exactly the one true face was found."""
    return truth is not None and len(faces) == 1 and overlap(corners(faces[0]), truth) >= AGREED


def share(detector: Detector, frames: Sequence[Frame], spoilt: Spoilt) -> float:
    """How often exactly the face is found in spoilt frames."""
    hits = 0
    for frame in frames:
        assert frame.corners is not None
        rgb, truth = spoilt.change(frame.rgb, frame.corners)
        hits += alone(detector.detect(rgb), truth)
    return hits / len(frames)


def jitter(frames: Sequence[Frame], answers: Sequence[Sequence[Box]]) -> float:
    """How far a corner lies from halfway between its places one frame before and after: 95th percentile.

    As a share of the box's mean side. A face that moves evenly has none.
    """
    far = []
    for place in range(1, len(frames) - 1):
        three = slice(place - 1, place + 2)
        if len({frame.clip for frame in frames[three]}) == 1 and all(len(faces) == 1 for faces in answers[three]):
            before, now, after = (corners(faces[0]) for faces in answers[three])
            side = (now[2] - now[0] + now[3] - now[1]) / 2
            far.append(np.abs((before + after) / 2 - now).mean() / side)
    return float(np.percentile(far, 95))


def spoilings() -> tuple[Spoilt, ...]:
    random = np.random.default_rng(SEED)

    def dark(rgb: Picture, truth: Corners) -> tuple[Picture, Corners]:
        return noisy(rgb * 0.12, 4), truth

    def grainy(rgb: Picture, truth: Corners) -> tuple[Picture, Corners]:
        return noisy(rgb.astype(np.float64), 30), truth

    def noisy(pixels: npt.NDArray[np.float64], deviation: float) -> Picture:
        return (pixels + random.normal(0, deviation, pixels.shape)).clip(0, 255).astype(np.uint8)

    def blurred(rgb: Picture, truth: Corners) -> tuple[Picture, Corners]:
        return np.asarray(cv2.GaussianBlur(rgb, None, float(truth[2] - truth[0]) / 20)), truth

    def turned(rgb: Picture, truth: Corners) -> tuple[Picture, Corners]:
        centre = tuple((truth[:2] + truth[2:]) / 2)
        matrix = cv2.getRotationMatrix2D(centre, 20, 1)
        return np.asarray(cv2.warpAffine(rgb, matrix, rgb.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)), truth

    def hidden(rgb: Picture, truth: Corners) -> tuple[Picture, Corners]:
        left, _, right, bottom = truth.astype(int)
        covered = rgb.copy()
        covered[int(truth[1] + 0.62 * (truth[3] - truth[1])) : bottom, left:right] = (90, 110, 140)
        return covered, truth

    def far(times: int) -> Callable[[Picture, Corners], tuple[Picture, Corners]]:
        def smaller(rgb: Picture, truth: Corners) -> tuple[Picture, Corners]:
            height, width = rgb.shape[:2]
            small = cv2.resize(rgb, (width // times, height // times), interpolation=cv2.INTER_AREA)
            top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
            below, right = height - small.shape[0] - top, width - small.shape[1] - left
            wide = cv2.copyMakeBorder(small, top, below, left, right, cv2.BORDER_REPLICATE)
            return wide, truth / times + np.array([left, top, left, top])

        return smaller

    changes = {"dark": dark, "grainy": grainy, "blurred": blurred, "turned by 20°": turned, "mouth hidden": hidden}
    changes |= {f"{times} times as far": far(times) for times in (2, 4)}
    return tuple(Spoilt(name, change) for name, change in changes.items())


def negatives(frames: Sequence[Frame]) -> list[Picture]:
    """Pictures without a face: cut from two photographs of a temple and a flower, and from beside the faces."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(SEED)
    photographs = [np.asarray(image) for image in load_sample_images().images]
    found: list[Picture] = []
    while len(found) < NEGATIVES // 2:
        photograph = photographs[random.integers(len(photographs))]
        found.append(_cut(photograph, random, int(random.integers(80, 420))))
    beside = [frame for frame in frames if frame.corners is not None]
    while len(found) < NEGATIVES:
        frame = beside[random.integers(len(beside))]
        assert frame.corners is not None
        left, right = int(frame.corners[0]), int(frame.corners[2])
        parts = [frame.rgb[:, : left - 10], frame.rgb[:, right + 10 :]]
        wide = max(parts, key=lambda part: part.shape[1])
        found.append(_cut(wide, random, min(wide.shape[:2])))
    return found


def _cut(picture: Picture, random: np.random.Generator, side: int) -> Picture:
    top, left = (int(random.integers(0, length - side + 1)) for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def timing_table(detectors: Mapping[str, Detector], frames: Sequence[Frame], repeats: int) -> Iterator[str]:
    timed = [frames[place].rgb for place in np.linspace(0, len(frames) - 1, TIMED).astype(int)]
    elapsed: dict[str, list[float]] = {name: [] for name in detectors}
    computed: dict[str, list[float]] = {name: [] for name in detectors}
    for _ in range(repeats):
        for rgb in timed:
            for name, detector in detectors.items():
                began, began_cpu = time.perf_counter(), time.thread_time()
                detector.detect(rgb)
                elapsed[name].append(1000 * (time.perf_counter() - began))
                computed[name].append(1000 * (time.thread_time() - began_cpu))
    yield f"One thread, {TIMED} frames x {repeats}, load average {os.getloadavg()[0]:.1f}:\n"
    yield "| setting | median ms | 95 % ms | median ms of CPU |"
    yield "|---|---|---|---|"
    for name, values in elapsed.items():
        median, high = np.percentile(values, [50, 95])
        yield f"| {name} | {median:.1f} | {high:.1f} | {np.median(computed[name]):.1f} |"


def write_crops(folder: Path, detectors: Mapping[str, Detector], frames: Sequence[Frame]) -> None:
    """One PNG per setting: what its largest box cuts out of evenly spaced frames; black where it finds none."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [frames[place].rgb for place in np.linspace(0, len(frames) - 1, 40).astype(int)]
    for name, detector in detectors.items():
        tiles = []
        for rgb in shown:
            faces = detector.detect(rgb)
            crop = crop_face(rgb, max(faces, key=lambda face: face.area), 0.0) if faces else np.zeros((96, 96, 3))
            tiles.append(cv2.resize(np.asarray(crop, np.uint8), (96, 96), interpolation=cv2.INTER_AREA))
        sheet = np.vstack([np.hstack(tiles[row : row + 10]) for row in range(0, len(tiles), 10)])
        file = folder / f"{name.replace('/', '-').replace(' ', '-')}.png"
        cv2.imwrite(str(file), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
