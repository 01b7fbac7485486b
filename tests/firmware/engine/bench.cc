// bench.cc: tflm_engine driven over standard input and output, for tests. One process, one engine.
//
// Every request is a byte that names it, then little-endian u32 numbers and blobs (u32 length,
// bytes); every answer is an i32 result, then numbers and blobs. The test is on the other side and
// trusted.
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tflm_engine/model_check.h"
#include "tflm_engine/tflm_engine.h"

#define _Alignas alignas
#define _Static_assert static_assert
extern "C" {
#include "fleet_core/documents.h"
#include "fleet_core/hal.h"
}

#ifdef BENCH_FIX_VARIABLES
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
namespace TFLM_NAMESPACE {
// The optional library reads the TfLiteTensor it is handed as a TfLiteEvalTensor, whose layout
// differs, and crashes on streaming models. This definition takes its place when the program is
// linked.
TfLiteStatus MicroResourceVariables::Allocate(int id, TfLiteContext *context,
                                              const TfLiteTensor *tensor) {
    if (id < 0 || id >= num_resource_variables_)
        return kTfLiteError;
    MicroResourceVariable &variable = resource_variables_[id];
    if (variable.resource_buffer)
        return kTfLiteOk;
    variable.bytes = tensor->bytes;
    variable.resource_buffer = context->AllocatePersistentBuffer(context, tensor->bytes);
    if (!variable.resource_buffer)
        return kTfLiteError;
    if (tensor->quantization.params)
        variable.default_value =
            static_cast<int8_t>(static_cast<TfLiteAffineQuantization *>(tensor->quantization.params)
                                    ->zero_point->data[0]);
    memset(variable.resource_buffer, variable.default_value, variable.bytes);
    return kTfLiteOk;
}
} // namespace TFLM_NAMESPACE
#endif

namespace {

FILE *g_answers; // TFLM prints what it thinks to standard output, which is standard error by then

uint64_t NowUs() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000u + static_cast<uint64_t>(t.tv_nsec) / 1000u;
}

void Take(void *to, size_t n) {
    if (n && fread(to, 1, n, stdin) != n)
        exit(0); // the test closed its end
}

uint32_t Number() {
    uint32_t value;
    Take(&value, sizeof value);
    return value;
}

std::vector<uint8_t> Blob() {
    std::vector<uint8_t> bytes(Number());
    Take(bytes.data(), bytes.size());
    return bytes;
}

void Say(uint32_t value) {
    fwrite(&value, 1, sizeof value, g_answers);
}

void Say(const uint8_t *p, size_t n) {
    Say(static_cast<uint32_t>(n));
    fwrite(p, 1, n, g_answers);
}

uint32_t Tensors(fc_tensor *out) {
    const uint32_t n = Number();
    for (uint32_t i = 0; i < n && i < FC_TENSORS_MAX; i++) {
        out[i].dtype = static_cast<uint8_t>(Number());
        out[i].ndim = static_cast<uint8_t>(Number());
        for (uint32_t d = 0; d < out[i].ndim && d < FC_DIMS_MAX; d++)
            out[i].dim[d] = Number();
    }
    return n;
}

} // namespace

int main() {
    std::vector<uint8_t> models[FC_SLOTS];
    uint8_t *arena = nullptr;
    const fc_engine *engine = nullptr;
    g_answers = fdopen(dup(1), "wb");
    dup2(2, 1);
    for (;;) {
        char what;
        Take(&what, 1);
        switch (what) {
        case 'O': { // arena bytes -> result, operators
            const uint32_t n = Number();
            size_t ops_n = 0;
            free(arena);
            arena = static_cast<uint8_t *>(aligned_alloc(16, (n + 15u) & ~15u));
            memset(arena, 0xA5, n);
            const tflm_config config = {arena, n, NowUs};
            engine = tflm_engine_open(&config);
            const uint8_t *ops = tflm_engine_ops(&ops_n);
            Say(engine ? 0 : 1);
            Say(ops, engine ? ops_n : 0);
            break;
        }
        case 'C': { // model -> result
            const std::vector<uint8_t> model = Blob();
            Say(static_cast<uint32_t>(
                engine->check(engine->ctx, model.data(), static_cast<uint32_t>(model.size()))));
            break;
        }
        case 'L': { // slot, variables, inputs, outputs, model -> result, arena used
            const uint32_t slot = Number();
            fc_model m = {};
            fc_load_info info = {};
            m.hints.variables = Number();
            m.nin = static_cast<uint8_t>(Tensors(m.in));
            m.nout = static_cast<uint8_t>(Tensors(m.out));
            std::vector<uint8_t> next = Blob();
            engine->unload(engine->ctx, static_cast<uint8_t>(slot));
            models[slot].swap(next);
            Say(static_cast<uint32_t>(
                engine->load(engine->ctx, static_cast<uint8_t>(slot), models[slot].data(),
                             static_cast<uint32_t>(models[slot].size()), &m, &info)));
            Say(info.arena_used);
            break;
        }
        case 'I': { // slot, inputs, number of outputs -> result, outputs
            const uint32_t slot = Number(), nin = Number();
            std::vector<std::vector<uint8_t>> inputs(nin);
            std::vector<fc_buf> in(nin);
            for (uint32_t i = 0; i < nin; i++) {
                inputs[i] = Blob();
                in[i] = {inputs[i].data(), static_cast<uint32_t>(inputs[i].size())};
            }
            std::vector<fc_buf> out(Number());
            uint32_t us;
            const int rc = engine->invoke(engine->ctx, static_cast<uint8_t>(slot), in.data(), nin,
                                          out.data(), static_cast<uint32_t>(out.size()), &us);
            Say(static_cast<uint32_t>(rc));
            for (const fc_buf &o : out)
                Say(o.p, rc == 0 ? o.n : 0);
            break;
        }
        case 'R': // slot -> result
            Say(static_cast<uint32_t>(engine->reset(engine->ctx, static_cast<uint8_t>(Number()))));
            break;
        case 'U': // slot -> result
            Say(static_cast<uint32_t>(engine->unload(engine->ctx, static_cast<uint8_t>(Number()))));
            break;
        case 'P': { // slot -> result, least arena
            uint32_t bytes = 0;
            const int rc = tflm_engine_probe(static_cast<uint8_t>(Number()), &bytes);
            Say(static_cast<uint32_t>(rc));
            Say(bytes);
            break;
        }
        case 'S': // slot -> state resets
            Say(tflm_engine_state_resets(static_cast<uint8_t>(Number())));
            break;
        case 'E': // on -> 0
            tflm_engine_profile(static_cast<int>(Number()));
            Say(0);
            break;
        case 'T': { // -> number, then names and microseconds
            tflm_op_time times[TFLM_OP_TIMES + 1];
            const uint32_t n = tflm_engine_times(times, TFLM_OP_TIMES + 1);
            Say(n);
            for (uint32_t i = 0; i < n; i++) {
                const char *name = times[i].name ? times[i].name : "";
                Say(reinterpret_cast<const uint8_t *>(name), strlen(name));
                Say(times[i].us);
            }
            break;
        }
        default:
            return 2;
        }
        fflush(g_answers);
    }
}
