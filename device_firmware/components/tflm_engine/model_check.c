/* model_check.c: see model_check.h.
 *
 * TFLM does not validate a model; it follows indices and offsets where they lead. What an attacker
 * or a broken tool controls: every number in the file. What TFLM follows and this walk compares:
 * tables, vectors and strings (flat.c), tensor -> buffer, buffer length against the tensor's shape,
 * operator -> opcode, operator -> tensors, subgraph -> tensors, control flow -> subgraphs (and that
 * no subgraph reaches itself), options without which a kernel's preparation dereferences nothing,
 * names of resource variables, the offline memory plan. What it cannot see: values that are only
 * known while a model runs (the begin of a SLICE). Those are the trial's and the server's part.
 *
 * The work is bounded: LIMITS below, at most 16 x 4096 operators x 256 indices.
 */
#include "tflm_engine/model_check.h"

#include <stddef.h>
#include <string.h>

#include "flat.h"
#include "fleet_core/codes.h"

#define MODEL_BYTES_MAX 0x7fffffffu
#define SUBGRAPHS_MAX 16u
#define TENSORS_MAX 8192u
#define OPERATORS_MAX 4096u
#define OPCODES_MAX 256u
#define BUFFERS_MAX 32768u
#define OPERANDS_MAX 256u
#define DIMS_MAX 8u
#define VARIABLES_MAX 64u
#define SCHEMA_VERSION 3u

/* Field numbers and codes of the TFLite schema, version 3. */
enum { MODEL_VERSION, MODEL_OPCODES, MODEL_SUBGRAPHS, MODEL_BUFFERS = 4, MODEL_METADATA = 6 };
enum { OPCODE_OLD, OPCODE_CUSTOM, OPCODE_BUILTIN = 3 };
enum { GRAPH_TENSORS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_OPERATORS };
enum { TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME, TENSOR_QUANT, TENSOR_VARIABLE };
enum { QUANT_SCALE = 2, QUANT_ZERO = 3, QUANT_AXIS = 6 };
enum {
    OP_OPCODE,
    OP_INPUTS,
    OP_OUTPUTS,
    OP_OPTIONS_TYPE,
    OP_OPTIONS,
    OP_CUSTOM,
    OP_INTERMEDIATES = 8,
};
enum { BUILTIN_CUSTOM = 32 };
enum { OPT_RESHAPE = 17, OPT_IF = 92, OPT_WHILE = 93, OPT_CALL_ONCE = 103, OPT_VAR_HANDLE = 111 };

struct walk {
    struct flat f;
    struct flat_vec opcodes, graphs, buffers;
    uint16_t calls[SUBGRAPHS_MAX]; /* bit j of [i]: subgraph i runs subgraph j */
    const char *variable[VARIABLES_MAX];
    uint32_t n_variables;
    uint8_t contained, bare; /* resource variables with and without a container's name */
    tflm_linked_fn linked;
    void *ctx;
    struct tflm_model_facts *facts;
};

/* Bytes of an element, 0 for a type that has no constants here; INT4 (17) is half a byte. */
static uint32_t type_bytes(uint32_t type) {
    static const uint8_t BYTES[] = {4, 2, 4, 1, 8, 0, 1, 2, 8, 1, 8, 0, 8, 0, 0, 4, 2, 1};
    return type < sizeof BYTES ? BYTES[type] : 0;
}

/* The options without which TFLM's preparation of an operator dereferences nothing; the schema
 * calls them optional. The number in the schema's union, 0 = may be left out. */
static uint32_t needed_options(uint32_t builtin) {
    switch (builtin) {
    case 1:  /* AVERAGE_POOL_2D */
    case 17: /* MAX_POOL_2D */
        return 5;
    case 2: /* CONCATENATION */
        return 10;
    case 3: /* CONV_2D */
        return 1;
    case 4: /* DEPTHWISE_CONV_2D */
        return 2;
    case 9: /* FULLY_CONNECTED */
        return 8;
    case 25: /* SOFTMAX */
        return 9;
    case 27: /* SVDF */
        return 6;
    case 44: /* UNIDIRECTIONAL_SEQUENCE_LSTM */
        return 71;
    case 118: /* IF */
        return OPT_IF;
    case 119: /* WHILE */
        return OPT_WHILE;
    case 129: /* CALL_ONCE */
        return OPT_CALL_ONCE;
    case 142: /* VAR_HANDLE */
        return OPT_VAR_HANDLE;
    default:
        return 0;
    }
}

