/* The only door to the numeric operations. A backend is a const table of function pointers.
 *
 * Shape letters: T tokens in this call, B sequences, D model width, F FFN width, H / Hkv heads, Dh head width,
 * S cached positions, V vocabulary, L layers, N / K rows / columns of a weight, R adapter rank.
 * Row-major, last dimension contiguous; `stride` counts elements from one row to the next.
 *
 * Promises every operation keeps, on every backend:
 *   - no allocation, no hidden state: scratch comes from the stream's workspace;
 *   - a row of the output depends on that row of the input alone: the same bits whatever T and whatever stands around it
 *     (reductions run in an order fixed by the reduced length). Gradients summed over tokens (dA, dB) are summed sequence by
 *     sequence in order onto what the buffer holds, so splitting a batch into micro-batches of whole sequences does not change a bit;
 *   - an empty batch is a batch (T = 0 is fine);
 *   - bytes outside a view (between cols and stride) are left alone;
 *   - shapes and dtypes are the caller's promise (TDM_ASSERT); what a device can do wrong is an error;
 *   - every array an operation reads or writes (data of views, ids, positions, page tables, targets, draws, ...) lies in the
 *     backend's memory (memory_open). The structs themselves, and what a comment calls a host value, lie in host memory and may
 *     be forgotten when the call returns. Operations are ordered by their stream; results are there after stream_sync.
 */
#ifndef TANDEM_KERNELS_OPS_H
#define TANDEM_KERNELS_OPS_H

#include "kernels/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tdm_dtype { TDM_DTYPE_F32, TDM_DTYPE_BF16, TDM_DTYPE_E4M3, TDM_DTYPE_I32, TDM_DTYPE_U8 } tdm_dtype;
size_t tdm_dtype_bytes(tdm_dtype t);
const char *tdm_dtype_name(tdm_dtype t);

/* A view borrows: it never frees, and is good only while the region it points into is. data NULL: absent. */
typedef struct tdm_view {
    void *data;
    tdm_dtype dtype;
    int64_t rows, cols, stride;
} tdm_view;
/* The same for reading: the base weights are reachable only as this type. */
typedef struct tdm_cview {
    const void *data;
    tdm_dtype dtype;
    int64_t rows, cols, stride;
} tdm_cview;
static inline tdm_view tdm_view_make(void *data, tdm_dtype dtype, int64_t rows, int64_t cols)
{
    return (tdm_view){data, dtype, rows, cols, cols};
}
static inline tdm_cview tdm_view_const(tdm_view v) { return (tdm_cview){v.data, v.dtype, v.rows, v.cols, v.stride}; }
/* Rows [first, first + count) of v. */
tdm_view tdm_view_rows(tdm_view v, int64_t first, int64_t count);
tdm_cview tdm_cview_rows(tdm_cview v, int64_t first, int64_t count);

/* How a weight (and the activations it meets) is stored; design section 4. */
typedef enum tdm_scheme { TDM_SCHEME_BF16, TDM_SCHEME_FP8_TENSOR, TDM_SCHEME_FP8_CHANNEL, TDM_SCHEME_FP8_BLOCK } tdm_scheme;
enum { TDM_FP8_BLOCK = 128 };
#define TDM_E4M3_MAX 448.0f

/* Activation quantization at a linear. */
typedef enum tdm_act_quant {
    TDM_ACT_NONE,   /* W8A16: activations stay BF16 */
    TDM_ACT_DYNAMIC,/* fp8_tensor: one scale for the whole call; fp8_channel: per token; fp8_block: per token per 128 columns */
    TDM_ACT_STATIC  /* one calibrated scale, stored beside the weight (input_scale) */
} tdm_act_quant;

/* W [N, K], one row per output feature; value = code * scale, scale looked up by scheme. Read-only, borrowed from the weight store. */
typedef struct tdm_weight {
    tdm_cview codes;         /* [N, K] e4m3, or bf16 when scheme is BF16 */
    tdm_cview scale;         /* f32: [1, 1] tensor | [N, 1] channel | [ceil(N/128), ceil(K/128)] block | absent */
    tdm_cview bias;          /* [1, N] bf16, or absent */
    float input_scale;       /* TDM_ACT_STATIC: the activation scale */
    tdm_scheme scheme;
    tdm_act_quant act;       /* how the activations that meet it are quantized; NONE when scheme is BF16 */
    bool pow2;               /* dynamic activation scales are rounded up to a power of two too */
} tdm_weight;

/* Where an operation runs. CPU: a number of threads; CUDA: a stream. Holds the workspace its operations may scribble in. */
typedef struct tdm_stream tdm_stream;
typedef struct tdm_stream_options {
    int threads; /* CPU: 0: as many as the process may use */
    bool exact;  /* only kernels that keep the promise about a row's bits; without it a device may choose faster ones by T. The CPU's
                  * kernels all keep it. */
} tdm_stream_options;

