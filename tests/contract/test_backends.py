"""What every engine must do, on real files: the tiny classifier of `tests/fixtures`.

One suite over ONNX Runtime and LiteRT, the latter on whichever of its packages is installed. Load
and run of damaged files happen in a process of their own: an engine may abort.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle.manifest import Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.inference import litert
from edge_runtime.inference.backend import BACKENDS, Tensor, load_backend
from edge_runtime.inference.golden import load_golden, worst
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import first_passing, self_test
from edge_runtime.profile import Budget, Engine
from tests.fakes.tiny import FIXTURE, LENGTHS, TEXTS, tiny_bundle, variant_json, variant_of

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Case:
    """An engine: its package, and the fixture's files for it."""

    package: str
    module: str
    backend: str
    float_file: str
    int8_file: str
    install: str

    @property
    def fixed(self) -> bool:
        return self.backend == "litert"


CASES = (
    Case("onnxruntime", "onnxruntime", "onnxruntime", "model.onnx", "model-int8.onnx",
         "edge-runtime[onnxruntime]"),
    Case("ai-edge-litert", "ai_edge_litert", "litert", "model-float.tflite", "model.tflite",
         "edge-runtime[litert]"),
    Case("tflite-runtime", "tflite_runtime", "litert", "model-float.tflite", "model.tflite",
         "edge-runtime[tflite]"),
)  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda case: case.package)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    found: Case = request.param
    if importlib.util.find_spec(found.module) is None:
        pytest.skip(f'{found.package} is not installed: pip install "{found.install}"')
    if found.fixed:
        only = {found.package: litert.RUNTIMES[found.package]}
        monkeypatch.setattr(litert, "RUNTIMES", only)
    return found


@pytest.fixture
def bundle(case: Case, tmp_path: Path) -> VerifiedBundle:
    return tiny_bundle(
        tmp_path / "bundle",
        [variant_json("float", case.float_file), variant_json("int8", case.int8_file)],
    )


@pytest.fixture
def pipeline(bundle: VerifiedBundle) -> Iterator[Pipeline]:
    opened = Pipeline.open(bundle, variant_of(bundle, "float"))
    yield opened
    opened.close()


def test_the_float_model_gives_the_references_numbers(
    bundle: VerifiedBundle, pipeline: Pipeline
) -> None:
    for golden in load_golden(bundle):
        found = pipeline.run(golden.inputs)
        np.testing.assert_allclose(found["logits"], golden.outputs["logits"], rtol=1e-3, atol=1e-4)


def test_the_int8_model_comes_close_or_is_refused(case: Case, bundle: VerifiedBundle) -> None:
    opened = Pipeline.open(bundle, variant_of(bundle, "int8"))
    report = self_test(bundle, opened)
    opened.close()
    if case.package == "tflite-runtime":
        # It runs dynamically quantized files without an error and gets them wrong.
        assert not report.passed
        assert "to the float reference, at least 0.97 is needed" in report.reason
        assert report.value < 0.5
    else:
        assert report.passed, report.reason
        assert 0.97 <= report.value < 1


def test_the_self_test_takes_the_first_variant_that_the_engine_gets_right(
    case: Case, bundle: VerifiedBundle
) -> None:
    variants = [variant_of(bundle, "int8"), variant_of(bundle, "float")]
    budget = Budget(latency_ms=1000, ram_bytes=1 << 34)
    opened, reports = first_passing(bundle, variants, lambda _: None, budget)
    assert opened is not None
    assert opened.variant.id == ("float" if case.package == "tflite-runtime" else "int8")
    assert reports[-1].passed
    assert reports[-1].cases == len(TEXTS)
    assert reports[-1].latency_p95_ms > 0
    assert reports[-1].accelerator.degraded == ""
    opened.close()


def test_the_session_tells_its_engine_and_tensors(case: Case, pipeline: Pipeline) -> None:
    session = pipeline._session
    assert session.accelerator.actual.startswith(f"{case.package} ")
    assert session.accelerator.degraded == ""
    assert [spec.name for spec in session.inputs] == ["input_ids", "attention_mask"]
    assert {spec.dtype for spec in session.inputs} == {"int32" if case.fixed else "int64"}
    assert [(spec.name, spec.dtype) for spec in session.outputs] == [("logits", "float32")]
    assert session.lengths == (LENGTHS if case.fixed else ())
    assert session.max_batch == (1 if case.fixed else None)


