/* ops.h: the operators that this firmware links, chosen in menuconfig (Kconfig beside this file).
 *
 * One list each for builtin and custom operators. The engine adds every entry to the resolver and
 * reports the very same entries in `reported` (SPEC.md section 7, keys 7 and 16), so the report
 * cannot differ from what is linked. SPEC.md section 6 wants builtin codes rising, then custom
 * names rising; tflm_engine.cc asserts it.
 */
#ifndef TFLM_ENGINE_OPS_H
#define TFLM_ENGINE_OPS_H

/* OPS_IF(option)(X, a, b) is X(a, b) when Kconfig defined the option as 1, else nothing. */
#define OPS_MARK_1 ,
#define OPS_PASTE(a, b) a##b
#define OPS_MARK(value) OPS_PASTE(OPS_MARK_, value)
#define OPS_SECOND(a, b, ...) b
#define OPS_CHOOSE(mark) OPS_SECOND(mark OPS_TAKE, OPS_SKIP, )
#define OPS_TAKE(X, a, b) X(a, b)
#define OPS_SKIP(X, a, b)
#define OPS_IF(option) OPS_CHOOSE(OPS_MARK(option))

/* clang-format off */
/* X(enumerator of the schema, method of the resolver). Whole names: C libraries define macros such as
 * FLOOR or LOG, and a name that is pasted later would be expanded before. */
