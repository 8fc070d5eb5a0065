/* GGUF metadata. Source: ggml-org/llama.cpp, gguf-py/gguf/constants.py for the keys, convert_hf_to_gguf.py for what is
 * written there. */
#include "memory/gguf.h"
#include "memory/model_config_read.h"
#include "memory/tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct source {
    const tdm_gguf *g;
    const char *arch, *where;
    tdm_error *err;
} source;

#define REFUSE(s, ...)                                                                                                 \
    TDM_FAIL((s)->err, TDM_ERR_INPUT, (s)->where, "use a model without it, or its safetensors", __VA_ARGS__)

static const char *full_key(const source *s, const char *key, char *room, size_t bytes)
{
    snprintf(room, bytes, "%s.%s", s->arch, key);
    return room;
}

static tdm_status get_int(const source *s, const char *key, bool required, int64_t min, int64_t max, int64_t *out)
{
    char room[128];
    full_key(s, key, room, sizeof room);
    int64_t n;
    if (!tdm_gguf_has(s->g, room)) return required ? REFUSE(s, "%s is missing", room) : TDM_OK;
    if (!tdm_gguf_int(s->g, room, &n))
        return REFUSE(s, "%s is not one integer (values that differ between layers are not supported)", room);
    if (n < min || n > max) return REFUSE(s, "%s is %" PRId64 ", expected %" PRId64 " to %" PRId64, room, n, min, max);
    *out = n;
    return TDM_OK;
}

static tdm_status get_float(const source *s, const char *key, bool required, double min, double max, double *out)
{
    char room[128];
    full_key(s, key, room, sizeof room);
    double x;
    if (!tdm_gguf_has(s->g, room)) return required ? REFUSE(s, "%s is missing", room) : TDM_OK;
    if (!tdm_gguf_float(s->g, room, &x)) return REFUSE(s, "%s is not a number", room);
    if (!(x >= min && x <= max)) return REFUSE(s, "%s is %g, expected %g to %g", room, x, min, max);
    *out = x;
    return TDM_OK;
}

static bool str_is(tdm_str s, const char *text) { return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0; }

static tdm_status read_arch(tdm_model_config *c, source *s)
{
    tdm_str arch;
    if (!tdm_gguf_str(s->g, "general.architecture", &arch)) return REFUSE(s, "general.architecture is missing");
    c->arch = tdm_arch_of_gguf(arch.data, arch.len);
    if (!c->arch)
        return TDM_FAIL(s->err, TDM_ERR_INPUT, s->where, "docs/architectures.md lists the models that are",
                        "general.architecture %.*s is not supported", (int)tdm_min_i64((int64_t)arch.len, 64), arch.data);
    s->arch = c->arch->gguf;
    snprintf(c->model_type, sizeof c->model_type, "%s", c->arch->model_type);
    return TDM_OK;
}

static tdm_status read_shape(tdm_model_config *c, const source *s)
{
    tdm_status st = TDM_OK;
    int64_t experts = 0, value_dim, rope_dim;
    TDM_TRY(st, get_int(s, "expert_count", false, 0, INT32_MAX, &experts), done);
    if (experts > 0 && !c->arch->experts) return REFUSE(s, "a mixture of %" PRId64 " experts is not supported", experts);
    TDM_TRY(st, get_int(s, "block_count", true, 1, TDM_LAYERS_MAX, &c->layers), done);
    TDM_TRY(st, get_int(s, "embedding_length", true, 1, TDM_WIDTH_MAX, &c->width), done);
    TDM_TRY(st, get_int(s, "feed_forward_length", true, 1, TDM_FFN_MAX, &c->ffn), done);
    TDM_TRY(st, get_int(s, "attention.head_count", true, 1, TDM_HEADS_MAX, &c->heads), done);
    c->kv_heads = c->heads;
    TDM_TRY(st, get_int(s, "attention.head_count_kv", false, 1, TDM_HEADS_MAX, &c->kv_heads), done);
    TDM_TRY(st, get_int(s, "context_length", true, 1, TDM_CONTEXT_MAX, &c->context), done);
    c->head_dim = c->width / c->heads;
    TDM_TRY(st, get_int(s, "attention.key_length", false, 1, TDM_HEAD_DIM_MAX, &c->head_dim), done);
    value_dim = rope_dim = c->head_dim;
    TDM_TRY(st, get_int(s, "attention.value_length", false, 1, TDM_HEAD_DIM_MAX, &value_dim), done);
    if (value_dim != c->head_dim)
        return REFUSE(s, "keys of width %" PRId64 " and values of width %" PRId64 " are not supported", c->head_dim,
                      value_dim);
    TDM_TRY(st, get_int(s, "rope.dimension_count", false, 0, INT32_MAX, &rope_dim), done);
    if (c->arch->partial_rotary && rope_dim >= 4 && rope_dim < c->head_dim && rope_dim % 4 == 0)
        c->rope_dim = rope_dim;
    else if (rope_dim != c->head_dim)
        return REFUSE(s, "partial rotation (%" PRId64 " of %" PRId64 " dimensions) is not supported", rope_dim,
                      c->head_dim);
    c->vocab = tdm_gguf_array_count(s->g, "tokenizer.ggml.tokens");
    TDM_TRY(st, get_int(s, "vocab_size", c->vocab < 0, 1, TDM_VOCAB_MAX, &c->vocab), done);
    if (c->vocab < 1 || c->vocab > TDM_VOCAB_MAX) return REFUSE(s, "a vocabulary of %" PRId64 " tokens", c->vocab);
done:
    return st;
}

