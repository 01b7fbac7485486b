// tflm_engine.cc: models in TensorFlow Lite Micro behind struct fc_engine. The only C++ of the
// project.
//
// One arena, one allocator for all slots: activations of all models share the head of the arena,
// what each model keeps adds up at its tail. Nothing can be freed singly, so a change of one slot
// destroys every interpreter and builds all of them again, in slot order, on a fresh allocator.
// Calls are serialised by the caller (one task).
//
// Builds against other TFLM libraries: TFLM_NAMESPACE names theirs; TF_LITE_STATIC_MEMORY must be
// as it was when the library was compiled (esp-tflite-micro passes it on to us), or the layouts
// differ.
#include <cstdint>
#include <cstring>
#include <new>

#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
#include "tensorflow/lite/schema/schema_generated.h"

#include "event_log.h"
#include "ops.h"
#include "tflm_engine/model_check.h"
#include "tflm_engine/tflm_engine.h"

#ifndef _Alignas // the core's headers are C11; picolibc defines these two for C++
#define _Alignas alignas
#endif
#ifndef _Static_assert
#define _Static_assert static_assert
#endif
extern "C" {
#include "fleet_core/documents.h"
#include "fleet_core/hal.h"
}

namespace tfl = TFLM_NAMESPACE;

namespace {

// --- the operator list ---------------------------------------------------------------------------

#define COUNT(name, add) +1
constexpr unsigned kBuiltins = 0 TFLM_BUILTIN_OPS(COUNT);
constexpr unsigned kCustoms = 0 TFLM_CUSTOM_OPS(COUNT);
constexpr unsigned kOps = kBuiltins + kCustoms;
#undef COUNT
static_assert(kOps > 0, "no operator is selected: menuconfig, TinyFleet: TensorFlow Lite Micro");

#define CODE(name, add) tfl::name,
constexpr int32_t kCodes[] = {TFLM_BUILTIN_OPS(CODE) INT32_MAX};
#undef CODE
#define NAME(name, add) name,
constexpr const char *kNames[] = {TFLM_CUSTOM_OPS(NAME) nullptr};
#undef NAME

constexpr bool Rising() {
    for (unsigned i = 0; i < kBuiltins; i++)
        if (kCodes[i] >= kCodes[i + 1])
            return false;
    return true;
}
static_assert(Rising(), "ops.h: builtin codes must rise (SPEC.md section 6)");

constexpr bool NamesRising() {
    for (unsigned i = 0; i + 1 < kCustoms; i++) {
        const char *a = kNames[i], *b = kNames[i + 1];
        while (*a && *a == *b)
            a++, b++;
        if (*a >= *b)
            return false;
    }
    return true;
}
static_assert(NamesRising(), "ops.h: custom names must rise (SPEC.md section 6)");

constexpr size_t HeadBytes(uint32_t value) {
    return value < 24 ? 1 : value < 256 ? 2 : 3;
}

constexpr size_t TextBytes(const char *text) {
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

constexpr size_t OpsBytes() {
    size_t n = HeadBytes(kOps);
    for (unsigned i = 0; i < kBuiltins; i++)
        n += HeadBytes(static_cast<uint32_t>(kCodes[i]));
    for (unsigned i = 0; i < kCustoms; i++)
        n += 1 + 2 + HeadBytes(static_cast<uint32_t>(TextBytes(kNames[i]))) + TextBytes(kNames[i]);
    return n;
}
static_assert(OpsBytes() <= FC_OPS_BYTES_MAX, "too many operators: the list rides in `reported`");

uint8_t *PutHead(uint8_t *p, uint8_t major, uint32_t value) {
    major = static_cast<uint8_t>(major << 5);
    if (value < 24) {
        *p++ = static_cast<uint8_t>(major | value);
    } else if (value < 256) {
        *p++ = static_cast<uint8_t>(major | 24);
        *p++ = static_cast<uint8_t>(value);
    } else {
        *p++ = static_cast<uint8_t>(major | 25);
        *p++ = static_cast<uint8_t>(value >> 8);
        *p++ = static_cast<uint8_t>(value);
    }
    return p;
}

// --- the engine ----------------------------------------------------------------------------------

using Resolver = tfl::MicroMutableOpResolver<kOps>;
using Interpreter = tfl::MicroInterpreter;

constexpr uint32_t kArenaLeast = 4096;  // MicroAllocator::Create() does not look whether it fits
constexpr uint32_t kVariableBytes = 64; // bounds MicroResourceVariables' bytes for each variable

struct Slot {
    const uint8_t *model; // NULL = empty; the caller keeps it mapped until unload
    uint32_t n, variables, arena_used, state_resets;
    Interpreter *interpreter; // in `storage`, or NULL
    alignas(Interpreter) uint8_t storage[sizeof(Interpreter)];
};

struct Engine {
    tflm_config config;
    Resolver *resolver;
    alignas(Resolver) uint8_t resolver_storage[sizeof(Resolver)];
    EventLog events;
    Slot slot[FC_SLOTS];
    uint32_t used; // bytes of the arena in use, the allocator's own among them
    uint8_t ops[OpsBytes()];
    fc_engine face;
};

Engine g_engine; // static storage: nothing is ever taken from the heap

int Linked(void *ctx, uint32_t builtin, const char *custom) {
    const auto *resolver = static_cast<const Resolver *>(ctx);
    if (custom)
        return resolver->FindOp(custom) != nullptr;
    return builtin <= tfl::BuiltinOperator_MAX &&
           resolver->FindOp(static_cast<tfl::BuiltinOperator>(builtin)) != nullptr;
}

int Check(void *ctx, const uint8_t *model, uint32_t n) {
    tflm_model_facts facts;
    return tflm_model_check(model, n, Linked, static_cast<Engine *>(ctx)->resolver, &facts);
}

// Interpreters free what their kernels hold, so the last one goes first. An interpreter that failed
// is destroyed like any other: a second AllocateTensors() on it is never tried.
void DestroyAll(Engine *e) {
    for (unsigned i = FC_SLOTS; i-- > 0;) {
        Slot *s = &e->slot[i];
        if (s->interpreter)
            s->interpreter->~Interpreter();
        s->interpreter = nullptr;
    }
}

// Build one slot's interpreter on the allocator. FC_OK or FC_ERR_LOAD_FAILED.
int Build(Engine *e, Slot *s, tfl::MicroAllocator *allocator, uint32_t arena_bytes) {
    const size_t before = allocator->used_bytes();
    tfl::MicroResourceVariables *variables = nullptr;
    if (s->variables) {
        // Create() writes through its allocations without a look, hence the look at what is left.
        // variables <= 64 (the walk's limit), so the sum is below 8 KiB.
        const size_t need = s->variables * kVariableBytes + 256;
        if (before > arena_bytes || arena_bytes - before < need)
            return FC_ERR_LOAD_FAILED;
        variables = tfl::MicroResourceVariables::Create(allocator, static_cast<int>(s->variables));
    }
    s->interpreter = new (s->storage)
        Interpreter(tfl::GetModel(s->model), *e->resolver, allocator, variables, &e->events);
    if (s->interpreter->initialization_status() != kTfLiteOk ||
        s->interpreter->AllocateTensors() != kTfLiteOk)
        return FC_ERR_LOAD_FAILED;
    const size_t after = allocator->used_bytes();
    s->arena_used = static_cast<uint32_t>(after > before ? after - before : 0);
    return FC_OK;
}

// Build every slot that has a model, or only `only`, on a fresh allocator over the first bytes of
// the arena. On failure *culprit is the slot and nothing is built.
int BuildAll(Engine *e, uint32_t arena_bytes, int only, unsigned *culprit) {
    DestroyAll(e);
    tfl::MicroAllocator *allocator = tfl::MicroAllocator::Create(e->config.arena, arena_bytes);
    for (unsigned i = 0; i < FC_SLOTS; i++) {
        Slot *s = &e->slot[i];
        if (!s->model || (only >= 0 && static_cast<unsigned>(only) != i))
            continue;
        if (Build(e, s, allocator, arena_bytes) != FC_OK) {
            DestroyAll(e);
            *culprit = i;
            return FC_ERR_LOAD_FAILED;
        }
    }
    e->used = static_cast<uint32_t>(allocator->used_bytes());
    return FC_OK;
}

// The other slots again, after one was taken away or did not fit. They were built before with more
// beside them; if one fails all the same, it is emptied rather than left half built.
int Restore(Engine *e, unsigned changed) {
    int rc = FC_OK;
    unsigned culprit = 0;
    for (unsigned i = 0; i < FC_SLOTS; i++)
        if (i != changed && e->slot[i].model)
            e->slot[i].state_resets++;
    while (BuildAll(e, e->config.arena_bytes, -1, &culprit) != FC_OK) { // <= FC_SLOTS turns
        e->slot[culprit].model = nullptr;
        rc = FC_ERR_LOAD_FAILED;
    }
    return rc;
}

// The manifest's contract against the model: types (numbers of TensorType) and shapes.
bool SameSide(const tfl::SubGraph *graph, const flatbuffers::Vector<int32_t> *indices,
              const fc_tensor *want, uint32_t n) {
    if (indices->size() != n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const tfl::Tensor *t =
            graph->tensors()->Get(static_cast<flatbuffers::uoffset_t>(indices->Get(i)));
        const uint32_t ndim = t->shape() ? t->shape()->size() : 0;
        if (static_cast<uint8_t>(t->type()) != want[i].dtype || ndim != want[i].ndim)
            return false;
        for (uint32_t d = 0; d < ndim; d++)
            if (static_cast<uint32_t>(t->shape()->Get(d)) != want[i].dim[d])
                return false;
    }
    return true;
}

int Unload(void *ctx, uint8_t slot) {
    auto *e = static_cast<Engine *>(ctx);
    if (slot >= FC_SLOTS)
        return FC_ERR_PORT;
    if (!e->slot[slot].model)
        return FC_OK;
    e->slot[slot].model = nullptr;
    return Restore(e, slot);
}

int Load(void *ctx, uint8_t slot, const uint8_t *model, uint32_t n, const fc_model *m,
         fc_load_info *info) {
    auto *e = static_cast<Engine *>(ctx);
    tflm_model_facts facts;
    unsigned culprit = 0;
    if (slot >= FC_SLOTS)
        return FC_ERR_PORT;
    int rc = Unload(ctx, slot);
    if (rc == FC_OK) // walked here too: load must not depend on check having been called
        rc = tflm_model_check(model, n, Linked, e->resolver, &facts);
    if (rc != FC_OK)
        return rc;
    const tfl::SubGraph *graph = tfl::GetModel(model)->subgraphs()->Get(0);
    if (facts.variables > m->hints.variables || !SameSide(graph, graph->inputs(), m->in, m->nin) ||
        !SameSide(graph, graph->outputs(), m->out, m->nout))
        return FC_ERR_IO_CONTRACT;
    Slot *s = &e->slot[slot];
    s->model = model;
    s->n = n;
    s->variables = facts.variables;
    bool alone = true;
    for (unsigned i = 0; i < FC_SLOTS; i++)
        if (i != slot && e->slot[i].model) {
            e->slot[i].state_resets++;
            alone = false;
        }
    rc = BuildAll(e, e->config.arena_bytes, -1, &culprit);
    if (rc == FC_OK) {
        info->arena_used = s->arena_used;
        return FC_OK;
    }
    // A model that loads by itself and not beside the others is too large for what they leave. TFLM
    // does not say why it failed, so one that fails alone is `load_failed` for whatever reason.
    if (!alone && BuildAll(e, e->config.arena_bytes, slot, &culprit) == FC_OK)
        rc = FC_ERR_ARENA_TOO_SMALL;
    s->model = nullptr;
    Restore(e, slot);
    return rc;
}

// Inputs are copied in before every invoke: TFLM uses their memory again while it runs.
int Invoke(void *ctx, uint8_t slot, const fc_buf *in, uint32_t nin, fc_buf *out, uint32_t nout,
           uint32_t *us) {
    auto *e = static_cast<Engine *>(ctx);
    Interpreter *it = slot < FC_SLOTS ? e->slot[slot].interpreter : nullptr;
    *us = 0;
    if (!it)
        return FC_ERR_NOT_IN_BANK;
    if (nin != it->inputs_size() || nout != it->outputs_size())
        return FC_ERR_IO_CONTRACT;
    for (uint32_t i = 0; i < nin; i++) {
        TfLiteTensor *t = it->input(i);
        if (!t || !t->data.raw || t->bytes != in[i].n)
            return FC_ERR_IO_CONTRACT;
        std::memcpy(t->data.raw, in[i].p, in[i].n);
    }
    e->events.Clear();
    const uint64_t begin = e->config.now_us();
    const TfLiteStatus status = it->Invoke();
    const uint64_t took = e->config.now_us() - begin;
    *us = took > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(took);
    if (status != kTfLiteOk)
        return FC_ERR_LOAD_FAILED;
    for (uint32_t i = 0; i < nout; i++) {
        const TfLiteTensor *t = it->output(i);
        if (!t || !t->data.raw || t->bytes > UINT32_MAX)
            return FC_ERR_IO_CONTRACT;
        out[i].p = reinterpret_cast<const uint8_t *>(t->data.raw);
        out[i].n = static_cast<uint32_t>(t->bytes);
    }
    return FC_OK;
}

int Reset(void *ctx, uint8_t slot) {
    auto *e = static_cast<Engine *>(ctx);
    Interpreter *it = slot < FC_SLOTS ? e->slot[slot].interpreter : nullptr;
    if (!it)
        return FC_ERR_NOT_IN_BANK;
    return it->Reset() == kTfLiteOk ? FC_OK : FC_ERR_LOAD_FAILED;
}

// The smallest arena that the loaded model of a slot works in again, by trying: from what it uses
// upwards in doubling steps, then bisection to 16 bytes. What TFLM says it used can be too little,
// and it does not survive every arena that is far too small, so nothing below that is tried. All
// slots are built again at the end and lose their streaming state.
int Probe(void *ctx, uint8_t slot, const uint8_t *, uint32_t, const fc_model *, uint32_t *bytes) {
    auto *e = static_cast<Engine *>(ctx);
    if (slot >= FC_SLOTS || !e->slot[slot].model)
        return FC_ERR_NOT_IN_BANK;
    const uint32_t most = e->config.arena_bytes & ~15u;
    unsigned culprit = 0;
    const int rc = BuildAll(e, most, slot, &culprit);
    if (rc == FC_OK) {
        uint32_t good = (e->used + 15u) & ~15u, step = 16; // most < 2^31: no sum below wraps
        good = good < kArenaLeast ? kArenaLeast : good > most ? most : good;
        uint32_t bad = good - 16;
        while (good < most && BuildAll(e, good, slot, &culprit) != FC_OK) {
            bad = good;
            good = step < most - good ? good + step : most;
            step *= 2;
        }
        while (good - bad > 16) {
            const uint32_t middle = (bad + (good - bad) / 2) & ~15u;
            if (BuildAll(e, middle, slot, &culprit) == FC_OK)
                good = middle;
            else
                bad = middle;
        }
        *bytes = good;
    }
    e->slot[slot].state_resets++;
    const int restored = Restore(e, slot);
    return rc != FC_OK ? rc : restored;
}

// Cores older than the verb "probe arena" have no such member.
template <typename Face> void AddProbe(Face *face) {
    if constexpr (requires { face->probe; })
        face->probe = Probe;
}

bool AddOperators(Resolver *r) {
#define ADD(name, add)                                                                             \
    if (r->add() != kTfLiteOk)                                                                     \
        return false;
    TFLM_BUILTIN_OPS(ADD)
    TFLM_CUSTOM_OPS(ADD)
#undef ADD
    return r->GetRegistrationLength() == kOps;
}

void WriteOps(Engine *e) {
    uint8_t *p = PutHead(e->ops, 4, kOps);
    for (unsigned i = 0; i < kBuiltins; i++)
        p = PutHead(p, 0, static_cast<uint32_t>(kCodes[i]));
    for (unsigned i = 0; i < kCustoms; i++) {
        const size_t n = TextBytes(kNames[i]);
        p = PutHead(p, 4, 2);
        p = PutHead(p, 0, tfl::BuiltinOperator_CUSTOM);
        p = PutHead(p, 3, static_cast<uint32_t>(n));
        std::memcpy(p, kNames[i], n);
        p += n;
    }
}

} // namespace

extern "C" const struct fc_engine *tflm_engine_open(const struct tflm_config *config) {
    Engine *e = &g_engine;
    DestroyAll(e);
    for (Slot &s : e->slot) {
        s.model = nullptr;
        s.state_resets = 0;
    }
    if (!config->arena || reinterpret_cast<uintptr_t>(config->arena) % 16 || !config->now_us ||
        config->arena_bytes < kArenaLeast || config->arena_bytes > INT32_MAX)
        return nullptr;
    e->config = *config;
    e->events.Open(config->now_us);
    e->resolver = new (e->resolver_storage) Resolver();
    if (!AddOperators(e->resolver))
        return nullptr;
    WriteOps(e);
    e->face = {};
    e->face.ctx = e;
    e->face.check = Check;
    e->face.load = Load;
    e->face.invoke = Invoke;
    e->face.reset = Reset;
    e->face.unload = Unload;
    AddProbe(&e->face);
    return &e->face;
}

extern "C" const uint8_t *tflm_engine_ops(size_t *n) {
    *n = sizeof g_engine.ops;
    return g_engine.ops;
}

extern "C" int tflm_engine_probe(uint8_t slot, uint32_t *bytes) {
    return Probe(&g_engine, slot, nullptr, 0, nullptr, bytes);
}

extern "C" void tflm_engine_profile(int on) {
    g_engine.events.Switch(on != 0);
}

extern "C" uint32_t tflm_engine_times(struct tflm_op_time *times, uint32_t most) {
    return g_engine.events.Read(times, most);
}

extern "C" uint32_t tflm_engine_state_resets(uint8_t slot) {
    return slot < FC_SLOTS ? g_engine.slot[slot].state_resets : 0;
}