#define TFLM_BUILTIN_OPS(X) \
    OPS_IF(CONFIG_TINYFLEET_OP_ADD)(X, BuiltinOperator_ADD, AddAdd) \
    OPS_IF(CONFIG_TINYFLEET_OP_AVERAGE_POOL_2D)(X, BuiltinOperator_AVERAGE_POOL_2D, AddAveragePool2D) \
    OPS_IF(CONFIG_TINYFLEET_OP_CONCATENATION)(X, BuiltinOperator_CONCATENATION, AddConcatenation) \
    OPS_IF(CONFIG_TINYFLEET_OP_CONV_2D)(X, BuiltinOperator_CONV_2D, AddConv2D) \
    OPS_IF(CONFIG_TINYFLEET_OP_DEPTHWISE_CONV_2D)(X, BuiltinOperator_DEPTHWISE_CONV_2D, AddDepthwiseConv2D) \
    OPS_IF(CONFIG_TINYFLEET_OP_DEPTH_TO_SPACE)(X, BuiltinOperator_DEPTH_TO_SPACE, AddDepthToSpace) \
    OPS_IF(CONFIG_TINYFLEET_OP_DEQUANTIZE)(X, BuiltinOperator_DEQUANTIZE, AddDequantize) \
    OPS_IF(CONFIG_TINYFLEET_OP_EMBEDDING_LOOKUP)(X, BuiltinOperator_EMBEDDING_LOOKUP, AddEmbeddingLookup) \
    OPS_IF(CONFIG_TINYFLEET_OP_FLOOR)(X, BuiltinOperator_FLOOR, AddFloor) \
    OPS_IF(CONFIG_TINYFLEET_OP_FULLY_CONNECTED)(X, BuiltinOperator_FULLY_CONNECTED, AddFullyConnected) \
    OPS_IF(CONFIG_TINYFLEET_OP_L2_NORMALIZATION)(X, BuiltinOperator_L2_NORMALIZATION, AddL2Normalization) \
    OPS_IF(CONFIG_TINYFLEET_OP_L2_POOL_2D)(X, BuiltinOperator_L2_POOL_2D, AddL2Pool2D) \
    OPS_IF(CONFIG_TINYFLEET_OP_LOGISTIC)(X, BuiltinOperator_LOGISTIC, AddLogistic) \
    OPS_IF(CONFIG_TINYFLEET_OP_MAX_POOL_2D)(X, BuiltinOperator_MAX_POOL_2D, AddMaxPool2D) \
    OPS_IF(CONFIG_TINYFLEET_OP_MUL)(X, BuiltinOperator_MUL, AddMul) \
    OPS_IF(CONFIG_TINYFLEET_OP_RELU)(X, BuiltinOperator_RELU, AddRelu) \
    OPS_IF(CONFIG_TINYFLEET_OP_RELU6)(X, BuiltinOperator_RELU6, AddRelu6) \
    OPS_IF(CONFIG_TINYFLEET_OP_RESHAPE)(X, BuiltinOperator_RESHAPE, AddReshape) \
    OPS_IF(CONFIG_TINYFLEET_OP_RESIZE_BILINEAR)(X, BuiltinOperator_RESIZE_BILINEAR, AddResizeBilinear) \
    OPS_IF(CONFIG_TINYFLEET_OP_SOFTMAX)(X, BuiltinOperator_SOFTMAX, AddSoftmax) \
    OPS_IF(CONFIG_TINYFLEET_OP_SPACE_TO_DEPTH)(X, BuiltinOperator_SPACE_TO_DEPTH, AddSpaceToDepth) \
    OPS_IF(CONFIG_TINYFLEET_OP_SVDF)(X, BuiltinOperator_SVDF, AddSvdf) \
    OPS_IF(CONFIG_TINYFLEET_OP_TANH)(X, BuiltinOperator_TANH, AddTanh) \
    OPS_IF(CONFIG_TINYFLEET_OP_PAD)(X, BuiltinOperator_PAD, AddPad) \
    OPS_IF(CONFIG_TINYFLEET_OP_GATHER)(X, BuiltinOperator_GATHER, AddGather) \
    OPS_IF(CONFIG_TINYFLEET_OP_BATCH_TO_SPACE_ND)(X, BuiltinOperator_BATCH_TO_SPACE_ND, AddBatchToSpaceNd) \
    OPS_IF(CONFIG_TINYFLEET_OP_SPACE_TO_BATCH_ND)(X, BuiltinOperator_SPACE_TO_BATCH_ND, AddSpaceToBatchNd) \
    OPS_IF(CONFIG_TINYFLEET_OP_TRANSPOSE)(X, BuiltinOperator_TRANSPOSE, AddTranspose) \
    OPS_IF(CONFIG_TINYFLEET_OP_MEAN)(X, BuiltinOperator_MEAN, AddMean) \
    OPS_IF(CONFIG_TINYFLEET_OP_SUB)(X, BuiltinOperator_SUB, AddSub) \
    OPS_IF(CONFIG_TINYFLEET_OP_DIV)(X, BuiltinOperator_DIV, AddDiv) \
    OPS_IF(CONFIG_TINYFLEET_OP_SQUEEZE)(X, BuiltinOperator_SQUEEZE, AddSqueeze) \
    OPS_IF(CONFIG_TINYFLEET_OP_UNIDIRECTIONAL_SEQUENCE_LSTM)(X, BuiltinOperator_UNIDIRECTIONAL_SEQUENCE_LSTM, AddUnidirectionalSequenceLSTM) \
    OPS_IF(CONFIG_TINYFLEET_OP_STRIDED_SLICE)(X, BuiltinOperator_STRIDED_SLICE, AddStridedSlice) \
    OPS_IF(CONFIG_TINYFLEET_OP_EXP)(X, BuiltinOperator_EXP, AddExp) \
    OPS_IF(CONFIG_TINYFLEET_OP_SPLIT)(X, BuiltinOperator_SPLIT, AddSplit) \
    OPS_IF(CONFIG_TINYFLEET_OP_LOG_SOFTMAX)(X, BuiltinOperator_LOG_SOFTMAX, AddLogSoftmax) \
    OPS_IF(CONFIG_TINYFLEET_OP_CAST)(X, BuiltinOperator_CAST, AddCast) \
    OPS_IF(CONFIG_TINYFLEET_OP_PRELU)(X, BuiltinOperator_PRELU, AddPrelu) \
    OPS_IF(CONFIG_TINYFLEET_OP_MAXIMUM)(X, BuiltinOperator_MAXIMUM, AddMaximum) \
    OPS_IF(CONFIG_TINYFLEET_OP_ARG_MAX)(X, BuiltinOperator_ARG_MAX, AddArgMax) \
    OPS_IF(CONFIG_TINYFLEET_OP_MINIMUM)(X, BuiltinOperator_MINIMUM, AddMinimum) \
    OPS_IF(CONFIG_TINYFLEET_OP_LESS)(X, BuiltinOperator_LESS, AddLess) \
    OPS_IF(CONFIG_TINYFLEET_OP_NEG)(X, BuiltinOperator_NEG, AddNeg) \
    OPS_IF(CONFIG_TINYFLEET_OP_PADV2)(X, BuiltinOperator_PADV2, AddPadV2) \
    OPS_IF(CONFIG_TINYFLEET_OP_GREATER)(X, BuiltinOperator_GREATER, AddGreater) \
    OPS_IF(CONFIG_TINYFLEET_OP_GREATER_EQUAL)(X, BuiltinOperator_GREATER_EQUAL, AddGreaterEqual) \
    OPS_IF(CONFIG_TINYFLEET_OP_LESS_EQUAL)(X, BuiltinOperator_LESS_EQUAL, AddLessEqual) \
    OPS_IF(CONFIG_TINYFLEET_OP_SLICE)(X, BuiltinOperator_SLICE, AddSlice) \
    OPS_IF(CONFIG_TINYFLEET_OP_SIN)(X, BuiltinOperator_SIN, AddSin) \
    OPS_IF(CONFIG_TINYFLEET_OP_TRANSPOSE_CONV)(X, BuiltinOperator_TRANSPOSE_CONV, AddTransposeConv) \
    OPS_IF(CONFIG_TINYFLEET_OP_EXPAND_DIMS)(X, BuiltinOperator_EXPAND_DIMS, AddExpandDims) \
    OPS_IF(CONFIG_TINYFLEET_OP_EQUAL)(X, BuiltinOperator_EQUAL, AddEqual) \
    OPS_IF(CONFIG_TINYFLEET_OP_NOT_EQUAL)(X, BuiltinOperator_NOT_EQUAL, AddNotEqual) \
    OPS_IF(CONFIG_TINYFLEET_OP_LOG)(X, BuiltinOperator_LOG, AddLog) \
    OPS_IF(CONFIG_TINYFLEET_OP_SUM)(X, BuiltinOperator_SUM, AddSum) \
    OPS_IF(CONFIG_TINYFLEET_OP_SQRT)(X, BuiltinOperator_SQRT, AddSqrt) \
    OPS_IF(CONFIG_TINYFLEET_OP_RSQRT)(X, BuiltinOperator_RSQRT, AddRsqrt) \
    OPS_IF(CONFIG_TINYFLEET_OP_SHAPE)(X, BuiltinOperator_SHAPE, AddShape) \
    OPS_IF(CONFIG_TINYFLEET_OP_ARG_MIN)(X, BuiltinOperator_ARG_MIN, AddArgMin) \
    OPS_IF(CONFIG_TINYFLEET_OP_REDUCE_MAX)(X, BuiltinOperator_REDUCE_MAX, AddReduceMax) \
    OPS_IF(CONFIG_TINYFLEET_OP_PACK)(X, BuiltinOperator_PACK, AddPack) \
    OPS_IF(CONFIG_TINYFLEET_OP_LOGICAL_OR)(X, BuiltinOperator_LOGICAL_OR, AddLogicalOr) \
    OPS_IF(CONFIG_TINYFLEET_OP_LOGICAL_AND)(X, BuiltinOperator_LOGICAL_AND, AddLogicalAnd) \
    OPS_IF(CONFIG_TINYFLEET_OP_LOGICAL_NOT)(X, BuiltinOperator_LOGICAL_NOT, AddLogicalNot) \
    OPS_IF(CONFIG_TINYFLEET_OP_UNPACK)(X, BuiltinOperator_UNPACK, AddUnpack) \
    OPS_IF(CONFIG_TINYFLEET_OP_REDUCE_MIN)(X, BuiltinOperator_REDUCE_MIN, AddReduceMin) \
    OPS_IF(CONFIG_TINYFLEET_OP_FLOOR_DIV)(X, BuiltinOperator_FLOOR_DIV, AddFloorDiv) \
    OPS_IF(CONFIG_TINYFLEET_OP_SQUARE)(X, BuiltinOperator_SQUARE, AddSquare) \
    OPS_IF(CONFIG_TINYFLEET_OP_ZEROS_LIKE)(X, BuiltinOperator_ZEROS_LIKE, AddZerosLike) \
    OPS_IF(CONFIG_TINYFLEET_OP_FILL)(X, BuiltinOperator_FILL, AddFill) \
    OPS_IF(CONFIG_TINYFLEET_OP_FLOOR_MOD)(X, BuiltinOperator_FLOOR_MOD, AddFloorMod) \
    OPS_IF(CONFIG_TINYFLEET_OP_RESIZE_NEAREST_NEIGHBOR)(X, BuiltinOperator_RESIZE_NEAREST_NEIGHBOR, AddResizeNearestNeighbor) \
    OPS_IF(CONFIG_TINYFLEET_OP_LEAKY_RELU)(X, BuiltinOperator_LEAKY_RELU, AddLeakyRelu) \
    OPS_IF(CONFIG_TINYFLEET_OP_SQUARED_DIFFERENCE)(X, BuiltinOperator_SQUARED_DIFFERENCE, AddSquaredDifference) \
    OPS_IF(CONFIG_TINYFLEET_OP_MIRROR_PAD)(X, BuiltinOperator_MIRROR_PAD, AddMirrorPad) \
    OPS_IF(CONFIG_TINYFLEET_OP_ABS)(X, BuiltinOperator_ABS, AddAbs) \
    OPS_IF(CONFIG_TINYFLEET_OP_SPLIT_V)(X, BuiltinOperator_SPLIT_V, AddSplitV) \
    OPS_IF(CONFIG_TINYFLEET_OP_CEIL)(X, BuiltinOperator_CEIL, AddCeil) \
    OPS_IF(CONFIG_TINYFLEET_OP_REVERSE_V2)(X, BuiltinOperator_REVERSE_V2, AddReverseV2) \
    OPS_IF(CONFIG_TINYFLEET_OP_ADD_N)(X, BuiltinOperator_ADD_N, AddAddN) \
    OPS_IF(CONFIG_TINYFLEET_OP_GATHER_ND)(X, BuiltinOperator_GATHER_ND, AddGatherNd) \
    OPS_IF(CONFIG_TINYFLEET_OP_COS)(X, BuiltinOperator_COS, AddCos) \
    OPS_IF(CONFIG_TINYFLEET_OP_ELU)(X, BuiltinOperator_ELU, AddElu) \
    OPS_IF(CONFIG_TINYFLEET_OP_QUANTIZE)(X, BuiltinOperator_QUANTIZE, AddQuantize) \
    OPS_IF(CONFIG_TINYFLEET_OP_ROUND)(X, BuiltinOperator_ROUND, AddRound) \
    OPS_IF(CONFIG_TINYFLEET_OP_HARD_SWISH)(X, BuiltinOperator_HARD_SWISH, AddHardSwish) \
    OPS_IF(CONFIG_TINYFLEET_OP_IF)(X, BuiltinOperator_IF, AddIf) \
    OPS_IF(CONFIG_TINYFLEET_OP_WHILE)(X, BuiltinOperator_WHILE, AddWhile) \
    OPS_IF(CONFIG_TINYFLEET_OP_SELECT_V2)(X, BuiltinOperator_SELECT_V2, AddSelectV2) \
    OPS_IF(CONFIG_TINYFLEET_OP_BATCH_MATMUL)(X, BuiltinOperator_BATCH_MATMUL, AddBatchMatMul) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUMSUM)(X, BuiltinOperator_CUMSUM, AddCumSum) \
    OPS_IF(CONFIG_TINYFLEET_OP_CALL_ONCE)(X, BuiltinOperator_CALL_ONCE, AddCallOnce) \
    OPS_IF(CONFIG_TINYFLEET_OP_BROADCAST_TO)(X, BuiltinOperator_BROADCAST_TO, AddBroadcastTo) \
    OPS_IF(CONFIG_TINYFLEET_OP_REDUCE_ALL)(X, BuiltinOperator_REDUCE_ALL, AddReduceAll) \
    OPS_IF(CONFIG_TINYFLEET_OP_VAR_HANDLE)(X, BuiltinOperator_VAR_HANDLE, AddVarHandle) \
    OPS_IF(CONFIG_TINYFLEET_OP_READ_VARIABLE)(X, BuiltinOperator_READ_VARIABLE, AddReadVariable) \
    OPS_IF(CONFIG_TINYFLEET_OP_ASSIGN_VARIABLE)(X, BuiltinOperator_ASSIGN_VARIABLE, AddAssignVariable) \
    OPS_IF(CONFIG_TINYFLEET_OP_BROADCAST_ARGS)(X, BuiltinOperator_BROADCAST_ARGS, AddBroadcastArgs) \
    OPS_IF(CONFIG_TINYFLEET_OP_DYNAMIC_UPDATE_SLICE)(X, BuiltinOperator_DYNAMIC_UPDATE_SLICE, AddDynamicUpdateSlice)

