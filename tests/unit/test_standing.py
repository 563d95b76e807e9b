"""One line says how a device stands, to whoever looks at `systemctl status`."""

from __future__ import annotations

from dataclasses import replace

from edge_runtime.agent.standing import standing
from edge_runtime.messages.fleet import Accelerator, BundleRef, Progress
from edge_runtime.update.driver import Status

NOTHING = Status(0, "idle", None, None, (), None, 0, 0.0, "", "tuf")
SERVING = replace(NOTHING, active=BundleRef("tiny", "1.0.0", "ab" * 32))
CPU = Accelerator("litert-cpu", "litert", "ai-edge-litert 2.3.0: cpu")
API = "127.0.0.1:8080"


def test_which_bundle_serves_and_by_which_variant() -> None:
    assert standing(SERVING, CPU, api=API, broker=True) == (
        "tiny 1.0.0 serves by litert-cpu (ai-edge-litert 2.3.0: cpu), api 127.0.0.1:8080"
    )


def test_that_none_serves_and_whether_there_is_one() -> None:
    assert standing(None, None, api=API, broker=None) == f"no bundle yet, api {API}"
    assert standing(NOTHING, None, api=API, broker=None) == f"no bundle yet, api {API}"
    assert standing(SERVING, None, api=API, broker=None) == (
        f"tiny 1.0.0 does not serve now, api {API}"
    )


def test_what_is_wrong_stands_out() -> None:
    degraded = replace(CPU, degraded="hexagon: the delegate cannot be loaded")
    waiting = replace(SERVING, state="waiting", reason="the disk is full")
    line = standing(waiting, degraded, api=API, broker=False)
    assert ", DEGRADED: hexagon: the delegate cannot be loaded, " in line
    assert ", waiting: the disk is full, broker away, api" in line


def test_an_update_under_way_says_how_far_it_is() -> None:
    fetching = replace(SERVING, state="fetching", progress=Progress(120, 400, 0))
    assert ", fetching: 120 of 400 chunks, " in standing(fetching, CPU, api=API, broker=True)
    on_trial = replace(SERVING, state="trial")
    assert "tiny 1.0.0 serves on trial by" in standing(on_trial, CPU, api=API, broker=True)
