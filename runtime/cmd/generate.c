/* tandem generate: text from prompts, by the rollout engine. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cmd/commands.h"
#include "runtime/cmd/model_options.h"
#include "runtime/cmd/prompts.h"
#include "runtime/run/sequences.h"

typedef struct generate {
    tdm_session session;
    tdm_language language;
    tdm_prompts prompts;
    tdm_sequences sequences;
    tdm_stops stops;
    tdm_text text;
    tdm_request *request;
    const char *stop[2];
    /* options */
    const char *prompt, *input;
    int64_t max_new, top_k, seed, n;
    double temperature, top_p, min_p, penalty;
    bool json, chat, ignore_eos;
} generate;

enum { OWN_OPTIONS = 14, CHUNK_SAMPLES = 256 };

static void own_options(generate *g, tdm_option *o)
{
    int i = 0;
    o[i++] = (tdm_option){"--prompt", TDM_OPTION_TEXT, &g->prompt, 0, 0, "T", "the prompt, plain text", NULL};
    o[i++] = (tdm_option){"--input", TDM_OPTION_TEXT, &g->input, 0, 0, "F", "JSONL of strings, {\"prompt\"}, {\"messages\"} or {\"ids\"}; - for stdin", NULL};
    o[i++] = (tdm_option){"--chat", TDM_OPTION_FLAG, &g->chat, 0, 0, NULL, "--prompt is a user's message: the chat template goes around it", NULL};
    o[i++] = (tdm_option){"--max-new", TDM_OPTION_INT, &g->max_new, 1, 1e6, "N", "tokens at most (default 256)", NULL};
    o[i++] = (tdm_option){"--temperature", TDM_OPTION_REAL, &g->temperature, 0, 100, "T", "0 takes the likeliest token (default 1)", NULL};
    o[i++] = (tdm_option){"--top-p", TDM_OPTION_REAL, &g->top_p, 1e-9, 1, "P", "nucleus (default 1: off)", NULL};
    o[i++] = (tdm_option){"--top-k", TDM_OPTION_INT, &g->top_k, 0, 1e9, "K", "likeliest K tokens (default 0: off)", NULL};
    o[i++] = (tdm_option){"--min-p", TDM_OPTION_REAL, &g->min_p, 0, 1, "P", "least share of the likeliest token's probability (default 0: off)", NULL};
    o[i++] = (tdm_option){"--repetition-penalty", TDM_OPTION_REAL, &g->penalty, 0.01, 100, "R", "on tokens already there (default 1: off)", NULL};
    o[i++] = (tdm_option){"--stop", TDM_OPTION_TEXT, &g->stop[0], 0, 0, "S", "end a completion that contains S", NULL};
    o[i++] = (tdm_option){"--seed", TDM_OPTION_INT, &g->seed, 0, 0x1p53, "S", "of the sampler (default 1)", NULL};
    o[i++] = (tdm_option){"--n", TDM_OPTION_INT, &g->n, 1, 65536, "N", "completions of each prompt (default 1)", NULL};
    o[i++] = (tdm_option){"--ignore-eos", TDM_OPTION_FLAG, &g->ignore_eos, 0, 0, NULL, "go on to --max-new", NULL};
    o[i++] = (tdm_option){"--json", TDM_OPTION_FLAG, &g->json, 0, 0, NULL, "JSONL with ids and log-probabilities", NULL};
    TDM_ASSERT_EQ(i, OWN_OPTIONS);
}

static void print_json(const generate *g, const tdm_sequence *s)
{
    json_t *text = json_stringn(g->text.data ? g->text.data : "", g->text.len);
    char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    printf("{\"prompt_ids\":[");
    for (int64_t i = 0; i < s->prompt; i++) printf("%s%d", i ? "," : "", s->tokens[i]);
    printf("],\"completion_ids\":[");
    for (int64_t i = s->prompt; i < s->count; i++) printf("%s%d", i > s->prompt ? "," : "", s->tokens[i]);
    printf("],\"logprobs\":[");
    for (int64_t i = 0; i < tdm_sequence_completion(s); i++) printf("%s%.9g", i ? "," : "", (double)s->logprob[i]);
    printf("],\"text\":%s,\"finish\":\"%s\"}\n", quoted ? quoted : "\"\"", s->finish == TDM_FINISH_STOP ? "stop" : "length");
    free(quoted);
    json_decref(text);
}

