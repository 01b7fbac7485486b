/* device.c: a whole device on an emulated rv32imc chip: the core, NOR flash in a host file, MQTT
 * over the serial line, the engine and a sensor over a second one.
 *
 * identity.bin (emulated.py writes it, with the boot counter, before each start), all lengths
 * checked: "FCID", 9 x {u16le length, bytes}: device id, firmware version, esp-nn version, broker
 * user, broker secret, operators, roots (32 each), MAC key, installation id; then class id 16,
 * build id 4, MAC kid 4, u8 root threshold, u8 chip, u8 reset reason, 3 x u16 firmware, and u32:
 * boot, least trust version, arena, probation n, probation s, 4 slot capacities.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"
#include "bytes.h"
#include "crypto.h"
#include "device.h"
#include "flash.h"
#include "fleet_core/app.h"
#include "internal.h"
#include "partner.h"
#include "session.h"

#define RING_BYTES 16384u
#define IDLE_MS 2u
#define TEXTS 9u
static const uint8_t OFFLINE[] = {0xA1, 0x00, 0x00};

enum text { T_ID, T_FIRMWARE, T_ESP_NN, T_USER, T_SECRET, T_OPS, T_ROOTS, T_MAC_KEY, T_INST };

static struct device {
    struct fc_core core;
    struct fc_app app[FC_SLOTS];
    _Alignas(4) uint8_t ring[RING_BYTES];
    struct fc_ident ident;
    struct fc_hal hal;
    struct fc_engine engine;
    struct flash flash;
    struct session session;
    struct partner partner;
    uint8_t mac_key[32], keep[64];
    uint8_t reset_reason, wants_drop, wants_reboot;
    uint32_t noise;
    uint64_t next_sample_ms;
    uint32_t shown[6];
    char will_topic[FC_TOPIC_MAX];
} d;

/* --- HAL --------------------------------------------------------------------------------- */

static int hal_read(void *ctx, uint8_t area, uint32_t off, void *dst, uint32_t n) {
    (void)ctx;
    return flash_read(&d.flash, area, off, dst, n);
}

static int hal_program(void *ctx, uint8_t area, uint32_t off, const void *src, uint32_t n) {
    (void)ctx;
    return flash_program(&d.flash, area, off, src, n);
}

static int hal_erase(void *ctx, uint8_t area, uint32_t off) {
    (void)ctx;
    return flash_erase(&d.flash, area, off);
}

static uint32_t hal_capacity(void *ctx, uint8_t area) {
    (void)ctx;
    return area < FC_AREAS ? d.flash.capacity[area] : 0;
}

static int hal_map(void *ctx, uint8_t area, uint32_t off, uint32_t n, const uint8_t **p) {
    (void)ctx;
    *p = flash_map(&d.flash, area, off, n);
    return FC_OK;
}

static void hal_unmap(void *ctx, const uint8_t *p) {
    (void)ctx;
    (void)p;
}

static int hal_mac(void *ctx, const void *msg, size_t n, uint8_t out[32]) {
    (void)ctx;
    return crypto_mac(d.mac_key, msg, n, out);
}

static int hal_send(void *ctx, const char *topic, const uint8_t *p, size_t n, int qos, int retain) {
    (void)ctx;
    return session_send(&d.session, topic, p, n, qos, retain);
}

static int hal_watch(void *ctx, const char *filter, int qos) {
    (void)ctx;
    return session_watch(&d.session, filter, qos);
}

static int hal_unwatch(void *ctx, const char *filter) {
    (void)ctx;
    return session_unwatch(&d.session, filter);
}

static int hal_reconnect(void *ctx) {
    (void)ctx;
    d.wants_drop = 1;
    return FC_OK;
}

static uint64_t hal_clock_ms(void *ctx) {
    (void)ctx;
    return board_uptime_ms();
}

static uint64_t hal_unix_s(void *ctx) {
    (void)ctx;
    return board_unix_s();
}

static uint32_t hal_random(void *ctx) { /* xorshift32: jitter, not a secret */
    (void)ctx;
    d.noise ^= d.noise << 13;
    d.noise ^= d.noise >> 17;
    d.noise ^= d.noise << 5;
    return d.noise;
}

static enum fc_reset hal_reset_reason(void *ctx, uint32_t *raw) {
    (void)ctx;
    *raw = d.reset_reason;
    return (enum fc_reset)d.reset_reason;
}

static uint8_t *hal_keep(void *ctx) {
    (void)ctx;
    return d.keep;
}

