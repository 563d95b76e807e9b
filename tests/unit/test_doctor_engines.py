"""Engines and delegates as they break: not there, half there, crashing, hanging. Each for real."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.agent.doctor import engines as engines_module
from edge_runtime.agent.doctor import equipment
from edge_runtime.agent.doctor.bounded import ask
from edge_runtime.agent.doctor.builds import BUILDS
from edge_runtime.agent.doctor.engines import LIMIT_S, SOURCES, Engines, Fault
from edge_runtime.agent.doctor.finding import Finding, Level
from edge_runtime.agent.doctor.look import QUESTIONS, imported
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.fields import Json
from edge_runtime.inference.backend import BACKENDS
from edge_runtime.inference.litert import RUNTIMES
from edge_runtime.inference.ort_plugins import PLUGINS
from edge_runtime.profile import DeviceProfile, Engine, load_profile, profile_names
from tests.fakes import delegates

CPU = "CPUExecutionProvider"
LITERT = ("ai-edge-litert", "ai_edge_litert.interpreter")
Site = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Puts packages in front of the installed ones, for the processes that the doctor starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = os.environ.get("PYTHONPATH", "")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), root, before))))

    def make(module: str, code: str, *packages: str) -> None:
        path = folder.joinpath(*module.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        for above in path.relative_to(folder).parents:
            if above.name:
                (folder / above / "__init__.py").touch()
        path.with_suffix(".py").write_text(code)
        for package in packages:
            info = folder / f"{package.replace('-', '_')}-9.9.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9\n"
            )

    return make


def profile(*engines: Engine) -> DeviceProfile:
    return dataclasses.replace(load_profile("generic-x86_64"), engines=engines)


def ort(*providers: str, accelerator: str = "cpu") -> Engine:
    return Engine("onnxruntime", "w8", providers, 1, {}, accelerator=accelerator)


def litert(delegate: str = "", accelerator: str = "cpu") -> Engine:
    options: dict[str, Json] = {"delegate": delegate} if delegate else {}
    return Engine("litert", "w8", (), 1, options, accelerator=accelerator)


def fault(engine: Engine, *providers: str, limit_s: float = LIMIT_S) -> Fault | None:
    return Engines(profile(engine), limit_s=limit_s).fault(engine, providers)


def findings(*engines: Engine, limit_s: float = LIMIT_S, root: Path = Path("/")) -> list[Finding]:
    scene = Scene(root=root, profile=profile(*engines), architecture="x86_64")
    looked = Engines(scene.profile, limit_s=limit_s)
    return [*equipment.packages(scene, looked), *equipment.profile_engines(scene, looked)]


def test_the_tables_of_the_doctor_and_of_the_worker_agree() -> None:
    assert SOURCES.keys() == BACKENDS.keys()
    assert {s.packages[0]: s.module for s in SOURCES["litert"]} == RUNTIMES
    assert [s.module for s in SOURCES["onnxruntime"]] == ["onnxruntime"]
    assert list(SOURCES["litert"][0].packages) == [next(iter(RUNTIMES))]


# What is installed here.


def test_the_engine_that_is_installed_is_told_with_its_version_and_providers() -> None:
    module = pytest.importorskip("onnxruntime")
    found = {(f.id, f.subject): f for f in findings(ort(CPU))}
    package = found["engine.package", "onnxruntime"]
    assert package.level is Level.OK
    assert module.__version__ in package.text
    assert package.values["providers"] == module.get_available_providers()
    assert fault(ort(CPU)) is None


def test_a_provider_that_is_not_in_this_build_is_told_with_those_that_are() -> None:
    pytest.importorskip("onnxruntime")
    found = fault(ort("NonsuchExecutionProvider", CPU, accelerator="cuda"))
    assert found is not None
    assert found.kind == "build"
    assert "NonsuchExecutionProvider is not among the providers of onnxruntime" in found.text
    assert CPU in found.text
    # A variant's own word goes before the profile's.
    assert fault(ort("NonsuchExecutionProvider", accelerator="cuda"), CPU) is None


def test_a_provider_that_comes_as_a_plugin_is_told_with_its_package(
    site: Site, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    hexagon = ort("QNNExecutionProvider", CPU, accelerator="hexagon")
    assert fault(hexagon) == Fault(
        "plugin",
        "QNNExecutionProvider: no part of this ONNX Runtime, and its plug-in onnxruntime-qnn is "
        "not installed",
    )
    site("onnxruntime_qnn", "get_library_path = lambda: '/no/lib.so'", "onnxruntime-qnn")
    found = fault(hexagon)
    assert found is not None
    assert found.kind == "plugin"
    assert "its plug-in onnxruntime-qnn 9.9 does not work (" in found.text
    assert "/no/lib.so" in found.text
    (told,) = [f for f in findings(hexagon) if f.id == "engine.profile"]
    assert told.text == found.text
    assert "in a version for this Python" in told.advice


def test_one_engine_of_several_is_enough_and_none_is_an_obstacle() -> None:
    pytest.importorskip("onnxruntime")
    missing = ort("QNNExecutionProvider", accelerator="hexagon")
    found = {(f.id, f.subject): f for f in findings(missing, ort(CPU))}
    assert found["engine.profile", "onnxruntime on hexagon"].level is Level.WARNING
    assert found["engine.profile", "onnxruntime"].level is Level.OK
    assert found["engine.any", ""].level is Level.OK
    alone = {f.id: f for f in findings(missing)}
    assert alone["engine.any"].level is Level.OBSTACLE


def test_every_kind_of_fault_has_a_remedy() -> None:
    kinds = {"engine", "backend", "build", "provider", "plugin", "delegate", "device", "board",
             "machine", "options", "late", "file"}  # fmt: skip
    assert kinds == equipment.REMEDIES.keys()
    for kind in kinds:
        assert "{" not in equipment.remedy(litert(), Fault(kind, "x"), "p")
    assert fault(Engine("tensorflow", "", (), 1, {})) == Fault(
        "backend",
        "backend tensorflow is not known to this software, only onnxruntime, litert, rknn",
    )


# Packages that are broken.


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import ctypes; ctypes.string_at(0)", "it crashed (SIGSEGV)"),
        ("import os; os.abort()", "it crashed (SIGABRT)"),
        ("import os; os._exit(3)", "it ended with code 3 and no answer"),
        ("raise ImportError('libGL.so.1: cannot open shared object file')", "libGL.so.1"),
        ("import no_such_numpy", "No module named 'no_such_numpy'"),
        ("raise RuntimeError('numpy 2 is too new')", "RuntimeError: numpy 2 is too new"),
        ("import sys; sys.exit(1)", "it ended with code 1 and no answer"),
    ],
    ids=["segfault", "abort", "exit", "library", "dependency", "raises", "exits"],
)
def test_a_broken_engine_is_told_and_the_next_one_is_taken(
    site: Site, code: str, says: str
) -> None:
    site("ai_edge_litert.interpreter", code, "ai-edge-litert")
    site("tflite_runtime.interpreter", "", "tflite-runtime")
    found = {f.subject: f for f in findings(litert())}
    broken = next(f for f in found.values() if f.level is Level.WARNING)
    assert broken.id == "engine.package"
    assert says in broken.text
    assert "--force-reinstall" in broken.advice
    assert found["tflite-runtime"].level is Level.OK
    assert found["litert"].level is Level.OK  # By the other package.


def test_an_engine_that_hangs_is_ended_with_all_that_it_started(site: Site, tmp_path: Path) -> None:
    mark = tmp_path / "pids"
    site(
        "ai_edge_litert.interpreter",
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(mark)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(60)\n",
    )
    begin_s = time.monotonic()
    found = findings(litert(), limit_s=1.5)
    assert time.monotonic() - begin_s < 6
    late = [f for f in found if "no answer within 1.5 s: it hangs" in f.text]
    # Nothing is known of it: a slow board is not a broken one.
    assert {f.level for f in late} == {Level.UNKNOWN}
    assert {f.id for f in late} >= {"engine.package", "engine.profile"}
    assert [f.level for f in found if f.id == "engine.any"] == [Level.UNKNOWN]
    for pid in map(int, mark.read_text().split()):
        assert not _alive(pid)


def _alive(pid: int) -> bool:
    """Whether it still does something; one that nobody has waited for yet does not."""
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_two_packages_in_one_module_are_told(site: Site) -> None:
    site("onnxruntime", "__version__ = '9.9'\n", "onnxruntime", "onnxruntime-gpu")
    (clash,) = [f for f in findings(ort(CPU)) if f.id == "engine.clash"]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in clash.advice


def test_beside_the_package_a_vendors_engine_goes_where_the_launcher_looks_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ort("OpenVINOExecutionProvider", CPU, accelerator="openvino-cpu")
    found = Fault("build", "not there", "OpenVINOExecutionProvider")
    assert "in place of the plain one: pip install onnxruntime-openvino" in equipment.remedy(
        engine, found
    )
    monkeypatch.setattr(equipment, "__file__", "/usr/lib/edge-agent/edge_runtime/x.py")
    assert (
        "in front of the plain one: sudo pip install --target /usr/local/lib/edge-agent "
        "--no-deps onnxruntime-openvino" in equipment.remedy(engine, found)
    )


def test_an_engine_in_front_of_another_is_told_alone(site: Site) -> None:
    # As a board's own build in /usr/local/lib/edge-agent is in front of the package's.
    site("onnxruntime.__init__", "__version__ = '9.9'\n", "onnxruntime-gpu")
    found = findings(ort(CPU))
    assert [f for f in found if f.id == "engine.clash"] == []
    packages = [f.text for f in found if f.id == "engine.package"]
    assert any(text.startswith("onnxruntime-gpu 9.9") for text in packages)
    assert not any("onnxruntime 1" in text for text in packages)


def test_a_package_whose_files_are_gone_is_broken_and_one_that_never_was_is_absent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = imported("no_such_engine.interpreter", "no-such-engine")
    assert answer == {"versions": {}, "absent": "No module named 'no_such_engine'"}
    monkeypatch.setitem(
        SOURCES,
        "litert",
        (engines_module.Source("gone_engine.interpreter", ("gone-engine",)),),
    )
    assert fault(litert()) == Fault("engine", "gone-engine is not installed")
    site("unrelated", "", "gone-engine")
    found = fault(litert())
    assert found is not None
    assert found.text == "gone-engine 9.9: No module named 'gone_engine'"


def test_what_an_engine_prints_while_it_is_imported_is_not_its_answer(site: Site) -> None:
    site("onnxruntime", "print('{\"fault\": 1}'); __version__ = '9.9'\n", "onnxruntime")
    answer = ask(("import", "onnxruntime", "onnxruntime"), 20.0)
    assert isinstance(answer, dict)
    assert answer["version"] == "9.9"


def test_a_provider_whose_library_does_not_load_says_which_one_is_missing(
    site: Site, tmp_path: Path
) -> None:
    code = f"get_available_providers = lambda: ['CUDAExecutionProvider', {CPU!r}]\n"
    site("onnxruntime.__init__", code, "onnxruntime-gpu")
    capi = tmp_path / "site/onnxruntime/capi"
    capi.mkdir()
    cuda = ort("CUDAExecutionProvider", CPU, accelerator="cuda")
    assert fault(cuda) is None  # Built into the engine itself.
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"\x7fELF")
    found = fault(cuda)
    assert found is not None
    assert found.kind == "provider"
    assert "its library cannot be loaded" in found.text


# Delegates, compiled here.


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    folder = tmp_path_factory.mktemp("delegates")

    def build(name: str, code: str) -> str:
        source, library = folder / f"{name}.c", folder / f"lib{name}.so"
        source.write_text(code)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        return str(library)

    return build


CREATE = "void *tflite_plugin_create_delegate(void) { return 0; }\n"
DELEGATES = {
    "other": (
        "int something_else(void) { return 1; }\n",
        "loads, but does not export tflite_plugin",
    ),
    "crashes": (
        CREATE + "__attribute__((constructor)) static void f(void) { *(volatile int *)0 = 1; }\n",
        "it crashed (SIGSEGV)",
    ),
    "hangs": (
        CREATE + "#include <unistd.h>\n__attribute__((constructor)) static void f(void) "
        "{ for (;;) pause(); }\n",
        "it hangs",
    ),
}


@pytest.mark.parametrize("name", DELEGATES)
def test_a_delegate_is_loaded_in_a_process_that_it_may_take_down(
    name: str, compiled: Callable[[str, str], str]
) -> None:
    pytest.importorskip("ai_edge_litert")
    code, says = DELEGATES[name]
    limit_s = 4.0 if name == "hangs" else LIMIT_S
    found = fault(litert(compiled(name, code), accelerator="vx"), limit_s=limit_s)
    assert found is not None
    assert found.kind == ("late" if name == "hangs" else "delegate")
    assert says in found.text


def test_a_real_delegate_could_start_where_its_device_is_there() -> None:
    pytest.importorskip("ai_edge_litert")
    engine = litert(str(delegates.library()), accelerator="vx")
    assert fault(engine) is None
    found = {(f.id, f.subject): f.text for f in findings(engine, litert())}
    assert found["engine.profile", "litert on vx"].startswith("no VeriSilicon NPU")
    assert found["engine.any", ""].startswith("1 of 2")


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot open shared object"), (b"text", "cannot be loaded")]
)
def test_a_delegate_that_is_no_library_is_told(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "libdelegate.so"
    if content is not None:
        path.write_bytes(content)
    found = fault(litert(str(path), accelerator="vx"))
    assert found is not None
    assert says in found.text


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_delegate_that_is_no_regular_file_is_told_and_not_waited_for(
    tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "libdelegate.so"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    found = fault(litert(str(path), accelerator="vx"))
    assert found == Fault("delegate", f"delegate {path}: is no regular file")


@pytest.mark.parametrize(
    ("delegate", "says"),
    [
        (5, "is 5, expected the path of a library"),
        (True, "is True, expected"),
        (["libx.so"], "is ['libx.so'], expected"),
        ({"a": 1}, "is {'a': 1}, expected"),
        ("", "is '', expected"),
        ("lib\0x.so", "has a null byte"),
        ("/" + 5000 * "x", "has 5001 bytes, a path has fewer than 4096"),
    ],
    ids=["number", "boolean", "list", "table", "empty", "null", "long"],
)
def test_a_delegate_that_is_no_path_is_an_obstacle_in_a_sentence(delegate: Json, says: str) -> None:
    engine = dataclasses.replace(litert(accelerator="vx"), options={"delegate": delegate})
    (told,) = [f for f in findings(engine) if f.id == "engine.profile"]
    assert (told.level, told.subject) == (Level.OBSTACLE, "litert on vx")
    assert "option delegate of litert on vx " + says in told.text
    assert len(told.text) < 400
    assert "a fault of the doctor's" not in told.advice


def test_a_long_path_of_a_delegate_is_cut_wherever_it_is_told() -> None:
    pytest.importorskip("ai_edge_litert")
    for path in ("/" + "/".join(40 * [60 * "x"]), 250 * "y" + ".so"):
        found = fault(litert(path, accelerator="vx"))
        assert found is not None
        assert found.kind == "delegate"
        assert path not in found.text
        assert len(found.text) < 400


def test_an_accelerator_without_a_delegate_cannot_start() -> None:
    pytest.importorskip("ai_edge_litert")
    assert fault(litert(accelerator="vx")) == Fault(
        "delegate", "the profile names no delegate for vx"
    )
    assert fault(litert()) is None


def test_cores_that_are_not_here_are_told_on_the_profiles_own_architecture(
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime")
    online = tmp_path / "sys/devices/system/cpu/online"
    online.parent.mkdir(parents=True)
    online.write_text("0-2,5\n")
    wide = dataclasses.replace(ort(CPU), threads=8, affinity=(0, 5, 900))
    told = {f.id: f for f in findings(wide, root=tmp_path)}
    assert told["engine.profile"].level is Level.WARNING
    assert "wants 8 threads, 4 cores are here" in told["engine.profile"].text
    assert told["engine.profile"].text.endswith("not here: 900")
    assert told["engine.any"].level is Level.OK  # It runs all the same.
    fitting = dataclasses.replace(ort(CPU), threads=4, affinity=(2, 5))
    assert {f.level for f in findings(fitting, root=tmp_path)} == {Level.OK}
    scene = Scene(root=tmp_path, profile=profile(wide), architecture="aarch64")
    (other, _) = equipment.profile_engines(scene, Engines(scene.profile))
    assert other.level is Level.OK
    for garbage in ("", "x", "5-", "9" * 400):
        online.write_text(garbage)
        assert Scene(root=tmp_path).cores == frozenset()


@pytest.mark.parametrize(
    ("provider", "package"),
    [
        ("OpenVINOExecutionProvider", "pip install onnxruntime-openvino;"),
        ("TensorrtExecutionProvider", "onnxruntime-gpu for its JetPack"),
        ("CUDAExecutionProvider", "onnxruntime-gpu for its JetPack"),
        ("QNNExecutionProvider", "pip install onnxruntime-qnn,"),
        ("VitisAIExecutionProvider", "onnxruntime-vitisai"),
        ("HailoExecutionProvider", "Hailo's branch"),
        ("NonsuchExecutionProvider", "the one that the maker of npu gives out"),
    ],
)
def test_the_advice_on_a_provider_that_is_missing_names_its_package(
    site: Site, provider: str, package: str
) -> None:
    site("onnxruntime", f"get_available_providers = lambda: [{CPU!r}]\n", "onnxruntime")
    engine = ort(provider, CPU, accelerator="npu")
    (told,) = [f for f in findings(engine) if f.id == "engine.profile"]
    assert package in told.advice


def test_every_provider_of_a_shipped_profile_has_a_package() -> None:
    named = {p for name in profile_names() for e in load_profile(name).engines for p in e.providers}
    assert named - {CPU} <= BUILDS.keys() | PLUGINS.keys()


def test_the_process_that_looks_knows_every_question_and_answers_a_wrong_one() -> None:
    assert QUESTIONS.keys() == {"import", "delegate", "provider"}
    assert "TypeError" in str(ask(("delegate",), 20.0))


def test_the_doctor_itself_loads_no_engine_and_no_numbers() -> None:
    code = (
        "import json, sys\n"
        "from edge_runtime.agent.cli import main\n"
        "main(['doctor', '--json'])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "edge_runtime" in loaded
    assert loaded.isdisjoint({"numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "paho"})
