"""The TelME authors' two releases: what their files do not say about the models, but their code does.

Source: github.com/yuntaeyang/TelME at f22fc9f, `model.py` and `inference.py` of MELD/ and IEMOCAP/, and the
configurations of the pretrained encoders named there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from telme.bundle import AudioSpec, FusionSpec, VisualSpec
from telme.labels import IEMOCAP, MELD
from telme.models.audio import AudioDimensions, Data2VecDimensions
from telme.models.fusion import FusionDimensions
from telme.models.teacher import TeacherDimensions
from telme.models.visual import VisualDimensions

COMMIT = "f22fc9f"
VECTOR = 768
SPEAKERS = 9
MAX_TOKENS = 512
GROUP = 4  # the batch size of their `inference.py`

ROBERTA_LARGE: Mapping[str, Any] = {
    "model_type": "roberta",
    "vocab_size": 50265 + SPEAKERS,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
# data2vec-audio-base-960h and timesformer-base-finetuned-k400 are what these configurations are without arguments.
DATA2VEC_BASE: Mapping[str, Any] = {"model_type": "data2vec-audio"}
TIMESFORMER_BASE: Mapping[str, Any] = {"model_type": "timesformer"}

AUDIO = AudioSpec(
    kind="waveform",
    min_s=0.025,  # what the encoder's convolutions need for one frame
    max_s=25,  # 400,000 samples, taken for 16 kHz
    source_rate_hz=22050,
    padding="left",
    standardised="clip",
)
# The pixel values are those of the VideoMAE processor, which scales to ImageNet's mean and deviation.
VISUAL = VisualSpec(
    kind="frames",
    size_px=224,
    channels=3,
    frames=8,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    colours="bgr",
    choice="multiples",
)


@dataclass(frozen=True)
class Release:
    """One release: its labels, the sizes of its four models and how their inputs were made.

    `dimensions` of each part as the model's class takes them; the text part's specification needs a tokenizer and
    is made at import.
    """

    name: str
    corpus: str
    labels: tuple[str, ...]
    text: TeacherDimensions
    audio: AudioDimensions
    visual: VisualDimensions
    fusion: FusionDimensions
    beta: float
    audio_spec: AudioSpec = AUDIO
    visual_spec: VisualSpec = VISUAL

    @property
    def fusion_spec(self) -> FusionSpec:
        return FusionSpec(beta=self.beta, input_order=self.fusion.order, group=self.fusion.group)


def _release(
    name: str,
    corpus: str,
    labels: tuple[str, ...],
    beta: float,
    heads: int,
    order: tuple[Literal["audio", "visual"], Literal["audio", "visual"]],
) -> Release:
    return Release(
        name,
        corpus,
        labels,
        TeacherDimensions(dict(ROBERTA_LARGE), VECTOR, len(labels)),
        AudioDimensions(Data2VecDimensions(dict(DATA2VEC_BASE)), VECTOR, len(labels), pooling="first"),
        VisualDimensions(dict(TIMESFORMER_BASE), VECTOR, len(labels)),
        FusionDimensions(VECTOR, VECTOR, VECTOR, len(labels), heads, dropout=0.2, order=order, group=GROUP),
        beta,
    )


# Trained in the order (audio, visual) both; their IEMOCAP/inference.py, which makes the scores, swaps the two.
RELEASES: Mapping[str, Release] = {
    "meld": _release("telme-authors-meld", "MELD", MELD, beta=0.1, heads=3, order=("audio", "visual")),
    "iemocap": _release("telme-authors-iemocap", "IEMOCAP", IEMOCAP, beta=0.2, heads=4, order=("visual", "audio")),
}
