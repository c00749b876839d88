"""What can go wrong in training through no fault of the code."""


class TrainingError(Exception):
    """A mistake that the user can mend; the message is one sentence that says what is wrong and what to change."""
