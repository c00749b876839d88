"""`telme-export` as it is installed: says what is missing where the `export` extra is not."""

import signal
import sys
from typing import Never

from telme.interruption import silent_end

AGAIN_S = 0.5


def main() -> int:
    if sys.argv[1:2] == ["push"]:  # needs neither PyTorch nor ONNX
        from export import push_cli

        return push_cli.main(sys.argv[2:])
    try:
        with silent_end():
            from export import cli
    except ModuleNotFoundError as missing:
        sys.stderr.write(f'telme-export needs {missing.name}: run `pip install "telme-live[export]"`.\n')
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    try:
        return cli.main()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupt(*_: object) -> Never:
    """As Ctrl-C, so that what is half written is removed. Again and again: libraries that call back may swallow it."""
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    raise KeyboardInterrupt
