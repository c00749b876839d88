"""Measures the voice activity engines through the segmenter, on real speech, clean and in noise.

    python bench/vad.py /path/to/corpora > table.md

Clips of four corpora are set one after another into a stream, each at the same speech level, with pauses
between them that are longer than the hangover. Where speech is in the stream is read off the CLEAN clips
(`speech_spans`), before any noise is added. Every figure comes from the same seed. Then every take of RAVDESS's that is
acted strongly is played by itself, and counted where no utterance is found in it.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from streamer.segmenter import Segmenter
from streamer.settings import Segmentation, Vad
from streamer.signals import SAMPLE_RATE_HZ, AudioChunk
from streamer.utterance import EndReason, Utterance
from streamer.vad import SileroDetector, VoiceDetector, make_detector

Sound = npt.NDArray[np.float32]

SEED = 7
HOP = SAMPLE_RATE_HZ // 100
CHUNK = SAMPLE_RATE_HZ // 50
SPEECH_DBFS = -26.0  # the usual level of speech in tests of telephony
SEGMENTATION = Segmentation(max_ms=30_000)
APPLAUSE = {"jfk.flac": int(10.6 * SAMPLE_RATE_HZ)}  # where it begins
NOISES = ("white", "pink", "babble")


@dataclass(frozen=True)
class Span:
    """Samples [start, end)."""

    start: int
    end: int


@dataclass(frozen=True)
class Stream:
    sound: Sound
    truth: list[Span]


@dataclass(frozen=True)
class Variant:
    """forgetful: the detector is reset after each utterance, too. at_pitch: silero hears the sound as it is alone."""

    vad: Vad
    forgetful: bool = False
    at_pitch: bool = False

    def __str__(self) -> str:
        vad = self.vad
        name = f"webrtc {vad.aggressiveness}" if vad.engine == "webrtc" else f"silero {vad.threshold}"
        return f"{name}{', forgetful' * self.forgetful}{', as it is' * self.at_pitch}"

    def detector(self) -> VoiceDetector:
        detector = make_detector(self.vad)
        if self.at_pitch:
            assert isinstance(detector, SileroDetector)
            detector.ears = detector.ears[:1]
        return detector


CONTENDERS = (Variant(Vad(engine="silero")), Variant(Vad(engine="webrtc")))
AT_PITCH = Variant(Vad(engine="silero"), at_pitch=True)
VARIANTS = (
    *(Variant(Vad(engine="webrtc", aggressiveness=a)) for a in (1, 2, 3)),
    *(Variant(Vad(engine="silero", threshold=t)) for t in (0.2, 0.3, 0.4, 0.5, 0.7)),
    Variant(Vad(engine="silero"), forgetful=True),
    AT_PITCH,
)
NAMED = 10  # takes without an utterance whose names are printed
ROOM_DBFS = -66.0  # of the noise under takes that are played by themselves


@dataclass(frozen=True)
class Condition:
    """noise: None for none; snr_db: speech level over noise level."""

    name: str
    noise: str | None = None
    snr_db: float = 0.0
    gain_db: float = 0.0


@dataclass(frozen=True)
class Figures:
    """Of one engine in one condition, or in several with their streams taken together.

    missed_time: share of speech that is in no utterance's sound (rolls included).
    missed: share of truth spans that no utterance touches.
    joined, split: share of truth spans that share an utterance, or have several.
    alarms: utterances per minute of pause that touch no speech.
    alarm_time: share of the pauses that lies between start and end of an utterance.
    start_ms, end_ms: errors of spans with an utterance of their own; positive is late.
    cpu_ms: computing per second of sound.
    """

    speech: int
    pauses: int
    missed_samples: int
    spans: int
    missed: int
    joined: int
    split: int
    alarms: int
    alarm_samples: int
    start_ms: list[float]
    end_ms: list[float]
    cpu_s: float

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def read(clip: Path) -> Sound:
    """(n,) float32, 16 kHz mono."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(clip)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return sound[: APPLAUSE[clip.name]] if clip.name in APPLAUSE else sound


