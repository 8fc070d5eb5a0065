/* base + adapter = one BF16 model. */
#include "runtime/cmd/export.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cmd/model_config_out.h"
#include "runtime/cmd/model_tensors.h"
#include "runtime/cmd/tokenizer_out.h"
#include "runtime/text/tokenizer.h"

enum { TEXT_TOKENS = TDM_MERGE_TOKENS, COMPARED_ROWS = 16 };

const char tdm_merge_words[] =
    "A train leaves the station at 9:40 and travels 120 miles in two hours. How fast is it going? "
    "Let us divide the distance by the time: 120 / 2 = 60, so its speed is 60 miles per hour.\n";

typedef struct merger {
    const tdm_session *s;
    const tdm_model_tensors *t;
    float *delta, *row; /* [K], scratch; one allocation */
    float e4m3[256];
} merger;

/* ---- the sum ---- */

static float bf16_at(tdm_cview v, int64_t row, int64_t col)
{
    return tdm_bf16_to_f32(((const uint16_t *)v.data)[row * v.stride + col]);
}

/* Row n of W: what the forward multiplies with, an e4m3 code times its f32 scale, or bf16. */
static void weight_row(const merger *m, const tdm_weight *w, int64_t n, float *out)
{
    const int64_t cols = w->codes.cols;
    if (w->scheme == TDM_SCHEME_BF16) {
        for (int64_t k = 0; k < cols; k++) out[k] = bf16_at(w->codes, n, k);
        return;
    }
    const uint8_t *codes = (const uint8_t *)w->codes.data + n * w->codes.stride;
    const float *scale = w->scale.data;
    if (w->scheme == TDM_SCHEME_FP8_CHANNEL) scale += n;
    if (w->scheme == TDM_SCHEME_FP8_BLOCK) scale += n / TDM_FP8_BLOCK * w->scale.stride;
    for (int64_t k = 0; k < cols; k++)
        out[k] = m->e4m3[codes[k]] * scale[w->scheme == TDM_SCHEME_FP8_BLOCK ? k / TDM_FP8_BLOCK : 0];
}

/* out[k] = bf16(W[n, k] + scale * sum over r of B[n, r] A[r, k]), r rising. */
static void merge_row(const merger *m, tdm_model_tensor of, int64_t n, uint16_t *out)
{
    const tdm_weight *w = of.w;
    const bool adapted = of.layer >= 0;
    const tdm_adapter *ad = &m->s->adapter;
    const tdm_cview a = adapted ? tdm_adapter_expert(ad, tdm_adapter_a(ad, of.layer, of.proj), of.proj, of.expert) : (tdm_cview){0},
                    b = adapted ? tdm_adapter_expert(ad, tdm_adapter_b(ad, of.layer, of.proj), of.proj, of.expert) : (tdm_cview){0};
    const int64_t cols = w->codes.cols;
    weight_row(m, w, n, m->row);
    for (int64_t k = 0; k < cols; k++) m->delta[k] = 0.0f;
    for (int64_t r = 0; a.data && r < a.rows; r++) {
        const float factor = bf16_at(b, n, r);
        const uint16_t *row = (const uint16_t *)a.data + r * a.stride;
        for (int64_t k = 0; k < cols; k++) m->delta[k] += factor * tdm_bf16_to_f32(row[k]);
    }
    for (int64_t k = 0; k < cols; k++) out[k] = tdm_f32_to_bf16(m->row[k] + m->s->adapter.scale * m->delta[k]);
}

static tdm_status fill(void *user, int64_t entry, int64_t row, int64_t rows, void *out, tdm_error *err)
{
    const merger *m = user;
    const int64_t cols = m->t->entry[entry].shape[1];
    for (int64_t i = 0; i < rows; i++) {
        uint16_t *to = (uint16_t *)out + i * cols;
        merge_row(m, m->t->of[entry], row + i, to);
        for (int64_t k = 0; k < cols; k++)
            if ((to[k] & 0x7f80u) == 0x7f80u)
                return TDM_FAIL(err, TDM_ERR_INPUT, m->t->entry[entry].name, "is it the adapter of this model?",
                                "the sum at row %" PRId64 " does not fit BF16", row + i);
    }
    return TDM_OK;
}

/* ---- checking ---- */

