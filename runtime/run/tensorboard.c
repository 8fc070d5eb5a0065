#include "runtime/run/tensorboard.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "memory/hash.h"

enum { FRAME_HEAD = 12, FRAME_TAIL = 4, MAX_EVENT_FILE = 1 << 30 };

/* ---- protocol buffers: the wire types we need ---- */

static void put_varint(tdm_writer *t, uint64_t v)
{
    char bytes[10];
    size_t n = 0;
    do {
        bytes[n] = (char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
        n++;
    } while (v);
    tdm_writer_put(t, bytes, n);
}

static void put_fixed(tdm_writer *t, uint64_t v, size_t n)
{
    char bytes[8];
    for (size_t i = 0; i < n; i++) bytes[i] = (char)(v >> (8 * i));
    tdm_writer_put(t, bytes, n);
}

static void put_double(tdm_writer *t, int field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_varint(t, (uint64_t)field << 3 | 1);
    put_fixed(t, bits, 8);
}

static void put_bytes(tdm_writer *t, int field, const char *s, size_t len)
{
    put_varint(t, (uint64_t)field << 3 | 2);
    put_varint(t, len);
    tdm_writer_put(t, s, len);
}

static size_t varint_size(uint64_t v)
{
    size_t n = 1;
    while (v >>= 7) n++;
    return n;
}

/* Event.wall_time = 1 (double), Event.step = 2 (int64). */
static void begin_event(tdm_writer *t, int64_t step)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    tdm_writer_clear(t);
    put_double(t, 1, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    if (step > 0) {
        put_varint(t, 2 << 3 | 0);
        put_varint(t, (uint64_t)step);
    }
}

/* Summary.value = 1 { tag = 1 (string), simple_value = 2 (float) } */
static size_t value_size(size_t tag_len) { return 1 + varint_size(tag_len) + tag_len + 1 + 4; }

static void put_value(tdm_writer *t, const char *tag, size_t tag_len, double v)
{
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    put_varint(t, 1 << 3 | 2);
    put_varint(t, value_size(tag_len));
    put_bytes(t, 1, tag, tag_len);
    put_varint(t, 2 << 3 | 5);
    put_fixed(t, bits, 4);
}

/* ---- framing ---- */

static uint32_t masked_crc(const char *data, size_t n)
{
    uint32_t c = tdm_crc32c(0, data, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8U;
}

static tdm_status put_record(tdm_tensorboard *t, tdm_error *err)
{
    tdm_writer *f = &t->frame;
    tdm_writer_clear(f);
    put_fixed(f, t->record.len, 8);
    if (!f->failed) put_fixed(f, masked_crc(f->data, 8), 4);
    tdm_writer_put(f, t->record.data, t->record.len);
    put_fixed(f, masked_crc(t->record.data, t->record.len), 4);
    tdm_status st = tdm_writer_check(t->record.failed ? &t->record : f, t->file.path, err);
    return st != TDM_OK ? st : tdm_file_put(&t->file, f->data, f->len, err);
}

/* ---- cutting old files back ---- */

static uint64_t get_fixed(const char *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)(unsigned char)p[i] << (8 * i);
    return v;
}

static bool get_varint(const char *p, size_t n, size_t *at, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && *at < n; shift += 7) {
        unsigned char c = (unsigned char)p[(*at)++];
        *v |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) return true;
    }
    return false;
}

/* Event.step of one record; 0 when it has none. False: not a message. */
static bool event_step(const char *p, size_t n, int64_t *step)
{
    *step = 0;
    for (size_t at = 0; at < n;) {
        uint64_t key, v;
        if (!get_varint(p, n, &at, &key)) return false;
        size_t skip = 0;
        switch (key & 7) {
        case 0:
            if (!get_varint(p, n, &at, &v)) return false;
            if (key >> 3 == 2) *step = (int64_t)v;
            break;
        case 1: skip = 8; break;
        case 2:
            if (!get_varint(p, n, &at, &v) || v > n - at) return false;
            skip = (size_t)v;
            break;
        case 5: skip = 4; break;
        default: return false;
        }
        if (skip > n - at) return false;
        at += skip;
    }
    return true;
}

/* Bytes at the head of an event file that hold whole records of steps before first_step. */
static size_t kept_bytes(const char *p, size_t n, int64_t first_step)
{
    size_t at = 0;
    while (n - at >= FRAME_HEAD + FRAME_TAIL) {
        uint64_t len = get_fixed(p + at, 8);
        int64_t step = 0;
        if (get_fixed(p + at + 8, 4) != masked_crc(p + at, 8) || len > n - at - FRAME_HEAD - FRAME_TAIL) break;
        const char *record = p + at + FRAME_HEAD;
        if (get_fixed(record + len, 4) != masked_crc(record, (size_t)len) || !event_step(record, (size_t)len, &step)) break;
        if (step >= first_step) break;
        at += FRAME_HEAD + (size_t)len + FRAME_TAIL;
    }
    return at;
}

