// Sums over tokens for the adapter's gradients, dA += dh^T x and dB += lora_scale dy^T h, in one launch. A sequence's sum goes 16 tokens
// at a time from its first one on, and is added, scaled, to what the buffer holds before the next sequence's: micro-batches of whole
// sequences leave the bits of the whole batch.
#include "kernels/cuda/gemm.cuh"

// A block: 16 along the rank by 64 along the width; a warp has 16 by 16 of it. 64 tokens of one sequence are a stage.
enum { RANK = 16, WIDTH = 64, TOKENS = 64, STAGES = 3, THREADS = 128, U_PITCH = RANK + 8, V_PITCH = WIDTH + 8, JOBS = 2 };

// g[r * g_rank + w * g_width] += alpha * sum over t of u[t, r] v[t, w]
struct job {
    float *g;
    const uint16_t *u, *v;
    int64_t rank, width, g_rank, g_width, u_stride, v_stride;
    float alpha;
    bool u_vector, v_vector;
    int first_block; // of the launch
};
struct grads {
    job of[JOBS];
    int jobs;
    const int32_t *q_start; // [sequences + 1]; NULL: one sequence of all tokens
    int sequences;
    int64_t tokens;
    // Of experts, a grid's z each: first rows, whose token each row is, and what leads from one's gradient to the next's. NULL: no experts.
    const int32_t *start, *token;
    int64_t step;
};

struct stage {
    uint16_t u[TOKENS][U_PITCH], v[TOKENS][V_PITCH];
};

// Goes through the stages of all sequences in order.
struct walk {
    int sequence;
    int64_t at, end; // tokens [at, min(at + TOKENS, end)) are the stage; at >= end: none is left
};
// The first row of the block's expert that is token t's or a later one's; without experts rows are tokens.
TDM_DEVICE int64_t row_of(const grads &a, int64_t t)
{
    if (!a.start) return t;
    int low = __ldg(a.start + blockIdx.z), high = __ldg(a.start + blockIdx.z + 1);
    while (low < high) {
        const int middle = (low + high) / 2;
        if (__ldg(a.token + middle) < t) low = middle + 1;
        else high = middle;
    }
    return low;
}
TDM_DEVICE void start_sequence(walk &w, const grads &a)
{
    for (; w.sequence < a.sequences; w.sequence++) {
        w.at = a.q_start ? row_of(a, __ldg(a.q_start + w.sequence)) : row_of(a, 0);
        w.end = a.q_start ? row_of(a, __ldg(a.q_start + w.sequence + 1)) : row_of(a, a.tokens);
        if (w.at < w.end) return;
    }
    w.at = w.end = 0;
}
TDM_DEVICE void next(walk &w, const grads &a)
{
    w.at += TOKENS;
    if (w.at < w.end) return;
    w.sequence++;
    start_sequence(w, a);
}

TDM_DEVICE void fetch_unit(uint16_t *to, const uint16_t *from, int64_t stride, bool vector, int64_t t, int64_t end, int64_t c, int64_t cols)
{
    const int64_t valid = t < end && c < cols ? min((long long)(cols - c), 8ll) : 0;
    if (vector) tdm_cp_async(to, valid ? from + t * stride + c : from, (int)valid * 2);
    else *(uint4 *)to = tdm_load16<2>((const char *)(valid ? from + t * stride + c : from), valid, false);
}
TDM_DEVICE void fetch(stage &s, const job &j, const walk &w, int64_t r0, int64_t w0)
{
    constexpr int U_UNITS = RANK / 8, V_UNITS = WIDTH / 8;
    static_assert(TOKENS * U_UNITS == THREADS, "one unit of u a thread");
    const int id = threadIdx.x;
    fetch_unit(&s.u[id / U_UNITS][id % U_UNITS * 8], j.u, j.u_stride, j.u_vector, w.at + id / U_UNITS, w.end, r0 + id % U_UNITS * 8, j.rank);
#pragma unroll
    for (int i = 0; i < TOKENS * V_UNITS / THREADS; i++) {
        const int unit = i * THREADS + id;
        fetch_unit(&s.v[unit / V_UNITS][unit % V_UNITS * 8], j.v, j.v_stride, j.v_vector, w.at + unit / V_UNITS, w.end, w0 + unit % V_UNITS * 8,
                   j.width);
    }
}

TDM_DEVICE void load_turned(uint32_t (&out)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(tdm_smem(row)) : "memory");
}
// acc [16 of the rank] x [two of 8 of the width] += over a stage's tokens.
TDM_DEVICE void multiply(float (&acc)[2][4], const stage &s, int col)
{
    const int lane = threadIdx.x % 32, of = lane / 8, row = lane % 8; // the lane names a row of matrix `of`
#pragma unroll
    for (int t = 0; t < TOKENS; t += 16) {
        uint32_t a[4], b[4];
        load_turned(a, &s.u[t + of / 2 * 8 + row][of % 2 * 8]);
        load_turned(b, &s.v[t + of % 2 * 8 + row][col + of / 2 * 8]);
        tdm_mma<false>(acc[0], a, b[0], b[1]);
        tdm_mma<false>(acc[1], a, b[2], b[3]);
    }
}

