#include "runtime/cmd/model_options.h"

#include <stdio.h>

#include <stdlib.h>
#include <string.h>

void tdm_model_options_table(tdm_model_options *o, tdm_option t[TDM_MODEL_OPTIONS])
{
    *o = (tdm_model_options){0};
    int i = 0;
    t[i++] = (tdm_option){"--model", TDM_OPTION_TEXT, &o->model, 0, 0, "M", "folder of safetensors with config.json, or a .gguf file", NULL};
    t[i++] = (tdm_option){"--adapter", TDM_OPTION_TEXT, &o->adapter, 0, 0, "D", "PEFT adapter folder", NULL};
    t[i++] = (tdm_option){"--weights", TDM_OPTION_TEXT, &o->weights, 0, 0, "SCHEME", "bf16, fp8_tensor, fp8_channel or fp8_block (default: as stored; bf16 for a float model)", NULL};
    t[i++] = (tdm_option){"--activations", TDM_OPTION_TEXT, &o->activations, 0, 0, "A", "dynamic (default), static or none", NULL};
    t[i++] = (tdm_option){"--activation-scales", TDM_OPTION_TEXT, &o->scales, 0, 0, "F", "file of tandem calibrate, for static activations and an FP8 KV cache", NULL};
    t[i++] = (tdm_option){"--pow2-scale", TDM_OPTION_FLAG, &o->pow2, 0, 0, NULL, "round scales up to powers of two", NULL};
    t[i++] = (tdm_option){"--pow2-weight-scales", TDM_OPTION_FLAG, &o->pow2_weights, 0, 0, NULL, "only those of weights", NULL};
    t[i++] = (tdm_option){"--pow2-activation-scales", TDM_OPTION_FLAG, &o->pow2_acts, 0, 0, NULL, "only those of activations", NULL};
    t[i++] = (tdm_option){"--first-layers-bf16", TDM_OPTION_INT, &o->first_bf16, 0, 10000, "N", "layers kept whole at the start", NULL};
    t[i++] = (tdm_option){"--last-layers-bf16", TDM_OPTION_INT, &o->last_bf16, 0, 10000, "N", "layers kept whole at the end", NULL};
    t[i++] = (tdm_option){"--keep-bf16", TDM_OPTION_TEXT, &o->keep_bf16, 0, 0, "NAME", "modules whose name holds NAME stay BF16", NULL};
    t[i++] = (tdm_option){"--fp8-head", TDM_OPTION_FLAG, &o->fp8_head, 0, 0, NULL, "the head in FP8 by row", NULL};
    t[i++] = (tdm_option){"--fp8-embedding", TDM_OPTION_FLAG, &o->fp8_embedding, 0, 0, NULL, "the input embedding in FP8 by row", NULL};
    t[i++] = (tdm_option){"--kv", TDM_OPTION_TEXT, &o->kv, 0, 0, "T", "KV cache: bf16 (default) or fp8", NULL};
    t[i++] = (tdm_option){"--budget", TDM_OPTION_TEXT, &o->budget, 0, 0, "SIZE", "memory budget, \"8GiB\" (default: what is free)", NULL};
    t[i++] = (tdm_option){"--device", TDM_OPTION_TEXT, &o->device, 0, 0, "D", "auto (default), cpu or cuda", NULL};
    t[i++] = (tdm_option){"--exact", TDM_OPTION_FLAG, &o->exact, 0, 0, NULL, "batch-invariant kernels only, as numerics: exact has them", NULL};
    t[i++] = (tdm_option){"--threads", TDM_OPTION_INT, &o->threads, 0, 4096, "N", "CPU threads (default: all this process may use)", NULL};
    TDM_ASSERT_EQ(i, TDM_MODEL_OPTIONS);
}

static tdm_status word(const char *option, const char *given, const char *const *words, int *index, tdm_error *err)
{
    char all[128] = "";
    int n = 0;
    for (; words[n]; n++) {
        if (strcmp(given, words[n]) == 0) {
            *index = n;
            return TDM_OK;
        }
        if (n) strncat(all, ", ", sizeof all - strlen(all) - 1);
        strncat(all, words[n], sizeof all - strlen(all) - 1);
    }
    char hint[160];
    const char *near = tdm_nearest(given, words, n);
    if (near) snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    else snprintf(hint, sizeof hint, "one of %s", all);
    return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", hint, "%s does not know \"%.64s\"", option, given);
}

static tdm_status size_of(const char *text, int64_t *bytes, tdm_error *err)
{
    static const struct { const char *name; double factor; } units[] = {
        {"", 1}, {"B", 1}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
    char *end;
    const double v = strtod(text, &end);
    while (*end == ' ') end++;
    for (size_t i = 0; i < TDM_COUNT(units); i++)
        if (end != text && v > 0 && v * units[i].factor < 0x1p60 && strcmp(end, units[i].name) == 0) {
            *bytes = (int64_t)(v * units[i].factor);
            return TDM_OK;
        }
    return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "a size is a number and a unit: 8GiB, 500MiB", "--budget does not read \"%.64s\"", text);
}

tdm_status tdm_model_options_apply(tdm_model_options *o, tdm_session_spec *spec, tdm_error *err)
{
    static const char *const schemes[] = {"bf16", "fp8_tensor", "fp8_channel", "fp8_block", NULL};
    static const char *const acts[] = {"none", "dynamic", "static", NULL};
    static const char *const kvs[] = {"bf16", "fp8", NULL};
    tdm_status st = TDM_OK;
    int i = 0;
    if (!o->model) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --model FOLDER or --model FILE.gguf", "no model was named");
    spec->model = o->model;
    spec->adapter_dir = o->adapter;
    spec->threads = (int)o->threads;
    spec->device = o->device;
    spec->exact = o->exact;
    spec->kv_dtype = TDM_DTYPE_BF16;
    spec->where = (tdm_session_where){.device = "command line: --device", .budget = "command line: --budget",
                                      .weights = {.first_layers_bf16 = "command line: --first-layers-bf16",
                                                  .last_layers_bf16 = "command line: --last-layers-bf16",
                                                  .keep_bf16 = "command line: --keep-bf16",
                                                  .fp8_head = o->fp8_head ? "command line: --fp8-head" : "command line: --fp8-embedding"}};
    spec->weights = (tdm_weights_options){.scheme = TDM_SCHEME_BF16, .act = TDM_ACT_DYNAMIC,
                                          .pow2_weights = o->pow2 || o->pow2_weights, .pow2_acts = o->pow2 || o->pow2_acts,
                                          .activation_scales = o->scales, .fp8_head = o->fp8_head, .fp8_embedding = o->fp8_embedding,
                                          .first_layers_bf16 = o->first_bf16, .last_layers_bf16 = o->last_bf16};
    if (o->weights) {
        TDM_TRY(st, word("--weights", o->weights, schemes, &i, err), done);
        spec->weights.scheme = (tdm_scheme)i;
        spec->weights.scheme_given = true;
    }
    if (o->activations) {
        TDM_TRY(st, word("--activations", o->activations, acts, &i, err), done);
        spec->weights.act = (tdm_act_quant)i;
    }
    if (o->kv) {
        TDM_TRY(st, word("--kv", o->kv, kvs, &i, err), done);
        spec->kv_dtype = i ? TDM_DTYPE_E4M3 : TDM_DTYPE_BF16;
    }
    if (o->budget) TDM_TRY(st, size_of(o->budget, &spec->budget_bytes, err), done);
    if (o->keep_bf16) {
        o->keep_list[0] = o->keep_bf16;
        spec->weights.keep_bf16 = o->keep_list;
    }
done:
    return st;
}
