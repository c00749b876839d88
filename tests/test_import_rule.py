"""The rule of the house: imports point downwards, and what runs on a robot needs no PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING_ONLY = {"torch", "transformers", "accelerate", "safetensors", "onnx", "soundfile", "matplotlib"}

IMPORT_ALL = """
import importlib, json, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    "names", [("streamer",), ("telme.runtime", "telme.features", "telme.bundle", "telme.labels", "telme.voice")]
)
def test_a_fresh_process_loads_nothing_that_only_training_needs(names: tuple[str, ...]) -> None:
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert not TRAINING_ONLY.intersection(json.loads(process.stdout.splitlines()[-1]))


def test_imports_point_downwards() -> None:
    process = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stdout + process.stderr
