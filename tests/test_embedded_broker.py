"""The broker inside the program."""

import asyncio
import contextlib
import socket
import threading
import time

import paho.mqtt.client as paho
import pytest
from brokers import Subscriber, free_port, until

from streamer.mqtt import embedded
from streamer.mqtt.address import Address
from streamer.mqtt.embedded import EmbeddedBroker
from streamer.mqtt.errors import BrokerError


def port_of(broker: EmbeddedBroker) -> int:
    return Address.parse(broker.url).port


def subscriber(broker: EmbeddedBroker) -> Subscriber:
    return Subscriber(port_of(broker), protocol=paho.MQTTv311)


async def test_messages_go_through_and_retained_ones_stay() -> None:
    async with EmbeddedBroker(0) as broker:
        with subscriber(broker) as first:
            first.publish("telme/x", "kept", retain=True)
            first.publish("telme/y", "gone")
            await first.wait_for("", 2)
        with subscriber(broker) as second:
            await second.wait_for("")
            # In a set, as QoS 1 may bring it twice.
            assert {(heard.topic, heard.payload, heard.retain) for heard in second.heard} == {("telme/x", "kept", True)}


async def test_it_listens_on_loopback_only_and_on_the_port_that_is_asked_for() -> None:
    port = free_port()
    async with EmbeddedBroker(port) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=1)


async def test_a_port_in_use_is_named() -> None:
    async with EmbeddedBroker(0) as broker:
        with pytest.raises(BrokerError, match=rf"port {port_of(broker)} .*Address already in use"):
            async with EmbeddedBroker(port_of(broker)):
                pass


async def test_it_ends_at_once_even_with_clients_that_say_nothing() -> None:
    async with EmbeddedBroker(0) as broker:
        with subscriber(broker):
            began = time.monotonic()
            silent = socket.create_connection(("127.0.0.1", port_of(broker)))
            await asyncio.sleep(0.1)
    assert time.monotonic() - began < 4
    silent.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "embedded-broker"]


async def test_it_can_be_started_again_on_the_same_port() -> None:
    port = free_port()
    for _ in range(2):
        async with EmbeddedBroker(port) as broker:
            with subscriber(broker) as listening:
                listening.publish("telme/x", "1")
                await listening.wait_for("/x")


async def test_rubbish_costs_only_its_sender_the_connection() -> None:
    async with EmbeddedBroker(0) as broker:
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\xff", b"\x00" * 100, bytes(range(256))):
            with socket.create_connection(("127.0.0.1", port_of(broker))) as client, contextlib.suppress(OSError):
                client.sendall(rubbish)
                client.shutdown(socket.SHUT_WR)
        with subscriber(broker) as listening:
            listening.publish("telme/x", "1")
            await listening.wait_for("/x")


async def test_more_clients_than_allowed_are_turned_away() -> None:
    async with EmbeddedBroker(0, connections_max=2) as broker:
        with subscriber(broker) as first, subscriber(broker):
            with socket.create_connection(("127.0.0.1", port_of(broker)), timeout=5) as third:
                assert await asyncio.to_thread(third.recv, 1) == b""
            first.publish("telme/x", "1")
            await first.wait_for("/x")


async def test_a_packet_that_is_too_large_costs_its_sender_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "PACKET_BYTES_MAX", 10_000)
    async with EmbeddedBroker(0) as broker:
        with subscriber(broker) as listening, subscriber(broker) as sending:
            sending.publish("telme/small", "x" * 9_000)
            await listening.wait_for("/small")
            sending._client.publish("telme/large", "x" * 11_000)
            await until(lambda: "a packet of more than 10000 bytes" in caplog.text)
            listening.publish("telme/after", "1")
            await listening.wait_for("/after")
            assert listening.on("/large") == []


async def test_who_says_nothing_or_says_it_slowly_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CONNECT_S", 0.5)
    async with EmbeddedBroker(0) as broker:
        with subscriber(broker) as listening:
            for begun in (b"", bytes.fromhex("10200004"), b"\x10"):
                with socket.create_connection(("127.0.0.1", port_of(broker)), timeout=20) as client:
                    client.sendall(begun)
                    assert await asyncio.to_thread(client.recv, 1) == b""
            await asyncio.sleep(0.6)
            listening.publish("telme/x", "1")
            await listening.wait_for("/x")
            assert listening.connections == 1
