#include "memory/fp8_checkpoint.h"
#include "memory/json_read.h"
#include "memory/module_patterns.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS_MAX = 8 };

struct tdm_fp8_checkpoint {
    char where[512];
    tdm_patterns *ignored;
    struct {
        tdm_patterns *targets; /* NULL: every module */
        tdm_fp8_module module;
    } groups[GROUPS_MAX];
    int count;
    bool other_kv; /* the KV cache of the checkpoint is quantized, and not as ours is */
};

#define REFUSE(f, ...)                                                                                                 \
    TDM_FAIL((f)->err, TDM_ERR_INPUT, (f)->where, "use the unquantized model, or an FP8 one as vLLM loads it",         \
             __VA_ARGS__)

const char *tdm_scheme_text(tdm_scheme scheme)
{
    static const char *const names[] = {"bf16", "fp8_tensor", "fp8_channel", "fp8_block"};
    return names[scheme];
}

/* [128, 128], or "128x128" as older files write it; any other block is refused. */
static tdm_status check_block(const tdm_json_fields *f, const json_t *block, const char *key)
{
    if (json_is_string(block) && strcmp(json_string_value(block), "128x128") == 0) return TDM_OK;
    if (!json_is_array(block) || json_array_size(block) != 2 ||
        json_integer_value(json_array_get(block, 0)) != TDM_FP8_BLOCK ||
        json_integer_value(json_array_get(block, 1)) != TDM_FP8_BLOCK)
        return REFUSE(f, "%s is not [128, 128]", key);
    return TDM_OK;
}

static tdm_status check_float8(const tdm_json_fields *args, const char *what)
{
    tdm_status st = TDM_OK;
    const char *type = "?";
    int64_t bits = 8;
    bool symmetric = true;
    TDM_TRY(st, tdm_json_str(args, "type", &type), done);
    TDM_TRY(st, tdm_json_int(args, "num_bits", true, 1, 64, &bits), done);
    TDM_TRY(st, tdm_json_bool(args, "symmetric", &symmetric), done);
    if (bits != 8 || strcmp(type, "float") != 0 || !symmetric)
        return REFUSE(args, "%s of type %.32s and %d bits are not supported, only 8-bit float", what, type, (int)bits);
done:
    return st;
}

/* compressed-tensors: "weights" of a config group. */
static tdm_status read_weights(const tdm_json_fields *w, tdm_fp8_module *m)
{
    tdm_status st = TDM_OK;
    const char *strategy = "tensor";
    bool dynamic = false;
    if (!json_is_object(w->object)) return REFUSE(w, "a config group without weights");
    TDM_TRY(st, check_float8(w, "weights"), done);
    TDM_TRY(st, tdm_json_str(w, "strategy", &strategy), done);
    TDM_TRY(st, tdm_json_bool(w, "dynamic", &dynamic), done);
    if (dynamic) return REFUSE(w, "dynamically quantized weights are not supported");
    if (strcmp(strategy, "tensor") == 0)
        m->stored = TDM_SCHEME_FP8_TENSOR;
    else if (strcmp(strategy, "channel") == 0)
        m->stored = TDM_SCHEME_FP8_CHANNEL;
    else if (strcmp(strategy, "block") == 0) {
        m->stored = TDM_SCHEME_FP8_BLOCK;
        TDM_TRY(st, check_block(w, json_object_get(w->object, "block_structure"), "block_structure"), done);
    } else
        return REFUSE(w, "weights by %.32s are not supported, only tensor, channel and block", strategy);
    m->scheme = m->stored;
done:
    return st;
}

