"""Settings that are read again while the program runs: all of them obeyed, or none."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from streamer.configuration import ConfigurationError, load
from streamer.dialogue import Dialogue
from streamer.reload import Reloader, ReloadError, changed
from streamer.segmenter import Segmenter
from streamer.settings import Dialogue as DialogueSettings
from streamer.settings import Segmentation, StreamSettings, Transcription, Vad
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk
from streamer.transcriber import Transcriber
from streamer.transcript_gates import Decoded
from streamer.utterance import Rejected, Transcript
from streamer.vad import make_detector


def sections(settings: BaseModel) -> Iterator[BaseModel]:
    yield settings
    for name in type(settings).model_fields:
        if isinstance(value := getattr(settings, name), BaseModel):
            yield from sections(value)


def test_what_is_reloadable_are_settings() -> None:
    marked = [
        (name, type(section).model_fields)
        for section in sections(StreamSettings())
        for name in getattr(section, "reloadable", ())
    ]
    assert len(marked) > 20
    assert all(name in fields for name, fields in marked)


def settings(**sections: Any) -> StreamSettings:
    return StreamSettings.model_validate(sections)


def test_changes_are_told_by_key_with_whether_they_need_a_restart() -> None:
    old, new = settings(), settings(node="desk", log={"level": "debug"}, segmentation={"gap_ms": 700, "max_ms": 9000})
    assert dict(changed(old, new)) == {
        "node": False,
        "log.level": True,
        "segmentation.gap_ms": False,
        "segmentation.max_ms": True,
    }
    assert list(changed(old, settings())) == []


class File:
    """A settings file, and a reloader that reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stream.yaml"
        self.write("log: {level: info}")
        self.obeyed: list[StreamSettings] = []
        self.reloader = Reloader(self.read(), self.read, [self.obeyed.append])

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def read(self) -> StreamSettings:
        return load({"stream": "cam"}, {}, self.path)


async def test_what_changed_is_handed_on(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.write("log: {level: debug}\nsegmentation: {hangover_ms: 700}")
    assert await file.reloader.reload() == ("segmentation.hangover_ms", "log.level")
    assert file.obeyed == [settings(stream="cam", log={"level": "debug"}, segmentation={"hangover_ms": 700})]
    assert await file.reloader.reload() == ()
    file.write("")
    assert await file.reloader.reload() == ("segmentation.hangover_ms", "log.level")


async def test_one_setting_that_needs_a_restart_keeps_all_as_they_are(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.write("log: {level: debug}\nnode: desk\nmqtt: {url: mqtt://broker}")
    with pytest.raises(ReloadError, match=r"node, mqtt\.url needs a restart; nothing was changed"):
        await file.reloader.reload()
    assert file.obeyed == []
    file.write("log: {level: error}")
    assert await file.reloader.reload() == ("log.level",)


@pytest.mark.parametrize("text", ["log: {level: loud}", "log: [", "loudness: 3", "\0", "log: {level: debug"])
async def test_a_broken_file_keeps_all_as_they_are(tmp_path: Path, text: str) -> None:
    file = File(tmp_path)
    file.write(text)
    with pytest.raises(ConfigurationError):
        await file.reloader.reload()
    assert file.obeyed == []


async def test_a_file_that_is_gone_keeps_all_as_they_are(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.path.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        await file.reloader.reload()
    assert file.obeyed == []


async def test_many_at_once_follow_each_other(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.write("log: {level: debug}")
    told = await asyncio.gather(*(file.reloader.reload() for _ in range(20)))
    assert sorted(told) == [()] * 19 + [("log.level",)]


# Those who obey.


class Switch:
    """A detector that hears speech where samples are not zero."""

    frame_samples = 160

    def is_speech(self, frame: np.ndarray) -> bool:
        return bool(frame.any())

    def reset(self) -> None:
        pass

    def tune(self, settings: Vad) -> None:
        pass


def sound(*lengths_ms: int) -> np.ndarray:
    """Silence and speech in turns."""
    return np.concatenate(
        [np.full(length * SAMPLE_RATE_HZ // 1000, index % 2, np.float32) for index, length in enumerate(lengths_ms)]
    )


def test_the_segmenter_obeys_from_the_next_utterance_on() -> None:
    segmenter = Segmenter(Segmentation(hangover_ms=500, min_ms=250), Switch())
    first, second = sound(1000, 400, 300), sound(300, 400, 1000, 200, 1000)
    assert segmenter.push(AudioChunk(0, first)) == []
    segmenter.reconfigure(Segmentation(hangover_ms=200, min_ms=300, post_roll_ms=100))
    utterances = segmenter.push(AudioChunk(len(first), second))
    assert [(u.number, round(u.silence_ms)) for u in utterances] == [(1, 500), (2, 200)]
    assert segmenter.counters.dropped_short == 1


def test_detectors_are_tuned() -> None:
    rng = np.random.default_rng(3)
    noise = (0.05 * rng.standard_normal(SAMPLE_RATE_HZ * 2)).astype(np.float32)
    detector = make_detector(Vad(engine="webrtc", aggressiveness=0))
    frames = noise.reshape(-1, detector.frame_samples)
    lax = sum(detector.is_speech(frame) for frame in frames)
    detector.tune(Vad(engine="webrtc", aggressiveness=3))
    assert sum(detector.is_speech(frame) for frame in frames) < lax
    silero = make_detector(Vad(threshold=0.4))
    silero.tune(Vad(threshold=0.9))
    assert silero._threshold == 0.9


def test_the_dialogue_forgets_what_is_too_much_now() -> None:
    dialogue = Dialogue(DialogueSettings(turns_max=10))
    for number in range(10):
        dialogue.add("person", f"word {number}", float(number))
    dialogue.reconfigure(DialogueSettings(turns_max=3, text_max_chars=4))
    assert [turn.text for turn in dialogue.context("person", "the last", 10.0)] == ["word 8", "word 9", "last"]
    dialogue.reconfigure(DialogueSettings(turns_max=10, reset_after_s=5))
    assert len(dialogue.context("person", "later", 20.0)) == 1


def test_the_gates_are_those_of_now() -> None:
    class Said:
        def decode(self, samples: np.ndarray) -> Decoded:
            return Decoded("So it is.", log_prob=-0.7, no_speech=0.1, tokens=4, language="en")

    transcriber = Transcriber(Transcription(), Said(), None)
    samples = np.zeros(SAMPLE_RATE_HZ, np.float32)
    assert isinstance(transcriber.transcribe(samples), Transcript)
    transcriber.reconfigure(Transcription(log_prob_min=-0.5))
    assert isinstance(transcriber.transcribe(samples), Rejected)
