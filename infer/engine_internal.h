/* What engine.c (scheduling), engine_step.c (one forward over a ragged batch) and engine_score.c share. */
#ifndef TANDEM_INFER_ENGINE_INTERNAL_H
#define TANDEM_INFER_ENGINE_INTERNAL_H

#include "infer/engine.h"

/* A running sequence. */
typedef struct tdm_slot {
    int64_t sample;   /* index into engine->sample, or the sequence's index when scoring */
    int64_t cached;   /* positions whose keys and values are in the pages */
    int64_t take;     /* tokens of this step */
    int64_t pages;    /* pages held */
    int32_t *page;    /* [max pages] */
} tdm_slot;

typedef struct tdm_engine_buffers {
    tdm_view x;              /* [T, D] f32 */
    tdm_layer_acts acts;
    tdm_scratch scratch;
    tdm_view rows, rows_xn;  /* [head_rows, D] f32, bf16 */
    tdm_view rows_codes, rows_scales;
    tdm_view logits;         /* [head_rows, V] f32 */
} tdm_engine_buffers;

/* State of a sample in a run. */
typedef struct tdm_sample_state {
    int64_t request, index;  /* sequence = requests[request].sequence[index] */
    int64_t next;            /* in the waiting list; -1: last */
    bool done;
} tdm_sample_state;

/* A request's prompt pages, kept while siblings may still fork from them. */
typedef struct tdm_prompt_hold {
    int64_t pages;           /* 0: nothing held */
    int32_t *page;           /* [max pages] */
    int64_t filler;          /* sample that computes the prompt; -1: nobody */
    int64_t remaining;       /* samples not done */
} tdm_prompt_hold;

struct tdm_engine {
    const tdm_model *m;
    tdm_engine_spec spec;
    tdm_kv_cache kv;
    tdm_engine_buffers buf;
    tdm_engine_stats stats;
    int64_t pages_per_sequence;
    /* running, in order of admission */
    tdm_slot *slot;          /* [sequences] */
    int64_t running;
    /* this step's batch */
    int32_t *ids, *position, *q_start, *kv_len, *pages;
    int32_t *head_row;       /* [batch_tokens] rows of x that want logits */
    int32_t *ready;          /* [sequences] slots whose prefix is complete */
    tdm_batch batch;
    /* arguments of sample, [sequences] */
    int32_t *token;
    float *logprob;
    uint32_t *support;       /* [head_rows, ceil(V/32)] */
    tdm_sampling *sampling;
    tdm_draw *draw;
    int32_t *history;        /* [head_rows, context] ids of the rows' sequences, where some row has a penalty */
    int32_t *history_at, *history_len;
    /* a run */
    tdm_sample_state *sample; /* [samples] */
    tdm_prompt_hold *hold;    /* [requests] */
    tdm_request *request;
    int64_t waiting;          /* first waiting sample; -1: none */
    const tdm_sequence *scored; /* what tdm_engine_score runs over */
    int64_t done, generated;
    void *host;               /* one allocation for all arrays */
};

size_t tdm_engine_buffers_lay(tdm_engine_buffers *b, const tdm_model_config *c, const tdm_engine_spec *spec, char *memory);
/* Builds engine->batch from slots [0, running) with take tokens each; tokens_of gives a slot's tokens. */
typedef const int32_t *tdm_slot_tokens_fn(const tdm_engine *e, const tdm_slot *slot);
void tdm_engine_batch(tdm_engine *e, tdm_slot_tokens_fn *tokens_of);
/* Runs the forward over engine->batch; the hidden states end in buf.x. */
tdm_status tdm_engine_forward(tdm_engine *e, const tdm_adapter *adapter, tdm_error *err);
/* Logits of `count` rows of buf.x (at most head_rows) into buf.logits. */
tdm_status tdm_engine_logits(tdm_engine *e, const int32_t *rows, int64_t count, tdm_error *err);
void tdm_slot_release(tdm_engine *e, tdm_slot *slot);

#endif
