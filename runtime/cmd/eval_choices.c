/* Source: lm-evaluation-harness, api/task.py (process_results of multiple_choice) and api/model.py (_encode_pair). */
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cmd/eval.h"
#include "runtime/data/choices.h"
#include "runtime/data/dataset.h"
#include "runtime/run/language.h"

enum { METRICS = 3, BATCH = 64 /* rows scored together */ };
static const char *const metric_names[METRICS] = {"acc", "acc_norm", "acc_bytes"};

/* One choice of one row, as tokens. */
typedef struct option {
    tdm_sequence seq; /* tokens owned */
    float *lp;        /* owned; [count - prompt] */
    double chars, bytes;
} option;

typedef struct evaluation {
    tdm_session session;
    tdm_language language;
    tdm_dataset *data;
    option *option;        /* owned; [option_count] */
    int64_t *first;        /* owned; [rows + 1] of a row */
    int *gold;             /* owned; [rows] */
    tdm_train_item *item;  /* owned; [BATCH * TDM_CHOICES_MAX] */
    int64_t rows, option_count, option_room, longest;
    int64_t right[METRICS];
    FILE *samples;
} evaluation;

/* ---- Tokens ------------------------------------------------------------------------------------------------------------------ */

static double characters(const char *text)
{
    int64_t n = 0;
    for (const char *p = text; *p; p++) n += ((unsigned char)*p & 0xc0u) != 0x80u;
    return (double)n;
}

/* The context's tokens are those it has alone, without the spaces it ends in; the rest of what both are together is the choice's. */
static tdm_status encode_pair(const evaluation *e, const char *context, const char *choice, const char *where, tdm_ids *whole, int64_t *prompt,
                              tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_ids alone = {0};  /* owned here */
    tdm_text both = {0}; /* owned here */
    size_t n = strlen(context);
    TDM_TRY(st, tdm_text_append(&both, context, n, err), done);
    TDM_TRY(st, tdm_text_append(&both, " ", 1, err), done);
    TDM_TRY(st, tdm_text_append(&both, choice, strlen(choice), err), done);
    while (n > 0 && isspace((unsigned char)context[n - 1])) n--;
    if (n == 0) { /* what begins a text stands for the context */
        const int32_t bos = tdm_tokenizer_bos(e->language.tokenizer), start = bos >= 0 ? bos : tdm_tokenizer_eos(e->language.tokenizer);
        if (start < 0) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "give the row a context", "the context is empty, and the tokenizer has no token that begins a text");
            goto done;
        }
        TDM_TRY(st, tdm_ids_push(whole, start, err), done);
        TDM_TRY(st, tdm_tokenizer_encode(e->language.tokenizer, both.data, both.len, false, whole, err), done);
        *prompt = 1;
        goto done;
    }
    TDM_TRY(st, tdm_tokenizer_encode(e->language.tokenizer, context, n, true, &alone, err), done);
    TDM_TRY(st, tdm_tokenizer_encode(e->language.tokenizer, both.data, both.len, true, whole, err), done);
    *prompt = alone.count;
done:
    tdm_ids_free(&alone);
    tdm_text_free(&both);
    return st;
}

