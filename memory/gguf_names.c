#include "memory/gguf_names.h"

#include <stdio.h>
#include <string.h>

static const char *const outside[][2] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
static const char *const inside[][2] = {{"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
                                        {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
                                        {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
                                        {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                                        {"ffn_down", "mlp.down_proj"}};
/* Of a mixture of experts: the router, and all of a layer's experts in a tensor each. */
static const char *const experts[][2] = {{"ffn_gate_inp", "mlp.gate"},
                                         {"ffn_gate_exps", "mlp.experts.gate_proj"},
                                         {"ffn_up_exps", "mlp.experts.up_proj"},
                                         {"ffn_down_exps", "mlp.experts.down_proj"}};
static const char *const fused[][2] = {{"attn_qkv", "self_attn.qkv_proj"},
                                       {"attn_output", "self_attn.o_proj"},
                                       {"ffn_up", "mlp.gate_up_proj"},
                                       {"ffn_down", "mlp.down_proj"}};

/* transformers' name of a block's module; NULL: the family has none such. */
static const char *module_of(const tdm_arch *arch, const char *stem)
{
    const char *const norms[][2] = {{"attn_norm", arch->norm_attn},
                                    {"post_attention_norm", arch->norm_attn_out},
                                    {"ffn_norm", arch->norm_ffn},
                                    {"post_ffw_norm", arch->norm_ffn_out}};
    const char *const(*list)[2] = arch->fused ? fused : inside;
    const size_t count = arch->fused ? TDM_COUNT(fused) : TDM_COUNT(inside);
    for (size_t i = 0; i < TDM_COUNT(norms); i++)
        if (strcmp(stem, norms[i][0]) == 0) return norms[i][1];
    for (size_t i = 0; i < count; i++)
        if (strcmp(stem, list[i][0]) == 0) return list[i][1];
    for (size_t i = 0; arch->experts && i < TDM_COUNT(experts); i++)
        if (strcmp(stem, experts[i][0]) == 0) return experts[i][1];
    return NULL;
}

/* Splits "blk.3.attn_q.weight" into 3, "attn_q", "weight"; *layer -1 outside a block. */
static bool split(const char *name, int *layer, char stem[32], const char **suffix)
{
    const char *dot = strrchr(name, '.');
    *layer = -1;
    if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0)) return false;
    if (strncmp(name, "blk.", 4) == 0) {
        int digits = 0, n = 0;
        for (name += 4; *name >= '0' && *name <= '9' && digits < 5; name++, digits++) n = 10 * n + (*name - '0');
        if (digits == 0 || *name != '.' || (digits > 1 && name[-digits] == '0'))
            return false; /* "blk.007" would name a layer twice */
        *layer = n;
        name++;
    }
    if (dot < name || dot - name >= 32) return false;
    memcpy(stem, name, (size_t)(dot - name));
    stem[dot - name] = '\0';
    *suffix = dot + 1;
    return true;
}

bool tdm_gguf_name(const tdm_arch *arch, const char *stored, char *out, size_t out_bytes)
{
    int layer;
    char stem[32];
    const char *suffix;
    if (!split(stored, &layer, stem, &suffix)) return false;
    for (size_t i = 0; layer < 0 && i < TDM_COUNT(outside); i++)
        if (strcmp(stem, outside[i][0]) == 0)
            return snprintf(out, out_bytes, "%s.%s", outside[i][1], suffix) < (int)out_bytes;
    const char *module = layer >= 0 ? module_of(arch, stem) : NULL;
    return module && snprintf(out, out_bytes, "model.layers.%d.%s.%s", layer, module, suffix) < (int)out_bytes;
}

/* llama.cpp's stem of a module; NULL: none. */
static const char *stem_of(const tdm_arch *arch, const char *module)
{
    static const char *const norms[] = {"attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"};
    const char *const(*list)[2] = arch->fused ? fused : inside;
    const size_t count = arch->fused ? TDM_COUNT(fused) : TDM_COUNT(inside);
    for (size_t i = 0; i < TDM_COUNT(norms); i++)
        if (module_of(arch, norms[i]) && strcmp(module, module_of(arch, norms[i])) == 0) return norms[i];
    for (size_t i = 0; i < count; i++)
        if (strcmp(module, list[i][1]) == 0) return list[i][0];
    return NULL;
}

bool tdm_gguf_name_of(const tdm_arch *arch, const char *name, char *out, size_t out_bytes)
{
    int layer = -1, begin = 0;
    char module[64];
    const char *dot = strrchr(name, '.');
    if (!dot || (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0)) return false;
    if (sscanf(name, "model.layers.%4d.%n", &layer, &begin) != 1 || begin == 0) layer = -1, begin = 0;
    if (dot - name < begin || (size_t)(dot - name - begin) >= sizeof module) return false;
    snprintf(module, sizeof module, "%.*s", (int)(dot - name - begin), name + begin);
    for (size_t i = 0; layer < 0 && i < TDM_COUNT(outside); i++)
        if (strcmp(module, outside[i][1]) == 0) return snprintf(out, out_bytes, "%s%s", outside[i][0], dot) < (int)out_bytes;
    const char *stem = layer >= 0 ? stem_of(arch, module) : NULL;
    return stem && snprintf(out, out_bytes, "blk.%d.%s%s", layer, stem, dot) < (int)out_bytes;
}

bool tdm_gguf_name_permuted(const char *stored)
{
    int layer;
    char stem[32];
    const char *suffix;
    return split(stored, &layer, stem, &suffix) && layer >= 0 &&
           (strcmp(stem, "attn_q") == 0 || strcmp(stem, "attn_k") == 0);
}
