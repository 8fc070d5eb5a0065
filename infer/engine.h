/* The rollout engine: continuous batching over the paged KV cache. Each step runs one forward over a ragged batch of prefill chunks and
 * decodes, samples a token for every sequence whose prefix is complete, and admits, finishes or preempts sequences.
 *   - a group's prompt is computed once; its full pages are shared, its last page copied;
 *   - when pages run out, the sequence admitted last gives its pages back and is recomputed later: the same bits, for every kernel is
 *     batch-invariant, and its tokens are kept;
 *   - results depend on (seed, step, prompt, sample, position) alone, never on scheduling;
 *   - a sequence whose turn has ended may wait for what somebody adds to it, its keys and values in their pages, while others go on.
 * After open, nothing here allocates. */
#ifndef TANDEM_INFER_ENGINE_H
#define TANDEM_INFER_ENGINE_H

#include "infer/kv_cache.h"
#include "infer/sequence.h"

typedef struct tdm_engine_spec {
    int64_t sequences;    /* running at once, at most */
    int64_t samples;      /* samples of one tdm_engine_run, at most */
    int64_t requests;     /* requests of one tdm_engine_run, at most */
    int64_t context;      /* positions of the longest sequence */
    int64_t batch_tokens; /* T of one forward; >= sequences */
    int64_t head_rows;    /* rows of logits at once */
    int64_t kv_pages;     /* at least tdm_engine_min_pages */
    int64_t rank;         /* of the adapter; 0: none */
    bool turns;           /* requests may have turns */
    bool routes;          /* sequences keep the experts their tokens went to, where they have room for them */
} tdm_engine_spec;

typedef struct tdm_engine tdm_engine;

/* Sequences of several turns. One that ends (its finish says how) is handed over and waits: it keeps its pages while others do not need
 * them, and is computed again from its tokens where they did, which gives the same bits. */
typedef struct tdm_turns {
    void *ctx;
    /* The turn of sequence `index` of a request has ended. */
    tdm_status (*ended)(void *ctx, int64_t request, int64_t index, tdm_error *err);
    /* Before every forward; answers some that wait with tdm_engine_continue or tdm_engine_end, or none. idle: nothing else is left to
     * compute, so it may take a moment to wait itself. */
    tdm_status (*answer)(void *ctx, tdm_engine *e, bool idle, tdm_error *err);
} tdm_turns;

/* One prompt, sampled `samples` times. Everything is lent until tdm_engine_run returns. */
typedef struct tdm_request {
    tdm_sequence *sequence;      /* [samples]: tokens[0..prompt) filled by the caller, all the same */
    int64_t samples;
    tdm_sampling sampling;
    uint64_t seed;
    uint32_t step, prompt_index; /* the draw's counter; sample numbers count from 0 */
    const int32_t *stop_ids;     /* end-of-sequence tokens; kept as the last token of the completion */
    int stop_count;
    /* Further stops (strings): true ends the sequence after its newest token. May be NULL. */
    bool (*stop)(void *ctx, const tdm_sequence *s);
    void *stop_ctx;
    const tdm_turns *turns;      /* NULL: a sequence is done when it ends. One for all requests of a run */
} tdm_request;

typedef struct tdm_engine_stats {
    int64_t forwards, tokens_prefill, tokens_decode, preemptions, pages_peak;
} tdm_engine_stats;

int64_t tdm_engine_min_pages(const tdm_backend *be, const tdm_engine_spec *spec);
/* Pages with which nothing is ever preempted. */
int64_t tdm_engine_max_pages(const tdm_backend *be, const tdm_engine_spec *spec);
/* Bytes of the rollout layout beside the pages: activations, scratch, logits, and the arrays that describe a step. */
size_t tdm_engine_buffer_bytes(const tdm_backend *be, const tdm_model_config *c, const tdm_engine_spec *spec);
/* Host bytes of the scheduler. */
size_t tdm_engine_host_bytes(const tdm_backend *be, const tdm_model_config *c, const tdm_engine_spec *spec);
tdm_status tdm_engine_open(tdm_engine **e, const tdm_model *m, const tdm_engine_spec *spec, void *kv, void *buffers, tdm_error *err);
void tdm_engine_close(tdm_engine *e);

/* Generates all samples of all requests. tick (may be NULL) is called after every forward with the samples done and tokens generated so
 * far; returning false stops early with TDM_STOPPED. */
typedef bool tdm_engine_tick_fn(void *ctx, int64_t samples_done, int64_t tokens);
tdm_status tdm_engine_run(tdm_engine *e, const tdm_adapter *adapter, tdm_request *requests, int64_t count, tdm_engine_tick_fn *tick,
                          void *tick_ctx, tdm_error *err);
/* For tdm_turns.answer, of a sequence that waits. continue: the caller has put more tokens behind it (and what stands for their
 * log-probabilities), below its room; end: it is done as its finish says. */
void tdm_engine_continue(tdm_engine *e, int64_t request, int64_t index);
void tdm_engine_end(tdm_engine *e, int64_t request, int64_t index);
const tdm_engine_stats *tdm_engine_run_stats(const tdm_engine *e); /* of the last run */

/* Log-probabilities of given tokens through the same cache: the first half of each sequence goes in as prefill chunks, the rest token by
 * token; with prefill_only all of it. logprob[b] [count - 1]: of tokens 1.. of sequence b, temperature 1, whole vocabulary. */
tdm_status tdm_engine_score(tdm_engine *e, const tdm_adapter *adapter, const tdm_sequence *sequences, int64_t count, bool prefill_only,
                            float *const *logprob, tdm_error *err);

#endif
