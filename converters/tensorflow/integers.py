"""What of a .tflite file still computes in float, for accelerators that know integers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from edge_runtime.errors import InputError

IDENTIFIER = b"TFL3"


def float_operators(model: bytes) -> Mapping[str, int]:
    """Operators that read or write a float tensor, and how many of each; {} where none does.

    QUANTIZE and DEQUANTIZE at the border count: they are what is left where inputs stay float.

    Raises:
        InputError: not a .tflite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    if model[4:8] != IDENTIFIER:
        raise InputError("not a LiteRT model (the identifier TFL3 is missing)")
    floats = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    file: Any = schema.ModelT.InitFromPackedBuf(model, 0)
    found: Counter[str] = Counter()
    for graph in file.subgraphs:
        for operator in graph.operators or ():
            used = [graph.tensors[n] for n in (*operator.inputs, *operator.outputs) if n >= 0]
            if any(tensor.type in floats for tensor in used):
                code = file.operatorCodes[operator.opcodeIndex]
                custom = code.customCode.decode() if code.customCode else ""
                found[custom or names[max(code.builtinCode, code.deprecatedBuiltinCode)]] += 1
    return dict(sorted(found.items()))
