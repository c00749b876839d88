"""Segmentation, sample by sample.

A scripted detector finds speech where the samples say so, which makes every expected index a matter of
arithmetic; real speech through the real engines shows that the arithmetic is applied to the right thing.
"""

import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.segmenter import RESET_AFTER_S, Segmenter
from streamer.settings import Segmentation, Vad
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk
from streamer.utterance import EndReason, Unfinished, Utterance
from streamer.vad import make_detector

FRAME = 160  # 10 ms: every setting is a whole number of frames
MS = SAMPLE_RATE_HZ // 1000
SETTINGS = Segmentation(
    start_ms=30, pause_ms=60, hangover_ms=100, pre_roll_ms=50, post_roll_ms=40, min_ms=60, max_ms=1000, gap_ms=200
)


Spans = list[tuple[int, str]]


class Scripted:
    """Speech is a frame with a mean of at least a half."""

    frame_samples = FRAME

    def __init__(self) -> None:
        self.heard = 0
        self.resets: list[int] = []  # frames heard before each

    def is_speech(self, frame: np.ndarray) -> bool:
        assert frame.shape == (FRAME,)
        assert frame.dtype == np.float32
        self.heard += 1
        return bool(frame.mean() >= 0.5)

    def reset(self) -> None:
        self.resets.append(self.heard)


def stream(*spans: tuple[int, str]) -> np.ndarray:
    """Spans of (milliseconds, "s" speech or "-" silence); each sample differs from its neighbours."""
    level = np.concatenate([np.full(ms * MS, 0.75 if kind == "s" else 0.0, np.float32) for ms, kind in spans])
    return level + np.arange(len(level), dtype=np.float32) % 1021 / 8192


def segment(
    sound: np.ndarray, settings: Segmentation = SETTINGS, chunk: int = 1000, *, drafts: bool = False
) -> list[Utterance]:
    segmenter = Segmenter(settings, Scripted(), drafts=drafts)
    found = []
    for at in range(0, len(sound), chunk):
        found += segmenter.push(AudioChunk(at, sound[at : at + chunk]))
    return found + segmenter.flush(EndReason.STREAM_END)


def spans_ms(utterances: list[Utterance]) -> list[tuple[float, float]]:
    return [(u.start / MS, u.end / MS) for u in utterances]


def audio_ms(utterance: Utterance) -> tuple[float, float]:
    return utterance.audio_start / MS, (utterance.audio_start + len(utterance.samples)) / MS


def assert_sound(utterances: list[Utterance], sound: np.ndarray) -> None:
    """Every utterance is a piece of the stream, whole and in its place."""
    for u in utterances:
        np.testing.assert_array_equal(u.samples, sound[u.audio_start : u.audio_start + len(u.samples)])
        assert u.samples.dtype == np.float32
        assert u.audio_start <= u.start < u.end <= u.audio_start + len(u.samples)
        assert u.end <= u.endpoint <= len(sound)


