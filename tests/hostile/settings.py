"""Malformed files that people write, or somebody writes for them: TOML, URLs, texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edge_runtime.agent.config import MAX_CONFIG_BYTES
from edge_runtime.agent.infer import MAX_LINE_BYTES
from edge_runtime.errors import InputError
from edge_runtime.fleet.settings import MAX_SETTINGS_BYTES
from edge_runtime.profile import MAX_PROFILE_BYTES
from tests.hostile.attack import TRICKS, Attack
from tests.hostile.sound import CONFIG, FLEET, PROFILE

SECRET = 'password_file = "/dev/zero"\nversion = '


def _toml() -> Iterator[Attack]:
    """What no TOML file may be, whatever it configures."""
    for parser, sound, limit in (
        ("profile", PROFILE, MAX_PROFILE_BYTES),
        ("config", CONFIG, MAX_CONFIG_BYTES),
        ("fleet-settings", FLEET, MAX_SETTINGS_BYTES),
    ):

        def attack(
            name: str, build: Callable[[], bytes], says: str, parser: str = parser
        ) -> Attack:
            return Attack(name, parser, build, says, InputError)

        def begun(text: bytes, sound: str = sound) -> Callable[[], bytes]:
            return lambda: text + b"\n" + sound.encode()

        def filled(unit: bytes, tail: bytes = b"", limit: int = limit) -> Callable[[], bytes]:
            return lambda: unit * ((limit - len(tail)) // len(unit)) + tail

        # The operator's settings word it in their own way.
        unknown, acting = (
            ("x is not", "a [2J") if parser != "fleet-settings" else ("", "is not known")
        )
        parts = filled(b"a.", b"a=1")
        yield attack("one byte too many", lambda limit=limit: b" " * (limit + 1), "at most")  # type: ignore[misc]
        yield attack("not UTF-8", begun(b'x = "\xff"'), "not valid TOML")
        yield attack("UTF-16", lambda sound=sound: sound.encode("utf-16"), "not valid TOML")  # type: ignore[misc]
        yield attack("a raw NUL", begun(b'x = "\0"'), "not valid TOML")
        yield attack("a key twice", begun(b"x = 1\nx = 2"), "not valid TOML")
        yield attack("a table twice", begun(b"[x]\n[x]"), "not valid TOML")
        yield attack("no value", begun(b"x ="), "not valid TOML")
        yield attack("a key of endless parts", parts, "more than 32 parts")
        yield attack("a table of endless parts", filled(b"[" + b"a." * 5000, b"a]"), "parts")
        yield attack("quoted parts", begun(b'"a".' * 40 + b"b=1"), "more than 32 parts")
        yield attack("spaced parts", begun(b"a . " * 40 + b"b=1"), "more than 32 parts")
        yield attack("parts in a value", begun(b"x={" + b"a." * 40 + b"b=1}"), "more than 32 parts")
        yield attack(
            "parts and braces",
            begun(b"x={" + b"a." * 20 + b"b={" + b"c." * 20 + b"d=1}}"),
            "nested deeper",
        )
        yield attack("lists without end", filled(b"x=[" + b"[" * 4000), "not valid TOML")
        yield attack("tables without end", filled(b"x={a=" + b"{a=" * 4000), "not valid TOML")
        yield attack("40 lists", begun(b"x=" + b"[" * 40 + b"]" * 40), "nested deeper")
        yield attack("a string without end", filled(b'x="' + b"\\" * 4000), "not valid TOML")
        yield attack("lines without end", filled(b"'''\n" * 900), "not valid TOML")
        yield attack("an endless number", begun(b"x = " + b"9" * 30_000), "not valid TOML")
        yield attack("an endless hex number", begun(b"x = 0x" + b"f" * 30_000), unknown)
        yield attack("endless tables", filled(b"[[x]]\n"), unknown)
        yield attack("many keys", lambda limit=limit: _keys(limit), "more")  # type: ignore[misc]
        yield attack("a key that acts on terminals", begun(rb'"a\u001b[2J\n\u202e" = 1'), acting)
        yield attack("a key without end", begun(b"x" * 30_000 + b" = 1"), "xxx")


def _keys(limit: int) -> bytes:
    return "\n".join(f"k{number:x}=1" for number in range(limit // 9)).encode()


def _lines(sound: str, parser: str) -> Callable[[str, str, str, str], Attack]:
    def attack(name: str, old: str, new: str, says: str) -> Attack:
        assert old in sound
        text = sound.replace(old, new, 1)
        return Attack(name, parser, text.encode, says, InputError)

    return attack


def _profiles() -> Iterator[Attack]:
    attack = _lines(PROFILE, "profile")
    for value in ("1e999", "nan", "-1", "0x" + "f" * 300, "true", '"1"', "1979-05-27", "[]"):
        line = "ram_bytes = 2_147_483_648"
        yield attack(f"{value[:12]} bytes", line, f"ram_bytes = {value}", "ram_bytes")
    yield attack("no lengths", "[16, 64]", "[]", "sequence_lengths has 0")
    yield attack("lengths that fall", "[16, 64]", "[64, 16]", "ascending")
    yield attack("a length of true", "[16, 64]", "[true]", "ascending")
    yield attack("a length beyond all", "[16, 64]", "[9000]", "ascending")
    yield attack("threads without end", "threads = 1", "threads = 1_000_000", "threads is 1000000")
    yield attack("an infinite budget", "250.0", "inf", "latency_ms is inf")
    yield attack("another arch", '"x86_64"', '"riscv"', "arch is 'riscv'")
    yield attack("an unknown key", "[budget]", "[budget]\nfree = 1", "free is not a field")
    yield attack("an engine as module", '"onnxruntime"', '"os:system"', "backend is")
    source = 'arch = "a test\'s choice"'
    yield attack("dates as sources", source, "arch = 07:32:00", "arch must be a string")
    for what, text in TRICKS.items():
        shown = text.encode("unicode_escape").decode().replace("\\x", "\\u00")
        yield attack(what, 'name = "board"', f'name = "{shown}"', "name is")


def _configs() -> Iterator[Attack]:
    attack = _lines(CONFIG, "config")
    yield attack("no trust", 'trust = "none"', "", "trust is missing")
    yield attack("trust of true", 'trust = "none"', "trust = true", "trust must be a string")
    yield attack("another trust", '"none"', '"None"', "trust is 'None'")
    yield attack("a device of two levels", '"press-7"', '"a/b"', "device_id is")
    yield attack("a wildcard as device", '"press-7"', '"+"', "device_id is")
    yield attack("a port beyond all", "8080", "65536", "port is 65536")
    yield attack("a port below 0", "8080", "-1", "port is -1")
    yield attack("a port as text", "8080", '"8080"', "port must be an integer")
    yield attack("no time", "hang_s = 30.0", "hang_s = nan", "hang_s is nan")
    yield attack("a table as value", "[worker]\nhang_s = 30.0", "worker = 1\n[x]", "x is not")
    yield attack("a list of tables", "[worker]", "[[worker]]", "expected an object")
    yield attack("a slip", "log_level", "log_levle", "did you mean log_level")
    yield attack("a wildcard in the prefix", "edge/v1", "edge/#", "topic prefix")
    yield attack("an escape in the prefix", "edge/v1", "edge\\u001b", "topic prefix")
    yield attack("a password in a bad URL", "broker.example", "[broker", "URL is malformed")
    yield attack("no scheme", "mqtt://", "", "expected mqtt or mqtts")
    yield attack("a secret without end", "version = ", SECRET, "given twice")
    for what, text in TRICKS.items():
        shown = text.encode("unicode_escape").decode().replace("\\x", "\\u00")
        yield attack(f"{what} as device", "press-7", shown, "device_id is")


def _urls() -> Iterator[Attack]:
    for text in (
        "", "://", "mqtt://", "mqtt:///", "http://a", "mqtt://a:b", "mqtt://a:99999", "mqtt://a:0",
        "mqtt://[::1", "mqtt://a/b", "mqtt://a?b", "mqtt://a#b", "mqtt://\u2100",
        "MQTT", "mqtt:a", "mqtt://user@", "mqtt://:1883", "mqtt://a b/\nc", "\0" * 1000,
    ):  # fmt: skip
        yield Attack(repr(text)[:40], "broker-url", text.encode, "broker: ", InputError)
    for text in (
        "", "https://", "ftp://a/b", "http://a.example/", "https://u:p@a/", "https://a:0/",
        "https://a:x/", "https://a/../b", "https://a/%zz?x", "https://a/b#c", "https://[::1/",
        "file://host/a", "file:a", "file:///a\0b", "https://a b/", "https://a/\nHost: b",
        "https://\u2100/", "https://-./\u202e", "https://a/" + "b" * 10_000 + "\x7f", "//a/b",
        "https://xn--" + "a" * 300, "https://1:2:3/", "https://a\\b/",
    ):  # fmt: skip
        yield Attack(repr(text)[:40], "source-url", text.encode, "source", InputError)


def _texts() -> Iterator[Attack]:
    for name, build, says in (
        ("a bare word", lambda: b"hello", "expected a JSON string"),
        ("a list", lambda: b'["a"]', "text: expected a string, found list"),
        ("an object without text", lambda: b'{"a": 1}', "text is missing"),
        ("a text of numbers", lambda: b'{"text": 5}', "text: expected a string, found int"),
        ("a key twice", lambda: b'{"text": "a", "text": "b"}', "twice"),
        ("half a surrogate pair", lambda: b'"\\ud800"', "not valid JSON"),
        ("not UTF-8", lambda: b'"\xff"', "not valid JSON"),
        ("a second line that is none", lambda: b'"a"\n\xff\xfe\n', "line 2"),
        ("a line without end", lambda: b'"' + b"a" * (MAX_LINE_BYTES + 5), "at most"),
        ("lists without end", lambda: b'{"text":' + b"[" * 900_000, "nested deeper"),
        ("an escape sequence", lambda: b"\x1b[2J", "expected a JSON string"),
        ("carriage returns", lambda: b'"a"\r"b"', "not valid JSON"),
    ):
        yield Attack(name, "infer-lines", build, says, InputError)
    yield Attack("blank lines", "infer-lines", lambda: b"\n" * (1 << 20), error=None)


SETTINGS_ATTACKS: tuple[Attack, ...] = (
    *_toml(), *_profiles(), *_configs(), *_urls(), *_texts(),
)  # fmt: skip
