"""Addresses of brokers, as people write them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamer.mqtt.address import Address
from streamer.settings import Mqtt

hosts = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True) | st.sampled_from(["::1", "127.0.0.1"])
addresses = st.builds(
    Address,
    host=hosts,
    port=st.integers(1, 65_535),
    user=st.none() | st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    tls=st.booleans(),
)


@given(addresses)
def test_what_is_written_is_read_again(address: Address) -> None:
    assert Address.parse(str(address)) == address


def test_defaults() -> None:
    assert Address.parse("mqtt://robot.local") == Address("robot.local", 1883)
    assert Address.parse("mqtts://alice@robot.local/") == Address("robot.local", 8883, "alice", tls=True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:1883", "begins with mqtt://"),
        ("http://localhost", "begins with mqtt://"),
        ("", "begins with mqtt://"),
        ("mqtt://", "lacks a host"),
        ("mqtt://:1883", "lacks a host"),
        ("mqtt://host/topic", "ends after the port"),
        ("mqtt://host?x=1", "ends after the port"),
        ("mqtt://host:port", "from 1 to 65535"),
        ("mqtt://host:0", "from 1 to 65535"),
        ("mqtt://host:65536", "from 1 to 65535"),
        ("mqtt://[::1", "no URL"),
    ],
)
def test_a_wrong_address_is_refused_with_what_is_wrong(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Address.parse(url)


@given(st.text("0123456789%+._~", min_size=6, max_size=12))
def test_a_password_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(ValueError, match="TELME_MQTT_PASSWORD") as refusal:
        Address.parse(f"mqtt://user:{password}@host")
    assert password not in str(refusal.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        Address.parse(text)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "mqtt://host", "ca_file": "ca.pem"}, "must begin with mqtts://"),
        ({"url": "mqtts://host", "cert_file": "c.pem"}, "belong together"),
        ({"url": "mqtt://host", "password_file": "p"}, "needs a user"),
        ({"url": "mqtt://host", "broker": "embedded"}, "exclude each other"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Mqtt.model_validate(settings)
