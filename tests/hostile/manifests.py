"""Malformed manifests, one fault each: name, what is changed, the expected error, what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from edge_runtime.bundle.manifest import MAX_FILES, MAX_MANIFEST_BYTES
from edge_runtime.errors import EdgeError, IncompatibleError, UntrustedError
from tests.fakes.bundles import manifest_json
from tests.hostile.attack import TRICKS, Attack, changed, dumped, on_json, rewritten, without


def ManifestAttack(
    name: str, build: Callable[[], bytes], says: str, error: type[EdgeError] = UntrustedError
) -> Attack:
    """Bytes of a manifest that must be refused."""
    return Attack(name, "manifest", build, says, error)


def _set(path: str, value: object) -> Callable[[], bytes]:
    return changed(manifest_json, path, value)


def _drop(path: str) -> Callable[[], bytes]:
    return without(manifest_json, path)


def _file(**changed: object) -> Mapping[str, object]:
    return {**manifest_json()["files"][0], **changed}


def _with_files(*files: Mapping[str, object]) -> Callable[[], bytes]:
    return lambda: json.dumps(
        {**manifest_json(), "files": [*manifest_json()["files"], *files]}
    ).encode()


def _text(old: str, new: str) -> Callable[[], bytes]:
    return rewritten(manifest_json, old, new)


_EMPTY = {"size_bytes": 0, "sha256": "ab" * 32, "chunks": []}

MANIFEST_ATTACKS: tuple[Attack, ...] = (
    # The bytes; `JSON_ATTACKS` has what is true of every JSON.
    ManifestAttack("a name twice", _text('"name": "demo"', '"name": "demo", "name": "x"'), "twice"),
    ManifestAttack(
        "a quality of NaN", _text('"reference": 0.75', '"reference": NaN'), "NaN is not"
    ),
    ManifestAttack("half a surrogate", _text('"litert-cpu"', r'"\ud800"'), "not valid JSON"),
    ManifestAttack("half of one", lambda: dumped(manifest_json())[:-1], "not valid JSON"),
    ManifestAttack("deep nesting", lambda: b'{"x":' * 200_000, "nested deeper"),
    # The format.
    ManifestAttack("another format", _set("format", 2), "format 2", IncompatibleError),
    ManifestAttack("format 0", _set("format", 0), "format 0", IncompatibleError),
    ManifestAttack("format as text", _set("format", "1"), "format must be an integer"),
    ManifestAttack("format as true", _set("format", True), "format must be an integer"),
    ManifestAttack("no format", _drop("format"), "format is missing"),
    # Identity.
    *(
        ManifestAttack(f"no {key}", _drop(key), f"{key} is missing")
        for key in (
            "name",
            "version",
            "created",
            "task",
            "profile",
            "profile_sha256",
            "inputs",
            "outputs",
            "preprocess",
            "postprocess",
            "variants",
            "golden",
            "files",
            "provenance",
        )
    ),
    ManifestAttack("a path as name", _set("name", "../evil"), "name is"),
    ManifestAttack("a topic as name", _set("name", "a/+/#"), "name is"),
    ManifestAttack("a name with a newline", _set("name", "demo\n"), "name is"),
    ManifestAttack("a version of two", _set("version", "1.0"), "version is"),
    ManifestAttack("a version in Arabic digits", _set("version", "١.٠.٠"), "version is"),
    ManifestAttack("a local time", _set("created", "2026-11-24 00:00:00"), "created is"),
    ManifestAttack("a digest in capitals", _set("profile_sha256", "AB" * 32), "profile_sha256"),
    ManifestAttack("a short digest", _set("profile_sha256", "ab" * 31), "profile_sha256"),
    # Interface.
    ManifestAttack("inputs of nothing", _set("inputs", []), "inputs has 0 entries"),
    ManifestAttack("inputs as object", _set("inputs", {}), "inputs must be a list"),
    ManifestAttack("65 inputs", _set("inputs", [{}] * 65), "inputs has 65 entries"),
    ManifestAttack("unknown dtype", _set("inputs.0.dtype", "float8"), "dtype is 'float8'"),
    ManifestAttack("a negative dim", _set("inputs.0.shape", [-1]), "shape holds -1"),
    ManifestAttack("a zero dim", _set("inputs.0.shape", [0]), "shape holds 0"),
    ManifestAttack("a huge dim", _set("inputs.0.shape", [2**31]), "shape holds"),
    ManifestAttack("a dim of true", _set("inputs.0.shape", [True]), "shape holds True"),
    ManifestAttack("a dim as object", _set("inputs.0.shape", [{"a": 1}]), "shape holds"),
    ManifestAttack("rank 9", _set("inputs.0.shape", [1] * 9), "shape has 9 entries"),
    ManifestAttack("a name that acts on terminals", _set("inputs.0.name", "ids\x1b[2J"), "printed"),
    ManifestAttack("a name from right to left", _set("inputs.0.name", "\u202esdi"), "printed"),
    ManifestAttack("a dim of 1.0", _set("inputs.0.shape", [1.0]), "shape holds 1.0"),
    ManifestAttack("a long dim", _set("inputs.0.shape", ["x" * 10**5]), "shape holds"),
    ManifestAttack(
        "two inputs of one name", _set("inputs", manifest_json()["inputs"] * 2), "two inputs share"
    ),
    ManifestAttack("scale 0", _set("outputs.0.quantization.scale", [0]), "above 0"),
    ManifestAttack("scale as text", _set("outputs.0.quantization.scale", ["1"]), "finite number"),
    ManifestAttack("huge scale", _set("outputs.0.quantization.scale", [1.5e300]), "finite number"),
    ManifestAttack("endless scale", _set("outputs.0.quantization.scale", [10**400]), "401 digits"),
    ManifestAttack("no scale", _set("outputs.0.quantization.scale", []), "scale has 0 entries"),
    ManifestAttack(
        "more zero points", _set("outputs.0.quantization.zero_point", [0, 0]), "as many integers"
    ),
    ManifestAttack("an axis too far", _set("outputs.0.quantization.axis", 2), "axis is 2"),
    ManifestAttack("a step as text", _set("preprocess", ["tokenize"]), "expected an object"),
    ManifestAttack("a step as path", _set("preprocess.0.step", "os.system;"), "step is"),
    ManifestAttack("options as list", _set("preprocess.0.options", []), "options must be an obj"),
    ManifestAttack("33 steps", _set("preprocess", [{"step": "x"}] * 33), "has 33 entries"),
    # Variants.
    ManifestAttack("variants of nothing", _set("variants", []), "variants has 0 entries"),
    ManifestAttack("variant null", _set("variants", [None]), "expected an object, found nothing"),
    ManifestAttack("variant without file", _drop("variants.0.file"), "file is missing"),
    ManifestAttack("a file outside", _set("variants.0.file", "../../etc/passwd"), "not among"),
    ManifestAttack("a file unnamed", _set("variants.0.file", "other.onnx"), "not among its files"),
    ManifestAttack("the manifest as file", _set("variants.0.file", "manifest.json"), "not among"),
    ManifestAttack("backend as module", _set("variants.0.backend", "os:system"), "backend is"),
    ManifestAttack("one id twice", _set("variants.1.id", "litert-cpu"), "two variants share"),
    ManifestAttack("RAM below 0", _set("variants.0.needs.ram_bytes", -1), "ram_bytes is -1"),
    ManifestAttack("made-up evidence", _set("variants.0.latency_ms.evidence", "fine"), "evidence"),
    ManifestAttack("latency below 0", _set("variants.0.latency_ms.value", -1), "value is -1"),
    ManifestAttack("floor above 1", _set("variants.0.tolerance.floor", 1.5), "floor is 1.5"),
    ManifestAttack("another metric", _set("variants.0.tolerance.metric", "luck"), "metric is"),
    ManifestAttack("share above all", _set("variants.0.placement.share.value", 5), "value is 5"),
    ManifestAttack("off as text", _set("variants.0.placement.off", ["n"]), "off must hold"),
    ManifestAttack(
        "a dim of 0 in a signature", _set("variants.0.signatures.0.dims", {"sequence": 0}), "is 0"
    ),
    ManifestAttack(
        "a signature twice",
        _set("variants.0.signatures", [{"name": "a", "dims": {}}] * 2),
        "signatures of litert-cpu share",
    ),
    # Golden vectors, quality, provenance.
    ManifestAttack("golden unnamed", _set("golden.file", "other"), "not among its files"),
    ManifestAttack("no golden cases", _set("golden.cases", 0), "cases is 0"),
    ManifestAttack("too many golden cases", _set("golden.cases", 1025), "cases is 1025"),
    ManifestAttack("raw of other length", _set("golden.raw", ["a"]), "1 raw inputs for 2 cases"),
    ManifestAttack("raw of numbers", _set("golden.raw", [1, 2]), r"raw[0] must be a string"),
    ManifestAttack("interval of one", _set("quality.interval", [0.5]), "interval has 1 entries"),
    ManifestAttack("interval of texts", _set("quality.interval", ["a", "b"]), "finite number"),
    ManifestAttack("interval too large", _set("quality.interval", [0, 1.5e300]), "finite number"),
    ManifestAttack("n of 0", _set("quality.n", 0), "n is 0"),
    ManifestAttack("tools as list", _set("provenance.tools", []), "tools must be an object"),
    # Files.
    ManifestAttack("files as object", _set("files", {}), "files must be a list"),
    ManifestAttack("too many files", _set("files", [0] * (MAX_FILES + 1)), "files has 4097"),
    ManifestAttack("a size below 0", _set("files.0.size_bytes", -1), "size_bytes is -1"),
    ManifestAttack("a size too large", _set("files.0.size_bytes", 2**62), "size_bytes is"),
    ManifestAttack("another size", _set("files.0.size_bytes", 5), "chunks add up to"),
    ManifestAttack("chunks as text", _set("files.0.chunks", "abc"), "chunks must be a list"),
    ManifestAttack("an empty chunk", _set("files.0.chunks", [["ab" * 32, 0]]), "a chunk must be"),
    ManifestAttack(
        "a chunk too large", _set("files.0.chunks", [["ab" * 32, 1 << 18]]), "a chunk must be"
    ),
    ManifestAttack(
        "a chunk as path", _set("files.0.chunks", [["../" * 20, 200_000]]), "a chunk must be"
    ),
    ManifestAttack(
        "a chunk of two sizes",
        _with_files(
            {"path": "x", "size_bytes": 1, "sha256": "ab" * 32, "chunks": [["cd" * 32, 1]]},
            {"path": "y", "size_bytes": 2, "sha256": "ab" * 32, "chunks": [["cd" * 32, 2]]},
        ),
        "one chunk is given two sizes",
    ),
    *(
        ManifestAttack(f"the path {path!r}"[:40], _with_files(_file(path=path)), "path")
        for path in (
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/.",
            "C:\\x",
            "\\\\host\\x",
            "a\0b",
            "a\nb",
            "",
            "nul ",
            "a.",
            "é",
            "-/" * 20 + "x",
            "file:x",
        )
    ),
    ManifestAttack("a name over two lines", _set("provenance.tools", {"a\nb": 1}), "a b must be"),
    *(
        ManifestAttack(f"{what}, {key}", _set(key, text), f"{key} is")
        for key in ("name", "version", "task", "profile")
        for what, text in TRICKS.items()
    ),
    *(
        ManifestAttack(f"{what} in a path", _with_files(_file(path=f"m/{text}")), "path")
        for what, text in TRICKS.items()
    ),
    *(
        ManifestAttack(f"{what} in a reference", _set("golden.file", text), "not among its files")
        for what, text in TRICKS.items()
        if text.isprintable()
    ),
    ManifestAttack("a path too long", _with_files(_file(path="x" * 513)), "513 characters"),
    ManifestAttack("a path twice", _with_files(_file()), "two files share a path"),
    ManifestAttack(
        "a path twice but for case", _with_files(_file(path="MODEL.onnx")), "two files share a path"
    ),
    ManifestAttack(
        "the manifest among its files",
        _with_files({"path": "Manifest.json", **_EMPTY}),
        "is called manifest.json",
    ),
    ManifestAttack(
        "a file as folder",
        _with_files({"path": "model.onnx/data", **_EMPTY}),
        "'model.onnx' is both a file and a folder",
    ),
)
JSON_ATTACKS = on_json("manifest", manifest_json, MAX_MANIFEST_BYTES, UntrustedError)
