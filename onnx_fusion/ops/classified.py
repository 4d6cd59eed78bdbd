"""Rows of the operators that are never fused: each with its mapping type, if it has one, and why.

Types are DNNFusion's (PLDI 2021, Table 2), extended to the operators that the paper did not see. An
operator that gets a lowering leaves this file for the one its `Row` with `lower` is in.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx_fusion.ops.elementwise import mapping as broadcasting
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.row import Mapping, Row

O2O, O2M, M2M = MappingType.ONE_TO_ONE, MappingType.ONE_TO_MANY, MappingType.MANY_TO_MANY
SHUFFLE, OPAQUE = MappingType.SHUFFLE, MappingType.OPAQUE

Entry = tuple[str, Mapping, str]
"""An operator's name, its mapping type, and what is special about it."""

LATER: list[Entry] = [
    ("BitCast", O2O, "programs convert values, not bit patterns"),
    ("BitShift", broadcasting, "programs have no shift, and its types are unsigned"),
    ("CausalConvWithState", M2M, "its state is a second output, cut from the padded input"),
    ("CenterCropPad", O2O, "its target extents are data"),
    ("Col2Im", M2M, "overlapping blocks are added up"),
    ("CumProd", M2M, "a scan along an axis"),
    ("DFT", M2M, "a fast Fourier transform is no reduction of fixed length"),
    ("DeformConv", M2M, "its window's positions are data"),
    ("Det", M2M, "an elimination, whose steps follow one another"),
    ("GRU", M2M, "a recurrence: each step waits for the one before"),
    ("GridSample", M2M, "its sampling positions are data, and neighbours are interpolated"),
    ("LSTM", M2M, "a recurrence: each step waits for the one before"),
    ("LinearAttention", M2M, "a recurrence over tokens with a state"),
    ("MaxRoiPool", M2M, "its windows are data"),
    ("RNN", M2M, "a recurrence: each step waits for the one before"),
    ("ReverseSequence", SHUFFLE, "the length of each reversed run is data"),
    ("RoiAlign", M2M, "its sampling positions are data, and neighbours are averaged"),
    ("STFT", M2M, "a Fourier transform of overlapping frames"),
    ("SwiGLU", O2O, "newer than the ONNX Runtime that must run what is left"),
    ("TopK", M2M, "a partial sort"),
    ("ai.onnx.preview::FlexAttention", M2M, "its score and mask functions are subgraphs"),
]  # fmt: skip

QUANTIZED: list[Entry] = [
    ("ConvInteger", M2M, "a convolution of 8-bit integers"),
    ("DynamicQuantizeLinear", M2M, "finds its scale from all elements, then rounds to 8 bits"),
    ("MatMulInteger", M2M, "a product of 8-bit integers"),
    ("QLinearConv", M2M, "a convolution of 8-bit integers, rounded back to 8 bits"),
    ("QLinearMatMul", M2M, "a product of 8-bit integers, rounded back to 8 bits"),
]

CONTROL: list[Entry] = [
    ("If", OPAQUE, "one of two branches runs; each is planned by itself"),
    ("Loop", OPAQUE, "how often its body runs is data; the body is planned by itself"),
    ("Scan", OPAQUE, "its body runs once for each slice; it is planned by itself"),
    ("SequenceMap", OPAQUE, "its body runs once for each element of a sequence"),
]

RANDOM: list[Entry] = [
    ("Bernoulli", OPAQUE, "draws by its input's probabilities"),
    ("Multinomial", OPAQUE, "draws classes by their weights"),
    ("RandomNormal", OPAQUE, "draws from a normal distribution"),
    ("RandomNormalLike", OPAQUE, "draws from a normal distribution, shaped like its input"),
    ("RandomUniform", OPAQUE, "draws from an interval"),
    ("RandomUniformLike", OPAQUE, "draws from an interval, shaped like its input"),
]

DATA_SHAPED: list[Entry] = [
    ("Compress", OPAQUE, "keeps as many slices as its condition is true"),
    ("NonMaxSuppression", OPAQUE, "keeps as many boxes as do not overlap"),
    ("NonZero", OPAQUE, "gives as many positions as there are nonzero elements"),
    ("Unique", OPAQUE, "gives as many elements as are distinct"),
]