static tdm_status add_option(evaluation *e, const char *context, const char *choice, int64_t longest, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_ids whole = {0}; /* taken by the option */
    int64_t prompt = 0;
    if (e->option_count == e->option_room) {
        const int64_t room = tdm_max_i64(256, 2 * e->option_room);
        option *more = realloc(e->option, (size_t)room * sizeof *more);
        if (!more) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the questions");
        e->option = more;
        e->option_room = room;
    }
    TDM_TRY(st, encode_pair(e, context, choice, where, &whole, &prompt, err), done);
    const int64_t over = tdm_max_i64(0, whole.count - longest); /* cut at the left, as the harness does */
    if (whole.count <= prompt || prompt - over < 1) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "leave the row out", whole.count <= prompt ? "a choice adds no token to its context" : "a choice is longer than the model's context");
        goto done;
    }
    option *o = &e->option[e->option_count];
    *o = (option){.chars = characters(choice), .bytes = (double)strlen(choice), .lp = calloc((size_t)(whole.count - prompt), sizeof *o->lp)};
    if (!o->lp) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the questions");
        goto done;
    }
    memmove(whole.data, whole.data + over, (size_t)(whole.count - over) * sizeof *whole.data);
    o->seq = (tdm_sequence){.tokens = whole.data, .prompt = prompt - over, .count = whole.count - over, .room = whole.count};
    e->longest = tdm_max_i64(e->longest, o->seq.count);
    e->option_count++;
    whole = (tdm_ids){0};
done:
    tdm_ids_free(&whole);
    return st;
}

static tdm_status read_row(evaluation *e, int64_t i, const char *task, int64_t longest, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *row = NULL;  /* owned here */
    tdm_choices c = {0}; /* owned here */
    char where[512];
    tdm_dataset_where(e->data, i, where);
    TDM_TRY(st, tdm_dataset_row(e->data, i, &row, err), done);
    TDM_TRY(st, tdm_choices_read(&c, task, row, where, err), done);
    e->gold[i] = c.gold;
    e->first[i] = e->option_count;
    for (int k = 0; k < c.count; k++) TDM_TRY(st, add_option(e, c.context, c.text[k], longest, where, err), done);
done:
    json_decref(row);
    tdm_choices_free(&c);
    return st;
}

static tdm_status prepare(evaluation *e, tdm_session_spec *spec, const char *task, const char *file, int64_t limit, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_file *model = NULL; /* owned here */
    TDM_TRY(st, tdm_model_file_open(&model, spec->model, err), done);
    const int64_t context = tdm_model_file_config(model)->context;
    TDM_TRY(st, tdm_language_open(&e->language, model, err), done);
    TDM_TRY(st, tdm_dataset_open(&e->data, file, err), done);
    e->rows = tdm_dataset_rows(e->data);
    if (limit > 0) e->rows = tdm_min_i64(e->rows, limit);
    e->first = calloc((size_t)e->rows + 1, sizeof *e->first);
    e->gold = calloc((size_t)e->rows, sizeof *e->gold);
    e->item = calloc((size_t)BATCH * TDM_CHOICES_MAX, sizeof *e->item);
    if (!e->first || !e->gold || !e->item) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the questions");
        goto done;
    }
    for (int64_t i = 0; i < e->rows; i++) TDM_TRY(st, read_row(e, i, task, context, err), done);
    e->first[e->rows] = e->option_count;
    spec->train = spec->forward_only = true;
    spec->trainer = (tdm_trainer_spec){.micro_tokens = tdm_max_i64(e->longest, 2048), .sequences = 256, .context = e->longest, .head_rows = 128};
    TDM_TRY(st, tdm_session_plan(&e->session, spec, err), done);
    TDM_TRY(st, tdm_session_load(&e->session, err), done);
done:
    tdm_model_file_close(model);
    return st;
}

/* ---- Scores ------------------------------------------------------------------------------------------------------------------ */

/* A dynamic per-tensor scale is that of the call: each choice then is a call of its own, so that its company does not change it. */
static tdm_status score(evaluation *e, int64_t first, int64_t count, tdm_error *err)
{
    const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    const int64_t together = tdm_weights_batch_dependent(e->session.weights) ? 1 : count;
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < count; i++) e->item[i] = (tdm_train_item){.seq = &e->option[first + i].seq, .lp = e->option[first + i].lp};
    for (int64_t i = 0; i < count; i += together)
        TDM_TRY(st, tdm_trainer_score(e->session.trainer, tdm_session_adapter(&e->session), e->item + i, together, &plain, err), done);
done:
    return st;
}

