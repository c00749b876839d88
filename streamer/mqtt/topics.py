"""The names of all MQTT topics of one node: `telme/<node>/…`."""

from dataclasses import dataclass

_NOT_FOR_STREAMS = ("availability", "dialogue", "info", "request", "response")


def check_stream_name(name: str) -> str:
    """Return `name`; raises ValueError where the topics of a stream called so would clash with the node's own."""
    if name in _NOT_FOR_STREAMS:
        raise ValueError(f"a stream cannot be called {name!r}: its topics would clash with telme/<node>/{name}")
    return name


@dataclass(frozen=True)
class Topics:
    """Topics of the node called `node`; a name holds no `/`, `+` or `#`."""

    node: str

    @property
    def root(self) -> str:
        return f"telme/{self.node}"

    @property
    def availability(self) -> str:
        """Retained: `online`, `stopped` after a clean end, `offline` after any other (the last will)."""
        return f"{self.root}/availability"

    @property
    def info(self) -> str:
        """Retained: what runs here."""
        return f"{self.root}/info"

    @property
    def dialogue_add(self) -> str:
        """Incoming: what somebody said whom no source hears, as the robot itself."""
        return f"{self.root}/dialogue/add"

    @property
    def requests(self) -> str:
        """Incoming: the filter that matches every request."""
        return self.request("+")

    def request(self, verb: str) -> str:
        return f"{self.root}/request/{verb}"

    def verb(self, topic: str) -> str | None:
        """The verb of a request's topic; None for another topic."""
        head, _, verb = topic.rpartition("/")
        return verb if head == f"{self.root}/request" else None

    def response(self, verb: str) -> str:
        return f"{self.root}/response/{verb}"

    def utterance(self, stream: str) -> str:
        """Every final event of a stream."""
        return f"{self.root}/{stream}/utterance"

    def provisional(self, stream: str) -> str:
        """What can be said of an utterance before it is over."""
        return f"{self.root}/{stream}/provisional"

    def state(self, stream: str) -> str:
        """Retained: the latest final event of a stream."""
        return f"{self.root}/{stream}/state"

    def label(self, stream: str) -> str:
        """The emotion alone, in plain text, as are the three numbers below."""
        return f"{self.root}/{stream}/label"

    def confidence(self, stream: str) -> str:
        return f"{self.root}/{stream}/confidence"

    def valence(self, stream: str) -> str:
        return f"{self.root}/{stream}/valence"

    def arousal(self, stream: str) -> str:
        return f"{self.root}/{stream}/arousal"
