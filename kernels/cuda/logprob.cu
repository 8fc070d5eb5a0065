// logprob: ln p(target) and entropy of each row, the probabilities left in place; and the gradient with respect to the logits.
#include "kernels/cuda/logits.cuh"

size_t tdm_cuda_logits_workspace_bytes(const tdm_limits *limits)
{
    (void)limits; // shared memory is enough
    return 0;
}

// A block a row. logits [T, V] f32: row t begins at logits + t * stride.
static __global__ void __launch_bounds__(LOGITS_THREADS, 1) logprob_rows(tdm_logprob a, tdm_sampling s, logits_room room)
{
    extern __shared__ uint32_t dynamic[];
    __shared__ logits_shared sh;
    const int64_t t = blockIdx.x;
    const int vocab = (int)a.logits.cols, words = (vocab + 31) / 32;
    const int32_t *history = a.history ? a.history + a.history_at[t] : NULL;
    uint32_t *negative = dynamic + words;
    float *row = (float *)a.logits.data + t * a.logits.stride;
    float *z = logits_load(row, dynamic, vocab, room);

    logits_process(z, vocab, s, history, history ? a.history_len[t] : 0, dynamic, negative);
    if (logits_truncates(s)) {
        if (a.support) {
            for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS)
                if (!(a.support[t * words + v / 32] >> (v % 32) & 1u)) z[v] = logits_none();
            __syncthreads();
        } else {
            logits_truncate(z, vocab, s, &sh);
        }
    }
    const float target = z[tdm_checked(a.target[t], vocab)];
    __syncthreads(); // read before the sums overwrite it
    logits_sum_row<true>(z, vocab, &sh);
    if (threadIdx.x == 0) {
        a.logprob[t] = target == logits_none() ? target : logits_logprob(&sh, target);
        if (a.entropy) a.entropy[t] = __fadd_rn(sh.log_sum, -__fdiv_rn(sh.dot_sum, (float)sh.sum));
    }
    const float scale = (float)(1.0 / sh.sum);
    const bool penalised = history && s.repetition_penalty != 1.0f;
    enum { AHEAD = 8 }; // z may be the row itself, so reads come before writes
    for (int first = threadIdx.x; first < vocab; first += AHEAD * LOGITS_THREADS) {
        float p[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int v = first + i * LOGITS_THREADS;
            p[i] = v < vocab ? __fmul_rn(z[v], scale) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int v = first + i * LOGITS_THREADS;
            if (v < vocab) row[v] = penalised && (negative[v / 32] >> (v % 32) & 1u) ? -p[i] : p[i];
        }
    }
}

tdm_status tdm_cuda_logprob(tdm_stream *s, const tdm_logprob *a, tdm_error *err)
{
    TDM_ASSERT(a->logits.dtype == TDM_DTYPE_F32 && a->logits.cols > 0);
    if (a->logits.rows == 0) return TDM_OK;
    logits_room room;
    const tdm_status st = logits_plan(&room, (const void *)logprob_rows, a->logits.cols, a->history ? 2 : 0, err);
    if (st != TDM_OK) return st;
    logprob_rows<<<(unsigned)a->logits.rows, LOGITS_THREADS, room.bytes, s->cuda>>>(*a, *a->sampling, room);
    return tdm_cuda_launched(err, "logprob", a->logits.rows, a->logits.cols);
}

// ---- Backward --------------------------------------------------------------------------------------------------------------------

// (coef (1[target] - p) - entropy_coef p (ln p + entropy)) scale.
struct slope { float coef, entropy_coef, entropy, scale; };

static __device__ __forceinline__ float slope_at(const slope &k, float p, float target)
{
    float d = __fmul_rn(k.coef, __fadd_rn(target, -p));
    if (k.entropy_coef != 0.0f && p > 0.0f) { // p ln p is 0 at 0
        const float information = __fadd_rn(tdm_log(p), k.entropy);
        d = __fadd_rn(d, -__fmul_rn(__fmul_rn(k.entropy_coef, p), information));
    }
    return __fmul_rn(d, k.scale);
}

enum { BACKWARD_THREADS = 256, BACKWARD_COLS = 4096 };

// Block (t, c): columns [c, c + 1) * BACKWARD_COLS of row t, the ids of the history that fall there last.
static __global__ void __launch_bounds__(BACKWARD_THREADS) backward_tiles(tdm_logprob_backward a, float penalty, float inverse_temperature)
{
    const int64_t t = blockIdx.x;
    const int vocab = (int)a.p.cols, first = blockIdx.y * BACKWARD_COLS, last = min(vocab, first + BACKWARD_COLS);
    const slope k = {a.coef[t], a.entropy_coef ? a.entropy_coef[t] : 0.0f, a.entropy ? a.entropy[t] : 0.0f, inverse_temperature};
    const float *p = (const float *)a.p.data + t * a.p.stride;
    uint16_t *d = (uint16_t *)a.dlogits.data + t * a.dlogits.stride;
    const int target = tdm_checked(a.target[t], vocab);
    for (int v = first + (int)threadIdx.x; v < last; v += BACKWARD_THREADS)
        d[v] = tdm_to_bf16(slope_at(k, fabsf(p[v]), v == target ? 1.0f : 0.0f));
    if (!a.history || penalty == 1.0f) return;
    __syncthreads();
    const int32_t *history = a.history + a.history_at[t];
    for (int i = threadIdx.x; i < a.history_len[t]; i += BACKWARD_THREADS) { // from p each time: an id that comes twice is scaled once
        const int32_t id = tdm_checked(history[i], vocab);
        if (id < first || id >= last) continue;
        const float g = slope_at(k, fabsf(p[id]), id == target ? 1.0f : 0.0f);
        d[id] = tdm_to_bf16(signbit(p[id]) ? __fmul_rn(g, penalty) : __fdiv_rn(g, penalty));
    }
}

tdm_status tdm_cuda_logprob_backward(tdm_stream *s, const tdm_logprob_backward *a, tdm_error *err)
{
    TDM_ASSERT(a->p.dtype == TDM_DTYPE_F32 && a->dlogits.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->p.rows == a->dlogits.rows && a->p.cols == a->dlogits.cols);
    TDM_ASSERT(!a->entropy_coef || a->entropy);
    if (a->p.rows == 0 || a->p.cols == 0) return TDM_OK;
    const float temperature = a->sampling->temperature > 0.0f ? a->sampling->temperature : 1.0f;
    const dim3 grid((unsigned)a->p.rows, (unsigned)tdm_ceil_div(a->p.cols, BACKWARD_COLS));
    backward_tiles<<<grid, BACKWARD_THREADS, 0, s->cuda>>>(*a, a->sampling->repetition_penalty, 1.0f / temperature);
    return tdm_cuda_launched(err, "logprob_backward", a->p.rows, a->p.cols);
}