static __global__ void __launch_bounds__(THREADS) grads_add(const __grid_constant__ grads a)
{
    __shared__ __align__(16) stage stages[STAGES];
    const job &j = a.of[a.jobs > 1 && (int)blockIdx.x >= a.of[1].first_block];
    const int64_t w0 = ((int64_t)blockIdx.x - j.first_block) * WIDTH, r0 = (int64_t)blockIdx.y * RANK;
    const int col = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    if (r0 >= j.rank) return;
    float total[2][4], acc[2][4];
    const auto each = [&](auto f) {
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int64_t r = r0 + g + i / 2 * 8, w = w0 + col + n * 8 + 2 * c + i % 2;
                f(r < j.rank && w < j.width ? j.g + blockIdx.z * a.step + r * j.g_rank + w * j.g_width : NULL, total[n][i], acc[n][i]);
            }
    };
    each([](float *p, float &sum, float &part) { sum = p ? *p : 0.0f, part = 0.0f; });
    walk now = {}, ahead;
    start_sequence(now, a);
    ahead = now;
    int put = 0, take = 0;
    const auto prefetch = [&]() {
        if (ahead.at < ahead.end) {
            fetch(stages[put], j, ahead, r0, w0);
            next(ahead, a);
        }
        tdm_cp_commit();
        put = put + 1 == STAGES ? 0 : put + 1;
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) prefetch();
    while (now.at < now.end) {
        tdm_cp_wait<STAGES - 2>();
        __syncthreads();
        prefetch();
        multiply(acc, stages[take], col);
        take = take + 1 == STAGES ? 0 : take + 1;
        const int of = now.sequence;
        next(now, a);
        if (now.sequence != of) each([&](float *, float &sum, float &part) { sum = __fmaf_rn(j.alpha, part, sum), part = 0.0f; });
    }
    tdm_cp_wait<0>();
    each([](float *p, float &sum, float &) {
        if (p) *p = sum;
    });
}

static job job_of(tdm_view g, tdm_cview u, tdm_cview v, bool rank_first, float alpha)
{
    job j = {};
    j.g = (float *)g.data;
    j.u = (const uint16_t *)u.data;
    j.v = (const uint16_t *)v.data;
    j.rank = u.cols;
    j.width = v.cols;
    j.g_rank = rank_first ? g.stride : 1;
    j.g_width = rank_first ? 1 : g.stride;
    j.u_stride = u.stride;
    j.v_stride = v.stride;
    j.alpha = alpha;
    j.u_vector = tdm_gemm_vector(u.data, u.stride, 2);
    j.v_vector = tdm_gemm_vector(v.data, v.stride, 2);
    return j;
}

// routes: of experts, or NULL; step: from one expert's gradient to the next's.
static tdm_status run(tdm_stream *s, const tdm_linear_backward *a, const tdm_routes *routes, int64_t step, tdm_error *err)
{
    grads z = {};
    int64_t blocks = 0, rank = 0;
    z.q_start = a->q_start;
    z.sequences = a->q_start ? (int)a->sequences : 1;
    z.tokens = routes ? routes->tokens : a->dy.rows;
    if (routes) z.start = routes->start, z.token = routes->token, z.step = step;
    if (a->grad_a.data) z.of[z.jobs++] = job_of(a->grad_a, tdm_view_const(a->lora_dh), a->x, true, 1.0f);
    if (a->grad_b.data) z.of[z.jobs++] = job_of(a->grad_b, a->h, a->dy, false, a->lora_scale);
    for (int i = 0; i < z.jobs; i++) {
        z.of[i].first_block = (int)blocks;
        blocks += tdm_ceil_div(z.of[i].width, WIDTH);
        rank = z.of[i].rank;
    }
    if (z.tokens == 0 || blocks == 0 || rank == 0) return TDM_OK;
    TDM_ASSERT(tdm_ceil_div(rank, RANK) <= 65535);
    grads_add<<<dim3((unsigned)blocks, (unsigned)tdm_ceil_div(rank, RANK), routes ? (unsigned)routes->experts : 1u), THREADS, 0, s->cuda>>>(z);
    return tdm_cuda_launched(err, "linear_grads", rank, blocks * WIDTH);
}

tdm_status tdm_linear_grads(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err) { return run(s, a, NULL, 0, err); }

tdm_status tdm_linear_experts_grads(tdm_stream *s, const tdm_linear_experts_backward *a, tdm_error *err) { return run(s, &a->of, a->routes, a->lora_step, err); }
