"""The manifest: what a bundle is, what it needs, and every byte that belongs to it.

This module owns the schema, its limits and its canonical bytes. It reads no file and trusts no
digest: `verify` does. Order for a reader: check the size, parse, then use; `Manifest.from_bytes`
does all three and returns a value that is valid by construction. Unknown fields pass; an unknown
format major is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from edge_runtime.bundle.files import SHA256, FileEntry
from edge_runtime.errors import IncompatibleError, InputError, UntrustedError
from edge_runtime.fields import Fields, Json, decode_json, encode_json

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 4096
MAX_VARIANTS = 64
MAX_RANK = 8
MAX_DIM = 1 << 31

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
VERSION = r"[0-9]{1,9}(\.[0-9]{1,9}){2}(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?"
CREATED = r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z"
IDENTIFIER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
DTYPES = (
    "float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool", "bytes",
)  # fmt: skip
EVIDENCE = ("measured", "vendor-compiled", "rule-checked", "estimated", "unknown")


@dataclass(frozen=True, slots=True)
class Quantization:
    """real = scale * (q - zero_point); one scale, or one per index of `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named tensor. A dimension is a size or a name ("batch", "sequence") for a free one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: str | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A declared pre- or postprocess step: a name from the table of tasks, and its options."""

    step: str
    options: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and how it is known. `where` says on what machine or by which tool."""

    value: float | None
    evidence: str
    where: str = ""


UNKNOWN = Figure(None, "unknown")


@dataclass(frozen=True, slots=True)
class Signature:
    """One entry point with fixed dims of a model file, as {"sequence": 64}."""

    name: str
    dims: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a variant asks of the device."""

    ram_bytes: int = 0
    cpu_features: tuple[str, ...] = ()
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """Share of the model's nodes on `accelerator`, 0..1; every node left off it, with why."""

    accelerator: str
    share: Figure
    off: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The self-test's bar: `metric` of every golden case against the reference is >= `floor`.

    Metrics: "cosine" of the flattened output with the float reference's.
    """

    metric: str
    floor: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model. Variants stand in order of preference.

    `profiles` are the boards that it was made for; the manifest's own where there are none.
    """

    id: str
    backend: str
    file: str
    precision: str
    providers: tuple[str, ...]
    options: Mapping[str, Json]
    signatures: tuple[Signature, ...]
    needs: Needs
    latency_ms: Figure
    memory_bytes: Figure
    placement: Placement
    tolerance: Tolerance
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden vectors: tensors `<case>.<name>` in a safetensors file, 0 <= case < cases.

    `raw` holds the same cases before preprocessing (texts), so that the steps are proved too;
    it is empty where the inputs are tensors to begin with.
    """

    file: str
    cases: int
    raw: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quality:
    """`metric` of the float reference and of the bundle's first variant, on the same n rows."""

    metric: str
    reference: float
    bundle: float
    n: int
    interval: tuple[float, float]
    data_sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where it comes from. `tools` maps a tool to its version."""

    source: str
    source_sha256: str
    licence: str
    recipe_sha256: str
    tools: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's manifest, valid by construction when made by `from_bytes`."""

    name: str
    version: str
    created: str
    task: str
    profile: str
    profile_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: tuple[Step, ...]
    postprocess: tuple[Step, ...]
    variants: tuple[Variant, ...]
    golden: Golden
    quality: Quality | None
    files: tuple[FileEntry, ...]
    provenance: Provenance
    format: int = FORMAT

    def file(self, path: str) -> FileEntry:
        """The entry of `path`. Raises UntrustedError: the manifest does not name it."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise UntrustedError(f"bundle {self.name} {self.version}: no file {path!r} in its manifest")

    @property
    def profiles(self) -> tuple[str, ...]:
        """Every board that a variant was made for, the first one's profile in front."""
        others = (name for variant in self.variants for name in variant.profiles)
        return tuple(dict.fromkeys((self.profile, *others)))

    def variants_for(self, profile: str) -> tuple[Variant, ...]:
        """The variants that were made for the board `profile`, the preferred one first."""
        return tuple(v for v in self.variants if profile in (v.profiles or (self.profile,)))

    def files_of(self, variants: Collection[Variant]) -> tuple[FileEntry, ...]:
        """The files that `variants` need: all but those that only others run.

        What golden vectors and steps name is needed by all, also where a variant's file is named.
        """
        steps = (*self.preprocess, *self.postprocess)
        named = {value for step in steps for value in step.options.values() if type(value) is str}
        wanted = {variant.file for variant in variants} | named
        wanted |= {self.golden.file, *self.golden.raw}
        others = {variant.file for variant in self.variants} - wanted
        return tuple(entry for entry in self.files if entry.path not in others)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, the manifest not counted."""
        return sum(entry.size_bytes for entry in self.files)

    def to_bytes(self) -> bytes:
        """Canonical bytes, so that equal manifests have equal digests.

        Raises:
            InputError: larger than a reader accepts: too many files or chunks.
        """
        value = dataclasses.asdict(self)
        value["files"] = [entry.as_json() for entry in self.files]
        for variant in value["variants"]:
            if not variant["profiles"]:  # as manifests were before one could name several boards
                del variant["profiles"]
        data = encode_json(value)
        if len(data) > MAX_MANIFEST_BYTES:
            raise InputError(
                f"bundle {self.name} {self.version}: {self.size_bytes} bytes in "
                f"{len(self.files)} files make a manifest of {len(data)} bytes, at most "
                f"{MAX_MANIFEST_BYTES} are accepted"
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "manifest") -> Manifest:
        """Parse and check.

        Raises:
            UntrustedError: too large, malformed, or at odds with itself.
            IncompatibleError: a format major that this code does not know.
        """
        f = Fields(
            decode_json(data, max_bytes=MAX_MANIFEST_BYTES, where=where, error=UntrustedError),
            where,
            UntrustedError,
        )
        found = f.integer("format")
        if found != FORMAT:
            raise IncompatibleError(f"{where}: format {found}, this software reads {FORMAT}")
        manifest = cls(
            name=f.text("name", pattern=NAME),
            version=f.text("version", pattern=VERSION),
            created=f.text("created", pattern=CREATED),
            task=f.text("task", pattern=NAME),
            profile=f.text("profile", pattern=NAME),
            profile_sha256=f.text("profile_sha256", pattern=SHA256),
            inputs=_tensors(f, "inputs"),
            outputs=_tensors(f, "outputs"),
            preprocess=_steps(f, "preprocess"),
            postprocess=_steps(f, "postprocess"),
            variants=tuple(
                _variant(v) for v in f.objects("variants", max_items=MAX_VARIANTS, min_items=1)
            ),
            golden=_golden(f.object("golden")),
            quality=_quality(f.object("quality")) if f.present("quality") else None,
            files=tuple(FileEntry.parse(e) for e in f.objects("files", max_items=MAX_FILES)),
            provenance=_provenance(f.object("provenance")),
        )
        _check_agreement(manifest, where)
        return manifest


def _tensors(f: Fields, key: str) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(t) for t in f.objects(key, max_items=64, min_items=1))


def _tensor(f: Fields) -> TensorSpec:
    shape = tuple(f.items("shape", max_items=MAX_RANK))
    for dim in shape:
        named = isinstance(dim, str) and re.fullmatch(IDENTIFIER, dim)
        sized = isinstance(dim, int) and not isinstance(dim, bool) and 0 < dim < MAX_DIM
        if not (named or sized):
            f.fault(f"{f.where}: shape holds {dim!r}, expected a size or a name")
    quantized = f.present("quantization")
    name = f.text("name")
    if not name.isprintable():
        f.fault(f"{f.where}: name {name!r} holds what cannot be printed")
    return TensorSpec(
        name=name,
        dtype=f.choice("dtype", DTYPES),
        shape=shape,
        layout=f.text("layout") if f.present("layout") else None,
        quantization=_quantization(f.object("quantization"), len(shape)) if quantized else None,
    )


def _quantization(f: Fields, rank: int) -> Quantization:
    scale = f.numbers("scale", max_items=1 << 16, min_items=1)
    zero = tuple(f.items("zero_point", max_items=1 << 16, min_items=1))
    if min(scale) <= 0:
        f.fault(f"{f.where}: every scale must be a number above 0")
    if not all(type(z) is int and abs(z) < MAX_DIM for z in zero) or len(zero) != len(scale):
        f.fault(f"{f.where}: zero_point must hold as many integers as scale")
    axis = f.integer("axis", high=rank - 1) if f.present("axis") else None
    if axis is None and len(scale) > 1:
        f.fault(f"{f.where}: {len(scale)} scales need an axis")
    return Quantization(scale, zero, axis)


def _steps(f: Fields, key: str) -> tuple[Step, ...]:
    return tuple(
        Step(s.text("step", pattern=NAME.replace("._-", "._")), s.mapping("options", {}))
        for s in f.objects(key, max_items=32)
    )


def _figure(f: Fields, high: float = 1e300) -> Figure:
    return Figure(
        value=f.number("value", low=0, high=high) if f.present("value") else None,
        evidence=f.choice("evidence", EVIDENCE),
        where=f.text("where", ""),
    )


def _variant(f: Fields) -> Variant:
    needs = f.object("needs", {})
    placement = f.object("placement")
    tolerance = f.object("tolerance")
    return Variant(
        id=f.text("id", pattern=IDENTIFIER),
        backend=f.text("backend", pattern=NAME),
        file=f.text("file", max_len=512),
        precision=f.text("precision"),
        providers=f.texts("providers", (), max_items=16),
        options=f.mapping("options", {}),
        signatures=tuple(_signature(s) for s in f.objects("signatures", (), max_items=64)),
        needs=Needs(
            ram_bytes=needs.integer("ram_bytes", 0),
            cpu_features=needs.texts("cpu_features", (), max_items=64),
            driver=needs.text("driver", ""),
        ),
        latency_ms=_figure(f.object("latency_ms")),
        memory_bytes=_figure(f.object("memory_bytes")),
        placement=Placement(
            accelerator=placement.text("accelerator"),
            share=_figure(placement.object("share"), high=1.0),
            off=tuple(_off(placement, item) for item in placement.items("off", ())),
        ),
        tolerance=Tolerance(
            metric=tolerance.choice("metric", ("cosine",)),
            floor=tolerance.number("floor", low=-1, high=1),
        ),
        profiles=_profiles(f),
    )


def _profiles(f: Fields) -> tuple[str, ...]:
    names: tuple[str, ...] = f.texts("profiles", (), max_items=64)
    for name in names:
        if not re.fullmatch(NAME, name):
            f.fault(f"{f.where}: profiles holds {name!r}, expected names like raspberry-pi-5")
    return names


def _off(f: Fields, item: object) -> tuple[str, str]:
    match item:
        case [str(node), str(reason)]:
            return node, reason
    f.fault(f"{f.where}: off must hold [node, reason] pairs")
    return "", ""


def _signature(f: Fields) -> Signature:
    dims = f.object("dims")
    names = f.mapping("dims")
    return Signature(
        name=f.text("name", pattern=IDENTIFIER),
        dims={name: dims.integer(name, low=1, high=MAX_DIM) for name in names},
    )


def _golden(f: Fields) -> Golden:
    golden = Golden(
        file=f.text("file", max_len=512),
        cases=f.integer("cases", low=1, high=1024),
        raw=f.texts("raw", (), max_items=1024, max_len=1 << 16),
    )
    if golden.raw and len(golden.raw) != golden.cases:
        f.fault(f"{f.where}: {len(golden.raw)} raw inputs for {golden.cases} cases")
    return golden


def _quality(f: Fields) -> Quality:
    low, high = f.numbers("interval", max_items=2, min_items=2)
    return Quality(
        metric=f.text("metric"),
        reference=f.number("reference"),
        bundle=f.number("bundle"),
        n=f.integer("n", low=1),
        interval=(low, high),
        data_sha256=f.text("data_sha256", pattern=SHA256),
    )


def _provenance(f: Fields) -> Provenance:
    tools = f.object("tools", {})
    return Provenance(
        source=f.text("source", max_len=1024),
        source_sha256=f.text("source_sha256", pattern=SHA256),
        licence=f.text("licence"),
        recipe_sha256=f.text("recipe_sha256", pattern=SHA256),
        tools={name: tools.text(name) for name in f.mapping("tools", {})},
    )


def _check_agreement(m: Manifest, where: str) -> None:
    """What no single field can say: names are unique, and every reference resolves."""
    paths = [entry.path for entry in m.files]
    folded = {path.casefold() for path in paths}
    if len(folded) != len(paths) or MANIFEST_NAME in folded:
        raise UntrustedError(f"{where}: two files share a path, or one is called {MANIFEST_NAME}")
    folders = {path[: match.start()] for path in folded for match in re.finditer("/", path)}
    if folders & folded:
        raise UntrustedError(f"{where}: {min(folders & folded)!r} is both a file and a folder")
    sizes = {chunk for entry in m.files for chunk in entry.chunks}
    if len({chunk.sha256 for chunk in sizes}) != len(sizes):
        raise UntrustedError(f"{where}: one chunk is given two sizes")
    for what, names in (
        ("inputs", [tensor.name for tensor in m.inputs]),
        ("outputs", [tensor.name for tensor in m.outputs]),
        ("variants", [variant.id for variant in m.variants]),
        *((f"signatures of {v.id}", [s.name for s in v.signatures]) for v in m.variants),
    ):
        if len(set(names)) != len(names):
            raise UntrustedError(f"{where}: two {what} share a name")
    for path in [variant.file for variant in m.variants] + [m.golden.file]:
        if path not in paths:
            raise UntrustedError(f"{where}: {path!r} is referred to but not among its files")