static int hal_may_switch(void *ctx) {
    (void)ctx;
    return FC_OK;
}

static uint32_t hal_heap_free(void *ctx) {
    (void)ctx;
    return 200 * 1024;
}

static int hal_rssi(void *ctx) {
    (void)ctx;
    return 0;
}

static void hal_identify(void *ctx) {
    (void)ctx;
    puts("identify");
}

static void hal_reboot(void *ctx) {
    (void)ctx;
    d.wants_reboot = 1;
}

static void hal_log(void *ctx, int level, uint32_t event, uint32_t a, uint32_t b) {
    (void)ctx;
    if (level > 0)
        printf("log %lu %lu %lu\n", (unsigned long)event, (unsigned long)a, (unsigned long)b);
}

static void plug_in(void) {
    partner_engine(&d.partner, &d.engine);
    d.hal = (struct fc_hal){
        .ctx = &d,
        .read = hal_read,
        .program = hal_program,
        .erase = hal_erase,
        .capacity = hal_capacity,
        .map = hal_map,
        .unmap = hal_unmap,
        .digest_begin = crypto_digest_begin,
        .digest_add = crypto_digest_add,
        .digest_end = crypto_digest_end,
        .verify = crypto_verify,
        .mac = hal_mac,
        .send = hal_send,
        .watch = hal_watch,
        .unwatch = hal_unwatch,
        .reconnect = hal_reconnect,
        .clock_ms = hal_clock_ms,
        .unix_s = hal_unix_s,
        .random = hal_random,
        .reset_reason = hal_reset_reason,
        .keep = hal_keep,
        .may_switch = hal_may_switch,
        .heap_free = hal_heap_free,
        .rssi = hal_rssi,
        .identify = hal_identify,
        .reboot = hal_reboot,
        .log = hal_log,
        .engine = &d.engine,
    };
}

/* --- the session's side ------------------------------------------------------------------ */

static void on_up(void *ctx, int fresh) {
    (void)ctx;
    printf("link 1 %d\n", fresh);
    fc_link_set(&d.core, 1, fresh);
}

static void on_down(void *ctx) {
    (void)ctx;
    puts("link 0 0");
    fc_link_set(&d.core, 0, 0);
}

static void on_message(void *ctx, const char *topic, size_t topic_n, const uint8_t *p, size_t n) {
    (void)ctx;
    fc_message_put(&d.core, topic, topic_n, p, n);
}

static void on_sent(void *ctx, int token) {
    (void)ctx;
    fc_sent(&d.core, token);
}

/* --- start ------------------------------------------------------------------------------- */

static const uint8_t *take(const uint8_t **p, const uint8_t *end, size_t n) {
    const uint8_t *at = *p;
    if ((size_t)(end - at) < n)
        board_fail("the identity ends early", (long)n, (long)(end - at));
    *p += n;
    return at;
}

static void read_identity(char *text[TEXTS], uint32_t capacity[FC_AREAS]) {
    uint32_t size = 0, n[TEXTS], v[9];
    const uint8_t *p = board_read_file("identity.bin", &size), *end = p + size;
    if (memcmp(take(&p, end, 4), "FCID", 4) != 0)
        board_fail("not an identity", 0, 0);
    for (uint32_t i = 0; i < TEXTS; i++) {
        n[i] = fc_get16(take(&p, end, 2));
        text[i] = calloc(1, n[i] + 1);
        if (!text[i])
            board_fail("no memory for the identity", (long)n[i], 0);
        memcpy(text[i], take(&p, end, n[i]), n[i]);
    }
    if (n[T_ROOTS] % 32 || n[T_ROOTS] > sizeof d.ident.roots || n[T_MAC_KEY] != 32 ||
        n[T_INST] != 16)
        board_fail("keys of a wrong length", (long)n[T_ROOTS], (long)n[T_MAC_KEY]);
    memcpy(d.ident.roots, text[T_ROOTS], n[T_ROOTS]);
    memcpy(d.mac_key, text[T_MAC_KEY], 32);
    memcpy(d.ident.inst, text[T_INST], 16);
    memcpy(d.ident.class_id, take(&p, end, 16), 16);
    memcpy(d.ident.build_id, take(&p, end, 4), 4);
    memcpy(d.ident.mac_kid, take(&p, end, 4), 4);
    d.ident.n_roots = (uint8_t)(n[T_ROOTS] / 32);
    d.ident.root_threshold = *take(&p, end, 1);
    d.ident.chip = *take(&p, end, 1);
    d.reset_reason = *take(&p, end, 1);
    for (uint32_t i = 0; i < 3; i++)
        d.ident.firmware[i] = fc_get16(take(&p, end, 2));
    for (uint32_t i = 0; i < 9; i++)
        v[i] = fc_get32(take(&p, end, 4));
    d.ident.boot = v[0];
    d.ident.least_trust_version = v[1];
    d.ident.arena_bytes = v[2];
    d.ident.probation_n = v[3];
    d.ident.probation_s = v[4];
    d.ident.device_id = text[T_ID];
    d.ident.firmware_version = text[T_FIRMWARE];
    d.ident.esp_nn = text[T_ESP_NN];
    d.ident.ops = (const uint8_t *)text[T_OPS];
    d.ident.ops_len = n[T_OPS];
    capacity[FC_META] = 8 * FC_SECTOR;
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        capacity[FC_BANK0 + 2 * s] = capacity[FC_BANK0 + 2 * s + 1] = flash_bank_bytes(v[5 + s]);
}

