/* The resolved recipe as YAML, walking the tables in order. Every text is quoted, so nothing is read back as something else. */
#include "runtime/recipe/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct out { /* grows with malloc; after a failure everything is skipped */
    char *data;
    size_t len, room;
    bool failed;
};

static void put(struct out *o, const char *s, size_t len)
{
    if (o->failed) return;
    if (o->len + len + 1 > o->room) {
        const size_t room = 2 * (o->len + len + 512);
        char *data = realloc(o->data, room);
        if (!data) {
            o->failed = true;
            return;
        }
        o->data = data;
        o->room = room;
    }
    memcpy(o->data + o->len, s, len);
    o->len += len;
    o->data[o->len] = 0;
}

static void print(struct out *o, const char *fmt, ...) TDM_PRINTF(2, 3);
static void print(struct out *o, const char *fmt, ...)
{
    char text[256];
    va_list args;
    va_start(args, fmt);
    const int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    TDM_ASSERT(len >= 0 && (size_t)len < sizeof text);
    put(o, text, (size_t)len);
}

/* The code point at s, from UTF-8 the YAML reader has checked. */
static uint32_t code_point(const char *s, int *bytes)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return *bytes = 1, u[0];
    if (u[0] < 0xe0) return *bytes = 2, (uint32_t)(u[0] & 31) << 6 | (u[1] & 63);
    if (u[0] < 0xf0) return *bytes = 3, (uint32_t)(u[0] & 15) << 12 | (uint32_t)(u[1] & 63) << 6 | (u[2] & 63);
    return *bytes = 4, (uint32_t)(u[0] & 7) << 18 | (uint32_t)(u[1] & 63) << 12 | (uint32_t)(u[2] & 63) << 6 | (u[3] & 63);
}

/* What YAML cannot hold as itself, or folds: controls, its own line breaks, the byte order mark, non-characters. */
static bool must_escape(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff;
}

static void put_text(struct out *o, const char *s)
{
    put(o, "\"", 1);
    while (*s) {
        int bytes;
        const uint32_t c = code_point(s, &bytes);
        if (c == '"' || c == '\\')
            print(o, "\\%c", (int)c);
        else if (c == '\n')
            put(o, "\\n", 2);
        else if (must_escape(c))
            print(o, "\\u%04x", c);
        else
            put(o, s, (size_t)bytes);
        s += bytes;
    }
    put(o, "\"", 1);
}

/* The shortest digits that read back to the same double. */
static void put_number(struct out *o, double v)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    put(o, text, strlen(text));
}

static void put_size(struct out *o, int64_t bytes)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    if (!bytes) {
        put(o, "auto", 4);
        return;
    }
    while (u < 4 && bytes % 1024 == 0) bytes /= 1024, u++;
    print(o, "%lld%s", (long long)bytes, units[u]);
}

static void put_kv(struct out *o, const void *field)
{
    const tdm_recipe_memory *m = (const tdm_recipe_memory *)((const char *)field - offsetof(tdm_recipe_memory, kv_bytes));
    if (m->kv_dtype == TDM_DTYPE_E4M3)
        put(o, "fp8", 3);
    else
        put_size(o, m->kv_bytes);
}

static void put_list(struct out *o, const tdm_key *k, const void *field)
{
    const tdm_strings *texts = field;
    const tdm_numbers *numbers = field;
    const bool *target = field;
    int64_t n = 0;
    put(o, "[", 1);
    if (k->type == TDM_KEY_TEXTS)
        for (; n < texts->count; n++) put(o, ", ", n ? 2 : 0), put_text(o, texts->items[n]);
    if (k->type == TDM_KEY_NUMBERS)
        for (; n < numbers->count; n++) print(o, "%s%lld", n ? ", " : "", (long long)numbers->items[n]);
    if (k->type == TDM_KEY_TARGETS)
        for (int p = 0; p < TDM_PROJ_COUNT; p++)
            if (target[p]) print(o, "%s%s", n++ ? ", " : "", tdm_target_names[p]);
    if (k->type == TDM_KEY_BETAS)
        for (; n < 2; n++) put(o, ", ", n ? 2 : 0), put_number(o, ((const double *)field)[n]);
    put(o, "]", 1);
}

static void put_value(struct out *o, const tdm_key *k, const void *base)
{
    const void *field = (const char *)base + k->offset;
    const char *text;
    switch (k->type) {
    case TDM_KEY_BOOL: print(o, "%s", *(const bool *)field ? "true" : "false"); break;
    case TDM_KEY_INT: print(o, "%lld", (long long)*(const int64_t *)field); break;
    case TDM_KEY_FLOAT: put_number(o, *(const double *)field); break;
    case TDM_KEY_ENUM: print(o, "%s", k->names[*(const int *)field]); break;
    case TDM_KEY_SIZE: put_size(o, *(const int64_t *)field); break;
    case TDM_KEY_KV: put_kv(o, field); break;
    case TDM_KEY_TEXT:
        text = *(const char *const *)field;
        if (text[0])
            put_text(o, text);
        else
            put(o, "null", 4);
        break;
    default: put_list(o, k, field);
    }
}

