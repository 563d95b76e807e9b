"""A small MQTT broker in a process of its own, for the demo and for tests without a real one.

    python -m examples.demo.broker --port 0

prints `host:port` on one line once it accepts connections, and ends on SIGTERM or Ctrl-C. It
speaks MQTT 3.1.1, forgets everything when it ends, and lets anyone in: bind it to loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop. 0 stopped, 1 could not listen or lacks its library."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo.broker", description="A small MQTT 3.1.1 broker."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=1883, help="0 takes a free one (%(default)s)")
    args = parser.parse_args(argv)
    # The library logs every client at INFO and warns about what it does itself.
    logging.basicConfig(level=logging.CRITICAL)
    logging.captureWarnings(True)
    try:
        listener = _listen(args.host, args.port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        print(f"broker: cannot listen on {args.host}:{args.port}: {reason}", file=sys.stderr)
        return 1
    try:
        return asyncio.run(_serve(listener))
    except ImportError:
        print("broker: the package amqtt is missing; pip install amqtt", file=sys.stderr)
        return 1


def _listen(host: str, port: int) -> socket.socket:
    """Bound and listening, so that a taken port is known before anything else starts."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


async def _serve(listener: socket.socket) -> int:
    from examples.demo.amqtt_broker import MendedBroker

    host, port = listener.getsockname()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = MendedBroker()
    await broker.start()
    server = await asyncio.start_server(broker.serve, sock=listener)
    print(f"{host}:{port}", flush=True)
    await stop.wait()
    server.close()
    await broker.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
