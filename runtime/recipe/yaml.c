#include "runtime/recipe/yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

struct reader {
    yaml_parser_t parser;
    tdm_pool *pool;
    const tdm_yaml_source *source;
    const char *text;
    size_t len;
    int64_t nodes;
    tdm_error *err;
};

const char *tdm_yaml_where(const tdm_yaml_source *s, int64_t line, int64_t column, char buf[TDM_YAML_WHERE])
{
    if (s->lines)
        snprintf(buf, TDM_YAML_WHERE, "%s:%lld:%lld", s->name, (long long)line, (long long)column);
    else
        snprintf(buf, TDM_YAML_WHERE, "%s", s->name);
    return buf;
}

static tdm_status out_of_memory(tdm_error *err, const tdm_yaml_source *s)
{
    return TDM_FAIL(err, TDM_ERR_OTHER, s->name, "free some memory", "out of memory while reading the recipe");
}

static tdm_status fail_at(struct reader *r, int64_t line, int64_t column, const char *hint, const char *what)
{
    char where[TDM_YAML_WHERE];
    return TDM_FAIL(r->err, TDM_ERR_RECIPE, tdm_yaml_where(r->source, line, column, where), hint, "%s", what);
}

/* A byte that is no UTF-8 is known to libyaml by its offset only. */
static tdm_status fail_bytes(struct reader *r)
{
    int64_t line = 1, column = 1;
    for (size_t i = 0; i < r->len && i < r->parser.problem_offset; i++) {
        if (r->text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)r->text[i] & 0xc0) != 0x80) {
            column++;
        }
    }
    return fail_at(r, line, column, "save the file as UTF-8 text", "not UTF-8 text");
}

static tdm_status next_event(struct reader *r, yaml_event_t *e)
{
    if (yaml_parser_parse(&r->parser, e)) return TDM_OK;
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR) return out_of_memory(r->err, r->source);
    if (p->error == YAML_READER_ERROR) return fail_bytes(r);
    char what[200];
    snprintf(what, sizeof what, "not valid YAML: %s%s%s", p->problem ? p->problem : "unknown problem", p->context ? ", " : "",
             p->context ? p->context : "");
    return fail_at(r, (int64_t)p->problem_mark.line + 1, (int64_t)p->problem_mark.column + 1, "check quotes, colons and indentation", what);
}

tdm_yaml_node *tdm_yaml_node_new(tdm_pool *pool, tdm_yaml_kind kind, const tdm_yaml_source *source, tdm_error *err)
{
    tdm_yaml_node *n = tdm_pool_take(pool, sizeof *n);
    if (!n) {
        out_of_memory(err, source);
        return NULL;
    }
    n->kind = kind;
    n->source = source;
    n->line = n->column = 1;
    n->text = "";
    return n;
}

tdm_status tdm_yaml_append(tdm_pool *pool, tdm_yaml_node *parent, tdm_yaml_node *key, tdm_yaml_node *item, tdm_error *err)
{
    if (parent->count == parent->room) {
        const int64_t room = parent->room ? 2 * parent->room : 8;
        tdm_yaml_node **both = tdm_pool_take(pool, 2 * (size_t)room * sizeof *both);
        if (!both) return out_of_memory(err, parent->source);
        if (parent->count) {
            memcpy(both, parent->items, (size_t)parent->count * sizeof *both);
            memcpy(both + room, parent->keys, (size_t)parent->count * sizeof *both);
        }
        parent->items = both;
        parent->keys = both + room;
        parent->room = room;
    }
    parent->items[parent->count] = item;
    parent->keys[parent->count++] = key;
    return TDM_OK;
}

int64_t tdm_yaml_find(const tdm_yaml_node *map, const char *key)
{
    for (int64_t i = 0; i < map->count; i++)
        if (strcmp(map->keys[i]->text, key) == 0) return i;
    return -1;
}

bool tdm_yaml_is_null(const tdm_yaml_node *n)
{
    return n->kind == TDM_YAML_SCALAR && n->plain && (!n->text[0] || strcmp(n->text, "~") == 0 || strcasecmp(n->text, "null") == 0);
}