/* compressed-tensors: "input_activations" of a config group; null: the activations stay as they are. */
static tdm_status read_activations(const tdm_json_fields *a, tdm_fp8_module *m)
{
    tdm_status st = TDM_OK;
    const char *strategy = "tensor";
    bool dynamic = false;
    int64_t group = TDM_FP8_BLOCK;
    m->act = TDM_ACT_NONE;
    if (!a->object) return TDM_OK;
    TDM_TRY(st, check_float8(a, "activations"), done);
    TDM_TRY(st, tdm_json_str(a, "strategy", &strategy), done);
    const json_t *d = tdm_json_get(a->object, "dynamic");
    if (d && !json_is_boolean(d))
        return REFUSE(a, "activations whose \"dynamic\" is not true or false are not supported");
    dynamic = json_is_true(d);
    TDM_TRY(st, tdm_json_int(a, "group_size", false, -1, INT32_MAX, &group), done);
    m->act = dynamic ? TDM_ACT_DYNAMIC : TDM_ACT_STATIC;
    const bool tensor = strcmp(strategy, "tensor") == 0, token = strcmp(strategy, "token") == 0;
    const bool by_128 = strcmp(strategy, "group") == 0 && group == TDM_FP8_BLOCK;
    if (!dynamic && tensor && m->stored != TDM_SCHEME_FP8_BLOCK) goto done;
    if (dynamic && by_128 && m->stored == TDM_SCHEME_FP8_BLOCK) goto done;
    if (dynamic && token && m->stored == TDM_SCHEME_FP8_CHANNEL) goto done;
    if (dynamic && tensor && m->stored == TDM_SCHEME_FP8_TENSOR) goto done;
    if (dynamic && token && m->stored == TDM_SCHEME_FP8_TENSOR) {
        m->scheme = TDM_SCHEME_FP8_CHANNEL;
        goto done;
    }
    return REFUSE(a, "%s activations by %.32s with %s weights are not supported", dynamic ? "dynamic" : "static",
                  strategy, tdm_scheme_text(m->stored));
done:
    return st;
}

/* compressed-tensors: "kv_cache_scheme". One we do not have is no reason to refuse the weights. */
static bool is_other_kv(const json_t *scheme)
{
    const json_t *bits = json_object_get(scheme, "num_bits");
    const char *type = json_string_value(json_object_get(scheme, "type")), *strategy = json_string_value(json_object_get(scheme, "strategy"));
    return scheme && (json_integer_value(bits) != 8 || !type || strcmp(type, "float") != 0 || (strategy && strcmp(strategy, "tensor") != 0));
}

static tdm_status read_compressed(tdm_fp8_checkpoint *q, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const char *format = "float-quantized", *key;
    json_t *group;
    TDM_TRY(st, tdm_json_str(f, "format", &format), done);
    if (strcmp(format, "float-quantized") != 0 && strcmp(format, "naive-quantized") != 0)
        return REFUSE(f, "compressed-tensors format %.32s is not supported, only float-quantized", format);
    const json_t *groups = tdm_json_get(f->object, "config_groups");
    q->other_kv = is_other_kv(tdm_json_get(f->object, "kv_cache_scheme"));
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        return REFUSE(f, "quantization_config has no config_groups");
    if (json_object_size(groups) > GROUPS_MAX) return REFUSE(f, "more than %d config_groups", GROUPS_MAX);
    json_object_foreach((json_t *)(uintptr_t)groups, key, group)
    {
        if (!json_is_object(group)) return REFUSE(f, "config group %.64s is not an object", key);
        const tdm_json_fields weights = {tdm_json_get(group, "weights"), f->where, f->err};
        const tdm_json_fields acts = {tdm_json_get(group, "input_activations"), f->where, f->err};
        tdm_fp8_module *m = &q->groups[q->count].module;
        m->quantized = true;
        q->count++;
        TDM_TRY(st,
                tdm_patterns_read(&q->groups[q->count - 1].targets, tdm_json_get(group, "targets"),
                                  TDM_PATTERN_COMPRESSED, f->where, f->err),
                done);
        TDM_TRY(st, read_weights(&weights, m), done);
        TDM_TRY(st, read_activations(&acts, m), done);
        if (tdm_json_get(group, "output_activations"))
            return REFUSE(f, "quantized output activations are not supported");
    }
    TDM_TRY(st,
            tdm_patterns_read(&q->ignored, tdm_json_get(f->object, "ignore"), TDM_PATTERN_COMPRESSED, f->where, f->err),
            done);
done:
    return st;
}

