/* tandem eval: accuracy on a file of questions with answers. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cmd/commands.h"
#include "runtime/cmd/eval.h"
#include "runtime/cmd/model_options.h"
#include "runtime/data/choices.h"
#include "runtime/data/dataset.h"
#include "runtime/reward/reward.h"
#include "runtime/run/language.h"
#include "runtime/run/sequences.h"

enum { OWN_OPTIONS = 11, BATCH = 64 };

typedef struct evaluation {
    tdm_session session;
    tdm_language language;
    tdm_dataset *data;
    tdm_sequences sequences;
    tdm_ids *ids;      /* [count] */
    double *gold;      /* [count] of gsm8k, number */
    char **exact;      /* [count] of exact */
    tdm_request request[BATCH];
    int64_t count, longest, correct, truncated, tokens;
    /* options */
    const char *file, *task, *system, *prompt, *answer, *output;
    int64_t limit, max_new, seed;
    double temperature;
    bool raw;
} evaluation;

static void own_options(evaluation *e, tdm_option *o)
{
    int i = 0;
    o[i++] = (tdm_option){"--data", TDM_OPTION_TEXT, &e->file, 0, 0, "F", "JSONL with a question and an answer a line", NULL};
    o[i++] = (tdm_option){"--task", TDM_OPTION_TEXT, &e->task, 0, 0, "T", "gsm8k, number (the last number counts) or exact; of choices by log-probability: arc_easy, arc_challenge, boolq, hellaswag, openbookqa, piqa, or choices (default gsm8k)", NULL};
    o[i++] = (tdm_option){"--limit", TDM_OPTION_INT, &e->limit, 0, 1e9, "N", "the first N rows (default 0: all)", NULL};
    o[i++] = (tdm_option){"--system", TDM_OPTION_TEXT, &e->system, 0, 0, "S", "system message", NULL};
    o[i++] = (tdm_option){"--prompt", TDM_OPTION_TEXT, &e->prompt, 0, 0, "P", "user message, with {column}s (default \"{question}\")", NULL};
    o[i++] = (tdm_option){"--answer", TDM_OPTION_TEXT, &e->answer, 0, 0, "A", "the right answer, with {column}s (default \"{answer}\")", NULL};
    o[i++] = (tdm_option){"--max-new", TDM_OPTION_INT, &e->max_new, 1, 1e6, "N", "tokens at most (default 256)", NULL};
    o[i++] = (tdm_option){"--temperature", TDM_OPTION_REAL, &e->temperature, 0, 100, "T", "default 0: greedy", NULL};
    o[i++] = (tdm_option){"--seed", TDM_OPTION_INT, &e->seed, 0, 0x1p53, "S", "of the sampler (default 1)", NULL};
    o[i++] = (tdm_option){"--raw", TDM_OPTION_FLAG, &e->raw, 0, 0, NULL, "no chat template around the prompt", NULL};
    o[i++] = (tdm_option){"--samples", TDM_OPTION_TEXT, &e->output, 0, 0, "G", "write each completion, or the log-probabilities of each row's choices, as JSONL", NULL};
    TDM_ASSERT_EQ(i, OWN_OPTIONS);
}

static bool by_number(const evaluation *e) { return strcmp(e->task, "exact") != 0; }

static tdm_status encode(evaluation *e, int64_t i, const json_t *row, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *messages = NULL, *vars = NULL;
    tdm_text text = {0};
    char *plain = NULL;
    size_t len;
    if (e->raw) {
        TDM_TRY(st, tdm_template_fill(e->prompt, row, where, &plain, &len, err), done);
        TDM_TRY(st, tdm_tokenizer_encode(e->language.tokenizer, plain, len, true, &e->ids[i], err), done);
    } else {
        TDM_TRY(st, tdm_row_messages(row, e->system, e->prompt, where, &messages, err), done);
        vars = json_pack("{s:O,s:b}", "messages", messages, "add_generation_prompt", 1);
        TDM_TRY(st, tdm_language_chat_ids(&e->language, vars, &text, &e->ids[i], err), done);
    }
    e->longest = tdm_max_i64(e->longest, e->ids[i].count);
done:
    free(plain);
    tdm_text_free(&text);
    json_decref(messages);
    json_decref(vars);
    return st;
}

