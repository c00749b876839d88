"""Prints every final event and who is there.

    python subscriber.py [host [port]]

Needs paho-mqtt. Events that come while it is away are kept by the broker for `mqtt.expiry_s`, a minute unless
telme-stream is told otherwise; one that comes twice is printed once.
"""

import json
import sys
from collections import deque

import paho.mqtt.client as mqtt

seen = deque(maxlen=1000)  # ids of events: after a broken connection the last ones may come again


def on_connect(client, userdata, flags, reason_code, properties):
    client.subscribe([("telme/+/+/utterance", 1), ("telme/+/availability", 1)])


def on_message(client, userdata, message):
    if message.topic.endswith("/availability"):
        node = message.topic.split("/")[1]
        print(f"{node} is {message.payload.decode()}", flush=True)
        return
    event = json.loads(message.payload)
    if event["event_id"] in seen:
        return
    seen.append(event["event_id"])
    said = event["transcript"]["text"] if event["transcript"] else "…"
    print(f"{event['speaker']}: {said} [{event['emotion']} {event['confidence']:.0%}]", flush=True)


host = sys.argv[1] if len(sys.argv) > 1 else "localhost"
port = int(sys.argv[2]) if len(sys.argv) > 2 else 1883
# A name of its own and a session that is kept: nothing is missed in between.
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="subscriber-example", clean_session=False)
client.on_connect = on_connect
client.on_message = on_message
client.connect(host, port)
client.loop_forever()
