"""Where the decoded clips of a run are kept, as its folder tells whoever needs them after training."""

from pathlib import Path

from telme.corpora.decoding import DecodedFiles

INSIDE = "decoded"
_ELSEWHERE = "decoded.path"  # a text file: the absolute path of another folder


def note(run: Path, elsewhere: Path | None) -> None:
    """Leave in the run folder where its clips are. elsewhere: None where they are inside it."""
    pointer = run / _ELSEWHERE
    if elsewhere is None:
        pointer.unlink(missing_ok=True)
    else:
        pointer.write_text(f"{elsewhere.resolve()}\n", encoding="utf-8")


def kept(run: Path) -> DecodedFiles:
    """Those of a run that may have come from another machine: without the noted folder, they are kept in the run's."""
    pointer = run / _ELSEWHERE
    elsewhere = Path(pointer.read_text(encoding="utf-8").rstrip("\n")) if pointer.is_file() else None
    return DecodedFiles(elsewhere if elsewhere and elsewhere.is_dir() else run / INSIDE)
