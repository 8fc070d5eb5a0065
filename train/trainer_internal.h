/* What trainer.c (micro-batches), tape.c (memory), backward.c (layers), head.c (log-probabilities, loss) and value.c (values) share. */
#ifndef TANDEM_TRAIN_TRAINER_INTERNAL_H
#define TANDEM_TRAIN_TRAINER_INTERNAL_H

#include "memory/mirror.h"
#include "train/trainer.h"

/* Buffers of backward. Views share memory where their lives do not meet. */
typedef struct tdm_backward_buffers {
    tdm_view dx;      /* [T, D] f32: gradient of the residual stream */
    tdm_view dxn;     /* [T, D] f32: of a normalized input */
    tdm_view dwide;   /* [T, max(F, H*Dh)] f32, of experts [T U, F]: of silu(gate) * up, then of the attention output */
    tdm_view dy;      /* [T, D] bf16: rounded dx */
    tdm_view dq, dk, dv; /* bf16 */
    tdm_view dh;      /* [T, R] bf16, of experts [T U, R] */
    tdm_view drows, dmade; /* [T U, D] f32, bf16: of what experts read, and of what they made */
    tdm_view dweight, dlogits; /* [T, U] f32, [T, E] bf16: of the router's weights and logits */
    tdm_view lora_dx; /* [T, widest] f32, dropout only */
} tdm_backward_buffers;

typedef struct tdm_head_buffers {
    tdm_view x, dx;   /* [rows, D] f32: picked hidden states, their gradients */
    tdm_view xn;      /* [rows, D] bf16 */
    tdm_view dxn;     /* [rows, D] f32 */
    tdm_view rstd;    /* [rows, 1] */
    tdm_view codes, scales;
    tdm_view logits;  /* [rows, V] f32 */
    tdm_view dlogits; /* [rows, V] bf16 */
    tdm_view teacher, teacher_rstd; /* [rows, V], [rows, 1] f32: the teacher's, where there is one */
} tdm_head_buffers;

/* A token whose log-probability or value is wanted: row of the hidden state that predicts it; of a whole sequence its last. */
typedef struct tdm_head_token {
    int32_t row, target;
    int64_t item, index; /* index in the item's completion */
} tdm_head_token;

struct tdm_trainer {
    const tdm_model *m;
    tdm_trainer_spec spec;
    int64_t kv_pages, page_stride;
    tdm_view *x;              /* [L + 1]: input of each layer, and the output; forward_only: one, used by all; offloaded: in two places by turns */
    char *inputs;             /* owned, host_open's: [L - 1, input_bytes] inputs on their way to backward; NULL: they stay */
    size_t input_bytes;
    tdm_layer_acts *acts;     /* [L], or [1] with checkpointing */
    tdm_scratch scratch;
    tdm_backward_buffers back;
    tdm_head_buffers head;
    /* the micro-batch at hand */
    tdm_batch batch;          /* in the backend's memory */
    tdm_head_token *token;    /* [micro_tokens] */
    tdm_view teacher;         /* [micro_tokens, D] f32: a teacher's last hidden states of these tokens */
    int64_t tokens_head;
    /* In the mirror, host pointers: what describes a micro-batch, */
    tdm_mirror mirror;
    int32_t *ids, *position, *q_start, *kv_len, *pages;
    uint32_t *dropout_token;
    size_t batch_bytes;       /* up to here, from ids on */
    /* what describes a tile of the head, [head_rows], */
    int32_t *row, *target;
    int32_t *history_at, *history_len; /* into ids: a sequence's own tokens stand there one after the other */
    size_t tile_bytes;        /* up to here, from row on */
    float *coef, *entropy_coef; /* d loss / d lp (or d value) and d entropy */
    uint32_t *support;        /* [head_rows, ceil(V/32)] */
    int32_t *routes;          /* [L, T, U], room for micro_tokens; with spec.routes */
    /* and what the head gives back. */
    float *lp, *entropy, *divergence; /* of a pass over values lp is these */
    float *sequence_coef;     /* [micro_tokens]: d loss / d lp when a loss needs whole sequences */
    void *host;
};

void tdm_trainer_lay(tdm_trainer *t, const tdm_backend *be, const tdm_model_config *c, tdm_dtype kv_dtype,
                     const tdm_trainer_regions *r, tdm_trainer_bytes *bytes);

/* Device twin of a host pointer into the mirror. */
static inline void *tdm_trainer_twin(const tdm_trainer *t, const void *host) { return tdm_mirror_twin(&t->mirror, host); }

/* One call of the head over tokens [first, first + n) of t->token. */
tdm_status tdm_head_logprobs(tdm_trainer *t, int64_t first, int64_t n, tdm_train_item *items, const tdm_sampling *sampling, tdm_error *err);
/* Log-probabilities of all head tokens; then loss and its gradient into back.dx. */
tdm_status tdm_head_score(tdm_trainer *t, tdm_train_item *items, const tdm_sampling *sampling, tdm_error *err);
tdm_status tdm_head_train(tdm_trainer *t, tdm_train_item *items, const tdm_train_pass *pass, tdm_loss_sums *sums, tdm_error *err);
/* From d loss / d logits of a tile of n tokens, in head.dlogits, into back.dx. */
tdm_status tdm_head_backward(tdm_trainer *t, int64_t n, tdm_error *err);
/* distill.c: keeps the hidden states of the head's tokens after the teacher's forward; after the student's, loss and gradient into back.dx. */
tdm_status tdm_distill_keep(tdm_trainer *t, tdm_error *err);
tdm_status tdm_distill_train(tdm_trainer *t, tdm_train_item *items, const tdm_train_pass *pass, tdm_loss_sums *sums, tdm_error *err);
/* From back.dxn, the gradient of the tile's normalized rows, into back.dx. */
tdm_status tdm_head_into_layers(tdm_trainer *t, int64_t n, tdm_error *err);
/* value.c: values of all head tokens; then their loss and its gradient, into back.dx and the head's. */
tdm_status tdm_value_score(tdm_trainer *t, const tdm_train_item *items, const tdm_train_pass *pass, tdm_error *err);
tdm_status tdm_value_train(tdm_trainer *t, const tdm_train_item *items, const tdm_train_pass *pass, tdm_error *err);
/* offload.c: before a layer's forward; before it is computed again; before its backward, after that. Nothing where inputs stay. */
tdm_status tdm_offload_forward(const tdm_trainer *t, int64_t layer, tdm_error *err);
tdm_status tdm_offload_recompute(const tdm_trainer *t, int64_t layer, tdm_error *err);
tdm_status tdm_offload_backward(const tdm_trainer *t, int64_t layer, tdm_error *err);
/* experts.c: from back.dx the gradient of the normalized rows xn, into dxn (written); gradients of the adapter are added to opt->grad. */
tdm_status tdm_experts_backward(const tdm_trainer *t, const tdm_run *run, tdm_optimizer *opt, int64_t layer, tdm_layer_acts *a, tdm_cview xn, tdm_view dxn,
                                tdm_error *err);
/* Layers L-1 .. 0, from back.dx; gradients of the adapter are added to opt->grad. */
tdm_status tdm_backward_layers(tdm_trainer *t, const tdm_run *run, tdm_optimizer *opt, tdm_error *err);

#endif
