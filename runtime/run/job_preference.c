/* Preferences: rows of the data as sequences, the reference's log-probabilities with the adapter off, and the coefficients of a minibatch.
 * Source of the conventions: TRL 1.16 (trl/trainer/dpo_trainer.py and kto_trainer.py, _prepare_dataset): prompt and answer are tokenized
 * together, a text gets the end-of-sequence token, a chat goes through the template; the answer begins where prompt and whole part, and
 * for a pair where the first of its two does. A sequence is cut at its end; a row whose prompt alone fills the context is left out.
 * A reward model (trl/trainer/reward_trainer.py) scores sequences at their end, so there a pair that would be cut is left out; it needs no
 * prompt, and a row may give a margin.
 *
 * Sequences of a step: pairs stand as chosen, rejected, chosen, ...; kto has its answers first, then as many of the prompts again, each with
 * the answer before it in its minibatch (the first with the last): of those the KL is estimated, and nothing is learned.
 *
 * A loss needs sums over whole sequences of the minibatch, which may lie in several micro-batches. So a first pass finds all
 * log-probabilities, the loss freezes d loss / d lp, and the second pass goes backward with these: the split enters nowhere. */
#include "runtime/run/example.h"
#include "runtime/run/job_internal.h"

#include <string.h>

typedef struct reader {
    tdm_example x;  /* ids: the chosen, or kto's; part: the prompt alone */
    tdm_ids other;  /* the rejected */
    int64_t prompt; /* tokens before the answer */
    bool label;
    double margin;
} reader;

static void reader_free(reader *r)
{
    tdm_example_free(&r->x);
    tdm_ids_free(&r->other);
}

static int64_t common(const tdm_ids *a, const tdm_ids *b)
{
    int64_t n = 0;
    while (n < a->count && n < b->count && a->data[n] == b->data[n]) n++;
    return n;
}

static tdm_status encode(reader *r, json_t *prompt, json_t *answer, tdm_ids *ids, tdm_error *err)
{
    if (json_is_string(prompt)) return tdm_example_text(&r->x, prompt, answer, ids, err);
    json_t *all = json_copy(prompt);
    if (!all || json_array_extend(all, answer) != 0) {
        json_decref(all);
        return TDM_FAIL(err, TDM_ERR_OTHER, r->x.where, "free host memory", "out of memory for an example");
    }
    const tdm_status st = tdm_example_chat(&r->x, all, json_array_size(all), false, ids, err);
    json_decref(all);
    return st;
}

static tdm_status encode_prompt(reader *r, json_t *prompt, tdm_error *err)
{
    if (json_is_string(prompt)) return tdm_example_text(&r->x, prompt, NULL, &r->x.part, err);
    return tdm_example_chat(&r->x, prompt, json_array_size(prompt), true, &r->x.part, err);
}

static bool same_kind(const json_t *a, const json_t *b) { return (json_is_string(a) && json_is_string(b)) || (json_is_array(a) && json_is_array(b)); }

/* Messages [from, end) of a list; a new reference, NULL: out of memory. */
static json_t *slice(json_t *list, size_t from, size_t end)
{
    json_t *out = json_array();
    for (size_t i = from; out && i < end; i++) json_array_append(out, json_array_get(list, i));
    return out;
}

static tdm_status encode_pair(reader *r, json_t *prompt, json_t *chosen, json_t *rejected, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, encode_prompt(r, prompt, err), done);
    TDM_TRY(st, encode(r, prompt, chosen, &r->x.ids, err), done);
    TDM_TRY(st, encode(r, prompt, rejected, &r->other, err), done);
    r->prompt = tdm_min_i64(common(&r->x.part, &r->x.ids), common(&r->x.part, &r->other));
done:
    return st;
}

/* Two whole chats: their prompt is what they begin with alike. */
static tdm_status encode_chats(reader *r, json_t *chosen, json_t *rejected, tdm_error *err)
{
    const size_t c = json_array_size(chosen), d = json_array_size(rejected);
    size_t n = 0;
    while (n < c && n < d && json_equal(json_array_get(chosen, n), json_array_get(rejected, n))) n++;
    if (n == 0 || n == c || n == d)
        return TDM_FAIL(err, TDM_ERR_INPUT, r->x.where, "two chats that begin alike and end in different answers, or a \"prompt\" beside them",
                        "\"chosen\" and \"rejected\" %s", n == 0 ? "have no message in common to begin with" : "are not two answers to one prompt");
    json_t *prompt = slice(chosen, 0, n), *a = slice(chosen, n, c), *b = slice(rejected, n, d);
    const tdm_status st = prompt && a && b ? encode_pair(r, prompt, a, b, err)
                                           : TDM_FAIL(err, TDM_ERR_OTHER, r->x.where, "free host memory", "out of memory for an example");
    json_decref(prompt);
    json_decref(a);
    json_decref(b);
    return st;
}

