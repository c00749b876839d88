"""`telme-export` as it is installed: says what is missing where the `export` extra is not."""

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
    return cli.main()
