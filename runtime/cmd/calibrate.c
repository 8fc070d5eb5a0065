/* tandem calibrate: the magnitudes that static activation scales and an FP8 KV cache are made from. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory/fs.h"
#include "runtime/cmd/commands.h"
#include "runtime/cmd/magnitudes.h"
#include "runtime/cmd/model_options.h"
#include "runtime/data/dataset.h"
#include "runtime/run/example.h"

enum { OWN_OPTIONS = 7 };

typedef struct calibration {
    tdm_session session;
    tdm_language language;
    tdm_dataset *data;
    tdm_magnitudes magnitudes;
    tdm_ids ids;         /* of the row at hand */
    float *lp;           /* [context], unread */
    uint8_t *mask;       /* [context] zeros: no token needs logits */
    int64_t rows, tokens;
    /* options */
    const char *file, *text, *method, *output;
    int64_t limit, context;
    double percentile;
} calibration;

static void own_options(calibration *c, tdm_option *o)
{
    int i = 0;
    o[i++] = (tdm_option){"--data", TDM_OPTION_TEXT, &c->file, 0, 0, "F", "JSONL with a text, or the messages of a chat, a line", NULL};
    o[i++] = (tdm_option){"--text", TDM_OPTION_TEXT, &c->text, 0, 0, "T", "a row's text, with {column}s (default: its messages, else \"{text}\")", NULL};
    o[i++] = (tdm_option){"--method", TDM_OPTION_TEXT, &c->method, 0, 0, "amax|percentile", "the largest magnitude (default), or one that few pass", NULL};
    o[i++] = (tdm_option){"--percentile", TDM_OPTION_REAL, &c->percentile, 0, 100, "P", "of magnitudes that are no greater (default 99.99)", NULL};
    o[i++] = (tdm_option){"--limit", TDM_OPTION_INT, &c->limit, 1, 1e9, "N", "the first N rows (default 512)", NULL};
    o[i++] = (tdm_option){"--context", TDM_OPTION_INT, &c->context, 2, 1e6, "N", "tokens of a row at most (default 2048, or the model's)", NULL};
    o[i++] = (tdm_option){"--output", TDM_OPTION_TEXT, &c->output, 0, 0, "G", "JSON file to write, for --activation-scales and model.activation_scales", NULL};
    TDM_ASSERT_EQ(i, OWN_OPTIONS);
}

static tdm_status check(const calibration *c, const tdm_model_options *m, tdm_error *err)
{
    if (!c->file) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --data FILE.jsonl", "no data was named");
    if (!c->output) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --output FILE.json", "no output was named");
    if (strcmp(c->method, "amax") != 0 && strcmp(c->method, "percentile") != 0)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "amax or percentile", "--method does not know \"%.64s\"", c->method);
    if (strcmp(c->method, "percentile") == 0 && c->percentile <= 0)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --percentile", "99.9 or more is usual", "a percentile of 0 leaves nothing");
    if (m->scales)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --activation-scales", "leave it out", "calibration makes these scales");
    return TDM_OK;
}

/* The row as the model will meet it: a chat with its template, or a text from its beginning-of-sequence token on. */
static tdm_status encode(calibration *c, int64_t i, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *row = NULL; /* owned here */
    char *text = NULL;  /* owned here */
    size_t len;
    char where[512];
    tdm_example x = {.l = &c->language, .where = tdm_dataset_where(c->data, i, where)};
    TDM_TRY(st, tdm_dataset_row(c->data, i, &row, err), done);
    json_t *messages = json_object_get(row, "messages");
    c->ids.count = 0;
    if (!c->text && json_is_array(messages))
        TDM_TRY(st, tdm_example_chat(&x, messages, json_array_size(messages), false, &c->ids, err), done);
    else {
        TDM_TRY(st, tdm_template_fill(c->text ? c->text : "{text}", row, x.where, &text, &len, err), done);
        TDM_TRY(st, tdm_tokenizer_encode(c->language.tokenizer, text, len, true, &c->ids, err), done);
    }
    for (int64_t t = 0; t < c->ids.count; t++)
        if (c->ids.data[t] >= c->session.config->vocab) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, x.where, "is the tokenizer this model's?", "id %d is outside the vocabulary of %" PRId64, c->ids.data[t],
                          c->session.config->vocab);
            goto done;
        }
done:
    tdm_example_free(&x);
    json_decref(row);
    free(text);
    return st;
}

/* A row of one token predicts nothing, and the trainer runs over tokens that something is predicted from. */
static tdm_status look_at_row(calibration *c, int64_t i, tdm_error *err)
{
    const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    tdm_status st = TDM_OK;
    TDM_TRY(st, encode(c, i, err), done);
    const int64_t count = tdm_min_i64(c->ids.count, c->context);
    if (count < 2) goto done;
    tdm_sequence seq = {.tokens = c->ids.data, .prompt = 1, .count = count, .room = count};
    tdm_train_item item = {.seq = &seq, .lp = c->lp, .mask = c->mask};
    TDM_TRY(st, tdm_trainer_score(c->session.trainer, tdm_session_adapter(&c->session), &item, 1, &plain, err), done);
    c->rows++;
    c->tokens += count - 1;
done:
    return st;
}