/* The largest shapes a stream will meet, for sizing its workspace. */
typedef struct tdm_limits {
    int64_t tokens;     /* T of any linear, attention, ... */
    int64_t width;      /* largest K or N of a linear inside a layer */
    int64_t vocab;      /* V */
    int64_t head_rows;  /* T of a call on [T, V] logits */
    int64_t heads, head_dim, rank, context; /* context: longest sequence */
} tdm_limits;

/* ---- Quantization ------------------------------------------------------------------------------------------------------------ */

/* quantize_act: codes[t, k] = e4m3(x[t, k] / scale), round to nearest even, saturating at +-448.
 *   x     [T, K] bf16
 *   codes [T, K] e4m3
 *   scale f32: dynamic tensor [1, 1] | dynamic channel [T, 1] | dynamic block [T, ceil(K/128)] ; static: scale not written, w->input_scale used
 *   scale = amax / 448 in f32 (1 where amax is 0), rounded up to a power of two when pow2. The quotient is x / scale in f32.
 * Operations whose result a linear reads take one of these too (`q`, or NULL): they quantize their bf16 result on the way, to the same
 * bits as a call of its own; x is then that result.
 * Source  compressed-tensors FP8_DYNAMIC; DeepSeek-V3 act_quant; vLLM scaled_fp8_quant. */
typedef struct tdm_quantize_act {
    tdm_view codes, scale;
    tdm_cview x;
    tdm_scheme scheme;
    tdm_act_quant act;
    float input_scale;
    bool pow2;
} tdm_quantize_act;

/* ---- Linear ------------------------------------------------------------------------------------------------------------------ */

/* linear: y = x W^T + bias + lora_scale * (x A^T) B^T
 *   y   [T, N] bf16 or f32; with `accumulate` (f32 only) the product is added to what y holds
 *   x   [T, K] bf16; always given (LoRA reads it)
 *   xq, xs   the codes and scales quantize_act made from x, when w->act is not NONE; absent otherwise
 *   A [R, K] bf16, B [N, R] bf16, h [T, R] bf16 = bf16(x A^T), written; all absent when there is no adapter
 *   lora_x [T, K] bf16: what A reads instead of x (x after dropout), or absent
 * Numerics  FP8 products are exact in f32 and summed in f32; scales multiply the f32 sum (block: each 128-column partial sum, in
 *           order); bias and the adapter's part are added in f32; one rounding at the store. */
typedef struct tdm_linear {
    tdm_view y;
    bool accumulate;
    tdm_cview x, xq, xs, lora_x;
    const tdm_weight *w;
    tdm_cview lora_a, lora_b;
    tdm_view lora_h;
    float lora_scale;
} tdm_linear;

/* linear_backward: given dy [T, N] bf16,
 *   dh [T, R] bf16 = bf16(lora_scale * dy B)                      (written; scratch of the caller)
 *   dx [T, K] f32  (+)= dy bf16(W) + dh A                        (absent: not wanted; W dequantized to bf16 tile by tile)
 *   dB [N, R] f32  += lora_scale * dy^T h,   dA [R, K] f32 += dh^T lora_x (or x)   (absent: adapter not trained)
 * q_start [sequences + 1] says which rows are one sequence's (absent: all of them): the gradients of A and B are added sequence by
 * sequence, however a backend sums the tokens of one.
 * With lora_dx [T, K] f32 present (dropout), dh A goes there (overwritten) instead of into dx. */
typedef struct tdm_linear_backward {
    tdm_view dx;
    bool accumulate; /* dx += instead of dx = */
    tdm_cview dy, x, h;
    const tdm_weight *w;
    tdm_cview lora_a, lora_b;
    tdm_view lora_dh, grad_a, grad_b, lora_dx;
    float lora_scale;
    const int32_t *q_start;
    int64_t sequences;
} tdm_linear_backward;

/* ---- Mixture of experts ------------------------------------------------------------------------------------------------------- */

/* Each of T tokens goes to `used` (U) of E experts. Its U places, called rows, are sorted by expert and then by token, so that an expert's
 * rows stand together: T U of them in all. How many an expert has is known in the backend's memory alone. */
enum { TDM_EXPERTS_MAX = 1024, TDM_EXPERTS_USED_MAX = 32 };
typedef struct tdm_routes {
    int64_t tokens, experts, used; /* T, E, U */
    int32_t *expert;  /* [T, U] best first */
    float *weight;    /* [T, U] */
    int32_t *row;     /* [T, U] where each place stands in the sorted order */
    int32_t *token;   /* [T U] whose each row is */
    int32_t *start;   /* [E + 1] first row of each expert */
} tdm_routes;

