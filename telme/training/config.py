"""What a training run is made of, read from one YAML file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from telme.bundle import AudioSpec, HeardAs, UnsureText, VisualSpec
from telme.corpora.conversations import CONVERSATIONS
from telme.corpora.decoding import DecodedFiles
from telme.corpora.records import Corpus, Split
from telme.training import decoded_clips
from telme.training.errors import TrainingError

LiveSpec = TypeVar("LiveSpec", AudioSpec, VisualSpec)
ConversationName = Literal["meld", "iemocap"]
Keep = Literal["best", "last"]
Selection = Literal["weighted_f1", "macro_f1", "accuracy"]  # what the best epoch has most of, on dev


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(_Section):
    """How one part is optimised: AdamW, linear warm-up, then linear decay to zero."""

    epochs: int = Field(ge=1)
    stop_after: int | None = Field(
        None,
        ge=1,
        exclude=True,  # a run that is to end earlier or later is still the same run, and is continued
        description="end after so many of the epochs that the rate is planned for; null trains them all",
    )
    keep: Keep = Field(
        "best", description="weights of the epoch that does best on dev, or of the last: where dev is too small to tell"
    )
    batch: int = Field(ge=1, description="items per batch")
    learning_rate: float = Field(gt=0, description="peak, reached at the end of the warm-up")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of all optimiser steps")
    weight_decay: float = Field(0.01, ge=0, description="not on biases and norms")
    clip_norm: float = Field(1.0, gt=0, description="the gradient's length is cut to this")
    accumulation: int = Field(1, ge=1, description="batches per optimiser step")
    bf16: bool = Field(False, description="run the model in bfloat16 where that is safe; weights stay float32")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class TextNoise(_Section):
    """Mistakes like those of a speech recogniser, made afresh in every epoch's training prompts."""

    share: float = Field(0.5, ge=0, le=1, description="of the prompts that are disturbed at all")
    deletion: float = Field(0.05, ge=0, le=1, description="of the words of a disturbed prompt")
    substitution: float = Field(0.1, ge=0, le=1, description="of the words of a disturbed prompt")
    insertion: float = Field(0.03, ge=0, le=1, description="of made-up words, per word of a disturbed prompt")
    unpunctuated: float = Field(0.5, ge=0, le=1, description="of the disturbed prompts lose case and punctuation")


class BiggerTeacher(_Section):
    """A text teacher trained before, usually a bigger one, whose answers are learnt besides the labels."""

    run: Path = Field(description="run folder that holds its part `text`")
    temperature: float = Field(4.0, gt=0, description="tau of L_response")
    alpha: float = Field(1.0, ge=0, description="weight of L_response")


class TeacherSettings(_Section):
    """The text teacher, fine-tuned with cross-entropy."""

    backbone: str = Field(description="name on the model hub, a folder, or package:NAME/PATH")
    vector: int = Field(768, ge=1, description="length of the utterance vector")
    max_tokens: int = Field(512, ge=8, description="longest prompt; whole turns are dropped from the front")
    speakers: int = Field(9, ge=1, description="how many a prompt tells apart")
    noise: TextNoise | None = None
    heard: HeardAs = Field("as_written", description="how turns are read that a recogniser wrote, in use")
    taught_by: BiggerTeacher | None = None
    schedule: Schedule


class SpeechAugmentation(_Section):
    """How far speech is varied in training; amounts are drawn evenly within their bounds."""

    crop_share: float = Field(0.8, ge=0, le=1, description="of the clips that lose some silence around the speech")
    silence_s: float = Field(0.3, ge=0, description="most that is put before, and after")
    speed: float = Field(0.1, ge=0, lt=1, description="largest change of the speed, both ways")
    room_share: float = Field(0.2, ge=0, le=1, description="of the clips that sound in a room")
    noise_share: float = Field(0.5, ge=0, le=1, description="of the clips with noise or other voices")
    snr_db: tuple[float, float] = Field((5.0, 30.0), description="speech above noise")
    gain_db: float = Field(10.0, ge=0, description="largest change of the loudness, both ways")
    masked_bins: int = Field(20, ge=0, description="widest band of a log-Mel spectrogram that is blanked")
    masked_s: float = Field(0.3, ge=0, description="longest stretch of it that is blanked")


class Distillation(_Section):
    """What a student learns from the teacher besides the labels, on utterances that have text."""

    temperature: float = Field(4.0, gt=0, description="tau of L_response")
    alpha: float = Field(1.0, ge=0, description="weight of L_response")
    queue: int = Field(0, ge=0, description="utterances before a batch that join it in both losses; 0, as in the paper")


def _obeyed_live(spec: LiveSpec) -> LiveSpec:
    if rules := spec.offline():
        raise ValueError(f"{', '.join(rules)} is for the evaluation of imported weights only; leave it out")
    return spec