/* X(name in the model, method of the resolver) */
#define TFLM_CUSTOM_OPS(X) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_CIRCULAR_BUFFER)(X, "CIRCULAR_BUFFER", AddCircularBuffer) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_DELAY)(X, "SignalDelay", AddDelay) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_ENERGY)(X, "SignalEnergy", AddEnergy) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_FFT_AUTO_SCALE)(X, "SignalFftAutoScale", AddFftAutoScale) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_FILTER_BANK)(X, "SignalFilterBank", AddFilterBank) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_FILTER_BANK_LOG)(X, "SignalFilterBankLog", AddFilterBankLog) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_FILTER_BANK_SPECTRAL_SUBTRACTION)(X, "SignalFilterBankSpectralSubtraction", AddFilterBankSpectralSubtraction) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_FILTER_BANK_SQUARE_ROOT)(X, "SignalFilterBankSquareRoot", AddFilterBankSquareRoot) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_FRAMER)(X, "SignalFramer", AddFramer) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_IRFFT)(X, "SignalIrfft", AddIrfft) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_OVERLAP_ADD)(X, "SignalOverlapAdd", AddOverlapAdd) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_PCAN)(X, "SignalPCAN", AddPCAN) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_RFFT)(X, "SignalRfft", AddRfft) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_STACKER)(X, "SignalStacker", AddStacker) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_SIGNAL_WINDOW)(X, "SignalWindow", AddWindow) \
    OPS_IF(CONFIG_TINYFLEET_OP_CUSTOM_TFLITE_DETECTION_POST_PROCESS)(X, "TFLite_Detection_PostProcess", AddDetectionPostprocess)
/* clang-format on */

#endif
