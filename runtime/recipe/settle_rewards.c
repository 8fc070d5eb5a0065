/* What each kind of reward needs, and a name for each. */
#include "runtime/recipe/schema.h"

#include <stdio.h>
#include <string.h>

enum { NAME_MAX_LEN = 64 };

struct spot { /* reward[i] */
    tdm_recipe *r;
    int64_t i;
    tdm_recipe_reward *w;
    tdm_error *err;
};

static tdm_status refuse(const struct spot *s, const char *key, const char *hint, const char *what)
{
    char path[64], where[TDM_RECIPE_WHERE];
    snprintf(path, sizeof path, "reward[%lld]%s%s", (long long)s->i, key[0] ? "." : "", key);
    if (!tdm_recipe_given(s->r, path)) snprintf(path, sizeof path, "reward[%lld]", (long long)s->i);
    return TDM_FAIL(s->err, TDM_ERR_RECIPE, tdm_recipe_where(s->r, path, where), hint, "reward[%lld]: %s", (long long)s->i, what);
}

static tdm_status keep(const struct spot *s, const char **field, const char *text)
{
    *field = text;
    return text ? TDM_OK : TDM_FAIL(s->err, TDM_ERR_OTHER, s->r->store->file.name, "free some memory", "out of memory while reading the recipe");
}

static tdm_status check_length(const struct spot *s)
{
    tdm_recipe_reward *w = s->w;
    char what[128];
    if (!w->buffer) return refuse(s, "buffer", "give the tokens over which the reward falls", "length needs buffer");
    if (!w->max) w->max = s->r->rollout.max_new_tokens;
    if (w->buffer <= w->max) return TDM_OK;
    snprintf(what, sizeof what, "buffer is %lld tokens, max is %lld", (long long)w->buffer, (long long)w->max);
    return refuse(s, "buffer", "use a buffer within max", what);
}

enum { MODELS_MAX = 7 }; /* as many as a session has roles, beside a critic */

static tdm_status check_model(const struct spot *s)
{
    int64_t before = 0;
    for (int64_t i = 0; i < s->i; i++) before += s->r->reward[i].kind == TDM_REWARD_MODEL;
    if (before >= MODELS_MAX) return refuse(s, "", "use fewer", "the eighth reward model, and a run has room for seven");
    return s->w->path[0] ? TDM_OK : refuse(s, "path", "give the folder of an adapter that train.algorithm: reward has made", "no path");
}

/* file.py:function; a Windows drive has no place here, so the last colon separates. */
static tdm_status check_python(const struct spot *s)
{
    const char *colon = strrchr(s->w->python, ':');
    if (!colon || colon == s->w->python) return refuse(s, "python", "write file.py:function", "python names no function");
    for (const char *p = colon + 1; *p || p == colon + 1; p++) {
        const bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_' || (unsigned char)*p >= 0x80;
        if (!letter && (p == colon + 1 || *p < '0' || *p > '9')) return refuse(s, "python", "write file.py:function", "python names no function");
    }
    if (!s->w->interpreter[0]) return refuse(s, "interpreter", "write python3", "interpreter is empty");
    return TDM_OK;
}

static tdm_status check_judge(const struct spot *s)
{
    const tdm_recipe_reward *w = s->w;
    if (tdm_algorithm_supervised(s->r->train.algorithm))
        return refuse(s, "type", "remove it, or use train.algorithm: grpo", "a judge judges completions that are sampled, and this algorithm samples none");
    if (s->r->rollout.replay[0]) return refuse(s, "type", "remove it; a replay has its rewards in the file", "a judge judges completions that are sampled");
    if (!w->model[0]) return refuse(s, "model", "write self, or a model's folder or .gguf", "model is empty");
    if (!w->prompt[0]) return refuse(s, "prompt", "write what the judge is asked, with {prompt} and {completion}", "no prompt");
    if (!strstr(w->prompt, "{completion}")) return refuse(s, "prompt", "write {completion} where the answer belongs", "the prompt does not show {completion} to the judge");
    if (!w->parse[0]) return refuse(s, "parse", "give a pattern of the score, as in 'Score: ([0-9]+)'", "no parse");
    if (w->range[0] >= w->range[1]) return refuse(s, "range", "write the lowest and the highest score", "range is empty");
    if (!tdm_reward_judges_by_itself(w) && s->r->numerics == TDM_NUMERICS_EXACT && w->weights == TDM_SCHEME_FP8_TENSOR)
        return refuse(s, "weights", "use fp8_channel or fp8_block, or numerics: fast", "exact cannot take the dynamic scales of fp8_tensor: they depend on the batch");
    if (!tdm_reward_judges_by_itself(w) || w->weights == TDM_SCHEME_FP8_CHANNEL) return TDM_OK; /* the default says nothing */
    return refuse(s, "weights", "remove it, or set model.weights", "weights are of a judge with a model of its own, and model: self reads the base's");
}

