#pragma once
#include <cstdint>
#include "tensorflow/lite/micro/micro_allocator.h"
struct TFLMRegistration;
namespace tflite {
enum BuiltinOperator : int32_t {
    BuiltinOperator_ADD = 0,
    BuiltinOperator_AVERAGE_POOL_2D = 1,
    BuiltinOperator_CONCATENATION = 2,
    BuiltinOperator_CONV_2D = 3,
    BuiltinOperator_DEPTHWISE_CONV_2D = 4,
    BuiltinOperator_DEPTH_TO_SPACE = 5,
    BuiltinOperator_DEQUANTIZE = 6,
    BuiltinOperator_EMBEDDING_LOOKUP = 7,
    BuiltinOperator_FLOOR = 8,
    BuiltinOperator_FULLY_CONNECTED = 9,
    BuiltinOperator_L2_NORMALIZATION = 11,
    BuiltinOperator_L2_POOL_2D = 12,
    BuiltinOperator_LOGISTIC = 14,
    BuiltinOperator_MAX_POOL_2D = 17,
    BuiltinOperator_MUL = 18,
    BuiltinOperator_RELU = 19,
    BuiltinOperator_RELU6 = 21,
    BuiltinOperator_RESHAPE = 22,
    BuiltinOperator_RESIZE_BILINEAR = 23,
    BuiltinOperator_SOFTMAX = 25,
    BuiltinOperator_SPACE_TO_DEPTH = 26,
    BuiltinOperator_SVDF = 27,
    BuiltinOperator_TANH = 28,
    BuiltinOperator_PAD = 34,
    BuiltinOperator_GATHER = 36,
    BuiltinOperator_BATCH_TO_SPACE_ND = 37,
    BuiltinOperator_SPACE_TO_BATCH_ND = 38,
    BuiltinOperator_TRANSPOSE = 39,
    BuiltinOperator_MEAN = 40,
    BuiltinOperator_SUB = 41,
    BuiltinOperator_DIV = 42,
    BuiltinOperator_SQUEEZE = 43,
    BuiltinOperator_UNIDIRECTIONAL_SEQUENCE_LSTM = 44,
    BuiltinOperator_STRIDED_SLICE = 45,
    BuiltinOperator_EXP = 47,
    BuiltinOperator_SPLIT = 49,
    BuiltinOperator_LOG_SOFTMAX = 50,
    BuiltinOperator_CAST = 53,
    BuiltinOperator_PRELU = 54,
    BuiltinOperator_MAXIMUM = 55,
    BuiltinOperator_ARG_MAX = 56,
    BuiltinOperator_MINIMUM = 57,
    BuiltinOperator_LESS = 58,
    BuiltinOperator_NEG = 59,
    BuiltinOperator_PADV2 = 60,
    BuiltinOperator_GREATER = 61,
    BuiltinOperator_GREATER_EQUAL = 62,
    BuiltinOperator_LESS_EQUAL = 63,
    BuiltinOperator_SLICE = 65,
    BuiltinOperator_SIN = 66,
    BuiltinOperator_TRANSPOSE_CONV = 67,
    BuiltinOperator_EXPAND_DIMS = 70,
    BuiltinOperator_EQUAL = 71,
    BuiltinOperator_NOT_EQUAL = 72,
    BuiltinOperator_LOG = 73,
    BuiltinOperator_SUM = 74,
    BuiltinOperator_SQRT = 75,
    BuiltinOperator_RSQRT = 76,
    BuiltinOperator_SHAPE = 77,
    BuiltinOperator_ARG_MIN = 79,
    BuiltinOperator_REDUCE_MAX = 82,
    BuiltinOperator_PACK = 83,
    BuiltinOperator_LOGICAL_OR = 84,
    BuiltinOperator_LOGICAL_AND = 86,
    BuiltinOperator_LOGICAL_NOT = 87,
    BuiltinOperator_UNPACK = 88,
    BuiltinOperator_REDUCE_MIN = 89,
    BuiltinOperator_FLOOR_DIV = 90,
    BuiltinOperator_SQUARE = 92,
    BuiltinOperator_ZEROS_LIKE = 93,
    BuiltinOperator_FILL = 94,
    BuiltinOperator_FLOOR_MOD = 95,
    BuiltinOperator_RESIZE_NEAREST_NEIGHBOR = 97,
    BuiltinOperator_LEAKY_RELU = 98,
    BuiltinOperator_SQUARED_DIFFERENCE = 99,
    BuiltinOperator_MIRROR_PAD = 100,
    BuiltinOperator_ABS = 101,
    BuiltinOperator_SPLIT_V = 102,
    BuiltinOperator_CEIL = 104,
    BuiltinOperator_REVERSE_V2 = 105,
    BuiltinOperator_ADD_N = 106,
    BuiltinOperator_GATHER_ND = 107,
    BuiltinOperator_COS = 108,
    BuiltinOperator_ELU = 111,
    BuiltinOperator_QUANTIZE = 114,
    BuiltinOperator_ROUND = 116,
    BuiltinOperator_HARD_SWISH = 117,
    BuiltinOperator_IF = 118,
    BuiltinOperator_WHILE = 119,
    BuiltinOperator_SELECT_V2 = 123,
    BuiltinOperator_BATCH_MATMUL = 126,
    BuiltinOperator_CUMSUM = 128,
    BuiltinOperator_CALL_ONCE = 129,
    BuiltinOperator_BROADCAST_TO = 130,
    BuiltinOperator_REDUCE_ALL = 140,
    BuiltinOperator_VAR_HANDLE = 142,
    BuiltinOperator_READ_VARIABLE = 143,
    BuiltinOperator_ASSIGN_VARIABLE = 144,
    BuiltinOperator_BROADCAST_ARGS = 145,
    BuiltinOperator_DYNAMIC_UPDATE_SLICE = 151,
    BuiltinOperator_CUSTOM = 32,
    BuiltinOperator_MIN = BuiltinOperator_ADD,
    BuiltinOperator_MAX = 209
};
template <unsigned int tOpCount> class MicroMutableOpResolver {
  public:
    explicit MicroMutableOpResolver() {
    }
    virtual ~MicroMutableOpResolver() {
    }
    const TFLMRegistration *FindOp(BuiltinOperator op) const;
    const TFLMRegistration *FindOp(const char *op) const;
    unsigned int GetRegistrationLength();
    TfLiteStatus AddAdd();
    TfLiteStatus AddAveragePool2D();
    TfLiteStatus AddConcatenation();
    TfLiteStatus AddConv2D();
    TfLiteStatus AddDepthwiseConv2D();
    TfLiteStatus AddDepthToSpace();
    TfLiteStatus AddDequantize();
    TfLiteStatus AddEmbeddingLookup();
    TfLiteStatus AddFloor();
    TfLiteStatus AddFullyConnected();
    TfLiteStatus AddL2Normalization();
    TfLiteStatus AddL2Pool2D();
    TfLiteStatus AddLogistic();
    TfLiteStatus AddMaxPool2D();
    TfLiteStatus AddMul();
    TfLiteStatus AddRelu();
    TfLiteStatus AddRelu6();
    TfLiteStatus AddReshape();
    TfLiteStatus AddResizeBilinear();
    TfLiteStatus AddSoftmax();
    TfLiteStatus AddSpaceToDepth();
    TfLiteStatus AddSvdf();
    TfLiteStatus AddTanh();
    TfLiteStatus AddPad();
    TfLiteStatus AddGather();
    TfLiteStatus AddBatchToSpaceNd();
    TfLiteStatus AddSpaceToBatchNd();
    TfLiteStatus AddTranspose();
    TfLiteStatus AddMean();
    TfLiteStatus AddSub();
    TfLiteStatus AddDiv();
    TfLiteStatus AddSqueeze();
    TfLiteStatus AddUnidirectionalSequenceLSTM();
    TfLiteStatus AddStridedSlice();
    TfLiteStatus AddExp();
    TfLiteStatus AddSplit();
    TfLiteStatus AddLogSoftmax();
    TfLiteStatus AddCast();
    TfLiteStatus AddPrelu();
    TfLiteStatus AddMaximum();
    TfLiteStatus AddArgMax();
    TfLiteStatus AddMinimum();
    TfLiteStatus AddLess();
    TfLiteStatus AddNeg();
    TfLiteStatus AddPadV2();
    TfLiteStatus AddGreater();
    TfLiteStatus AddGreaterEqual();
    TfLiteStatus AddLessEqual();
    TfLiteStatus AddSlice();
    TfLiteStatus AddSin();
    TfLiteStatus AddTransposeConv();
    TfLiteStatus AddExpandDims();
    TfLiteStatus AddEqual();
    TfLiteStatus AddNotEqual();
    TfLiteStatus AddLog();
    TfLiteStatus AddSum();
    TfLiteStatus AddSqrt();
    TfLiteStatus AddRsqrt();
    TfLiteStatus AddShape();
    TfLiteStatus AddArgMin();
    TfLiteStatus AddReduceMax();
    TfLiteStatus AddPack();
    TfLiteStatus AddLogicalOr();
    TfLiteStatus AddLogicalAnd();
    TfLiteStatus AddLogicalNot();
    TfLiteStatus AddUnpack();
    TfLiteStatus AddReduceMin();
    TfLiteStatus AddFloorDiv();
    TfLiteStatus AddSquare();
    TfLiteStatus AddZerosLike();
    TfLiteStatus AddFill();
    TfLiteStatus AddFloorMod();
    TfLiteStatus AddResizeNearestNeighbor();
    TfLiteStatus AddLeakyRelu();
    TfLiteStatus AddSquaredDifference();
    TfLiteStatus AddMirrorPad();
    TfLiteStatus AddAbs();
    TfLiteStatus AddSplitV();
    TfLiteStatus AddCeil();
    TfLiteStatus AddReverseV2();
    TfLiteStatus AddAddN();
    TfLiteStatus AddGatherNd();
    TfLiteStatus AddCos();
    TfLiteStatus AddElu();
    TfLiteStatus AddQuantize();
    TfLiteStatus AddRound();
    TfLiteStatus AddHardSwish();
    TfLiteStatus AddIf();
    TfLiteStatus AddWhile();
    TfLiteStatus AddSelectV2();
    TfLiteStatus AddBatchMatMul();
    TfLiteStatus AddCumSum();
    TfLiteStatus AddCallOnce();
    TfLiteStatus AddBroadcastTo();
    TfLiteStatus AddReduceAll();
    TfLiteStatus AddVarHandle();
    TfLiteStatus AddReadVariable();
    TfLiteStatus AddAssignVariable();
    TfLiteStatus AddBroadcastArgs();
    TfLiteStatus AddDynamicUpdateSlice();
    TfLiteStatus AddCircularBuffer();
    TfLiteStatus AddDelay();
    TfLiteStatus AddEnergy();
    TfLiteStatus AddFftAutoScale();
    TfLiteStatus AddFilterBank();
    TfLiteStatus AddFilterBankLog();
    TfLiteStatus AddFilterBankSpectralSubtraction();
    TfLiteStatus AddFilterBankSquareRoot();
    TfLiteStatus AddFramer();
    TfLiteStatus AddIrfft();
    TfLiteStatus AddOverlapAdd();
    TfLiteStatus AddPCAN();
    TfLiteStatus AddRfft();
    TfLiteStatus AddStacker();
    TfLiteStatus AddWindow();
    TfLiteStatus AddDetectionPostprocess();
};
} // namespace tflite