/* route: the U experts of the largest logits, the lower number first where two are equal; their weights; the sorted order.
 *   logits [T, E] bf16
 *   given  experts are read from routes->expert instead of being chosen
 *   weight bf16(p) as f32, p = softmax(logits) over all experts, divided by the sum of the chosen where `normalize`
 * Numerics  f32; sums in an order fixed by E alone.
 * Source  transformers, Qwen3MoeTopKRouter. */
typedef struct tdm_route {
    tdm_cview logits;
    bool normalize, given;
    const tdm_routes *routes;
} tdm_route;
/* route_backward: dlogits [T, E] bf16 from dweight [T, U] f32, through the softmax and the normalization; which experts are chosen has no
 * gradient. */
typedef struct tdm_route_backward {
    tdm_view dlogits;
    tdm_cview logits, dweight;
    bool normalize;
    const tdm_routes *routes;
} tdm_route_backward;

/* combine: y[t] = r[t] + sum over u, in order, of weight[t, u] * x[row[t, u]]; r absent: 0. weighted false: without the weights.
 *   y, r [T, D] f32, may be one     x [T U, D] bf16, or f32 without weights */
typedef struct tdm_combine {
    tdm_view y;
    tdm_cview r, x;
    bool weighted;
    const tdm_routes *routes;
} tdm_combine;
/* combine_backward: dx[row[t, u]] = bf16(weight[t, u] * dy[t]);  dweight[t, u] = dy[t] . x[row[t, u]].
 *   dx, x [T U, D] bf16     dy [T, D] f32     dweight [T, U] f32 */
typedef struct tdm_combine_backward {
    tdm_view dx, dweight;
    tdm_cview dy, x;
    const tdm_routes *routes;
} tdm_combine_backward;

/* linear_experts: a linear for the rows of each expert with its matrix and its adapter.
 *   of         views of all rows; of.w [E] matrices, alike and at equal distances; of.lora_a and lora_b of expert 0
 *   lora_step  elements from one expert's A (and B) to the next one's */
typedef struct tdm_linear_experts {
    tdm_linear of;
    int64_t lora_step;
    const tdm_routes *routes;
} tdm_linear_experts;
/* linear_experts_backward: the same of linear_backward; of.grad_a and grad_b of expert 0, at the same distances as A and B. of.q_start is that of
 * the tokens, before they were sorted. No lora_dx. */
typedef struct tdm_linear_experts_backward {
    tdm_linear_backward of;
    int64_t lora_step;
    const tdm_routes *routes;
} tdm_linear_experts_backward;

/* ---- Attention over a paged KV cache ----------------------------------------------------------------------------------------- */

/* Rows of the bf16 views of this section (and of rope) begin 16-byte aligned, and a head is a multiple of 8 wide. */

/* One layer's pages. The layout inside a page is the backend's own; page p begins at data + p * page_bytes. Both engines use it:
 * the rollout in its pages, the trainer in pages of the train layout, so the bits cannot differ. */
typedef struct tdm_kv_pages {
    void *data;
    int64_t pages;
    int64_t kv_heads, head_dim;
    tdm_dtype dtype; /* BF16, or E4M3 (keys and values rounded to e4m3 with the scales below) */
    float k_scale, v_scale;
} tdm_kv_pages;

/* A ragged batch: sequences one after the other, without padding. Prefill chunks and decodes may stand side by side. */
typedef struct tdm_batch {
    int64_t tokens, sequences;  /* T, B */
    const int32_t *q_start;     /* [B + 1] first row of each sequence in this call */
    const int32_t *kv_len;      /* [B] cached positions after this call's tokens are written; the last row of b stands at kv_len - 1 */
    const int32_t *position;    /* [T] */
    const int32_t *pages;       /* [B, pages_stride] page numbers of each sequence, position p in page p / page_tokens */
    int64_t pages_stride;
    int64_t q_most, kv_most;    /* host values: no sequence has more rows in this call, or a larger kv_len; they size launches, never results */
} tdm_batch;

/* rope: rotates the halves of each head in place, x [T, heads * Dh] bf16, with cos/sin [positions, R/2] f32:
 *   x1' = x1 cos - x2 sin, x2' = x2 cos + x1 sin, with x1, x2 the first and second half (transformers' rotate_half) of the head's first R
 *   dimensions; those beyond, where R < Dh (R a multiple of 4 then), stay.
 * norm_w [1, Dh] bf16 or f32 present: each head is RMS-normalized first (Qwen3), in f32 with one rounding after the rotation.
 * pre [T, heads * Dh] bf16 present: the input is saved there first (backward of the norm needs it). */
