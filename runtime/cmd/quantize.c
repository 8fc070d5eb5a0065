/* tandem quantize: an FP8 checkpoint that vLLM and transformers load. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "memory/fp8_checkpoint.h"
#include "runtime/cmd/commands.h"
#include "runtime/cmd/quantize.h"
#include "runtime/cmd/model_options.h"
#include "runtime/cmd/model_tensors.h"
#include "runtime/cmd/tokenizer_out.h"

enum { OWN_OPTIONS = 5 };

typedef struct request {
    tdm_model_options model;
    tdm_quantize out;
    double shard_gb;
} request;

/* The model's options without those that shape a run, and on the CPU; --weights is called --scheme here. */
static int make_options(request *q, tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS])
{
    tdm_option all[TDM_MODEL_OPTIONS];
    int n = 0;
    tdm_model_options_table(&q->model, all);
    for (int i = 0; i < TDM_MODEL_OPTIONS; i++) {
        if (strcmp(all[i].name, "--adapter") == 0 || strcmp(all[i].name, "--kv") == 0 || strcmp(all[i].name, "--device") == 0 ||
            strcmp(all[i].name, "--fp8-head") == 0 || strcmp(all[i].name, "--fp8-embedding") == 0)
            continue;
        options[n] = all[i];
        if (strcmp(all[i].name, "--weights") == 0) {
            options[n].name = "--scheme";
            options[n].help = "fp8_channel, fp8_block, fp8_tensor or bf16";
        }
        n++;
    }
    options[n++] = (tdm_option){"--output", TDM_OPTION_TEXT, &q->out.output, 0, 0, "D", "folder to make", NULL};
    options[n++] =
        (tdm_option){"--format",
                     TDM_OPTION_TEXT,
                     &q->out.format,
                     0,
                     0,
                     "F",
                     "compressed-tensors, or fp8 (default for fp8_block; fp8_tensor in it is for vLLM alone)",
                     NULL};
    options[n++] = (tdm_option){"--kv-scales", TDM_OPTION_FLAG, &q->out.kv, 0, 0, NULL, "write the scales of keys and values too (k_scale, v_scale)", NULL};
    options[n++] = (tdm_option){
        "--tokenizer", TDM_OPTION_TEXT, &q->out.tokenizer, 0, 0, "D", "take the tokenizer files from this folder", NULL};
    options[n++] = (tdm_option){
        "--shard-gb", TDM_OPTION_REAL, &q->shard_gb, 1e-6, 1e6, "N", "split files above N * 10^9 bytes (default 5)",
        NULL};
    return n;
}

static tdm_status check(const request *q, tdm_error *err)
{
    if (!q->model.weights)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --scheme fp8_channel, fp8_block, fp8_tensor or bf16",
                        "no scheme was named");
    if (!q->out.output) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --output FOLDER", "no output was named");
    return tdm_quantize_check(&q->out, err);
}

tdm_status tdm_quantize_check(const tdm_quantize *q, tdm_error *err)
{
    if (q->format && strcmp(q->format, "compressed-tensors") != 0 && strcmp(q->format, "fp8") != 0)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "compressed-tensors or fp8",
                        "--format does not know \"%.64s\"", q->format);
    return TDM_OK;
}

static tdm_fp8_format choose_format(const tdm_quantize *q, const tdm_fp8_layout *l)
{
    if (q->format) return strcmp(q->format, "fp8") == 0 ? TDM_FP8_FORMAT_FP8 : TDM_FP8_FORMAT_COMPRESSED;
    return l->scheme == TDM_SCHEME_FP8_BLOCK && l->act == TDM_ACT_DYNAMIC ? TDM_FP8_FORMAT_FP8
                                                                          : TDM_FP8_FORMAT_COMPRESSED;
}

static tdm_status write_folder(const tdm_quantize *q, tdm_model_out *out, const tdm_session *s, const tdm_fp8_layout *l,
                               tdm_fp8_format format, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_tensors tensors = {0}; /* owned here */
    json_t *quantization = NULL;     /* owned here */
    const bool inverse = format == TDM_FP8_FORMAT_FP8 && l->scheme == TDM_SCHEME_FP8_BLOCK;
    if (l->scheme != TDM_SCHEME_BF16) {
        quantization = tdm_quantization_json(s->weights, l, format, q->kv);
        if (!quantization) {
            st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for config.json");
            goto done;
        }
    }
    TDM_TRY(st, tdm_model_config_write(out, s->file, quantization, l->scheme == TDM_SCHEME_BF16, err), done);
    TDM_TRY(st, tdm_tokenizer_write(out, s->file, q->tokenizer, err), done);
    TDM_TRY(st, tdm_model_tensors_make(&tensors, s->weights, inverse ? "weight_scale_inv" : "weight_scale", q->kv, err), done);
    TDM_TRY(st, tdm_model_out_tensors(out, tensors.entry, tensors.count, NULL, NULL, q->shard_bytes, err),
            done);
done:
    json_decref(quantization);
    tdm_model_tensors_free(&tensors);
    return st;
}

