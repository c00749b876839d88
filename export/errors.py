"""What goes wrong in an export by the user's doing."""

from telme.bundle import Parity


class ExportError(Exception):
    """An export that cannot be done; the message is one sentence that says what to run or change."""


class StrayError(ExportError):
    """A part that was made, but strays from the trained one.

    parity: how far; None where it answers with numbers that are not finite.
    """

    def __init__(self, message: str, parity: Parity | None = None) -> None:
        super().__init__(message)
        self.parity = parity