def level_db(sound: Sound) -> npt.NDArray[np.float64]:
    """Level of each 10 ms, over 30 ms, in dB of full scale."""
    power = np.square(sound[: len(sound) // HOP * HOP], dtype=np.float64).reshape(-1, HOP).mean(axis=1)
    return 10 * np.log10(np.convolve(power, np.full(3, 1 / 3), mode="same") + 1e-12)


def speech_spans(clip: Sound, hangover_ms: int = SEGMENTATION.hangover_ms) -> list[Span]:
    """Where somebody speaks in a clean clip.

    Speech is what is within 25 dB of the loud parts (the 95th percentile of the 10 ms levels) and 10 dB
    above the floor (the 5th). Pauses below the hangover belong to the speech around them. What is short
    (under 150 ms amid pauses of 100 ms) and weak (under 10 dB above that bound) is a click or a breath.
    """
    level = level_db(clip)
    bound = max(np.percentile(level, 95) - 25, np.percentile(level, 5) + 10)
    loud = np.flatnonzero(level > bound)
    breaks = np.flatnonzero(np.diff(loud) > 10)  # a stop consonant's closure is shorter than 100 ms
    runs = [
        (run[0], run[-1] + 1) for run in np.split(loud, breaks + 1) if len(run) >= 15 or level[run].max() > bound + 10
    ]
    spans: list[Span] = []
    for start, end in runs:
        if spans and start * HOP - spans[-1].end < hangover_ms * SAMPLE_RATE_HZ // 1000:
            spans[-1] = Span(spans[-1].start, int(end) * HOP)
        else:
            spans.append(Span(int(start) * HOP, int(end) * HOP))
    return spans


def choose(corpora: Path, rng: np.random.Generator) -> tuple[list[Path], list[Path]]:
    """Clips to find speech in, and others, of other speakers, to make babble of."""
    ravdess = sorted((corpora / "ravdess" / "audio").glob("*.flac"))
    emodb = sorted((corpora / "emodb" / "audio").glob("*.flac"))
    clips = [*sorted((corpora / "clips").glob("grid_*.mpg")), corpora / "clips" / "jfk.flac"]
    heard = [clip for clip in ravdess if int(clip.stem[-2:]) <= 14]
    clips += [heard[i] for i in rng.choice(len(heard), 28, replace=False)]
    spoken = [clip for clip in emodb if clip.stem[:2] not in ("15", "16")]
    clips += [spoken[i] for i in rng.choice(len(spoken), 28, replace=False)]
    others = sorted(set(ravdess) - set(heard)) + sorted(set(emodb) - set(spoken))
    babble = [others[i] for i in rng.choice(len(others), 48, replace=False)]
    return [clips[i] for i in rng.permutation(len(clips))], babble


def at_level(clip: Sound, spans: list[Span]) -> Sound:
    """The clip with its speech at SPEECH_DBFS."""
    speech = np.concatenate([clip[span.start : span.end] for span in spans])
    return clip * np.float32(10 ** (SPEECH_DBFS / 20) / np.sqrt(np.mean(np.square(speech))))


def clean_stream(clips: list[Path], rng: np.random.Generator) -> Stream:
    pieces: list[Sound] = []
    truth: list[Span] = []
    position = 0
    for clip in clips:
        pause = np.zeros(int(rng.uniform(1.0, 3.0) * SAMPLE_RATE_HZ), np.float32)
        sound = read(clip)
        spans = speech_spans(sound)
        position += len(pause)
        truth += [Span(position + span.start, position + span.end) for span in spans]
        pieces += [pause, at_level(sound, spans)]
        position += len(sound)
    return Stream(np.concatenate([*pieces, np.zeros(2 * SAMPLE_RATE_HZ, np.float32)]), truth)


def make_noise(name: str, n: int, babble: list[Path], rng: np.random.Generator) -> Sound:
    """(n,) float32 of unit power."""
    if name == "babble":
        talkers = np.array_split(np.array(babble, dtype=object), 8)
        noise = sum(talker(list(part), n, rng) for part in talkers)
    else:
        spectrum = np.fft.rfft(rng.standard_normal(n))
        if name == "pink":
            spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), n * 20 / SAMPLE_RATE_HZ))
        noise = np.fft.irfft(spectrum, n)
    return (noise / np.sqrt(np.mean(np.square(noise)))).astype(np.float32)


