/* YAML nodes into typed fields. */
#include "runtime/recipe/schema.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool digit(char c) { return c >= '0' && c <= '9'; }

/* YAML 1.1 reads 1e-5 (no dot) as text, and 010 as eight; people mean numbers, and nobody means eight. */
bool tdm_number_read(const char *text, double *out)
{
    const char *p = text + (*text == '-' || *text == '+');
    const char *whole = p;
    while (digit(*p)) p++;
    bool any = p > whole;
    if (p - whole > 1 && *whole == '0') return false;
    if (*p == '.') {
        const char *part = ++p;
        while (digit(*p)) p++;
        any = any || p > part;
    }
    if (!any) return false;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        if (!digit(*p)) return false;
        while (digit(*p)) p++;
    }
    if (*p) return false;
    *out = strtod(text, NULL);
    return isfinite(*out);
}

bool tdm_integer_read(const char *text, int64_t *out)
{
    const char *p = text + (*text == '-' || *text == '+');
    if (!digit(*p) || (*p == '0' && p[1])) return false;
    for (const char *q = p; *q; q++)
        if (!digit(*q)) return false;
    errno = 0;
    const long long v = strtoll(text, NULL, 10);
    *out = v;
    return errno == 0;
}

bool tdm_size_read(const char *text, int64_t *out)
{
    static const struct { const char *unit; double bytes; } units[] = {
        {"", 1}, {"B", 1}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
        {"KB", 1e3}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
    };
    char figure[32];
    const size_t len = strspn(text, "0123456789.");
    double value;
    if (len == 0 || len >= sizeof figure) return false;
    memcpy(figure, text, len);
    figure[len] = 0;
    if (!tdm_number_read(figure, &value)) return false;
    const char *unit = text + len + strspn(text + len, " ");
    for (size_t i = 0; i < TDM_COUNT(units); i++) {
        if (strcmp(unit, units[i].unit) != 0) continue;
        value *= units[i].bytes;
        if (value > 9e18 || (unit[0] == 0 && strchr(figure, '.'))) return false;
        *out = (int64_t)value;
        return true;
    }
    return false;
}

struct reading {
    const tdm_key *k;
    const char *name;
    const tdm_yaml_node *n;
    tdm_pool *pool;
    void *field;
    tdm_error *err;
};

static tdm_status wrong_type(const struct reading *r, const tdm_yaml_node *n, const char *wants, const char *hint)
{
    char show[64];
    return TDM_YAML_FAIL(r->err, n, hint, "%s wants %s, found %s", r->name, wants, tdm_yaml_show(n, show));
}

static tdm_status out_of_memory(const struct reading *r)
{
    return TDM_FAIL(r->err, TDM_ERR_OTHER, r->name, "free some memory", "out of memory while reading the recipe");
}

static tdm_status check_range(const struct reading *r, const tdm_yaml_node *n, double v)
{
    const tdm_key *k = r->k;
    const bool low = (k->flags & TDM_KEY_ABOVE_MIN) ? v <= k->min : v < k->min;
    const bool high = (k->flags & TDM_KEY_BELOW_MAX) ? v >= k->max : v > k->max;
    if (!low && !high) return TDM_OK;
    char range[96], hint[128], show[64];
    snprintf(hint, sizeof hint, "the default is %s", k->fallback);
    return TDM_YAML_FAIL(r->err, n, hint, "%s is %s, the range is %s", r->name, tdm_yaml_show(n, show), tdm_key_range(k, range));
}

static bool plain_scalar(const tdm_yaml_node *n)
{
    return n->kind == TDM_YAML_SCALAR && n->plain;
}

static tdm_status read_number(const struct reading *r, const tdm_yaml_node *n, double *out)
{
    const bool number = n->kind == TDM_YAML_SCALAR && tdm_number_read(n->text, out);
    if (number && !n->plain) return wrong_type(r, n, "a number", "remove the quotes");
    if (!number) return wrong_type(r, n, "a number", "write digits, as in 0.5 or 1e-5");
    return check_range(r, n, *out);
}

static tdm_status read_integer(const struct reading *r, const tdm_yaml_node *n, int64_t *out)
{
    const bool whole = n->kind == TDM_YAML_SCALAR && tdm_integer_read(n->text, out);
    if (whole && !n->plain) return wrong_type(r, n, "a whole number", "remove the quotes");
    if (!whole) return wrong_type(r, n, "a whole number", "write digits only, without leading zeros");
    return check_range(r, n, (double)*out);
}

