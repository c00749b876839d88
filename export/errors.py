"""What goes wrong in an export by the user's doing."""


class ExportError(Exception):
    """An export that cannot be done; the message is one sentence that says what to run or change."""
