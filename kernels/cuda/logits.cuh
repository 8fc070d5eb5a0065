// A row of logits as a distribution, by one block: what `sample` and `logprob` share, so that the log-probability recorded while
// sampling and the trainer's are made by the same instructions. A token outside the support has the logit -inf. The row lies in
// shared memory where it fits, else where it is: the bits do not depend on which.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/math.cuh"

enum {
    LOGITS_THREADS = 512, LOGITS_WARPS = LOGITS_THREADS / 32,
    LOGITS_BLOCK = 512,                  // tokens of one partial sum
    LOGITS_BLOCKS = 576, LOGITS_VOCAB = LOGITS_BLOCKS * LOGITS_BLOCK,
    LOGITS_BINS = 2048,
    LOGITS_LOW = 13                      // bits of a weight's lower word: LOGITS_VOCAB of them fit 32 bits
};

// A block's shared memory, beside the bitmaps and the row.
struct logits_shared {
    double block[LOGITS_BLOCKS], upto[LOGITS_BLOCKS]; // sums of exp(z - max); of all blocks up to this one
    float dot[LOGITS_BLOCKS];
    uint32_t high[LOGITS_BINS], low[LOGITS_BINS];
    double sum;
    float f[LOGITS_WARPS], max, log_sum, dot_sum;
    unsigned long long before; // the weight strictly above the bin that was found
    uint32_t n[LOGITS_WARPS], found;
    unsigned long long warp_weight[LOGITS_WARPS];
    int32_t token, at, last;
};

TDM_DEVICE bool logits_truncates(const tdm_sampling &s)
{
    return s.temperature > 0.0f && (s.top_k > 0 || s.top_p < 1.0f || s.min_p > 0.0f);
}
TDM_DEVICE float logits_none() { return __uint_as_float(0xff800000u); } // -inf

// The largest of the row, to every thread; NaN is passed over.
TDM_DEVICE float logits_highest(const float *z, int vocab, logits_shared *sh)
{
    enum { AHEAD = 16 }; // reads under way at once
    float m = logits_none();
    int v = threadIdx.x;
    for (; v + (AHEAD - 1) * LOGITS_THREADS < vocab; v += AHEAD * LOGITS_THREADS) {
        float x[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) x[i] = z[v + i * LOGITS_THREADS];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) m = fmaxf(m, x[i]);
    }
    for (; v < vocab; v += LOGITS_THREADS) m = fmaxf(m, z[v]);
    m = tdm_warp_max(m);
    if (threadIdx.x % 32 == 0) sh->f[threadIdx.x / 32] = m;
    __syncthreads();
    if (threadIdx.x < 32) {
        m = tdm_warp_max(threadIdx.x < LOGITS_WARPS ? sh->f[threadIdx.x] : logits_none());
        if (threadIdx.x == 0) sh->max = m;
    }
    __syncthreads();
    return sh->max;
}

// The sum of a count over the block, to every thread.
TDM_DEVICE uint32_t logits_count(uint32_t n, logits_shared *sh)
{
    n = __reduce_add_sync(0xffffffffu, n);
    if (threadIdx.x % 32 == 0) sh->n[threadIdx.x / 32] = n;
    __syncthreads();
    uint32_t all = 0;
    for (int w = 0; w < LOGITS_WARPS; w++) all += sh->n[w];
    __syncthreads();
    return all;
}

