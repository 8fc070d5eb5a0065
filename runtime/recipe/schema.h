/* The keys of a recipe: one row each, with type, default, range and the field it fills. Reading, writing, comparing and the
 * suggestions in errors all walk these tables. */
#ifndef TANDEM_RUNTIME_RECIPE_SCHEMA_H
#define TANDEM_RUNTIME_RECIPE_SCHEMA_H

#include "runtime/recipe/recipe.h"
#include "runtime/recipe/yaml.h"

typedef enum tdm_key_type {
    TDM_KEY_BOOL,    /* bool */
    TDM_KEY_INT,     /* int64_t */
    TDM_KEY_FLOAT,   /* double */
    TDM_KEY_TEXT,    /* const char *; null: "" */
    TDM_KEY_ENUM,    /* an enum; names in the order of its values */
    TDM_KEY_SIZE,    /* int64_t bytes; auto: 0 */
    TDM_KEY_KV,      /* memory.kv: auto, bf16, fp8 or a size; kv_bytes and kv_dtype */
    TDM_KEY_TEXTS,   /* tdm_strings */
    TDM_KEY_NUMBERS, /* tdm_numbers */
    TDM_KEY_TARGETS, /* bool [TDM_PROJ_COUNT] from names */
    TDM_KEY_BETAS    /* double [2] */
} tdm_key_type;

enum {
    TDM_KEY_REQUIRED = 1,
    TDM_KEY_ABOVE_MIN = 2, /* min itself is outside */
    TDM_KEY_BELOW_MAX = 4,
    TDM_KEY_FREE = 8,      /* may change on resume */
    TDM_KEY_NONE = 16      /* text: the word none means "" */
};

typedef struct tdm_key {
    const char *path;      /* "train.importance.cap"; in a reward's table "pattern" */
    tdm_key_type type;
    size_t offset;         /* in tdm_recipe, tdm_recipe_reward or tdm_recipe_source */
    const char *fallback;  /* the default, as YAML */
    double min, max;
    const char *const *names; /* enum: NULL-terminated */
    unsigned flags;
    unsigned kinds;        /* of a reward: bit (1 << kind) of the kinds that read this key; 0: all */
} tdm_key;

typedef struct tdm_key_table { const tdm_key *keys; int count; } tdm_key_table;
extern const tdm_key_table tdm_recipe_keys, tdm_reward_keys, tdm_source_keys;
extern const char *const tdm_reward_kind_names[]; /* in the order of tdm_reward_kind */
extern const char *const tdm_target_names[];      /* in the order of tdm_proj; NULL at the end */

/* Where a value stands; source NULL: the default. */
typedef struct tdm_mark {
    const tdm_yaml_source *source;
    int64_t line, column;
} tdm_mark;

/* What a recipe owns beside its fields. */
struct tdm_recipe_store {
    tdm_pool pool;
    tdm_yaml_source file;
    tdm_mark *marks;         /* [tdm_recipe_keys.count] */
    tdm_mark reward_list;
    tdm_recipe_reward *reward_items; /* recipe.reward, while it is being filled */
    tdm_mark *rewards;       /* [reward_count] */
    tdm_mark *reward_marks;  /* [reward_count * tdm_reward_keys.count] */
    tdm_recipe_source *source_items; /* recipe.data.source, while it is being filled */
    bool source_list;        /* data.train was a list; the marks are there then */
    tdm_mark *sources;       /* [source_count] */
    tdm_mark *source_marks;  /* [source_count * tdm_source_keys.count] */
};

int tdm_key_find(const tdm_key_table *t, const char *path); /* -1: none */
/* Whether some key's path starts with `path` and a dot. */
bool tdm_key_is_section(const tdm_key_table *t, const char *path);
/* Fills hint with `did you mean "x"?`, the section a key belongs to, or the keys there are. section: "" at the top. */
void tdm_key_suggest(const tdm_key_table *t, const char *section, const char *key, char hint[256]);
const char *tdm_word_nearest(const char *word, const char *const *words); /* NULL: none is near */
/* "0 to below 1", "1 or more", "above 0". */
const char *tdm_key_range(const tdm_key *k, char buf[96]);

/* Converts a node into the field of base, with an error that names the key as `name`. */
tdm_status tdm_key_read(const tdm_key *k, const char *name, const tdm_yaml_node *n, tdm_pool *pool, void *base, tdm_error *err);

/* Number texts as a recipe has them: decimal, no leading zeros, 1e-5 included. */
bool tdm_number_read(const char *text, double *out);
bool tdm_integer_read(const char *text, int64_t *out);
/* "8GiB", "1.5 GB", "4096" into bytes. */
bool tdm_size_read(const char *text, int64_t *out);

/* What concerns several keys: defaults that follow from others, and combinations that are refused with a reason. */
tdm_status tdm_recipe_settle(tdm_recipe *r, tdm_error *err);
tdm_status tdm_recipe_settle_fp8(tdm_recipe *r, tdm_error *err);
tdm_status tdm_recipe_settle_rewards(tdm_recipe *r, tdm_error *err);
tdm_status tdm_recipe_settle_environment(const tdm_recipe *r, tdm_error *err);
tdm_status tdm_recipe_settle_sources(tdm_recipe *r, tdm_error *err); /* after the rewards have their names */
tdm_status tdm_recipe_settle_importance(tdm_recipe *r, tdm_error *err); /* after the loss has its levels */
tdm_status tdm_recipe_check_distill(const tdm_recipe *r, tdm_error *err);
tdm_status tdm_recipe_settle_ppo(tdm_recipe *r, tdm_error *err); /* after the loss is settled */
/* Sets one override in the tree. */
tdm_status tdm_override_apply(tdm_pool *pool, tdm_yaml_node *root, const char *text, tdm_error *err);

/* The value as the resolved recipe writes it, shortened to fit an error. Returns buf. */
const char *tdm_key_show(const tdm_key *k, const void *base, char buf[64]);

#endif
