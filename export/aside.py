"""Folders that appear whole or not at all: written beside their place, and moved there at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from export.errors import ExportError


@contextmanager
def aside(output: Path, what: str) -> Iterator[Path]:
    """A new folder beside `output` that takes its place at the end, and leaves no trace if something fails.

    what: is written, as in "the bundle".
    Raises ExportError when it cannot be written.
    """
    folder: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        folder.chmod(0o755)
        yield folder
        _replace(folder, output)
    except OSError as error:
        raise ExportError(
            f"Cannot write {what} {output} ({error.strerror}); make room or choose another --output."
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, output: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    if output.exists():
        output.rename(old)
    try:
        folder.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