static tdm_status read_fp8(tdm_fp8_checkpoint *q, const tdm_json_fields *f)
{
    tdm_status st = TDM_OK;
    const char *scheme = "dynamic", *fmt = "e4m3";
    const json_t *block = tdm_json_get(f->object, "weight_block_size"),
                 *ignored = tdm_json_get(f->object, "modules_to_not_convert");
    tdm_fp8_module *m = &q->groups[0].module;
    q->count = 1;
    if (!ignored) ignored = tdm_json_get(f->object, "ignored_layers");
    TDM_TRY(st, tdm_json_str(f, "activation_scheme", &scheme), done);
    TDM_TRY(st, tdm_json_str(f, "fmt", &fmt), done);
    if (strcmp(fmt, "e4m3") != 0) return REFUSE(f, "FP8 of format %.32s is not supported, only e4m3", fmt);
    if (strcmp(scheme, "dynamic") != 0 && strcmp(scheme, "static") != 0)
        return REFUSE(f, "activation_scheme %.32s is not supported", scheme);
    m->quantized = true;
    m->stored = m->scheme = block ? TDM_SCHEME_FP8_BLOCK : TDM_SCHEME_FP8_TENSOR;
    m->act = strcmp(scheme, "static") == 0 ? TDM_ACT_STATIC : TDM_ACT_DYNAMIC;
    if (block) TDM_TRY(st, check_block(f, block, "weight_block_size"), done);
    if (block && m->act == TDM_ACT_STATIC)
        return REFUSE(f, "static activation scales with weight_block_size are not supported");
    TDM_TRY(st, tdm_patterns_read(&q->ignored, ignored, TDM_PATTERN_CONVERT, f->where, f->err), done);
done:
    return st;
}

tdm_status tdm_fp8_checkpoint_read(tdm_fp8_checkpoint **out, const json_t *config, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_fp8_checkpoint *q = NULL;
    const char *method = "none";
    const json_t *object = tdm_json_get(config, "quantization_config");

    *out = NULL;
    if (!object) object = tdm_json_get(config, "compression_config"); /* the name before compressed-tensors 0.6 */
    if (!object) return TDM_OK;
    if (!json_is_object(object))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "repair the file", "quantization_config is not an object");
    q = calloc(1, sizeof *q);
    if (!q) return TDM_FAIL(err, TDM_ERR_OTHER, where, NULL, "out of memory");
    snprintf(q->where, sizeof q->where, "%s", where);
    const tdm_json_fields f = {object, q->where, err};
    TDM_TRY(st, tdm_json_str(&f, "quant_method", &method), fail);
    if (strcmp(method, "compressed-tensors") == 0)
        TDM_TRY(st, read_compressed(q, &f), fail);
    else if (strcmp(method, "fp8") == 0)
        TDM_TRY(st, read_fp8(q, &f), fail);
    else {
        st = REFUSE(&f, "quant_method %.64s is not supported, only compressed-tensors and fp8", method);
        goto fail;
    }
    *out = q;
    return st;
fail:
    tdm_fp8_checkpoint_free(q);
    return st;
}

void tdm_fp8_checkpoint_free(tdm_fp8_checkpoint *q)
{
    if (!q) return;
    for (int i = 0; i < q->count; i++) tdm_patterns_free(q->groups[i].targets);
    tdm_patterns_free(q->ignored);
    free(q);
}

bool tdm_fp8_checkpoint_kv(const tdm_fp8_checkpoint *q) { return !q->other_kv; }

tdm_status tdm_fp8_checkpoint_module(const tdm_fp8_checkpoint *q, const char *module, tdm_fp8_module *out,
                                     tdm_error *err)
{
    tdm_status st = TDM_OK;
    bool hit = false;
    *out =
        (tdm_fp8_module){.quantized = false, .stored = TDM_SCHEME_BF16, .scheme = TDM_SCHEME_BF16, .act = TDM_ACT_NONE};
    if (strcmp(module, "lm_head") == 0) goto done; /* both methods leave the head alone, named or not */
    TDM_TRY(st, tdm_patterns_match(q->ignored, module, q->where, &hit, err), done);
    if (hit) goto done;
    for (int i = 0; i < q->count; i++) {
        hit = true;
        if (q->groups[i].targets)
            TDM_TRY(st, tdm_patterns_match(q->groups[i].targets, module, q->where, &hit, err), done);
        if (hit) {
            *out = q->groups[i].module;
            break;
        }
    }
done:
    return st;
}
