from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.agent.config import AgentConfig, load_config
from edge_runtime.errors import InputError

SMALLEST = 'device_id = "press-7"\nprofile = "generic-x86_64"\ntrust = "none"\n'


def load(tmp_path: Path, text: str, **environment: str) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_config(path, environment)


def fault(tmp_path: Path, text: str, **environment: str) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text, **environment)
    return str(caught.value)


def test_the_smallest_file_has_safe_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST)
    assert (config.api.host, config.api.port) == ("127.0.0.1", 8080)
    assert config.broker is None
    assert config.state_dir == Path("/var/lib/edge-agent")


def test_every_table_is_read_and_paths_stand_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pw\n")
    config = load(
        tmp_path,
        SMALLEST + 'state_dir = "state"\nfirst_bundle = "m.edge"\n'
        '[broker]\nurl = "mqtt://b:1884"\nusername = "u"\n'
        'password_file = "secret"\nprefix = "a/b"\n'
        "[api]\nport = 0\nmax_connections = 3\n[telemetry]\ninterval_s = 2\n"
        "[update]\nwindow = 4\ntrial_s = 5\n[worker]\nhang_s = 6\n",
    )
    assert config.state_dir == tmp_path / "state"
    assert config.first_bundle == tmp_path / "m.edge"
    assert config.broker is not None
    assert (config.broker.address, config.broker.password) == ("b:1884", "pw")
    assert (config.prefix, config.api.port, config.api.max_connections) == ("a/b", 0, 3)
    assert (config.telemetry.interval_s, config.worker.hang_s) == (2.0, 6.0)
    assert (config.update.window, config.update.trial_s) == (4, 5.0)


def test_the_bounds_of_a_trial_are_read_and_the_one_on_speed_may_be_zero(tmp_path: Path) -> None:
    text = "[update]\ntrial_p95_ms = 0\ntrial_error_ratio = 0.001\ntrial_slowdown = 5\n"
    update = load(tmp_path, SMALLEST + text, EDGE_AGENT_UPDATE_TRIAL_MIN_REQUESTS="7").update
    assert (update.trial_p95_ms, update.trial_error_ratio) == (0.0, 0.001)
    assert (update.trial_slowdown, update.trial_min_requests) == (5.0, 7)
    assert load(tmp_path, SMALLEST + "[update]\ntrial_p95_ms = 0.5\n").update.trial_p95_ms == 0.5


@pytest.mark.parametrize("url", ["MQTTS://u:p@h", " mqtts://u:p@h", "Mqtts://u:p@h"])
def test_a_broker_whose_scheme_is_written_oddly_is_still_encrypted(
    tmp_path: Path, url: str
) -> None:
    for config in (
        load(tmp_path, SMALLEST + f'[broker]\nurl = "{url}"\n'),
        load(tmp_path, SMALLEST, EDGE_AGENT_BROKER_URL=url),
    ):
        assert config.broker is not None
        assert (config.broker.tls, config.broker.port) == (True, 8883)


def test_trust_must_be_chosen_in_so_many_words(tmp_path: Path) -> None:
    text = 'device_id = "a"\nprofile = "generic-x86_64"\n'
    assert 'trust is missing, expected "tuf" with root = "root.json"' in fault(tmp_path, text)
    assert "trust is 'tofu', expected tuf or none" in fault(tmp_path, text + 'trust = "tofu"\n')


def test_trust_without_what_it_needs_is_a_fault_and_never_less_trust(tmp_path: Path) -> None:
    text = 'device_id = "a"\nprofile = "generic-x86_64"\ntrust = "tuf"\n'
    assert "root is missing" in fault(tmp_path, text)
    assert "root.json is no file" in fault(tmp_path, text + 'root = "root.json"\n')
    (tmp_path / "root.json").write_text("{}")
    config = load(tmp_path, text + 'root = "root.json"\n')
    assert (config.trust, config.root) == ("tuf", tmp_path / "root.json")
    said = fault(tmp_path, SMALLEST + 'root = "root.json"\n')
    assert 'root is given, but trust is "none"' in said