/* `have` bytes of constants for a shape. The product is compared before each factor: no wrap. */
static int holds(struct walk *w, const struct flat_vec *shape, uint32_t type, uint32_t have) {
    uint32_t unit = type_bytes(type);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < shape->count; i++) {
        int32_t dim = flat_i32_of(&w->f, shape, i);
        if (dim < 0 || (elements && (uint32_t)dim > MODEL_BYTES_MAX / elements))
            return 0;
        elements *= (uint32_t)dim; /* <= 2^31 - 1 */
    }
    if (!have)
        return 1; /* an activation, or a variable */
    uint64_t bytes = type == 17 ? (elements + 1) / 2 : elements * unit; /* < 2^35 */
    return unit && bytes <= have;
}

static int check_tensor(struct walk *w, const struct flat_table *t) {
    struct flat_vec shape = flat_vec_in(&w->f, t, TENSOR_SHAPE, 4);
    uint32_t type = flat_u8(&w->f, t, TENSOR_TYPE, 0);
    uint32_t buffer = flat_u32(&w->f, t, TENSOR_BUFFER, 0);
    if (shape.count > DIMS_MAX || buffer >= w->buffers.count)
        return FC_ERR_SCHEMA;
    struct flat_table b = flat_table_of(&w->f, &w->buffers, buffer);
    struct flat_vec data = flat_vec_in(&w->f, &b, 0, 1);
    if (w->f.torn || !holds(w, &shape, type, data.count))
        return FC_ERR_SCHEMA;
    struct flat_table q = flat_table_in(&w->f, t, TENSOR_QUANT);
    if (!q.size)
        return w->f.torn ? FC_ERR_SCHEMA : FC_OK;
    struct flat_vec scale = flat_vec_in(&w->f, &q, QUANT_SCALE, 4);
    struct flat_vec zero = flat_vec_in(&w->f, &q, QUANT_ZERO, 8);
    uint32_t axis = flat_u32(&w->f, &q, QUANT_AXIS, 0);
    if (w->f.torn || (scale.count > 1 && axis >= shape.count) ||
        (zero.count > 1 && zero.count != scale.count))
        return FC_ERR_SCHEMA;
    if (scale.count > 1 && flat_i32_of(&w->f, &shape, axis) != (int32_t)scale.count)
        return FC_ERR_SCHEMA; /* per channel: a kernel reads one scale for each */
    return FC_OK;
}

/* Indices below `limit`; -1 stands for an operand that is left out, where that is allowed. */
static int check_indices(struct walk *w, const struct flat_vec *v, uint32_t limit, int optional) {
    if (v->count > OPERANDS_MAX)
        return FC_ERR_SCHEMA;
    for (uint32_t i = 0; i < v->count; i++) {
        int32_t index = flat_i32_of(&w->f, v, i);
        if (!(index == -1 && optional) && (index < 0 || (uint32_t)index >= limit))
            return FC_ERR_SCHEMA;
    }
    return FC_OK;
}

/* Remember that subgraph `from` runs subgraph `to`. */
static int calls(struct walk *w, uint32_t from, uint32_t to) {
    if (to >= w->graphs.count)
        return FC_ERR_SCHEMA;
    w->calls[from] |= (uint16_t)(1u << to);
    return FC_OK;
}

/* TFLM compares names with strcmp: a missing one, or containers on some variables only, is a crash.
 */
static int check_variable(struct walk *w, const struct flat_table *options) {
    const char *container = flat_text_in(&w->f, options, 0),
               *name = flat_text_in(&w->f, options, 1);
    if (w->f.torn || !name)
        return FC_ERR_SCHEMA;
    if (container)
        w->contained = 1;
    else
        w->bare = 1;
    if (w->contained && w->bare)
        return FC_ERR_SCHEMA;
    for (uint32_t i = 0; i < w->n_variables; i++)
        if (strcmp(w->variable[i], name) == 0)
            return FC_OK; /* containers set them apart at most: then the count is too low */
    if (w->n_variables == VARIABLES_MAX)
        return FC_ERR_SCHEMA;
    w->variable[w->n_variables++] = name;
    return FC_OK;
}

