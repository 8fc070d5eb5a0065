/* What engine.c (scheduling), engine_turns.c (sequences that wait), engine_step.c (one forward over a ragged batch) and engine_score.c share. */
#ifndef TANDEM_INFER_ENGINE_INTERNAL_H
#define TANDEM_INFER_ENGINE_INTERNAL_H

#include "infer/engine.h"
#include "memory/mirror.h"

/* A running sequence. */
typedef struct tdm_slot {
    int64_t sample;   /* index into engine->sample, or the sequence's index when scoring */
    int64_t cached;   /* positions whose keys and values are in the pages */
    int64_t take;     /* tokens of this step */
    int64_t pages;    /* pages held */
    int32_t *page;    /* [max pages] */
    bool ready;       /* parked: it may run again */
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
    bool done, away;         /* away: its turn has ended, and nobody has answered yet */
} tdm_sample_state;

/* A request's prompt pages, kept while siblings may still fork from them. */
typedef struct tdm_prompt_hold {
    int64_t pages;           /* 0: nothing held */
    int32_t *page;           /* [max pages] */
    int64_t first;           /* the request's first sample */
    int64_t filler;          /* sample that computes the prompt; -1: nobody */
    int64_t filled;          /* sample that computed what is held */
    int64_t remaining;       /* samples not done */
} tdm_prompt_hold;

/* A decode step recorded for a batch of `bucket` sequences. */
enum { TDM_RECORDED_MOST = 48 };
typedef struct tdm_recorded {
    int64_t bucket;              /* 0: a free place */
    const tdm_adapter *adapter;  /* NULL: off */
    bool warm;                   /* has run once by itself */
    tdm_graph *graph;            /* owned; NULL until recorded */
} tdm_recorded;

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
    tdm_slot *parked;        /* [sequences, where the spec has turns] those that wait, or may run again */
    int64_t parked_count;
    int32_t *ready;          /* [sequences] slots whose prefix is complete after this step */
    int64_t ready_count;
    bool careful;            /* some row truncates its distribution or has a penalty */
    tdm_batch batch;         /* in the backend's memory */
    /* What describes a step, in the mirror: host pointers. First what the host writes and pushes before the step, */
    tdm_mirror mirror;
    int32_t *ids, *position, *q_start, *kv_len, *pages;
    int32_t *head_row;       /* [batch_tokens] rows of x that want logits */
    int32_t *target;         /* [head_rows], scoring */
    tdm_sampling *sampling;  /* arguments of sample, [sequences], in the order of `ready` */
    tdm_draw *draw;
    int32_t *history_at, *history_len;
    size_t pushed_bytes;     /* up to here */
    int32_t *history;        /* [head_rows, context] ids of the rows' sequences; pushed where some row has a penalty */
    /* then what it pulls. */
    int32_t *token;          /* [sequences] */
    float *logprob;          /* [max(sequences, head_rows)] */
    uint32_t *support;       /* [head_rows, ceil(V/32)] */
    int32_t *routes;         /* [L, T of the step, U], room for batch_tokens; with spec.routes */
    /* a run */
    tdm_sample_state *sample; /* [samples] */
    tdm_prompt_hold *hold;    /* [requests] */
    tdm_request *request;
    int64_t waiting;          /* first waiting sample; -1: none */
    tdm_recorded recorded[TDM_RECORDED_MOST];
    int32_t pad_page;         /* where rows that only fill a bucket keep their key; -1: nothing is recorded */
    const tdm_sequence *scored; /* what tdm_engine_score runs over */
    int64_t done, total, generated;
    void *host;               /* one allocation for all arrays */
};

size_t tdm_engine_buffers_lay(tdm_engine_buffers *b, const tdm_model_config *c, const tdm_engine_spec *spec, char *memory);
/* The mirror's arrays over `base`, or their size alone when base is NULL. */
size_t tdm_engine_mirror_lay(tdm_engine *e, const tdm_model_config *c, char *base);
/* Device twin of a host pointer into the mirror. */
static inline void *tdm_engine_twin(const tdm_engine *e, const void *host) { return tdm_mirror_twin(&e->mirror, host); }
/* Pushes what describes the step. */
tdm_status tdm_engine_push(const tdm_engine *e, tdm_error *err);
/* Builds engine->batch from slots [0, running) with take tokens each; tokens_of gives a slot's tokens. */
typedef const int32_t *tdm_slot_tokens_fn(const tdm_engine *e, const tdm_slot *slot);
void tdm_engine_batch(tdm_engine *e, tdm_slot_tokens_fn *tokens_of);
/* Runs the forward over engine->batch; the hidden states end in buf.x. */
tdm_status tdm_engine_forward(tdm_engine *e, const tdm_adapter *adapter, tdm_error *err);
/* Logits of `count` rows of buf.x (at most head_rows; `rows` in the backend's memory) into buf.logits. */
tdm_status tdm_engine_logits(tdm_engine *e, const int32_t *rows, int64_t count, tdm_error *err);
/* Samples a token for the first `rows` of head_row, sampling, draw (ready_count of them, more where a bucket is padded); they are in the mirror's device block until take_samples pulls them. */
tdm_status tdm_engine_sample(tdm_engine *e, int64_t rows, tdm_error *err);
/* The step: push, forward, sample; from a recording where one can serve. */
tdm_status tdm_engine_compute(tdm_engine *e, const tdm_adapter *adapter, tdm_error *err);
bool tdm_engine_records(const tdm_backend *be);
void tdm_engine_forget_recorded(tdm_engine *e);
/* engine_routes.c: the step's routes join their sequences, before slots go on; the first `count` positions of one come from a sibling. */
tdm_status tdm_engine_take_routes(tdm_engine *e, tdm_error *err);
void tdm_engine_copy_routes(const tdm_engine *e, int64_t to, int64_t from, int64_t count);
void tdm_slot_release(tdm_engine *e, tdm_slot *slot);
tdm_sequence *tdm_engine_sequence(const tdm_engine *e, int64_t sample);
/* Puts a sample at the head of the waiting list: its tokens stay, its keys and values are computed again. */
void tdm_engine_wait(tdm_engine *e, int64_t sample);
/* The sample is done. */
void tdm_engine_done(tdm_engine *e, int64_t sample);
/* engine_turns.c: running slot b, whose turn has ended, is set aside; its place in the running ones is free then. */
void tdm_engine_park(tdm_engine *e, int64_t b);
/* Takes the pages of one that is parked, where there is one. */
bool tdm_engine_evict(tdm_engine *e);
/* Those that may run again join the running ones. */
void tdm_engine_unpark(tdm_engine *e);

#endif
