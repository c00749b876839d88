"""Folders that appear whole or not at all: written beside their place, and moved there at the end."""

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from export.errors import ExportError
from telme.bundle import BundleError


@contextmanager
def aside(output: Path, what: str) -> Iterator[Path]:
    """A new folder beside `output` that takes its place at the end, and leaves no trace if something fails.

    output: where it is a link, what it points to is replaced, and the link stays.
    what: is written, as in "the bundle".
    Raises ExportError when it cannot be written.
    """
    folder: Path | None = None
    try:
        output = output.resolve()
        if Path.cwd().is_relative_to(output):
            raise ExportError(
                f"{output} is replaced as a whole, and you are in it; go to another folder, or choose another --output."
            )
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


def demand_replaceable(output: Path, what: str, named: Callable[[Path], Collection[str]]) -> None:
    """Raises ExportError unless `output` is new, empty, or holds nothing but what an earlier export has written.

    what: that export writes, as in "bundle".
    named: the files of such a folder, relative to it; raises BundleError where it is none.
    """
    if not output.exists() or is_empty(output):
        return
    try:
        files = named(output)
    except BundleError as error:
        raise ExportError(
            f"{output} exists and is no {what} that can be read ({error}); choose another --output, or remove it."
        ) from error
    found = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_symlink() or not path.is_dir()}
    if strange := sorted(found - set(files)):
        raise ExportError(
            f"{output} holds {strange[0]}, which is no file of the {what} there; move it away, or choose another "
            "--output."
        )


def is_empty(folder: Path) -> bool:
    """Whether it is a folder with nothing in it."""
    return folder.is_dir() and not any(folder.iterdir())


def _replace(folder: Path, output: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    if output.exists():
        output.rename(old)
    try:
        folder.rename(output)
    except BaseException:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
