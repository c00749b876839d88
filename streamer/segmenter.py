"""Cuts a stream of sound into utterances.

                  start                              end         pause      endpoint
    ……………………………………█████████████████░░░░█████████████……………………………………………………|
       |— pre-roll —|                                |— post-roll —|            |
       |                                             |———————— hangover ————————|
       |—————————————— the utterance's samples ————————————————————|

At the pause the utterance is reported as a draft: if nothing but silence follows, the draft is the utterance.
Everything is counted in samples of the stream clock, and decided on whole frames of the detector.
"""

import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from streamer.settings import Segmentation, StreamSettings, Vad
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk
from streamer.utterance import EndReason, Unfinished, Utterance
from streamer.vad import VoiceDetector, make_detector

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]

RESET_AFTER_S: Final = 300
"""Age of the detector's state at which it is reset, in the next silence.

A recurrent network may drift in an endless stream. But what it remembers of the voices so far is what tells
them from voices in the background, so it is not reset after each utterance: docs/segmentation.md has figures.
"""


@dataclass
class SegmenterCounters:
    """What became of the stream since it began.

    dropped_short: stretches of speech below the minimum length, which become no utterance.
    cut_long: cuts at the maximum length.
    gaps: stretches of lost samples that were long enough to end an utterance.
    filled_samples: samples of silence put where shorter stretches were lost.
    """

    utterances: int = 0
    dropped_short: int = 0
    cut_long: int = 0
    gaps: int = 0
    filled_samples: int = 0


@dataclass(frozen=True)
class _Pause:
    """Samples [start, end) without speech, inside an utterance."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass
class _Speech:
    """The utterance in hand, in sample indices.

    end: of its last frame with speech.
    reported: where it was when its last draft was made; at first, where it began.
    pause: the longest in the second half of the maximum length: where it is cut if it grows too long.
    """

    audio_start: int
    start: int
    end: int
    reported: int
    pause: _Pause | None = None

    @property
    def length(self) -> int:
        return self.end - self.start


class _Tape:
    """The latest sound of the stream, as successive blocks."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self._blocks: deque[Samples] = deque()

    def append(self, block: Samples) -> None:
        self._blocks.append(block)
        self.end += len(block)

    def cut(self, start: int, end: int) -> Samples:
        """A copy of samples [start, end)."""
        return np.concatenate(self._blocks)[start - self.start : end - self.start].copy()

    def forget(self, before: int) -> None:
        """Drops the blocks that lie wholly before a sample."""
        while self._blocks and self.start + len(self._blocks[0]) <= before:
            self.start += len(self._blocks.popleft())


