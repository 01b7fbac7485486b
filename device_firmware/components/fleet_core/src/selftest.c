/* selftest.c: golden vectors from the signed manifest, one implementation for chip and host.
 *
 * Reset, then the vectors in order; a vector passes when every output element is within `tol` steps
 * of its golden value. With both within tol, another argmax is only possible where the golden top-2
 * gap is at most 2 tol, so the rule on class scores of firmware.md section 7 needs no code.
 * No floating point: a float is taken apart into a fixed-point number of 2^-16 steps.
 */
#include "internal.h"

#define FIXED_MAX ((int64_t)1 << 46)

/* float32 bits in 2^-16 steps, saturated. 0 = a number, -1 = NaN. */
static int fixed32(uint32_t bits, int64_t *out) {
    uint32_t exponent = bits >> 23 & 255u;
    int64_t v = (int64_t)(bits & 0x7FFFFFu);
    int shift = (int)exponent - 150 + 16; /* value = mantissa * 2^(exponent - 150) */
    if (exponent == 255 && v)
        return -1;
    if (exponent)
        v |= 0x800000;
    else
        shift++;
    if (exponent == 255 || shift > 22)
        v = FIXED_MAX;
    else if (shift >= 0)
        v = v << shift;
    else
        v = shift < -40 ? 0 : v >> -shift;
    if (v > FIXED_MAX)
        v = FIXED_MAX;
    *out = bits >> 31 ? -v : v;
    return 0;
}

/* float16 widened to float32 bits: exact for every finite value. */
static uint32_t widen(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31u, m = h & 0x3FFu;
    if (exponent == 31)
        return sign | 0x7F800000u | m << 13;
    if (!exponent) { /* subnormal: below 2^-14, under half a step */
        return sign | (m ? 0x37800000u : 0u);
    }
    return sign | (exponent + 112u) << 23 | m << 13;
}

static int element(uint8_t dtype, const uint8_t *p, uint32_t i, int64_t *out) {
    switch (dtype) {
    case 0:
        return fixed32(fc_get32(p + 4 * i), out);
    case 1:
        return fixed32(widen(fc_get16(p + 2 * i)), out);
    case 2:
        *out = (int32_t)fc_get32(p + 4 * i);
        return 0;
    case 4: /* far apart saturates: differences of 2^62 are all the same to a tolerance */
        *out = (int64_t)fc_get64(p + 8 * i) / 4;
        return 0;
    case 7:
        *out = (int16_t)fc_get16(p + 2 * i);
        return 0;
    case 9:
        *out = (int8_t)p[i];
        return 0;
    default: /* uint8, bool */
        *out = p[i];
        return 0;
    }
}

uint32_t fc_output_diff(uint8_t dtype, uint32_t bytes, const uint8_t *got, const uint8_t *golden) {
    static const uint8_t size[] = {4, 2, 4, 1, 8, 0, 1, 2, 0, 1};
    uint32_t n = bytes / size[dtype], worst = 0;
    for (uint32_t i = 0; i < n; i++) {
        int64_t a = 0, b = 0;
        if (dtype == 4 && memcmp(got + 8 * i, golden + 8 * i, 8) == 0)
            continue;
        if (element(dtype, got, i, &a) || element(dtype, golden, i, &b))
            return UINT32_MAX;
        uint64_t d = a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
        if (dtype < 2)
            d = (d + 255) / 256; /* 2^-16 steps to steps of 1/256, rounded up */
        if (dtype == 4)
            d = d * 4 + 1;
        if (d >= UINT32_MAX)
            return UINT32_MAX;
        worst = d > worst ? (uint32_t)d : worst;
    }
    return worst;
}

static int golden_map(struct fc_core *core, const uint8_t **p, uint32_t *n) {
    const struct fc_job *j = &core->job;
    uint32_t off = 4 + j->m.golden_off;
    *n = j->m.golden_len;
    if (j->m.blob_size) {
        off = fc_chunk_off(&j->m, j->m.model_chunks);
        *n = j->m.blob_size;
    }
    return core->hal->map(core->hal->ctx, fc_job_area(core), off, *n, p);
}

int fc_selftest_begin(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const struct fc_engine *engine = core->hal->engine;
    const uint8_t *p = NULL;
    uint32_t n = 0;
    memset(&j->golden, 0, sizeof j->golden);
    if (engine->reset(engine->ctx, j->slot) || golden_map(core, &p, &n))
        return FC_ERR_LOAD_FAILED;
    struct fc_in in = fc_in_of(p, n);
    uint32_t count = fc_in_array(&in, 1, FC_ITEMS_MAX);
    j->vec_off = (uint32_t)(in.p - p);
    core->hal->unmap(core->hal->ctx, p);
    return count == j->m.golden_n ? FC_OK : FC_ERR_SCHEMA;
}

static uint32_t median(uint32_t *us, uint32_t n) {
    for (uint32_t i = 1; i < n; i++) {
        uint32_t v = us[i], k = i;
        for (; k && us[k - 1] > v; k--)
            us[k] = us[k - 1];
        us[k] = v;
    }
    return n ? us[n / 2] : 0;
}

static int run_vector(struct fc_core *core, struct fc_in *in) {
    struct fc_job *j = &core->job;
    const struct fc_engine *engine = core->hal->engine;
    struct fc_buf bufs[2 * FC_TENSORS_MAX], got[FC_TENSORS_MAX];
    uint32_t us = 0, worst = 0;
    memset(got, 0, sizeof got);
    if (fc_vector_parse(in, &j->m, bufs))
        return FC_ERR_SCHEMA;
    int rc = engine->invoke(engine->ctx, j->slot, bufs, j->m.nin, got, j->m.nout, &us);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < j->m.nout; i++) {
        uint32_t k = FC_TENSORS_MAX + i;
        if (got[i].n != bufs[k].n || !got[i].p)
            return FC_ERR_IO_CONTRACT;
        uint32_t d = fc_output_diff(j->m.dtype[k], bufs[k].n, got[i].p, bufs[k].p);
        worst = d > worst ? d : worst;
    }
    if (j->golden.n < FC_TIMES_MAX)
        j->u.us[j->golden.n] = us;
    j->golden.n++;
    j->golden.ok += worst <= j->m.tol && worst != UINT32_MAX;
    j->golden.max_diff = worst > j->golden.max_diff ? worst : j->golden.max_diff;
    return FC_OK;
}

int fc_selftest_step(struct fc_core *core) {
    struct fc_job *j = &core->job;
    const uint8_t *p = NULL;
    uint32_t n = 0;
    if (golden_map(core, &p, &n))
        return FC_ERR_FLASH_IO;
    /* vec_off <= n: it came from a cursor over these very bytes, whose digest was checked. */
    struct fc_in in = fc_in_of(p + j->vec_off, n - j->vec_off);
    int rc = run_vector(core, &in);
    j->vec_off = (uint32_t)(in.p - p);
    core->hal->unmap(core->hal->ctx, p);
    if (rc)
        return rc;
    if (j->golden.n < j->m.golden_n)
        return 1;
    j->golden.median_us = median(j->u.us, j->golden.n < FC_TIMES_MAX ? j->golden.n : FC_TIMES_MAX);
    return 0;
}
