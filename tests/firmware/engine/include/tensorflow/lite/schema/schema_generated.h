#pragma once
#include <cstdint>
namespace flatbuffers {
typedef uint32_t uoffset_t;
template <typename T> struct IndirectHelper { typedef T return_type; };
template <typename T> struct Offset {};
template <typename T> struct IndirectHelper<Offset<T>> { typedef const T *return_type; };
template <typename T> class Vector {
  public:
    uoffset_t size() const;
    typename IndirectHelper<T>::return_type Get(uoffset_t i) const;
};
} // namespace flatbuffers
namespace tflite {
enum TensorType : int8_t { TensorType_FLOAT32 = 0 };
struct Tensor {
    const flatbuffers::Vector<int32_t> *shape() const;
    TensorType type() const;
};
struct SubGraph {
    const flatbuffers::Vector<flatbuffers::Offset<Tensor>> *tensors() const;
    const flatbuffers::Vector<int32_t> *inputs() const;
    const flatbuffers::Vector<int32_t> *outputs() const;
};
struct Model {
    const flatbuffers::Vector<flatbuffers::Offset<SubGraph>> *subgraphs() const;
};
const Model *GetModel(const void *buf);
} // namespace tflite
