// What the card can do: BF16 multiply-adds of the tensor cores out of registers (operands the compiler does not know), and bytes out of memory.
#include "kernels/cuda/common.cuh"

enum { REPEATS = 5, THREADS = 256, STEPS = 8192, CHAINS = 8, BLOCKS_A_SM = 2, READ_BLOCKS_A_SM = 16 };

// CHAINS independent mma.m16n8k16 a warp hide the instruction's latency; each is 2 * 16 * 8 * 16 operations.
static __global__ void __launch_bounds__(THREADS) multiply(uint32_t bits, float *sink)
{
    float c[CHAINS][4] = {};
    for (int i = 0; i < STEPS; i++)
#pragma unroll
        for (int k = 0; k < CHAINS; k++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%5,%5}, {%0,%1,%2,%3};"
                         : "+f"(c[k][0]), "+f"(c[k][1]), "+f"(c[k][2]), "+f"(c[k][3])
                         : "r"(bits), "r"(bits));
    float sum = 0.0f;
    for (int k = 0; k < CHAINS; k++) sum += c[k][0] + c[k][1] + c[k][2] + c[k][3];
    if (sum == 1.0f && sink) *sink = sum; // never: the sum is 0; the compiler cannot know
}

static __global__ void __launch_bounds__(THREADS) read_all(const uint4 *x, size_t n, uint32_t *sink)
{
    const size_t step = (size_t)gridDim.x * THREADS;
    uint32_t sum = 0;
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        const uint4 a = __ldg(x + i), b = __ldg(x + i + step), c = __ldg(x + i + 2 * step), d = __ldg(x + i + 3 * step);
        sum ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
    }
    for (; i < n; i += step) {
        const uint4 a = __ldg(x + i);
        sum ^= a.x ^ a.y ^ a.z ^ a.w;
    }
    if (sink) atomicXor(sink, sum); // NULL in practice; the compiler cannot know
}

// The GFLOP/s of a large BF16 product by cuBLASLt, operands in the workspace; 0 where they do not fit.
static tdm_status gemm_once(tdm_stream *s, cudaEvent_t from, cudaEvent_t to, double *gflops, tdm_error *err)
{
    enum { SCRATCH = 32 << 20 };
    int64_t n = 8192;
    *gflops = 0.0;
    while (n >= 2048 && (size_t)(3 * n * n) * 2 + SCRATCH > s->workspace_bytes) n /= 2;
    if (n < 2048) return TDM_OK;
    char *scratch = s->workspace;
    uint16_t *a = (uint16_t *)(scratch + SCRATCH), *b = a + n * n, *c = b + n * n;
    const float one = 1.0f, zero = 0.0f;
    cublasLtMatmulDesc_t desc = NULL;
    cublasLtMatrixLayout_t layout = NULL;
    cublasLtMatmulPreference_t want = NULL;
    cublasLtMatmulHeuristicResult_t pick;
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const size_t scratch_bytes = SCRATCH;
    int picks = 0;
    float ms = 0.0f;
    tdm_status st = TDM_CUDA(cudaMemsetAsync(a, 0, (size_t)(2 * n * n) * 2, s->cuda));
    if (st != TDM_OK) return st;
    bool ok = cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, (uint64_t)n, (uint64_t)n, n) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceCreate(&want) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch_bytes, sizeof scratch_bytes) ==
                  CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulAlgoGetHeuristic(s->lt, desc, layout, layout, layout, layout, want, 1, &pick, &picks) == CUBLAS_STATUS_SUCCESS &&
              picks == 1;
    for (int r = 0; ok && st == TDM_OK && r <= REPEATS; r++) { // the first one warms up
        TDM_TRY(st, TDM_CUDA(cudaEventRecord(from, s->cuda)), done);
        ok = cublasLtMatmul(s->lt, desc, &one, a, layout, b, layout, &zero, c, layout, c, layout, &pick.algo, scratch, SCRATCH, s->cuda) ==
             CUBLAS_STATUS_SUCCESS;
        TDM_TRY(st, TDM_CUDA(cudaEventRecord(to, s->cuda)), done);
        TDM_TRY(st, TDM_CUDA(cudaEventSynchronize(to)), done);
        TDM_TRY(st, TDM_CUDA(cudaEventElapsedTime(&ms, from, to)), done);
        const double rate = 2e-9 * (double)n * (double)n * (double)n / (1e-3 * (double)ms);
        if (ok && r > 0 && rate > *gflops) *gflops = rate;
    }
done:
    if (want) (void)cublasLtMatmulPreferenceDestroy(want);
    if (layout) (void)cublasLtMatrixLayoutDestroy(layout);
    if (desc) (void)cublasLtMatmulDescDestroy(desc);
    return st;
}

tdm_status tdm_cuda_probe(tdm_stream *s, const void *region, size_t bytes, double *gflops, double *gbps, tdm_error *err)
{
    cudaEvent_t from = NULL, to = NULL;
    const size_t n = bytes / sizeof(uint4);
    float ms = 0.0f;
    tdm_status st;
    *gflops = *gbps = 0.0;
    TDM_ASSERT((uintptr_t)region % sizeof(uint4) == 0);
    TDM_TRY(st, TDM_CUDA(cudaEventCreate(&from)), done);
    TDM_TRY(st, TDM_CUDA(cudaEventCreate(&to)), done);
    TDM_TRY(st, gemm_once(s, from, to, gflops, err), done);
    for (int r = 0; r <= REPEATS; r++) { // the first one warms up
        const unsigned blocks = (unsigned)(s->sms * BLOCKS_A_SM);
        TDM_TRY(st, TDM_CUDA(cudaEventRecord(from, s->cuda)), done);
        multiply<<<blocks, THREADS, 0, s->cuda>>>(0, NULL);
        TDM_TRY(st, TDM_CUDA(cudaEventRecord(to, s->cuda)), done);
        TDM_TRY(st, tdm_cuda_launched(err, "probe", blocks, STEPS), done);
        TDM_TRY(st, TDM_CUDA(cudaEventSynchronize(to)), done);
        TDM_TRY(st, TDM_CUDA(cudaEventElapsedTime(&ms, from, to)), done);
        const double rate = 1e-9 * blocks * (THREADS / 32) * (double)STEPS * CHAINS * (2 * 16 * 8 * 16) / (1e-3 * (double)ms);
        if (r > 0 && rate > *gflops) *gflops = rate;
    }
    for (int r = 0; n > 0 && r <= REPEATS; r++) {
        const unsigned blocks = (unsigned)(s->sms * READ_BLOCKS_A_SM);
        TDM_TRY(st, TDM_CUDA(cudaEventRecord(from, s->cuda)), done);
        read_all<<<blocks, THREADS, 0, s->cuda>>>((const uint4 *)region, n, NULL);
        TDM_TRY(st, TDM_CUDA(cudaEventRecord(to, s->cuda)), done);
        TDM_TRY(st, tdm_cuda_launched(err, "probe", 1, (long long)n), done);
        TDM_TRY(st, TDM_CUDA(cudaEventSynchronize(to)), done);
        TDM_TRY(st, TDM_CUDA(cudaEventElapsedTime(&ms, from, to)), done);
        const double speed = 1e-9 * (double)(n * sizeof(uint4)) / (1e-3 * (double)ms);
        if (r > 0 && speed > *gbps) *gbps = speed;
    }
done:
    if (from) (void)cudaEventDestroy(from);
    if (to) (void)cudaEventDestroy(to);
    return st;
}
