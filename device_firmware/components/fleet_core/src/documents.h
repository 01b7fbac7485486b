/* documents.h (private): parsers of signed payloads and the checks that need no device state. */
#ifndef FLEET_CORE_SRC_DOCUMENTS_H
#define FLEET_CORE_SRC_DOCUMENTS_H

#include "cbor.h"
#include "cose.h"
#include "fleet_core/core.h"

/* Trust payload. FC_ERR_SCHEMA for its form, FC_ERR_TRUST for numbers of keys, thresholds or keys
 * that no device may live under. */
int fc_trust_parse(const struct fc_hal *hal, const uint8_t *p, size_t n, struct fc_trust *out);

/* Manifest payload that begins `at` bytes into its message; model may be NULL: FC_ERR_SCHEMA,
 * FC_ERR_TOO_LARGE (no device could hold it), FC_ERR_IO_CONTRACT (vectors or hints that do not
 * fit). m->id is the caller's, filled before. */
int fc_manifest_parse(const uint8_t *p, size_t n, uint32_t at, struct fc_manifest *out,
                      struct fc_model *model);

/* Manifest key 21 at the cursor; params may be NULL. 0, or 1 = well-formed, but no device could run
 * a model so (io_contract). A malformed one leaves the cursor's error. */
int fc_hints_parse(struct fc_in *in, struct fc_manifest *m, struct fc_params *params);

/* The manifest payload names our class. FC_ERR_TARGET_CLASS */
int fc_class_check(const uint8_t *p, size_t n, const uint8_t class_id[16]);

/* A linked operator list is well-formed and sorted. FC_ERR_SCHEMA */
int fc_ops_valid(const uint8_t *ops, size_t ops_len);

/* Every operator the manifest payload lists is linked. FC_ERR_OP_MISSING, *detail = builtin code.
 */
int fc_ops_check(const uint8_t *p, size_t n, const uint8_t *ops, size_t ops_len, uint32_t *detail);

/* One golden vector at the cursor against the tensors; buffers point into the cursor's bytes:
 * inputs, then outputs at FC_TENSORS_MAX. bufs may be NULL. */
int fc_vector_parse(struct fc_in *in, const struct fc_manifest *m,
                    struct fc_buf bufs[2 * FC_TENSORS_MAX]);

/* All vectors of a golden blob: FC_ERR_SCHEMA or FC_ERR_IO_CONTRACT. */
int fc_blob_check(const struct fc_manifest *m, const uint8_t *p, size_t n);

/* Desired payload; `before` = the configuration in force, for values out of range. FC_ERR_SCHEMA,
 * FC_ERR_SEQUENCE (counter of another trust version), FC_ERR_UNKNOWN_ACTION. */
int fc_desired_parse(const uint8_t *p, size_t n, const char *device_id,
                     const struct fc_config *before, struct fc_desired *out);
void fc_config_default(struct fc_config *config);

/* Command payload: FC_ERR_SCHEMA, FC_ERR_SEQUENCE, FC_ERR_SIGNATURE (another device). */
int fc_command_parse(const uint8_t *p, size_t n, const char *device_id, struct fc_command *out);

#endif