/* vLLM computes q, k, v as one matrix, and gate, up: their parts must be quantized alike. */
static bool splits_fused(const tdm_weights *w)
{
    for (int64_t i = 0; i < tdm_weights_config(w)->layers; i++) {
        const tdm_weight *p = tdm_weights_layer(w, i)->proj;
        if (p[TDM_PROJ_K].codes.rows == 0) continue; /* the checkpoint has them fused */
        if (p[TDM_PROJ_Q].scheme != p[TDM_PROJ_K].scheme || p[TDM_PROJ_Q].scheme != p[TDM_PROJ_V].scheme) return true;
        if (p[TDM_PROJ_GATE].scheme != p[TDM_PROJ_UP].scheme) return true;
    }
    return false;
}

tdm_status tdm_quantize_model(tdm_quantize *q, const tdm_session_spec *given, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_out out = {0}; /* owned here */
    tdm_session s = {0};     /* owned here */
    tdm_session_spec spec = *given;
    spec.device = "cpu"; /* the weights are read in place */
    TDM_TRY(st, tdm_session_plan(&s, &spec, err), done);
    TDM_TRY(st, tdm_model_out_open(&out, q->output, err), done);
    fprintf(stderr, "reading %s as %s\n", spec.model, tdm_scheme_text(spec.weights.scheme));
    TDM_TRY(st, tdm_session_load(&s, err), done);
    TDM_TRY(st, tdm_fp8_layout_of(s.weights, spec.model, &q->layout, err), done);
    if (q->kv && (!tdm_weights_kv_scaled(s.weights) || q->layout.scheme == TDM_SCHEME_BF16)) {
        st = q->layout.scheme == TDM_SCHEME_BF16
                 ? TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --kv-scales", "use an FP8 scheme", "a BF16 checkpoint says nothing of the KV cache")
                 : TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --kv-scales", "run tandem calibrate and give --activation-scales FILE",
                            "keys and values have no scales");
        goto done;
    }
    q->written = choose_format(q, &q->layout);
    TDM_TRY(st, tdm_fp8_format_check(q->written, &q->layout, err), done);
    if (splits_fused(s.weights))
        fprintf(stderr, "note: transformers will load this, vLLM needs q_proj, k_proj and v_proj quantized alike, and "
                        "gate_proj and up_proj\n");
    TDM_TRY(st, write_folder(q, &out, &s, &q->layout, q->written, err), done);
    TDM_TRY(st, tdm_weights_hash(s.weights, &q->hash, err), done);
    q->bytes = out.bytes;
    q->shards = out.shards;
    TDM_TRY(st, tdm_model_out_finish(&out, err), done);
done:
    tdm_session_close(&s);
    tdm_model_out_close(&out);
    return st;
}

static void say(const tdm_quantize *q)
{
    json_t *result = json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I}", "output", q->output, "scheme",
                               tdm_scheme_text(q->layout.scheme), "format",
                               q->layout.scheme == TDM_SCHEME_BF16     ? "bf16"
                               : q->written == TDM_FP8_FORMAT_FP8 ? "fp8"
                                                                  : "compressed-tensors",
                               "modules_quantized", (json_int_t)q->layout.quantized, "modules_bf16",
                               (json_int_t)q->layout.kept, "bytes", (json_int_t)q->bytes, "files", (json_int_t)q->shards);
    if (result) json_dumpf(result, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(result);
}

tdm_status tdm_cmd_quantize(int argc, char **argv, tdm_error *err)
{
    request q = {.shard_gb = 5};
    tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS];
    const int count = make_options(&q, options);
    const tdm_command command = {
        .name = "tandem quantize",
        .summary = "Write an FP8 checkpoint that vLLM and transformers load.",
        .options = options,
        .count = count,
        .example = "tandem quantize --model models/Qwen3-0.6B --scheme fp8_channel --output models/Qwen3-0.6B-FP8"};
    tdm_status st = TDM_OK;
    tdm_session_spec spec = {0};
    bool help;
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, NULL, &help, err), done);
    if (help) return TDM_OK;
    TDM_TRY(st, check(&q, err), done);
    TDM_TRY(st, tdm_model_options_apply(&q.model, &spec, err), done);
    q.out.shard_bytes = (size_t)(q.shard_gb * 1e9);
    TDM_TRY(st, tdm_quantize_model(&q.out, &spec, err), done);
    say(&q.out);
done:
    return st;
}
