"""Events as ROS4HRI facial expressions (hri_msgs/Expression of ROS 2, topics of REP-155).

    python3 ros4hri.py [host [port]]      in a shell where ROS 2 and hri_msgs are set up; needs paho-mqtt

Each speaker is a face: `/humans/faces/<speaker>/expression`. The mapping runs without ROS.
"""

import json
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# MELD's seven, in the words of hri_msgs/Expression; IEMOCAP's labels beside them.
EXPRESSIONS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "scared",
    "joy": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprised",
    "ang": "angry",
    "exc": "excited",
    "fru": "annoyed",
    "hap": "happy",
    "neu": "neutral",
    "sad": "sad",
}


@dataclass(frozen=True)
class Expression:
    """The fields of hri_msgs/Expression. stamp: when the speech ended, seconds and nanoseconds since 1970.

    valence, arousal: -1 to 1; confidence: 0 to 1.
    """

    stamp: tuple[int, int]
    expression: str
    valence: float
    arousal: float
    confidence: float


def expression(event: dict[str, Any]) -> Expression:
    """What an event of `telme.emotion/1` says. Raises KeyError for a label that ROS4HRI has no word for."""
    ended = datetime.fromisoformat(event["ended_at"])
    return Expression(
        stamp=(int(ended.timestamp()), 1000 * ended.microsecond),
        expression=EXPRESSIONS[event["emotion"]],
        valence=event["valence"],
        arousal=event["arousal"],
        confidence=event["confidence"],
    )


def topic(event: dict[str, Any]) -> str:
    """Where the expression belongs. ROS names hold letters, digits and underscores, and begin with a letter."""
    name = re.sub(r"\W", "_", event["speaker"], flags=re.ASCII)
    return f"/humans/faces/{name if name[:1].isalpha() else f'face_{name}'}/expression"


def main(host: str = "localhost", port: str = "1883") -> None:
    import paho.mqtt.client as mqtt
    import rclpy
    from hri_msgs.msg import Expression as Message

    rclpy.init()
    node = rclpy.create_node("telme_ros4hri")
    publishers: dict[str, Any] = {}

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe("telme/+/+/utterance", qos=1)

    def on_message(_client: mqtt.Client, _userdata: Any, received: mqtt.MQTTMessage) -> None:
        event = json.loads(received.payload)
        if event["emotion"] not in EXPRESSIONS:
            node.get_logger().warning(f"no expression for {event['emotion']}", once=True)
            return
        shown, name = expression(event), topic(event)
        message = Message()
        message.header.stamp.sec, message.header.stamp.nanosec = shown.stamp
        message.expression = shown.expression
        message.valence, message.arousal, message.confidence = shown.valence, shown.arousal, shown.confidence
        if name not in publishers:
            publishers[name] = node.create_publisher(Message, name, 1)
        publishers[name].publish(message)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect(host, int(port))
    client.loop_start()
    rclpy.spin(node)


if __name__ == "__main__":
    main(*sys.argv[1:])
