/* The merged BF16 model in another form: FP8, or one GGUF file. */
#include "runtime/cmd/export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cmd/gguf_out.h"
#include "runtime/cmd/quantize.h"
#include "runtime/text/tokenizer.h"

/* A folder beside `output` for the BF16 model. */
static tdm_status name_whole(const char *output, char whole[TDM_PATH_BYTES], tdm_error *err)
{
    if (snprintf(whole, TDM_PATH_BYTES, "%s.bf16-%ld", output, (long)getpid()) < TDM_PATH_BYTES) return TDM_OK;
    whole[0] = 0;
    return TDM_FAIL(err, TDM_ERR_RECIPE, output, "use a shorter path", "the path is too long");
}

/* ---- GGUF ---- */

/* The tokenizers of two models on the text. */
static tdm_status compare_ids(const char *a, const char *b, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *const path[2] = {a, b};
    tdm_tokenizer *t[2] = {NULL}; /* owned here */
    tdm_ids ids[2] = {{0}};       /* owned here */
    for (int i = 0; i < 2; i++) {
        TDM_TRY(st, tdm_tokenizer_open(&t[i], path[i], NULL, err), done);
        TDM_TRY(st, tdm_tokenizer_encode(t[i], tdm_merge_words, strlen(tdm_merge_words), true, &ids[i], err), done);
    }
    if (ids[0].count != ids[1].count || memcmp(ids[0].data, ids[1].data, (size_t)ids[0].count * sizeof *ids[0].data) != 0)
        st = TDM_FAIL(err, TDM_ERR_INPUT, a, "export --what merged, and convert the folder with llama.cpp", "the tokenizer cannot be said in a GGUF: other ids");
done:
    for (int i = 0; i < 2; i++) {
        tdm_ids_free(&ids[i]);
        tdm_tokenizer_close(t[i]);
    }
    return st;
}

tdm_status tdm_export_gguf(tdm_merge *m, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char whole[TDM_PATH_BYTES] = "", partial[TDM_PATH_BYTES] = "";
    struct stat info;
    const char *output = m->output;
    if (tdm_fs_is_file(output) || tdm_fs_is_dir(output))
        return TDM_FAIL(err, TDM_ERR_RECIPE, output, "give a file that does not exist", "there is something of this name already");
    TDM_TRY(st, name_whole(output, whole, err), done);
    if (snprintf(partial, sizeof partial, "%s/model.gguf", whole) >= (int)sizeof partial) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, output, "use a shorter path", "the path is too long");
        goto done;
    }
    m->output = whole;
    TDM_TRY(st, tdm_export_merged(m, err), done);
    TDM_TRY(st, tdm_gguf_model_write(whole, partial, err), done);
    TDM_TRY(st, compare_ids(whole, partial, err), done);
    TDM_TRY(st, tdm_merge_compare(m, partial, NULL, &m->difference, err), done);
    if (stat(partial, &info) == 0) m->bytes = (size_t)info.st_size;
    TDM_TRY(st, tdm_fs_rename(partial, output, err), done);
done:
    m->output = output;
    if (whole[0]) tdm_fs_remove_tree(whole, NULL);
    return st;
}

/* ---- FP8 ---- */

tdm_status tdm_export_requantized(tdm_merge *m, tdm_scheme scheme, const char *format, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char whole[TDM_PATH_BYTES];
    const char *output = m->output;
    tdm_model_out probe = {0}; /* owned here */
    tdm_session_spec spec = {.model = whole, .weights = m->base.weights, .budget_bytes = m->base.budget_bytes, .where = m->base.where,
                             .threads = m->base.threads};
    const char **keep = NULL; /* owned here */
    tdm_quantize q = {.output = output, .format = format, .shard_bytes = m->shard_bytes};
    uint64_t hash = 0;
    spec.weights.scheme = scheme;
    spec.weights.scheme_given = true;
    spec.weights.act = TDM_ACT_DYNAMIC; /* static scales were found without the adapter */
    spec.weights.activation_scales = NULL;
    spec.weights.fp8_head = spec.weights.fp8_embedding = false;
    whole[0] = 0;
    TDM_TRY(st, tdm_model_out_open(&probe, output, err), done); /* a name that cannot be used is refused before the work */
    tdm_model_out_close(&probe);
    TDM_TRY(st, name_whole(output, whole, err), done);
    m->output = whole;
    TDM_TRY(st, tdm_export_merged(m, err), done);
    if (m->kept_count >= 0) {
        keep = calloc((size_t)m->kept_count + 1, sizeof *keep);
        if (!keep) {
            st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for names");
            goto done;
        }
        for (int64_t i = 0; i < m->kept_count; i++) keep[i] = m->kept[i];
        spec.weights.keep_bf16 = keep;
        spec.weights.first_layers_bf16 = spec.weights.last_layers_bf16 = 0;
    }
    TDM_TRY(st, tdm_quantize_model(&q, &spec, err), done);
    TDM_TRY(st, tdm_merge_compare(m, output, &hash, &m->difference, err), undo);
    if (hash != q.hash) st = TDM_FAIL(err, TDM_ERR_OTHER, output, "is the disk sound?", "what was written reads back otherwise");
    m->bytes = q.bytes;
undo:
    if (st != TDM_OK) tdm_fs_remove_tree(output, NULL);
done:
    m->output = output;
    tdm_model_out_close(&probe);
    if (whole[0]) tdm_fs_remove_tree(whole, NULL);
    free(keep);
    return st;
}
