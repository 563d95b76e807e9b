"""The driver's shell: what it is told in the wrong order, on a bad disk, or without end."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.bundle import durable
from edge_runtime.bundle.files import Chunk, FileEntry, sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.errors import (
    DeviceError,
    IncompatibleError,
    MetadataError,
    TransferError,
    UntrustedError,
)
from edge_runtime.messages.fleet import Desired, Release
from edge_runtime.update.driver import Driver
from edge_runtime.update.journal import Journal
from edge_runtime.update.policy import Policy
from edge_runtime.update.slots import Slots
from tests.fakes.fleet import PROFILE, TOPICS, Bundle, Device, FakeHost, Flaws, Fleet, bundle

V1 = bundle("1.0.0", size=60_000)
V2 = bundle("2.0.0", size=60_000)
V3 = bundle("3.0.0", size=60_000, profile="raspberry-pi-5")
V4 = bundle("4.0.0", size=60_000, backbone=4)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_the_driver_loads_no_numpy_and_no_runtime() -> None:
    heavy = "numpy", "torch", "onnx", "onnxruntime", "paho", "tokenizers", "converters"
    code = (
        "import sys, edge_runtime.update.driver\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_driver_that_was_not_started_takes_no_input(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, Flaws(), PROFILE)
    fleet = Fleet(tmp_path)
    driver = Driver(tmp_path, PROFILE, fleet.add("a"), host)
    with pytest.raises(RuntimeError, match="not started"):
        driver.tick(0.0)
    driver.start(0.0)
    with pytest.raises(RuntimeError, match="started before"):
        driver.start(1.0)


def test_a_driver_with_nothing_to_do_asks_for_no_tick(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.settle()
    assert device.driver.tick(fleet.now_s) is None


def test_answers_about_bundles_of_yesterday_are_ignored(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    before = device.driver.status
    device.driver.tested(V2.digest, True, "", fleet.now_s)
    device.driver.tested(V2.digest, False, "late", fleet.now_s)
    device.driver.tested(V1.digest, True, "", fleet.now_s)
    device.driver.activated(fleet.now_s)
    device.driver.chunk("f" * 64, b"unasked", fleet.now_s)
    assert device.driver.status == before


def test_a_device_without_a_bundle_minds_no_failure(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.driver.failed("what failed?", fleet.now_s)
    assert device.driver.status.state == "idle"


def test_a_failure_told_twice_counts_once(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    for _ in range(10):
        device.driver.failed("died", fleet.now_s)
    assert device.host.kinds().count("worker-failed") == 1


def test_an_active_bundle_that_fails_its_self_test_at_boot_is_a_failed_start(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    device.driver.tested(V1.digest, False, "delegate is gone", fleet.now_s)
    assert device.status.reason == "delegate is gone"
    assert device.host.kinds()[-1] == "worker-failed"


def test_progress_is_reported_now_and_then_and_the_end_at_once(fleet: Fleet) -> None:
    device = fleet.add("a")
    large = bundle("1.0.0", size=6_000_000)
    fleet.publish(large)
    fleet.deploy(device, large)
    fleet.settle()
    assert len(large.chunks) > 60
    assert len(device.host.statuses) < 15
    assert device.status.state == "trial"


def test_a_journal_that_cannot_be_written_stops_no_update(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)

    def full(_self: Journal, _record: object) -> None:
        raise DeviceError("journal: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "save", full)
        fleet.update(device, V2)
        assert device.serving == V2.digest
        assert device.host.kinds().count("journal-failed") == 1
        device.reboot()  # The record on disk is that of V1, and V1 is still whole.
        assert device.serving == V1.digest
    fleet.pass_time(200)
    assert device.serving == V2.digest
    assert Journal(device.state / "journal.json").load() is not None


def test_a_disk_that_refuses_chunks_stalls_the_update(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)

    def full(*_arguments: object) -> bool:
        raise DeviceError("chunk store: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(device.driver.store), "put", full)
        fleet.publish(V2)
        fleet.deploy(device, V2)
        fleet.settle()
        assert device.status.state == "waiting"
        assert device.status.refused == ()
    fleet.pass_time(60)
    assert device.serving == V2.digest


def test_pruning_that_fails_is_no_failure_of_the_update(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_arguments: object) -> int:
        raise DeviceError("read-only")

    monkeypatch.setattr(Slots, "prune", failing)
    device = fleet.add("a")
    fleet.update(device, V1)
    assert device.status.state == "idle"


def test_a_manifest_of_another_format_is_refused(fleet: Fleet) -> None:
    device = fleet.add("a")
    check_refused(fleet, device, V1.bytes.replace(b'"format":1', b'"format":9'), "format 9")


def test_a_manifest_that_is_no_json_is_refused(fleet: Fleet) -> None:
    check_refused(fleet, fleet.add("a"), b"garbage", "not valid JSON")


def test_a_desired_state_that_gives_a_chunk_two_sizes_blames_no_bundle(fleet: Fleet) -> None:
    device = fleet.add("a")
    chunks = Chunk("1" * 64, 10), Chunk("1" * 64, 20)
    entry = FileEntry(MANIFEST_NAME, 30, "2" * 64, chunks)
    desired = Desired(1, Release("demo", "1.0.0", "generic-x86_64", 1, entry))
    device.driver.desired(desired.to_bytes(), fleet.now_s)
    fleet.settle()
    assert "listed with 10 and with 20 bytes" in device.status.reason
    assert (device.status.state, device.status.refused) == ("waiting", ())


def test_a_chunk_list_that_is_not_of_its_manifest_blames_no_bundle(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.publish(V1)
    junk = b"junk"
    entry = dataclasses.replace(
        V1.release.manifest,
        chunks=(Chunk(sha256_hex(junk), len(junk)),),
        size_bytes=len(junk),
    )
    fleet.put(TOPICS.chunk(sha256_hex(junk)), junk)
    lie = Desired(1, dataclasses.replace(V1.release, manifest=entry))
    fleet.put(TOPICS.device("a", "desired"), lie.to_bytes())
    fleet.settle()
    assert "its chunk list is not of its manifest" in device.status.reason
    fleet.deploy(device, V1)
    fleet.pass_time(0.1)
    assert device.serving == V1.digest


def test_an_attempt_that_none_could_exceed_is_not_taken(fleet: Fleet) -> None:
    device = fleet.add("a")
    desired = Desired(1, V1.release, attempt=2**53)
    device.driver.desired(desired.to_bytes(), fleet.now_s)
    assert device.host.events[-1][0] == "desired-invalid"
    assert device.status.state == "idle"


def test_a_manifest_that_cannot_be_read_just_now_is_no_damage(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    fleet.update(device, V2)

    def no_descriptor_left(*_: object, **__: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as few:
        few.setattr(durable, "read", no_descriptor_left)
        device.driver.failed("worker died of signal 11", fleet.now_s)
    status = device.driver.status
    assert status.active is not None
    assert status.previous is not None


def test_a_desired_state_without_a_release_takes_no_bundle_away(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    before = device.driver.status
    device.driver.desired(b'{"format":1,"revision":9}', fleet.now_s)
    assert (device.driver.status, device.serving) == (before, V1.digest)
    device.driver.desired(b'{"format":1,"release":null,"revision":9}', fleet.now_s)
    assert (device.driver.status.active, device.serving) == (None, None)


def test_a_manifest_whose_chunks_are_another_file_is_refused(fleet: Fleet) -> None:
    entry = V1.manifest.file("model.onnx")
    data = V1.bytes.replace(f'"sha256":"{entry.sha256}"'.encode(), b'"sha256":"%s"' % (b"0" * 64))
    device = fleet.add("a")
    fleet.publish(V1)
    check_refused(fleet, device, data, "has digest")


def check_refused(fleet: Fleet, device: Device, data: bytes, why: str) -> None:
    """`data` as the desired manifest is refused, whatever else was published."""
    chunk = Chunk(sha256_hex(data), len(data))
    entry = FileEntry(MANIFEST_NAME, len(data), chunk.sha256, (chunk,))
    desired = Desired(1, Release("demo", "1.0.0", "generic-x86_64", 1, entry))
    fleet.put(TOPICS.chunk(chunk.sha256), data)
    fleet.put(TOPICS.device(device.name, "desired"), desired.to_bytes())
    fleet.settle()
    assert device.status.state == "idle"
    assert why in device.status.reason
    assert device.status.refused[0].manifest_sha256 == chunk.sha256
    assert device.serving is None


def test_a_local_bundle_that_is_damaged_changes_nothing(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.settle()
    before = device.driver.status
    broken = bundle("1.0.0", size=60_000)
    broken.files["model.onnx"] = b"x" * len(broken.files["model.onnx"])
    with pytest.raises(UntrustedError, match="has digest"):
        device.driver.install(broken, fleet.now_s)
    assert device.driver.status == before


def test_a_local_bundle_for_another_profile_changes_nothing(fleet: Fleet) -> None:
    device = fleet.add("a")
    with pytest.raises(IncompatibleError, match="made for profile raspberry-pi-5"):
        device.driver.install(V3, fleet.now_s)
    assert device.driver.status.state == "idle"


def test_a_local_bundle_that_does_not_fit_the_disk_changes_nothing(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.free_bytes = 0
    with pytest.raises(DeviceError, match="the disk lacks"):
        device.driver.install(V1, fleet.now_s)
    assert list((device.state / "manifests").iterdir()) == []


def test_a_local_bundle_installed_at_every_start_is_installed_once(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.driver.install(V1, fleet.now_s)
    fleet.pass_time(61)
    device.reboot()
    device.driver.install(V1, fleet.now_s)
    fleet.settle()
    assert device.serving == V1.digest
    assert "start_candidate" not in device.host.calls


def test_whatever_goes_through_a_whole_bundle_gives_a_sign_with_every_chunk(
    tmp_path: Path, fleet: Fleet
) -> None:
    pulses = 0

    def pulse() -> None:
        nonlocal pulses
        pulses += 1

    host = FakeHost(tmp_path, Flaws(), PROFILE)
    driver = Driver(tmp_path / "state", PROFILE, fleet.add("a"), host, pulse=pulse)
    driver.start(0.0)
    large = bundle("1.0.0", size=3_000_000)
    chunks = {c.sha256 for entry in large.manifest.files for c in entry.chunks}
    driver.install(large, 0.0)
    driver.authenticated(large.digest, None, 0.0)
    assert driver.status.state == "testing"
    assert len(chunks) > 30
    assert pulses >= 2 * len(chunks), "written, then read"


def test_nothing_is_fetched_before_the_release_is_authenticated(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.flaws.unanswered.add(V1.digest)
    fleet.publish(V1)
    fleet.deploy(device, V1)
    fleet.settle()
    assert (device.status.state, device.wanted) == ("authenticating", set())


def test_an_unsigned_release_is_refused_and_remembered(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    device.flaws.untrusted[V2.digest] = UntrustedError("not in the signed metadata")
    fleet.publish(V2)
    fleet.deploy(device, V2)
    fleet.pass_time(3600)
    assert device.host.events[-1] == ("bundle-refused", "demo 2.0.0: not in the signed metadata")
    assert device.serving == V1.digest
    assert device.host.calls.count("authenticate") == 1 + device.policy.trust_tries
    assert V2.chunks.keys().isdisjoint(device.wanted)


def test_metadata_that_is_not_believed_condemns_no_bundle_and_is_told_once(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    device.flaws.untrusted[V2.digest] = MetadataError("timestamp.json: rolled back")
    fleet.publish(V2)
    fleet.deploy(device, V2)
    fleet.pass_time(3600)
    assert device.host.kinds().count("metadata-refused") == 1
    assert device.host.calls.count("authenticate") > 3
    assert (device.status.refused, device.status.state) == ((), "waiting")
    assert device.serving == V1.digest
    device.flaws.untrusted.clear()
    fleet.pass_time(1200)
    assert device.serving == V2.digest


def test_trust_that_never_answers_is_asked_again(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.flaws.unanswered.add(V1.digest)
    fleet.deploy(device, V1)
    fleet.pass_time(device.policy.authenticate_timeout_s + 1)
    assert "signed metadata was not followed within 300 s" in device.status.reason
    device.flaws.unanswered.clear()
    fleet.publish(V1)
    fleet.pass_time(60)
    assert device.serving == V1.digest


def test_what_stalled_for_want_of_a_link_goes_on_with_the_link(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.flaws.untrusted[V1.digest] = TransferError("the broker is not connected")
    fleet.publish(V1)
    fleet.settle()
    device.driver.connected(False, fleet.now_s)
    device.driver.desired(Desired(1, V1.release).to_bytes(), fleet.now_s)
    fleet.pass_time(0.1)
    assert device.status.state == "waiting"
    device.flaws.untrusted.clear()
    device.driver.connected(True, fleet.now_s)
    fleet.pass_time(0.1)
    assert device.serving == V1.digest


def test_a_device_that_restarts_while_it_waits_tries_again_in_its_time(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.flaws.untrusted[V1.digest] = TransferError("nobody answers")
    fleet.publish(V1)
    fleet.deploy(device, V1)
    fleet.settle()
    assert device.status.state == "waiting"
    device.reboot()
    fleet.settle()
    device.flaws.untrusted.clear()
    fleet.pass_time(device.policy.wait_max_s * 1.25)
    assert device.serving == V1.digest


def test_an_answer_about_another_release_authenticates_nothing(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.flaws.unanswered.add(V1.digest)
    fleet.deploy(device, V1)
    fleet.settle()
    device.driver.authenticated(V2.digest, None, fleet.now_s)
    assert device.status.state == "authenticating"


def test_another_desired_state_stops_the_asking(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.flaws.unanswered.add(V1.digest)
    fleet.deploy(device, V1)
    fleet.settle()
    fleet.deploy(device, None)
    fleet.settle()
    assert device.status.state == "idle"
    assert "stop_authenticating" in device.host.calls


class AnythingMayHappen(RuleBasedStateMachine):
    """Inputs in any order: no impossible transition, and never without a bundle once one serves.

    `V1` is sound and stays so; the others fail as they like.
    """

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.temporary = tempfile.TemporaryDirectory()
        self.fleet = Fleet(Path(self.temporary.name))
        self.device = self.fleet.add("a", Policy(trial_s=60.0, chunk_tries=2, wait_s=30.0))
        self.fleet.update(self.device, V1)
        for made in (V2, V3):
            self.fleet.publish(made)

    @rule(made=st.sampled_from([V1, V2, V3, V4]), attempt=st.integers(0, 2))
    def deploy(self, made: Bundle, attempt: int) -> None:
        self.fleet.deploy(self.device, made, attempt=attempt)

    @rule()
    def settle(self) -> None:
        self.fleet.settle()

    @rule(seconds=st.sampled_from([1.0, 20.0, 70.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.fleet.pass_time(seconds)

    @rule()
    def publish_the_rest(self) -> None:
        self.fleet.publish(V4)

    @rule(made=st.sampled_from([V2, V4]), flaw=st.sampled_from(["fail", "hang", "die_in_swap"]))
    def spoil(self, made: Bundle, flaw: str) -> None:
        getattr(self.device.flaws, flaw).add(made.digest)

    @rule()
    def mend(self) -> None:
        for flaw in ("fail", "hang", "die_in_swap"):
            getattr(self.device.flaws, flaw).clear()

    @rule()
    def crash(self) -> None:
        self.fleet.settle()
        self.device.crash()

    @rule()
    def reboot(self) -> None:
        self.device.reboot()

    @rule()
    def lose_the_broker(self) -> None:
        self.fleet.broker.go_offline()

    @rule()
    def find_the_broker(self) -> None:
        self.fleet.broker.go_online()

    @invariant()
    def the_window_holds(self) -> None:
        if hasattr(self, "device"):
            assert self.device.most_wanted <= self.device.policy.window

    def teardown(self) -> None:
        if not hasattr(self, "device"):
            return
        self.mend()
        self.fleet.broker.go_online()
        self.fleet.publish(V4)
        self.fleet.deploy(self.device, V1, attempt=9)
        self.fleet.pass_time(1500.0)
        assert self.device.serving == V1.digest
        assert self.device.driver.status.state == "idle"
        self.temporary.cleanup()


AnythingMayHappen.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_anything_may_happen = AnythingMayHappen.TestCase