/* Of Phi; the factors are tensors. */
static tdm_status read_long(tdm_model_config *c, const source *s, double attention)
{
    tdm_status st = TDM_OK;
    c->rope_original_context = c->context;
    TDM_TRY(st, get_int(s, "rope.scaling.original_context_length", false, 2, TDM_CONTEXT_MAX, &c->rope_original_context), done);
    tdm_rope_set_attention(c, attention, 0);
done:
    return st;
}

static tdm_status read_rope(tdm_model_config *c, const source *s)
{
    tdm_status st = TDM_OK;
    tdm_str type;
    char room[64];
    double attention = 0;
    c->rope_theta = 10000; /* llama.cpp's */
    c->rope_local_theta = c->arch->rope_local_theta;
    TDM_TRY(st, get_float(s, "rope.freq_base", false, 1, 1e15, &c->rope_theta), done);
    if (c->rope_local_theta > 0) TDM_TRY(st, get_float(s, "rope.freq_base_swa", false, 1, 1e15, &c->rope_local_theta), done);
    TDM_TRY(st, get_float(s, "rope.scaling.attn_factor", false, -1e6, 1e6, &attention), done);
    if (c->arch->longrope) return read_long(c, s, attention);
    if (attention < 0 || attention > 1 || (attention > 0 && attention < 1))
        return REFUSE(s, "rope.scaling.attn_factor %g is not supported", attention);
    c->rope_factor = 1;
    TDM_TRY(st, get_float(s, "rope.scale_linear", false, 1e-3, 1e6, &c->rope_factor),
            done); /* the key before rope.scaling.* */
    if (tdm_gguf_str(s->g, full_key(s, "rope.scaling.type", room, sizeof room), &type)) {
        if (str_is(type, "linear"))
            TDM_TRY(st, get_float(s, "rope.scaling.factor", true, 1e-3, 1e6, &c->rope_factor), done);
        else if (!str_is(type, "none"))
            return REFUSE(s, "rope.scaling.type %.*s is not supported, only linear",
                          (int)tdm_min_i64((int64_t)type.len, 64), type.data);
    }
    if (c->rope_factor < 1 || c->rope_factor > 1) c->rope = TDM_ROPE_LINEAR;
done:
    return st;
}

/* What llama.cpp reads from the presence of tensors. */
static void read_biases(tdm_model_config *c, const tdm_gguf *g)
{
    c->tied_head = true;
    for (int64_t i = 0; i < tdm_gguf_tensor_count(g); i++) {
        const char *name = tdm_gguf_tensor_at(g, i)->stored;
        if (strcmp(name, "output.weight") == 0) c->tied_head = false;
        if (strcmp(name, "blk.0.attn_q.bias") == 0) c->qkv_bias = true;
        if (strcmp(name, "blk.0.attn_output.bias") == 0) c->o_bias = true;
        if (strcmp(name, "blk.0.ffn_gate.bias") == 0) c->mlp_bias = true;
    }
    if (c->arch->qkv_bias) c->qkv_bias = true; /* missing ones are then named by the loader */
    c->qk_norm = c->arch->qk_norm;
    c->glu = c->arch->glu;
}

static tdm_status read_window(tdm_model_config *c, const source *s)
{
    tdm_status st = TDM_OK;
    int64_t window = 0;
    TDM_TRY(st, get_int(s, "attention.sliding_window", false, 0, INT64_MAX, &window), done);
    if (window == 0 || (window >= c->context && c->rope_local_theta <= 0)) goto done;
    if (c->arch->windows == TDM_WINDOW_UPPER)
        return REFUSE(s, "%s.attention.sliding_window: which layers have it is not written in GGUF", s->arch);
    c->window = window;
    for (int64_t i = 0; i < c->layers; i++)
        c->sliding[i] = c->arch->windows != TDM_WINDOW_PATTERN || (i + 1) % c->arch->window_pattern != 0;
done:
    return st;
}

static tdm_status read_special(tdm_model_config *c, const source *s)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    tdm_status st = TDM_OK;
    int64_t id;
    c->bos = -1;
    if (tdm_gguf_int(s->g, "tokenizer.ggml.bos_token_id", &id) && id >= 0 && id < c->vocab) c->bos = (int32_t)id;
    for (size_t i = 0; i < TDM_COUNT(ends); i++)
        if (tdm_gguf_int(s->g, ends[i], &id)) TDM_TRY(st, tdm_model_config_add_eos(c, id, s->where, s->err), done);
done:
    return st;
}

tdm_status tdm_model_config_from_gguf(tdm_model_config *c, const tdm_gguf *g, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    double eps = 0;
    source s = {.g = g, .where = where, .err = err};
    *c = (tdm_model_config){.bos = -1};
    TDM_TRY(st, read_arch(c, &s), done);
    TDM_TRY(st, read_shape(c, &s), done);
    TDM_TRY(st, get_float(&s, "attention.layer_norm_rms_epsilon", true, 1e-30, 1, &eps), done);
    c->norm_eps = (float)eps;
    TDM_TRY(st, read_rope(c, &s), done);
    TDM_TRY(st, read_window(c, &s), done);
    read_biases(c, g);
    if (c->arch->read_gguf) TDM_TRY(st, c->arch->read_gguf(c, g, where, err), done);
    TDM_TRY(st, read_special(c, &s), done);
    TDM_TRY(st, tdm_model_config_check(c, where, err), done);
done:
    return st;
}
