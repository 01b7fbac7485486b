#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
enum class MemoryPlannerType { kLinear, kGreedy };
class MicroAllocator {
  public:
    static MicroAllocator *
    Create(uint8_t *tensor_arena, size_t arena_size,
           MemoryPlannerType memory_planner_type = MemoryPlannerType::kGreedy);
    size_t used_bytes() const;
};
} // namespace tflite
