"""Python packages that some tests cannot do without."""

import importlib.util
import os

import pytest


def required(module: str, package: str) -> None:
    """Where the package is absent the test is left out, but never in CI."""
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of what the module lies in
        found = False
    if found:
        return
    reason = f"{package} is not installed: `make test` installs what the tests need"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