/* Left behind by a run that was killed while it cut a file back; and in the way when that file is cut back again. */
static bool is_temporary(const char *name)
{
    const size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".tmp") == 0;
}

static tdm_status cut_back(const char *dir, int64_t first_step, tdm_error *err)
{
    tdm_names names = {0};
    tdm_status st = tdm_fs_list(dir, &names, err);
    for (int64_t i = 0; st == TDM_OK && i < names.count; i++) {
        char path[TDM_PATH_BYTES], *data = NULL;
        size_t bytes = 0;
        if (strncmp(names.names[i], "events.out.tfevents.", 20) != 0) continue;
        if ((st = tdm_fs_join(path, dir, names.names[i], err)) != TDM_OK) break;
        if (is_temporary(names.names[i])) {
            st = tdm_fs_remove_tree(path, err);
            continue;
        }
        if ((st = tdm_fs_read(path, MAX_EVENT_FILE, &data, &bytes, err)) != TDM_OK) break;
        size_t kept = kept_bytes(data, bytes, first_step);
        if (kept < bytes) st = tdm_fs_write(path, data, kept, err);
        free(data);
    }
    tdm_names_free(&names);
    return st;
}

/* ---- the log ---- */

/* Readers go through the files in the order of their names, so the time comes first, with a counter for two in one second. */
static tdm_status create(tdm_tensorboard *t, const char *dir, tdm_error *err)
{
    char host[65] = "host", name[160], path[TDM_PATH_BYTES];
    if (gethostname(host, sizeof host - 1) != 0 || !host[0]) snprintf(host, sizeof host, "host");
    for (char *c = host; *c; c++)
        if (*c == '/') *c = '-';
    for (int n = 0;; n++) {
        snprintf(name, sizeof name, "events.out.tfevents.%010lld.%06d.%s.%ld", (long long)time(NULL), n, host, (long)getpid());
        tdm_status st = tdm_fs_join(path, dir, name, err);
        if (st != TDM_OK) return st;
        if (!tdm_fs_is_file(path)) return tdm_file_create(&t->file, path, err);
    }
}

tdm_status tdm_tensorboard_open(tdm_tensorboard *t, const char *dir, int64_t first_step, tdm_error *err)
{
    tdm_status st = TDM_OK;
    memset(t, 0, sizeof *t);
    t->file.fd = -1;
    TDM_TRY(st, tdm_fs_mkdirs(dir, err), fail);
    TDM_TRY(st, cut_back(dir, first_step, err), fail);
    TDM_TRY(st, create(t, dir, err), fail);

    begin_event(&t->record, 0);
    put_bytes(&t->record, 3, "brain.Event:2", 13); /* file_version */
    TDM_TRY(st, put_record(t, err), fail);
    if (first_step > 1) {
        begin_event(&t->record, first_step);
        put_bytes(&t->record, 7, "\x08\x01", 2); /* session_log { status: START } */
        TDM_TRY(st, put_record(t, err), fail);
    }
    return TDM_OK;
fail:
    (void)tdm_tensorboard_close(t, NULL);
    return st;
}

tdm_status tdm_tensorboard_put(tdm_tensorboard *t, const tdm_step_metrics *m, tdm_error *err)
{
    char tag[256];
    size_t summary = 0;
    for (int pass = 0; pass < 2; pass++) { /* the length of the summary stands before it */
        if (pass == 1) {
            begin_event(&t->record, m->step);
            put_varint(&t->record, 5 << 3 | 2); /* summary */
            put_varint(&t->record, summary);
        }
        for (int64_t i = 0; i < TDM_METRIC_COUNT + m->reward_count + m->extra_count; i++) {
            int64_t reward = i - TDM_METRIC_COUNT, extra = reward - m->reward_count;
            if (reward < 0 && !m->set[i]) continue;
            const char *name = reward < 0 ? tdm_metric_infos[i].tag : extra < 0 ? m->reward_names[reward] : m->extra_names[extra];
            double v = reward < 0 ? m->value[i] : extra < 0 ? m->reward_values[reward] : m->extra_values[extra];
            snprintf(tag, sizeof tag, "%s%s", reward >= 0 && extra < 0 ? "reward/" : "", name);
            size_t len = strlen(tag), size = value_size(len);
            if (pass == 0) summary += 1 + varint_size(size) + size;
            else put_value(&t->record, tag, len, v);
        }
    }
    return put_record(t, err);
}

tdm_status tdm_tensorboard_close(tdm_tensorboard *t, tdm_error *err)
{
    tdm_writer_free(&t->record);
    tdm_writer_free(&t->frame);
    return tdm_file_close(&t->file, err);
}