/* What a reward model takes besides: two whole texts, a margin. */
static tdm_status read_scored(reader *r, json_t *row, bool *done, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *chosen = json_object_get(row, "chosen"), *rejected = json_object_get(row, "rejected"), *margin = json_object_get(row, "margin");
    r->margin = json_is_number(margin) ? json_number_value(margin) : 0.0;
    if (margin && !json_is_number(margin) && !json_is_null(margin)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, r->x.where, "write a number, or leave it away", "\"margin\" is not a number");
        goto done;
    }
    *done = !json_object_get(row, "prompt") && json_is_string(chosen) && json_is_string(rejected);
    if (!*done) goto done;
    TDM_TRY(st, tdm_example_text(&r->x, NULL, chosen, &r->x.ids, err), done);
    TDM_TRY(st, tdm_example_text(&r->x, NULL, rejected, &r->other, err), done);
    r->prompt = 0;
done:
    return st;
}

static tdm_status read_pair(reader *r, json_t *row, tdm_error *err)
{
    json_t *prompt = json_object_get(row, "prompt"), *chosen = json_object_get(row, "chosen"), *rejected = json_object_get(row, "rejected");
    if (!prompt && json_is_array(chosen) && json_is_array(rejected)) return encode_chats(r, chosen, rejected, err);
    if (!same_kind(prompt, chosen) || !same_kind(prompt, rejected))
        return TDM_FAIL(err, TDM_ERR_INPUT, r->x.where,
                        "write {\"prompt\":...,\"chosen\":...,\"rejected\":...}, all texts or all lists of messages, or two whole chats without \"prompt\"",
                        "the row is no pair of answers");
    return encode_pair(r, prompt, chosen, rejected, err);
}

static tdm_status read_label(reader *r, json_t *row, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *prompt = json_object_get(row, "prompt"), *completion = json_object_get(row, "completion"), *label = json_object_get(row, "label");
    if (!same_kind(prompt, completion) || !json_is_boolean(label))
        return TDM_FAIL(err, TDM_ERR_INPUT, r->x.where,
                        "write {\"prompt\":...,\"completion\":...,\"label\":true}, both texts or both lists of messages; false: not wanted",
                        "the row is no answer with a label");
    r->label = json_is_true(label);
    TDM_TRY(st, encode_prompt(r, prompt, err), done);
    TDM_TRY(st, encode(r, prompt, completion, &r->x.ids, err), done);
    r->prompt = common(&r->x.part, &r->x.ids);
done:
    return st;
}

/* The row as tokens; *fits: false when its prompt leaves no room for an answer. */
static tdm_status read_row(const tdm_job *j, reader *r, const tdm_dataset *data, int64_t at, bool *fits, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[512];
    json_t *row = NULL;
    const bool pairs = tdm_preference_pairs(j->preference.kind), scored = tdm_job_scores(j);
    bool read = false;
    r->x.where = tdm_dataset_where(data, at, where);
    TDM_TRY(st, tdm_dataset_row(data, at, &row, err), done);
    if (scored) TDM_TRY(st, read_scored(r, row, &read, err), done);
    if (!read) TDM_TRY(st, pairs ? read_pair(r, row, err) : read_label(r, row, err), done);
    if (r->prompt == 0 && !scored) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "give the row a prompt", "nothing stands before the answer");
        goto done;
    }
    if (r->x.ids.count == r->prompt || (pairs && r->other.count == r->prompt)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "remove the row, or write the answer", "an answer is empty");
        goto done;
    }
    *fits = scored ? tdm_max_i64(r->x.ids.count, r->other.count) <= j->context : r->prompt < j->context;
done:
    json_decref(row);
    return st;
}