static tdm_status prepare(calibration *c, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_file *file = NULL; /* owned here */
    TDM_TRY(st, tdm_model_file_open(&file, spec->model, err), done);
    const tdm_model_config *config = tdm_model_file_config(file);
    if (config->experts > 0) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, spec->model, "use activations: dynamic, which need no calibration", "static activation scales of a mixture of experts are not supported");
        goto done;
    }
    TDM_TRY(st, tdm_language_open(&c->language, file, err), done);
    TDM_TRY(st, tdm_dataset_open(&c->data, c->file, err), done);
    c->context = tdm_min_i64(c->context, config->context);
    spec->train = spec->forward_only = true;
    spec->trainer = (tdm_trainer_spec){.micro_tokens = c->context, .sequences = 1, .context = c->context, .head_rows = 1};
    spec->host_bytes = tdm_magnitudes_bytes(config, c->context);
    TDM_TRY(st, tdm_session_plan(&c->session, spec, err), done);
    TDM_TRY(st, tdm_session_load(&c->session, err), done);
    TDM_TRY(st, tdm_magnitudes_open(&c->magnitudes, &c->session.model, c->context, err), done);
    c->session.model.observer = &c->magnitudes.observer;
    c->lp = calloc((size_t)c->context, sizeof *c->lp);
    c->mask = calloc((size_t)c->context, sizeof *c->mask);
    if (!c->lp || !c->mask) st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a row");
done:
    tdm_model_file_close(file);
    return st;
}

static tdm_status write(const calibration *c, const char *model, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const bool amax = strcmp(c->method, "amax") == 0;
    json_t *scales = NULL, *kv = NULL, *all = NULL, *said = NULL; /* owned here */
    char *text = NULL;                               /* owned here */
    TDM_TRY(st, tdm_magnitudes_json(&c->magnitudes, amax ? 100.0 : c->percentile, c->file, &scales, &kv, err), done);
    all = json_pack("{s:s,s:s,s:f,s:I,s:I,s:O,s:O}", "model", model, "method", c->method, "percentile", amax ? 100.0 : c->percentile, "rows",
                    (json_int_t)c->rows, "tokens", (json_int_t)c->tokens, "modules", scales, "kv", kv);
    if (all) text = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(9)); /* every f32 */
    if (!text) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, c->output, "free host memory", "out of memory for the scales");
        goto done;
    }
    TDM_TRY(st, tdm_fs_write(c->output, text, strlen(text), err), done);
    said = json_pack("{s:s,s:s,s:I,s:I}", "output", c->output, "method", c->method, "rows", (json_int_t)c->rows, "tokens", (json_int_t)c->tokens);
    if (said) json_dumpf(said, stdout, JSON_COMPACT);
    printf("\n");
done:
    json_decref(scales);
    json_decref(kv);
    json_decref(all);
    json_decref(said);
    free(text);
    return st;
}

static tdm_status run(calibration *c, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, prepare(c, spec, err), done);
    tdm_session_enter(&c->session, TDM_PHASE_TRAIN);
    const int64_t rows = tdm_min_i64(c->limit, tdm_dataset_rows(c->data));
    for (int64_t i = 0; i < rows; i++) TDM_TRY(st, look_at_row(c, i, err), done);
    if (c->rows == 0) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, c->file, "give longer texts", "no row has two tokens");
        goto done;
    }
    TDM_TRY(st, write(c, spec->model, err), done);
done:
    return st;
}

tdm_status tdm_cmd_calibrate(int argc, char **argv, tdm_error *err)
{
    tdm_model_options m;
    calibration c = {.method = "amax", .percentile = 99.99, .limit = 512, .context = 2048};
    tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS];
    tdm_model_options_table(&m, options);
    own_options(&c, options + TDM_MODEL_OPTIONS);
    const tdm_command command = {.name = "tandem calibrate", .summary = "Static activation scales, and those of an FP8 KV cache, from text.", .options = options,
                                 .count = TDM_MODEL_OPTIONS + OWN_OPTIONS,
                                 .example = "tandem calibrate --model models/Qwen3-0.6B --data texts.jsonl --output scales.json"};
    tdm_status st = TDM_OK;
    tdm_session_spec spec = {0};
    bool help;
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, NULL, &help, err), done);
    if (help) return TDM_OK;
    TDM_TRY(st, check(&c, &m, err), done);
    TDM_TRY(st, tdm_model_options_apply(&m, &spec, err), done);
    TDM_TRY(st, run(&c, &spec, err), done);
done:
    tdm_magnitudes_close(&c.magnitudes);
    tdm_ids_free(&c.ids);
    tdm_dataset_close(c.data);
    tdm_session_close(&c.session);
    tdm_language_close(&c.language);
    free(c.lp);
    free(c.mask);
    return st;
}
