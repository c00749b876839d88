"""Counts how often the speaker's face is chosen where a camera sees two people.

    python bench/speaking_face.py CLIPS

Puts each talking head of CLIPS (grid_*.mpg of the corpora's clips) beside each other one, of which a single picture is
shown all the time, with grain and a box that trembles; and beside stretches of a silent but lively face (pyfeat_*.mp4:
a woman who weeps and laughs). Looks at five pictures a second, as the live system does, at utterances of several
lengths, on both sides and at two sizes of the listener. Prints a table: the share of utterances whose speaker was
chosen, and what choosing the largest face would come to.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from streamer.speaking_face import speaking_face
from telme.bundle import COMPACT, Bundle
from telme.features.faces import FaceDetector
from telme.features.sightings import Pixels, Sighting
from telme.features.video import VideoFeatures

RATE_HZ = 5
HEIGHT_PX = 288
SECONDS = (0.6, 1.0, 2.0, 3.0)
SCALES = (0.8, 1.25)  # of the listener


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    folder = parser.parse_args().clips
    talking = [pictures(path) for path in sorted(folder.glob("grid_*.mpg"))]
    lively = [stretch for path in sorted(folder.glob("pyfeat_*.mp4")) for stretch in _stretches(pictures(path))]
    video = VideoFeatures(Bundle.open(COMPACT).manifest.visual, FaceDetector(COMPACT / "face_detector.onnx"))
    print("| listener | seconds | utterances | by the mouth % | the largest % |\n|---|---|---|---|---|")
    beside_still = [(speaker, still(other)) for speaker, other in itertools.permutations(talking, 2)]
    for name, pairs in (
        ("another head, still", beside_still),
        ("a lively face", list(itertools.product(talking, lively))),
    ):
        for seconds in SECONDS:
            outcomes = [
                _outcome(video, speaker, listener, round(seconds * RATE_HZ), scale, left)
                for (speaker, listener), scale, left in itertools.product(pairs, SCALES, (True, False))
            ]
            by_mouth, largest = (100 * float(np.mean(share)) for share in zip(*outcomes, strict=True))
            print(f"| {name} | {seconds:g} | {len(outcomes)} | {by_mouth:.1f} | {largest:.1f} |", flush=True)


def _outcome(
    video: VideoFeatures, speaker: list[Pixels], listener: list[Pixels], count: int, scale: float, left: bool
) -> tuple[bool, float]:
    """Whether the speaker was chosen, and how often he is the largest."""
    first = (len(speaker) - count) // 2
    edge = speaker[0].shape[1]
    seen: list[list[Sighting]] = []
    for talks, listens in zip(speaker[first : first + count], listener, strict=False):
        other = _fitted(cv2.resize(listens, None, fx=scale, fy=scale))
        sightings = video.see(beside(talks, other, left))
        edge = talks.shape[1] if left else other.shape[1]
        if sightings:
            seen.append(sightings)
    his = {id(s.pixels) for s in itertools.chain(*seen) if s.face is not None and (s.face.box.left < edge) == left}
    chosen = [id(pixels) in his for pixels in speaking_face(seen).pixels]
    return sum(chosen) > len(chosen) / 2, float(np.mean([id(sightings[0].pixels) in his for sightings in seen]))


def pictures(path: Path) -> list[Pixels]:
    found: list[Pixels] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= len(found) / RATE_HZ:
                picture = frame.to_ndarray(format="rgb24")
                scale = HEIGHT_PX / picture.shape[0]
                found.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return found


def _stretches(pictures: Sequence[Pixels]) -> Iterator[list[Pixels]]:
    size = round(max(SECONDS) * RATE_HZ)
    for start in range(0, len(pictures) - size + 1, size):
        yield list(pictures[start : start + size])


def beside(talks: Pixels, listens: Pixels, left: bool) -> Pixels:
    """Both in one picture, of equal heights; left: where the speaker is."""
    return np.hstack([talks, listens] if left else [listens, talks])


def still(pictures: Sequence[Pixels]) -> list[Pixels]:
    """The first picture all the time, with grain, in a place that trembles."""
    random = np.random.default_rng(0)
    copies = []
    for _ in pictures:
        moved = np.roll(pictures[0], random.integers(-1, 2, 2), axis=(0, 1))
        copies.append((moved + random.normal(0, 3, moved.shape)).clip(0, 255).astype(np.uint8))
    return copies


def _fitted(picture: Pixels) -> Pixels:
    """The middle of a picture at the common height, or the picture with black below."""
    height = picture.shape[0]
    if height >= HEIGHT_PX:
        top = (height - HEIGHT_PX) // 2
        return picture[top : top + HEIGHT_PX]
    return cv2.copyMakeBorder(picture, 0, HEIGHT_PX - height, 0, 0, cv2.BORDER_CONSTANT)


if __name__ == "__main__":
    main()