static tdm_status read_bool(const struct reading *r, bool *out)
{
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (size_t i = 0; plain_scalar(r->n) && i < TDM_COUNT(yes); i++) {
        if (strcasecmp(r->n->text, yes[i]) == 0) return *out = true, TDM_OK;
        if (strcasecmp(r->n->text, no[i]) == 0) return *out = false, TDM_OK;
    }
    return wrong_type(r, r->n, "true or false", "write it without quotes");
}

static tdm_status read_text(const struct reading *r, const tdm_yaml_node *n, const char **out)
{
    if (n->kind != TDM_YAML_SCALAR)
        return wrong_type(r, n, "a text", n->kind == TDM_YAML_MAP ? "put quotes around it, as in \"{answer}\"" : "write one text");
    const bool none = (r->k->flags & TDM_KEY_NONE) && strcmp(n->text, "none") == 0;
    *out = tdm_pool_text(r->pool, n->text, none || tdm_yaml_is_null(n) ? 0 : strlen(n->text));
    if (!*out) return out_of_memory(r);
    if ((r->k->flags & TDM_KEY_REQUIRED) && !(*out)[0]) return wrong_type(r, n, "a text", "write a value");
    return TDM_OK;
}

static void join(const char *const *names, char *out, size_t room)
{
    size_t used = 0;
    out[0] = 0;
    for (; *names && used < room; names++) used += (size_t)snprintf(out + used, room - used, "%s%s", used ? ", " : "", *names);
}

static tdm_status read_word(const struct reading *r, const tdm_yaml_node *n, const char *const *names, int *out)
{
    if (n->kind == TDM_YAML_SCALAR)
        for (int i = 0; names[i]; i++)
            if (strcmp(n->text, names[i]) == 0) return *out = i, TDM_OK;
    char list[160], wants[176], hint[96], show[64];
    join(names, list, sizeof list);
    if (n->kind != TDM_YAML_SCALAR || tdm_yaml_is_null(n)) {
        snprintf(wants, sizeof wants, "one of %s", list);
        return wrong_type(r, n, wants, "write one of these words");
    }
    const char *near = tdm_word_nearest(n->text, names);
    if (near)
        snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    else
        snprintf(hint, sizeof hint, "write one of these words");
    return TDM_YAML_FAIL(r->err, n, hint, "%s is %s, not one of %s", r->name, tdm_yaml_show(n, show), list);
}

/* "8G" is 2^30 to some and 10^9 to others. */
static tdm_status read_size(const struct reading *r, int64_t *out)
{
    const tdm_yaml_node *n = r->n;
    *out = 0;
    if (n->kind == TDM_YAML_SCALAR && strcmp(n->text, "auto") == 0) return TDM_OK;
    if (n->kind != TDM_YAML_SCALAR || !tdm_size_read(n->text, out))
        return wrong_type(r, n, r->k->type == TDM_KEY_KV ? "auto, bf16, fp8 or a size" : "auto or a size", "write it as in 8GiB, 512MiB or 8GB");
    if ((double)*out >= r->k->min && (double)*out <= r->k->max) return TDM_OK;
    char show[64];
    return TDM_YAML_FAIL(r->err, n, "write it as in 8GiB, 512MiB or 8GB, or auto", "%s is %s, the range is %lldKiB to 900TiB", r->name,
                         tdm_yaml_show(n, show), (long long)r->k->min >> 10);
}

static tdm_status read_kv(const struct reading *r)
{
    tdm_recipe_memory *m = (tdm_recipe_memory *)((char *)r->field - offsetof(tdm_recipe_memory, kv_bytes));
    const bool word = r->n->kind == TDM_YAML_SCALAR;
    const bool fp8 = word && strcmp(r->n->text, "fp8") == 0;
    m->kv_dtype = fp8 ? TDM_DTYPE_E4M3 : TDM_DTYPE_BF16;
    m->kv_bytes = 0;
    return fp8 || (word && strcmp(r->n->text, "bf16") == 0) ? TDM_OK : read_size(r, &m->kv_bytes);
}

static tdm_status expect_list(const struct reading *r, const char *wants, const char *hint)
{
    return r->n->kind == TDM_YAML_LIST ? TDM_OK : wrong_type(r, r->n, wants, hint);
}

