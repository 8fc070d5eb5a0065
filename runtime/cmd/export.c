/* tandem export: a run's adapter for other programs, or its model with the adapter merged in. */
#include "runtime/cmd/export.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/fp8_checkpoint.h"
#include "memory/hash.h"
#include "runtime/cmd/quantize.h"
#include "runtime/cmd/commands.h"
#include "runtime/cmd/model_options.h"
#include "runtime/recipe/recipe.h"
#include "runtime/run/checkpoint.h"

enum { OWN_OPTIONS = 6 };

typedef struct request {
    tdm_model_options model;
    const char *run, *what, *output, *tokenizer, *scheme, *format;
    tdm_scheme fp8; /* BF16: no --scheme */
    bool gguf;      /* --scheme q8_0 */
    double shard_gb;
    bool merged;
} request;

/* The model's options without the KV cache's, and on the CPU; they override what the run's recipe says of the model. */
static int make_options(request *q, tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS])
{
    tdm_option all[TDM_MODEL_OPTIONS];
    int n = 0;
    tdm_model_options_table(&q->model, all);
    options[n++] = (tdm_option){"--what",
                                TDM_OPTION_TEXT,
                                &q->what,
                                0,
                                0,
                                "adapter|merged",
                                "the PEFT folder, or a model with the adapter in it",
                                NULL};
    options[n++] = (tdm_option){"--scheme", TDM_OPTION_TEXT, &q->scheme, 0, 0, "S", "of the merged model: bf16 (default), fp8_channel, fp8_block, fp8_tensor, or q8_0: one GGUF file", NULL};
    options[n++] = (tdm_option){"--format", TDM_OPTION_TEXT, &q->format, 0, 0, "F", "of an FP8 model: compressed-tensors, or fp8 (default for fp8_block)", NULL};
    options[n++] = (tdm_option){"--output", TDM_OPTION_TEXT, &q->output, 0, 0, "D", "folder to make", NULL};
    for (int i = 0; i < TDM_MODEL_OPTIONS; i++)
        if (strcmp(all[i].name, "--kv") != 0 && strcmp(all[i].name, "--device") != 0) options[n++] = all[i];
    options[n++] = (tdm_option){
        "--tokenizer", TDM_OPTION_TEXT, &q->tokenizer, 0, 0, "D", "take the tokenizer files from this folder", NULL};
    options[n++] = (tdm_option){
        "--shard-gb", TDM_OPTION_REAL, &q->shard_gb, 1e-6, 1e6, "N", "split files above N * 10^9 bytes (default 5)",
        NULL};
    return n;
}

static tdm_status check(request *q, tdm_error *err)
{
    if (!q->what || (strcmp(q->what, "adapter") != 0 && strcmp(q->what, "merged") != 0))
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --what adapter or --what merged", "%s%.64s%s",
                        q->what ? "--what does not know \"" : "what to export was not said", q->what ? q->what : "",
                        q->what ? "\"" : "");
    q->merged = strcmp(q->what, "merged") == 0;
    if (!q->output) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --output FOLDER", "no output was named");
    q->gguf = q->scheme && strcmp(q->scheme, "q8_0") == 0;
    while (q->scheme && !q->gguf && strcmp(q->scheme, tdm_scheme_text(q->fp8)) != 0)
        if (q->fp8++ == TDM_SCHEME_FP8_BLOCK)
            return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "bf16, fp8_channel, fp8_block, fp8_tensor or q8_0", "--scheme does not know \"%.64s\"", q->scheme);
    if (q->scheme && !q->merged)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --scheme", "use --what merged, or remove it", "an adapter is not quantized");
    if (q->format && q->fp8 == TDM_SCHEME_BF16)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --format", "give --scheme fp8_channel, fp8_block or fp8_tensor", "%s model has one format", q->gguf ? "a GGUF" : "a BF16");
    const tdm_quantize as = {.format = q->format};
    const tdm_status known = tdm_quantize_check(&as, err);
    if (known != TDM_OK) return known;
    if (q->run && q->model.adapter)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "leave one of them out",
                        "both a run and --adapter were given");
    if (q->run) return TDM_OK;
    if (!q->model.adapter)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give a run's folder, or --adapter D --model M",
                        "no run was named");
    if (!q->merged)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give a run's folder, or --what merged",
                        "--adapter is an exported adapter already");
    return TDM_OK;
}

