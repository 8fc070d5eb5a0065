/* adapter_config.json, both ways. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/peft.h"

#define HINT_PLAIN "tandem computes plain LoRA on the seven projections: train or convert the adapter without it"

const char *const tdm_peft_proj_paths[TDM_PROJ_COUNT] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                         "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

double tdm_peft_scaling(const tdm_peft_config *c)
{
    return c->rslora ? c->alpha / sqrt((double)c->rank) : c->alpha / (double)c->rank;
}

/* "q_proj" of "self_attn.q_proj". */
static const char *leaf(tdm_proj p) { return strchr(tdm_peft_proj_paths[p], '.') + 1; }

/* ---- reading ---- */

/* Keys that change the computation when they are on: not null, false, "", 0, [] or {}. */
static const char *const refused_keys[] = {
    "use_dora",     "lora_bias",    "rank_pattern",      "alpha_pattern",     "trainable_token_indices", "use_qalora",
    "arrow_config", "layer_replication", "target_parameters", "alora_invocation_tokens", "fan_in_fan_out",
    "use_bdlora",   "kasa_config",  "velora_config",     "monteclora_config", "megatron_config",
};
/* Known keys that look like a feature and are none for us: initialization, and our own. */
static const char *const harmless_keys[] = {"use_rslora", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"};
/* Ways to initialize that leave the base weights as they are. The others (pissa, olora, corda, loftq, ...) subtract from the base
 * what they put into the adapter, so the saved file belongs to a base nobody has stored. */
static const char *const harmless_inits[] = {"gaussian", "eva", "orthogonal"};

static bool is_on(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_TRUE: return true;
    case JSON_OBJECT: return json_object_size(v) > 0;
    case JSON_ARRAY: return json_array_size(v) > 0;
    case JSON_STRING: return json_string_length(v) > 0;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(v) != 0;
    case JSON_FALSE:
    case JSON_NULL: return false;
    }
    return true;
}

static bool listed(const char *s, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(s, list[i]) == 0) return true;
    return false;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* What PEFT saves of its own accord for task_type SEQ_CLS. */
static bool is_head(const json_t *modules)
{
    size_t i;
    json_t *e;
    json_array_foreach((json_t *)modules, i, e)
    {
        const char *s = json_string_value(e);
        if (!s || (strcmp(s, "score") != 0 && strcmp(s, "classifier") != 0)) return false;
    }
    return true;
}

static tdm_status parse_task(tdm_peft_config *c, const json_t *o, const char *where, tdm_error *err)
{
    const char *task = json_string_value(json_object_get(o, "task_type"));
    const json_t *modules = json_object_get(o, "modules_to_save");
    c->head = task && strcmp(task, "SEQ_CLS") == 0;
    if (task && !c->head && strcmp(task, "CAUSAL_LM") != 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "use an adapter of a causal language model", "\"task_type\" is \"%.32s\"", task);
    if (modules && is_on(modules) && !(c->head && json_is_array(modules) && is_head(modules)))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, HINT_PLAIN, "\"modules_to_save\" is set in the adapter's config");
    return TDM_OK;
}

static tdm_status refuse_features(const json_t *o, const char *where, tdm_error *err)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o, key, v)
    {
        /* A newer PEFT may know a feature we have never heard of. */
        bool unknown = (strncmp(key, "use_", 4) == 0 || ends_with(key, "_config")) && !listed(key, harmless_keys, TDM_COUNT(harmless_keys));
        if ((unknown || listed(key, refused_keys, TDM_COUNT(refused_keys))) && is_on(v))
            return TDM_FAIL(err, TDM_ERR_INPUT, where, HINT_PLAIN, "\"%.64s\" is set in the adapter's config", key);
    }
    const char *bias = json_string_value(json_object_get(o, "bias"));
    if (bias && strcmp(bias, "none") != 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, HINT_PLAIN, "\"bias\" is \"%.32s\" in the adapter's config, not \"none\"", bias);
    const char *init = json_string_value(json_object_get(o, "init_lora_weights"));
    if (init && !listed(init, harmless_inits, TDM_COUNT(harmless_inits)))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "save it with PEFT's path_initial_model_for_weight_conversion: it then is plain LoRA",
                        "\"init_lora_weights\" is \"%.32s\": the adapter belongs to changed base weights", init);
    return TDM_OK;
}

/* One entry of a target_modules list; PEFT takes it as a whole name or as the end of one. */
static tdm_status add_target(tdm_peft_config *c, bool *resolve, const char *name, const char *where, tdm_error *err)
{
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        if (strcmp(name, leaf((tdm_proj)p)) == 0 || strcmp(name, tdm_peft_proj_paths[p]) == 0) {
            c->targets[p] = true;
            return TDM_OK;
        }
        if (ends_with(name, tdm_peft_proj_paths[p]) && name[strlen(name) - strlen(tdm_peft_proj_paths[p]) - 1] == '.') {
            *resolve = true; /* one layer's module: what is in the file decides */
            return TDM_OK;
        }
    }
    return TDM_FAIL(err, TDM_ERR_INPUT, where, HINT_PLAIN, "\"target_modules\" names \"%.64s\"", name);
}

static tdm_status parse_targets(tdm_peft_config *c, bool *resolve, const json_t *o, const char *where, tdm_error *err)
{
    const json_t *v = json_object_get(o, "target_modules");
    size_t i;
    json_t *e;
    if (json_is_string(v) && json_string_length(v) > 0) { /* "all-linear", or a pattern */
        *resolve = true;
        return TDM_OK;
    }
    if (!json_is_array(v) || json_array_size(v) == 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is it a LoRA adapter saved by PEFT?", "\"target_modules\" is missing or empty");
    json_array_foreach((json_t *)v, i, e)
    {
        if (!json_is_string(e)) return TDM_FAIL(err, TDM_ERR_INPUT, where, NULL, "\"target_modules\"[%zu] is not a string", i);
        tdm_status st = add_target(c, resolve, json_string_value(e), where, err);
        if (st != TDM_OK) return st;
    }
    if (*resolve) memset(c->targets, 0, sizeof c->targets); /* all of them from the tensors */
    return TDM_OK;
}

