#include "memory/arch/arch.h"

#include <stdio.h>
#include <string.h>

static const tdm_arch *const all[] = {&tdm_arch_llama,   &tdm_arch_qwen2,  &tdm_arch_qwen3, &tdm_arch_qwen3_moe,
                                      &tdm_arch_mistral, &tdm_arch_gemma3, &tdm_arch_phi3};

/* Source: transformers, models/{gemma3,qwen3_vl,mistral3}/configuration_*.py. Positions of text are the same in all three parts of
 * Qwen3-VL's rotary embedding, so it turns as Qwen3's does. */
static const tdm_arch_towers towers[] = {{"gemma3", "gemma3_text", &tdm_arch_gemma3},
                                         {"qwen3_vl", "qwen3_vl_text", &tdm_arch_qwen3},
                                         {"mistral3", "mistral", &tdm_arch_mistral}};

const tdm_arch *tdm_arch_of_type(const char *model_type)
{
    for (size_t i = 0; i < TDM_COUNT(all); i++)
        if (strcmp(model_type, all[i]->model_type) == 0) return all[i];
    return NULL;
}

const tdm_arch *tdm_arch_of_gguf(const char *name, size_t bytes)
{
    for (size_t i = 0; i < TDM_COUNT(all); i++)
        if (all[i]->gguf && strlen(all[i]->gguf) == bytes && memcmp(name, all[i]->gguf, bytes) == 0) return all[i];
    return NULL;
}

const tdm_arch_towers *tdm_arch_towers_of(const char *model_type)
{
    for (size_t i = 0; i < TDM_COUNT(towers); i++)
        if (strcmp(model_type, towers[i].model_type) == 0) return &towers[i];
    return NULL;
}

bool tdm_arch_tower_name(const char *stored, char *out, size_t out_bytes)
{
    static const char *const heads[][2] = {{"model.language_model.", "model."},
                                           {"language_model.model.", "model."},
                                           {"language_model.lm_head.", "lm_head."},
                                           {"lm_head.", "lm_head."}};
    for (size_t i = 0; i < TDM_COUNT(heads); i++) {
        const size_t n = strlen(heads[i][0]);
        if (strncmp(stored, heads[i][0], n) == 0)
            return snprintf(out, out_bytes, "%s%s", heads[i][1], stored + n) < (int)out_bytes;
    }
    return false;
}