WRITES: list[Entry] = [
    ("MaxUnpool", OPAQUE, "writes where the pooling's indices point"),
    ("Scatter", OPAQUE, "deprecated; writes where an index per element points"),
    ("ScatterElements", OPAQUE, "writes or adds where an index per element points"),
    ("ScatterND", OPAQUE, "writes or adds where index tuples point"),
    ("TensorScatter", OPAQUE, "writes a cache at positions that are data"),
]

HOST: list[Entry] = [
    ("AffineGrid", OPAQUE, "a grid whose size is data"),
    ("BlackmanWindow", OPAQUE, "a window whose length is data"),
    ("Constant", OPAQUE, "a constant, which folding turns into a weight"),
    ("ConstantOfShape", OPAQUE, "a fill whose shape is data"),
    ("HammingWindow", OPAQUE, "a window whose length is data"),
    ("HannWindow", OPAQUE, "a window whose length is data"),
    ("MelWeightMatrix", OPAQUE, "a filter bank whose size is data"),
    ("Shape", OPAQUE, "reads extents, not elements"),
    ("Size", OPAQUE, "reads the number of elements, not the elements"),
]

SEQUENCES: list[Entry] = [
    ("ConcatFromSequence", OPAQUE, "joins a sequence's tensors"),
    ("Optional", OPAQUE, "makes an optional value"),
    ("OptionalGetElement", OPAQUE, "takes what an optional value holds"),
    ("OptionalHasElement", OPAQUE, "asks whether an optional value holds anything"),
    ("SequenceAt", OPAQUE, "takes one tensor of a sequence"),
    ("SequenceConstruct", OPAQUE, "makes a sequence of tensors"),
    ("SequenceEmpty", OPAQUE, "makes an empty sequence"),
    ("SequenceErase", OPAQUE, "leaves one tensor out of a sequence"),
    ("SequenceInsert", OPAQUE, "puts a tensor into a sequence"),
    ("SequenceLength", OPAQUE, "counts a sequence's tensors"),
    ("SplitToSequence", OPAQUE, "cuts a tensor into a sequence"),
    ("ai.onnx.ml::CastMap", OPAQUE, "turns a map into a tensor"),
    ("ai.onnx.ml::DictVectorizer", OPAQUE, "turns a map into a tensor, by a vocabulary"),
    ("ai.onnx.ml::ZipMap", OPAQUE, "turns each row into a map"),
]

STRINGS: list[Entry] = [
    ("ImageDecoder", OPAQUE, "decodes the bytes of a compressed image"),
    ("RegexFullMatch", OPAQUE, "matches strings against a pattern"),
    ("StringConcat", OPAQUE, "joins strings, element by element"),
    ("StringNormalizer", OPAQUE, "changes case and drops words"),
    ("StringSplit", OPAQUE, "cuts strings at a delimiter"),
    ("TfIdfVectorizer", OPAQUE, "counts n-grams of a vocabulary"),
    ("ai.onnx.ml::CategoryMapper", OPAQUE, "maps between strings and integers"),
    ("ai.onnx.ml::LabelEncoder", OPAQUE, "looks keys up in a table, often of strings"),
    ("ai.onnx.ml::OneHotEncoder", OPAQUE, "marks categories, often strings"),
]

TRAINING: list[Entry] = [
    ("NegativeLogLikelihoodLoss", M2M, "picks by class index, weighs and reduces"),
    ("SoftmaxCrossEntropyLoss", M2M, "a softmax, then picks by class index and reduces"),
    ("ai.onnx.preview.training::Adagrad", OPAQUE, "updates weights and their squared gradients"),
    ("ai.onnx.preview.training::Adam", OPAQUE, "updates weights and two moments"),
    ("ai.onnx.preview.training::Gradient", OPAQUE, "differentiates a part of the graph"),
    ("ai.onnx.preview.training::Momentum", OPAQUE, "updates weights and a moment"),
]