typedef struct tdm_rope {
    tdm_view x, pre;
    tdm_cview cos, sin, norm_w;
    const int32_t *position; /* [T] */
    int64_t heads, head_dim;
    float eps;
} tdm_rope;
/* rope_backward: dx [T, heads * Dh] bf16 in place: rotates back, then through the RMS norm with `pre` when norm_w is present. */
typedef struct tdm_rope_backward {
    tdm_view dx;
    tdm_cview cos, sin, norm_w, pre;
    const int32_t *position;
    int64_t heads, head_dim;
    float eps;
} tdm_rope_backward;

/* kv_write: rows of k, v [T, Hkv * Dh] bf16 into their pages at batch->position. */
typedef struct tdm_kv_write {
    const tdm_kv_pages *kv;
    const tdm_batch *batch;
    tdm_cview k, v;
} tdm_kv_write;
/* rope_kv: rope(q), rope(k) and kv_write(write) in one; write.k is k's x. */
typedef struct tdm_rope_kv {
    tdm_rope q, k;
    tdm_kv_write write;
} tdm_rope_kv;

/* attention: o[t, h] = softmax(scale * q[t, h] . k[0..p]) v[0..p], causal, p the row's position; keys older than `window` positions
 * (p - j >= window) are left out when window > 0. Query head h reads KV head h / (H / Hkv).
 *   o, q [T, H * Dh] bf16     lse [T, H] f32 (natural log of the softmax sum, for backward) or absent
 * Numerics  scores, softmax and sums in f32, over pages in order of position, so prefill, decode and training give one set of bits. */
typedef struct tdm_attention {
    tdm_view o, lse;
    tdm_cview q;
    const tdm_kv_pages *kv;
    const tdm_batch *batch;
    int64_t heads, window;
    float scale;
    const tdm_quantize_act *quantize; /* of o; or NULL */
} tdm_attention;
/* attention_backward: every sequence of the batch stands in it whole (from position 0).
 *   dq [T, H*Dh] bf16, dk, dv [T, Hkv*Dh] bf16 written; do_ [T, H*Dh] f32; o, q, lse as forward left them.
 * FP8 keys and values are differentiated straight through. */
typedef struct tdm_attention_backward {
    tdm_view dq, dk, dv;
    tdm_cview do_, o, q, lse;
    const tdm_kv_pages *kv;
    const tdm_batch *batch;
    int64_t heads, window;
    float scale;
} tdm_attention_backward;

/* ---- Head: logits, log-probabilities, sampling ------------------------------------------------------------------------------- */

/* What turns raw logits into the distribution that is sampled, in transformers' order:
 * repetition penalty -> / temperature -> top-k -> top-p -> min-p. temperature 0 means greedy: the argmax is taken
 * and its log-probability is that of the unscaled distribution. */
typedef struct tdm_sampling {
    float temperature; /* 1 */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    float repetition_penalty; /* 1: off */
    int32_t top_k;     /* 0: off */
} tdm_sampling;

/* The Philox counter of one draw; results do not depend on scheduling. */
typedef struct tdm_draw {
    uint64_t seed;
    uint32_t step, prompt, sample, position;
} tdm_draw;

/* sample: one token a row.
 *   logits [B, V] f32, destroyed
 *   token [B], logprob [B]: the token and ln of its probability under the distribution it was drawn from
 *   support [B, ceil(V/32)] u32 bits of the tokens that could be drawn, or NULL; written for rows whose sampling truncates
 *   history: the ids already in row r's sequence are history[history_at[r]] .. of history_len[r]; NULL when no row has a penalty
 * Numerics  the same row function as `logprob`, so the trainer's first log-probability has the sampler's bits. */
typedef struct tdm_sample {
    tdm_view logits;
    int32_t *token;
    float *logprob;
    uint32_t *support;
    const tdm_sampling *sampling; /* [B] */
    const tdm_draw *draw;         /* [B] */
    const int32_t *history;
    const int32_t *history_at, *history_len; /* one a row */
} tdm_sample;

/* logprob: ln p(target) and entropy (nats) of the processed distribution; p stays in `logits` (in place) for logprob_backward.
 *   logits [T, V] f32 -> probabilities on the support, 0 elsewhere; the sign bit is set where a penalised raw logit was negative
 *   (backward then knows which factor the penalty had)
 *   support [T, ceil(V/32)] as sampling recorded it, or NULL (then sampling's top-k, top-p, min-p decide, if set)
 * A target outside its support has logprob -INFINITY. */
typedef struct tdm_logprob {
    tdm_view logits;
    const int32_t *target; /* [T] */
    float *logprob, *entropy; /* [T]; entropy may be NULL */
    const uint32_t *support;
    const tdm_sampling *sampling; /* a host value: one for all rows */
    const int32_t *history;
    const int32_t *history_at, *history_len; /* one a row */
} tdm_logprob;
/* logprob_backward: dlogits[t, v] = (coef[t] * (1[v = target] - p[v]) - entropy_coef[t] * p[v] (ln p[v] + entropy[t])) / temperature
 *   dlogits [T, V] bf16; p as logprob left it; entropy_coef, entropy NULL: 0. The penalty's factor is applied where a history was given. */
