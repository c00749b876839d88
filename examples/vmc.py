"""Events on an avatar's face, by the VMC protocol (https://protocol.vmc.info).

    python vmc.py [--mqtt localhost:1883] [--vmc 127.0.0.1:39540] [--vrm 0|1]

Needs paho-mqtt and python-osc. The face moves as soon as something is recognised, provisionally at first, and falls
back to neutral. In the protocol's words this is an assistant, and speaks to a performer (VSeeFace …) on port 39540.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import paho.mqtt.client as mqtt
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.udp_client import UDPClient

FRAMES_HZ = 30
ATTACK_S = 0.15  # time constants of moving towards an expression, and of falling back
RELEASE_S = 1.5
HOLD_S = 2.0  # so long an expression stays

# Blend shapes are told by exact name. VRM 0 has no surprise of its own, but many models (VRoid's) have; neither version
# has fear or disgust: those borrow from their neighbours.
VRM_0 = {
    "anger": {"Angry": 1.0},
    "disgust": {"Angry": 0.5, "Sorrow": 0.3},
    "fear": {"Sorrow": 0.6, "Surprised": 0.4},
    "joy": {"Joy": 1.0},
    "neutral": {"Neutral": 1.0},
    "sadness": {"Sorrow": 1.0},
    "surprise": {"Surprised": 1.0},
}
_IN_VRM_1 = {"Angry": "angry", "Joy": "happy", "Neutral": "neutral", "Sorrow": "sad", "Surprised": "surprised"}
VRM_1 = {label: {_IN_VRM_1[shape]: weight for shape, weight in shapes.items()} for label, shapes in VRM_0.items()}

Weights = dict[str, float]


def blend(scores: Mapping[str, float], shapes: Mapping[str, Weights]) -> Weights:
    """Blend shape weights, 0 to 1, under the probabilities of the labels. Labels without a shape show nothing."""
    weights = dict.fromkeys((name for mixture in shapes.values() for name in mixture), 0.0)
    for label, probability in scores.items():
        for name, weight in shapes.get(label, {}).items():
            weights[name] += probability * weight
    return weights


class Face:
    """Moves smoothly to what was last seen, holds it for `HOLD_S`, and falls back to neutral. Times in seconds."""

    def __init__(self, shapes: Mapping[str, Weights]) -> None:
        self._shapes = shapes
        self._neutral = blend({"neutral": 1.0}, shapes)
        self._target = self._neutral
        self._weights = dict(self._neutral)
        self._seen = -math.inf
        self._now: float | None = None

    def see(self, event: Mapping[str, Any], now: float) -> None:
        """Show an event of `telme.emotion/1`."""
        self._target = blend(event["scores"], self._shapes)
        self._seen = now

    def weights(self, now: float) -> Weights:
        """Where the face has got to. An exponential approach: the same for any frame rate."""
        elapsed = 0.0 if self._now is None else now - self._now
        self._now = now
        holding = now - self._seen < HOLD_S
        target, constant_s = (self._target, ATTACK_S) if holding else (self._neutral, RELEASE_S)
        moved = 1.0 - math.exp(-elapsed / constant_s)
        for name, weight in target.items():
            self._weights[name] += moved * (weight - self._weights[name])
        return dict(self._weights)


def send(weights: Weights, client: UDPClient) -> None:
    """All weights and the word to apply them, in one packet, so that none is applied without the others."""
    bundle = OscBundleBuilder(IMMEDIATELY)
    for name, weight in weights.items():
        message = OscMessageBuilder("/VMC/Ext/Blend/Val")
        message.add_arg(name, OscMessageBuilder.ARG_TYPE_STRING)
        message.add_arg(weight, OscMessageBuilder.ARG_TYPE_FLOAT)
        bundle.add_content(message.build())
    bundle.add_content(OscMessageBuilder("/VMC/Ext/Blend/Apply").build())
    client.send(bundle.build())


def main() -> None:
    parser = argparse.ArgumentParser(description="Emotion events on an avatar's face.")
    parser.add_argument("--mqtt", default="localhost:1883", metavar="HOST:PORT")
    parser.add_argument("--vmc", default="127.0.0.1:39540", metavar="HOST:PORT")
    parser.add_argument("--vrm", type=int, choices=[0, 1], default=0, help="version whose names the avatar uses")
    options = parser.parse_args()
    face = Face(VRM_0 if options.vrm == 0 else VRM_1)

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe([("telme/+/+/provisional", 0), ("telme/+/+/utterance", 1)])

    def on_message(_client: mqtt.Client, _userdata: Any, received: mqtt.MQTTMessage) -> None:
        face.see(json.loads(received.payload), time.monotonic())

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_connect = on_connect
    client.on_message = on_message
    host, _, port = options.mqtt.rpartition(":")
    client.connect(host, int(port))
    client.loop_start()
    host, _, port = options.vmc.rpartition(":")
    with UDPClient(host, int(port)) as avatar:
        while True:
            send(face.weights(time.monotonic()), avatar)
            time.sleep(1 / FRAMES_HZ)


if __name__ == "__main__":
    main()