static double sum_of(const option *o)
{
    double sum = 0;
    for (int64_t t = 0; t < o->seq.count - o->seq.prompt; t++) sum += (double)o->lp[t];
    return sum;
}

/* The first of the greatest. A choice without a letter divides by 0: minus infinity. */
static void judge(evaluation *e, int64_t row)
{
    const int64_t first = e->first[row], count = e->first[row + 1] - first;
    int64_t best[METRICS] = {0};
    double most[METRICS] = {-INFINITY, -INFINITY, -INFINITY};
    json_t *sums = json_array(), *line; /* owned here */
    for (int64_t k = 0; k < count; k++) {
        const option *o = &e->option[first + k];
        const double sum = sum_of(o), value[METRICS] = {sum, sum / o->chars, sum / o->bytes};
        for (int m = 0; m < METRICS; m++)
            if (value[m] > most[m]) {
                most[m] = value[m];
                best[m] = k;
            }
        json_array_append_new(sums, json_real(sum));
    }
    for (int m = 0; m < METRICS; m++) e->right[m] += best[m] == e->gold[row];
    line = e->samples ? json_pack("{s:I,s:O,s:i,s:b,s:b,s:b}", "row", (json_int_t)row, "logprobs", sums, "gold", e->gold[row], metric_names[0],
                                  best[0] == e->gold[row], metric_names[1], best[1] == e->gold[row], metric_names[2], best[2] == e->gold[row])
                      : NULL;
    if (line) json_dumpf(line, e->samples, JSON_COMPACT | JSON_REAL_PRECISION(12));
    if (line) fputc('\n', e->samples);
    json_decref(sums);
    json_decref(line);
}

static void say(const evaluation *e, const char *task, double seconds)
{
    const double n = (double)e->rows;
    printf("{\"task\":\"%s\"", task);
    for (int m = 0; m < METRICS; m++) {
        const double p = (double)e->right[m] / n;
        printf(",\"%s\":%.9g,\"%s_stderr\":%.9g", metric_names[m], p, metric_names[m], e->rows > 1 ? sqrt(p * (1.0 - p) / (n - 1.0)) : 0.0);
    }
    printf(",\"n\":%" PRId64 ",\"choices\":%" PRId64 ",\"seconds\":%.3f}\n", e->rows, e->option_count, seconds);
}

static void close_all(evaluation *e)
{
    for (int64_t i = 0; i < e->option_count; i++) {
        free(e->option[i].seq.tokens);
        free(e->option[i].lp);
    }
    free(e->option);
    free(e->first);
    free(e->gold);
    free(e->item);
    tdm_dataset_close(e->data);
    tdm_session_close(&e->session);
    tdm_language_close(&e->language);
}

tdm_status tdm_eval_choices(tdm_session_spec *spec, const char *task, const char *file, int64_t limit, const char *samples, tdm_error *err)
{
    tdm_status st = TDM_OK;
    evaluation e = {0}; /* owned here */
    if (samples && !(e.samples = fopen(samples, "w"))) return TDM_FAIL(err, TDM_ERR_OTHER, samples, "is the folder writable?", "cannot create the file");
    TDM_TRY(st, prepare(&e, spec, task, file, limit, err), done);
    tdm_session_enter(&e.session, TDM_PHASE_TRAIN);
    const double start = tdm_now_s();
    for (int64_t row = 0; row < e.rows; row += BATCH) {
        const int64_t end = tdm_min_i64(row + BATCH, e.rows);
        TDM_TRY(st, score(&e, e.first[row], e.first[end] - e.first[row], err), done);
        for (int64_t i = row; i < end; i++) judge(&e, i);
    }
    say(&e, task, tdm_now_s() - start);
done:
    if (e.samples && fclose(e.samples) != 0 && st == TDM_OK) st = TDM_FAIL(err, TDM_ERR_OTHER, samples, "free some space", "cannot finish the file");
    close_all(&e);
    return st;
}
