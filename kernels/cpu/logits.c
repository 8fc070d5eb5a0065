#include "kernels/cpu/logits.h"

static void *take(char *base, size_t *at, int64_t count, size_t size)
{
    void *p = base ? base + *at : NULL;
    *at += tdm_align_up((size_t)count * size, 64);
    return p;
}

size_t TDM_CPU(logits_scratch_layout)(logits_scratch *w, char *base, int64_t vocab)
{
    size_t at = 0;
    logits_scratch l;
    l.weight = take(base, &at, vocab + VF, sizeof(float));
    l.candidate = take(base, &at, vocab, sizeof(uint32_t));
    l.seen = take(base, &at, tdm_ceil_div(vocab, 32), sizeof(uint32_t));
    l.negative = take(base, &at, tdm_ceil_div(vocab, 32), sizeof(uint32_t));
    l.support = take(base, &at, tdm_ceil_div(vocab, 32), sizeof(uint32_t));
    l.bin = take(base, &at, LOGITS_BINS, sizeof(double));
    l.block = take(base, &at, tdm_ceil_div(vocab, LOGITS_BLOCK), sizeof(double));
    if (w) {
        *w = l;
        memset(l.seen, 0, (size_t)tdm_ceil_div(vocab, 32) * sizeof(uint32_t));
        memset(l.negative, 0, (size_t)tdm_ceil_div(vocab, 32) * sizeof(uint32_t));
    }
    return at;
}

static inline bool penalises(const tdm_sampling *s, const int32_t *history) { return history && s->repetition_penalty != 1.0f; }

void TDM_CPU(logits_process)(float *z, int64_t vocab, const tdm_sampling *s, const int32_t *history, int64_t history_len,
                             logits_scratch *w)
{
    for (int64_t i = 0; penalises(s, history) && i < history_len; i++) {
        const int32_t id = history[i];
        TDM_ASSERT(id >= 0 && id < vocab);
        const uint32_t bit = 1u << (id % 32);
        if (w->seen[id / 32] & bit) continue;
        w->seen[id / 32] |= bit;
        if (z[id] < 0.0f) {
            w->negative[id / 32] |= bit;
            z[id] *= s->repetition_penalty;
        } else {
            z[id] /= s->repetition_penalty;
        }
    }
    if (s->temperature <= 0.0f || s->temperature == 1.0f) return;
    const vf temperature = vf_set(s->temperature);
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        vf_store_n(z + v, vf_div(vf_load_n(z + v, n), temperature), n);
    }
}

void TDM_CPU(logits_forget)(float *p, const tdm_sampling *s, const int32_t *history, int64_t history_len, logits_scratch *w)
{
    for (int64_t i = 0; penalises(s, history) && i < history_len; i++) {
        const int32_t id = history[i];
        const uint32_t bit = 1u << (id % 32);
        if (p && (w->negative[id / 32] & bit)) p[id] = -p[id];
        w->seen[id / 32] &= ~bit;
        w->negative[id / 32] &= ~bit;
    }
}

static float highest(const float *z, int64_t vocab)
{
    const vf none = vf_set(-__builtin_inff());
    vf most[2] = {none, none};
    int64_t v = 0;
    for (; v + 2 * VF <= vocab; v += 2 * VF)
        for (int k = 0; k < 2; k++) most[k] = vf_max(vf_load(z + v + k * VF), most[k]);
    float m = vf_highest(vf_max(most[0], most[1]));
    for (; v < vocab; v++) m = z[v] > m ? z[v] : m;
    return m;
}

/* ---- Truncation -------------------------------------------------------------------------------------------------------------- */

/* Bits that order as the numbers do. */
static inline uint32_t order_key(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
static inline float order_value(uint32_t key)
{
    const uint32_t u = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

typedef struct cut {
    float value;  /* the logit at which the weight of all not below it reaches the target */
    double above; /* the weight of those strictly above */
} cut;

/* Goes down from the largest logit until the weight passed reaches `target`: a histogram over the first 12 bits of the order, then
 * over the next 10 of those in the bin found, then over the last 10. Exact, with no sort. weight NULL: every token weighs 1. */
static cut find_cut(const float *z, const float *weight, int64_t vocab, double target, logits_scratch *w)
{
    static const struct { int shift, bits; } level[3] = {{20, 12}, {10, 10}, {0, 10}};
    cut c = {0.0f, 0.0};
    uint32_t found = 0;
    int64_t left = vocab;
    for (int l = 0; l < 3; l++) {
        const uint32_t bins = 1u << level[l].bits, low = bins - 1;
        memset(w->bin, 0, bins * sizeof *w->bin);
        for (int64_t i = 0; i < left; i++) {
            const uint32_t v = l ? w->candidate[i] : (uint32_t)i;
            w->bin[order_key(z[v]) >> level[l].shift & low] += weight ? (double)weight[v] : 1.0;
        }
        uint32_t at = 0;
        double above = c.above;
        for (uint32_t b = bins; b-- > 0;) {
            if (w->bin[b] <= 0.0) continue; /* empty, or tokens of no weight: never the cut */
            at = b;
            c.above = above;
            above += w->bin[b];
            if (above >= target) break; /* if rounding keeps it from ever being reached, the lowest bin that weighs is the cut */
        }
        int64_t kept = 0;
        for (int64_t i = 0; i < left; i++) {
            const uint32_t v = l ? w->candidate[i] : (uint32_t)i;
            w->candidate[kept] = v;
            kept += (order_key(z[v]) >> level[l].shift & low) == at;
        }
        left = kept;
        found = found << level[l].bits | at;
    }
    c.value = order_value(found);
    return c;
}

static void drop_below(float *z, int64_t vocab, float value)
{
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        const vf x = vf_load_n(z + v, n);
        vf_store_n(z + v, vf_select(vf_lt(x, vf_set(value)), vf_set(-__builtin_inff()), x), n);
    }
}

/* The smallest set, from the most likely down, whose probability reaches top_p. Of equal tokens at its edge the last ones stay, as
 * after transformers' ascending (stable) sort. */
static void truncate_top_p(float *z, int64_t vocab, float top_p, logits_scratch *w)
{
    const vf high = vf_set(highest(z, vocab));
    double total = 0.0;
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        vf e = vf_exp(vf_sub(vf_load_n(z + v, n), high));
        if (n < VF) e = vf_keep(vu_lt(vu_lane(), vu_set((uint32_t)n)), e);
        vf_store(w->weight + v, e);
        total += (double)vf_sum(e);
    }
    const double target = (double)top_p * total;
    const cut c = find_cut(z, w->weight, vocab, target, w);
    double reached = c.above;
    bool any = false;
    for (int64_t v = vocab; v-- > 0;) { /* the ties: from the end, as many as it takes */
        if (z[v] != c.value) continue;
        if (any && reached >= target) {
            z[v] = -__builtin_inff();
            continue;
        }
        reached += (double)w->weight[v];
        any = true;
    }
    drop_below(z, vocab, c.value);
}