def test_sources_are_the_broker_unless_others_are_named(tmp_path: Path) -> None:
    broker = '[broker]\nurl = "mqtt://b"\n'
    assert load(tmp_path, SMALLEST).sources == ()
    assert load(tmp_path, SMALLEST + broker).sources == ("mqtt",)
    named = 'sources = ["https://mirror.example/edge", "mqtt"]\n'
    wanted = ("https://mirror.example/edge", "mqtt")
    assert load(tmp_path, SMALLEST + named + broker).sources == wanted
    variable = load(
        tmp_path, SMALLEST + broker, EDGE_AGENT_SOURCES="https://mirror.example/edge, mqtt"
    )
    assert variable.sources == wanted


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ('["mqtt"]', "but there is no [broker]"),
        ('["ftp://mirror.example"]', "starts with 'ftp'"),
        ('["http://mirror.example"]', "plain http"),
        ('["file:///a", "file:///a"]', "names one twice"),
        ('"mqtt"', "must be a list"),
    ],
)
def test_a_source_that_cannot_be_one_is_named(tmp_path: Path, sources: str, said: str) -> None:
    assert said in fault(tmp_path, SMALLEST + f"sources = {sources}\n")


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        SMALLEST + "[api]\nport = 1\n",
        EDGE_AGENT_API_PORT="2",
        EDGE_AGENT_DEVICE_ID="other",
        EDGE_AGENT_BROKER_URL="mqtt://b",
        PATH="ignored",
    )
    assert (config.api.port, config.device_id) == (2, "other")
    assert config.broker is not None


def test_every_fault_is_told_in_one_go_with_where_it_stands(tmp_path: Path) -> None:
    said = fault(
        tmp_path,
        'device_id = "press 7"\nprofil = "x"\n[broker]\nurl = "http://b"\n[update]\nwindow = 0\n'
        "[api]\nport = 70000\nhost = 5\n",
        EDGE_AGENT_API_PRT="1",
        EDGE_AGENT_API_MAX_CONNECTIONS="many",
        EDGE_AGENT_TELEMETRY_INTERVAL_S="-1",
    )
    for part in (
        "did you mean profile?",
        "did you mean EDGE_AGENT_API_PORT?",
        "EDGE_AGENT_API_MAX_CONNECTIONS must be a number, found 'many'",
        "environment EDGE_AGENT_TELEMETRY_*: interval_s is -1",
        "trust is missing",
        "[api]: host must be a string, found 5",
        "port is 70000",
        "[update]: window is 0",
        "[broker]: broker: URL starts with 'http'",
        "device_id is 'press 7'",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("device_id = ", "not valid TOML"),
        (SMALLEST + "brokr = {}\n", "did you mean broker?"),
        (SMALLEST + "api = 5\n", "expected an object, found 5"),
        (SMALLEST + "[broker]\n", "url is missing"),
        (SMALLEST + '[broker]\nurl = "mqtt://b"\nprefix = "a/#"\n', "without + or #"),
        (SMALLEST + '[broker]\nurl = "mqtt://b"\nca = "ca.pem"\n', "mqtts"),
        (SMALLEST + "[update]\nwindow = 900\n", "at most 250"),
        (SMALLEST + 'log_level = "loud"\n', "expected one of debug"),
        (SMALLEST + "[telemetry]\ninterval_s = true\n", "must be a number, found true"),
        (
            SMALLEST + "[worker]\nhang_s = 4.9\n",
            "[worker]: hang_s is 4.9, expected at least 5: a healthy worker would be taken for one "
            "that hangs",
        ),
        (
            SMALLEST + "[worker]\ndrain_s = 118\n",
            "[worker]: drain_s is 118, expected more than 2 s below activate_timeout_s of "
            "[update], 120: a swap ends only when the old worker has finished",
        ),
        (SMALLEST + "[update]\ntrial_error_ratio = 10\n", "is 10, expected a share of at most 1"),
        (
            SMALLEST + "[update]\ntrial_slowdown = 0.5\n",
            "trial_slowdown is 0.5, expected at least 1",
        ),
        (SMALLEST + "[update]\nactivate_timeout_s = 12\n", "drain_s is 10, expected more than"),
    ],
)
def test_a_faulty_file_is_refused_with_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    said = fault(tmp_path, text)
    assert says in said
    assert "agent.toml" in said


def test_the_smallest_bounds_of_a_worker_are_taken(tmp_path: Path) -> None:
    text = "[worker]\nhang_s = 5\ndrain_s = 117.9\n"
    assert load(tmp_path, SMALLEST + text).worker.drain_s == 117.9


@pytest.mark.parametrize("text", ["[worker]\nhang_s = -1\n", "[update]\nactivate_timeout_s = 0\n"])
def test_a_number_that_is_faulty_itself_is_one_fault_and_not_two(tmp_path: Path, text: str) -> None:
    assert ";" not in fault(tmp_path, SMALLEST + text)


def test_a_missing_file_and_one_that_is_too_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.toml: cannot be read \(No such file"):
        load_config(tmp_path / "nowhere.toml", {})
    assert "at most 65536" in fault(tmp_path, "#" * 70_000)
