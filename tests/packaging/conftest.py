"""Fixtures of the tests of packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.checkout import Checkout, checkout


@pytest.fixture
def place(tmp_path: Path) -> Checkout:
    """A checkout of one's own."""
    return checkout(tmp_path / "checkout")


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that is only looked at."""
    return checkout(tmp_path_factory.mktemp("deb") / "checkout").built()
