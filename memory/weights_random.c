/* A tensor is a run of 64-bit words, each (random & keep) | always: signs and mantissas are random, exponents as far as values shall spread.
 *   bf16   +-[2^-6, 2^-5): root mean square 0.024
 *   e4m3   all codes below 2, times a scale of 2^-5: 0.02, the deviation models are initialized with; none of them is NaN
 *   norms are 1 and biases 0, so activations stay finite however many layers there are */
#include "memory/weights_random.h"

#include "kernels/parallel.h"

#include <string.h>

typedef struct span {
    size_t at, bytes; /* multiples of 64 */
    uint64_t keep, always;
} span;

enum { BLOCK = 1 << 18, STAGE = 1 << 24 }; /* of a thread; of a copy to a device */
static const uint64_t BF16_KEEP = 0x807f807f807f807f, BF16_ALWAYS = 0x3c803c803c803c80, BF16_ONE = 0x3f803f803f803f80;
static const uint64_t E4M3_KEEP = 0xbfbfbfbfbfbfbfbf;
#define E4M3_SCALE 0x1p-5f

static uint64_t splitmix(uint64_t i)
{
    uint64_t x = i * 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

typedef struct fill_job {
    const span *s;
    size_t first, bytes;
    char *out;
} fill_job;

static void fill_blocks(void *ctx, int64_t begin, int64_t end, int thread)
{
    const fill_job *j = ctx;
    (void)thread;
    for (int64_t b = begin; b < end; b++) {
        const size_t from = (size_t)b * BLOCK, left = j->bytes - from, n = (left < BLOCK ? left : BLOCK) / sizeof(uint64_t);
        const uint64_t word = (j->s->at + j->first + from) / sizeof(uint64_t);
        uint64_t *to = (uint64_t *)(void *)(j->out + from);
        for (size_t i = 0; i < n; i++) to[i] = (splitmix(word + i) & j->s->keep) | j->s->always;
    }
}

/* `bytes` of the span from its byte `first` on, to `out`. */
static void fill(const span *s, size_t first, size_t bytes, int threads, void *out)
{
    fill_job j = {s, first, bytes, out};
    tdm_parallel(threads, (int64_t)((bytes + BLOCK - 1) / BLOCK), 1, fill_blocks, &j);
}

/* To a device by way of two pinned buffers: one is filled while the other's copy runs. */
typedef struct stages {
    char *buffer[2];
    int next, threads;
} stages;

static tdm_status draw(const span *s, const tdm_region *region, stages *stage, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *base = (char *)region->base + s->at;
    if (tdm_region_is_host(region)) {
        fill(s, 0, s->bytes, stage->threads, base);
        return TDM_OK;
    }
    for (size_t at = 0; at < s->bytes; at += STAGE) {
        const size_t n = s->bytes - at < STAGE ? s->bytes - at : STAGE;
        char *buffer = stage->buffer[stage->next];
        stage->next = !stage->next;
        fill(s, at, n, stage->threads, buffer);
        TDM_TRY(st, region->be->stream_sync(region->s, err), done); /* the other buffer's copy is done, and it may be filled */
        TDM_TRY(st, region->be->upload(region->s, base + at, buffer, n, err), done);
    }
done:
    return st;
}

static span span_of(size_t at, const tdm_cview *v, uint64_t keep, uint64_t always)
{
    const size_t bytes = (size_t)(v->rows * v->cols) * tdm_dtype_bytes(v->dtype);
    return (span){at, tdm_align_up(bytes, 64), keep, always};
}

static uint64_t twice(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint64_t)u << 32 | u;
}

static tdm_status draw_matrix(const tdm_matrix_plan *m, const tdm_region *region, stages *stage, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_weight *w = m->w;
    const bool bf16 = w->scheme == TDM_SCHEME_BF16;
    const span codes = span_of(m->codes_at, &w->codes, bf16 ? BF16_KEEP : E4M3_KEEP, bf16 ? BF16_ALWAYS : 0);
    const span scale = span_of(m->scale_at, &w->scale, 0, twice(E4M3_SCALE)), bias = span_of(m->bias_at, &w->bias, 0, 0);
    TDM_TRY(st, draw(&codes, region, stage, err), done);
    TDM_TRY(st, draw(&scale, region, stage, err), done);
    TDM_TRY(st, draw(&bias, region, stage, err), done);
done:
    return st;
}

tdm_status tdm_weights_draw(const tdm_weights_plan *p, const tdm_region *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    stages stage = {.threads = p->w->threads};
    const bool staged = !tdm_region_is_host(region);
    for (int i = 0; staged && i < 2; i++) {
        void *buffer;
        TDM_TRY(st, region->be->host_open(&buffer, STAGE, err), done);
        stage.buffer[i] = buffer;
    }
    for (int64_t i = 0; i < p->matrix_count; i++) TDM_TRY(st, draw_matrix(&p->matrices[i], region, &stage, err), done);
    for (int64_t i = 0; i < p->vector_count; i++) {
        const tdm_cview *v = p->vectors[i].v;
        const span ones = span_of(p->vectors[i].at, v, 0, v->dtype == TDM_DTYPE_F32 ? twice(1.0f) : BF16_ONE);
        TDM_TRY(st, draw(&ones, region, &stage, err), done);
    }
    if (staged) TDM_TRY(st, region->be->stream_sync(region->s, err), done);
done:
    for (int i = 0; i < 2; i++)
        if (stage.buffer[i]) region->be->host_close(stage.buffer[i], STAGE);
    return st;
}