/* 64 bytes that survive a reset we asked for; the runner blanks them when power was lost. */
static void keep_file(int is_saved) {
    int fd = board_open("keep.bin");
    if (fd < 0)
        board_fail("keep.bin is missing", 0, 0);
    if (is_saved)
        board_write_at(fd, 0, d.keep, sizeof d.keep);
    else
        board_read_at(fd, 0, d.keep, sizeof d.keep);
}

static void start(void) {
    uint32_t capacity[FC_AREAS] = {0};
    char *text[TEXTS];
    struct session_owner owner = {&d, on_up, on_down, on_message, on_sent};
    read_identity(text, capacity);
    keep_file(0);
    snprintf(d.will_topic, sizeof d.will_topic, "f1/dev/%s/online", text[T_ID]);
    struct mq_hello hello = {
        .client_id = text[T_ID],
        .user = text[T_USER],
        .secret = text[T_SECRET],
        .will_topic = d.will_topic,
        .will = OFFLINE,
        .will_n = sizeof OFFLINE,
        .keepalive_s = 30,
    };
    d.noise = (uint32_t)board_unix_s() ^ d.ident.boot << 16 ^ 1u;
    flash_open(&d.flash, capacity, "flash.bin");
    d.partner.uart = uart_on_pci();
    session_open(&d.session, uart_onboard(), &hello, &owner);
    plug_in();
    struct fc_memory memory = {.ring = d.ring, .ring_bytes = sizeof d.ring};
    for (uint32_t s = 0; s < FC_SLOTS; s++)
        memory.app[s] = &d.app[s];
    int rc = fc_core_boot(&d.core, &d.hal, &d.ident, &memory);
    if (rc)
        board_fail("the core does not start", rc, 0);
}

/* --- loop -------------------------------------------------------------------------------- */

/* One line whenever slot 0 looks different: what the runner waits for. */
static void show(void) {
    const struct fc_slot *s = &d.core.slot[0];
    uint32_t now[6] = {s->state, s->code, s->have, s->total, d.core.rec.slots[0].phase, s->run_seq};
    if (memcmp(now, d.shown, sizeof now) == 0)
        return;
    memcpy(d.shown, now, sizeof now);
    printf("slot %lu %lu %lu %lu %lu %lu\n", (unsigned long)now[0], (unsigned long)now[1],
           (unsigned long)now[2], (unsigned long)now[3], (unsigned long)now[4],
           (unsigned long)now[5]);
}

static void infer(uint64_t now_ms) {
    static uint16_t scores[FC_CLASSES_MAX];
    struct fc_sample sample;
    if (now_ms < d.next_sample_ms)
        return;
    d.next_sample_ms = now_ms + fc_cfg(&d.core)->period_ms;
    if (!fc_running(&d.core, 0))
        return;
    partner_sense(&d.partner, 0, &sample, scores);
    fc_sample_put(&d.core, &sample);
}

int main(void) {
    start();
    for (;;) {
        uint32_t again = 0;
        int has_worked = session_turn(&d.session, board_uptime_ms());
        fc_core_step(&d.core, &again);
        show();
        infer(board_uptime_ms());
        if (d.wants_drop || d.wants_reboot) {
            d.wants_drop = 0;
            session_drop(&d.session, board_uptime_ms());
        }
        if (d.wants_reboot) {
            keep_file(1);
            board_stop(DEVICE_REBOOT);
        }
        if (!has_worked && again && !session_is_busy(&d.session, board_uptime_ms()))
            board_sleep_ms(again < IDLE_MS ? again : IDLE_MS);
    }
}
