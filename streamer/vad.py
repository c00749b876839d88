"""Voice activity detection: is there speech in a frame of sound? Two engines behind one small protocol."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
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


class SileroDetector:
    """Silero's recurrent network, version 6: the ONNX file that comes with faster-whisper, on one thread.

    threshold: the probability in [0.1, 0.9] from which a frame is speech. After a frame of speech, `HYSTERESIS`
        less is enough, so that the verdict does not flicker.
    Raises VadError if the file is missing.
    """

    HYSTERESIS: Final = 0.05  # silero's own 0.15 finds the end of speech 20 to 50 ms later, and no more speech
    CONTEXT_SAMPLES: Final = 64  # the network sees the end of the frame before, too

    frame_samples = 512

    def __init__(self, threshold: float) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            _silero_file(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._threshold = threshold
        self._input = np.zeros((1, self.CONTEXT_SAMPLES + self.frame_samples), np.float32)
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._speech = False

    def is_speech(self, frame: Frame) -> bool:
        bound = self._threshold - self.HYSTERESIS if self._speech else self._threshold
        self._speech = self.probability(frame) >= bound
        return self._speech

    def probability(self, frame: Frame) -> float:
        """Of speech, in [0, 1]; 0 for a frame with samples that are not finite."""
        self._input[0, : self.CONTEXT_SAMPLES] = self._input[0, -self.CONTEXT_SAMPLES :]
        self._input[0, self.CONTEXT_SAMPLES :] = frame
        feed = {"input": self._input, "h": self._h, "c": self._c}
        probabilities, self._h, self._c = self._session.run(None, feed)
        probability = float(probabilities[0])
        if not math.isfinite(probability):  # would stay in the recurrent state for good
            self.reset()
            return 0.0
        return probability

    def reset(self) -> None:
        for array in (self._input, self._h, self._c):
            array.fill(0)
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