CLASSICAL: list[Entry] = [
    ("ai.onnx.ml::ArrayFeatureExtractor", O2M, "picks columns by index"),
    ("ai.onnx.ml::Binarizer", O2O, "compares with a threshold"),
    ("ai.onnx.ml::FeatureVectorizer", O2O, "joins columns of any number type"),
    ("ai.onnx.ml::Imputer", O2O, "replaces a missing value"),
    ("ai.onnx.ml::LinearClassifier", M2M, "scores classes and picks a label"),
    ("ai.onnx.ml::LinearRegressor", M2M, "a product with coefficients that are attributes"),
    ("ai.onnx.ml::Normalizer", M2M, "divides each row by its norm"),
    ("ai.onnx.ml::SVMClassifier", M2M, "kernels between rows and support vectors, then votes"),
    ("ai.onnx.ml::SVMRegressor", M2M, "kernels between rows and support vectors"),
    ("ai.onnx.ml::Scaler", O2O, "an offset and a factor per column"),
    ("ai.onnx.ml::TreeEnsemble", OPAQUE, "each row walks trees, branching on data"),
    ("ai.onnx.ml::TreeEnsembleClassifier", OPAQUE, "each row walks trees and votes for a class"),
    ("ai.onnx.ml::TreeEnsembleRegressor", OPAQUE, "each row walks trees and adds leaves up"),
]

MICROSOFT: list[Entry] = [
    ("com.microsoft::BiasSplitGelu", M2M, "has no kernel on the CPU"),
    ("com.microsoft::DecoderMaskedMultiHeadAttention", M2M, "one token against a cache"),
    ("com.microsoft::DecoderMaskedSelfAttention", M2M, "one token against a packed cache"),
    ("com.microsoft::DynamicQuantizeLSTM", M2M, "a recurrence with 8-bit weights"),
    ("com.microsoft::DynamicQuantizeMatMul", M2M, "a product with 8-bit weights"),
    ("com.microsoft::EmbedLayerNormalization", M2M, "three look-ups, a sum and a norm"),
    ("com.microsoft::FusedConv", M2M, "a convolution with an activation and a sum inside"),
    ("com.microsoft::FusedGemm", M2M, "a product with an activation inside"),
    ("com.microsoft::GroupNorm", M2M, "channels are last, and it has no kernel on the CPU"),
    ("com.microsoft::GroupQueryAttention", M2M, "rotation, two contractions and a shared cache"),
    ("com.microsoft::MatMulIntegerToFloat", M2M, "a product of 8-bit integers, scaled back"),
    ("com.microsoft::MatMulNBits", M2M, "a product with weights of 2 to 8 bits in blocks"),
    ("com.microsoft::MoE", M2M, "which expert's weights are read is data"),
    ("com.microsoft::NhwcMaxPool", M2M, "a pooling of 8-bit integers, channels last"),
    ("com.microsoft::PackedMultiHeadAttention", M2M, "attention without padding tokens"),
    ("com.microsoft::QAttention", M2M, "attention with 8-bit weights"),
    ("com.microsoft::QLinearAdd", broadcasting, "a sum of 8-bit integers, rounded back"),
    ("com.microsoft::QLinearConcat", O2O, "joins 8-bit integers of different scales"),
    ("com.microsoft::QLinearMul", broadcasting, "a product of 8-bit integers, rounded back"),
    ("com.microsoft::SkipGroupNorm", M2M, "channels are last, and it has no kernel on the CPU"),
    ("com.microsoft::SparseAttention", M2M, "which blocks are read is data"),
    ("com.microsoft::BeamSearch", OPAQUE, "runs its decoder until a search ends"),
    ("com.microsoft::GreedySearch", OPAQUE, "runs its decoder until a search ends"),
    ("com.microsoft::Sampling", OPAQUE, "runs its decoder, drawing tokens, until a search ends"),
]

GROUPS: dict[str, list[Entry]] = {
    "no lowering yet": LATER,
    "no lowering yet, quantized": QUANTIZED,
    "no lowering yet, for training": TRAINING,
    "no lowering yet, of classical machine learning": CLASSICAL,
    "no lowering yet, an extension of ONNX Runtime": MICROSOFT,
    "control flow": CONTROL,
    "random, so never computed twice": RANDOM,
    "a shape that depends on data": DATA_SHAPED,
    "writes that may meet": WRITES,
    "host work on shapes": HOST,
    "sequences, maps and optionals": SEQUENCES,
    "strings and bytes": STRINGS,
}
"""Why operators stay out of regions, and which."""


def rows() -> Iterator[Row]:
    """Yield one row for each entry; its reason is the group's and its own."""
    for why, entries in GROUPS.items():
        for name, mapping, detail in entries:
            domain, _, op_type = name.rpartition("::")
            yield Row(op_type, mapping, domain=domain, reason=f"{why}: {detail}")


ROWS = list(rows())
