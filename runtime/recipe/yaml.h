/* YAML text to a tree of nodes that know where they stand. A strict subset: one document of mappings, lists and scalars; anchors,
 * aliases, tags, merge keys, duplicate keys and NUL bytes are refused, and size, depth and node count are bounded. */
#ifndef TANDEM_RUNTIME_RECIPE_YAML_H
#define TANDEM_RUNTIME_RECIPE_YAML_H

#include "runtime/recipe/pool.h"

enum { TDM_YAML_BYTES = 1 << 20, TDM_YAML_DEPTH = 16, TDM_YAML_NODES = 10000, TDM_YAML_WHERE = 512 };

typedef enum tdm_yaml_kind { TDM_YAML_SCALAR, TDM_YAML_LIST, TDM_YAML_MAP } tdm_yaml_kind;

/* Where text came from: a file, whose lines can be opened, or one override. */
typedef struct tdm_yaml_source {
    const char *name; /* "configs/a.yaml", "command line: seed=2" */
    bool lines;       /* false: the name says it all */
} tdm_yaml_source;

typedef struct tdm_yaml_node tdm_yaml_node;
struct tdm_yaml_node {
    tdm_yaml_kind kind;
    const tdm_yaml_source *source;
    int64_t line, column;                /* from 1 */
    const char *text;                    /* scalar */
    bool plain;                          /* scalar without quotes: may be a number, a boolean or null */
    tdm_yaml_node **keys, **items;       /* keys: of a map, scalars */
    int64_t count, room;
};

/* Fills *root from the pool. An empty text is an error. All failures are TDM_ERR_RECIPE, out of memory TDM_ERR_OTHER. */
tdm_status tdm_yaml_parse(tdm_pool *pool, const char *text, size_t len, const tdm_yaml_source *source, tdm_yaml_node **root,
                          tdm_error *err);
tdm_yaml_node *tdm_yaml_node_new(tdm_pool *pool, tdm_yaml_kind kind, const tdm_yaml_source *source, tdm_error *err);
/* key NULL for a list. */
tdm_status tdm_yaml_append(tdm_pool *pool, tdm_yaml_node *parent, tdm_yaml_node *key, tdm_yaml_node *item, tdm_error *err);
int64_t tdm_yaml_find(const tdm_yaml_node *map, const char *key); /* index, or -1 */
bool tdm_yaml_is_null(const tdm_yaml_node *n);                    /* nothing, ~ or null, without quotes */
/* "mapping", "list", or the text in quotes, shortened to fit an error. */
const char *tdm_yaml_show(const tdm_yaml_node *n, char buf[64]);
const char *tdm_yaml_where(const tdm_yaml_source *s, int64_t line, int64_t column, char buf[TDM_YAML_WHERE]);
#define TDM_YAML_FAIL(err, node, hint, ...)                                                                                          \
    TDM_FAIL((err), TDM_ERR_RECIPE, tdm_yaml_where((node)->source, (node)->line, (node)->column, (char[TDM_YAML_WHERE]){0}), (hint), \
             __VA_ARGS__)

#endif
