"""Whose face an utterance belongs to, where the camera sees several: the one whose mouth moves."""

from collections.abc import Sequence

from telme.features.faces import Box
from telme.features.sightings import Pixels, Sighting, mouth_motion

LEAST = 3  # pictures of a face from which its motion is judged
NEAR = 0.7  # of a face's width: at five pictures a second a head moves less between two, and neighbours are farther


def speaking_face(pictures: Sequence[Sequence[Sighting]]) -> list[Pixels]:
    """The model's input of one face through an utterance, in order.

    pictures: what each picture shows, the largest face first; no picture is empty.
    Where no face is seen through at least half of them, the largest of each picture is taken.
    """
    largest = [sightings[0].pixels for sightings in pictures]
    if all(len(sightings) == 1 for sightings in pictures):
        return largest
    seen_through = [track for track in follow(pictures) if len(track) >= max(LEAST, len(pictures) / 2)]
    if not seen_through:
        return largest
    return [sighting.pixels for sighting in max(seen_through, key=_motion)]


def follow(pictures: Sequence[Sequence[Sighting]]) -> list[list[Sighting]]:
    """Sightings of one face each, in order: every face goes on from the nearest one before it, if that is near."""
    tracks: list[list[Sighting]] = []
    for sightings in pictures:
        free = list(tracks)
        for sighting in sightings:
            nearest = min(free, key=lambda track: _distance(track[-1], sighting), default=None)
            if nearest is not None and _distance(nearest[-1], sighting) < NEAR:
                nearest.append(sighting)
                free.remove(nearest)
            else:
                tracks.append([sighting])
    return tracks


def _motion(track: Sequence[Sighting]) -> float:
    return mouth_motion([sighting.face for sighting in track if sighting.face is not None])


def _distance(before: Sighting, now: Sighting) -> float:
    """Between the centres of two faces, in widths of the later one."""
    if before.face is None or now.face is None:
        return 0.0
    (x, y), (later_x, later_y) = _centre(before.face.box), _centre(now.face.box)
    return float(((x - later_x) ** 2 + (y - later_y) ** 2) ** 0.5 / max(now.face.box.width, 1.0))


def _centre(box: Box) -> tuple[float, float]:
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2
