"""MODEL_CARD.md: what a bundle's weights are, how good they are, and what they must not be used for."""

from collections.abc import Iterable, Sequence

from telme.bundle import Backend, Manifest

# What a reader must know about each corpus to judge weights that were trained on it.
CORPORA = {
    "MELD": "(Poria et al., ACL 2019) dialogues of one television series, written for comedy, seven emotions, "
    "half of them neutral; the transcripts are copyrighted and for research",
    "RAVDESS": "(Livingstone and Russo, PLOS ONE 2018) North American actors who speak two sentences in eight "
    "emotions; split by actor (dev 15 and 16, test 17 to 20); CC BY-NC-SA 4.0, so weights trained on it "
    "are for non-commercial use",
    "EmoDB": "(Burkhardt et al., Interspeech 2005) German actors who speak ten sentences; split by speaker (dev "
    "12, test 13 and 14); free for research",
    "FER2013": "(Goodfellow et al., ICONIP 2013) 48 x 48 grey faces from web search, with about one label in three "
    "disputed; for research",
    "IEMOCAP": "(Busso et al., 2008) acted dialogues of ten actors in a laboratory; for research, under its own "
    "licence",
}

USE = """\
## What it is for
It says which emotion an utterance is *expressed with*, as a listener would label it, so that a robot or an avatar can
answer in kind. It does not know what a person feels.

In the European Union the AI Act (Regulation (EU) 2024/1689) prohibits emotion recognition at work and in education,
except for medical or safety reasons (Article 5(1)(f)), treats other uses as high-risk (Annex III) and obliges whoever
deploys it to tell the people concerned (Article 50(3)). Do not decide anything about a person by its answers.
"""

_ENGINES = "The parts are TensorRT engines: products in the precision given, norms and sums in float32."
ARITHMETIC: dict[Backend, str] = {
    "onnxruntime": "fp16 and int8 are how weights are stored, with float32 arithmetic; int8-static and int8-dynamic "
    "multiply in int8.",
    "openvino": "OpenVINO multiplies in the precision given where the CPU can, and in float32 elsewhere.",
    "tensorrt": _ENGINES,
    "tensorrt-rtx": _ENGINES,
}

LIMITS = """\
## What it is bad at
- **Spontaneous speech.** The voices it learnt from are actors', who exaggerate; expect less on people who do not act.
- **What is said against how.** Where a speech corpus has a handful of fixed sentences, the audio part learnt manner
  only, and few speakers' manner at that.
- **Other talk than a comedy series.** The text part's sense of a dialogue comes from scripted scenes in English.
- **Modalities together.** Where no corpus with paired speech, face and text was at hand, the fusion was trained on
  items of different people that share a label. It has seen agreement, not the ways in which real modalities disagree;
  its scores with such sound and picture only show that it uses them, and are not comparable with any published figure.
- **Rare emotions.** Fear and disgust are rare in dialogue, and a text part may never answer them: look at `f1_fear` and
  `f1_disgust` above.
- **People unlike those recorded.** No corpus here is balanced by age, skin, culture or health, and nothing was measured
  by group.
"""


def write(manifest: Manifest) -> str:
    """The card, in Markdown."""
    return "\n".join(
        [
            f"# {manifest.name}: emotion of an utterance in a conversation",
            "",
            "A bundle for TelME Live: a text teacher that reads the dialogue, students that hear the voice and see the "
            "face, and the fusion of the TelME paper (Yun, Lim, Lee and Song, NAACL 2024, arXiv 2401.12987), in which "
            "the students shift the teacher's verdict.",
            "",
            f"Labels: {', '.join(manifest.labels)}.",
            "",
            USE,
            "## Licence",
            licence(manifest),
            "",
            "## Training data",
            *(f"- **{corpus}** {CORPORA.get(corpus, '(see its authors)')}." for corpus in manifest.training.corpora),
            "",
            f"Configuration `{manifest.training.config}`, seed {manifest.training.seed}, "
            f"code {manifest.training.commit}.",
            "",
            "## Scores",
            "Measured on data that was not trained on, with the trained modules; `telme-evaluate bundle` measures the "
            "exported parts. Intervals hold 95 %, from resampling dialogues or speakers, and single faces; those from "
            "fewer than 20 speakers are usually too narrow.",
            "",
            *_table(("part", "data", "metric", "value", "interval"), _scores(manifest)),
            "",
            "## Parts",
            "Agreement is with the trained PyTorch modules, measured at export on real inputs: largest error of a "
            "logit, smallest cosine of an utterance vector, and share of items with the same emotion. "
            + ARITHMETIC[manifest.parts.text.backend],
            "",
            *_table(
                ("part", "learnt from", "precision", "MB", "items", "max error", "min cosine", "same emotion"),
                _parts(manifest),
            ),
            "",
            *_together(manifest),
            LIMITS,
        ]
    )


def licence(manifest: Manifest) -> str:
    """What the weights may be used for."""
    return (
        f"The weights may be used as all of their data allow: {manifest.training.licence}.\n"
        "Licences of converted pretrained weights lie beside this card in `licences/`."
    )


def _scores(manifest: Manifest) -> Iterable[Sequence[str]]:
    for score in manifest.training.scores:
        interval = "" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
        yield score.part, score.data, score.metric, f"{score.value:.3f}", interval


def _parts(manifest: Manifest) -> Iterable[Sequence[str]]:
    for name, part in manifest.parts.named():
        parity = part.parity
        agreement = (
            ("", "", "", "")
            if parity is None
            else (
                str(parity.items),
                f"{parity.max_abs_error:.2g}",
                f"{parity.min_cosine:.5f}",
                f"{parity.argmax_agreement:.1%}",
            )
        )
        yield name, ", ".join(part.corpora), part.precision, f"{part.bytes / 1e6:.2f}", *agreement


def _together(manifest: Manifest) -> Iterable[str]:
    found = manifest.end_to_end
    if found is not None:
        yield (
            f"All parts together, from {found.items} real inputs to scores: largest error {found.max_abs_error:.2g}, "
            f"smallest cosine {found.min_cosine:.5f}, same emotion {found.argmax_agreement:.1%}."
        )
        yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
