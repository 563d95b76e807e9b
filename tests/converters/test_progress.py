"""Progress shows strangers' words, such as the names of files, and a terminal stays as it was."""

from __future__ import annotations

import pytest

from converters.progress import Terminal
from tests.fakes.operators import ESCAPES, clean


@pytest.mark.parametrize("terminal", [False, True])
def test_names_are_harmless_on_a_terminal(
    terminal: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    progress = Terminal()
    progress.say(f"said {ESCAPES}")
    with progress.count(f"counted {ESCAPES}", 2) as advance, progress.busy(f"busy {ESCAPES}"):
        advance(1, ESCAPES)
    shown = capfd.readouterr().err
    assert "]0;pwned" in shown
    assert "[bold]markup[/bold]" in shown
    if terminal:  # rich's own sequences move the cursor; ours would set the title
        assert "\x1b]0;" not in shown
        assert "\u202e" not in shown
    else:
        assert clean(shown)