def test_texts_get_the_same_answers_alone_and_together(pipeline: Pipeline) -> None:
    together = pipeline(TEXTS)
    for text, answer in zip(TEXTS, together, strict=True):
        (alone,) = pipeline([text])
        assert alone.as_json()["label"] == answer.as_json()["label"]
        assert alone.as_json()["score"] == pytest.approx(answer.as_json()["score"], abs=1e-4)


def test_the_same_input_gives_the_same_bytes(bundle: VerifiedBundle, pipeline: Pipeline) -> None:
    cases = load_golden(bundle)
    first = [pipeline.run(golden.inputs)["logits"].tobytes() for golden in cases]
    again = [pipeline.run(golden.inputs)["logits"].tobytes() for golden in reversed(cases)]
    assert again[::-1] == first


def test_an_answer_stays_what_it_was_when_the_next_comes(
    bundle: VerifiedBundle, pipeline: Pipeline
) -> None:
    first, second = load_golden(bundle)[:2]
    kept = pipeline.run(first.inputs)
    copy = kept["logits"].copy()
    pipeline.run(second.inputs)
    np.testing.assert_array_equal(kept["logits"], copy)


def test_a_length_between_two_entry_points_is_padded_and_right(
    case: Case, bundle: VerifiedBundle, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    run = pipeline._session.run

    def spy(feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(feeds["input_ids"].shape[1])
        return run(feeds)

    monkeypatch.setattr(pipeline._session, "run", spy)
    for golden in load_golden(bundle):
        length = golden.inputs["input_ids"].shape[1]
        assert worst(pipeline.run(golden.inputs), golden) > 0.9999
        expected = min(n for n in LENGTHS if n >= length) if case.fixed else length
        assert seen.pop() == expected


def tensors(length: int = 12, rows: int = 1, first: int = 5) -> dict[str, Tensor]:
    ids = np.full((rows, length), 7, np.int64)
    ids[0, 0] = first
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_many_rows_are_as_good_as_one_by_one(pipeline: Pipeline) -> None:
    many = tensors(12, 5)
    found = pipeline.run(many)["logits"]
    assert found.shape == (5, 4)
    for row in range(5):
        one = {name: value[row : row + 1] for name, value in many.items()}
        np.testing.assert_allclose(found[row], pipeline.run(one)["logits"][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("token", [1_000_000, 3_000_000_000, -1_000_000])
def test_a_token_outside_the_vocabulary_is_refused_and_the_next_request_runs(
    pipeline: Pipeline, token: int
) -> None:
    before = pipeline.run(tensors())["logits"]
    with pytest.raises(InputError, match=f"input_ids: holds {token}, which is no token"):
        pipeline.run(tensors(first=token))
    np.testing.assert_array_equal(pipeline.run(tensors())["logits"], before)


def test_what_an_engine_says_of_one_request_is_not_told_to_the_next(pipeline: Pipeline) -> None:
    session, told = pipeline._session, []
    length = session.lengths[0] if session.lengths else 12
    before = session.run(tensors(length))["logits"]
    for token in (1_111_111, 2_222_222, 3_333_333):
        with pytest.raises(InputError, match="variant float: the model refuses") as caught:
            session.run(tensors(length, first=token))
        told.append(str(caught.value))
    assert "1111111" not in told[1] + told[2]
    assert "2222222" not in told[2]
    assert len({len(text) for text in told}) == 1, told
    np.testing.assert_array_equal(session.run(tensors(length))["logits"], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": None}, "input attention_mask is missing"),
        ({"position_ids": np.zeros((1, 12), np.int64)}, "input 'position_ids' is not known"),
        ({"input_ids": np.zeros((1, 12), np.float32)}, "expected int64, found float32"),
        ({"input_ids": np.zeros(12, np.int64)}, r"expected the shape \[batch, sequence\]"),
        ({"input_ids": np.zeros((1, 11), np.int64)}, "sequence is 11 in another input"),
    ],
)
def test_a_wrong_tensor_is_told_in_a_sentence(
    pipeline: Pipeline, change: dict[str, Tensor | None], message: str
) -> None:
    given = {name: value for name, value in (tensors() | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        pipeline.run(given)


def test_an_interface_other_than_the_manifests_is_refused(case: Case, tmp_path: Path) -> None:
    wanted = [variant_json("float", case.float_file)]
    other = {"name": "logits", "dtype": "int32", "shape": ["batch", 4]}
    for number, (outputs, message) in enumerate(
        [
            ([other], "logits is float32 in .*, int32 in the manifest"),
            ([other | {"dtype": "float32", "shape": [4]}], "has 2 dimensions in .*, 1 in the"),
            ([other | {"name": "scores"}], "has the outputs logits, the manifest says scores"),
        ]
    ):
        bundle = tiny_bundle(tmp_path / str(number), wanted, outputs=outputs)
        with pytest.raises(IncompatibleError, match=message):
            Pipeline.open(bundle, bundle.manifest.variants[0])


def test_signatures_that_the_file_has_not_are_refused(case: Case, tmp_path: Path) -> None:
    if not case.fixed:
        pytest.skip("ONNX files have no signatures")
    for number, (signatures, message) in enumerate(
        [
            ([{"name": "tokens_32", "dims": {"sequence": 32}}], "has no signature 'tokens_32'"),
            ([], "has 3 signatures .* expected exactly one"),
            (
                [{"name": f"tokens_{n}", "dims": {"sequence": 16}} for n in (16, 64)],
                "two signatures for a sequence of 16",
            ),
        ]
    ):
        bundle = tiny_bundle(
            tmp_path / str(number),
            [variant_json("float", case.float_file, signatures=signatures)],
        )
        with pytest.raises(IncompatibleError, match=message):
            Pipeline.open(bundle, bundle.manifest.variants[0])


def open_with(bundle: VerifiedBundle, case: Case, threads: int = 1, **options: Any) -> Pipeline:
    engine = Engine(case.backend, "", (), threads, options)
    return Pipeline.open(bundle, variant_of(bundle, "float"), engine)


def test_an_option_that_the_engine_has_not_is_refused(case: Case, bundle: VerifiedBundle) -> None:
    with pytest.raises(IncompatibleError, match=r"option 'turbo'.*known are"):
        open_with(bundle, case, turbo=True)


def test_a_bundle_may_not_set_options_that_reach_outside(case: Case, tmp_path: Path) -> None:
    for number, key in enumerate(["ep.context_file_path", "delegate", "CPUExecutionProvider"]):
        bundle = tiny_bundle(
            tmp_path / str(number),
            [variant_json("float", case.float_file, options={key: "/tmp/evil.so"})],
        )
        with pytest.raises(IncompatibleError, match=f"a bundle may not set the option '{key}'"):
            Pipeline.open(bundle, bundle.manifest.variants[0])


def test_many_threads_get_the_right_answers(bundle: VerifiedBundle, pipeline: Pipeline) -> None:
    cases = load_golden(bundle)
    expected = [pipeline.run(golden.inputs)["logits"].tobytes() for golden in cases]

    def all_cases(_: int) -> list[bytes]:
        return [pipeline.run(golden.inputs)["logits"].tobytes() for golden in cases]

    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(all_cases, range(12)))


def test_a_closed_session_says_so_and_closes_twice(pipeline: Pipeline) -> None:
    pipeline.close()
    pipeline.close()
    with pytest.raises(RuntimeError, match="variant float is closed"):
        pipeline.run(tensors())


def test_closing_frees_the_engine(case: Case, bundle: VerifiedBundle) -> None:
    opened = open_with(bundle, case)
    opened.run(tensors())
    session: Any = opened._session
    inner = session._keep[1] if case.fixed else session._inner
    watched = weakref.ref(inner)
    del inner
    opened.close()
    gc.collect()
    assert watched() is None


def in_a_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter: for thread counts, memory and files that abort."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


THREADS = """
import os, sys
from pathlib import Path
import numpy as np
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.inference import litert
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.profile import Engine

folder, package, threads = sys.argv[1:]
if package in litert.RUNTIMES:
    litert.RUNTIMES = {package: litert.RUNTIMES[package]}
bundle = verify(FolderReader(Path(folder)))
variant = bundle.manifest.variants[0]
def count():
    return len(os.listdir("/proc/self/task"))
ids = np.full((1, 128), 7, np.int64)
feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
first = Pipeline.open(bundle, variant, Engine(variant.backend, "", (), 1, {}))
first.run(feeds)
before = count()
second = Pipeline.open(bundle, variant, Engine(variant.backend, "", (), int(threads), {}))
second.run(feeds)
print(count() - before)
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_the_thread_count_is_obeyed(
    case: Case, bundle: VerifiedBundle, tmp_path: Path, threads: int
) -> None:
    done = in_a_process(THREADS, str(tmp_path / "bundle"), case.package, str(threads))
    assert done.returncode == 0, done.stderr
    # tflite-runtime keeps two pools of that size, its own and its XNNPACK delegate's.
    pools = 2 if case.package == "tflite-runtime" else 1
    assert int(done.stdout) == pools * (threads - 1)


LEAK = """
import sys
from pathlib import Path
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.inference import litert
from edge_runtime.inference.memory import rss_bytes, trim
from edge_runtime.inference.pipeline import Pipeline

folder, package = sys.argv[1:]
if package in litert.RUNTIMES:
    litert.RUNTIMES = {package: litert.RUNTIMES[package]}
bundle = verify(FolderReader(Path(folder)))
def rounds(number):
    for _ in range(number):
        pipeline = Pipeline.open(bundle, bundle.manifest.variants[0])
        pipeline(["mail server", "a puzzle game"])
        pipeline.close()
    trim()
    return rss_bytes()
print(-rounds(30) + rounds(60))
"""


def test_loading_again_and_again_keeps_no_memory(
    case: Case, bundle: VerifiedBundle, tmp_path: Path
) -> None:
    done = in_a_process(LEAK, str(tmp_path / "bundle"), case.package)
    assert done.returncode == 0, done.stderr
    # A kept model would be 60 times its 118 to 253 kB.
    assert int(done.stdout) < 3 << 20


LOAD = """
import json, sys
from pathlib import Path
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import EdgeError
from edge_runtime.inference import litert
from edge_runtime.inference.selftest import first_passing

folder, package = sys.argv[1:]
if package in litert.RUNTIMES:
    litert.RUNTIMES = {package: litert.RUNTIMES[package]}
bundle = verify(FolderReader(Path(folder)))
pipeline, reports = first_passing(bundle, bundle.manifest.variants, lambda _: None)
print(json.dumps([pipeline is not None, [report.reason for report in reports]]))
"""


def damaged(data: bytes, how: str) -> bytes:
    rng = np.random.default_rng(3)
    match how:
        case "empty":
            return b""
        case "noise":
            return rng.bytes(len(data))
        case "noise behind the header":
            return data[:8] + rng.bytes(len(data))
        case "cut in half":
            return data[: len(data) // 2]
        case "one byte short":
            return data[:-1]
        case _:
            return data[:8] + bytes(len(data) - 8)


@pytest.mark.parametrize(
    "how",
    ["empty", "noise", "noise behind the header", "cut in half", "one byte short", "zeros"],
)
def test_a_damaged_file_never_passes(case: Case, tmp_path: Path, how: str) -> None:
    """It is refused in a sentence; or the engine aborts, which ends the worker, not the agent."""
    data = damaged((FIXTURE / case.float_file).read_bytes(), how)
    folder = tmp_path / "bundle"
    tiny_bundle(folder, [variant_json("float", case.float_file)], {case.float_file: data})
    done = in_a_process(LOAD, str(folder), case.package)
    if done.returncode < 0:
        assert case.package == "tflite-runtime", "only tflite-runtime is known to abort"
        return
    assert done.returncode == 0, done.stderr
    passed, reasons = json.loads(done.stdout)
    if how == "one byte short" and passed:
        assert case.package == "tflite-runtime", "its last byte is padding that nobody reads"
        return
    assert not passed
    assert "Traceback" not in done.stderr
    assert reasons[0].startswith("variant float: ")


def test_an_engine_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"onnxruntime": "model.onnx", "litert": "model.tflite"}
    for module in [case.module for case in CASES]:
        monkeypatch.setitem(sys.modules, module, None)
        for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
            monkeypatch.setitem(sys.modules, name, None)
    for backend in BACKENDS:
        assert f'pip install "edge-runtime[{backend}]"' in (load_backend(backend).available() or "")
        if backend not in files:
            continue
        bundle = tiny_bundle(tmp_path / backend, [variant_json("v", files[backend])])
        variant: Variant = bundle.manifest.variants[0]
        with pytest.raises(IncompatibleError, match=rf"edge-runtime\[{backend}\]"):
            Pipeline.open(bundle, variant)