typedef struct tdm_logprob_backward {
    tdm_view dlogits;
    tdm_cview p;
    const int32_t *target;
    const float *coef, *entropy_coef, *entropy;
    const tdm_sampling *sampling; /* a host value */
    const int32_t *history;
    const int32_t *history_at, *history_len; /* one a row */
} tdm_logprob_backward;

/* divergence: of the student's distribution p from the teacher's q, and its gradient in the student's logits, which gave p when divided by temperature:
 *   p, q [T, V] f32 as logprob leaves them without a penalty and without a support    value [T] f32    dlogits [T, V] bf16 = coef[t] d value[t] / d logits
 *   beta 1: sum of p (ln p - ln q)    beta 0: sum of q (ln q - ln p)    between: beta KL(q, m) + (1 - beta) KL(p, m), m = beta q + (1 - beta) p
 * A logarithm is of 2^-126 at least. Source: Agarwal et al., arXiv:2306.13649; trl/experimental/gkd, generalized_jsd_loss. */
typedef struct tdm_divergence {
    tdm_view dlogits;
    tdm_cview p, q;
    const float *coef; /* [T] */
    float *value;      /* [T] */
    float beta, temperature;
} tdm_divergence;

/* ---- Value head: one number a token ------------------------------------------------------------------------------------------- */

/* value: y[t] = sum over d of x[t, d] w[d], in f32, in an order fixed by D alone.
 *   y [T] f32     x [T, D] bf16     w [1, D] f32 */
typedef struct tdm_value {
    float *y;
    tdm_cview x, w;
} tdm_value;
/* value_backward: dx[t, d] = dy[t] w[d];  grad_w[d] += dy[t] x[t, d], token after token.
 *   dy [T] f32    dx [T, D] f32     grad_w [1, D] f32 */
typedef struct tdm_value_backward {
    tdm_view dx, grad_w;
    const float *dy;
    tdm_cview x, w;
} tdm_value_backward;

/* ---- Optimizer --------------------------------------------------------------------------------------------------------------- */

/* adamw: PyTorch's AdamW. master, grad, m, v [n] f32; param [n] bf16 = bf16(master). step counts from 1. grad is multiplied by
 * grad_scale (clipping) first. Source: Loshchilov and Hutter, arXiv:1711.05101; torch.optim.AdamW (single tensor form). */
typedef struct tdm_adamw {
    float *master, *m, *v;
    const float *grad;
    uint16_t *param;
    int64_t n, step;
    float lr, beta1, beta2, eps, weight_decay, grad_scale;
} tdm_adamw;
/* adamw_8bit: the same with moments of 8 bits, over one tensor, in blocks of 256 of its elements.
 *   master, grad [n] f32, param [n] bf16 or NULL, as above
 *   m, v [n] codes of kernels/dynamic_map.h, signed and unsigned; m_most, v_most [ceil(n / 256)] f32: the block's largest magnitude, by which its
 *   values are divided; a block whose largest is 0 has the codes of 0
 *   m = m beta1 + (1 - beta1) g;  v = v beta2 + (1 - beta2) g g;  master += -lr c2 / c1 * (m / (sqrt(v) + c2 eps)), then *= 1 - lr weight_decay,
 *   with c1 = 1 - beta1^step and c2 = sqrt(1 - beta2^step); moments are quantized after they were used.
 * Numerics  f32, every operation rounded by itself; 1 - beta in f32, the other scalars in double and rounded once.
 * Source    bitsandbytes, AdamW8bit (block-wise): csrc/kernels.cu, kOptimizerStatic8bit2StateBlockwise, without its approximate divisions. */
enum { TDM_ADAMW_BLOCK = 256 };
typedef struct tdm_adamw_8bit {
    float *master;
    uint8_t *m, *v;
    float *m_most, *v_most;
    const float *grad;
    uint16_t *param;
    int64_t n, step;
    float lr, beta1, beta2, eps, weight_decay, grad_scale;
} tdm_adamw_8bit;
/* sgd: master -= lr * (grad * grad_scale + weight_decay * master); param = bf16(master). */
typedef struct tdm_sgd {
    float *master;
    const float *grad;
    uint16_t *param;
    int64_t n;
    float lr, weight_decay, grad_scale;
} tdm_sgd;

/* The gate of an FFN: act(g) = g * sigmoid(z(g)).
 *   SILU       z = g
 *   GELU_TANH  z = 2 sqrt(2 / pi) (g + 0.044715 g^3): the tanh form of GELU, which transformers calls gelu_pytorch_tanh, as
 *              (1 + tanh(u)) / 2 = sigmoid(2 u). Source: Hendrycks and Gimpel, arXiv:1606.08415. */