// Sums of exp(z - max): each warp takes blocks of 512 tokens, a lane the tokens 32 apart; then block after block. With EXPS, z becomes
// exp(z - max) and the sum of exp(z - max) (z - max) is taken. Fills max, sum, log_sum, dot_sum.
template <bool EXPS> TDM_DEVICE void logits_sum_row(float *z, int vocab, logits_shared *sh)
{
    const float max = logits_highest(z, vocab, sh);
    const int lane = threadIdx.x % 32, blocks = (vocab + LOGITS_BLOCK - 1) / LOGITS_BLOCK;
    for (int b = threadIdx.x / 32; b < blocks; b += LOGITS_WARPS) {
        float sum = 0.0f, dot = 0.0f, x[LOGITS_BLOCK / 32];
#pragma unroll
        for (int i = 0; i < LOGITS_BLOCK / 32; i++) { // all reads before the first sum
            const int v = b * LOGITS_BLOCK + 32 * i + lane;
            x[i] = v < vocab ? z[v] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < LOGITS_BLOCK / 32; i++) {
            const int v = b * LOGITS_BLOCK + 32 * i + lane;
            if (v >= vocab) break;
            const float shifted = __fadd_rn(x[i], -max), e = tdm_exp(shifted);
            sum = __fadd_rn(sum, e);
            if (EXPS) {
                z[v] = e;
                if (e > 0.0f) dot = __fadd_rn(dot, __fmul_rn(e, shifted)); // 0 times -inf is 0 here
            }
        }
        sum = tdm_warp_sum(sum);
        if (EXPS) dot = tdm_warp_sum(dot);
        if (lane == 0) {
            sh->block[b] = (double)sum;
            if (EXPS) sh->dot[b] = dot;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0.0;
#pragma unroll 8
        for (int b = 0; b < blocks; b++) sh->upto[b] = sum += sh->block[b];
        sh->sum = sum;
        sh->log_sum = tdm_log((float)sum);
    }
    if (EXPS && threadIdx.x == 32) {
        double dot = 0.0;
        for (int b = 0; b < blocks; b++) dot += (double)sh->dot[b];
        sh->dot_sum = (float)dot;
    }
    __syncthreads();
}

// ln p of a token, z its processed logit.
TDM_DEVICE float logits_logprob(const logits_shared *sh, float z) { return __fadd_rn(__fadd_rn(z, -sh->max), -sh->log_sum); }

// Repetition penalty, each id of the history once, then / temperature (not when it is 0). seen and negative: ceil(vocab / 32) words
// each; negative, where given, gets the bits of penalised ids whose raw logit was negative.
TDM_DEVICE void logits_process(float *z, int vocab, const tdm_sampling &s, const int32_t *history, int history_len, uint32_t *seen,
                               uint32_t *negative)
{
    if (history && s.repetition_penalty != 1.0f) {
        for (int i = threadIdx.x; i < (vocab + 31) / 32; i += LOGITS_THREADS) {
            seen[i] = 0;
            if (negative) negative[i] = 0;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < history_len; i += LOGITS_THREADS) {
            const int32_t id = tdm_checked(history[i], vocab);
            const uint32_t bit = 1u << (id % 32);
            if (atomicOr(&seen[id / 32], bit) & bit) continue; // who sets the bit takes the id
            const float raw = z[id];
            if (raw < 0.0f && negative) atomicOr(&negative[id / 32], bit);
            z[id] = raw < 0.0f ? __fmul_rn(raw, s.repetition_penalty) : __fdiv_rn(raw, s.repetition_penalty);
        }
        __syncthreads();
    }
    if (s.temperature <= 0.0f || s.temperature == 1.0f) return;
    for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS) z[v] = __fdiv_rn(z[v], s.temperature);
    __syncthreads();
}

// ---- Truncation ------------------------------------------------------------------------------------------------------------------

