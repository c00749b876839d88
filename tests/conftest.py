"""What all tests share."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ("brokers", "utterances")

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).parents[1]
CORPORA = Path(os.environ.get("TELME_CORPORA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The corpora folder. Where it is absent the test is left out, but never in CI."""
    if not CORPORA.is_dir():
        reason = f"no corpora at {CORPORA}: set TELME_CORPORA to the folder that holds meld/, ravdess/, clips/ …"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return CORPORA


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """A command that a test runs here sends all logs to that test's stderr, which is closed when the next test logs."""
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