/* RUN, RUN/checkpoints or one checkpoint: the newest complete one. */
static tdm_status find_checkpoint(const char *run, char out[TDM_PATH_BYTES], tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES];
    TDM_TRY(st, tdm_fs_join(out, run, "", err), done);
    TDM_TRY(st, tdm_fs_join(path, run, "SHA256SUMS", err), done);
    if (tdm_fs_is_file(path)) goto done;
    TDM_TRY(st, tdm_fs_join(path, run, "checkpoints", err), done);
    const char *dir = tdm_fs_is_dir(path) ? path : run;
    const int64_t step = tdm_checkpoint_newest(dir);
    if (step < 0) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, run, "name a run's folder, or one of its checkpoints/step-...",
                      "holds no complete checkpoint");
        goto done;
    }
    TDM_TRY(st, tdm_checkpoint_path(out, dir, step, err), done);
done:
    return st;
}

/* ---- adapter ---- */

/* The copy must have the bytes whose checksum was verified: it is hashed again. */
static tdm_status copy_checked(const tdm_model_out *o, const char *from, const char *name, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char a[TDM_PATH_BYTES], b[TDM_PATH_BYTES], hex_a[65], hex_b[65];
    bool copied;
    TDM_TRY(st, tdm_model_out_copy(o, from, name, &copied, err), done);
    TDM_TRY(st, tdm_fs_join(a, from, name, err), done);
    TDM_TRY(st, tdm_fs_join(b, o->tmp, name, err), done);
    TDM_TRY(st, tdm_sha256_file(a, hex_a, err), done);
    TDM_TRY(st, tdm_sha256_file(b, hex_b, err), done);
    if (strcmp(hex_a, hex_b) != 0)
        st = TDM_FAIL(err, TDM_ERR_OTHER, b, "is the disk sound?", "the copy differs from %s", name);
done:
    return st;
}

static tdm_status export_adapter(const request *q, const tdm_checkpoint *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_out out = {0}; /* owned here */
    json_t *result = NULL;   /* owned here */
    TDM_TRY(st, tdm_model_out_open(&out, q->output, err), done);
    TDM_TRY(st, copy_checked(&out, c->adapter_dir, "adapter_model.safetensors", err), done);
    TDM_TRY(st, copy_checked(&out, c->adapter_dir, "adapter_config.json", err), done);
    TDM_TRY(st, tdm_model_out_finish(&out, err), done);
    result = json_pack("{s:s,s:s,s:I}", "output", q->output, "what", "adapter", "step", (json_int_t)c->state.step);
    if (result) json_dumpf(result, stdout, JSON_COMPACT);
    printf("\n");
done:
    json_decref(result);
    tdm_model_out_close(&out);
    return st;
}

/* ---- merged ---- */

/* The base as the recipe has it, for what the command line leaves open. *as_trained: the same weights, so that their
 * hash must agree. */
static void base_of_run(const tdm_recipe *r, const request *q, tdm_session_spec *spec, bool *as_trained)
{
    const tdm_model_options *o = &q->model;
    const tdm_act_quant act = spec->weights.act;
    *as_trained = !o->weights && !o->keep_bf16 && !o->first_bf16 && !o->last_bf16 && !o->pow2 && !o->pow2_weights &&
                   !o->pow2_acts && !o->scales && !o->fp8_head && !o->fp8_embedding;
    if (!*as_trained) return;
    spec->weights = tdm_recipe_weights(r);
    if (o->activations) spec->weights.act = act;
    spec->where.weights = (tdm_weights_where){q->run, q->run, q->run, q->run};
}