static tdm_status run_chunk(generate *g, int64_t first, int64_t count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t r = 0; r < count; r++) {
        const tdm_ids *ids = &g->prompts.ids[first + r];
        tdm_sequence *seq = &g->sequences.seq[r * g->n];
        for (int64_t i = 0; i < g->n; i++) tdm_sequence_start(&seq[i], ids->data, ids->count, g->max_new);
        g->request[r] = (tdm_request){
            .sequence = seq, .samples = g->n, .seed = (uint64_t)g->seed, .prompt_index = (uint32_t)(first + r),
            .sampling = {.temperature = (float)g->temperature, .top_p = (float)g->top_p, .min_p = (float)g->min_p,
                         .repetition_penalty = (float)g->penalty, .top_k = (int32_t)g->top_k},
            .stop_ids = g->language.eos, .stop_count = g->ignore_eos ? 0 : g->language.eos_count,
            .stop = g->stop[0] ? tdm_stops_hit : NULL, .stop_ctx = &g->stops};
    }
    TDM_TRY(st, tdm_engine_run(g->session.engine, tdm_session_adapter(&g->session), g->request, count, NULL, NULL, err), done);
    for (int64_t i = 0; i < count * g->n; i++) {
        const tdm_sequence *s = &g->sequences.seq[i];
        g->text.len = 0;
        TDM_TRY(st, tdm_language_text(&g->language, s->tokens + s->prompt, tdm_sequence_completion(s), &g->text, err), done);
        if (g->json) print_json(g, s);
        else printf("%.*s\n", (int)g->text.len, g->text.data ? g->text.data : "");
    }
    fflush(stdout);
done:
    return st;
}

static tdm_status prepare(generate *g, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_model_file *file = NULL;
    /* the text side first: the plan needs to know the longest prompt */
    TDM_TRY(st, tdm_model_file_open(&file, spec->model, err), done);
    const tdm_model_config *c = tdm_model_file_config(file);
    TDM_TRY(st, tdm_language_open(&g->language, file, err), done);
    if (g->prompt) TDM_TRY(st, tdm_prompts_add_text(&g->prompts, &g->language, g->prompt, g->chat, err), done);
    else TDM_TRY(st, tdm_prompts_read(&g->prompts, &g->language, g->input, c, err), done);
    const int64_t context = g->prompts.longest + g->max_new;
    if (context > c->context) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, g->input ? g->input : "command line", "shorten the prompt or lower --max-new",
                      "%" PRId64 " prompt tokens and %" PRId64 " new ones pass the model's context of %" PRId64, g->prompts.longest, g->max_new, c->context);
        goto done;
    }
    const int64_t chunk = tdm_max_i64(1, CHUNK_SAMPLES / g->n), samples = chunk * g->n;
    const tdm_sequences_spec store = {.count = samples, .prompt = g->prompts.longest, .completion = g->max_new, .vocab = c->vocab};
    spec->rollout = true;
    spec->engine = (tdm_engine_spec){.sequences = tdm_min_i64(64, samples), .samples = samples, .requests = chunk, .context = context,
                                     .batch_tokens = 512, .head_rows = 64};
    spec->host_bytes = tdm_sequences_bytes(&store);
    TDM_TRY(st, tdm_session_plan(&g->session, spec, err), done);
    TDM_TRY(st, tdm_session_load(&g->session, err), done);
    TDM_TRY(st, tdm_sequences_open(&g->sequences, &store, err), done);
    g->request = calloc((size_t)chunk, sizeof *g->request);
    if (!g->request) st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the requests");
    tdm_stops_init(&g->stops, &g->language, g->stop);
done:
    tdm_model_file_close(file);
    return st;
}

tdm_status tdm_cmd_generate(int argc, char **argv, tdm_error *err)
{
    tdm_model_options m;
    generate g = {.max_new = 256, .seed = 1, .n = 1, .temperature = 1.0, .top_p = 1.0, .penalty = 1.0};
    tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS];
    tdm_model_options_table(&m, options);
    own_options(&g, options + TDM_MODEL_OPTIONS);
    const tdm_command command = {.name = "tandem generate", .summary = "Text from a prompt, or from a file of prompts.", .options = options,
                                 .count = TDM_MODEL_OPTIONS + OWN_OPTIONS,
                                 .example = "tandem generate --model models/SmolLM2-135M-Instruct.Q4_1.gguf --chat --prompt \"What is 7+5?\" --max-new 32 --seed 1"};
    tdm_status st = TDM_OK;
    tdm_session_spec spec = {0};
    bool help;
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, NULL, &help, err), done);
    if (help) return TDM_OK;
    TDM_TRY(st, tdm_model_options_apply(&m, &spec, err), done);
    if (!g.prompt == !g.input) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --prompt TEXT or --input FILE.jsonl", "%s", g.prompt ? "two sources of prompts" : "no prompt");
        goto done;
    }
    if (g.stop[0] && !g.stop[0][0]) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "leave --stop away to stop at nothing", "--stop is empty");
        goto done;
    }
    TDM_TRY(st, prepare(&g, &spec, err), done);
    const int64_t chunk = tdm_max_i64(1, CHUNK_SAMPLES / g.n);
    for (int64_t first = 0; first < g.prompts.count; first += chunk)
        TDM_TRY(st, run_chunk(&g, first, tdm_min_i64(chunk, g.prompts.count - first), err), done);
done:
    free(g.request);
    tdm_text_free(&g.text);
    tdm_stops_fini(&g.stops);
    tdm_sequences_close(&g.sequences);
    tdm_prompts_free(&g.prompts);
    tdm_session_close(&g.session);
    tdm_language_close(&g.language);
    return st;
}