/* The first rows of a tensor in the written folder against the sum made anew; of a vector, against what was loaded. */
static tdm_status compare_tensor(const merger *m, const tdm_model_file *f, int64_t index, tdm_error *err)
{
    const tdm_st_entry *e = &m->t->entry[index];
    const tdm_tensor *t = tdm_model_file_find(f, e->name);
    const int64_t cols = e->shape[e->rank - 1], rows = e->rank == 2 ? tdm_min_i64(e->shape[0], COMPARED_ROWS) : 1;
    uint16_t *want = malloc((size_t)cols * sizeof *want); /* owned here */
    tdm_status st = TDM_OK;
    if (!want) return TDM_FAIL(err, TDM_ERR_OTHER, e->name, NULL, "out of memory for the check");
    for (int64_t i = 0; st == TDM_OK && i < rows; i++) {
        const int64_t row = e->rank == 2 ? i * (e->shape[0] - 1) / tdm_max_i64(rows - 1, 1) : 0;
        size_t bytes = 0;
        if (e->data)
            memcpy(want, (const uint16_t *)e->data + row * cols, (size_t)cols * sizeof *want);
        else
            merge_row(m, m->t->of[index], row, want);
        const void *have = t ? tdm_tensor_row(t, row, &bytes) : NULL;
        if (!have || bytes != (size_t)cols * sizeof *want || memcmp(have, want, bytes) != 0)
            st = TDM_FAIL(err, TDM_ERR_OTHER, e->name, "is the disk sound?", "what was written reads back otherwise");
    }
    free(want);
    return st;
}

static tdm_status compare_tensors(const merger *m, const char *folder, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_file *f = NULL; /* owned here */
    const int64_t layers = m->s->config->layers;
    TDM_TRY(st, tdm_model_file_open(&f, folder, err), done);
    for (int64_t i = 0; i < m->t->count; i++) {
        const int64_t layer = m->t->of[i].layer;
        if (layer > 0 && layer != layers / 2 && layer != layers - 1) continue;
        TDM_TRY(st, compare_tensor(m, f, i, err), done);
    }
done:
    tdm_model_file_close(f);
    return st;
}

/* ids of the fixed text; without a tokenizer, some of the vocabulary. Returns the count, at least 2. */
static tdm_status text_ids(const tdm_session *s, int32_t ids[TEXT_TOKENS], int64_t *count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES];
    tdm_tokenizer *t = NULL; /* owned here */
    tdm_ids made = {0};      /* owned here */
    const char *model = tdm_model_file_path(s->file);
    const tdm_gguf *g = tdm_model_file_gguf(s->file);
    *count = tdm_min_i64(TEXT_TOKENS, s->config->context);
    if (*count < 2) *count = 2;
    for (int64_t i = 0; i < *count; i++) ids[i] = (int32_t)(i * 7919 % s->config->vocab);
    TDM_TRY(st, tdm_fs_join(path, model, "tokenizer.json", err), done);
    if (!g && !tdm_fs_is_file(path)) goto done;
    TDM_TRY(st, tdm_tokenizer_open(&t, model, g, err), done);
    TDM_TRY(st, tdm_tokenizer_encode(t, tdm_merge_words, sizeof tdm_merge_words - 1, true, &made, err), done);
    if (made.count < 2) goto done;
    *count = tdm_min_i64(made.count, *count);
    for (int64_t i = 0; i < *count; i++)
        if (made.data[i] < s->config->vocab) ids[i] = made.data[i];
done:
    tdm_ids_free(&made);
    tdm_tokenizer_close(t);
    return st;
}

static tdm_status score(tdm_session *s, int32_t *ids, int64_t count, float *lp, tdm_error *err)
{
    const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    tdm_sequence seq = {.tokens = ids, .prompt = 1, .count = count, .room = count};
    tdm_train_item item = {.seq = &seq, .lp = lp};
    tdm_session_enter(s, TDM_PHASE_TRAIN);
    return tdm_trainer_score(s->trainer, tdm_session_adapter(s), &item, 1, &plain, err);
}

static void for_scoring(tdm_session_spec *spec)
{
    spec->train = spec->forward_only = true;
    spec->trainer = (tdm_trainer_spec){
        .micro_tokens = TEXT_TOKENS, .sequences = 1, .context = TEXT_TOKENS, .head_rows = TEXT_TOKENS};
}

/* The base is closed before the merged model is opened: one of them fits the budget, both need not. */
tdm_status tdm_merge_compare(const tdm_merge *m, const char *folder, uint64_t *hash, float *most, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_merge_text *of = &m->text;
    float merged[TEXT_TOKENS];
    tdm_session s = {0}; /* owned here */
    tdm_session_spec spec = {.device = "cpu",
                             .model = folder,
                             .weights = {.scheme = TDM_SCHEME_BF16, .act = TDM_ACT_DYNAMIC},
                             .kv_dtype = m->base.kv_dtype,
                             .budget_bytes = m->base.budget_bytes,
                             .where = m->base.where,
                             .threads = m->base.threads};
    for_scoring(&spec);
    TDM_TRY(st, tdm_session_plan(&s, &spec, err), done);
    TDM_TRY(st, tdm_session_load(&s, err), done);
    if (hash) TDM_TRY(st, tdm_weights_hash(s.weights, hash, err), done);
    int32_t ids[TEXT_TOKENS];
    memcpy(ids, of->ids, sizeof ids);
    TDM_TRY(st, score(&s, ids, of->count, merged, err), done);
    *most = 0.0f;
    for (int64_t i = 0; i < of->count - 1; i++) {
        const float d = fabsf(merged[i] - of->lp[i]);
        if (!(d <= *most)) *most = d; /* a NaN shows too */
    }
    if (!isfinite(*most))
        st = TDM_FAIL(err, TDM_ERR_OTHER, m->output, "are base and adapter of one model?",
                      "the merged model's log-probabilities are not numbers");
done:
    tdm_session_close(&s);
    return st;
}

