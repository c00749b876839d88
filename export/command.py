"""`telme-export` as it is installed: says what is missing where the `export` extra is not."""

import signal
import sys


def main() -> int:
    if sys.argv[1:2] == ["push"]:  # needs neither PyTorch nor ONNX
        from export import push_cli

        return push_cli.main(sys.argv[2:])
    try:
        from export import cli
    except ModuleNotFoundError as missing:
        sys.stderr.write(f'telme-export needs {missing.name}: run `pip install "telme-live[export]"`.\n')
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is half written is removed
    return cli.main()