class TestTimes:
    def test_start_end_rolls_and_endpoint(self) -> None:
        sound = stream((300, "-"), (200, "s"), (300, "-"))
        (u,) = segment(sound)
        assert spans_ms([u]) == [(300, 500)]
        assert audio_ms(u) == (250, 540)
        assert u.endpoint == 600 * MS
        assert (u.number, u.reason) == (1, EndReason.SILENCE)
        assert_sound([u], sound)

    def test_less_speech_than_the_start_begins_nothing(self) -> None:
        assert segment(stream((300, "-"), (20, "s"), (300, "-"))) == []

    def test_one_missing_frame_does_not_delay_the_start(self) -> None:
        sound = stream((300, "-"), (10, "s"), (10, "-"), (200, "s"), (300, "-"))
        assert spans_ms(segment(sound)) == [(300, 520)]

    def test_pause_shorter_than_the_hangover_joins(self) -> None:
        sound = stream((100, "-"), (100, "s"), (90, "-"), (100, "s"), (200, "-"))
        assert spans_ms(segment(sound)) == [(100, 390)]

    def test_pause_as_long_as_the_hangover_parts(self) -> None:
        sound = stream((100, "-"), (100, "s"), (100, "-"), (100, "s"), (200, "-"))
        first, second = segment(sound)
        assert spans_ms([first, second]) == [(100, 200), (300, 400)]
        assert audio_ms(second) == (250, 440)

    def test_pre_roll_stops_at_the_sound_of_the_utterance_before(self) -> None:
        settings = SETTINGS.model_copy(update={"pre_roll_ms": 90})
        first, second = segment(stream((200, "-"), (100, "s"), (100, "-"), (100, "s"), (200, "-")), settings)
        assert audio_ms(first) == (110, 340)
        assert audio_ms(second) == (340, 540)

    def test_post_roll_stops_at_the_endpoint(self) -> None:
        settings = SETTINGS.model_copy(update={"post_roll_ms": 500})
        (u,) = segment(stream((200, "-"), (100, "s"), (700, "-")), settings)
        assert audio_ms(u) == (150, 400)
        assert u.endpoint == 400 * MS

    def test_no_rolls(self) -> None:
        settings = SETTINGS.model_copy(update={"pre_roll_ms": 0, "post_roll_ms": 0})
        (u,) = segment(stream((200, "-"), (100, "s"), (200, "-")), settings)
        assert audio_ms(u) == (200, 300)

    @pytest.mark.parametrize(("speech_ms", "kept"), [(50, 0), (60, 1)])
    def test_minimum(self, speech_ms: int, kept: int) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        found = segmenter.push(AudioChunk(0, stream((200, "-"), (speech_ms, "s"), (200, "-"))))
        assert len(found) == segmenter.counters.utterances == kept
        assert segmenter.counters.dropped_short == 1 - kept

    def test_settings_are_rounded_up_to_whole_frames(self) -> None:
        settings = SETTINGS.model_copy(update={"hangover_ms": 91, "pre_roll_ms": 41, "post_roll_ms": 31})
        (u,) = segment(stream((300, "-"), (200, "s"), (300, "-")), settings)
        assert audio_ms(u) == (250, 540)
        assert u.endpoint == 600 * MS

    def test_offset_of_the_stream(self) -> None:
        sound = stream((300, "-"), (200, "s"), (300, "-"))
        (u,) = Segmenter(SETTINGS, Scripted()).push(AudioChunk(123_457, sound))
        assert (u.start, u.end, u.endpoint) == tuple(123_457 + ms * MS for ms in (300, 500, 600))