/* ---- the folder ---- */

static tdm_status open_base(tdm_merge *m, tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_session_spec spec = m->base;
    spec.device = "cpu"; /* the weights are read in place */
    for_scoring(&spec);
    TDM_TRY(st, tdm_session_plan(s, &spec, err), done);
    TDM_TRY(st, tdm_session_load(s, err), done);
    for (int64_t i = 0; i < s->config->layers; i++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++)
            m->quantized_act |= tdm_layer_matrix(tdm_weights_layer(s->weights, i), (tdm_proj)p, 0)->act != TDM_ACT_NONE;
    uint64_t hash = 0;
    if (m->base_hash) TDM_TRY(st, tdm_weights_hash(s->weights, &hash, err), done);
    if (hash != m->base_hash)
        st = TDM_FAIL(err, TDM_ERR_INPUT, spec.model,
                      "give the model the run began with, or --weights to merge into another form of it",
                      "the base weights are not those of the checkpoint (hash %016" PRIx64 ", now %016" PRIx64 ")",
                      m->base_hash, hash);
done:
    return st;
}

/* What the base's author or the recipe kept in BF16. */
static tdm_status list_kept(tdm_merge *m, const tdm_session *s, tdm_error *err)
{
    const int64_t layers = s->config->layers;
    bool fp8 = false;
    free(m->kept);
    m->kept = calloc((size_t)(layers * TDM_PROJ_COUNT), sizeof *m->kept);
    m->kept_count = 0;
    if (!m->kept) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for names");
    for (int64_t i = 0; i < layers; i++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            const tdm_weight *w = &tdm_weights_layer(s->weights, i)->proj[p];
            if (w->codes.rows == 0) continue;
            if (w->scheme == TDM_SCHEME_BF16) tdm_module_name(s->config, m->kept[m->kept_count++], i, (tdm_proj)p);
            else fp8 = true;
        }
    if (!fp8) m->kept_count = -1;
    return TDM_OK;
}

static tdm_status write_folder(tdm_merge *m, tdm_model_out *out, const tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_tensors tensors = {0}; /* owned here */
    merger w = {.s = s, .t = &tensors};
    const int64_t widest = tdm_proj_widest(s->config);
    for (int i = 0; i < 256; i++) w.e4m3[i] = tdm_e4m3_to_f32((uint8_t)i);
    w.delta = malloc(2 * (size_t)widest * sizeof *w.delta);
    if (w.delta) w.row = w.delta + widest;
    if (!w.delta) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a row");
        goto done;
    }
    TDM_TRY(st, tdm_model_config_write(out, s->file, NULL, true, err), done);
    TDM_TRY(st, tdm_tokenizer_write(out, s->file, m->tokenizer, err), done);
    TDM_TRY(st, tdm_model_tensors_make(&tensors, s->weights, NULL, false, err), done);
    TDM_TRY(st, tdm_model_out_tensors(out, tensors.entry, tensors.count, fill, &w, m->shard_bytes, err), done);
    TDM_TRY(st, compare_tensors(&w, out->tmp, err), done);
    m->bytes = out->bytes;
done:
    free(w.delta);
    tdm_model_tensors_free(&tensors);
    return st;
}

tdm_status tdm_export_merged(tdm_merge *m, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_session s = {0};     /* owned here */
    tdm_model_out out = {0}; /* owned here */
    tdm_merge_text *of = &m->text;
    TDM_TRY(st, tdm_model_out_open(&out, m->output, err), done);
    TDM_TRY(st, open_base(m, &s, err), done);
    TDM_TRY(st, list_kept(m, &s, err), done);
    TDM_TRY(st, text_ids(&s, of->ids, &of->count, err), done);
    TDM_TRY(st, score(&s, of->ids, of->count, of->lp, err), done);
    TDM_TRY(st, write_folder(m, &out, &s, err), done);
    tdm_session_close(&s);
    TDM_TRY(st, tdm_merge_compare(m, out.tmp, NULL, &m->difference, err), done);
    m->compared = of->count - 1;
    TDM_TRY(st, tdm_model_out_finish(&out, err), done);
done:
    tdm_session_close(&s);
    tdm_model_out_close(&out);
    return st;
}