static int check_options(struct walk *w, const struct flat_table *op, uint32_t builtin,
                         uint32_t graph) {
    struct flat_table o = flat_table_in(&w->f, op, OP_OPTIONS);
    uint32_t type = flat_u8(&w->f, op, OP_OPTIONS_TYPE, 0), needed = needed_options(builtin);
    int rc = FC_OK;
    flat_vec_in(&w->f, op, OP_CUSTOM, 1);
    if (w->f.torn || (needed && (!o.size || type != needed)))
        return FC_ERR_SCHEMA;
    switch (o.size ? type : 0) {
    case OPT_RESHAPE: /* TFLM copies it into a TfLiteReshapeParams of 8 */
        if (flat_vec_in(&w->f, &o, 0, 4).count > DIMS_MAX)
            rc = FC_ERR_SCHEMA;
        break;
    case OPT_IF:
    case OPT_WHILE:
        rc = calls(w, graph, flat_u32(&w->f, &o, 0, 0));
        if (!rc)
            rc = calls(w, graph, flat_u32(&w->f, &o, 1, 0));
        break;
    case OPT_CALL_ONCE:
        rc = calls(w, graph, flat_u32(&w->f, &o, 0, 0));
        break;
    case OPT_VAR_HANDLE:
        rc = check_variable(w, &o);
        break;
    default:
        break;
    }
    return w->f.torn ? FC_ERR_SCHEMA : rc;
}

static int check_operator(struct walk *w, const struct flat_table *op, uint32_t graph,
                          uint32_t tensors) {
    struct flat_vec in = flat_vec_in(&w->f, op, OP_INPUTS, 4);
    struct flat_vec out = flat_vec_in(&w->f, op, OP_OUTPUTS, 4);
    struct flat_vec between = flat_vec_in(&w->f, op, OP_INTERMEDIATES, 4);
    uint32_t index = flat_u32(&w->f, op, OP_OPCODE, 0);
    if (w->f.torn || index >= w->opcodes.count || check_indices(w, &in, tensors, 1) ||
        check_indices(w, &out, tensors, 0) || check_indices(w, &between, tensors, 1))
        return FC_ERR_SCHEMA;
    struct flat_table code = flat_table_of(&w->f, &w->opcodes, index);
    uint32_t old = flat_u8(&w->f, &code, OPCODE_OLD, 0);
    uint32_t builtin = flat_u32(&w->f, &code, OPCODE_BUILTIN, 0);
    const char *custom = flat_text_in(&w->f, &code, OPCODE_CUSTOM);
    if (old > 127) /* a signed byte in the schema: 127 means "see the other field" */
        return FC_ERR_SCHEMA;
    builtin = builtin > old ? builtin : old;
    if (w->f.torn || (builtin == BUILTIN_CUSTOM && !custom))
        return FC_ERR_SCHEMA;
    if (!w->linked(w->ctx, builtin, builtin == BUILTIN_CUSTOM ? custom : NULL)) {
        w->facts->missing = builtin;
        return FC_ERR_OP_MISSING;
    }
    return check_options(w, op, builtin, graph);
}

static int check_graph(struct walk *w, uint32_t number) {
    struct flat_table g = flat_table_of(&w->f, &w->graphs, number);
    struct flat_vec tensors = flat_vec_in(&w->f, &g, GRAPH_TENSORS, 4);
    struct flat_vec ops = flat_vec_in(&w->f, &g, GRAPH_OPERATORS, 4);
    struct flat_vec in = flat_vec_in(&w->f, &g, GRAPH_INPUTS, 4);
    struct flat_vec out = flat_vec_in(&w->f, &g, GRAPH_OUTPUTS, 4);
    /* The vectors themselves must be there: TFLM asks an absent one for its size. */
    if (w->f.torn || !tensors.at || !ops.at || !in.at || !out.at || tensors.count > TENSORS_MAX ||
        ops.count > OPERATORS_MAX || check_indices(w, &in, tensors.count, 0) ||
        check_indices(w, &out, tensors.count, 0))
        return FC_ERR_SCHEMA;
    if (number == 0 && (!in.count || !out.count))
        return FC_ERR_SCHEMA;
    for (uint32_t i = 0; i < tensors.count; i++) {
        struct flat_table t = flat_table_of(&w->f, &tensors, i);
        if (w->f.torn || check_tensor(w, &t))
            return FC_ERR_SCHEMA;
    }
    for (uint32_t i = 0; i < ops.count; i++) {
        struct flat_table op = flat_table_of(&w->f, &ops, i);
        int rc = w->f.torn ? FC_ERR_SCHEMA : check_operator(w, &op, number, tensors.count);
        if (rc)
            return rc;
    }
    return FC_OK;
}