/* Rows that do not fit are left out, counted and said once; the counter of draws moves on, so a resume leaves out the same. */
static tdm_status next_row(tdm_job *j, reader *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[TDM_RECIPE_WHERE];
    for (int64_t tried = 0;; tried++) {
        bool fits;
        int64_t part, at;
        tdm_mixture_draw(j->data, j->data_position++, &part, &at);
        const tdm_dataset *data = tdm_mixture_part(j->data, part);
        TDM_TRY(st, read_row(j, r, data, at, &fits, err), done);
        if (fits) break;
        if (j->skipped++ == 0)
            tdm_progress_note(&j->progress, "%s: %lld %s in %lld (data.max_prompt_tokens + rollout.max_new_tokens); such rows are left out", tdm_dataset_where(data, at, where),
                              (long long)(tdm_job_scores(j) ? tdm_max_i64(r->x.ids.count, r->other.count) : r->prompt),
                              tdm_job_scores(j) ? "tokens have no room" : "prompt tokens leave no room for an answer", (long long)j->context);
        if (tried >= tdm_mixture_rows(j->data)) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, tdm_recipe_where(j->r, "data.max_prompt_tokens", where), "raise it",
                          tdm_job_scores(j) ? "every pair has one of more than %lld tokens" : "every prompt has %lld tokens or more", (long long)j->context);
            goto done;
        }
    }
done:
    return st;
}

tdm_status tdm_job_preference_try(tdm_job *j, tdm_error *err)
{
    reader r = {.x = {.l = &j->language}};
    bool fits;
    tdm_status st = TDM_OK;
    for (int64_t i = 0; st == TDM_OK && i < j->r->data.source_count; i++) st = read_row(j, &r, tdm_mixture_part(j->data, i), 0, &fits, err);
    reader_free(&r);
    return st;
}

/* Sequence i, whose answer begins after `prompt` tokens. whole: the prompt is looked at too. */
static void put(tdm_job *j, int64_t i, const int32_t *ids, int64_t count, int64_t prompt, bool whole, bool wanted)
{
    tdm_sequence *s = &j->sequences.seq[i];
    tdm_sequence_start(s, ids, tdm_min_i64(count, j->context), 0);
    s->prompt = whole ? 1 : prompt;
    s->finish = TDM_FINISH_STOP;
    j->item[i] = (tdm_train_item){.seq = s, .coef = j->sequences.old[i], .lp = j->sequences.lp[i], .entropy = j->sequences.entropy[i],
                                  .dropout_token = (uint32_t)(i * j->context), .value = j->sequences.lp[i]};
    j->preferred[i] = (tdm_preference_sequence){.tokens = s->count - prompt, .prompt_tokens = prompt - s->prompt, .wanted = wanted};
}

static void count(tdm_job *j)
{
    for (int64_t i = 0; i < j->sequence_count; i++) {
        const int64_t tokens = j->preferred[i].tokens;
        j->fig.completion_tokens += tokens;
        j->fig.prompt_tokens += j->sequences.seq[i].count - tokens;
        j->fig.longest = tdm_max_i64(j->fig.longest, tokens);
    }
}

/* Prompt i with the answer before it among [first, end), as cut. */
static void mismatch(tdm_job *j, int64_t i, int64_t first, int64_t end)
{
    const int64_t batch = j->sequence_count;
    const tdm_sequence *own = &j->sequences.seq[i], *before = &j->sequences.seq[i == first ? end - 1 : i - 1];
    const int64_t answer = tdm_min_i64(before->count - before->prompt, j->context - own->prompt);
    put(j, batch + i, own->tokens, own->prompt, own->prompt, false, false);
    tdm_sequence *s = &j->sequences.seq[batch + i];
    memcpy(s->tokens + s->prompt, before->tokens + before->prompt, (size_t)answer * sizeof *s->tokens);
    s->count = s->room = s->prompt + answer;
    j->preferred[batch + i].tokens = answer;
}

tdm_status tdm_job_preferences(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    reader r = {.x = {.l = &j->language}};
    const bool pairs = tdm_preference_pairs(j->preference.kind), whole = j->preference.kind == TDM_PREFERENCE_ORPO || tdm_job_scores(j);
    const int64_t parts = j->r->train.minibatches;
    j->sequence_count = pairs ? j->samples : j->samples / 2;
    for (int64_t i = 0; i < j->sequence_count; i += pairs ? 2 : 1) {
        TDM_TRY(st, next_row(j, &r, err), done);
        put(j, i, r.x.ids.data, r.x.ids.count, r.prompt, whole, pairs || r.label);
        j->preferred[i].margin = r.margin;
        if (pairs) put(j, i + 1, r.other.data, r.other.count, r.prompt, tdm_job_scores(j), false);
    }
    for (int64_t k = 0; !pairs && k < parts; k++) {
        const int64_t first = tdm_job_part(j, k, parts), end = tdm_job_part(j, k + 1, parts);
        for (int64_t i = first; i < end; i++) mismatch(j, i, first, end);
    }
    count(j);
done:
    reader_free(&r);
    return st;
}

