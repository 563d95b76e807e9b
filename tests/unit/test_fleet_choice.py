"""Each device gets the release of its own profile, or nobody gets any."""

from __future__ import annotations

import dataclasses

import pytest

from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fleet.choice import choose
from edge_runtime.fleet.inventory import Device
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import Release
from tests.fakes.messages import RELEASE
from tests.fakes.operators import ESCAPES, IDLE, TOPICS, keep, operator

X86 = RELEASE
PI = dataclasses.replace(
    RELEASE,
    profile="raspberry-pi-5",
    manifest=dataclasses.replace(RELEASE.manifest, sha256="cd" * 32),
)
SAME = dataclasses.replace(RELEASE, profile="raspberry-pi-5")
"""Of the bundle of X86, which is made for both."""
NEW = Device("new")


def device(id: str, profile: str) -> Device:
    return Device(id, online=True, reported=dataclasses.replace(IDLE, profile=profile))


D1, D2 = device("d1", "generic-x86_64"), device("d2", "raspberry-pi-5")


def published(*releases: Release) -> MemoryBroker:
    broker = MemoryBroker()
    for release in releases:
        keep(broker, TOPICS.metadata(release.file), release.to_bytes())
    return broker


def chosen(
    broker: MemoryBroker, *devices: Device, profile: str | None = None
) -> tuple[Release, ...]:
    with operator(broker) as connection:
        return choose(connection, "demo", "1.0.0", devices, profile)


def test_each_device_gets_the_release_of_its_profile() -> None:
    assert chosen(published(X86, PI), D2, D1, D2) == (PI, X86, PI)


def test_the_profile_that_the_operator_names_is_for_all() -> None:
    assert chosen(published(X86, PI), D2, D1, NEW, profile="generic-x86_64") == (X86,) * 3


def test_a_bundle_for_several_boards_reaches_each_by_its_own_release() -> None:
    broker = published(X86, SAME)
    assert chosen(broker, D2, D1) == (SAME, X86)
    assert chosen(broker, D2, NEW, D1) == (SAME, X86, X86)
    assert chosen(broker, D2, D1, profile="generic-x86_64") == (SAME, X86)
    jetson = device("d3", "jetson")
    with pytest.raises(InputError, match="but d3 has profile jetson; nothing was deployed"):
        chosen(broker, D1, jetson)


def test_a_bundle_for_several_boards_beside_another_one_is_not_the_only_one() -> None:
    third = dataclasses.replace(PI, profile="imx93")
    with pytest.raises(InputError, match="new never reported which it is"):
        chosen(published(X86, SAME, third), NEW)
    broker = published(X86, SAME)
    keep(broker, TOPICS.metadata("demo@1.0.0@imx93.json"), b"{")
    with pytest.raises(InputError, match="new never reported which it is"):
        chosen(broker, NEW)


@pytest.mark.parametrize("silent", [NEW, device("new", ""), Device("new", unreadable=("x",))])
def test_a_device_that_never_reported_gets_the_only_release(silent: Device) -> None:
    newer = dataclasses.replace(X86, version="2.0.0")
    assert chosen(published(PI, newer), silent) == (PI,)
    assert chosen(published(PI, newer), D2, silent) == (PI, PI)


def test_with_two_profiles_a_device_that_never_reported_needs_one() -> None:
    with pytest.raises(InputError) as error:
        chosen(published(X86, PI), D1, NEW)
    assert str(error.value) == (
        "release demo==1.0.0: published for generic-x86_64, raspberry-pi-5, and new never reported "
        "which it is; say which of these, as in --profile generic-x86_64; nothing was deployed"
    )


@pytest.mark.parametrize("profile", ["jetson", "generic-x86_64+", "#", "a/b", ESCAPES])
def test_a_profile_without_a_release_is_answered_with_those_that_have_one(profile: str) -> None:
    with pytest.raises(InputError) as error:
        chosen(published(X86, PI), D1, device("d3", profile), NEW)
    assert str(error.value) == (
        "release demo==1.0.0: published for generic-x86_64, raspberry-pi-5, but d3 has profile "
        f"{profile}; nothing was deployed"
    )


def test_a_named_profile_without_a_release_is_answered_the_same_way() -> None:
    says = "published for generic-x86_64, not for jetson; nothing was deployed"
    with pytest.raises(InputError, match=says):
        chosen(published(X86), D1, profile="jetson")


def test_a_release_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"demo==1\.0\.0: .* nothing is published there yet"):
        chosen(MemoryBroker(), D1)
    newer = [dataclasses.replace(one, version="2.0.0") for one in (X86, PI)]
    another = dataclasses.replace(X86, name="another")
    for silent in (D1, NEW):
        with pytest.raises(InputError, match=r"published are demo==2\.0\.0$"):
            chosen(published(*newer, another), silent)
        with pytest.raises(InputError, match=r"published are another==1\.0\.0$"):
            chosen(published(another), silent)


def test_what_cannot_be_read_is_never_chosen_and_hides_no_other() -> None:
    broker = published(X86)
    keep(broker, TOPICS.metadata(PI.file), b"garbage")
    assert chosen(broker, D1) == (X86,)
    with pytest.raises(UntrustedError, match="not valid JSON"):
        chosen(broker, D1, D2)
    with pytest.raises(InputError, match="say which of these, as in --profile"):
        chosen(broker, NEW)


def test_a_release_under_another_profile_s_name_is_refused() -> None:
    broker = published()
    keep(broker, TOPICS.metadata(PI.file), X86.to_bytes())
    with pytest.raises(UntrustedError, match="for generic-x86_64, not its own"):
        chosen(broker, D2)


def test_many_devices_are_counted_in_the_sentence() -> None:
    many = [device(f"d{number}", "jetson") for number in range(30)]
    with pytest.raises(InputError, match=r"d9 has profile jetson and 20 more; nothing"):
        chosen(published(X86), *many)


def test_what_is_published_just_now_is_taken() -> None:
    broker = published(X86)

    with operator(broker) as connection:
        retained = connection.retained

        def then(filters: list[str]) -> dict[str, bytes]:
            found = retained(filters)
            keep(broker, TOPICS.metadata(PI.file), PI.to_bytes())
            return found

        connection.retained = then  # type: ignore[assignment,method-assign]
        assert choose(connection, "demo", "1.0.0", [D2]) == (PI,)
