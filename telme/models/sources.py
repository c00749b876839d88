"""Where pretrained weights come from: the model hub, a folder, or an installed Python package."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "package:"


class SourceError(Exception):
    """Pretrained weights that cannot be found; the message is one sentence that says what to install or change."""


def locate(source: str) -> str:
    """Turn `package:NAME/PATH` into a path inside that installed package; leave folders and hub names alone.

    The package is not imported. Raises SourceError when it, or the path inside it, does not exist.
    """
    if not source.startswith(PACKAGE):
        return source
    name, _, inside = source.removeprefix(PACKAGE).partition("/")
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(f"{source} needs the Python package that provides `{name}`; install it with pip.")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        raise SourceError(f"{source}: the installed package has no {inside}; correct the path.")
    return str(path)


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Within it, transformers loads `source`. Raises SourceError where it finds nothing that it can read."""
    try:
        yield
    except (OSError, ValueError) as error:  # what transformers raises for an unknown name, and for a strange folder
        raise SourceError(
            f"{source} is no folder of transformers and not to be had from the model hub; correct the name, or give "
            "a folder."
        ) from error