def talker(clips: list[Path], n: int, rng: np.random.Generator) -> Sound:
    """One voice that talks without a pause, from a random point on."""
    speech = []
    for clip in clips:
        sound = read(clip)
        spans = speech_spans(sound)
        sound = at_level(sound, spans)
        speech += [sound[span.start : span.end] for span in spans]
    endless = np.concatenate(speech)
    return np.resize(np.roll(endless, int(rng.integers(len(endless)))), n)


def conditions() -> Iterator[Condition]:
    yield Condition("clean")
    yield Condition("clean, 20 dB quieter", gain_db=-20)
    for snr_db in (20, 10, 0):
        for noise in NOISES:
            yield Condition(f"{noise}, {snr_db} dB", noise, snr_db)


def mix(stream: Stream, condition: Condition, noises: dict[str, Sound]) -> Sound:
    sound = stream.sound
    if condition.noise is not None:
        sound = sound + noises[condition.noise] * np.float32(10 ** ((SPEECH_DBFS - condition.snr_db) / 20))
    return np.clip(sound * np.float32(10 ** (condition.gain_db / 20)), -1, 1)


def measure(sound: Sound, truth: list[Span], variant: Variant) -> Figures:
    detector = variant.detector()
    segmenter = Segmenter(SEGMENTATION, detector)
    found: list[Utterance] = []
    began = time.process_time()
    for at in range(0, len(sound), CHUNK):
        ended = segmenter.push(AudioChunk(at, sound[at : at + CHUNK]))
        if ended and variant.forgetful:
            detector.reset()
        found += ended
    found += segmenter.flush(EndReason.STREAM_END)
    return compare(truth, found, len(sound), time.process_time() - began)


def compare(truth: list[Span], found: list[Utterance], n: int, cpu_s: float) -> Figures:
    is_speech, is_kept, is_utterance = np.zeros((3, n), bool)
    for span in truth:
        is_speech[span.start : span.end] = True
    for u in found:
        is_kept[u.audio_start : u.audio_start + len(u.samples)] = True
        is_utterance[u.start : u.end] = True
    touches = np.array([[u.start < span.end and span.start < u.end for u in found] for span in truth])
    touches = touches.reshape(len(truth), len(found))
    of_span, of_utterance = touches.sum(axis=1), touches.sum(axis=0)
    joined = (touches & (of_utterance > 1)).any(axis=1)
    pairs = [
        (span, found[int(row.argmax())])
        for span, row, hits, join in zip(truth, touches, of_span, joined, strict=True)
        if hits == 1 and not join
    ]
    ms = 1000 / SAMPLE_RATE_HZ
    return Figures(
        speech=int(is_speech.sum()),
        pauses=int((~is_speech).sum()),
        missed_samples=int((is_speech & ~is_kept).sum()),
        spans=len(truth),
        missed=int((of_span == 0).sum()),
        joined=int(joined.sum()),
        split=int((of_span > 1).sum()),
        alarms=int((of_utterance == 0).sum()),
        alarm_samples=int((is_utterance & ~is_speech).sum()),
        start_ms=[(u.start - span.start) * ms for span, u in pairs],
        end_ms=[(u.end - span.end) * ms for span, u in pairs],
        cpu_s=cpu_s,
    )


def group(condition: Condition) -> str:
    """Conditions that are summed up in the overview."""
    if condition.noise is None:
        return condition.name
    return f"{'babble' if condition.noise == 'babble' else 'noise'} {condition.snr_db:.0f} dB"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}"


def overview(results: dict[Condition, dict[Variant, Figures]]) -> Iterator[str]:
    """A row for each setting, a column for each group of conditions."""
    groups = list(dict.fromkeys(group(condition) for condition in results))
    yield f"| | {' | '.join(groups)} |"
    yield "|---" * (len(groups) + 1) + "|"
    for variant in VARIANTS:
        cells = []
        for name in groups:
            f = reduce(
                add, (by_variant[variant] for condition, by_variant in results.items() if group(condition) == name)
            )
            missed = percent(f.missed_samples, f.speech)
            cells.append(f"{missed} / {percent(f.joined, f.spans)} / {percent(f.alarm_samples, f.pauses)}")
        yield f"| {variant} | {' | '.join(cells)} |"


