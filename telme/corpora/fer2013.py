"""FER2013 (Goodfellow et al., ICONIP 2013, arXiv 1307.0414): grey faces of 48 x 48 from the web, seven emotions."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from telme.corpora.records import Corpus, CorpusError, Split, Utterance
from telme.labels import FER2013

FILE = "fer2013.npz"
LICENCE = "research only: images collected from the web"
DEV_EVERY = 15  # the corpus has no dev split: every 15th of the remaining training faces, 1.8 k in all


@dataclass(frozen=True)
class Faces:
    """The corpus and its pictures.

    images: (n, 48, 48) uint8, grey; `Utterance.image` is a place in it.
    """

    corpus: Corpus
    images: npt.NDArray[np.uint8]

    def split(self, name: Split) -> tuple[npt.NDArray[np.uint8], list[str]]:
        """The images (m, 48, 48) of a split and their labels in MELD's terms."""
        found = [
            (face.image, face.meld_label)
            for face in self.corpus.split(name)
            if face.image is not None and face.meld_label is not None
        ]
        return self.images[[image for image, _ in found]], [label for _, label in found]


def load(folder: Path) -> Faces:
    """Read train, dev and test; the validation set as published is "test" here.

    The corpus holds many pictures twice, also across its splits. A picture is kept once, and those of the test split
    leave the others.
    folder: holds `fer2013.npz` with x_train, y_train, x_val, y_val and classes.
    Raises CorpusError when that file is missing or holds something else.
    """
    path = folder / FILE
    try:
        with np.load(path) as arrays:
            classes = [str(name) for name in arrays["classes"]]
            images = np.concatenate([arrays["x_val"], arrays["x_train"]])
            codes = np.concatenate([arrays["y_val"], arrays["y_train"]])
            tests = len(arrays["x_val"])
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise CorpusError(f"{path} cannot be read ({error}); give the folder that holds FER2013 as {FILE}.") from error

    dropped: Counter[str] = Counter()
    faces: list[Utterance] = []
    seen: set[bytes] = set()
    for index, (image, code) in enumerate(zip(images, codes, strict=True)):
        content = image.tobytes()
        if image.min() == image.max():
            dropped["blank picture"] += 1
        elif content in seen:
            dropped["picture that is there twice"] += 1
        else:
            seen.add(content)
            split: Split = "test" if index < tests else "dev" if len(seen) % DEV_EVERY == 0 else "train"
            name, label = f"{index}", classes[code]
            faces.append(Utterance(name, split, label, FER2013.to_meld.get(label), speaker=name, image=index))
    corpus = Corpus("FER2013", LICENCE, faces, dropped)
    corpus.report()
    return Faces(corpus, images)
