"""Operators of model files by name, and files that nobody should load: one sentence each."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters import model_files
from converters.operators import (
    check_onnx,
    check_runtime,
    float_operators,
    operators_of,
    read_onnx,
    read_tflite,
    tflite_operators,
    unknown_onnx,
    unknown_tflite,
)
from converters.tflite_versions import TFLITE_RUNTIME_2_14
from edge_runtime.errors import InputError
from tests.converters.nets import litert_of, onnx_of

STANDARD = Path(onnx.__file__).parent / "backend" / "test" / "data"


def model(*nodes: onnx.NodeProto, opset: int = 17, **domains: int) -> onnx.ModelProto:
    """Nodes over `x` and the constant `w`, (2, 2), the last of which makes `y`."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes), "g", [value("x", TensorProto.FLOAT, [2, 2])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(name.replace("_", "."), n) for name, n in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(op: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, ["x", "w"], ["y"], domain=domain, **attributes)


def branches() -> onnx.ModelProto:
    """An If whose branches hold an operator each."""
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 2])
    inner = [
        helper.make_graph([helper.make_node(op, ["x"], ["z"])], op, [], [value])
        for op in ("Exp", "Log")
    ]
    made = helper.make_node("If", ["x"], ["y"], then_branch=inner[0], else_branch=inner[1])
    return model(made)


def test_operators_are_counted_in_subgraphs_and_with_their_domain() -> None:
    assert operators_of(branches()) == {"Exp": 1, "If": 1, "Log": 1}
    other = model(node("Add"), node("Add"), node("Attention", "com.microsoft"), com_microsoft=1)
    assert operators_of(other) == {"Add": 2, "com.microsoft:Attention": 1}
    assert operators_of(other.SerializeToString()) == operators_of(other)


def test_files_and_bytes_of_both_formats_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx_of("dense"))
    (tmp_path / "a.tflite").write_bytes(litert_of("dense"))
    assert operators_of(tmp_path / "a.onnx") == {"Gemm": 3, "Relu": 2, "Flatten": 1}
    assert operators_of(tmp_path / "a.tflite") == {"FULLY_CONNECTED": 3, "RESHAPE": 1}
    assert operators_of(litert_of("dense")) == operators_of(tmp_path / "a.tflite")
    with pytest.raises(InputError, match=r"nothing\.onnx: cannot be read \(No such file"):
        operators_of(tmp_path / "nothing.onnx")


@pytest.mark.parametrize(
    ("op", "opset", "hint"),
    [
        ("GridSample", 13, "from opset 16"),
        ("HardSwish", 13, "from opset 14"),
        ("Gelu", 17, "from opset 20"),
        ("Upsample", 13, "until opset 9"),
        ("Scatter", 12, "until opset 10"),
        ("Warble", 17, "in no opset"),
    ],
)
def test_an_unknown_operator_is_named_with_the_nearest_opset(
    op: str, opset: int, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_onnx(model(node("Add"), node(op), opset=opset), "model a.onnx")
    told = str(caught.value)
    assert told.startswith("model a.onnx: ONNX Runtime 1.")
    assert told.endswith(f"does not know {op} ({hint}) at the model's opset {opset}")
    nearest = [int(word) for word in hint.split() if word.isdigit()]
    for there in nearest:
        check_onnx(model(node(op), opset=there), "model a.onnx")


def test_domains_that_nobody_knows_and_functions_that_the_model_brings() -> None:
    strange = model(node("Twice", "my.own"), my_own=1)
    assert unknown_onnx(strange) == ("my.own:Twice (the domain my.own is unknown)",)
    strange.functions.append(
        helper.make_function(
            "my.own", "Twice", ["x", "w"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])],
            [helper.make_opsetid("", 17)],
        )
    )  # fmt: skip
    assert unknown_onnx(strange) == ()
    bogus = model(node("Bogus", "com.microsoft"), com_microsoft=1)
    assert unknown_onnx(bogus) == ("com.microsoft:Bogus (in no opset)",)
    inside = branches()
    inside.graph.node[0].attribute[0].g.node[0].op_type = "Warble"
    assert unknown_onnx(inside) == ("Warble (in no opset)",)