// Bits that order as the numbers do.
TDM_DEVICE uint32_t logits_key(float f)
{
    const uint32_t u = __float_as_uint(f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
TDM_DEVICE float logits_value(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// A token's share of the whole in fixed point, 31 + LOGITS_LOW bits: integers add up to the same in any order. The upper words of all
// tokens together stay below 2^32 because the shares sum to 1, the lower ones because there are no more than LOGITS_VOCAB.
TDM_DEVICE unsigned long long logits_weight(float z, float max, double scale)
{
    const float e = tdm_exp(__fadd_rn(z, -max));
    return e > 0.0f ? (unsigned long long)((double)e * scale) : 0ull;
}

// Goes down from the largest logit until the weight passed reaches `target`: histograms over 11, 11 and 10 bits of the order. Returns
// the logit at which that happens; sh->before is the weight strictly above it. WEIGHED: by share of exp(z - max), else each token is 1.
template <bool WEIGHED>
TDM_DEVICE float logits_find_cut(const float *z, int vocab, unsigned long long target, float max, double scale, logits_shared *sh)
{
    uint32_t found = 0;
    if (threadIdx.x == 0) sh->before = 0;
    for (int level = 0; level < 3; level++) {
        const int shift = level == 0 ? 21 : level == 1 ? 10 : 0, bits = level == 2 ? 10 : 11, bins = 1 << bits;
        for (int b = threadIdx.x; b < bins; b += LOGITS_THREADS) sh->high[b] = sh->low[b] = 0;
        __syncthreads();
        for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS) {
            const uint32_t key = logits_key(z[v]);
            if (level > 0 && key >> (shift + bits) != found) continue;
            const uint32_t bin = key >> shift & (uint32_t)(bins - 1);
            if (WEIGHED) {
                const unsigned long long w = logits_weight(z[v], max, scale);
                const uint32_t high = (uint32_t)(w >> LOGITS_LOW), low = (uint32_t)w & ((1u << LOGITS_LOW) - 1u);
                if (high) atomicAdd(&sh->high[bin], high);
                if (low) atomicAdd(&sh->low[bin], low);
            } else {
                atomicAdd(&sh->low[bin], 1u);
            }
        }
        __syncthreads();
        // Each warp sums its share of the bins, from the top; thread 0 finds the warp, and goes down its bins.
        const int each = bins / LOGITS_WARPS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        unsigned long long mine = 0;
        for (int i = lane; i < each; i += 32) {
            const int b = bins - 1 - (warp * each + i);
            mine += WEIGHED ? ((unsigned long long)sh->high[b] << LOGITS_LOW) + sh->low[b] : sh->low[b];
        }
        for (int o = 16; o > 0; o >>= 1) mine += __shfl_xor_sync(0xffffffffu, mine, o);
        if (lane == 0) sh->warp_weight[warp] = mine;
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned long long before = sh->before, above = sh->before;
            int at = 0, w = 0;
            for (; w < LOGITS_WARPS - 1 && above + sh->warp_weight[w] < target; w++) above += sh->warp_weight[w];
            for (int i = w * each; i < bins; i++) {
                const int b = bins - 1 - i;
                const unsigned long long weight = WEIGHED ? ((unsigned long long)sh->high[b] << LOGITS_LOW) + sh->low[b] : sh->low[b];
                if (weight == 0) continue; // empty, or tokens of no weight: never the cut
                at = b;
                before = above;
                above += weight;
                if (above >= target) break;
            }
            sh->before = before;
            sh->found = (uint32_t)at;
        }
        __syncthreads();
        found = found << bits | sh->found;
    }
    return logits_value(found);
}

TDM_DEVICE void logits_drop_below(float *z, int vocab, float value)
{
    for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS)
        if (z[v] < value) z[v] = logits_none();
    __syncthreads();
}

// Of the tokens whose logit is `value`, all but the last `keep` leave: tiles of the row from its end.
TDM_DEVICE void logits_keep_last(float *z, int vocab, float value, unsigned long long keep, logits_shared *sh)
{
    uint32_t ties = 0;
    for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS) ties += z[v] == value;
    if (logits_count(ties, sh) <= keep) return;
    unsigned long long seen = 0;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int tile = (vocab - 1) / LOGITS_THREADS; tile >= 0; tile--) {
        const int v = tile * LOGITS_THREADS + (int)threadIdx.x;
        const bool tie = v < vocab && z[v] == value;
        const uint32_t set = __ballot_sync(0xffffffffu, tie);
        if (lane == 0) sh->n[warp] = __popc(set);
        __syncthreads();
        uint32_t later = __popc(set & ~(0xffffffffu >> (31 - lane))), all = 0;
        for (int w = 0; w < LOGITS_WARPS; w++) {
            if (w > warp) later += sh->n[w];
            all += sh->n[w];
        }
        if (tie && seen + later >= keep) z[v] = logits_none();
        seen += all;
        __syncthreads();
    }
}

