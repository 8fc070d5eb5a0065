/* labels: unit
 *
 * What of a chat is learned: every assistant turn of "messages", the completion of "prompt" and "completion", nothing else. Counted, and
 * seen in the loss, which is a mean over the learned tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/run/metrics.h"
#include "testing/job_case.h"
#include "testing/scratch.h"

typedef struct learned {
    double tokens, loss;
} learned;

/* One step of one example at lr 0, by the tiny golden model, whose template is ChatML. */
static learned learn(const char *row)
{
    char text[2048];
    char *dir = test_scratch_new(), *data = test_path(dir, "train.jsonl"), *path = test_path(dir, "run/metrics.jsonl");
    tdm_error err;
    tdm_metrics_table m;
    learned out = {NAN, NAN};
    test_file_put(data, row);
    snprintf(text, sizeof text,
             "model: {path: tests/golden/data/models/qwen3, weights: bf16}\nadapter: {rank: 4}\ndata: {train: %s, max_prompt_tokens: 160}\n"
             "rollout: {max_new_tokens: 64}\ntrain: {algorithm: sft, steps: 1, batch_size: 1, lr: 0}\nlog: {report: false, tensorboard: false}\n"
             "output: %s/run\nthreads: 1\n",
             data, dir);
    tdm_status st = test_job_run(text, (tdm_job_options){0}, &err);
    if (st == TDM_OK) st = tdm_metrics_read(&m, path, &err);
    if (st != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    for (int64_t c = 0; c < m.cols; c++) {
        if (strcmp(m.keys[c], "completion_tokens") == 0) out.tokens = m.values[c];
        if (strcmp(m.keys[c], "loss") == 0) out.loss = m.values[c];
    }
    tdm_metrics_table_free(&m);
    free(data);
    free(path);
    test_scratch_free(dir);
    return out;
}

#define SYSTEM "{\"role\":\"system\",\"content\":\"Count.\"}"
#define ASK "{\"role\":\"user\",\"content\":\"What is 1+2?\"}"
#define SAY "{\"role\":\"assistant\",\"content\":\"The answer is 3.\"}"
#define ASK_MORE "{\"role\":\"user\",\"content\":\"and 4+5?\"}"
#define SAY_MORE "{\"role\":\"assistant\",\"content\":\"9, the sum of the apples\"}"

static void every_assistant_turn_is_learned(void **state)
{
    (void)state;
    const learned all = learn("{\"messages\":[" SYSTEM "," ASK "," SAY "," ASK_MORE "," SAY_MORE "]}\n");
    const learned first = learn("{\"messages\":[" SYSTEM "," ASK "," SAY "]}\n");
    const learned second = learn("{\"prompt\":[" SYSTEM "," ASK "," SAY "," ASK_MORE "],\"completion\":[" SAY_MORE "]}\n");
    assert_true(first.tokens > 4.0 && second.tokens > 4.0);
    assert_true(all.tokens == first.tokens + second.tokens);
    assert_true(fabs(all.loss * all.tokens - first.loss * first.tokens - second.loss * second.tokens) < 1e-5);
    assert_true(fabs(first.loss - second.loss) > 1e-3); /* so the sum says which tokens they are */
}

static void the_system_s_and_the_user_s_words_are_not(void **state)
{
    (void)state;
    const learned without = learn("{\"messages\":[" ASK "," SAY "]}\n"), more = learn("{\"messages\":[" SYSTEM "," ASK "," SAY "," ASK_MORE "]}\n");
    assert_true(more.tokens == without.tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_assistant_turn_is_learned), cmocka_unit_test(the_system_s_and_the_user_s_words_are_not)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
