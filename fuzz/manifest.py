"""Any bytes as a bundle's manifest: `python fuzz/manifest.py -max_total_time=60` (options are libFuzzer's)."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["telme.bundle"]):
    from telme.bundle import MANIFEST, Bundle, BundleError

FOLDER = Path(tempfile.mkdtemp())


def read(data: bytes) -> None:
    """No part is there, so that every manifest is refused, the right ones for what is missing."""
    (FOLDER / MANIFEST).write_bytes(data)
    refusal = ""
    try:
        Bundle.open(FOLDER)
    except BundleError as error:
        refusal = str(error)
    if not refusal or "\n" in refusal:
        raise AssertionError(f"no plain sentence: {refusal!r}")


def main() -> None:
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
