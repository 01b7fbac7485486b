// event_log.h: times of operators in 64 x 12 bytes (TFLM's own MicroProfiler takes 80 KB of RAM).
#ifndef TFLM_ENGINE_EVENT_LOG_H
#define TFLM_ENGINE_EVENT_LOG_H

#include <cstdint>

#include "tensorflow/lite/micro/compatibility.h"
#include "tensorflow/lite/micro/micro_profiler_interface.h"
#include "tflm_engine/tflm_engine.h"

#ifndef TFLM_NAMESPACE
#define TFLM_NAMESPACE tflite
#endif

class EventLog final : public TFLM_NAMESPACE::MicroProfilerInterface {
  public:
    void Open(uint64_t (*now_us)(void)) {
        now_us_ = now_us;
        on_ = false;
        Clear();
    }

    void Switch(bool on) {
        on_ = on;
        Clear();
    }

    void Clear() {
        n_ = 0;
        rest_us_ = 0;
    }

    // Microseconds below 2^32: an invoke of more than 71 minutes is a watchdog's business.
    uint32_t BeginEvent(const char *tag) override {
        if (!on_)
            return kNone;
        const uint32_t begin = static_cast<uint32_t>(now_us_());
        if (n_ == TFLM_OP_TIMES) {
            rest_begin_ = begin;
            return kRest;
        }
        events_[n_] = {tag, begin, 0};
        return n_++;
    }

    void EndEvent(uint32_t handle) override {
        if (handle == kNone)
            return;
        const uint32_t now = static_cast<uint32_t>(now_us_());
        if (handle == kRest)
            rest_us_ += now - rest_begin_; // operators do not nest but for control flow
        else if (handle < n_)
            events_[handle].us = now - events_[handle].begin;
    }

    uint32_t Read(tflm_op_time *times, uint32_t most) const {
        uint32_t n = 0;
        for (; n < n_ && n < most; n++)
            times[n] = {events_[n].tag, events_[n].us};
        if (rest_us_ && n < most)
            times[n++] = {nullptr, rest_us_};
        return n;
    }

  private:
    static constexpr uint32_t kNone = 0xffffffffu;
    static constexpr uint32_t kRest = 0xfffffffeu;
    struct Event {
        const char *tag;
        uint32_t begin, us;
    };
    static_assert(sizeof(void *) != 4 || sizeof(Event) == 12, "64 x 12 bytes");

    uint64_t (*now_us_)(void) = nullptr;
    bool on_ = false;
    uint32_t n_ = 0, rest_begin_ = 0, rest_us_ = 0;
    Event events_[TFLM_OP_TIMES] = {};
    TF_LITE_REMOVE_VIRTUAL_DELETE
};

#endif
