"""The TLS side of a connection to a broker."""

import ssl

from streamer.mqtt.errors import BrokerError
from streamer.settings import Mqtt


def tls_context(settings: Mqtt) -> ssl.SSLContext:
    """What `mqtts://` trusts and shows. Reads files, so it can block. Raises BrokerError when one does not do."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:
        raise BrokerError(f"mqtt.ca_file {settings.ca_file} is no readable PEM certificate ({error})") from None
    if settings.cert_file is not None:
        try:
            # An empty password keeps OpenSSL from asking for one at the terminal.
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except (OSError, ValueError) as error:
            raise BrokerError(
                f"mqtt.cert_file {settings.cert_file} and mqtt.key_file {settings.key_file} are no readable, "
                f"unencrypted PEM pair ({error})"
            ) from None
    return context
