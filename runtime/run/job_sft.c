/* Supervised examples: tokens and the mask of what is learned.
 * Source of the conventions: TRL's SFTTrainer (trl/trainer/sft_trainer.py): a text prompt and completion are tokenized together, the
 * completion gets the end-of-sequence token, the prompt's own token count says where the loss begins; chats go through the template. Of a
 * chat, the assistant's turns are learned. */
#include "runtime/run/example.h"
#include "runtime/run/job_internal.h"

#include <stdio.h>
#include <string.h>

static bool starts_with(const tdm_ids *ids, const tdm_ids *head)
{
    return head->count <= ids->count && memcmp(ids->data, head->data, (size_t)head->count * sizeof *head->data) == 0;
}

/* Marks tokens [from, to) of the example; index 0 of the mask is token 1, for nothing predicts token 0. */
static void mark(uint8_t *mask, int64_t room, int64_t from, int64_t to)
{
    for (int64_t t = tdm_max_i64(from, 1); t < to && t - 1 < room; t++) mask[t - 1] = 1;
}

static tdm_status chat_example(tdm_example *x, json_t *messages, uint8_t *mask, int64_t room, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const size_t n = json_array_size(messages);
    TDM_TRY(st, tdm_example_chat(x, messages, n, false, &x->ids, err), done);
    for (size_t i = 0; i < n; i++) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
        if (!role || strcmp(role, "assistant") != 0) continue;
        TDM_TRY(st, tdm_example_chat(x, messages, i, true, &x->part, err), done);
        const int64_t from = x->part.count;
        bool prefix = starts_with(&x->ids, &x->part);
        TDM_TRY(st, tdm_example_chat(x, messages, i + 1, false, &x->part, err), done);
        prefix = prefix && starts_with(&x->ids, &x->part);
        if (!prefix) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, x->where, "split the chat into examples that end with one assistant turn each",
                          "the chat template does not render turn %zu as a continuation of the turns before it", i);
            goto done;
        }
        mark(mask, room, from, x->part.count);
    }
done:
    return st;
}

static tdm_status text_example(tdm_example *x, const json_t *prompt, const json_t *completion, uint8_t *mask, int64_t room, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_example_text(x, prompt, NULL, &x->part, err), done);
    TDM_TRY(st, tdm_example_text(x, prompt, completion, &x->ids, err), done);
    mark(mask, room, x->part.count, x->ids.count);
done:
    return st;
}

static tdm_status make(tdm_example *x, json_t *row, uint8_t *mask, int64_t room, tdm_error *err)
{
    tdm_status st;
    json_t *messages = json_object_get(row, "messages"), *prompt = json_object_get(row, "prompt"), *completion = json_object_get(row, "completion");
    if (json_is_array(messages)) return chat_example(x, messages, mask, room, err);
    if (json_is_string(prompt) && json_is_string(completion)) return text_example(x, prompt, completion, mask, room, err);
    if (!json_is_array(prompt) || !json_is_array(completion))
        return TDM_FAIL(err, TDM_ERR_INPUT, x->where, "write {\"messages\":[...]} or {\"prompt\":...,\"completion\":...}, both texts or both lists of messages",
                        "the row is no supervised example");
    /* lists of messages: the completion's turns are learned, whatever assistant turns the prompt holds */
    json_t *all = json_copy(prompt);
    if (!all || json_array_extend(all, completion) != 0) {
        json_decref(all);
        return TDM_FAIL(err, TDM_ERR_OTHER, x->where, "free host memory", "out of memory for an example");
    }
    TDM_TRY(st, tdm_example_chat(x, all, json_array_size(all), false, &x->ids, err), done);
    TDM_TRY(st, tdm_example_chat(x, all, json_array_size(prompt), true, &x->part, err), done);
    if (!starts_with(&x->ids, &x->part))
        st = TDM_FAIL(err, TDM_ERR_INPUT, x->where, "does the chat template change earlier turns?", "the completion does not continue the rendered prompt");
    else mark(mask, room, x->part.count, x->ids.count);
done:
    json_decref(all);
    return st;
}

static tdm_status take(tdm_job *j, tdm_example *x, int64_t i, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[512];
    json_t *row = NULL;
    int64_t part, at;
    tdm_mixture_draw(j->data, j->data_position++, &part, &at);
    const tdm_dataset *data = tdm_mixture_part(j->data, part);
    x->where = tdm_dataset_where(data, at, where);
    memset(j->mask[i], 0, (size_t)j->context);
    TDM_TRY(st, tdm_dataset_row(data, at, &row, err), done);
    TDM_TRY(st, make(x, row, j->mask[i], j->context, err), done);
    int64_t count = x->ids.count, learned = 0;
    if (count > j->context) {
        if (j->skipped++ == 0)
            tdm_progress_note(&j->progress, "%s: %lld tokens; examples are cut at %lld (data.max_prompt_tokens + rollout.max_new_tokens)", x->where,
                              (long long)count, (long long)j->context);
        count = j->context;
    }
    for (int64_t t = 0; t < count - 1; t++) learned += j->mask[i][t];
    if (count < 2 || (learned == 0 && x->ids.count <= j->context)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, x->where, "is the completion empty?", "the example has nothing to learn");
        goto done;
    }
    tdm_sequence *s = &j->sequences.seq[i];
    tdm_sequence_start(s, x->ids.data, count, 0);
    s->prompt = 1;
    s->finish = TDM_FINISH_STOP;
    j->item[i] = (tdm_train_item){.seq = s, .mask = j->mask[i], .lp = j->sequences.lp[i], .entropy = j->sequences.entropy[i],
                                  .dropout_token = (uint32_t)(i * j->context)};
    j->fig.completion_tokens += learned;
    j->fig.prompt_tokens += count - learned;
    j->fig.longest = tdm_max_i64(j->fig.longest, learned);
done:
    json_decref(row);
    return st;
}

tdm_status tdm_job_examples(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_example x = {.l = &j->language};
    j->sequence_count = j->samples;
    for (int64_t i = 0; i < j->samples; i++) TDM_TRY(st, take(j, &x, i, err), done);
done:
    tdm_example_free(&x);
    return st;
}
