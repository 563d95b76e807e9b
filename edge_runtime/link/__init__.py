"""Messages to and from a broker: one small protocol, and what every implementation shares.

`edge_runtime.link.mqtt` speaks to a real broker, `edge_runtime.link.memory` is one for tests.
Neither is imported here, so naming the protocol costs no MQTT library.
"""

from edge_runtime.link.base import (
    Connector,
    Link,
    LinkStats,
    Message,
    OnConnection,
    OnMessage,
    Will,
)
from edge_runtime.link.config import BrokerConfig

__all__ = [
    "BrokerConfig",
    "Connector",
    "Link",
    "LinkStats",
    "Message",
    "OnConnection",
    "OnMessage",
    "Will",
]
