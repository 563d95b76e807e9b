"""Disks that are watched."""

from __future__ import annotations

import os
from typing import Any

import pytest


def recorded_calls(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """A list that grows with each call of these functions of `os`, which still do their work."""
    calls: list[str] = []

    def recording(name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        return call

    for name in names:
        monkeypatch.setattr(os, name, recording(name))
    return calls
