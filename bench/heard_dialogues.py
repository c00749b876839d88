"""What the text teacher loses where a real recogniser wrote the dialogues.

    python bench/spoken_dialogues.py --corpora DIR --split test --output FILE
    python bench/heard_dialogues.py --corpora DIR --transcripts FILE [--bundle DIR ...]

Prints the recogniser's word error rate, and each bundle's weighted F1 on MELD's test utterances as MELD writes them and
as they were heard: the same utterances, those whose transcript was believed. How often a recogniser hears that somebody
exclaims depends on voices that the file does not have, and a machine's marks tell nothing: so what was heard is scored
with none of MELD's exclamation marks, with as many as excited people get (bench/exclamations.py), and with all; and
that with the full stops and commas that the recogniser wrote, and without. 95 % intervals resample dialogues.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jiwer
from rich.console import Console
from rich.table import Table
from spoken_dialogues import drawn_from, name_of
from transcripts import Transcripts
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from telme.bundle import COMPACT, Bundle
from telme.corpora import meld
from telme.corpora.records import Utterance
from telme.evaluation import Counts, Evaluation, bootstrap_interval, paired_bootstrap, weighted_f1
from telme.features.text import Turn, without_stops
from telme.training import exported
from telme.training.encodings import TextPart

EXCLAIMED = 0.3


@dataclass(frozen=True)
class Errors:
    """words: said. wrong: substituted, lost or made up."""

    words: int
    wrong: int

    @classmethod
    def of(cls, said: Sequence[str], heard: Sequence[str]) -> "Errors":
        """Of as many texts, normalised as Whisper's authors do (Radford et al., 2022, appendix C)."""
        normal = EnglishTextNormalizer({})
        pairs = [(normal(one), normal(other)) for one, other in zip(said, heard, strict=True)]
        pairs = [pair for pair in pairs if any(map(str.isalnum, pair[0]))]
        measured = jiwer.process_words(*(list(texts) for texts in zip(*pairs, strict=True)))
        wrong = measured.substitutions + measured.deletions + measured.insertions
        return cls(measured.hits + measured.substitutions + measured.deletions, wrong)

    def __str__(self) -> str:
        return f"{100 * self.wrong / self.words:.1f} %"


def errors(items: Sequence[Utterance], transcripts: Transcripts) -> tuple[Errors, Errors]:
    """Of all the utterances, where what was not believed counts as lost, and of those that were believed."""
    pairs = [(item.turns[-1].text, transcripts.of(item) or "") for item in items]
    believed = [pair for pair in pairs if pair[1]]
    return Errors.of(*zip(*pairs, strict=True)), Errors.of(*zip(*believed, strict=True))


def evaluate(part: TextPart, items: Sequence[Utterance]) -> Evaluation:
    encoded = part.encode(items)
    logits = part.logits(encoded.vectors).numpy()
    return Evaluation.of(logits, encoded.truth, part.about.labels, [str(item.dialogue) for item in items])


def as_exclaimed(heard: str, turn: Turn, name: str, share: float) -> str:
    """What was heard of a turn, had somebody said it who means its exclamation marks, of which a share is heard."""
    calm = heard.replace("!", ".")
    exclaimed = "!" in turn.text and drawn_from(f"{name} exclaimed").random() < share
    return re.sub(r"[.,]?$", "!", calm, count=1) if exclaimed else calm


def heard(item: Utterance, transcripts: Transcripts, exclaimed: float) -> Utterance:
    """An utterance that was believed, with what was heard of its dialogue.

    exclaimed: share of MELD's exclamation marks that are heard.
    """
    dialogue = zip(item.turns, transcripts.up_to(item), strict=True)
    return replace(
        item,
        turns=tuple(
            Turn(turn.speaker, as_exclaimed(one, turn, name_of(str(item.dialogue), place), exclaimed))
            for place, (turn, one) in enumerate(dialogue)
            if one is not None
        ),
    )


def stopless(item: Utterance) -> Utterance:
    return replace(item, turns=tuple(replace(turn, text=without_stops(turn.text)) for turn in item.turns))


def rows(part: TextPart, items: Sequence[Utterance], transcripts: Transcripts) -> Iterator[list[str]]:
    written = evaluate(part, items).resampled_counts()
    yield ["as written", _figure(written), "", "", ""]
    for exclaimed in (1.0, EXCLAIMED, 0.0):
        said = [heard(item, transcripts, exclaimed) for item in items]
        stops, none = (evaluate(part, each).resampled_counts() for each in (said, [stopless(item) for item in said]))
        yield [
            f"as heard, {exclaimed:.0%} of its !",
            _figure(stops),
            points(written, stops),
            _figure(none),
            points(stops, none),
        ]


def points(first: Counts, second: Counts) -> str:
    gained = paired_bootstrap(first, second)
    low, high = gained.interval
    return f"{100 * gained.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _figure(counts: Counts) -> str:
    low, high = bootstrap_interval(counts)
    return f"{weighted_f1(counts.sum(0)):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="folder that holds meld/")
    parser.add_argument("--transcripts", type=Path, required=True, metavar="FILE")
    parser.add_argument("--bundle", type=Path, nargs="+", default=[COMPACT], metavar="DIR")
    options = parser.parse_args()
    transcripts = Transcripts.read(options.transcripts)
    items = [item for item in meld.load(options.corpora / "meld").split("test") if str(item.dialogue) in transcripts]
    all_of_them, believed = errors(items, transcripts)
    missing = sum(transcripts.of(item) is None for item in items)
    print(f"word errors {all_of_them}; {missing} of {len(items)} not believed, {believed} in the others")
    items = [item for item in items if transcripts.of(item) is not None]
    table = Table("bundle", "text", "weighted F1", "against written", "without stops", "against with stops")
    for folder in options.bundle:
        part = exported.parts(Bundle.open(folder))[0]["text"]
        assert isinstance(part, TextPart)
        for row in rows(part, items, transcripts):
            table.add_row(folder.name, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
