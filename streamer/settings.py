"""Every setting of `telme-stream`, defined once: for flags, environment, YAML file and documentation.

Precedence, highest first: command-line flags, `TELME_…` environment variables, the YAML file, the defaults here.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from streamer.mqtt.address import MqttAddress
from streamer.mqtt.topics import check_stream_name

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
HubBundle = Annotated[str, Field(pattern="^hf://")]
StreamName = Annotated[Name, AfterValidator(check_stream_name)]

_ONLY_STREAM = "main"


def _discovery_prefix(value: object) -> object:
    """`true` is Home Assistant's own default, `false` is none; flags and the environment bring both as text."""
    return {"true": "homeassistant", "false": None}.get(str(value).lower(), value)


DiscoveryPrefix = Annotated[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=64)] | None,
    BeforeValidator(_discovery_prefix),
]


def _listed(value: object) -> object:
    """Flags and the environment bring a list as text with commas."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[Name, ...], BeforeValidator(_listed)]


class _Section(BaseModel):
    # Numbers are names where a name is wanted: `camera: 0` means the device "0".
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    reloadable: ClassVar[tuple[str, ...]] = ()
    """The settings that `reload` changes while the program runs; all others need a restart."""


class Sources(_Section):
    """Where sound and picture come from. A media file brings both; else a microphone, a camera, or both."""

    media: str | None = Field(None, description="media file or URL, with sound and, if it has one, a picture")
    fast: bool = Field(False, description="read a media file as fast as possible instead of at real-time pace")
    microphone: str | None = Field(None, description='name, part of a name, or index; "default" for the system\'s own')
    camera: str | None = Field(None, description="index, device path or URL")
    stall_ms: int = Field(2000, ge=200, le=60_000, description="a device that delivers nothing for so long is reopened")
    reopen_min_ms: int = Field(200, ge=10, le=60_000, description="first pause before a device is reopened; doubles")
    reopen_max_ms: int = Field(
        1000, ge=10, le=600_000, description="longest pause before a device is reopened; opening takes its time, too"
    )

    @model_validator(mode="after")
    def _one_sound(self) -> Self:
        if self.media is not None and (self.microphone is not None or self.camera is not None):
            raise ValueError("a media file brings its own sound and picture: leave out microphone and camera")
        if self.reopen_min_ms > self.reopen_max_ms:
            raise ValueError(
                f"reopen_min_ms ({self.reopen_min_ms} ms) is above reopen_max_ms ({self.reopen_max_ms} ms)"
            )
        return self

    @property
    def has_microphone(self) -> bool:
        """A camera without one has the default microphone listen along."""
        return self.media is None and (self.microphone is not None or self.camera is not None)


class Vad(_Section):
    """Voice activity detection."""

    reloadable = ("aggressiveness", "threshold")

    engine: Literal["webrtc", "silero"] = Field("silero", description="webrtc costs less, silero errs less in noise")
    aggressiveness: int = Field(3, ge=0, le=3, description="webrtc only: 3 rejects the most non-speech")
    threshold: float = Field(0.4, ge=0.1, le=0.9, description="silero only: probability from which a frame is speech")


class Segmentation(_Section):
    """Where utterances begin and end."""

    reloadable = (
        *("start_ms", "pause_ms", "hangover_ms", "update_ms"),
        *("pre_roll_ms", "post_roll_ms", "min_ms", "max_ms"),
    )

    start_ms: int = Field(90, ge=10, le=2000, description="so much speech begins an utterance")
    pause_ms: int = Field(
        200,
        ge=20,
        le=5000,
        description="after so much silence recognition begins, in case it was all; never less than the post-roll",
    )
    hangover_ms: int = Field(500, ge=50, le=5000, description="so much silence ends it")
    update_ms: int | None = Field(
        1000,
        ge=200,
        le=30_000,
        description="so often voice and face are recognised while somebody speaks; null never",
    )
    pre_roll_ms: int = Field(400, ge=0, le=2000, description="sound kept from before the detected start")
    post_roll_ms: int = Field(
        200, ge=0, le=2000, description="sound kept from after the detected end; never more than the hangover"
    )
    min_ms: int = Field(250, ge=0, le=10_000, description="shorter speech is dropped and counted")
    max_ms: int = Field(15_000, ge=1000, le=30_000, description="longer speech is cut into several utterances")
    gap_ms: int = Field(500, ge=50, le=10_000, description="an utterance ends when no samples come for so long")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_ms >= self.max_ms:
            raise ValueError(f"min_ms ({self.min_ms} ms) must be below max_ms ({self.max_ms} ms)")
        if 2 * (self.start_ms + self.pre_roll_ms) > self.max_ms:
            raise ValueError(
                f"start_ms and pre_roll_ms ({self.start_ms} + {self.pre_roll_ms} ms) must be at most half of "
                f"max_ms ({self.max_ms} ms)"
            )
        return self


class Transcription(_Section):
    """Speech to text, and the gates against invented text."""

    reloadable = ("no_speech_max", "no_speech_log_prob_min", "log_prob_min", "compression_max", "repeats_max")

    model: str = Field(
        "tiny.en",
        min_length=1,
        description='faster-whisper name, folder, "package:NAME/FOLDER" for one in an installed package, or "none"',
    )
    language: str | None = Field("en", pattern="^[a-z]{2,3}$", description="ISO 639-1 code; null detects it")
    context: Literal["short", "padded"] = Field(
        "short",
        description="short: decode an utterance on its real length, and again padded where that loops; "
        "padded: always pad it to 30 s, several times slower",
    )
    compute_type: Literal["int8", "int8_float32", "int8_float16", "float16", "float32"] = "int8"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: int = Field(1, ge=1, le=64)
    beam_size: int = Field(1, ge=1, le=10)
    no_speech_max: float = Field(
        0.6,
        gt=0,
        le=1,
        description="text is rejected above this no-speech probability, if its log-probability is low too",
    )
    no_speech_log_prob_min: float = Field(-0.5, le=0, description="what counts as low beside no_speech_max")
    log_prob_min: float = Field(-1.0, le=0, description="text is rejected below this mean token log-probability")
    compression_max: float = Field(
        2.4, gt=1, description="text that zlib shrinks by more than this factor is rejected as repetition"
    )
    repeats_max: int = Field(
        3,
        ge=1,
        le=20,
        description="the same phrase more often than so in a row is rejected; one or two words, twice as often",
    )


class Dialogue(_Section):
    """The rolling context that the text teacher reads."""

    reloadable = ("turns_max", "text_max_chars", "reset_after_s")

    turns_max: int = Field(12, ge=1, le=200, description="the oldest turn is forgotten first")
    text_max_chars: int = Field(1000, ge=1, le=10_000, description="longer turns keep their last characters")
    reset_after_s: float = Field(60.0, gt=0, le=86_400, description="a silence of so long begins a new dialogue")
    speaker: Name = Field("person", description="who speaks into this source")
    robot: Name = Field("robot", description="who says what arrives on dialogue/add without a speaker")


class Speakers(_Section):
    """Telling the people apart who share one source, by their voices and by whose mouth moves."""

    people_max: int = Field(1, ge=1, le=16, description="at most so many people; 1 tells nobody apart")
    names: Names = Field(
        (), max_length=16, description="of the people as they come; others are <dialogue.speaker>-1, -2 and so on"
    )
    likeness_min: float = Field(
        0.65, gt=0, lt=1, description="cosine from which on a voice is somebody's known, else it is a new person's"
    )
    min_ms: int = Field(
        1000, ge=100, le=10_000, description="shorter speech goes to whom it is most like, and nobody new is made of it"
    )
    seat_likeness: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="where the camera sees several people, a voice is so much more like that of whoever sits where a "
        "mouth moves, and so much less like a listener's; 0 trusts voices alone",
    )


class Recognition(_Section):
    """The emotion recogniser."""

    bundle: HubBundle | Path | None = Field(
        None, description="bundle directory, or hf://org/name on a model hub; null is the compact one that ships"
    )
    fallback: HubBundle | Path | None = Field(
        None,
        description='bundle to run where the GPU or TensorRT here is not what `bundle` was made for; "compact" is the '
        "one that ships, null stops with a sentence",
    )
    threads: int = Field(1, ge=1, le=64, description="of each model part")
    at_once: int = Field(
        2,
        ge=1,
        le=64,
        description="streams of one process that are worked for at the same time, together where a model takes "
        "several utterances, else in a thread each; the others take turns",
    )
    speculate: bool = Field(
        True, description="begin before an utterance is over; false waits for its end and publishes finals only"
    )
    queue_max: int = Field(
        8,
        ge=1,
        le=1000,
        description="utterances waiting; from a live source the oldest is dropped and counted when full",
    )


class Mqtt(_Section):
    """Where events are published."""

    url: MqttAddress | None = Field(None, description="mqtt://[user@]host[:port] or mqtts://…; null publishes nowhere")
    broker: Literal["none", "embedded"] = Field("none", description="embedded: start an MQTT 3.1.1 broker on loopback")
    broker_port: int = Field(1883, ge=0, le=65_535, description="of the embedded broker; 0 takes a free one")
    password_file: Path | None = Field(None, description="file with the password; else TELME_MQTT_PASSWORD")
    ca_file: Path | None = Field(None, description="mqtts: certificate authority; null trusts the system's")
    cert_file: Path | None = Field(None, description="mqtts: client certificate")
    key_file: Path | None = Field(None, description="mqtts: key of the client certificate")
    keep_alive_s: int = Field(30, ge=5, le=3600)
    connect_timeout_s: float = Field(10.0, gt=0, le=300, description="longest wait for any answer of the broker")
    flush_s: float = Field(3.0, ge=0, le=300, description="longest time for delivering waiting events when stopped")
    expiry_s: int = Field(60, ge=1, le=86_400, description="MQTT 5: the broker forgets an event after so long")
    outbox: str = Field(
        "auto",
        description="file that keeps undelivered events; auto: telme-live/outbox-<node>.sqlite3 in XDG_STATE_HOME or "
        "~/.local/state, memory with the embedded broker; none: memory",
    )
    outbox_sync: Literal["normal", "full"] = Field(
        "full", description="full survives a power cut, normal only the end of the program and costs less"
    )
    queue_max: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="events waiting for the broker; the oldest is dropped and counted when full",
    )
    queue_max_mb: int = Field(32, ge=1, le=10_000, description="megabytes of them; likewise")
    queue_max_age_s: int = Field(86_400, ge=1, le=31_536_000, description="events that waited longer are dropped")
    home_assistant: DiscoveryPrefix = Field(
        None, description="true has Home Assistant show the node; or its discovery prefix, where that was changed there"
    )

    @model_validator(mode="after")
    def _one_broker(self) -> Self:
        if self.broker == "embedded" and self.url is not None:
            raise ValueError("url and broker: embedded exclude each other")
        return self

    @model_validator(mode="after")
    def _files_fit(self) -> Self:
        files = {"ca_file": self.ca_file, "cert_file": self.cert_file, "key_file": self.key_file}
        given = [name for name, file in files.items() if file is not None]
        if given and not (self.url is not None and self.url.tls):
            raise ValueError(f"{given[0]} is for encrypted connections: the url must begin with mqtts://")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        if self.password_file is not None and self.url is not None and self.url.user is None:
            raise ValueError("password_file needs a user in the url, as in mqtt://user@host")
        return self


class Output(_Section):
    """What a person or a program sees locally."""

    reloadable = ("transcript",)

    json_lines: bool = Field(False, description="one event a line on stdout, instead of the live view")
    view: bool = Field(True, description="false shows no live view, which a service's log would keep")
    provisional: bool = Field(False, description="true has provisional events among the JSON lines, too")
    transcript: bool = Field(True, description="false keeps what was said out of events")
    viewer_port: int | None = Field(None, ge=0, le=65_535, description="serve the live page on this loopback port")
    report: bool = Field(False, description="say at the end how late events were and what was lost")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="serve /metrics for Prometheus and /healthz for supervisors on this port; 0 takes a free one",
    )
    metrics_host: str = Field("127.0.0.1", min_length=1, description="address at which both are served, to anybody")


class Health(_Section):
    """When a supervisor is to end this program and start it again."""

    reloadable = ("recognition_s", "source_s")

    recognition_s: float = Field(
        60.0, ge=1, le=3600, description="recognition that finishes nothing for so long, though it has work, is stuck"
    )
    source_s: float | None = Field(
        None,
        ge=5,
        le=86_400,
        description="a live source that was away for so long calls for a restart; null: it is looked for without end",
    )


class Log(_Section):
    """Logs on stderr."""

    reloadable = ("level", "format", "transcripts")

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["human", "json"] = "human"
    transcripts: bool = Field(False, description="true lets logs quote what was said")


class StreamSettings(_Section):
    """Settings of one `telme-stream` process.

    `streams` names several streams; `stream` and `sources` are those of the only one.
    """

    node: Name = Field("telme", description="this machine's name in topics: telme/<node>/…")
    stream: StreamName = Field(_ONLY_STREAM, description="this stream's name in topics: telme/<node>/<stream>/…")
    streams: dict[StreamName, Sources] = Field(
        {},
        max_length=64,
        description="several streams in this process, in place of `stream` and `sources`: a section like `sources` "
        "for each name, as in {kitchen: {media: rtsp://camera/1}, hall: {microphone: default, camera: 0}}",
    )
    stop_s: float = Field(
        10.0, gt=0, le=300, description="longest time for finishing the utterance in hand when stopped"
    )
    sources: Sources = Sources()
    vad: Vad = Vad()
    segmentation: Segmentation = Segmentation()
    transcription: Transcription = Transcription()
    dialogue: Dialogue = Dialogue()
    speakers: Speakers = Speakers()
    recognition: Recognition = Recognition()
    mqtt: Mqtt = Mqtt()
    output: Output = Output()
    health: Health = Health()
    log: Log = Log()

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.streams and (self.sources != Sources() or self.stream != _ONLY_STREAM):
            raise ValueError(
                "streams takes the place of stream and sources: "
                f"give the source of {self.stream!r} a name among the streams, too"
            )
        for name, sources in self.streams.items():
            if sources.media is None and not sources.has_microphone:
                raise ValueError(f"stream {name!r} has no source: give it media, a microphone or a camera")
        # PortAudio finds a microphone that comes back only after it has closed all that are open.
        listening = [name for name, sources in self.streams.items() if sources.has_microphone]
        if len(listening) > 1:
            raise ValueError(
                f"{' and '.join(map(repr, listening))} both listen to a microphone, which only one stream of a process "
                "may do: start one telme-stream for each"
            )
        return self

    def each(self) -> tuple["StreamSettings", ...]:
        """The settings of every stream, as those of a process of its own."""
        if not self.streams:
            return (self,)
        alone = ({"stream": name, "sources": sources, "streams": {}} for name, sources in self.streams.items())
        return tuple(self.model_copy(update=update) for update in alone)