typedef enum tdm_glu { TDM_GLU_SILU, TDM_GLU_GELU_TANH } tdm_glu;
#define TDM_GELU_FACTOR 1.5957691216057308f /* 2 sqrt(2 / pi) */
#define TDM_GELU_CUBE 0.044715f

/* A recorded sequence of operations; see capture_begin. */
typedef struct tdm_graph tdm_graph;
enum { TDM_SIDE_SLOTS = 2 };

/* ---- The table --------------------------------------------------------------------------------------------------------------- */

typedef struct tdm_backend {
    const char *name;        /* "cpu-avx512", "cpu-avx2", "cpu-portable", "cuda-sm90" */

    /* Memory. Where `device` is false the backend's memory is the host's: the host may read and write it in place, and a mirror is
     * one array. Where it is true only upload and download reach it. */
    bool device;
    tdm_status (*memory_open)(void **base, size_t bytes, tdm_error *err); /* page-aligned; all of it is the process's from here on */
    void (*memory_close)(void *base, size_t bytes);
    tdm_status (*host_open)(void **base, size_t bytes, tdm_error *err);   /* pinned host memory: copies from and to it are asynchronous; operations read it where they say so */
    void (*host_close)(void *base, size_t bytes);
    /* dst in the backend's memory, src in the host's. src must stay as it is until the stream passed the copy (from pinned memory),
     * or until return (from any other). dst == src: nothing happens. */
    tdm_status (*upload)(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err);
    /* dst is filled when stream_sync returns. */
    tdm_status (*download)(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err);
    /* Copies beside the stream, out of the backend's memory to host_open's and back in. Each begins when what the stream was given before is
     * done, and runs beside what it is given next; what it is given after side_join(slot) comes after the slot's copy. A slot, 0 to
     * TDM_SIDE_SLOTS - 1, is joined before it takes another copy, and before the stream is closed. Not between capture_begin and capture_end. */
    tdm_status (*side_out)(tdm_stream *s, int slot, void *host, const void *src, size_t bytes, tdm_error *err);
    tdm_status (*side_in)(tdm_stream *s, int slot, void *dst, const void *host, size_t bytes, tdm_error *err);
    tdm_status (*side_join)(tdm_stream *s, int slot, tdm_error *err);
    /* Bytes of device memory this process takes now beside memory_open's (context, code, libraries), what is typical where no device can be
     * asked; 0 on the CPU. May open the device. */
    tdm_status (*overhead)(size_t *bytes, tdm_error *err);
    /* Bytes of the device that are free now; 0 on the CPU, where the host's count. */
    tdm_status (*available)(size_t *bytes, tdm_error *err);
    int64_t kv_page_tokens;  /* positions a KV page holds */
    /* Bytes of one layer's page (keys and values). */
    size_t (*kv_page_bytes)(tdm_dtype dtype, int64_t kv_heads, int64_t head_dim);
    size_t (*workspace_bytes)(const tdm_limits *limits, int threads);
    /* The stream borrows the workspace (64-byte aligned, in the backend's memory). */
    tdm_status (*stream_open)(tdm_stream **s, void *workspace, size_t workspace_bytes, const tdm_stream_options *o, tdm_error *err);
    void (*stream_close)(tdm_stream *s);
    tdm_status (*stream_sync)(tdm_stream *s, tdm_error *err);

    /* Recording: operations between capture_begin and capture_end are recorded, not run; graph_launch runs them all with the
     * arguments they had (the bytes those point to may change in between). NULL where a backend gains nothing by it. */
    tdm_status (*capture_begin)(tdm_stream *s, tdm_error *err);
    tdm_status (*capture_end)(tdm_stream *s, tdm_graph **g, tdm_error *err);
    tdm_status (*graph_launch)(tdm_stream *s, tdm_graph *g, tdm_error *err);
    void (*graph_close)(tdm_graph *g);

    /* probe: what this machine can do, for comparing with: GFLOP/s of the fastest BF16 (else f32) multiply-add over the stream's threads,
     * GB/s of reading `bytes` bytes at `region` (larger than the caches). The best of several short runs. */
    tdm_status (*probe)(tdm_stream *s, const void *region, size_t bytes, double *gflops, double *gbps, tdm_error *err);

    tdm_status (*quantize_act)(tdm_stream *s, const tdm_quantize_act *a, tdm_error *err);
    tdm_status (*linear)(tdm_stream *s, const tdm_linear *a, tdm_error *err);
    /* linear_group: `count` linears of the same x, to the bits each has alone. They write to different places. */
    tdm_status (*linear_group)(tdm_stream *s, const tdm_linear *list, int count, tdm_error *err);
    tdm_status (*linear_backward)(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err);

    tdm_status (*route)(tdm_stream *s, const tdm_route *a, tdm_error *err);
    tdm_status (*route_backward)(tdm_stream *s, const tdm_route_backward *a, tdm_error *err);
    tdm_status (*combine)(tdm_stream *s, const tdm_combine *a, tdm_error *err);
    tdm_status (*combine_backward)(tdm_stream *s, const tdm_combine_backward *a, tdm_error *err);
    tdm_status (*linear_experts)(tdm_stream *s, const tdm_linear_experts *a, tdm_error *err);
    tdm_status (*linear_experts_backward)(tdm_stream *s, const tdm_linear_experts_backward *a, tdm_error *err);

    /* rms_norm: y[t, d] = x[t, d] * w[d] / sqrt(mean over d of x[t, d]^2 + eps)
     *   y [T, D] bf16     x [T, D] f32 (the residual stream)     w [1, D] bf16 or f32     rstd [T, 1] f32 or absent
     *   q        quantizes y too, or NULL
     * Source  Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4; eps inside the root, as Llama has it. */
    tdm_status (*rms_norm)(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w, float eps, const tdm_quantize_act *q,
                           tdm_error *err);
    /* dx [T, D] f32 += the gradient through the norm; dy [T, D] f32; x, w, rstd as forward saw them. */
    tdm_status (*rms_norm_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err);

    /* rms_norm_add: y[t, d] = r[t, d] + x[t, d] * w[d] / sqrt(mean over d of x[t, d]^2 + eps): a block's output, normalized on its way into
     * the residual stream (Gemma 3).
     *   y, r [T, D] f32, may be one     x [T, D] bf16     w [1, D] bf16 or f32     rstd [T, 1] f32 or absent
     * Numerics  f32; the normalized value is not rounded before the sum. */
    tdm_status (*rms_norm_add)(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, tdm_cview w, float eps, tdm_error *err);
    /* dx [T, D] bf16 = the gradient through that norm of dy [T, D] f32; x, w, rstd as forward saw them. (That of r is dy.) */
    tdm_status (*rms_norm_add_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err);

    tdm_status (*rope)(tdm_stream *s, const tdm_rope *a, tdm_error *err);
    tdm_status (*rope_backward)(tdm_stream *s, const tdm_rope_backward *a, tdm_error *err);
    tdm_status (*kv_write)(tdm_stream *s, const tdm_kv_write *a, tdm_error *err);
    tdm_status (*rope_kv)(tdm_stream *s, const tdm_rope_kv *a, tdm_error *err);
    /* Copies page src to page dst (copy-on-write of a shared prompt's last page). */
    tdm_status (*kv_copy)(tdm_stream *s, const tdm_kv_pages *kv, int64_t dst, int64_t src, tdm_error *err);
    tdm_status (*attention)(tdm_stream *s, const tdm_attention *a, tdm_error *err);
    tdm_status (*attention_backward)(tdm_stream *s, const tdm_attention_backward *a, tdm_error *err);

    /* swiglu: y = act(gate) * up, all [T, F] bf16, f32 inside; q quantizes y too, or NULL.
     * Backward: dgate, dup bf16 from dy [T, F] f32; may overwrite gate, up. */
    tdm_status (*swiglu)(tdm_stream *s, tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up, const tdm_quantize_act *q, tdm_error *err);
    tdm_status (*swiglu_backward)(tdm_stream *s, tdm_glu act, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up, tdm_error *err);

    /* embed: y[t] = scale * table[id[t]], table [V, D] bf16 (or e4m3 with per-row scale), y [T, D] f32. The table may lie in host_open's memory. */
    tdm_status (*embed)(tdm_stream *s, tdm_view y, const tdm_weight *table, const int32_t *id, float scale, tdm_error *err);
    /* gather_rows: y[i] = x[row[i]]; same dtype. */
    tdm_status (*gather_rows)(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err);
    /* scatter_rows: y[row[i]] = x[i]; same dtype; no row twice. */
    tdm_status (*scatter_rows)(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err);
    /* zero: every element of y becomes 0. */
    tdm_status (*zero)(tdm_stream *s, tdm_view y, tdm_error *err);
    /* convert: y = x with another dtype (f32 <-> bf16, round to nearest even), or a copy. */
    tdm_status (*convert)(tdm_stream *s, tdm_view y, tdm_cview x, tdm_error *err);
    /* dropout: y = x * keep / (1 - p), keep drawn by Philox from (seed, stream id, token[t], column); bf16. p in [0, 1). */
    tdm_status (*dropout)(tdm_stream *s, tdm_view y, tdm_cview x, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err);
    /* dropout_backward: dx f32 += dy f32 * keep / (1 - p), the same mask. */
    tdm_status (*dropout_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err);

    tdm_status (*sample)(tdm_stream *s, const tdm_sample *a, tdm_error *err);
    tdm_status (*logprob)(tdm_stream *s, const tdm_logprob *a, tdm_error *err);
    tdm_status (*logprob_backward)(tdm_stream *s, const tdm_logprob_backward *a, tdm_error *err);
    tdm_status (*divergence)(tdm_stream *s, const tdm_divergence *a, tdm_error *err);
    tdm_status (*value)(tdm_stream *s, const tdm_value *a, tdm_error *err);
    tdm_status (*value_backward)(tdm_stream *s, const tdm_value_backward *a, tdm_error *err);

    tdm_status (*adamw)(tdm_stream *s, const tdm_adamw *a, tdm_error *err);
    tdm_status (*adamw_8bit)(tdm_stream *s, const tdm_adamw_8bit *a, tdm_error *err);
    tdm_status (*sgd)(tdm_stream *s, const tdm_sgd *a, tdm_error *err);
    /* out[0] = sum of squares of x [n] in double, order fixed by n alone; out in the backend's memory, 8-byte aligned. */
    tdm_status (*sum_squares)(tdm_stream *s, const float *x, int64_t n, double *out, tdm_error *err);
} tdm_backend;