static tdm_status read_rows(evaluation *e, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *row = NULL;
    e->count = tdm_dataset_rows(e->data);
    if (e->limit > 0) e->count = tdm_min_i64(e->count, e->limit);
    e->ids = calloc((size_t)e->count, sizeof *e->ids);
    e->gold = calloc((size_t)e->count, sizeof *e->gold);
    e->exact = calloc((size_t)e->count, sizeof *e->exact);
    if (!e->ids || !e->gold || !e->exact) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the questions");
    for (int64_t i = 0; i < e->count; i++) {
        char where[512];
        size_t len;
        json_decref(row);
        row = NULL;
        tdm_dataset_where(e->data, i, where);
        TDM_TRY(st, tdm_dataset_row(e->data, i, &row, err), done);
        TDM_TRY(st, tdm_template_fill(e->answer, row, where, &e->exact[i], &len, err), done);
        if (by_number(e) && !tdm_reward_number_find(e->exact[i], len, &e->gold[i])) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "use --task exact, or name the column with --answer", "the answer holds no number");
            goto done;
        }
        TDM_TRY(st, encode(e, i, row, where, err), done);
    }
done:
    json_decref(row);
    return st;
}

static tdm_status prepare(evaluation *e, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_file *file = NULL;
    TDM_TRY(st, tdm_model_file_open(&file, spec->model, err), done);
    const tdm_model_config *c = tdm_model_file_config(file);
    TDM_TRY(st, tdm_language_open(&e->language, file, err), done);
    TDM_TRY(st, tdm_dataset_open(&e->data, e->file, err), done);
    TDM_TRY(st, read_rows(e, err), done);
    const int64_t context = e->longest + e->max_new;
    if (context > c->context) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, e->file, "lower --max-new", "%" PRId64 " prompt tokens and %" PRId64 " new ones pass the model's context of %" PRId64,
                      e->longest, e->max_new, c->context);
        goto done;
    }
    const tdm_sequences_spec store = {.count = BATCH, .prompt = e->longest, .completion = e->max_new, .vocab = c->vocab};
    spec->rollout = true;
    spec->engine = (tdm_engine_spec){.sequences = BATCH, .samples = BATCH, .requests = BATCH, .context = context, .batch_tokens = 512, .head_rows = BATCH};
    spec->host_bytes = tdm_sequences_bytes(&store);
    TDM_TRY(st, tdm_session_plan(&e->session, spec, err), done);
    TDM_TRY(st, tdm_session_load(&e->session, err), done);
    TDM_TRY(st, tdm_sequences_open(&e->sequences, &store, err), done);
done:
    tdm_model_file_close(file);
    return st;
}

static bool is_right(const evaluation *e, int64_t i, const tdm_text *text)
{
    double value;
    if (by_number(e)) return tdm_reward_number_find(text->data, text->len, &value) && fabs(value - e->gold[i]) <= 1e-6 * fmax(1.0, fabs(e->gold[i]));
    const char *a = text->data, *b = e->exact[i];
    size_t an = text->len, bn = strlen(b);
    while (an > 0 && strchr(" \t\r\n", a[an - 1])) an--;
    while (bn > 0 && strchr(" \t\r\n", b[bn - 1])) bn--;
    while (an > 0 && strchr(" \t\r\n", *a)) a++, an--;
    while (bn > 0 && strchr(" \t\r\n", *b)) b++, bn--;
    return an == bn && memcmp(a, b, an) == 0;
}

static tdm_status run_batch(evaluation *e, int64_t first, int64_t n, FILE *samples, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_text text = {0};
    for (int64_t i = 0; i < n; i++) {
        tdm_sequence *s = &e->sequences.seq[i];
        tdm_sequence_start(s, e->ids[first + i].data, e->ids[first + i].count, e->max_new);
        e->request[i] = (tdm_request){.sequence = s, .samples = 1, .seed = (uint64_t)e->seed, .prompt_index = (uint32_t)(first + i),
                                      .sampling = {.temperature = (float)e->temperature, .top_p = 1.0f, .repetition_penalty = 1.0f},
                                      .stop_ids = e->language.eos, .stop_count = e->language.eos_count};
    }
    TDM_TRY(st, tdm_engine_run(e->session.engine, tdm_session_adapter(&e->session), e->request, n, NULL, NULL, err), done);
    for (int64_t i = 0; i < n; i++) {
        const tdm_sequence *s = &e->sequences.seq[i];
        text.len = 0;
        TDM_TRY(st, tdm_text_append(&text, "", 0, err), done);
        TDM_TRY(st, tdm_language_text(&e->language, s->tokens + s->prompt, tdm_sequence_completion(s), &text, err), done);
        const bool right = is_right(e, first + i, &text);
        e->correct += right;
        e->truncated += s->finish == TDM_FINISH_LENGTH;
        e->tokens += tdm_sequence_completion(s);
        if (!samples) continue;
        json_t *o = json_pack("{s:I,s:s%,s:s,s:b}", "row", (json_int_t)(first + i), "completion", text.data, text.len, "answer", e->exact[first + i], "correct", right);
        if (o) json_dumpf(o, samples, JSON_COMPACT);
        fputc('\n', samples);
        json_decref(o);
    }
done:
    tdm_text_free(&text);
    return st;
}

