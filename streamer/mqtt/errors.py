"""What goes wrong between this program and a broker."""


class BrokerError(Exception):
    """The broker cannot be used; the message is one sentence for the person who started the program."""


class TakenOverError(BrokerError):
    """Another program, which was started later, uses the node's name: it is to stay, and this one to end."""


class OutboxError(Exception):
    """The file for undelivered events cannot be used; the message is one sentence, as above."""


class DeniedError(Exception):
    """The broker took a message and told that it does not pass it on: its access rules forbid the topic."""