def details(results: dict[Condition, dict[Variant, Figures]]) -> Iterator[str]:
    """A row for each condition and contender."""
    columns = (
        "condition",
        "engine",
        "speech missed %",
        "utterances missed %",
        "joined %",
        "split %",
        "false alarms /min",
        "pauses heard as speech %",
        "start error ms",
        "end error ms",
        "CPU ms/s",
    )
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for condition, by_variant in results.items():
        for variant in CONTENDERS:
            f = by_variant[variant]
            cells = (
                condition.name,
                str(variant),
                percent(f.missed_samples, f.speech),
                percent(f.missed, f.spans),
                percent(f.joined, f.spans),
                percent(f.split, f.spans),
                f"{f.alarms / (f.pauses / SAMPLE_RATE_HZ / 60):.1f}",
                percent(f.alarm_samples, f.pauses),
                errors(f.start_ms),
                errors(f.end_ms),
                f"{1000 * f.cpu_s * SAMPLE_RATE_HZ / (f.speech + f.pauses):.1f}",
            )
            yield f"| {' | '.join(cells)} |"


def strong_takes(corpora: Path) -> Iterator[str]:
    """Which of RAVDESS's strongly acted takes have no utterance, by engine."""
    clips = [clip for clip in sorted((corpora / "ravdess" / "audio").glob("*.flac")) if clip.stem.split("-")[3] == "02"]
    missed: dict[Variant, list[str]] = {variant: [] for variant in (*CONTENDERS, AT_PITCH)}
    rng = np.random.default_rng(SEED)
    for clip in clips:
        sound = np.concatenate([read(clip), np.zeros(2 * SAMPLE_RATE_HZ, np.float32)])
        sound += rng.normal(0, 10 ** (ROOM_DBFS / 20), len(sound)).astype(np.float32)
        for variant, names in missed.items():
            segmenter = Segmenter(SEGMENTATION, variant.detector())
            found = [
                u for at in range(0, len(sound), CHUNK) for u in segmenter.push(AudioChunk(at, sound[at : at + CHUNK]))
            ]
            found += segmenter.flush(EndReason.STREAM_END)
            if not any(u.over for u in found):
                names.append(clip.stem)
    yield f"{len(clips)} strongly acted takes; without an utterance:"
    for variant, names in missed.items():
        yield f"- {variant}: {len(names)} ({', '.join(names[:NAMED])}{', …' * (len(names) > NAMED)})"


def errors(ms: list[float]) -> str:
    """Median of the errors, and the 90th percentile of their sizes."""
    return f"{np.median(ms):+.0f} / {np.percentile(np.abs(ms), 90):.0f}" if ms else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, help="folder with ravdess/audio, emodb/audio and clips")
    corpora: Path = parser.parse_args().corpora

    rng = np.random.default_rng(SEED)
    clips, babble = choose(corpora, rng)
    stream = clean_stream(clips, rng)
    noises = {name: make_noise(name, len(stream.sound), babble, rng) for name in NOISES}
    results = {}
    for condition in conditions():
        sound = mix(stream, condition, noises)
        results[condition] = {variant: measure(sound, stream.truth, variant) for variant in VARIANTS}

    seconds = len(stream.sound) / SAMPLE_RATE_HZ
    spoken = sum(span.end - span.start for span in stream.truth) / SAMPLE_RATE_HZ
    print(f"{len(clips)} clips, {len(stream.truth)} utterances, {spoken:.0f} s of speech in {seconds:.0f} s\n")
    print("Speech missed % / utterances joined % / pauses heard as speech %\n")
    print(*overview(results), sep="\n")
    print()
    print(*details(results), sep="\n")
    print()
    print(*strong_takes(corpora), sep="\n")


if __name__ == "__main__":
    main()
