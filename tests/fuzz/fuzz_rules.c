/* A pattern, an answer template and a completion, between zero bytes, through every reward by rule and a judge's question and reply: an error when the rule is opened, or
 * a finite reward in bounded time. */
#include <math.h>

#include "fuzz_files.h"
#include "runtime/reward/judge.h"
#include "runtime/reward/reward_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_piece rest = {(const char *)data, size};
    if (size > 8192) return 0;
    char *pattern = fuzz_text(fuzz_next(&rest)), *answer = fuzz_text(fuzz_next(&rest)), *completion = fuzz_text(rest);
    json_t *row = json_pack("{s:s,s:i}", "answer", "#### 1,234.5", "n", 7);
    const tdm_reward_sample sample = {.prompt = row, .completion = completion, .completion_len = rest.len, .ids_count = (int64_t)(rest.len % 300), .row = row};
    tdm_recipe recipe = {.rollout = {.max_new_tokens = 256}};
    double value;
    if (tdm_reward_number_find(completion, rest.len, &value) && !isfinite(value)) abort();
    for (int kind = TDM_REWARD_NUMBER; kind <= TDM_REWARD_LENGTH; kind++) {
        const tdm_recipe_reward w = {.kind = (tdm_reward_kind)kind, .name = "fuzz", .weight = 1, .answer = answer, .pattern = pattern, .buffer = 64, .penalty = 1};
        tdm_rule *rule = NULL;
        tdm_error err = {0};
        double out = NAN;
        if (tdm_rule_open(&rule, &w, &recipe, "fuzz.yaml:1:1", &err) == TDM_OK && tdm_rule_score(rule, 0, &sample, 1, &out, &err) == TDM_OK) {
            if (!isfinite(out)) abort();
        } else if (err.what[0] == 0) abort();
        tdm_rule_close(rule);
    }
    const tdm_recipe_reward w = {.kind = TDM_REWARD_JUDGE, .name = "fuzz", .prompt = answer, .system = "", .parse = pattern, .range = {0, 10}};
    tdm_judge *judge = NULL;
    tdm_error err = {0};
    if (tdm_judge_open(&judge, &w, "fuzz.yaml:1:1", &err) == TDM_OK) {
        json_t *messages = NULL;
        if (tdm_judge_read(judge, completion, rest.len, rest.len % 2, &value) && !(value >= 0 && value <= 1)) abort();
        if (tdm_judge_ask(judge, &sample, "fuzz", &messages, &err) != TDM_OK && err.what[0] == 0) abort();
        json_decref(messages);
    }
    tdm_judge_close(judge);
    json_decref(row);
    free(pattern);
    free(answer);
    free(completion);
    return 0;
}