/* A subgraph that reaches itself would recurse until the stack is gone: transitive closure. */
static int check_calls(struct walk *w) {
    for (uint32_t via = 0; via < SUBGRAPHS_MAX; via++)
        for (uint32_t i = 0; i < SUBGRAPHS_MAX; i++)
            if (w->calls[i] >> via & 1)
                w->calls[i] |= w->calls[via];
    for (uint32_t i = 0; i < SUBGRAPHS_MAX; i++)
        if (w->calls[i] >> i & 1)
            return FC_ERR_SCHEMA;
    return FC_OK;
}

/* TFLM trusts an offline memory plan: [version, subgraph, n, n offsets], -1 = plan it online. */
static int check_metadata(struct walk *w, const struct flat_table *model) {
    struct flat_vec list = flat_vec_in(&w->f, model, MODEL_METADATA, 4);
    if (list.count > TENSORS_MAX)
        return FC_ERR_SCHEMA;
    for (uint32_t i = 0; i < list.count; i++) {
        struct flat_table m = flat_table_of(&w->f, &list, i);
        const char *name = flat_text_in(&w->f, &m, 0);
        uint32_t buffer = flat_u32(&w->f, &m, 1, 0);
        if (w->f.torn || buffer >= w->buffers.count)
            return FC_ERR_SCHEMA;
        if (!name || strcmp(name, "OfflineMemoryAllocation") != 0)
            continue;
        struct flat_table b = flat_table_of(&w->f, &w->buffers, buffer);
        struct flat_vec data = flat_vec_in(&w->f, &b, 0, 1);
        struct flat_vec words = {data.at, data.count / 4};
        if (w->f.torn || words.count < 3)
            return FC_ERR_SCHEMA;
        struct flat_table g = flat_table_of(&w->f, &w->graphs, 0);
        uint32_t n = (uint32_t)flat_i32_of(&w->f, &words, 2);
        if (n > words.count - 3 || n != flat_vec_in(&w->f, &g, GRAPH_TENSORS, 4).count)
            return FC_ERR_SCHEMA;
        for (uint32_t k = 0; k < n; k++)
            if (flat_i32_of(&w->f, &words, 3 + k) < -1)
                return FC_ERR_SCHEMA;
    }
    return w->f.torn ? FC_ERR_SCHEMA : FC_OK;
}

int tflm_model_check(const uint8_t *model, uint32_t n, tflm_linked_fn linked, void *ctx,
                     struct tflm_model_facts *facts) {
    struct walk w = {.f = {model, n, 0}, .linked = linked, .ctx = ctx, .facts = facts};
    memset(facts, 0, sizeof *facts);
    if (n < 16 || n > MODEL_BYTES_MAX || memcmp(model + 4, "TFL3", 4) != 0)
        return FC_ERR_SCHEMA;
    struct flat_table root = flat_root(&w.f);
    w.opcodes = flat_vec_in(&w.f, &root, MODEL_OPCODES, 4);
    w.graphs = flat_vec_in(&w.f, &root, MODEL_SUBGRAPHS, 4);
    w.buffers = flat_vec_in(&w.f, &root, MODEL_BUFFERS, 4);
    if (w.f.torn || flat_u32(&w.f, &root, MODEL_VERSION, 0) != SCHEMA_VERSION || !w.graphs.count ||
        w.graphs.count > SUBGRAPHS_MAX || w.opcodes.count > OPCODES_MAX || !w.buffers.count ||
        w.buffers.count > BUFFERS_MAX)
        return FC_ERR_SCHEMA;
    for (uint32_t i = 0; i < w.graphs.count; i++) {
        int rc = check_graph(&w, i);
        if (rc)
            return rc;
    }
    facts->variables = w.n_variables;
    return check_calls(&w) || check_metadata(&w, &root) ? FC_ERR_SCHEMA : FC_OK;
}