static double sum_of(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i];
    return sum;
}

/* What the loss knows of sequences [first, end): sums in the order of the tokens, or the score. */
static void sum_up(tdm_job *j, int64_t first, int64_t end)
{
    for (int64_t i = first; tdm_job_scores(j) && i < end; i++) j->preferred[i].score = (double)j->item[i].value[0];
    if (tdm_job_scores(j)) return;
    const bool reference = tdm_preference_reference(j->preference.kind);
    for (int64_t i = first; i < end; i++) {
        tdm_preference_sequence *s = &j->preferred[i];
        s->prompt_lp = sum_of(j->sequences.lp[i], s->prompt_tokens);
        s->lp = sum_of(j->sequences.lp[i] + s->prompt_tokens, s->tokens);
        s->ref = reference ? sum_of(j->sequences.ref[i] + s->prompt_tokens, s->tokens) : 0.0;
    }
}

tdm_status tdm_job_preference_reference(tdm_job *j, tdm_error *err)
{
    if (!tdm_preference_reference(j->preference.kind)) return TDM_OK;
    return tdm_job_score(j, NULL, j->sequences.ref, j->samples, err);
}

tdm_status tdm_job_preference_weigh(tdm_job *j, const tdm_train_pass *pass, int64_t first, int64_t end, tdm_loss_sums *sums, tdm_error *err)
{
    tdm_status st = TDM_OK;
    double z = 0.0;
    const double before = j->fig.preference.loss;
    TDM_TRY(st, tdm_trainer_look(j->session.trainer, pass, j->item + first, end - first, err), done);
    sum_up(j, first, end);
    if (!tdm_preference_pairs(j->preference.kind)) {
        const int64_t from = j->sequence_count + first, to = j->sequence_count + end;
        TDM_TRY(st, tdm_trainer_look(j->session.trainer, pass, j->item + from, to - from, err), done);
        sum_up(j, from, to);
        z = tdm_preference_kl(j->preferred + from, to - from);
    }
    tdm_preference_eval(&j->preference, j->preferred + first, end - first, z, &j->fig.preference);
    sums->loss += j->fig.preference.loss - before;
    for (int64_t i = first; i < end; i++) {
        const tdm_preference_sequence *s = &j->preferred[i];
        if (tdm_job_scores(j)) {
            j->sequences.old[i][0] = (float)s->coef;
            continue;
        }
        for (int64_t t = 0; t < s->prompt_tokens; t++) j->sequences.old[i][t] = (float)s->prompt_coef;
        for (int64_t t = 0; t < s->tokens; t++) j->sequences.old[i][s->prompt_tokens + t] = (float)s->coef;
    }
done:
    return st;
}

void tdm_job_preference_metrics(const tdm_job *j, tdm_step_metrics *m)
{
    const tdm_preference_sums *p = &j->fig.preference;
    const bool pairs = tdm_preference_pairs(j->preference.kind), scored = tdm_job_scores(j);
    const double calls = (double)tdm_max_i64(1, p->calls), chosen = (double)p->count[1], rejected = (double)p->count[0];
    if (p->count[1]) {
        tdm_metric_set(m, TDM_METRIC_REWARDS_CHOSEN, p->reward[1] / chosen);
        if (!scored) tdm_metric_set(m, TDM_METRIC_LOGPS_CHOSEN, p->lp[1] / chosen);
    }
    if (p->count[0]) {
        tdm_metric_set(m, TDM_METRIC_REWARDS_REJECTED, p->reward[0] / rejected);
        if (!scored) tdm_metric_set(m, TDM_METRIC_LOGPS_REJECTED, p->lp[0] / rejected);
    }
    if (p->count[0] && p->count[1]) tdm_metric_set(m, TDM_METRIC_REWARDS_MARGINS, p->reward[1] / chosen - p->reward[0] / rejected);
    if (pairs) tdm_metric_set(m, TDM_METRIC_REWARDS_ACCURACIES, p->accuracy / chosen);
    else tdm_metric_set(m, TDM_METRIC_KL, p->kl / calls);
    if (j->preference.kind == TDM_PREFERENCE_ORPO) {
        tdm_metric_set(m, TDM_METRIC_LOG_ODDS_RATIO, p->log_odds_ratio / calls);
        tdm_metric_set(m, TDM_METRIC_LOG_ODDS_CHOSEN, p->log_odds / calls);
    }
    if (j->preference.kind == TDM_PREFERENCE_ORPO || j->preference.sft > 0.0) tdm_metric_set(m, TDM_METRIC_NLL_LOSS, p->nll / calls);
}
