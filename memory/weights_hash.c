/* A block's hash is one long chain of multiplications, so a thread runs several blocks side by side. A device's bytes come over in large
 * copies, one of them under way while the one before is hashed. */
#include "memory/weights_plan.h"

#include "kernels/parallel.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = 1 << 20,
    SIDE = 4,         /* blocks side by side: a multiplication takes about as many cycles */
    COPY = 16 * BLOCK /* from a device */
};
#define START UINT64_C(0xcbf29ce484222325)
#define PRIME UINT64_C(0x100000001b3)

static uint64_t fnv(uint64_t h, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * PRIME;
    return h;
}

static void fnv_side_by_side(uint64_t h[SIDE], const unsigned char *p)
{
    uint64_t a = START, b = START, c = START, d = START;
    for (size_t i = 0; i < BLOCK; i++) {
        a = (a ^ p[i]) * PRIME;
        b = (b ^ p[i + BLOCK]) * PRIME;
        c = (c ^ p[i + 2 * BLOCK]) * PRIME;
        d = (d ^ p[i + 3 * BLOCK]) * PRIME;
    }
    h[0] = a;
    h[1] = b;
    h[2] = c;
    h[3] = d;
}

typedef struct hash_job {
    const unsigned char *p;
    size_t bytes;
    uint64_t *part; /* one for each block */
} hash_job;

static void hash_blocks(void *ctx, int64_t first, int64_t last, int thread)
{
    const hash_job *job = ctx;
    (void)thread;
    for (int64_t i = first; i < last;) {
        const size_t at = (size_t)i * BLOCK, left = job->bytes - at;
        if (i + SIDE <= last && left >= SIDE * BLOCK) {
            fnv_side_by_side(job->part + i, job->p + at);
            i += SIDE;
        } else {
            job->part[i++] = fnv(START, job->p + at, left < BLOCK ? left : BLOCK);
        }
    }
}

static int64_t block_count(size_t bytes) { return tdm_ceil_div((int64_t)bytes, BLOCK); }

static void hash_all(const unsigned char *p, size_t bytes, int threads, uint64_t *part)
{
    hash_job job = {p, bytes, part};
    const int64_t blocks = block_count(bytes);
    tdm_parallel(threads, blocks, tdm_min_i64(SIDE, tdm_ceil_div(blocks, threads)), hash_blocks, &job);
}

/* Bytes [at, at + n) of the buffer into the stage, where they are once the stream is waited for. */
static tdm_status bring(const tdm_weights *w, size_t at, size_t n, unsigned char *stage, tdm_error *err)
{
    const tdm_region *r = &w->region;
    const size_t here = at >= w->host_bytes ? 0 : w->host_bytes - at < n ? w->host_bytes - at : n; /* of them on the host */
    if (here > 0) memcpy(stage, (const unsigned char *)w->host + at, here);
    return r->be->download(r->s, stage + here, (const unsigned char *)r->base + at + here, n - here, err);
}

/* From `at` on, a block's beginning. The next copy is on its way while the threads hash this one. */
static tdm_status hash_staged(const tdm_weights *w, size_t at, uint64_t *part, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_region *r = &w->region;
    void *stage = NULL; /* owned here; two copies */
    size_t n = w->bytes - at < COPY ? w->bytes - at : COPY;
    TDM_TRY(st, r->be->host_open(&stage, 2 * COPY, err), done);
    TDM_TRY(st, bring(w, at, n, stage, err), done);
    for (int half = 0; n > 0; half ^= 1) {
        const size_t left = w->bytes - at - n, next = left < COPY ? left : COPY;
        TDM_TRY(st, r->be->stream_sync(r->s, err), done);
        if (next > 0) TDM_TRY(st, bring(w, at + n, next, (unsigned char *)stage + (half ^ 1) * COPY, err), done);
        hash_all((unsigned char *)stage + half * COPY, n, w->threads, part + at / BLOCK);
        at += n;
        n = next;
    }
done:
    if (stage) {
        const tdm_status arrived = r->be->stream_sync(r->s, err); /* also after an error: the stage goes */
        if (st == TDM_OK) st = arrived;
        r->be->host_close(stage, 2 * COPY);
    }
    return st;
}

tdm_status tdm_weights_hash(const tdm_weights *w, uint64_t *hash, tdm_error *err)
{
    tdm_status st = TDM_OK;
    uint64_t *part = calloc((size_t)block_count(w->bytes) + 1, sizeof *part); /* owned here */
    if (!part) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for hashing the weights");
    /* what lies on the host is hashed where it lies, but for a block that begins there and ends elsewhere */
    const bool all = w->host_bytes == 0 && tdm_region_is_host(&w->region);
    const size_t direct = all ? w->bytes : w->host_bytes / BLOCK * BLOCK;
    hash_all(all ? w->region.base : w->host, direct, w->threads, part);
    if (direct < w->bytes) TDM_TRY(st, hash_staged(w, direct, part, err), done);
    *hash = fnv(START, (const unsigned char *)part, (size_t)block_count(w->bytes) * sizeof *part);
done:
    free(part);
    return st;
}
