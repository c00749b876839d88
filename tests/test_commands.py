"""The console commands where an extra is missing: a sentence that names it, not a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "configs" / "compact.yaml"


@pytest.mark.parametrize(
    ("call", "module", "extra"),
    [
        (f"from telme.training.cli import main; sys.exit(main([{str(CONFIG)!r}]))", "torch", "train"),
        (f"from telme.training.cli import main; sys.exit(main([{str(CONFIG)!r}]))", "safetensors", "train"),
        ("from telme.training.evaluate_cli import main; sys.exit(main(['run', 'runs/none']))", "torch", "train"),
        ("from export.command import main; sys.exit(main())", "onnx", "export"),
    ],
)
def test_a_missing_extra_is_named(call: str, module: str, extra: str) -> None:
    # None in sys.modules is what Python takes for a module that cannot be found.
    program = f"import sys; sys.modules[{module!r}] = None; {call}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.strip().splitlines()[-1].endswith(f'run `pip install "telme-live[{extra}]"`.')
    assert "Traceback" not in ended.stderr
