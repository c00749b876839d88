"""The console commands where an extra is missing or loading is interrupted: no traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from telme.interruption import silent_end

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


# A shell's background command is started with SIGINT ignored, and a test may be run by one.
LOADING = """
import signal, sys, time

signal.signal(signal.SIGINT, signal.default_int_handler)

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            print("loading", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
from {command} import main
main()
"""


@pytest.mark.parametrize(
    ("command", "module"), [("streamer.command", "streamer.cli"), ("export.command", "export.cli")]
)
def test_ctrl_c_while_modules_are_loaded_is_no_traceback(command: str, module: str) -> None:
    program = [sys.executable, "-c", LOADING.format(command=command, module=module)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (-signal.SIGINT, "")  # of which a shell makes 130


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_once_all_is_loaded_ctrl_c_means_what_it_meant_before(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with silent_end():
            within = signal.getsignal(signal.SIGINT)
        assert within == (signal.SIG_IGN if handler == signal.SIG_IGN else signal.SIG_DFL)
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)
