"""Who speaks: tells the people apart who share one source, by their voices, and by where the camera sees them speak."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamer import settings
from streamer.speaking_face import Seats
from telme.features.faces import Box


@dataclass(frozen=True)
class Voice:
    """How an utterance sounds.

    vector: (D,) of length 1; the cosine of two tells how alike they are.
    speech_ms: how much speech it was made of.
    elapsed_ms: how long it took to make.
    """

    vector: npt.NDArray[np.float32]
    speech_ms: float
    elapsed_ms: float


@dataclass
class SpeakerCounters:
    """What became of the utterances from whose voices was learnt.

    people: how many are known by now.
    recognised: utterances that sounded like somebody known; unlike: those that did not, and went to whom they were
        most like, for all places are taken; short: those that were too short to tell, and went there, too.
    """

    people: int = 0
    recognised: int = 0
    unlike: int = 0
    short: int = 0


class Speakers:
    """The people heard so far, at most `people_max`; each is the mean of his voice, and the seat he last spoke from.

    A voice belongs to the person whom it is most like. One that is like nobody is a new person's, while there is a
    place. Where the camera sees several people, somebody is likelier to speak whose mouth moves, and less likely who
    is seen to listen. person: what somebody is called where nobody is told apart, and the beginning of names that are
    not set.
    Not for use by several threads.
    """

    def __init__(self, bounds: settings.Speakers, person: str) -> None:
        self.counters = SpeakerCounters()
        self._bounds = bounds
        self._person = person
        self._sums: list[npt.NDArray[np.float64]] = []  # of each person's voices
        self._seats: list[Box | None] = []
        self._latest = 0

    def name_of(self, voice: Voice | None, seats: Seats | None = None) -> str:
        """Who this is. Nothing is learnt: the same gets the same answer until `learn` or `reset`.

        voice: where it is not known, the answer is whoever was heard last.
        seats: None where the camera does not see several people.
        """
        return self._name(self._latest if voice is None else self._place(voice, seats))

    def learn(self, voice: Voice, seats: Seats | None = None) -> None:
        """Remember how the person sounds who is heard in an utterance that is over, and where he sits."""
        place = self._latest = self._place(voice, seats)
        if voice.speech_ms < self._bounds.min_ms:
            self.counters.short += 1
            return
        if place == len(self._sums):
            self._sums.append(voice.vector.astype(np.float64))
            self._seats.append(None if seats is None else seats.speaker)
            self.counters.people += 1
            return
        if self._likeness(voice, seats)[place] < self._bounds.likeness_min:
            self.counters.unlike += 1
            return
        self._sums[place] += voice.vector
        if seats is not None:
            self._seats[place] = seats.speaker
        self.counters.recognised += 1

    def reset(self) -> None:
        """Forget everybody: the next one is the first."""
        self._sums.clear()
        self._seats.clear()
        self._latest = self.counters.people = 0

    def _place(self, voice: Voice, seats: Seats | None) -> int:
        """Whose voice this is; `len(self._sums)` is somebody new."""
        if not self._sums:
            return 0
        likeness = self._likeness(voice, seats)
        nearest = int(likeness.argmax())
        is_known = likeness[nearest] >= self._bounds.likeness_min
        may_be_new = voice.speech_ms >= self._bounds.min_ms and len(self._sums) < self._bounds.people_max
        return len(self._sums) if may_be_new and not is_known else nearest

    def _likeness(self, voice: Voice, seats: Seats | None) -> npt.NDArray[np.float64]:
        """Cosines with each person's mean, more or less by where he sits."""
        means = np.stack(self._sums)
        cosines = np.asarray(means @ voice.vector / np.linalg.norm(means, axis=1))
        if seats is None:
            return cosines
        return cosines + self._bounds.seat_likeness * np.array([_speaks(seat, seats) for seat in self._seats])

    def _name(self, place: int) -> str:
        if place < len(self._bounds.names):
            return self._bounds.names[place]
        return self._person if self._bounds.people_max == 1 else f"{self._person}-{place + 1}"


def _speaks(seat: Box | None, seats: Seats) -> int:
    """1: whoever sits there speaks, -1: listens; 0: nobody is seen there."""
    seen = None if seat is None else seats.nearest(seat)
    if seen is None:
        return 0
    return 1 if seen == seats.speaker else -1
