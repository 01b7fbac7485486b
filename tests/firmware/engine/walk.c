/* walk.c: tflm_model_check() for tests. Standard input: 256 bytes (1 = builtin linked), then
 * models, each as u32 length and bytes. Standard output: i32 result, u32 missing, u32 variables for
 * each. Every model stands in memory of exactly its size, so that ASan sees a read past it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fleet_core/codes.h"
#include "tflm_engine/model_check.h"

static int linked(void *ctx, uint32_t builtin, const char *custom) {
    return builtin < 256 && ((const uint8_t *)ctx)[builtin] && (!custom || custom[0] != '?');
}

int main(void) {
    uint8_t builtins[256];
    uint32_t n;
    if (fread(builtins, 1, sizeof builtins, stdin) != sizeof builtins)
        return 2;
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        struct tflm_model_facts facts;
        uint8_t *model = malloc(n ? n : 1);
        if (!model || fread(model, 1, n, stdin) != n)
            return 2;
        int32_t rc = tflm_model_check(model, n, linked, builtins, &facts);
        fwrite(&rc, sizeof rc, 1, stdout);
        fwrite(&facts.missing, sizeof facts.missing, 1, stdout);
        fwrite(&facts.variables, sizeof facts.variables, 1, stdout);
        free(model);
    }
    return 0;
}
