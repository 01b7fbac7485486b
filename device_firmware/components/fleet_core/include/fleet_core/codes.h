/* codes.h: numbers shared with Python, REST and console (SPEC.md section 5).
 *
 * A test parses FC_CODES and compares names and numbers with core.py; a change moves SPEC.md too.
 */
#ifndef FLEET_CORE_CODES_H
#define FLEET_CORE_CODES_H

#define FC_CODES(X)                                                                                \
    X(SIGNATURE, 1)                                                                                \
    X(TRUST, 2)                                                                                    \
    X(EXPIRED, 3)                                                                                  \
    X(SEQUENCE, 4)                                                                                 \
    X(FLOOR, 5)                                                                                    \
    X(TARGET_CLASS, 6)                                                                             \
    X(TOO_LARGE, 7)                                                                                \
    X(ARENA_TOO_SMALL, 8)                                                                          \
    X(OP_MISSING, 9)                                                                               \
    X(SCHEMA, 10)                                                                                  \
    X(IO_CONTRACT, 11)                                                                             \
    X(FIRMWARE_TOO_OLD, 12)                                                                        \
    X(LEAF_LIST, 13)                                                                               \
    X(DIGEST, 14)                                                                                  \
    X(FLASH_IO, 15)                                                                                \
    X(LOAD_FAILED, 16)                                                                             \
    X(SELFTEST_MISMATCH, 17)                                                                       \
    X(LATENCY_BUDGET, 18)                                                                          \
    X(CRASH_LOOP, 19)                                                                              \
    X(WATCHDOG, 20)                                                                                \
    X(NO_LINK, 21)                                                                                 \
    X(LOW_POWER, 22)                                                                               \
    X(LOW_HEAP, 23)                                                                                \
    X(MAINTENANCE_WINDOW, 24)                                                                      \
    X(BUSY, 25)                                                                                    \
    X(UNKNOWN_ACTION, 26)                                                                          \
    X(NOT_IN_BANK, 27)                                                                             \
    X(CONFIG_INVALID, 28)

enum fc_err {
    FC_OK = 0,
#define FC_X(name, number) FC_ERR_##name = -(number),
    FC_CODES(FC_X)
#undef FC_X
        FC_ERR_PORT = -100, /* the port failed in a way that has no code */
    FC_ERR_FULL = -101,     /* the port's outbox is full: ask again */
    FC_ERR_DROP =
        -102, /* a message that is none of ours or not usable now: counted, not reported */
};
#define FC_CODE_MAX 28

enum fc_state {
    FC_ST_IDLE,
    FC_ST_OFFERED,
    FC_ST_MANIFEST_OK,
    FC_ST_DOWNLOADING,
    FC_ST_DOWNLOADED,
    FC_ST_VERIFIED,
    FC_ST_TRIAL,
    FC_ST_CONFIRMED,
    FC_ST_REVERTED,
    FC_ST_REFUSED,
    FC_ST_DEFERRED,
};

enum fc_phase { FC_PH_EMPTY, FC_PH_CONFIRMED, FC_PH_FETCH, FC_PH_TRIAL, FC_PH_PROBATION };

enum fc_reset {
    FC_RST_POWER,
    FC_RST_BROWNOUT,
    FC_RST_PANIC,
    FC_RST_WATCHDOG,
    FC_RST_EXPECTED,
    FC_RST_SLEEP,
};

enum fc_action { FC_ACT_RUN, FC_ACT_RUN_OTHER, FC_ACT_STOP };

/* Flags of a slot in a record; `reported` shows the first two. */
enum fc_slot_flag { FC_FLAG_USABLE = 1, FC_FLAG_STOPPED = 2, FC_FLAG_REVERTING = 4 };

enum fc_event_kind {
    FC_EV_ANOMALY = 1,
    FC_EV_RESET,
    FC_EV_REFUSAL,
    FC_EV_COMMAND,
    FC_EV_TELEMETRY_LOST,
    FC_EV_GOLDEN_MISMATCH,
    FC_EV_CLOCK_STEP,
    FC_EV_LOW_HEAP,
    FC_EV_BROWNOUT,
};

enum fc_verb {
    FC_VERB_IDENTIFY = 1,
    FC_VERB_REBOOT,
    FC_VERB_SELFTEST,
    FC_VERB_RESEND,
    FC_VERB_REPORT,
    FC_VERB_PROBE,   /* when the engine can */
    FC_VERB_CAPTURE, /* when the port can */
    FC_VERB_LAST = FC_VERB_CAPTURE,
};

/* Numbers of log lines: never text, never received bytes. */
enum fc_log {
    FC_LOG_BOOT = 1,  /* a reset reason, b record number */
    FC_LOG_STATE,     /* a slot << 8 | state, b code */
    FC_LOG_REFUSAL,   /* a code, b detail */
    FC_LOG_DROPPED,   /* a reason, b bytes */
    FC_LOG_RECORD,    /* a record number */
    FC_LOG_FLASH,     /* a area, b sector: an operation failed */
    FC_LOG_TRUST,     /* a version */
    FC_LOG_DESIRED,   /* a counter low bits */
    FC_LOG_COMMAND,   /* a verb, b code */
    FC_LOG_SELFTEST,  /* a passed << 16 | n, b largest difference */
    FC_LOG_SEGMENT,   /* a segment, b misses: no chunk came in time */
    FC_LOG_SAFE_MODE, /* a panics in a row */
};

#endif
