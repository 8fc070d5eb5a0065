// sample: one token a row, by inverting the cumulative sum with one Philox uniform. A block a row.
#include "kernels/cuda/logits.cuh"
#include "kernels/philox.h"

// The lowest token whose logit is the maximum; 0 where all is NaN.
static __device__ int32_t argmax(const float *z, int vocab, logits_shared *sh)
{
    if (threadIdx.x == 0) sh->token = 0x7fffffff;
    __syncthreads();
    for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS)
        if (z[v] == sh->max) {
            atomicMin(&sh->token, v);
            break; // a thread's tokens ascend
        }
    __syncthreads();
    return sh->token == 0x7fffffff ? 0 : sh->token;
}

// The first token at which the running sum of exp(z - max) passes u times the whole: block after block, then within the block, of
// which a lane takes 16 tokens. Where rounding keeps a sum from passing, the last token that has any probability is it.
static __device__ int32_t invert(const float *z, int vocab, float u, logits_shared *sh)
{
    const double target = (double)u * sh->sum;
    const int blocks = (vocab + LOGITS_BLOCK - 1) / LOGITS_BLOCK;
    if (threadIdx.x == 0) {
        sh->at = 0x7fffffff;
        sh->last = -1;
        sh->token = -1;
    }
    __syncthreads();
    for (int b = threadIdx.x; b < blocks; b += LOGITS_THREADS) {
        if (!(sh->block[b] > 0.0)) continue;
        atomicMax(&sh->last, b);
        if (sh->upto[b] > target) atomicMin(&sh->at, b);
    }
    __syncthreads();
    const int at = sh->at != 0x7fffffff ? sh->at : sh->last;
    const double before = at > 0 ? sh->upto[at - 1] : 0.0; // a block of nothing adds nothing
    if (at >= 0 && threadIdx.x < 32) {
        enum { EACH = LOGITS_BLOCK / 32 };
        const int lane = threadIdx.x, first = at * LOGITS_BLOCK + lane * EACH;
        float e[EACH];
        double mine = 0.0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            e[i] = first + i < vocab ? tdm_exp(__fadd_rn(z[first + i], -sh->max)) : 0.0f;
            if (e[i] > 0.0f) mine += (double)e[i];
        }
        double upto = mine; // with the lanes before
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const double other = __shfl_up_sync(0xffffffffu, upto, o);
            if (lane >= o) upto += other;
        }
        double running = before + __shfl_up_sync(0xffffffffu, upto, 1);
        if (lane == 0) running = before;
        int passed = -1, last = -1;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            if (!(e[i] > 0.0f)) continue;
            running += (double)e[i];
            last = first + i;
            if (passed < 0 && running > target) passed = first + i;
        }
        const uint32_t who = __ballot_sync(0xffffffffu, passed >= 0);
        last = __reduce_max_sync(0xffffffffu, last);
        passed = __shfl_sync(0xffffffffu, passed, who ? __ffs(who) - 1 : 0);
        if (lane == 0) sh->token = who ? passed : last;
    }
    __syncthreads();
    const int32_t token = sh->token;
    __syncthreads();
    return token >= 0 ? token : argmax(z, vocab, sh);
}

// logits [B, V]: row r begins at logits + r * stride.
static __global__ void __launch_bounds__(LOGITS_THREADS, 1) sample_rows(tdm_sample a, logits_room room)
{
    extern __shared__ uint32_t dynamic[];
    __shared__ logits_shared sh;
    const int64_t r = blockIdx.x;
    const int vocab = (int)a.logits.cols, words = (vocab + 31) / 32;
    const tdm_sampling s = a.sampling[r];
    const int32_t *history = a.history ? a.history + a.history_at[r] : NULL;
    float *z = logits_load((float *)a.logits.data + r * a.logits.stride, dynamic, vocab, room);

    logits_process(z, vocab, s, history, history ? a.history_len[r] : 0, dynamic, NULL);
    if (logits_truncates(s)) {
        logits_truncate(z, vocab, s, &sh);
        for (int v = threadIdx.x; a.support && v < words * 32; v += LOGITS_THREADS) { // words * 32: whole warps
            const uint32_t in = __ballot_sync(0xffffffffu, v < vocab && z[v] != logits_none());
            if (threadIdx.x % 32 == 0) a.support[r * words + v / 32] = in;
        }
    }
    logits_sum_row<false>(z, vocab, &sh);
    int32_t token;
    if (s.temperature <= 0.0f) {
        token = argmax(z, vocab, &sh);
    } else {
        const tdm_draw d = a.draw[r];
        token = invert(z, vocab, tdm_uniform(tdm_philox(d.seed, d.step, d.prompt, d.sample, d.position).v[0]), &sh);
    }
    if (threadIdx.x == 0) {
        a.token[r] = token;
        a.logprob[r] = logits_logprob(&sh, z[token]);
    }
}

tdm_status tdm_cuda_sample(tdm_stream *s, const tdm_sample *a, tdm_error *err)
{
    TDM_ASSERT(a->logits.dtype == TDM_DTYPE_F32 && a->logits.cols > 0);
    if (a->logits.rows == 0) return TDM_OK;
    logits_room room;
    const tdm_status st = logits_plan(&room, (const void *)sample_rows, a->logits.cols, a->history ? 1 : 0, err);
    if (st != TDM_OK) return st;
    sample_rows<<<(unsigned)a->logits.rows, LOGITS_THREADS, room.bytes, s->cuda>>>(*a, room);
    return tdm_cuda_launched(err, "sample", a->logits.rows, a->logits.cols);
}
