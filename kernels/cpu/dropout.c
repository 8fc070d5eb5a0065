/* dropout and its backward. The mask is a function of (seed, site, token, column): columns [4c, 4c + 4) of a token take the four
 * words of tdm_philox(seed, site, token, c, 0), in order, and a column is kept when its tdm_uniform is at least p. */
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"
#include "kernels/philox.h"

enum { GROUP = 16, COLUMNS = 4 * GROUP }; /* counters drawn side by side, and the columns they decide */

typedef struct dropout_job {
    tdm_view y;
    tdm_cview x;
    float p, scale;
    uint64_t seed;
    uint32_t site;
    const uint32_t *token;
    bool backward;
} dropout_job;

/* tdm_philox for GROUP counters that differ in c2, written so that the compiler takes them side by side. */
static void draw(uint32_t word[COLUMNS], uint64_t seed, uint32_t site, uint32_t token, uint32_t first)
{
    uint32_t c0[GROUP], c1[GROUP], c2[GROUP], c3[GROUP], k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (uint32_t i = 0; i < GROUP; i++) {
        c0[i] = site;
        c1[i] = token;
        c2[i] = first + i;
        c3[i] = 0;
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < GROUP; i++) {
            const uint64_t p0 = 0xD2511F53ull * c0[i], p1 = 0xCD9E8D57ull * c2[i];
            const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c1[i] = (uint32_t)p1;
            c3[i] = (uint32_t)p0;
            c0[i] = n0;
            c2[i] = n2;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < GROUP; i++) {
        word[4 * i] = c0[i];
        word[4 * i + 1] = c1[i];
        word[4 * i + 2] = c2[i];
        word[4 * i + 3] = c3[i];
    }
}

static void dropout_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const dropout_job *j = ctx;
    const vf scale = vf_set(j->scale);
    (void)thread;
    for (int64_t t = first; t < last; t++)
        for (int64_t c0 = 0; c0 < j->x.cols; c0 += COLUMNS) {
            uint32_t word[COLUMNS];
            float factor[COLUMNS];
            draw(word, j->seed, j->site, j->token[t], (uint32_t)(c0 / 4));
            for (int i = 0; i < COLUMNS; i++) factor[i] = tdm_uniform(word[i]) >= j->p ? 1.0f : 0.0f;
            for (int64_t c = c0; c < tdm_min_i64(c0 + COLUMNS, j->x.cols); c += VF) {
                const int64_t n = tdm_min_i64(VF, j->x.cols - c);
                const vf keep = vf_mul(vf_load(factor + (c - c0)), scale);
                if (j->backward) {
                    float *dx = tdm_row_f32(j->y, t) + c;
                    vf_store_n(dx, vf_add(vf_load_n(dx, n), vf_mul(vf_load_n(tdm_crow_f32(j->x, t) + c, n), keep)), n);
                } else {
                    vf_store_bf16_n(tdm_row_bf16(j->y, t) + c, vf_mul(vf_load_bf16_n(tdm_crow_bf16(j->x, t) + c, n), keep), n);
                }
            }
        }
}

static tdm_status run(tdm_stream *s, dropout_job *j, tdm_dtype dtype)
{
    TDM_ASSERT(j->y.dtype == dtype && j->x.dtype == dtype && j->y.rows == j->x.rows && j->y.cols == j->x.cols);
    TDM_ASSERT(j->p >= 0.0f && j->p < 1.0f);
    j->scale = 1.0f / (1.0f - j->p);
    tdm_cpu_parallel(s, j->x.rows, tdm_max_i64(1, 4096 / tdm_max_i64(j->x.cols, 1)), dropout_rows, j);
    return TDM_OK;
}

tdm_status TDM_CPU(dropout)(tdm_stream *s, tdm_view y, tdm_cview x, float p, uint64_t seed, uint32_t site, const uint32_t *token,
                            tdm_error *err)
{
    (void)err;
    dropout_job job = {.y = y, .x = x, .p = p, .seed = seed, .site = site, .token = token};
    return run(s, &job, TDM_DTYPE_BF16);
}

tdm_status TDM_CPU(dropout_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, float p, uint64_t seed, uint32_t site,
                                     const uint32_t *token, tdm_error *err)
{
    (void)err;
    dropout_job job = {.y = dx, .x = dy, .p = p, .seed = seed, .site = site, .token = token, .backward = true};
    return run(s, &job, TDM_DTYPE_F32);
}
