"""Any bytes as a settings file: `python fuzz/settings_file.py -max_total_time=60` (options are libFuzzer's)."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["streamer", "yaml"]):
    from streamer.configuration import ConfigurationError, load

FILE = Path(tempfile.mkdtemp()) / "stream.yaml"


def read(data: bytes) -> None:
    FILE.write_bytes(data)
    refusal = ""
    try:
        load({}, {}, FILE)
    except ConfigurationError as error:
        refusal = str(error)
    if refusal and not refusal.isprintable():
        raise AssertionError(f"no plain sentence: {refusal!r}")


def main() -> None:
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