def test_the_engine_loads_what_is_known_and_refuses_what_is_not() -> None:
    """Every model in onnx's own test data."""
    from converters.ort import load_engine

    onnxruntime = load_engine()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    counted = {True: 0, False: 0}
    for path in sorted(STANDARD.rglob("*.onnx")):
        proto = read_onnx(path)
        known = not unknown_onnx(proto)
        told = ""
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as reason:  # of its own kinds, without a common base
            told = str(reason)
        assert known or told, path
        # Known operators can still be refused: for a type that has no kernel, say.
        assert not known or "is not a registered function/op" not in told, path
        counted[known] += 1
    assert counted[True] > 100
    assert counted[False] > 0


# LiteRT -------------------------------------------------------------------------------------------


def versioned(source: bytes, change: Callable[[Any], None]) -> bytes:
    """`source` with an operator code changed."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    file: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source))
    change(file.operatorCodes[0])
    builder = flatbuffers.Builder(len(source))
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def becomes(**fields: Any) -> Callable[[Any], None]:
    def change(code: Any) -> None:
        for name, value in fields.items():
            setattr(code, name, value)

    return change


def test_operators_that_tflite_runtime_lacks_are_named() -> None:
    source = litert_of("mobile")
    check_runtime(source, "tflite-runtime", "model a")
    assert unknown_tflite(source, "tflite-runtime") == ()
    first = tflite_operators(source)[0].name
    newest = TFLITE_RUNTIME_2_14[first][1]
    newer = versioned(source, becomes(version=newest + 1))
    with pytest.raises(InputError, match=f"2.14 does not know {first} version {newest + 1} "):
        check_runtime(newer, "tflite-runtime", "model a")
    check_runtime(newer, "ai-edge-litert", "model a")
    composite = versioned(source, becomes(builtinCode=206, deprecatedBuiltinCode=127))
    assert unknown_tflite(composite, "tflite-runtime") == ("STABLEHLO_COMPOSITE",)


def test_custom_operators_and_tensorflow_s_own_are_told_apart() -> None:
    for custom, name in ((b"Spectrogram", "CUSTOM:Spectrogram"), (b"FlexErf", "FlexErf")):
        made = versioned(
            litert_of("mobile"),
            becomes(builtinCode=32, deprecatedBuiltinCode=32, customCode=custom),
        )
        assert name in operators_of(made)
        assert unknown_tflite(made, "tflite-runtime") == (name,)


def test_the_table_of_versions_speaks_of_operators_that_there_are() -> None:
    from ai_edge_litert import schema_py_generated as schema

    names = vars(schema.BuiltinOperator)
    assert set(TFLITE_RUNTIME_2_14) <= set(names)
    assert len(TFLITE_RUNTIME_2_14) == 157
    assert all(1 <= low <= high for low, high in TFLITE_RUNTIME_2_14.values())
    assert TFLITE_RUNTIME_2_14["FULLY_CONNECTED"] == (1, 10)
    assert TFLITE_RUNTIME_2_14["BROADCAST_TO"] == (2, 3)
    assert not any(name.startswith("STABLEHLO") for name in TFLITE_RUNTIME_2_14)


def test_every_operator_of_a_float_file_is_float() -> None:
    assert float_operators(litert_of("residual")) == operators_of(litert_of("residual"))


# Hostile files ------------------------------------------------------------------------------------


def test_a_tflite_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = litert_of("dense")
    path = tmp_path / "cut.tflite"
    path.write_bytes(whole)
    assert read_tflite(path) == whole
    for size in (0, 3, 8, 40, 400, len(whole) // 2, len(whole) - 4096, len(whole) - 64):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"model cut\.tflite: is (empty|not a)"):
            read_tflite(path)


def test_a_tflite_file_with_broken_offsets_is_refused_or_harmless() -> None:
    """Words at both ends in turn become an offset to nowhere; no error but ours comes out."""
    whole = litert_of("dense")
    refused = 0
    for place in (*range(0, 1600, 4), *range(len(whole) // 4 * 4 - 3200, len(whole) - 4, 4)):
        for word in (0xFFFFFFF0, 0x7FFFFFFF, len(whole)):
            broken = whole[:place] + struct.pack("<I", word) + whole[place + 4 :]
            try:
                model_files.check_tflite(broken, "model a")
                tflite_operators(broken)
            except InputError:
                refused += 1
            except (struct.error, IndexError, ValueError) as reason:
                pytest.fail(f"byte {place}: {reason!r}")
    assert refused > 300


def test_an_index_of_a_tensor_that_is_not_there_is_refused() -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    changes: list[Callable[[Any], None]] = [
        lambda file: setattr(file.subgraphs[0].operators[0], "inputs", [0, 9999]),
        lambda file: setattr(file.subgraphs[0].operators[0], "opcodeIndex", 99),
        lambda file: setattr(file.subgraphs[0].tensors[1], "buffer", 12345),
        lambda file: setattr(file.subgraphs[0], "outputs", [-7]),
    ]
    for change in changes:
        file: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(litert_of("dense")))
        change(file)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(file.Pack(builder), b"TFL3")
        with pytest.raises(InputError, match="is not a whole"):
            model_files.check_tflite(bytes(builder.Output()), "model a")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    for name, read in (("a.tflite", read_tflite), ("a.onnx", read_onnx)):
        path = tmp_path / name
        with path.open("wb") as opened:
            opened.truncate(model_files.MAX_BYTES + 1)  # takes no room on the disk
        with pytest.raises(InputError, match=r"2000000001 bytes, more than 2000000000"):
            read(path)


def test_an_onnx_file_that_is_cut_off_or_none_is_refused(tmp_path: Path) -> None:
    whole = onnx_of("dense")
    path = tmp_path / "cut.onnx"
    for data in (
        b"",
        b"\x00" * 64,
        b"PK\x03\x04" + b"x" * 99,
        whole[:100],
        whole[: len(whole) // 2],
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"model cut\.onnx: is (empty|not a whole ONNX file)"):
            read_onnx(path)


def external(folder: Path, **said: str) -> Path:
    """A model whose constant lies in the file `w.bin` beside it, as `said`."""
    proto = model(node("MatMul"))
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin"} | said).items():
        tensor.external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(data)
    (folder / "a.onnx").write_bytes(proto.SerializeToString())
    return folder / "a.onnx"


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    found = read_onnx(external(tmp_path, offset="0", length="16")).graph.initializer[0]
    assert np.array_equal(numpy_helper.to_array(found), np.eye(2, dtype=np.float32))
    assert found.data_location == TensorProto.DEFAULT


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"location": "../w.bin"}, r"lies outside of the model's folder \('\.\./w\.bin'\)"),
        ({"location": "/etc/hostname"}, "lies outside"),
        ({"location": "a/../../w.bin"}, "lies outside"),
        ({"location": "..\\w.bin"}, "lies outside"),
        ({"location": ""}, "lies outside"),
        ({"location": "link.bin"}, "lies outside"),
        ({"location": "none.bin"}, "'none.bin' is missing beside the model"),
        ({"location": "."}, "lies outside|is missing"),
        ({"offset": "8"}, "'w' has 8 bytes, its shape says 16"),
        ({"offset": "8", "length": "16"}, r"bytes 8\.\.24 of 'w\.bin', which has 16"),
        ({"offset": "-4", "length": "16"}, r"bytes -4\.\.12"),
        ({"length": "much"}, "offset or length is no number"),
    ],
)
def test_external_data_that_is_elsewhere_is_not_read(
    said: dict[str, str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "secret.bin").write_bytes(b"s" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    (tmp_path / "w.bin").write_bytes(b"s" * 16)
    with pytest.raises(InputError, match=told) as caught:
        read_onnx(external(folder, **said))
    assert str(caught.value).startswith("model a.onnx: ")
    assert "\n" not in str(caught.value)


def test_external_data_in_a_subgraph_is_looked_at_too(tmp_path: Path) -> None:
    proto = branches()
    tensor = proto.graph.node[0].attribute[0].g.initializer.add()
    tensor.name, tensor.data_type = "w", TensorProto.FLOAT
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="lies outside"):
        read_onnx(tmp_path / "a.onnx")


def test_a_constant_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    for dims in ([1 << 40, 1 << 40], [2, 3], [-2, -2]):
        proto = model(node("MatMul"))
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(dims)
        (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(InputError, match=r"its shape says|negative dimension"):
            read_onnx(tmp_path / "a.onnx")
