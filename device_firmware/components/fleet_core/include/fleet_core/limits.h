/* limits.h: every bound of the core, each with where it comes from. */
#ifndef FLEET_CORE_LIMITS_H
#define FLEET_CORE_LIMITS_H

#define FC_SECTOR 4096u       /* flash erase unit and chunk size */
#define FC_PROGRAM_UNIT 32u   /* program granularity, legal on plain and encrypted flash */
#define FC_SEGMENT 16u        /* chunks per segment topic */
#define FC_CHUNKS_MAX 1023u   /* model + golden blob; SPEC.md section 6 */
#define FC_MODEL_MAX 4186112u /* 1022 chunks */
#define FC_BLOB_MAX 65536u    /* golden blob */
#define FC_INLINE_MAX 1024u   /* manifest key 15 when inline */
#define FC_MSG_MAX 2048u      /* trust, desired, manifest, cmd */
#define FC_LEAVES_MAX 8192u
#define FC_SIGS_MAX 8u
#define FC_REPORTED_MAX 2048u
#define FC_EVENT_MAX 512u
#define FC_TELEMETRY_MAX 1024u
#define FC_DEPTH_MAX 6u /* nested arrays and maps */
#define FC_KEY_MAX 31u  /* largest map key */
#define FC_SLOTS_MAX 4u /* slots that the protocol and a record know */
#ifndef FC_SLOTS
#define FC_SLOTS 4u /* slots this build has, 1..4; the 4 MB partition table has two */
#endif
/* 0: windows, samples, alarms and sketches are left out, and their memory. */
#ifndef FC_TELEMETRY
#define FC_TELEMETRY 1
#endif
#define FC_NAMES 8u /* model names with rollback protection */
#define FC_TENSORS_MAX 8u
#define FC_DIMS_MAX 5u
#define FC_TENSOR_BYTES_MAX 262144u
#define FC_OPS_BYTES_MAX 512u /* linked operators as CBOR; they ride in `reported` */
#define FC_TOPIC_MAX 80u      /* "f1/model/" 16 hex "/127/1022" and "f1/dev/" 32 "/telemetry" fit */
#define FC_HEAD 256u /* before a payload: Sig_structure or MAC_structure with headers and aad */
#define FC_WORK (FC_HEAD + FC_MSG_MAX)
#ifndef FC_DIGEST_BYTES
#define FC_DIGEST_BYTES 128u /* the port's SHA-256 state; libsodium's has 104 bytes */
#endif
#define FC_RING_MIN 2048u    /* two batches of the largest size, nearly */
#define FC_RING_INFLIGHT 8u  /* batches handed to the port and not yet acknowledged */
#define FC_WINDOWS_MAX 16u   /* closed windows that wait for a clock or a link */
#define FC_BATCH_WINDOWS 12u /* 12 * 53 B + names + envelope < FC_TELEMETRY_MAX */
#define FC_EVENTS_MAX 8u
#define FC_EVENT_INTS 4u
#define FC_CLASSES_MAX 256u
#define FC_DECIDE_SCORES 160u /* n x classes of a sliding mean */
#define FC_FEATURES_MAX 32u   /* of a signed distance */
#define FC_CHANNELS_MAX 12u   /* channels whose moments a sketch has */
#define FC_PARAMS_MAX (8u * FC_FEATURES_MAX + 8u * FC_CHANNELS_MAX)
#define FC_PICKS_MAX 8u  /* sampled inferences that wait */
#define FC_EXTRAS_MAX 4u /* of them, a window: picked for their margin or anomaly */
#define FC_TIMES_MAX 32u /* self-test timings kept for the median */

#define FC_QUIET_MS 10000u  /* no chunk for so long: a miss */
#define FC_MISSES_SINGLE 3u /* misses after which chunks are asked for one by one */
#define FC_BACKOFF_MAX_MS 60000u
#define FC_TRIES_MAX 3u         /* bad leaf lists, failed programs, bad manifests */
#define FC_ATTEMPTS_MAX 2u      /* panics in trial or probation before the revert */
#define FC_CUTS_MAX 16u         /* power losses in trial or probation before the revert */
#define FC_PANICS_SAFE 3u       /* panics in a row before safe mode */
#define FC_STABLE_MS 300000u    /* uptime after which panics in a row are forgotten */
#define FC_NO_LINK_MS 21600000u /* probation without an acknowledged report: 6 h */
#define FC_NO_LINK_TRIES 3u     /* times that a candidate without a link is tried again */
#define FC_PROGRESS_MS 500u     /* at most two progress reports a second */
#define FC_DEFER_MS 2000u       /* between two looks at a deferred switch */
#define FC_RETRY_MS 1000u       /* after a failed flash write or a full outbox */
#define FC_DT_MAX 86400000u     /* of a record, ms */
#define FC_ALARM_MS 60000u      /* at most one anomaly event a minute */

_Static_assert(FC_MODEL_MAX == (FC_CHUNKS_MAX - 1u) * FC_SECTOR, "limit follows from the chunks");
_Static_assert(8u * FC_CHUNKS_MAX <= FC_LEAVES_MAX, "leaf list of the largest artifact");
_Static_assert(FC_SECTOR % FC_PROGRAM_UNIT == 0, "a sector is whole program units");
_Static_assert(FC_SLOTS >= 1 && FC_SLOTS <= FC_SLOTS_MAX, "slots of a record");
_Static_assert(FC_MSG_MAX + 4u <= FC_SECTOR, "a stored document fits its sector");

#endif
