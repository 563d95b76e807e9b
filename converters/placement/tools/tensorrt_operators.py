"""Which ONNX operators TensorRT's parser takes, as data.

Source: the operator support matrix of onnx-tensorrt,
https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md, as of TensorRT 10.15. Operators
of which it is not certain that TensorRT 10.3, JetPack 6's, has them are in `LATER`.
"""

from __future__ import annotations

SOURCE = "operator matrix of onnx-tensorrt 10.15, held against TensorRT 10.3"
OPSETS = range(9, 21)
"""TensorRT 10.0 to 10.3; see the head of the matrix of those releases."""

_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast
CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor
Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
GreaterOrEqual GridSample GroupNormalization GRU HardSigmoid HardSwish Hardmax Identity If
ImageScaler InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad
ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence
RNN RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan
Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_LATER = """
Attention BlackmanWindow DeformConv HammingWindow HannWindow RMSNormalization RotaryEmbedding STFT
"""
_CONSTANT_AXES = """
CumSum OneHot ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Squeeze Unsqueeze
"""
SUPPORTED = frozenset(_NAMES.split())
LATER = frozenset(_LATER.split())
CONSTANT_AXES = frozenset(_CONSTANT_AXES.split())
"""Their second input must be known when the engine is built."""
POOLS = frozenset(("AveragePool", "LpPool", "MaxPool"))
"""Their dilations must be 1."""
