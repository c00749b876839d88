"""Packages of npm that some tests use; `make test` installs them beside the Python packages."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "node" / "node_modules"


def npm_package(name: str) -> Path:
    """The folder of an installed package; the test fails where it is missing."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.fail(f"the npm package {name} is missing: `make test` installs what the tests need")
    return folder
