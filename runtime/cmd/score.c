/* tandem score: log-probabilities of given ids, by the rollout engine or by the trainer. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cmd/commands.h"
#include "runtime/cmd/id_lines.h"
#include "runtime/cmd/model_options.h"

static tdm_status check_ids(const tdm_id_lines *in, const tdm_model_config *c, const char *path, tdm_error *err)
{
    for (int64_t i = 0; i < in->count; i++)
        for (int64_t j = 0; j < in->line[i].count; j++)
            if (in->line[i].ids[j] < 0 || in->line[i].ids[j] >= c->vocab) {
                char where[512];
                snprintf(where, sizeof where, "%s:%" PRId64, path, in->line[i].number);
                return TDM_FAIL(err, TDM_ERR_INPUT, where, "was it tokenized for another model?", "id %d is outside the vocabulary of %" PRId64,
                                in->line[i].ids[j], c->vocab);
            }
    return TDM_OK;
}

static tdm_status write_scores(const char *path, const tdm_id_lines *in, float *const *logprob, tdm_error *err)
{
    tdm_status st = TDM_OK;
    FILE *f = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
    if (!f) return TDM_FAIL(err, TDM_ERR_OTHER, path, "is the folder writable?", "cannot create the output");
    for (int64_t i = 0; i < in->count; i++) {
        fputs("{\"ids\":[", f);
        for (int64_t j = 0; j < in->line[i].count; j++) fprintf(f, "%s%d", j ? "," : "", in->line[i].ids[j]);
        fputs("],\"logprobs\":[", f);
        for (int64_t j = 0; j < in->line[i].count; j++) {
            if (j == 0) fputs("null", f);
            else fprintf(f, ",%.9g", (double)logprob[i][j - 1]);
        }
        fputs("]}\n", f);
    }
    if (fflush(f) != 0 || ferror(f)) st = TDM_FAIL(err, TDM_ERR_OTHER, path, "free some space", "cannot write the output");
    if (f != stdout && fclose(f) != 0 && st == TDM_OK) st = TDM_FAIL(err, TDM_ERR_OTHER, path, "free some space", "cannot finish the output");
    return st;
}

/* Sequences of two or more tokens are scored; shorter ones have nothing to score. */
static tdm_status run(tdm_session *s, const tdm_id_lines *in, bool train, float *const *logprob, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    const size_t n = (size_t)in->count + 1;
    tdm_sequence *seq = calloc(n, sizeof *seq);
    tdm_train_item *item = calloc(n, sizeof *item);
    float **lp = calloc(n, sizeof *lp);
    int64_t count = 0;
    if (!seq || !item || !lp) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for %" PRId64 " sequences", in->count);
        goto done;
    }
    for (int64_t i = 0; i < in->count; i++) {
        if (in->line[i].count < 2) continue;
        seq[count] = (tdm_sequence){.tokens = in->line[i].ids, .prompt = 1, .count = in->line[i].count, .room = in->line[i].count};
        item[count] = (tdm_train_item){.seq = &seq[count], .lp = logprob[i]};
        lp[count++] = logprob[i];
    }
    /* a dynamic per-tensor scale is that of the call: each sequence then is a call of its own, in both engines, so that neither its
     * company nor the engine changes a bit */
    const bool alone = tdm_weights_batch_dependent(s->weights);
    for (int64_t i = 0; i < count; i += alone ? 1 : count) {
        const int64_t k = alone ? 1 : count;
        if (train) TDM_TRY(st, tdm_trainer_score(s->trainer, tdm_session_adapter(s), item + i, k, &plain, err), done);
        else TDM_TRY(st, tdm_engine_score(s->engine, tdm_session_adapter(s), seq + i, k, alone, lp + i, err), done);
    }
done:
    free(seq);
    free(item);
    free(lp);
    return st;
}

static void describe(tdm_session_spec *spec, bool train, int64_t longest)
{
    const int64_t context = tdm_max_i64(longest, 2);
    spec->rollout = !train;
    spec->train = spec->forward_only = train;
    spec->engine = (tdm_engine_spec){.sequences = 32, .samples = 1, .requests = 1, .context = context,
                                     .batch_tokens = tdm_max_i64(1024, context), .head_rows = 128};
    spec->trainer = (tdm_trainer_spec){.micro_tokens = tdm_max_i64(context, 2048), .sequences = 256, .context = context, .head_rows = 128};
}

tdm_status tdm_cmd_score(int argc, char **argv, tdm_error *err)
{
    tdm_model_options m;
    const char *engine = "infer", *input = NULL, *output = "-";
    tdm_option options[TDM_MODEL_OPTIONS + 3];
    tdm_model_options_table(&m, options);
    options[TDM_MODEL_OPTIONS] = (tdm_option){"--engine", TDM_OPTION_TEXT, &engine, 0, 0, "infer|train", "prefill and decode through the KV cache, or the taped forward", NULL};
    options[TDM_MODEL_OPTIONS + 1] = (tdm_option){"--input", TDM_OPTION_TEXT, &input, 0, 0, "F", "JSONL of {\"ids\":[...]}", NULL};
    options[TDM_MODEL_OPTIONS + 2] = (tdm_option){"--output", TDM_OPTION_TEXT, &output, 0, 0, "G", "JSONL of {\"ids\":[...],\"logprobs\":[null,...]} (default: stdout)", NULL};
    const tdm_command command = {.name = "tandem score", .summary = "Log-probabilities of given token ids.", .options = options, .count = TDM_MODEL_OPTIONS + 3,
                                 .example = "tandem score --model models/SmolLM2-135M-Instruct.Q4_1.gguf --engine infer --input ids.jsonl --output scores.jsonl"};
    tdm_status st = TDM_OK;
    tdm_session session = {0};
    tdm_session_spec spec = {0};
    tdm_id_lines in = {0};
    float **logprob = NULL;
    bool help;
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, NULL, &help, err), done);
    if (help) return TDM_OK;
    TDM_TRY(st, tdm_model_options_apply(&m, &spec, err), done);
    const bool train = strcmp(engine, "train") == 0;
    if (!train && strcmp(engine, "infer") != 0) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "infer or train", "--engine does not know \"%.64s\"", engine);
        goto done;
    }
    if (!input) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --input FILE.jsonl", "no input was named");
        goto done;
    }
    TDM_TRY(st, tdm_id_lines_read(&in, input, err), done);
    describe(&spec, train, in.longest);
    TDM_TRY(st, tdm_session_plan(&session, &spec, err), done);
    TDM_TRY(st, check_ids(&in, session.config, input, err), done);
    if (in.longest > session.config->context) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, input, "cut it, or use a model with a longer context", "a line has %" PRId64 " ids, the model's context is %" PRId64,
                      in.longest, session.config->context);
        goto done;
    }
    TDM_TRY(st, tdm_session_load(&session, err), done);
    TDM_TRY(st, tdm_id_lines_rows(&in, &logprob, err), done);
    TDM_TRY(st, run(&session, &in, train, logprob, err), done);
    TDM_TRY(st, write_scores(output, &in, logprob, err), done);
done:
    free(logprob);
    tdm_id_lines_free(&in);
    tdm_session_close(&session);
    return st;
}
