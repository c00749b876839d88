"""Whose face an utterance belongs to, where the camera sees several: the one whose mouth moves."""

from collections.abc import Sequence
from dataclasses import dataclass

from telme.features.faces import Box
from telme.features.sightings import Pixels, Sighting, mouth_motion

LEAST = 3  # pictures of a face from which its motion is judged
# Shares of a face's width; neighbours are farther apart.
NEAR = 0.7  # at five pictures a second a head moves less between two
SAME_SEAT = 1.0  # between two utterances it may move more


@dataclass(frozen=True)
class Seats:
    """Where the people in the picture are by the end of an utterance: who speaks, and who listens."""

    speaker: Box
    listeners: tuple[Box, ...]

    def nearest(self, seat: Box) -> Box | None:
        """Whose face is where a face was before; None where nobody is by now."""
        nearest = min((self.speaker, *self.listeners), key=lambda box: distance(seat, box))
        return nearest if distance(seat, nearest) < SAME_SEAT else None


@dataclass(frozen=True)
class SpeakingFace:
    """pixels: the model's input of one face through an utterance, in order. seats: None where no two are seen."""

    pixels: list[Pixels]
    seats: Seats | None = None


def speaking_face(pictures: Sequence[Sequence[Sighting]]) -> SpeakingFace:
    """The face through an utterance whose mouth moves most.

    pictures: what each picture shows, the largest face first; no picture is empty.
    Where no face is seen through at least half of them, the largest of each picture is taken.
    """
    largest = SpeakingFace([sightings[0].pixels for sightings in pictures])
    if all(len(sightings) == 1 for sightings in pictures):
        return largest
    seen_through = [track for track in follow(pictures) if len(track) >= max(LEAST, len(pictures) / 2)]
    if not seen_through:
        return largest
    speaker = max(seen_through, key=_motion)
    seats = _seats(speaker, [track for track in seen_through if track is not speaker])
    return SpeakingFace([sighting.pixels for sighting in speaker], seats)


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


def distance(before: Box, now: Box) -> float:
    """Between the centres of two faces, in widths of the later one."""
    (x, y), (later_x, later_y) = _centre(before), _centre(now)
    return float(((x - later_x) ** 2 + (y - later_y) ** 2) ** 0.5 / max(now.width, 1.0))


def _seats(speaker: list[Sighting], listeners: list[list[Sighting]]) -> Seats | None:
    last = speaker[-1].face
    others = tuple(track[-1].face.box for track in listeners if track[-1].face is not None)
    return Seats(last.box, others) if last is not None and others else None


def _motion(track: Sequence[Sighting]) -> float:
    return mouth_motion([sighting.face for sighting in track if sighting.face is not None])


def _distance(before: Sighting, now: Sighting) -> float:
    if before.face is None or now.face is None:
        return 0.0
    return distance(before.face.box, now.face.box)


def _centre(box: Box) -> tuple[float, float]:
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2