// The smallest set, from the most likely down, whose probability reaches top_p. Of equal tokens at its edge the last ones stay, as
// after transformers' ascending (stable) sort.
TDM_DEVICE void logits_top_p(float *z, int vocab, float top_p, logits_shared *sh)
{
    logits_sum_row<false>(z, vocab, sh);
    const double sum = sh->sum;
    const float max = sh->max;
    if (!(sum > 0.0)) return; // no token has any probability, or NaN
    const double scale = (double)(1ull << (31 + LOGITS_LOW)) / sum;
    unsigned long long total = 0; // of the rounded shares
    for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS) total += logits_weight(z[v], max, scale);
    for (int o = 16; o > 0; o >>= 1) total += __shfl_xor_sync(0xffffffffu, total, o);
    if (threadIdx.x % 32 == 0) sh->warp_weight[threadIdx.x / 32] = total;
    __syncthreads();
    total = 0;
    for (int w = 0; w < LOGITS_WARPS; w++) total += sh->warp_weight[w];
    __syncthreads();
    const unsigned long long target = (unsigned long long)ceil((double)top_p * (double)total);
    const float value = logits_find_cut<true>(z, vocab, target, max, scale, sh);
    const unsigned long long above = sh->before, each = logits_weight(value, max, scale);
    const unsigned long long need = target > above && each > 0 ? (target - above + each - 1) / each : 1;
    logits_keep_last(z, vocab, value, need, sh);
    logits_drop_below(z, vocab, value);
}

// top-k, then top-p, then min-p, as transformers' processors define them: -inf in z for the tokens left out.
TDM_DEVICE void logits_truncate(float *z, int vocab, const tdm_sampling &s, logits_shared *sh)
{
    if (s.top_k > 0 && s.top_k < vocab)
        logits_drop_below(z, vocab, logits_find_cut<false>(z, vocab, (unsigned long long)s.top_k, 0.0f, 0.0, sh));
    if (s.top_p < 1.0f) logits_top_p(z, vocab, s.top_p, sh);
    if (s.min_p > 0.0f) {
        const float max = logits_highest(z, vocab, sh);
        for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS)
            if (tdm_exp(__fadd_rn(z[v], -max)) < s.min_p) z[v] = logits_none();
        __syncthreads();
    }
}

// ---- Launching -------------------------------------------------------------------------------------------------------------------

// Where a block's dynamic shared memory holds what: `maps` bitmaps, then the row where it fits.
struct logits_room {
    size_t bytes;
    int maps;
    bool row;
};

// The row in shared memory, or in place.
TDM_DEVICE float *logits_load(float *row, uint32_t *dynamic, int vocab, logits_room room)
{
    if (!room.row) return row;
    float *z = (float *)(dynamic + room.maps * ((vocab + 31) / 32));
    for (int v = threadIdx.x; v < vocab; v += LOGITS_THREADS) z[v] = row[v];
    __syncthreads();
    return z;
}

static inline tdm_status logits_plan(logits_room *room, const void *kernel, int64_t vocab, int maps, tdm_error *err)
{
    int device = 0, most = 0;
    tdm_status st = TDM_CUDA(cudaGetDevice(&device));
    if (st == TDM_OK) st = TDM_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    if (st != TDM_OK) return st;
    const size_t map_bytes = (size_t)maps * (size_t)tdm_ceil_div(vocab, 32) * 4, row_bytes = (size_t)vocab * 4;
    const size_t free_bytes = (size_t)most - sizeof(logits_shared) - 64; // what a kernel keeps beside it
    TDM_ASSERT(vocab <= LOGITS_VOCAB && map_bytes <= free_bytes);
    const bool fits = map_bytes + row_bytes <= free_bytes;
    *room = logits_room{fits ? map_bytes + row_bytes : map_bytes, maps, fits};
    return TDM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room->bytes));
}