const char *tdm_yaml_show(const tdm_yaml_node *n, char buf[64])
{
    if (n->kind != TDM_YAML_SCALAR) {
        snprintf(buf, 64, "a %s", n->kind == TDM_YAML_MAP ? "mapping" : "list");
    } else if (tdm_yaml_is_null(n)) {
        snprintf(buf, 64, "nothing");
    } else {
        size_t len = strlen(n->text);
        const bool cut = len > 40;
        if (cut)
            for (len = 40; len > 0 && ((unsigned char)n->text[len] & 0xc0) == 0x80; len--) {}
        snprintf(buf, 64, n->plain ? "%.*s%s" : "\"%.*s%s\"", (int)len, n->text, cut ? "..." : "");
    }
    return buf;
}

/* Anchors and tags make a value mean something else than what stands there; a recipe is read by people. */
static tdm_status refuse_decoration(struct reader *r, const yaml_event_t *e, const yaml_char_t *anchor, const yaml_char_t *tag)
{
    const int64_t line = (int64_t)e->start_mark.line + 1, column = (int64_t)e->start_mark.column + 1;
    if (anchor) return fail_at(r, line, column, "write the value out", "anchors are not allowed in a recipe");
    if (tag) return fail_at(r, line, column, "remove the tag", "tags are not allowed in a recipe");
    return TDM_OK;
}

static tdm_status node_at(struct reader *r, const yaml_event_t *e, tdm_yaml_kind kind, tdm_yaml_node **out)
{
    const int64_t line = (int64_t)e->start_mark.line + 1, column = (int64_t)e->start_mark.column + 1;
    if (++r->nodes > TDM_YAML_NODES) return fail_at(r, line, column, "a recipe is a page or two", "more than 10000 values in a recipe");
    *out = tdm_yaml_node_new(r->pool, kind, r->source, r->err);
    if (!*out) return TDM_ERR_OTHER;
    (*out)->line = line;
    (*out)->column = column;
    return TDM_OK;
}

static tdm_status read_scalar(struct reader *r, const yaml_event_t *e, tdm_yaml_node **out)
{
    tdm_status st;
    const char *value = (const char *)e->data.scalar.value;
    const size_t len = e->data.scalar.length;
    TDM_TRY(st, node_at(r, e, TDM_YAML_SCALAR, out), done);
    TDM_TRY(st, refuse_decoration(r, e, e->data.scalar.anchor, e->data.scalar.tag), done);
    if (memchr(value, 0, len)) {
        st = fail_at(r, (*out)->line, (*out)->column, "remove the \\0", "NUL byte in a text");
        goto done;
    }
    (*out)->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    (*out)->text = tdm_pool_text(r->pool, value, len);
    if (!(*out)->text) st = out_of_memory(r->err, r->source);
done:
    return st;
}

static tdm_status read_node(struct reader *r, const yaml_event_t *e, int depth, tdm_yaml_node **out);

static tdm_status read_key(struct reader *r, const yaml_event_t *e, const tdm_yaml_node *map, tdm_yaml_node **key)
{
    const int64_t line = (int64_t)e->start_mark.line + 1, column = (int64_t)e->start_mark.column + 1;
    if (e->type != YAML_SCALAR_EVENT && e->type != YAML_ALIAS_EVENT)
        return fail_at(r, line, column, "quote a text that starts with { or [", "a key must be a word");
    tdm_status st = read_node(r, e, 0, key);
    if (st != TDM_OK) return st;
    if ((*key)->plain && strcmp((*key)->text, "<<") == 0)
        return fail_at(r, line, column, "write the keys out", "merge keys are not allowed in a recipe");
    const int64_t before = tdm_yaml_find(map, (*key)->text);
    if (before < 0) return TDM_OK;
    char what[128], show[64], hint[96];
    snprintf(what, sizeof what, "key %s stands here twice", tdm_yaml_show(*key, show));
    snprintf(hint, sizeof hint, "the first is on line %lld; keep one", (long long)map->keys[before]->line);
    return fail_at(r, line, column, hint, what);
}