/* The CPU backend for the machine at hand; isa NULL: the best one, or $TANDEM_CPU_ISA (portable, avx2, avx512). An instruction set
 * this CPU lacks is an error that names it. */
tdm_status tdm_backend_cpu(const char *isa, const tdm_backend **out, tdm_error *err);
/* The CUDA backend for the current device. path NULL: the best for the card, or $TANDEM_CUDA_PATH (sm80, sm89, sm90, sm120). A build
 * without CUDA and a machine without a device it can use are TDM_ERR_RECIPE, for someone asked for it; a path the card cannot run is
 * an error that says so. Streams that are not exact multiply many rows with cuBLASLt, unless $TANDEM_CUDA_CUBLAS is 0. */
tdm_status tdm_backend_cuda(const char *path, const tdm_backend **out, tdm_error *err);
/* The same for planning. On a machine without a device *there is false and the table is that of the path (NULL and no $TANDEM_CUDA_PATH:
 * sm89): it counts bytes as it would beside a device, and runs nothing. */
tdm_status tdm_backend_cuda_plan(const char *path, const tdm_backend **out, bool *there, tdm_error *err);
/* What a person asks for: "cpu", "cuda", or "auto" (a CUDA device where build and machine have one, else the CPU). NULL: $TANDEM_DEVICE, or auto.
 * where: what the person can open to ask for something else ("a.yaml:3:9"). */