const char *tdm_key_show(const tdm_key *k, const void *base, char buf[64])
{
    struct out o = {0};
    put_value(&o, k, base);
    size_t len = o.len < 60 ? o.len : 57;
    while (o.len >= 60 && len > 0 && ((unsigned char)o.data[len] & 0xc0) == 0x80) len--;
    snprintf(buf, 64, "%.*s%s", (int)len, o.data ? o.data : "", o.len >= 60 ? "..." : "");
    free(o.data);
    return buf;
}

static void put_rewards(struct out *o, const tdm_recipe *r)
{
    print(o, r->reward_count ? "reward:\n" : "reward: []\n");
    for (int64_t i = 0; i < r->reward_count; i++) {
        const tdm_recipe_reward *w = &r->reward[i];
        const char *lead = "  - ";
        for (int k = 0; k < tdm_reward_keys.count; k++) {
            const tdm_key *key = &tdm_reward_keys.keys[k];
            if (key->kinds && !(key->kinds & (1u << w->kind))) continue;
            print(o, "%s%s: ", lead, key->path);
            put_value(o, key, w);
            put(o, "\n", 1);
            lead = "    ";
        }
    }
}

static void put_sources(struct out *o, const tdm_recipe *r)
{
    for (int64_t i = 0; i < r->data.source_count; i++)
        for (int k = 0; k < tdm_source_keys.count; k++) {
            print(o, "\n    %s%s: ", k ? "  " : "- ", tdm_source_keys.keys[k].path);
            put_value(o, &tdm_source_keys.keys[k], &r->data.source[i]);
        }
}

/* Opens the sections of path that `last` is not in, and prints the key's own name, indented. */
static void put_key(struct out *o, const char *path, const char *last)
{
    int indent = 0;
    bool same = true;
    for (const char *dot; (dot = strchr(path, '.')); path = dot + 1, indent += 2) {
        const size_t len = (size_t)(dot - path) + 1;
        same = same && strncmp(last, path, len) == 0;
        if (same)
            last += len;
        else
            print(o, "%*s%.*s:\n", indent, "", (int)len - 1, path);
    }
    print(o, "%*s%s: ", indent, "", path);
}

tdm_status tdm_recipe_text(const tdm_recipe *r, char **text, size_t *len, tdm_error *err)
{
    struct out o = {0};
    const char *last = "";
    print(&o, "# Every key, as this run resolved it.\n");
    for (int i = 0; i < tdm_recipe_keys.count; i++) {
        const tdm_key *k = &tdm_recipe_keys.keys[i];
        if (strcmp(k->path, "train.algorithm") == 0) put_rewards(&o, r); /* where design and docs have them */
        put_key(&o, k->path, last);
        if (r->store->source_list && strcmp(k->path, "data.train") == 0) put_sources(&o, r);
        else put_value(&o, k, r);
        put(&o, "\n", 1);
        last = k->path;
    }
    if (o.failed) {
        free(o.data);
        return TDM_FAIL(err, TDM_ERR_OTHER, "", "free some memory", "out of memory while writing the recipe");
    }
    *text = o.data;
    *len = o.len;
    return TDM_OK;
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len) {
        const ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        data += n;
        len -= (size_t)n;
    }
    return fsync(fd);
}

/* A rename is on disk when its folder is. */
static int sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    if (!folder) return -1;
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = -1;
    if (fd >= 0) {
        rc = fsync(fd);
        close(fd);
    }
    free(folder);
    return rc;
}

tdm_status tdm_recipe_write(const tdm_recipe *r, const char *path, tdm_error *err)
{
    char *text = NULL, *beside = NULL; /* owned here */
    size_t len = 0;
    int fd = -1;
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_recipe_text(r, &text, &len, err), done);
    if (asprintf(&beside, "%s.writing", path) < 0) {
        beside = NULL;
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, "free some memory", "out of memory while writing the recipe");
        goto done;
    }
    fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int rc = fd < 0 ? -1 : write_all(fd, text, len);
    if (fd >= 0 && close(fd) != 0) rc = -1;
    if (rc == 0) rc = rename(beside, path);
    if (rc == 0) rc = sync_folder(path);
    if (rc != 0) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, "is the folder there, writable, and not full?", "cannot write the recipe: %s", strerror(errno));
        if (fd >= 0) unlink(beside);
    }
done:
    free(beside);
    free(text);
    return st;
}
