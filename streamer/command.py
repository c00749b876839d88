"""`telme-stream` as it is installed: a process, which Ctrl-C ends while it is loaded and when all is done, too."""

from telme.interruption import silent_end


def main() -> int:
    with silent_end():
        from streamer import cli, ending
    status = cli.main()
    ending.end_by_signal()
    return status
