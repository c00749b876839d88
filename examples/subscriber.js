// Prints every final event and who is there.
//
//     node subscriber.js [mqtt://host:port]
//
// Needs mqtt.js: npm install --no-save mqtt. Events that come while it is away are kept by the broker for mqtt.expiry_s,
// a minute unless telme-stream is told otherwise; one that comes twice is printed once.

const mqtt = require("mqtt");

// A name of its own and a session that is kept: nothing is missed in between.
const url = process.argv[2] ?? "mqtt://localhost:1883";
const client = mqtt.connect(url, { clientId: "subscriber-example-js", clean: false });
const seen = new Set(); // ids of events: after a broken connection the last ones may come again

client.on("connect", () => client.subscribe(["telme/+/+/utterance", "telme/+/availability"], { qos: 1 }));
client.on("error", (error) => console.error(error.message));

client.on("message", (topic, payload) => {
  if (topic.endsWith("/availability")) {
    console.log(`${topic.split("/")[1]} is ${payload}`);
    return;
  }
  const event = JSON.parse(payload);
  if (seen.has(event.event_id)) return;
  seen.add(event.event_id);
  if (seen.size > 1000) seen.delete(seen.values().next().value); // the oldest
  const said = event.transcript?.text ?? "…";
  console.log(`${event.speaker}: ${said} [${event.emotion} ${Math.round(100 * event.confidence)}%]`);
});
