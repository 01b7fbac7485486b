#pragma once
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_profiler_interface.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
#include "tensorflow/lite/schema/schema_generated.h"
#ifndef TF_LITE_STATIC_MEMORY
#error "the stub describes the reduced layout of esp-tflite-micro"
#endif
union TfLitePtrUnion {
    char *raw;
    void *data;
};
struct TfLiteTensor {
    TfLitePtrUnion data;
    size_t bytes;
};
namespace tflite {
class MicroInterpreter {
  public:
    template <unsigned int n>
    MicroInterpreter(const Model *model, const MicroMutableOpResolver<n> &op_resolver,
                     MicroAllocator *allocator,
                     MicroResourceVariables *resource_variables = nullptr,
                     MicroProfilerInterface *profiler = nullptr);
    ~MicroInterpreter();
    TfLiteStatus AllocateTensors();
    TfLiteStatus Invoke();
    TfLiteStatus Reset();
    TfLiteStatus initialization_status() const;
    size_t inputs_size() const;
    size_t outputs_size() const;
    TfLiteTensor *input(size_t index);
    TfLiteTensor *output(size_t index);
};
} // namespace tflite