class Segmenter:
    """Turns chunks into utterances; how the stream is split into chunks makes no difference.

    Synchronous, without threads or clocks: `push` takes as long as the detector takes for its frames, so it belongs
    into a worker thread. What it says of itself may be read, and it may be told other settings, meanwhile.
    Holds no more sound than the longest utterance, however long the stream is.

    drafts: whether utterances are also reported while they are not over: in each pause, and every so often while
        somebody speaks. Each draft is followed by an utterance of its number.
    """

    def __init__(self, settings: Segmentation, detector: VoiceDetector, *, drafts: bool = False) -> None:
        self.counters = SegmenterCounters()
        self._detector = detector
        self._frame = detector.frame_samples
        self._drafts = drafts
        self._gap = _samples(settings.gap_ms)
        self._recent: deque[bool] = deque()
        self._wanted: Segmentation | None = None
        self._obey(settings)
        self._begun = False
        self._begin(0)

    def reconfigure(self, settings: Segmentation) -> None:
        """Goes on with other times, save `gap_ms`, as soon as no utterance is in hand."""
        self._wanted = settings

    def tune(self, settings: Vad) -> None:
        """Has the detector judge as strictly as these settings say, at once."""
        self._detector.tune(settings)

    def _obey(self, settings: Segmentation) -> None:
        self._start = self._whole_frames(settings.start_ms)
        self._hangover = self._whole_frames(settings.hangover_ms)
        self._pre_roll = self._whole_frames(settings.pre_roll_ms)
        self._post_roll = self._whole_frames(settings.post_roll_ms)
        # A draft holds the whole post-roll, so that it can be all of the utterance.
        self._pause = max(self._whole_frames(settings.pause_ms), self._post_roll)
        if self._drafts and self._pause >= self._hangover:
            log.warning(
                "nothing is recognised in a pause: segmentation.pause_ms (%d ms) and post_roll_ms (%d ms) must be "
                "below hangover_ms (%d ms), all in whole frames of %.0f ms",
                settings.pause_ms,
                settings.post_roll_ms,
                settings.hangover_ms,
                _ms(self._frame),
            )
        self._update = math.inf if settings.update_ms is None else _samples(settings.update_ms)
        self._min = _samples(settings.min_ms)
        self._max = _samples(settings.max_ms)
        # One frame may be missing.
        self._recent = deque(self._recent, maxlen=self._start // self._frame + 1)

    @property
    def speaking(self) -> bool:
        """Whether an utterance is in hand: begun, and not yet declared over."""
        return self._speech is not None

    @property
    def speech_end(self) -> int | None:
        """Sample index at which the speech in hand ends so far; None between utterances."""
        speech = self._speech  # read once: another thread may be in `push`
        return None if speech is None else speech.end

    def push(self, chunk: AudioChunk) -> list[Utterance]:
        """The utterances that are over with this chunk, and the drafts that fall due in it, in order.

        Where samples were lost before the chunk, a hole as long as the gap setting ends the utterance in
        hand; a shorter one is filled with silence. Raises ValueError for a chunk that starts before the
        end of the last.
        """
        if not self._begun:
            self._begun = True
            self._begin(chunk.start)
        utterances = self._bridge(chunk.start)
        utterances += self._listen(chunk.samples)
        return utterances

    def pause(self) -> list[Utterance]:
        """Ends the utterance in hand, if there is one, and expects the next chunk from anywhere further on."""
        self._begun = False
        return self.flush(EndReason.GAP)

    def flush(self, reason: EndReason) -> list[Utterance]:
        """Ends the utterance in hand, if there is one: when the stream ends, or (GAP) when no samples come."""
        if self._speech is None:
            return []
        self._tape.append(self._rest)
        utterances = self._close(self._speech, reason)
        self._begin(self._tape.end)
        return utterances

    def _begin(self, position: int) -> None:
        """Listens afresh from a sample on, which becomes the first of the frame grid."""
        self._tape = _Tape(position)
        self._rest: Samples = np.zeros(0, np.float32)  # received, but less than a frame
        self._recent.clear()
        self._speech: _Speech | None = None
        self._detector.reset()
        self._reset_at = position

    def _bridge(self, start: int) -> list[Utterance]:
        received = self._tape.end + len(self._rest)
        lost = start - received
        if lost < 0:
            raise ValueError(f"a chunk starts at sample {start}, before the end of the last one at {received}")
        if lost == 0:
            return []
        at_s, lost_ms = received / SAMPLE_RATE_HZ, _ms(lost)
        if lost < self._gap:
            log.warning("%.0f ms of sound are missing at %.2f s; silence takes their place", lost_ms, at_s)
            self.counters.filled_samples += lost
            return self._listen(np.zeros(lost, np.float32))
        log.warning("%.0f ms of sound are missing at %.2f s", lost_ms, at_s)
        self.counters.gaps += 1
        utterances = self.flush(EndReason.GAP)
        self._begin(start)
        return utterances

    def _listen(self, samples: Samples) -> list[Utterance]:
        utterances = []
        sound = np.concatenate((self._rest, samples))
        whole = len(sound) - len(sound) % self._frame
        for at in range(0, whole, self._frame):
            frame = sound[at : at + self._frame]
            self._tape.append(frame)
            if self._wanted is not None and self._speech is None:
                wanted, self._wanted = self._wanted, None  # taken first: others may be wanted meanwhile
                self._obey(wanted)
            utterances += self._judge(self._detector.is_speech(frame))
        self._rest = sound[whole:]
        return utterances

    def _judge(self, voiced: bool) -> list[Utterance]:
        """Takes the detector's word on the last frame of the tape."""
        speech = self._speech
        if speech is None:
            self._await(voiced)
            return []
        if voiced:
            self._extend(speech)
        if self._tape.end - speech.end >= self._hangover:
            return self._close(speech, EndReason.SILENCE)
        if self._tape.end + self._frame - speech.audio_start > self._max:
            return self._cut(speech)
        return self._draft(speech) if self._drafts else []

    def _draft(self, speech: _Speech) -> list[Utterance]:
        """The utterance in hand as it stands, if it is due to be reported."""
        if speech.length < self._min:
            return []
        now = self._tape.end
        if now - speech.end == self._pause:
            reason, audio_end = Unfinished.PAUSE, speech.end + self._post_roll
        elif now == speech.end and now - speech.reported >= self._update:
            reason, audio_end = Unfinished.SPEAKING, now
        else:
            return []
        speech.reported = now
        return [self._utterance(speech, audio_end, reason)]

    def _await(self, voiced: bool) -> None:
        """Between utterances: begins one when there is enough speech in the latest frames."""
        now = self._tape.end
        self._recent.append(voiced)
        if voiced and sum(self._recent) * self._frame >= self._start:
            start = now - (len(self._recent) - self._recent.index(True)) * self._frame
            self._speech = _Speech(max(start - self._pre_roll, self._tape.start), start, now, reported=start)
            return
        self._tape.forget(now - len(self._recent) * self._frame - self._pre_roll)
        if now - self._reset_at >= RESET_AFTER_S * SAMPLE_RATE_HZ and not any(self._recent):
            self._detector.reset()
            self._reset_at = now

    def _extend(self, speech: _Speech) -> None:
        """Within an utterance: one more frame of speech, perhaps after a pause."""
        pause = _Pause(speech.end, self._tape.end - self._frame)
        late = pause.end - speech.audio_start >= self._max // 2
        leaves_enough = pause.start - speech.start >= self._min
        if late and leaves_enough and pause.length > (speech.pause.length if speech.pause else 0):
            speech.pause = pause
        speech.end = self._tape.end

    def _cut(self, speech: _Speech) -> list[Utterance]:
        """Ends an utterance of the maximum length, in a pause if there is one, so that no word is torn.

        The next utterance takes up the sound where this one leaves it.
        """
        self.counters.cut_long += 1
        now = self._tape.end
        if speech.end < now:
            self._await_speech()
            return self._emit(speech, now, EndReason.LENGTH)
        pause = speech.pause or _Pause(now, now)
        self._speech = _Speech(pause.end, pause.end, now, reported=pause.end)
        return self._emit(replace(speech, end=pause.start), pause.end, EndReason.LENGTH)

    def _close(self, speech: _Speech, reason: EndReason) -> list[Utterance]:
        """Ends an utterance after which there is silence, or nothing."""
        self._await_speech()
        return self._emit(speech, min(speech.end + self._post_roll, self._tape.end), reason)

    def _await_speech(self) -> None:
        self._speech = None
        self._recent.clear()

    def _emit(self, speech: _Speech, audio_end: int, reason: EndReason) -> list[Utterance]:
        """The utterance, taken off the tape; none if there is too little speech in it."""
        if speech.length < self._min:
            # Its sound stays on the tape: it may have been the beginning of what comes next.
            if speech.length > 0:  # nothing at all is left when speech stops just where it was cut
                self.counters.dropped_short += 1
                log.info("%.0f ms of speech at %.2f s are too short", _ms(speech.length), speech.start / SAMPLE_RATE_HZ)
            return []
        utterance = self._utterance(speech, audio_end, reason)
        self._tape.forget(audio_end)
        self.counters.utterances += 1
        return [utterance]

    def _utterance(self, speech: _Speech, audio_end: int, reason: EndReason | Unfinished) -> Utterance:
        """What is in hand, with its sound up to a sample, as the next utterance or as a draft of it."""
        return Utterance(
            number=self.counters.utterances + 1,
            start=speech.start,
            end=speech.end,
            endpoint=self._tape.end,
            audio_start=speech.audio_start,
            samples=self._tape.cut(speech.audio_start, audio_end),
            reason=reason,
        )

    def _whole_frames(self, ms: int) -> int:
        """Samples of the whole frames that cover a time."""
        return math.ceil(_samples(ms) / self._frame) * self._frame


def make_segmenter(settings: StreamSettings) -> Segmenter:
    """Loads a voice detector, so not in the event loop. Raises VadError where it cannot be had."""
    return Segmenter(settings.segmentation, make_detector(settings.vad), drafts=settings.recognition.speculate)


def _samples(ms: int) -> int:
    return ms * SAMPLE_RATE_HZ // 1000


def _ms(samples: int) -> float:
    return 1000 * samples / SAMPLE_RATE_HZ
