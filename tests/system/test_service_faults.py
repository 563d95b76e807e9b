"""What breaks while the installed service runs: who hangs, who dies, who eats memory."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator

import pytest

from tests.fakes.agents import wait_for
from tests.machine.fleet import MODEL
from tests.machine.service import UNIT, Service

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900), pytest.mark.full]
SHORT_WATCHDOG = "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n"


def test_a_supervisor_that_hangs_is_ended_by_the_watchdog_and_serves_again(agent: Service) -> None:
    agent.wait_ready()
    assert agent.show("WatchdogUSec") not in ("0", "infinity"), "nobody watches"
    # The packaged value is a minute, and so would this test be.
    agent.drop_in("short", SHORT_WATCHDOG)
    try:
        agent.restart()
        agent.wait_ready()
        # Fed: it outlives its time more than once.
        time.sleep(9)
        assert agent.restarts == 0
        hung, cursor = agent.pid, agent.cursor()
        agent.signal("STOP", hung)
        assert agent.api.answer(MODEL) == "1.0.0", "the worker serves on"
        wait_for("another one", lambda: agent.pid not in (0, hung))
        agent.wait_ready()
        assert "Watchdog timeout" in agent.journal(cursor)
        assert agent.restarts == 1
    finally:
        agent.undo("short")


def test_a_worker_that_hangs_is_replaced_by_the_supervisor(agent: Service) -> None:
    agent.restart()
    agent.wait_ready()
    supervisor = agent.pid
    (worker,) = agent.workers()
    agent.signal("STOP", worker)
    wait_for("another worker", lambda: agent.workers() and worker not in agent.workers())
    agent.wait_ready()
    assert agent.api.answer(MODEL) == "1.0.0"
    assert (agent.restarts, agent.pid) == (0, supervisor)


def test_a_service_that_dies_again_and_again_is_started_again_and_again(agent: Service) -> None:
    agent.drop_in("quick", "[Service]\nRestartSec=100ms\n")
    try:
        agent.restart()
        for _ in range(8):
            killed = int(wait_for("a supervisor", lambda: agent.pid))
            agent.signal("KILL", killed)
            wait_for("its end", functools.partial(gone, agent, killed))
        agent.wait_ready()
        assert agent.show("Result") == "success"
    finally:
        agent.undo("quick")


def gone(agent: Service, pid: int) -> bool:
    """Whether this supervisor is no more."""
    return agent.pid != pid


def test_a_worker_that_takes_more_memory_than_it_may_is_ended_and_the_agent_lives(
    agent: Service,
) -> None:
    with memory(agent, 0.75) as cursor:
        supervisor = agent.pid
        wait_for("its end", lambda: "ended by signal SIGKILL" in agent.journal(cursor))
        assert (agent.pid, agent.restarts) == (supervisor, 0)


def test_where_memory_is_not_enough_for_anything_the_service_is_started_again_and_again(
    agent: Service,
) -> None:
    with memory(agent, 0.5) as cursor:
        wait_for("two restarts", lambda: agent.restarts >= 2)
        assert "code=killed, status=9/KILL" in agent.journal(cursor)
        assert agent.show("ActiveState") in ("active", "activating"), "it has given up"


@contextlib.contextmanager
def memory(agent: Service, share: float) -> Iterator[str]:
    """Only so much of what it takes now; the journal's cursor. Afterwards it must serve again."""
    agent.restart()
    agent.wait_ready()
    limit = int(int(agent.show("MemoryCurrent")) * share)
    cursor = agent.cursor()
    agent.drop_in("little", f"[Service]\nMemoryMax={limit}\nMemorySwapMax=0\n")
    try:
        agent.restart()
        yield cursor
    finally:
        agent.undo("little")
    agent.restart()
    agent.wait_ready()
    assert agent.api.answer(MODEL) == "1.0.0"


def test_what_the_service_says_is_in_the_journal_with_its_level(agent: Service) -> None:
    agent.restart()
    agent.wait_ready()
    lines = agent.machine.sh(
        f"journalctl --boot --unit={UNIT} --output=json --output-fields=PRIORITY,MESSAGE"
    )
    assert '"PRIORITY":"6"' in lines
    assert "serving" in lines