tdm_status tdm_backend_open(const char *device, const char *where, const tdm_backend **out, tdm_error *err);
/* The same for planning: "cuda" needs no device. "auto" is what would run here. */
tdm_status tdm_backend_plan(const char *device, const char *where, const tdm_backend **out, bool *there, tdm_error *err);

/* ---- Host-side number formats (exact, scalar; used by loaders and tests) ----------------------------------------------------- */

static inline float tdm_bf16_to_f32(uint16_t b)
{
    union { uint32_t u; float f; } v = {(uint32_t)b << 16};
    return v.f;
}
static inline uint16_t tdm_f32_to_bf16(float f) /* round to nearest even; NaN stays NaN */
{
    union { float f; uint32_t u; } v = {f};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40u);
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}
float tdm_e4m3_to_f32(uint8_t code);   /* OCP FP8 e4m3fn: S.1111.111 is NaN, no infinity */
uint8_t tdm_f32_to_e4m3(float f);      /* nearest even, saturating to +-448; NaN to NaN */
float tdm_f16_to_f32(uint16_t h);
/* amax / 448 in f32, 1 where amax is 0; rounded up to a power of two when pow2. */
float tdm_fp8_scale(float amax, bool pow2);

/* quantize_weight: finite values of W into codes and scales by scheme, on the host and on the calling thread; used as a checkpoint
 * streams in. The instruction set is $TANDEM_CPU_ISA where the CPU has it, else the best one; the bits are the same in all.
 *   x     [rows, cols] f32
 *   codes [rows, cols] e4m3
 *   scale f32: channel [rows, 1] | block [ceil(rows/128), ceil(cols/128)] | absent for tensor, whose one scale,
 *         tdm_fp8_scale(tensor_amax, pow2), the caller keeps: tensor_amax is that of the whole matrix, which it scans first
 * Numerics  as quantize_act. */
typedef struct tdm_quantize_weight {
    tdm_view codes, scale;
    tdm_cview x;
    tdm_scheme scheme;
    bool pow2;
    float tensor_amax;
} tdm_quantize_weight;
void tdm_weight_quantize(const tdm_quantize_weight *a);

#ifdef __cplusplus
}
#endif

#endif
