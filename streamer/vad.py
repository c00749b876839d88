"""Voice activity detection: is there speech in a frame of sound? Two engines behind one small protocol."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
import soxr
import webrtcvad

from streamer.settings import Vad
from streamer.signals import SAMPLE_RATE_HZ

Frame = npt.NDArray[np.float32]


class VadError(Exception):
    """An engine that cannot be used; the message says why, and what to install or change."""


class VoiceDetector(Protocol):
    """Judges successive frames of one stream; keeps a state from frame to frame, so it serves one stream only.

    frame_samples: samples of each frame at 16 kHz.
    """

    frame_samples: int

    def is_speech(self, frame: Frame) -> bool:
        """frame: (frame_samples,) float32 in [-1, 1], 16 kHz mono, following the frame before it."""
        ...

    def reset(self) -> None:
        """Forget the sound so far. Not to be called while somebody speaks."""
        ...

    def tune(self, settings: Vad) -> None:
        """Judge the next frames as strictly as these settings say."""
        ...


class WebRtcDetector:
    """WebRTC's Gaussian mixtures over six frequency bands.

    aggressiveness: 0 to 3; 3 rejects the most non-speech.
    """

    frame_samples = SAMPLE_RATE_HZ * 20 // 1000  # 10, 20 and 30 ms are possible

    def __init__(self, aggressiveness: int) -> None:
        self._vad = webrtcvad.Vad(aggressiveness)

    def is_speech(self, frame: Frame) -> bool:
        pcm = (np.clip(np.nan_to_num(frame), -1.0, 1.0) * 32767).astype(np.int16)
        return bool(self._vad.is_speech(pcm.tobytes(), SAMPLE_RATE_HZ))

    def reset(self) -> None:
        """Keeps the estimate of the background noise: it follows slow changes, and is better than none."""

    def tune(self, settings: Vad) -> None:
        self._vad.set_mode(settings.aggressiveness)


class SileroNetwork:
    """Silero's recurrent network, version 6, as it hears one sound.

    session: of its ONNX file; several may share it.
    """

    FRAME_SAMPLES: Final = 512
    CONTEXT_SAMPLES: Final = 64  # the network sees the end of the frame before, too

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._input = np.zeros((1, self.CONTEXT_SAMPLES + self.FRAME_SAMPLES), np.float32)
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)

    def probability(self, frame: Frame) -> float:
        """Of speech, in [0, 1]. frame: (FRAME_SAMPLES,) float32 in [-1, 1], following the frame before it."""
        self._input[0, : self.CONTEXT_SAMPLES] = self._input[0, -self.CONTEXT_SAMPLES :]
        self._input[0, self.CONTEXT_SAMPLES :] = frame
        feed = {"input": self._input, "h": self._h, "c": self._c}
        probabilities, self._h, self._c = self._session.run(None, feed)
        return float(probabilities[0])

    def reset(self) -> None:
        for array in (self._input, self._h, self._c):
            array.fill(0)


class SlowedDown:
    """The network as it hears sound at two thirds of its speed, and therefore of its pitch."""

    SLOWER: Final = 1.5

    def __init__(self, network: SileroNetwork) -> None:
        self._network = network
        self._waiting: Frame
        self._latest: float
        self.reset()

    def probability(self, frame: Frame) -> float:
        """Of speech in the latest of the longer sound's frames, some milliseconds behind `frame`."""
        self._waiting = np.concatenate([self._waiting, self._stretched.resample_chunk(frame)])
        while len(self._waiting) >= self._network.FRAME_SAMPLES:
            self._latest = self._network.probability(self._waiting[: self._network.FRAME_SAMPLES])
            self._waiting = self._waiting[self._network.FRAME_SAMPLES :]
        return self._latest

    def reset(self) -> None:
        self._network.reset()
        # Low quality delays least; without a filter ("QQ") what is mirrored above the voice makes speech of babble.
        self._stretched = soxr.ResampleStream(SAMPLE_RATE_HZ, round(SAMPLE_RATE_HZ * self.SLOWER), 1, quality="LQ")
        self._waiting = np.zeros(0, np.float32)
        self._latest = 0.0


class SileroDetector:
    """Silero's network on one thread, listening to the sound as it is and slowed down.

    The network takes high-pitched shouting for no voice; lowered, it is one (docs/segmentation.md).

    threshold: the probability in [0.1, 0.9] from which a frame is speech, by the surer of the two. After a frame of
        speech, `HYSTERESIS` less is enough, so that the verdict does not flicker.
    Raises VadError if the file is missing.
    """

    HYSTERESIS: Final = 0.05  # silero's own 0.15 finds the end of speech 20 to 50 ms later, and no more speech

    frame_samples = SileroNetwork.FRAME_SAMPLES

    def __init__(self, threshold: float) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(_silero_file(), sess_options=options, providers=["CPUExecutionProvider"])
        self._threshold = threshold
        self.ears: tuple[SileroNetwork | SlowedDown, ...] = (SileroNetwork(session), SlowedDown(SileroNetwork(session)))
        self._speech = False

    def is_speech(self, frame: Frame) -> bool:
        bound = self._threshold - self.HYSTERESIS if self._speech else self._threshold
        finite = np.clip(np.nan_to_num(frame), -1.0, 1.0)  # anything else would stay in the recurrent state for good
        self._speech = max([ear.probability(finite) for ear in self.ears]) >= bound
        return self._speech

    def reset(self) -> None:
        for ear in self.ears:
            ear.reset()
        self._speech = False

    def tune(self, settings: Vad) -> None:
        self._threshold = settings.threshold


def make_detector(settings: Vad) -> VoiceDetector:
    """The engine that the settings name. Raises VadError if it cannot be used."""
    match settings.engine:
        case "webrtc":
            return WebRtcDetector(settings.aggressiveness)
        case "silero":
            return SileroDetector(settings.threshold)


def _silero_file() -> Path:
    spec = find_spec("faster_whisper")  # finds the package without the second that importing it takes
    folders = spec.submodule_search_locations if spec else None
    files = [Path(folder, "assets", "silero_vad_v6.onnx") for folder in folders or ()]
    for file in files:
        if file.is_file():
            return file
    where = files[0] if files else "the Python environment (faster-whisper is not installed)"
    raise VadError(
        f"silero_vad_v6.onnx is not at {where}: run `pip install faster-whisper==1.2.1`, or set vad.engine: webrtc"
    )