static tdm_status read_texts(const struct reading *r, tdm_strings *out)
{
    tdm_status st = expect_list(r, "a list of texts", "write [\"first\", \"second\"]");
    if (st != TDM_OK) return st;
    const char **items = tdm_pool_take(r->pool, ((size_t)r->n->count + 1) * sizeof *items);
    if (!items) return out_of_memory(r);
    for (int64_t i = 0; i < r->n->count && st == TDM_OK; i++) {
        st = read_text(r, r->n->items[i], &items[i]);
        if (st == TDM_OK && !items[i][0]) st = wrong_type(r, r->n->items[i], "texts that are not empty", "write a text, or remove the entry");
    }
    *out = (tdm_strings){items, r->n->count};
    return st;
}

static tdm_status read_numbers(const struct reading *r, tdm_numbers *out)
{
    tdm_status st = expect_list(r, "a list of whole numbers", "write [1, 2]");
    if (st != TDM_OK) return st;
    int64_t *items = tdm_pool_take(r->pool, ((size_t)r->n->count + 1) * sizeof *items);
    if (!items) return out_of_memory(r);
    for (int64_t i = 0; i < r->n->count && st == TDM_OK; i++) st = read_integer(r, r->n->items[i], &items[i]);
    *out = (tdm_numbers){items, r->n->count};
    return st;
}

/* The last two are what some models have as one matrix: all parts of it, in any model. */
const char *const tdm_target_names[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj", NULL};
static_assert(TDM_COUNT(tdm_target_names) == TDM_PROJ_COUNT + 3 && TDM_PROJ_DOWN == 6, "one name for each projection, in order");

static void add_target(bool *target, int named)
{
    if (named < TDM_PROJ_COUNT) target[named] = true;
    else if (named == TDM_PROJ_COUNT) target[TDM_PROJ_Q] = target[TDM_PROJ_K] = target[TDM_PROJ_V] = true;
    else target[TDM_PROJ_GATE] = target[TDM_PROJ_UP] = true;
}

static tdm_status read_targets(const struct reading *r, bool *target)
{
    tdm_status st = expect_list(r, "a list of projections", "write [q_proj, v_proj]");
    for (int p = 0; p < TDM_PROJ_COUNT; p++) target[p] = false;
    for (int64_t i = 0; st == TDM_OK && i < r->n->count; i++) {
        int p = 0;
        if ((st = read_word(r, r->n->items[i], tdm_target_names, &p)) == TDM_OK) add_target(target, p);
    }
    if (st == TDM_OK && r->n->count == 0) st = wrong_type(r, r->n, "at least one projection", "an adapter on nothing learns nothing");
    return st;
}

static tdm_status read_betas(const struct reading *r, double *betas)
{
    char hint[96];
    snprintf(hint, sizeof hint, "write %s", r->k->fallback);
    tdm_status st = expect_list(r, "two numbers", hint);
    if (st == TDM_OK && r->n->count != 2)
        st = TDM_YAML_FAIL(r->err, r->n, hint, "%s wants two numbers, found %lld", r->name, (long long)r->n->count);
    for (int i = 0; i < 2 && st == TDM_OK; i++) st = read_number(r, r->n->items[i], &betas[i]);
    return st;
}

tdm_status tdm_key_read(const tdm_key *k, const char *name, const tdm_yaml_node *n, tdm_pool *pool, void *base, tdm_error *err)
{
    const struct reading r = {k, name, n, pool, (char *)base + k->offset, err};
    switch (k->type) {
    case TDM_KEY_BOOL: return read_bool(&r, r.field);
    case TDM_KEY_INT: return read_integer(&r, n, r.field);
    case TDM_KEY_FLOAT: return read_number(&r, n, r.field);
    case TDM_KEY_TEXT: return read_text(&r, n, r.field);
    case TDM_KEY_ENUM: return read_word(&r, n, k->names, r.field);
    case TDM_KEY_SIZE: return read_size(&r, r.field);
    case TDM_KEY_KV: return read_kv(&r);
    case TDM_KEY_TEXTS: return read_texts(&r, r.field);
    case TDM_KEY_NUMBERS: return read_numbers(&r, r.field);
    case TDM_KEY_TARGETS: return read_targets(&r, r.field);
    case TDM_KEY_BETAS: return read_betas(&r, r.field);
    }
    TDM_ASSERT(!"every key type is read");
    return TDM_ERR_OTHER;
}
