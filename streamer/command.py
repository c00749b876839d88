"""`telme-stream` as it is installed: loading its modules takes a while, in which Ctrl-C may come."""

from telme.interruption import silent_end


def main() -> int:
    with silent_end():
        from streamer import cli
    return cli.main()