static tdm_status merge(const request *q, tdm_merge *m, int64_t step, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *result = NULL; /* owned here */
    m->output = q->output;
    m->tokenizer = q->tokenizer;
    m->shard_bytes = (size_t)(q->shard_gb * 1e9);
    fprintf(stderr, "merging %s into %s\n", m->base.adapter_dir, m->base.model);
    TDM_TRY(st, q->gguf ? tdm_export_gguf(m, err) : q->fp8 == TDM_SCHEME_BF16 ? tdm_export_merged(m, err) : tdm_export_requantized(m, q->fp8, q->format, err), done);
    fprintf(stderr,
            "log-probabilities of base + adapter and of the merged model differ by at most %.3g over %" PRId64
            " tokens%s\n",
            (double)m->difference, m->compared,
            m->quantized_act && q->fp8 == TDM_SCHEME_BF16 ? "; the base quantizes activations, the merged model does not" : "");
    result = json_pack("{s:s,s:s,s:s,s:I,s:I,s:f}", "output", q->output, "what", "merged", "scheme", q->gguf ? "q8_0" : tdm_scheme_text(q->fp8), "bytes", (json_int_t)m->bytes,
                       "compared_tokens", (json_int_t)m->compared, "logprob_max_abs_diff", (double)m->difference);
    if (result && step >= 0) json_object_set_new(result, "step", json_integer(step));
    if (result) json_dumpf(result, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    printf("\n");
done:
    json_decref(result);
    free(m->kept);
    m->kept = NULL;
    return st;
}

static tdm_status merge_run(request *q, const tdm_checkpoint *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_recipe *r = NULL; /* owned here; m points into it */
    tdm_merge m = {0};
    bool as_trained;
    const char *yaml = json_string_value(json_object_get(c->state.recipe, "yaml"));
    if (!yaml)
        return TDM_FAIL(err, TDM_ERR_INPUT, c->path, "give --adapter D --model M instead",
                        "state.json holds no recipe");
    TDM_TRY(st, tdm_recipe_parse(&r, yaml, strlen(yaml), c->path, NULL, 0, err), done);
    if (!q->model.model) q->model.model = r->model.path;
    TDM_TRY(st, tdm_model_options_apply(&q->model, &m.base, err), done);
    base_of_run(r, q, &m.base, &as_trained);
    if (as_trained) m.base_hash = c->state.base_hash;
    m.base.adapter_dir = c->adapter_dir;
    TDM_TRY(st, merge(q, &m, c->state.step, err), done);
done:
    tdm_recipe_close(r);
    return st;
}

static tdm_status merge_adapter(request *q, tdm_error *err)
{
    tdm_merge m = {0};
    const tdm_status st = tdm_model_options_apply(&q->model, &m.base, err);
    return st == TDM_OK ? merge(q, &m, -1, err) : st;
}

static tdm_status export_run(request *q, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_checkpoint c = {0}; /* owned here */
    char path[TDM_PATH_BYTES];
    TDM_TRY(st, find_checkpoint(q->run, path, err), done);
    TDM_TRY(st, tdm_checkpoint_open(&c, path, err), done);
    st = q->merged ? merge_run(q, &c, err) : export_adapter(q, &c, err);
done:
    tdm_checkpoint_close(&c);
    return st;
}

tdm_status tdm_cmd_export(int argc, char **argv, tdm_error *err)
{
    request q = {.shard_gb = 5};
    tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS];
    const int count = make_options(&q, options);
    int plain;
    bool help;
    const tdm_command command = {.name = "tandem export",
                                 .summary =
                                     "A run's adapter for other programs, or its model with the adapter merged in.",
                                 .options = options,
                                 .count = count,
                                 .plain = &q.run,
                                 .plain_room = 1,
                                 .plain_name = "[RUN|CHECKPOINT]",
                                 .example = "tandem export runs/gsm8k --what merged --output models/gsm8k-merged"};
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, &plain, &help, err), done);
    if (help) return TDM_OK;
    TDM_TRY(st, check(&q, err), done);
    st = q.run ? export_run(&q, err) : merge_adapter(&q, err);
done:
    return st;
}