static void truncate_min_p(float *z, int64_t vocab, float min_p)
{
    const vf high = vf_set(highest(z, vocab)), least = vf_set(min_p);
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        const vf x = vf_load_n(z + v, n);
        vf_store_n(z + v, vf_select(vf_lt(vf_exp(vf_sub(x, high)), least), vf_set(-__builtin_inff()), x), n);
    }
}

void TDM_CPU(logits_truncate)(float *z, int64_t vocab, const tdm_sampling *s, logits_scratch *w)
{
    if (!logits_truncates(s)) return;
    if (s->top_k > 0 && s->top_k < vocab) drop_below(z, vocab, find_cut(z, NULL, vocab, (double)s->top_k, w).value);
    if (s->top_p < 1.0f) truncate_top_p(z, vocab, s->top_p, w);
    if (s->min_p > 0.0f) truncate_min_p(z, vocab, s->min_p);
}

void TDM_CPU(logits_mask)(float *z, int64_t vocab, const uint32_t *support)
{
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        const vu in = vu_from_bits(support[v / 32] >> v % 32 & 0xffffu);
        vf_store_n(z + v, vf_select(in, vf_load_n(z + v, n), vf_set(-__builtin_inff())), n);
    }
}

void TDM_CPU(logits_support)(uint32_t *support, const float *z, int64_t vocab)
{
    memset(support, 0, (size_t)tdm_ceil_div(vocab, 32) * sizeof *support);
    for (int64_t v = 0; v < vocab; v += VF) {
        const int64_t n = tdm_min_i64(VF, vocab - v);
        const uint32_t off = vu_bits(vf_eq(vf_load_n(z + v, n), vf_set(-__builtin_inff())));
        support[v / 32] |= (~off & ((1u << n) - 1u)) << v % 32;
    }
}

/* ---- The row ----------------------------------------------------------------------------------------------------------------- */

typedef struct block_sum { float sum, dot; } block_sum;

/* Sixteen exponentials; past the end they are 0. */
static inline vf exps_at(const float *z, int64_t n, vf high, vf *shifted)
{
    *shifted = vf_sub(vf_load_n(z, n), high);
    const vf e = vf_exp(*shifted);
    return n < VF ? vf_keep(vu_lt(vu_lane(), vu_set((uint32_t)n)), e) : e;
}

static inline block_sum sum_block(float *z, int64_t len, vf high, const bool exps)
{
    vf sum[2] = {vf_zero(), vf_zero()}, dot[2] = {vf_zero(), vf_zero()};
    for (int64_t v = 0, k = 0; v < len; v += VF, k ^= 1) {
        const int64_t n = tdm_min_i64(VF, len - v);
        vf shifted;
        const vf e = exps_at(z + v, n, high, &shifted);
        sum[k] = vf_add(sum[k], e);
        if (exps) {
            vf_store_n(z + v, e, n);
            dot[k] = vf_add(dot[k], vf_keep(vf_lt(vf_zero(), e), vf_mul(e, shifted))); /* 0 times -inf is 0 here */
        }
    }
    return (block_sum){vf_sum(vf_add(sum[0], sum[1])), exps ? vf_sum(vf_add(dot[0], dot[1])) : 0.0f};
}

logits_sum TDM_CPU(logits_sum_row)(float *z, int64_t vocab, bool exps, logits_scratch *w)
{
    const float max = highest(z, vocab);
    const vf high = vf_set(max);
    double sum = 0.0, dot = 0.0;
    for (int64_t v = 0, b = 0; v < vocab; v += LOGITS_BLOCK, b++) {
        const int64_t len = tdm_min_i64(LOGITS_BLOCK, vocab - v);
        const block_sum s = exps ? sum_block(z + v, len, high, true) : sum_block(z + v, len, high, false);
        w->block[b] = (double)s.sum;
        sum += (double)s.sum;
        dot += (double)s.dot;
    }
    return (logits_sum){max, vf_log1((float)sum), sum, (float)dot};
}