static tdm_status check_kind(const struct spot *s)
{
    tdm_recipe_reward *w = s->w;
    switch (w->kind) {
    case TDM_REWARD_NUMBER:
    case TDM_REWARD_EXACT: return w->answer[0] ? TDM_OK : keep(s, &w->answer, "{answer}");
    case TDM_REWARD_REGEX:
    case TDM_REWARD_FORMAT: return w->pattern[0] ? TDM_OK : refuse(s, "pattern", "give a regular expression", "no pattern");
    case TDM_REWARD_LENGTH: return check_length(s);
    case TDM_REWARD_ENVIRONMENT:
        return tdm_recipe_has_environment(s->r) ? TDM_OK
                                                : refuse(s, "type", "give environment.python or environment.command", "it is what an environment gives, and there is none");
    case TDM_REWARD_MODEL: return check_model(s);
    case TDM_REWARD_JUDGE: return check_judge(s);
    case TDM_REWARD_PYTHON: return check_python(s);
    case TDM_REWARD_COMMAND: return w->command.count ? TDM_OK : refuse(s, "command", "write [\"program\", \"argument\"]", "command is empty");
    case TDM_REWARD_PLUGIN: return TDM_OK;
    }
    TDM_ASSERT(!"every kind is checked");
    return TDM_ERR_OTHER;
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

/* The last part of a path, without its extension. */
static const char *stem(const char *path, int *len)
{
    const char *slash = strrchr(path, '/');
    const char *from = slash ? slash + 1 : path, *dot = strrchr(from, '.');
    *len = (int)(dot && dot > from ? (size_t)(dot - from) : strlen(from));
    return from;
}

static bool taken(const struct spot *s, const char *name)
{
    for (int64_t i = 0; i < s->r->reward_count; i++)
        if (i != s->i && s->r->reward[i].name && strcmp(s->r->reward[i].name, name) == 0) return true;
    return false;
}

/* number, number_2, ...; a function is called by its name. */
static tdm_status make_name(const struct spot *s)
{
    const tdm_recipe_reward *w = s->w;
    const char *from = tdm_reward_kind_names[w->kind];
    int len = (int)strlen(from);
    if (w->kind == TDM_REWARD_PYTHON) from = strrchr(w->python, ':') + 1, len = (int)strlen(from);
    if (w->kind == TDM_REWARD_COMMAND) from = stem(w->command.items[0], &len);
    if (w->kind == TDM_REWARD_PLUGIN) from = stem(w->plugin, &len);
    char base[NAME_MAX_LEN - 12], name[NAME_MAX_LEN];
    snprintf(base, sizeof base, "%.*s", len, from);
    for (char *p = base; *p; p++)
        if (!name_char(*p)) *p = '_';
    snprintf(name, sizeof name, "%s", base[0] ? base : "reward");
    for (int n = 2; taken(s, name); n++) snprintf(name, sizeof name, "%s_%d", base, n);
    return keep(s, &s->w->name, tdm_pool_text(&s->r->store->pool, name, strlen(name)));
}

static tdm_status check_name(const struct spot *s)
{
    const char *hint = "use letters, digits, _, - and .";
    if (strlen(s->w->name) >= NAME_MAX_LEN) return refuse(s, "name", hint, "a name of more than 63 characters");
    for (const char *p = s->w->name; *p; p++)
        if (!name_char(*p)) return refuse(s, "name", hint, "the name becomes a metric's key, reward/NAME, and cannot have this character");
    return taken(s, s->w->name) ? refuse(s, "name", "give each its own name", "another reward has this name") : TDM_OK;
}

tdm_status tdm_recipe_settle_rewards(tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int pass = 0; pass < 2; pass++) /* given names first: made ones step aside for them */
        for (int64_t i = 0; i < r->reward_count; i++) {
            const struct spot s = {r, i, &r->store->reward_items[i], err};
            if (pass == 0) TDM_TRY(st, check_kind(&s), done);
            if (pass == 0 && s.w->name[0]) TDM_TRY(st, check_name(&s), done);
            if (pass == 1 && !s.w->name[0]) TDM_TRY(st, make_name(&s), done);
        }
done:
    return st;
}