class TestEdgesOfTheStream:
    def test_speech_from_the_first_sample(self) -> None:
        (u,) = segment(stream((200, "s"), (200, "-")))
        assert audio_ms(u) == (0, 240)
        assert u.start == 0

    def test_utterance_ends_exactly_at_the_end(self) -> None:
        sound = stream((100, "-"), (200, "s"))
        (u,) = segment(sound)
        assert spans_ms([u]) == [(100, 300)]
        assert audio_ms(u) == (50, 300)
        assert (u.endpoint, u.reason) == (len(sound), EndReason.STREAM_END)

    def test_part_of_a_frame_at_the_end_is_kept(self) -> None:
        sound = stream((100, "-"), (200, "s"))[:-37]
        (u,) = segment(sound)
        assert u.end == 290 * MS
        assert u.audio_start + len(u.samples) == u.endpoint == len(sound)

    def test_hangover_cut_off_by_the_end(self) -> None:
        (u,) = segment(stream((100, "-"), (200, "s"), (90, "-")))
        assert spans_ms([u]) == [(100, 300)]
        assert audio_ms(u) == (50, 340)
        assert u.reason is EndReason.STREAM_END

    @pytest.mark.parametrize("level", [0.0, 0.4, -1.0])
    def test_constant_without_speech(self, level: float) -> None:
        assert segment(np.full(SAMPLE_RATE_HZ, level, np.float32)) == []

    def test_nothing(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        assert segmenter.push(AudioChunk(0, np.zeros(0, np.float32))) == []
        assert segmenter.flush(EndReason.STREAM_END) == []

    def test_flush_twice(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        segmenter.push(AudioChunk(0, stream((200, "s"))))
        assert len(segmenter.flush(EndReason.STREAM_END)) == 1
        assert segmenter.flush(EndReason.STREAM_END) == []


class TestMaximum:
    def test_endless_speech_is_cut_without_loss(self) -> None:
        sound = stream((2700, "s"))
        found = segment(sound)
        assert [audio_ms(u) for u in found] == [(0, 1000), (1000, 2000), (2000, 2700)]
        assert [u.reason for u in found] == [EndReason.LENGTH, EndReason.LENGTH, EndReason.STREAM_END]
        np.testing.assert_array_equal(np.concatenate([u.samples for u in found]), sound)

    def test_pre_roll_counts(self) -> None:
        first, second = segment(stream((200, "-"), (1400, "s"), (200, "-")))
        assert audio_ms(first) == (150, 1150)
        assert audio_ms(second) == (1150, 1640)

    def test_cut_in_the_longest_late_pause(self) -> None:
        sound = stream((100, "s"), (90, "-"), (410, "s"), (40, "-"), (160, "s"), (20, "-"), (580, "s"), (200, "-"))
        first, second = segment(sound)
        assert spans_ms([first, second]) == [(0, 600), (640, 1400)]
        assert audio_ms(first) == (0, 640)
        assert audio_ms(second) == (640, 1440)
        assert first.endpoint == 1000 * MS

    def test_cut_in_the_pause_at_hand(self) -> None:
        first, second = segment(stream((950, "s"), (80, "-"), (200, "s"), (200, "-")))
        assert spans_ms([first, second]) == [(0, 950), (1030, 1230)]
        assert audio_ms(first) == (0, 1000)
        assert audio_ms(second) == (1000, 1270)

    def test_speech_that_stops_at_the_cut_leaves_nothing(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        (u,) = segmenter.push(AudioChunk(0, stream((1000, "s"), (200, "-"))))
        assert (u.end, u.reason) == (1000 * MS, EndReason.LENGTH)
        assert segmenter.counters.dropped_short == 0
        assert segmenter.counters.cut_long == 1

    def test_detector_is_not_reset_inside_speech(self) -> None:
        detector = Scripted()
        Segmenter(SETTINGS, detector).push(AudioChunk(0, stream((5000, "s"))))
        assert set(detector.resets) == {0}


class TestDrafts:
    def test_a_pause_is_reported_once_with_the_sound_that_the_utterance_would_have(self) -> None:
        sound = stream((100, "-"), (200, "s"), (80, "-"), (100, "s"), (300, "-"))
        first, second, final = segment(sound, drafts=True)
        assert [u.reason for u in (first, second, final)] == [Unfinished.PAUSE, Unfinished.PAUSE, EndReason.SILENCE]
        assert [u.number for u in (first, second, final)] == [1, 1, 1]
        assert spans_ms([first, second, final]) == [(100, 300), (100, 480), (100, 480)]
        assert [u.endpoint / MS for u in (first, second, final)] == [360, 540, 580]
        assert audio_ms(first) == (50, 340)
        assert second.sounds_like(final)
        assert not first.sounds_like(final)
        assert (first.over, final.over) == (False, True)

    def test_a_short_silence_is_no_pause(self) -> None:
        drafts = segment(stream((100, "s"), (50, "-"), (100, "s")), drafts=True)
        assert [u.reason for u in drafts] == [EndReason.STREAM_END]

    def test_a_pause_is_as_long_as_the_post_roll(self) -> None:
        settings = SETTINGS.model_copy(update={"post_roll_ms": 80})
        draft, final = segment(stream((200, "s"), (300, "-")), settings, drafts=True)
        assert draft.endpoint == 280 * MS
        assert draft.sounds_like(final)

    def test_a_pause_as_long_as_the_hangover_is_the_end(self) -> None:
        settings = SETTINGS.model_copy(update={"pause_ms": 100})
        assert [u.over for u in segment(stream((200, "s"), (300, "-")), settings, drafts=True)] == [True]

    @pytest.mark.parametrize("change", [{"pause_ms": 91}, {"post_roll_ms": 100}, {"hangover_ms": 60}])
    def test_a_hangover_that_leaves_no_pause_is_told_of(
        self, change: dict[str, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = SETTINGS.model_copy(update=change)
        Segmenter(settings, Scripted())
        segmenter = Segmenter(SETTINGS, Scripted(), drafts=True)
        assert caplog.text == ""
        segmenter.reconfigure(settings)
        segmenter.push(AudioChunk(0, stream((100, "-"))))
        Segmenter(settings, Scripted(), drafts=True)
        told = (
            f"pause_ms ({settings.pause_ms} ms) and post_roll_ms ({settings.post_roll_ms} ms) must be below "
            f"hangover_ms ({settings.hangover_ms} ms), all in whole frames of 10 ms"
        )
        assert caplog.text.count(told) == 2

    def test_what_is_too_short_is_not_reported(self) -> None:
        assert segment(stream((100, "-"), (50, "s"), (300, "-")), drafts=True) == []

    def test_long_speech_is_reported_every_so_often(self) -> None:
        settings = SETTINGS.model_copy(update={"max_ms": 5000, "update_ms": 300})
        sound = stream((100, "-"), (700, "s"), (80, "-"), (500, "s"), (200, "-"))
        found = segment(sound, settings, drafts=True)
        assert [(u.reason.value, u.endpoint / MS) for u in found] == [
            ("speaking", 400),
            ("speaking", 700),
            ("pause", 860),
            ("speaking", 1160),
            ("pause", 1440),
            ("silence", 1480),
        ]
        assert [audio_ms(u)[1] for u in found] == [400, 700, 840, 1160, 1420, 1420]
        assert_sound(found, sound)

    def test_long_speech_is_not_reported_where_that_is_not_wanted(self) -> None:
        settings = SETTINGS.model_copy(update={"max_ms": 5000, "update_ms": None})
        assert [u.over for u in segment(stream((4000, "s")), settings, drafts=True)] == [True]


class TestGaps:
    def push(self, segmenter: Segmenter, lost_ms: int) -> list[Utterance]:
        before, after = stream((100, "-"), (200, "s")), stream((100, "s"), (200, "-"))
        found = segmenter.push(AudioChunk(0, before))
        return found + segmenter.push(AudioChunk(len(before) + lost_ms * MS, after))

    def test_long_gap_ends_the_utterance(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        first, second = self.push(segmenter, 200)
        assert spans_ms([first, second]) == [(100, 300), (500, 600)]
        assert audio_ms(first) == (50, 300)
        assert audio_ms(second) == (500, 640)
        assert (first.reason, first.endpoint) == (EndReason.GAP, 300 * MS)
        assert segmenter.counters.gaps == 1

    def test_long_gap_in_silence_only_counts(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        silence = stream((300, "-"))
        assert segmenter.push(AudioChunk(0, silence)) == []
        assert segmenter.push(AudioChunk(1000 * MS, silence)) == []
        assert segmenter.counters.gaps == 1

    def test_short_gap_is_filled_with_silence(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        (u,) = self.push(segmenter, 90)
        assert spans_ms([u]) == [(100, 490)]
        hole = slice(300 * MS - u.audio_start, 390 * MS - u.audio_start)
        assert not u.samples[hole].any()
        assert segmenter.counters.filled_samples == 90 * MS
        assert segmenter.counters.gaps == 0

    def test_grid_begins_anew_after_a_gap(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        segmenter.push(AudioChunk(0, stream((105, "-"))[:-7]))
        (u,) = segmenter.push(AudioChunk(10_007, stream((100, "s"), (200, "-"))))
        assert (u.start, u.end) == (10_007, 10_007 + 100 * MS)

    def test_watchdog_ends_the_utterance_and_loses_nothing(self) -> None:
        sound = stream((100, "-"), (403, "s"), (200, "-"))
        segmenter = Segmenter(SETTINGS, Scripted())
        half = 305 * MS
        segmenter.push(AudioChunk(0, sound[:half]))
        first = segmenter.flush(EndReason.GAP)
        second = segmenter.push(AudioChunk(half, sound[half:]))
        assert [u.reason for u in first + second] == [EndReason.GAP, EndReason.SILENCE]
        assert_sound(first + second, sound)
        assert audio_ms(first[0])[1] == audio_ms(second[0])[0] == 305

    def test_watchdog_between_utterances_does_nothing(self) -> None:
        sound = stream((40, "-"), (200, "s"), (200, "-"))
        segmenter = Segmenter(SETTINGS, Scripted())
        segmenter.push(AudioChunk(0, sound[:1000]))
        assert segmenter.flush(EndReason.GAP) == []
        (u,) = segmenter.push(AudioChunk(1000, sound[1000:]))
        assert audio_ms(u) == (0, 280)

    def test_overlapping_chunk_is_refused(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        segmenter.push(AudioChunk(0, stream((100, "-"))))
        with pytest.raises(ValueError, match="sample 1599, before the end of the last one at 1600"):
            segmenter.push(AudioChunk(1599, stream((100, "-"))))


class TestState:
    def test_speaking(self) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        sound = stream((100, "-"), (100, "s"), (200, "-"))
        seen = []
        for at in range(0, len(sound), FRAME):
            segmenter.push(AudioChunk(at, sound[at : at + FRAME]))
            seen.append(segmenter.speaking)
            assert segmenter.speaking == (segmenter.speech_end is not None)
        assert seen == [False] * 12 + [True] * 17 + [False] * 11

    def test_what_passes_in_a_pause_is_not_missing(self, caplog: pytest.LogCaptureFixture) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        assert segmenter.push(AudioChunk(0, stream((100, "-"), (500, "s")))) == []
        [utterance] = segmenter.pause()
        assert utterance.reason is EndReason.GAP
        assert segmenter.pause() == []
        minute = 60_000 * MS
        [second] = segmenter.push(AudioChunk(minute, stream((500, "s"), (400, "-"))))
        assert (second.start, second.number) == (minute, 2)
        assert (segmenter.counters.gaps, segmenter.counters.filled_samples) == (0, 0)
        assert caplog.records == []

    def test_detector_is_reset_in_the_first_silence_when_its_state_is_old(self) -> None:
        detector = Scripted()
        segmenter = Segmenter(SETTINGS, detector)
        quiet_ms, age_ms = 1000 * RESET_AFTER_S - 300, 1000 * RESET_AFTER_S
        segmenter.push(AudioChunk(0, stream((quiet_ms, "-"), (500, "s"), (100, "-"), (age_ms + 100, "-"))))
        endpoint = (quiet_ms + 500 + 100) // 10
        first = endpoint + 1
        assert [n for n in detector.resets if n] == [first, first + age_ms // 10]

    @pytest.mark.parametrize("kind", ["s", "-"])
    def test_memory_is_bounded(self, kind: str) -> None:
        segmenter = Segmenter(SETTINGS, Scripted())
        sound = stream((100, kind))
        longest_utterance_bytes = SETTINGS.max_ms * MS * sound.itemsize
        tracemalloc.start()
        for n in range(1000):
            segmenter.push(AudioChunk(n * len(sound), sound))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 2 * longest_utterance_bytes

    def test_a_source_may_reuse_its_buffer(self) -> None:
        sound = stream((100, "-"), (300, "s"), (200, "-"))
        segmenter = Segmenter(SETTINGS, Scripted())
        buffer = np.empty(FRAME, np.float32)
        found = []
        for at in range(0, len(sound), FRAME):
            buffer[:] = sound[at : at + FRAME]
            found += segmenter.push(AudioChunk(at, buffer))
        assert len(found) == 1
        assert_sound(found, sound)


class TestAnyStream:
    """Properties of every stream, under every split into chunks."""

    spans = st.lists(st.tuples(st.integers(1, 700), st.sampled_from("s-")), min_size=1, max_size=12)

    @st.composite
    @staticmethod
    def settings(draw: st.DrawFn) -> Segmentation:
        return Segmentation(
            start_ms=draw(st.integers(10, 100)),
            pause_ms=draw(st.integers(20, 400)),
            update_ms=draw(st.none() | st.integers(200, 1000)),
            hangover_ms=draw(st.integers(50, 300)),
            pre_roll_ms=draw(st.integers(0, 300)),
            post_roll_ms=draw(st.integers(0, 400)),
            min_ms=draw(st.integers(0, 900)),
            max_ms=draw(st.integers(1000, 2000)),
        )

    @given(spans=spans, settings=settings(), data=st.data())
    def test_split_makes_no_difference(self, spans: Spans, settings: Segmentation, data: st.DataObject) -> None:
        sound = stream(*spans)
        inside = data.draw(st.lists(st.integers(0, len(sound)), max_size=20), label="cuts")
        segmenter = Segmenter(settings, Scripted(), drafts=True)
        found = []
        for start, end in pairwise([0, *sorted(inside), len(sound)]):
            found += segmenter.push(AudioChunk(start, sound[start:end]))
        found += segmenter.flush(EndReason.STREAM_END)
        expected = segment(sound, settings, chunk=len(sound), drafts=True)
        assert [without_samples(u) for u in found] == [without_samples(u) for u in expected]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours.samples, theirs.samples)

    @given(spans=spans, settings=settings())
    def test_no_sample_is_lost_or_invented(self, spans: Spans, settings: Segmentation) -> None:
        sound = stream(*spans)
        found = segment(sound, settings)
        assert_sound(found, sound)
        assert [u.number for u in found] == list(range(1, len(found) + 1))
        for u in found:
            assert len(u.samples) <= settings.max_ms * MS
            assert u.end - u.start >= settings.min_ms * MS
            assert u.start % FRAME == u.end % FRAME == 0
        for before, after in pairwise(found):
            assert before.audio_start + len(before.samples) <= after.audio_start
            assert before.endpoint <= after.endpoint

    @given(spans=spans, settings=settings())
    def test_drafts_change_no_utterance_and_each_has_one(self, spans: Spans, settings: Segmentation) -> None:
        sound = stream(*spans)
        found = segment(sound, settings, drafts=True)
        over = [u for u in found if u.over]
        assert [without_samples(u) for u in over] == [without_samples(u) for u in segment(sound, settings)]
        assert_sound(found, sound)
        assert [u.number for u in found] == sorted(u.number for u in found)
        assert [u.endpoint for u in found] == sorted(u.endpoint for u in found)
        for draft in found:
            final = over[draft.number - 1]
            assert draft.start == final.start
            assert draft.audio_start == final.audio_start

    @given(spans=spans, settings=settings())
    def test_a_pause_is_reported_where_there_is_one_and_only_there(self, spans: Spans, settings: Segmentation) -> None:
        settings = settings.model_copy(update={"max_ms": 30_000})
        sound = stream(*spans)
        found = segment(sound, settings, drafts=True)
        voiced = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME).mean(axis=1) >= 0.5
        pause = max(frames(settings.pause_ms), frames(settings.post_roll_ms))
        expected = []
        for u in (u for u in found if u.over):
            speech = np.flatnonzero(voiced[: u.endpoint // FRAME]) + 1  # where frames with speech end
            speech = speech[speech > u.start // FRAME]
            silences = np.diff(speech, append=u.endpoint // FRAME + 1) - 1
            ends = speech[(silences >= pause) & (silences < frames(settings.hangover_ms))]
            if u.reason is EndReason.SILENCE and pause < frames(settings.hangover_ms):
                ends = np.append(ends, u.end // FRAME)
            long_enough = (ends * FRAME - u.start) >= settings.min_ms * MS
            expected += [(u.number, int(end) * FRAME) for end in ends[long_enough]]
        assert [(u.number, u.end) for u in found if u.reason is Unfinished.PAUSE] == expected

    @given(spans=spans, settings=settings())
    def test_the_last_pause_is_the_utterance_when_nothing_was_added(self, spans: Spans, settings: Segmentation) -> None:
        found = segment(stream(*spans), settings, drafts=True)
        if max(frames(settings.pause_ms), frames(settings.post_roll_ms)) >= frames(settings.hangover_ms):
            assert not any(u.reason is Unfinished.PAUSE for u in found)
            return
        for before, u in pairwise([None, *found]):
            if u.reason is EndReason.SILENCE:
                assert before is not None
                assert before.reason is Unfinished.PAUSE
                assert before.sounds_like(u)
                np.testing.assert_array_equal(before.samples, u.samples)

    @given(spans=spans)
    def test_all_speech_long_enough_is_in_an_utterance(self, spans: Spans) -> None:
        """With no minimum, only runs too short to begin an utterance stay outside."""
        settings = SETTINGS.model_copy(update={"min_ms": 0})
        sound = stream(*spans)
        covered = np.zeros(len(sound), bool)
        for u in segment(sound, settings):
            covered[u.audio_start : u.audio_start + len(u.samples)] = True
        run = 0
        for n, voiced in enumerate(sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME).mean(axis=1) >= 0.5):
            run = run + 1 if voiced else 0
            if run * 10 >= settings.start_ms:
                assert covered[(n + 1 - run) * FRAME : (n + 1) * FRAME].all()


@pytest.mark.corpora
class TestRealSpeech:
    """Clips amid digital silence. Where their speech begins and ends is read off their envelopes."""

    CLIPS = (
        ("clips/grid_bbaf2n.mpg", 0.99, 2.24),
        ("clips/grid_brbk7n.mpg", 0.53, 2.04),
        ("clips/grid_lbbc2a.mpg", 0.39, 1.97),
        ("clips/grid_swiz3n.mpg", 0.63, 2.72),
        ("emodb/audio/03a01Fa.flac", 0.11, 1.76),
        ("ravdess/audio/03-01-03-01-01-01-08.flac", 1.03, 2.55),
        ("ravdess/audio/03-01-04-01-02-02-12.flac", 1.04, 2.60),
    )
    SHOUTED = ("ravdess/audio/03-01-05-02-01-01-01.flac", 1.03, 3.02)

    @pytest.mark.parametrize(("clip", "start_s", "end_s"), CLIPS)
    def test_start_and_end(self, corpora: Path, clip: str, start_s: float, end_s: float) -> None:
        (u,) = self.utterances(corpora / clip, Vad())
        assert u.start_s == pytest.approx(1 + start_s, abs=0.15)
        assert u.end_s == pytest.approx(1 + end_s, abs=0.15)

    @pytest.mark.parametrize("engine", ["webrtc", "silero"])
    @pytest.mark.parametrize(("clip", "start_s", "end_s"), [*CLIPS, SHOUTED])
    def test_first_word_is_not_clipped(
        self, corpora: Path, engine: Literal["webrtc", "silero"], clip: str, start_s: float, end_s: float
    ) -> None:
        (u,) = self.utterances(corpora / clip, Vad(engine=engine))
        first, last = audio_ms(u)
        assert first / 1000 <= 1 + start_s
        assert last / 1000 >= 1 + end_s

    def test_sentences_of_a_speech(self, corpora: Path) -> None:
        found = self.utterances(corpora / "clips" / "jfk.flac", Vad())
        assert [u.start_s for u in found] == pytest.approx([1.32, 4.28, 6.41, 9.18], abs=0.15)
        assert [u.end_s for u in found[:3]] == pytest.approx([3.12, 5.30, 8.54], abs=0.15)

    @staticmethod
    def utterances(clip: Path, vad: Vad) -> list[Utterance]:
        second = np.zeros(SAMPLE_RATE_HZ, np.float32)
        sound = np.concatenate((second, read(clip), second))
        segmenter = Segmenter(Segmentation(), make_detector(vad))
        found = segmenter.push(AudioChunk(0, sound)) + segmenter.flush(EndReason.STREAM_END)
        assert_sound(found, sound)
        return found


def read(clip: Path) -> np.ndarray:
    """(n,) float32, 16 kHz mono."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(clip)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def frames(ms: int) -> int:
    """Whole frames that cover a time."""
    return -(-ms * MS // FRAME)


def without_samples(u: Utterance) -> tuple[object, ...]:
    return u.number, u.start, u.end, u.endpoint, u.audio_start, u.reason
