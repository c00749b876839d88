"""README.md of a bundle's repository on a hub: the bundle's model card behind what the hub itself reads."""

from export import model_card
from telme.bundle import Manifest

# Languages spoken or written in each corpus, by ISO 639-1; what is not here has none, or is not known here.
LANGUAGES = {"MELD": "en", "IEMOCAP": "en", "RAVDESS": "en", "EmoDB": "de"}
LICENCE = "LICENSE.md"  # the one name, besides LICENSE, to which the hub lets a licence of no standard name point
TAGS = ("emotion-recognition", "emotion-recognition-in-conversation", "speech-emotion-recognition", "multimodal")


def write(manifest: Manifest) -> str:
    """The page, in Markdown with front matter in YAML."""
    from huggingface_hub import ModelCardData

    backends = {part.backend for _, part in manifest.parts.named()}
    about = ModelCardData(
        library_name="telme-live",
        pipeline_tag="audio-classification",  # the hub has no task of several modalities that ends in classes
        language=sorted({LANGUAGES[corpus] for corpus in manifest.training.corpora if corpus in LANGUAGES}) or None,
        license="other",
        license_name="terms-of-the-training-data",
        license_link=LICENCE,
        tags=[*TAGS, "arxiv:2401.12987", *sorted(backend.replace("onnxruntime", "onnx") for backend in backends)],
    )
    return f"---\n{about.to_yaml()}\n---\n\n{model_card.write(manifest)}"


def licence(manifest: Manifest) -> str:
    """The file that the front matter's licence points to."""
    return f"# Licence of the weights\n{model_card.licence(manifest)}\n"