static tdm_status run(evaluation *e, tdm_error *err)
{
    tdm_status st = TDM_OK;
    FILE *samples = NULL;
    if (e->output && !(samples = fopen(e->output, "w"))) return TDM_FAIL(err, TDM_ERR_OTHER, e->output, "is the folder writable?", "cannot create the file");
    const double start = tdm_now_s();
    for (int64_t first = 0; first < e->count; first += BATCH)
        TDM_TRY(st, run_batch(e, first, tdm_min_i64(BATCH, e->count - first), samples, err), done);
    const double n = (double)e->count, p = (double)e->correct / n, seconds = tdm_now_s() - start;
    /* the standard error of a mean of 0s and 1s, as lm-evaluation-harness has it (sample variance) */
    printf("{\"task\":\"%s\",\"accuracy\":%.9g,\"stderr\":%.9g,\"correct\":%" PRId64 ",\"n\":%" PRId64 ",\"truncated_fraction\":%.9g,\"completion_tokens_mean\":%.9g,\"seconds\":%.3f}\n",
           e->task, p, e->count > 1 ? sqrt(p * (1.0 - p) / (n - 1.0)) : 0.0, e->correct, e->count, (double)e->truncated / n, (double)e->tokens / n, seconds);
done:
    if (samples && fclose(samples) != 0 && st == TDM_OK) st = TDM_FAIL(err, TDM_ERR_OTHER, e->output, "free some space", "cannot finish the file");
    return st;
}

tdm_status tdm_cmd_eval(int argc, char **argv, tdm_error *err)
{
    tdm_model_options m;
    evaluation e = {.task = "gsm8k", .system = "", .prompt = "{question}", .answer = "{answer}", .max_new = 256, .seed = 1};
    tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS];
    tdm_model_options_table(&m, options);
    own_options(&e, options + TDM_MODEL_OPTIONS);
    const tdm_command command = {.name = "tandem eval", .summary = "Accuracy on questions with known answers, with its standard error, as JSON.", .options = options,
                                 .count = TDM_MODEL_OPTIONS + OWN_OPTIONS,
                                 .example = "tandem eval --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data examples/gsm8k/test.jsonl --task gsm8k --limit 64"};
    tdm_status st = TDM_OK;
    tdm_session_spec spec = {0};
    bool help;
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, NULL, &help, err), done);
    if (help) return TDM_OK;
    TDM_TRY(st, tdm_model_options_apply(&m, &spec, err), done);
    if (!e.file) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --data FILE.jsonl", "no data was named");
        goto done;
    }
    if (tdm_choices_known(e.task)) {
        st = tdm_eval_choices(&spec, e.task, e.file, e.limit, e.output, err);
        goto done;
    }
    if (strcmp(e.task, "gsm8k") != 0 && strcmp(e.task, "number") != 0 && strcmp(e.task, "exact") != 0) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "gsm8k, number, exact, choices, arc_easy, arc_challenge, boolq, hellaswag, openbookqa or piqa", "--task does not know \"%.64s\"", e.task);
        goto done;
    }
    TDM_TRY(st, prepare(&e, &spec, err), done);
    TDM_TRY(st, run(&e, err), done);
done:
    for (int64_t i = 0; i < e.count; i++) {
        if (e.ids) tdm_ids_free(&e.ids[i]);
        if (e.exact) free(e.exact[i]);
    }
    free(e.ids);
    free(e.gold);
    free(e.exact);
    tdm_sequences_close(&e.sequences);
    tdm_dataset_close(e.data);
    tdm_session_close(&e.session);
    tdm_language_close(&e.language);
    return st;
}