static tdm_status read_children(struct reader *r, tdm_yaml_node *n, int depth)
{
    const yaml_event_type_t end = n->kind == TDM_YAML_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    tdm_status st = TDM_OK;
    while (st == TDM_OK) {
        yaml_event_t e;
        tdm_yaml_node *key = NULL, *item = NULL;
        if ((st = next_event(r, &e)) != TDM_OK) break;
        if (e.type == end) {
            yaml_event_delete(&e);
            break;
        }
        if (n->kind == TDM_YAML_MAP) {
            st = read_key(r, &e, n, &key);
            yaml_event_delete(&e);
            if (st != TDM_OK || (st = next_event(r, &e)) != TDM_OK) break;
        }
        st = read_node(r, &e, depth + 1, &item);
        yaml_event_delete(&e);
        if (st == TDM_OK) st = tdm_yaml_append(r->pool, n, key, item, r->err);
    }
    return st;
}

static tdm_status read_node(struct reader *r, const yaml_event_t *e, int depth, tdm_yaml_node **out)
{
    const int64_t line = (int64_t)e->start_mark.line + 1, column = (int64_t)e->start_mark.column + 1;
    tdm_status st = TDM_OK;
    if (depth > TDM_YAML_DEPTH) return fail_at(r, line, column, "a recipe is sections of keys", "nested deeper than 16 levels");
    switch (e->type) {
    case YAML_SCALAR_EVENT: return read_scalar(r, e, out);
    case YAML_MAPPING_START_EVENT:
        TDM_TRY(st, refuse_decoration(r, e, e->data.mapping_start.anchor, e->data.mapping_start.tag), done);
        TDM_TRY(st, node_at(r, e, TDM_YAML_MAP, out), done);
        return read_children(r, *out, depth);
    case YAML_SEQUENCE_START_EVENT:
        TDM_TRY(st, refuse_decoration(r, e, e->data.sequence_start.anchor, e->data.sequence_start.tag), done);
        TDM_TRY(st, node_at(r, e, TDM_YAML_LIST, out), done);
        return read_children(r, *out, depth);
    case YAML_ALIAS_EVENT: return fail_at(r, line, column, "write the value out", "aliases are not allowed in a recipe");
    default: return fail_at(r, line, column, "check quotes, colons and indentation", "not valid YAML");
    }
done:
    return st;
}

/* Skips stream and document starts; *root stays NULL when the stream ends first. */
static tdm_status read_document(struct reader *r, tdm_yaml_node **root)
{
    bool done = false;
    tdm_status st = TDM_OK;
    while (!done && st == TDM_OK) {
        yaml_event_t e;
        if ((st = next_event(r, &e)) != TDM_OK) break;
        const int64_t line = (int64_t)e.start_mark.line + 1;
        switch (e.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT: break;
        case YAML_STREAM_END_EVENT: done = true; break;
        case YAML_DOCUMENT_START_EVENT:
            if (*root) st = fail_at(r, line, 1, "one file is one recipe: remove what follows ---", "a second document starts here");
            break;
        default: st = read_node(r, &e, 0, root);
        }
        yaml_event_delete(&e);
    }
    return st;
}

tdm_status tdm_yaml_parse(tdm_pool *pool, const char *text, size_t len, const tdm_yaml_source *source, tdm_yaml_node **root,
                          tdm_error *err)
{
    static const char bom[3] = {'\xef', '\xbb', '\xbf'}; /* some editors put one in front of UTF-8 */
    if (len >= 3 && memcmp(text, bom, 3) == 0) {
        text += 3;
        len -= 3;
    }
    struct reader r = {.pool = pool, .source = source, .text = text, .len = len, .err = err};
    *root = NULL;
    if (len > TDM_YAML_BYTES)
        return TDM_FAIL(err, TDM_ERR_RECIPE, source->name, "a recipe is a page or two", "%zu bytes, a recipe may have 1048576", len);
    if (!yaml_parser_initialize(&r.parser)) return out_of_memory(err, source);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    tdm_status st = read_document(&r, root);
    yaml_parser_delete(&r.parser);
    if (st == TDM_OK && !*root) return TDM_FAIL(err, TDM_ERR_RECIPE, source->name, "start from a recipe in configs/", "nothing in it");
    return st;
}