/* A number, or the default when the key is missing or null. */
static tdm_status parse_number(const json_t *o, const char *key, double missing, double low, double high, double *out, const char *where,
                               tdm_error *err)
{
    const json_t *v = json_object_get(o, key);
    *out = json_is_number(v) ? json_number_value(v) : missing;
    if ((v && !json_is_null(v) && !json_is_number(v)) || !(*out >= low && *out <= high))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, NULL, "\"%s\" is not a number from %g to %g", key, low, high);
    return TDM_OK;
}

tdm_status tdm_peft_config_parse(tdm_peft_config *c, bool *resolve, bool *some_layers, const char *text, size_t len, const char *where,
                                 tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_error_t je;
    const char *type, *base;
    const json_t *r;
    *c = (tdm_peft_config){0};
    *resolve = *some_layers = false;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(o)) {
        st = o ? TDM_FAIL(err, TDM_ERR_INPUT, where, NULL, "is not a JSON object")
               : TDM_FAIL(err, TDM_ERR_INPUT, where, NULL, "is not JSON: %s (line %d)", je.text, je.line);
        goto done;
    }
    type = json_string_value(json_object_get(o, "peft_type"));
    if (!type || strcmp(type, "LORA") != 0) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "only LoRA adapters can be read", "\"peft_type\" is %.32s", type ? type : "missing");
        goto done;
    }
    TDM_TRY(st, refuse_features(o, where, err), done);
    TDM_TRY(st, parse_task(c, o, where, err), done);
    r = json_object_get(o, "r");
    if (!json_is_integer(r) || json_integer_value(r) < 1 || json_integer_value(r) > TDM_PEFT_MAX_RANK) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, NULL, "\"r\" is not a whole number from 1 to %d", TDM_PEFT_MAX_RANK);
        goto done;
    }
    c->rank = json_integer_value(r);
    TDM_TRY(st, parse_number(o, "lora_alpha", 8, -1e6, 1e6, &c->alpha, where, err), done); /* 8: PEFT's default */
    TDM_TRY(st, parse_number(o, "lora_dropout", 0, 0, 1, &c->dropout, where, err), done);
    c->rslora = json_is_true(json_object_get(o, "use_rslora"));
    base = json_string_value(json_object_get(o, "base_model_name_or_path"));
    if (base && (size_t)snprintf(c->base_model, sizeof c->base_model, "%s", base) >= sizeof c->base_model) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, NULL, "\"base_model_name_or_path\" has more than %zu bytes", sizeof c->base_model - 1);
        goto done;
    }
    TDM_TRY(st, parse_targets(c, resolve, o, where, err), done);
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(o, i ? "exclude_modules" : "layers_to_transform");
        /* layer 0 alone is "on" too: the number, not its truth, is what is meant */
        if (v && (json_is_integer(v) || is_on(v))) *some_layers = true;
    }
done:
    json_decref(o);
    return st;
}

/* ---- writing ---- */

/* 16.0 as 16: PEFT's config declares a whole number, and others that read the file insist on one. */
static json_t *number(double v)
{
    return v == floor(v) && fabs(v) < 1e9 ? json_integer((json_int_t)v) : json_real(v);
}

json_t *tdm_peft_config_json(const tdm_peft_config *c)
{
    json_t *o = json_object(), *targets = json_array(), *modules = c->head ? json_pack("[s,s]", "classifier", "score") : json_null();
    int bad = !o || !targets || !modules;
    for (int p = 0; !bad && p < TDM_PROJ_COUNT; p++)
        if (c->targets[p]) bad |= json_array_append_new(targets, json_string(leaf((tdm_proj)p)));
    /* The set_new calls take the value also when they fail. */
    bad = bad || json_object_set_new(o, "peft_type", json_string("LORA")) || json_object_set_new(o, "task_type", json_string(c->head ? "SEQ_CLS" : "CAUSAL_LM")) ||
          json_object_set_new(o, "base_model_name_or_path", c->base_model[0] ? json_string(c->base_model) : json_null()) ||
          json_object_set_new(o, "revision", json_null()) || json_object_set_new(o, "inference_mode", json_true()) ||
          json_object_set_new(o, "r", json_integer(c->rank)) || json_object_set_new(o, "lora_alpha", number(c->alpha)) ||
          json_object_set_new(o, "lora_dropout", json_real(c->dropout)) ||
          json_object_set_new(o, "use_rslora", json_boolean(c->rslora)) || json_object_set(o, "target_modules", targets) ||
          json_object_set_new(o, "bias", json_string("none")) || json_object_set_new(o, "fan_in_fan_out", json_false()) ||
          json_object_set_new(o, "init_lora_weights", json_true()) || json_object_set(o, "modules_to_save", modules) ||
          json_object_set_new(o, "layers_to_transform", json_null()) || json_object_set_new(o, "layers_pattern", json_null()) ||
          json_object_set_new(o, "rank_pattern", json_object()) || json_object_set_new(o, "alpha_pattern", json_object()) ||
          json_object_set_new(o, "use_dora", json_false());
    json_decref(targets);
    json_decref(modules);
    if (!bad) return o;
    json_decref(o);
    return NULL;
}