class AudioSettings(_Section):
    """The audio student, taught by the teacher where text is paired with speech."""

    backbone: str = Field(description="data2vec's name on the model hub, or the folder or package: of a Whisper model")
    layers: int | None = Field(None, ge=1, description="keep so many of the encoder's first layers; null keeps all")
    vector: int = Field(768, ge=1, description="length of the utterance vector")
    pooling: Literal["mean", "mean_std", "first"] = "mean"
    standardise: bool = Field(False, description="the pooled values, by their mean and deviation over training data")
    dropout: float = Field(0.0, ge=0, lt=1)
    input: Annotated[AudioSpec, AfterValidator(_obeyed_live)]
    corpora: tuple[Literal["meld", "iemocap", "ravdess", "emodb"], ...] = Field(("meld",), min_length=1)
    select_by: Selection = "macro_f1"
    balanced: bool = Field(False, description="every emotion weighs the same, however rare")
    backbone_rate: float = Field(1.0, gt=0, description="the encoder's learning rate, as a share of the schedule's")
    augmentation: SpeechAugmentation | None = None
    distillation: Distillation = Distillation()
    schedule: Schedule


class FaceAugmentation(_Section):
    """How far face crops are varied in training; each amount is the largest, drawn evenly up to it, both ways."""

    rotation_deg: float = Field(15.0, ge=0, le=180)
    scale: float = Field(0.15, ge=0, lt=1, description="as a share of the size")
    shift: float = Field(0.08, ge=0, lt=1, description="as a share of the side")
    exposure: float = Field(0.3, ge=0, lt=1, description="of contrast; brightness is moved by half as much")
    coarse_share: float = Field(0.1, ge=0, le=1, description="of the faces that lose half their resolution")
    erased_share: float = Field(0.3, ge=0, le=1, description="of the faces that are partly covered")


class VisualSettings(_Section):
    """The visual student, taught by the teacher where text is paired with video.

    Trained on a conversation's clips it looks at whole pictures, which are not varied; on FER2013, at face crops.
    """

    backbone: dict[str, Any] | str = Field(
        description="`model_type` and that model's settings, as in VisualDimensions, for random weights; or a "
        "pretrained TimeSformer: its name on the model hub, a folder, or package:NAME/PATH"
    )
    vector: int = Field(768, ge=1, description="length of the utterance vector")
    input: Annotated[VisualSpec, AfterValidator(_obeyed_live)]
    corpus: Literal["fer2013", "meld", "iemocap"] = "fer2013"
    select_by: Selection = "accuracy"
    augmentation: FaceAugmentation = Field(FaceAugmentation(), description="of face crops")
    distillation: Distillation = Distillation()
    schedule: Schedule


class FusionSettings(_Section):
    """The fusion, trained while teacher and students are frozen."""

    beta: float = Field(0.1, gt=0, description="bound of the shift, as a share of the text vector's length")
    unsure: UnsureText | None = Field(None, description="another bound for doubtful text; null: none, as in the paper")
    noise: TextNoise | None = Field(None, description="text is also trained and tested as a recogniser might write it")
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    missing_share: float = Field(0.3, ge=0, lt=1, description="how often sound, and how often picture, is left out")
    bf16_encoding: bool = Field(False, description="encode the training split in bfloat16; scores stay exact")
    unmatched_share: float = Field(0.15, ge=0, lt=1, description="how often either shows something else than the text")
    plain_share: float = Field(
        0.0, ge=0, lt=1, description="how often a neutral text's speech and face show an emotion that is the truth"
    )
    schedule: Schedule

    @model_validator(mode="after")
    def _some_text_is_doubtful(self) -> Self:
        if self.unsure is not None and self.noise is None:
            raise ValueError("`unsure` needs `noise`, without which no text is doubtful in training")
        return self


class TrainingConfig(_Section):
    """A whole training run. A stage whose section is absent cannot be run."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9._-]*$")
    seed: int = Field(42, ge=0)
    output: Path | None = Field(None, description="run folder; by default runs/<name>")
    corpora: Path = Field(Path("corpora"), description="folder that holds meld/, ravdess/, …")
    conversations: ConversationName = Field(
        "meld", description="what the teacher reads; all parts answer in its labels"
    )
    decoded: Path | None = Field(
        None, description="where decoded clips are kept; by default `decoded` in the run folder"
    )
    teacher: TeacherSettings | None = None
    audio: AudioSettings | None = None
    visual: VisualSettings | None = None
    fusion: FusionSettings | None = None

    @property
    def folder(self) -> Path:
        """Where the run's parts are written: one subfolder per part."""
        return self.output or Path("runs") / self.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions that all parts tell apart, in the order of their logits."""
        return CONVERSATIONS[self.conversations].labels

    @property
    def decoded_files(self) -> DecodedFiles:
        return DecodedFiles(self.decoded or self.folder / decoded_clips.INSIDE)

    def load_conversations(self, clips: bool) -> Corpus:
        """Read the dialogues, with their clips where asked for.

        Raises CorpusError where they cannot be used, TrainingError when nothing is left of train, dev or test.
        """
        folder = self.corpora / self.conversations
        corpus = CONVERSATIONS[self.conversations].load(folder, folder if clips else None)
        for split in get_args(Split):
            if not corpus.split(split):
                raise TrainingError(
                    f"No utterance of the {split} split of {corpus.name} can be used; complete its table in {folder}, "
                    "or name another folder with --corpora."
                )
        return corpus


def load(path: Path) -> TrainingConfig:
    """Read a training configuration.

    Raises TrainingError when the file is unreadable, or holds an unknown key or a value out of range.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(
            f"Cannot read the configuration {path} ({error.strerror}); give an existing file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path} is not YAML ({reason}); correct that place.") from error
    try:
        return TrainingConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole file"
        raise TrainingError(f"{path}: {where}: {first['msg']}, found {first['input']!r}.") from error
