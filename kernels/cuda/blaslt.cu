// cuBLASLt reads columns first: a row-major y = X P is its y^T = P^T X^T, so W is its A (m = cols) and X its B (n = rows).
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/blaslt.cuh"

enum { MIB = 1 << 20, LIBRARY_WIDE = 32 * MIB, LIBRARY_NARROW = 4 * MIB, AREA_LEAST = 4 * MIB, AREA_MOST = 64 * MIB, WIDE = 1024 };

// Our part holds a square weight of this width in bf16, within bounds; larger weights pass in chunks of rows.
size_t tdm_blas_workspace_bytes(int64_t width)
{
    const int64_t area = tdm_min_i64(tdm_max_i64(width * width * 2, AREA_LEAST), AREA_MOST);
    return (size_t)(area + (width >= WIDE ? LIBRARY_WIDE : LIBRARY_NARROW));
}

tdm_status tdm_blas_open(tdm_stream *s, tdm_error *err)
{
    const char *wish = getenv("TANDEM_CUDA_CUBLAS");
    if (s->exact || (wish && strcmp(wish, "0") == 0) || s->workspace_bytes < LIBRARY_NARROW + AREA_LEAST) return TDM_OK;
    s->blas = (struct tdm_blas *)calloc(1, sizeof *s->blas);
    if (!s->blas) return TDM_FAIL(err, TDM_ERR_OTHER, "", "", "out of host memory for a stream");
    s->blas->library_bytes = s->workspace_bytes >= LIBRARY_WIDE + AREA_LEAST ? LIBRARY_WIDE : LIBRARY_NARROW;
    s->blas->kinds[TDM_BLAS_BF16] = true;
    s->blas->kinds[TDM_BLAS_TENSOR] = s->path != TDM_CUDA_SM80;
    // Vectors and blocks of f32 scales exist for Hopper alone.
    s->blas->kinds[TDM_BLAS_CHANNEL] = s->blas->kinds[TDM_BLAS_BLOCK] = s->path == TDM_CUDA_SM90;
    return tdm_blas_selftest(s, err);
}

// ---- One call's descriptors, on the stack -----------------------------------------------------------------------------------

struct call {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, d;
};

template <class T> static bool set(call *c, cublasLtMatmulDescAttributes_t what, const T &value)
{
    return cublasLtMatmulDescSetAttribute(&c->desc, what, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
}

// A matrix in memory: rows of `cols` elements are columns to the library.
static bool lay(cublasLtMatrixLayoutOpaque_t *l, cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride)
{
    return cublasLtMatrixLayoutInit(l, type, (uint64_t)cols, (uint64_t)rows, stride) == CUBLAS_STATUS_SUCCESS;
}

static bool set_scales(call *c, const tdm_blas_product &p)
{
    const void *ws = p.ws, *xs = p.xs;
    if (ws && !set(c, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, ws)) return false;
    if (xs && !set(c, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, xs)) return false;
#if CUBLAS_VERSION >= 120900
    int32_t a = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, b = a;
    if (p.kind == TDM_BLAS_CHANNEL) a = b = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    if (p.kind == TDM_BLAS_BLOCK) a = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, b = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    if (p.kind <= TDM_BLAS_TENSOR) return true;
    return set(c, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, a) && set(c, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, b);
#else
    return p.kind <= TDM_BLAS_TENSOR; // an older library knows one scale a matrix
#endif
}

static bool describe(call *c, const tdm_blas_product &p)
{
    const cudaDataType_t in = p.kind == TDM_BLAS_BF16 ? CUDA_R_16BF : CUDA_R_8F_E4M3, out = p.y_f32 ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t of_w = p.w_turned ? CUBLAS_OP_T : CUBLAS_OP_N, of_x = CUBLAS_OP_N;
    return cublasLtMatmulDescInit(&c->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           set(c, CUBLASLT_MATMUL_DESC_TRANSA, of_w) && set(c, CUBLASLT_MATMUL_DESC_TRANSB, of_x) && set_scales(c, p) &&
           lay(&c->a, in, p.w_turned ? p.cols : p.depth, p.w_turned ? p.depth : p.cols, p.w_stride) &&
           lay(&c->b, in, p.rows, p.depth, p.x_stride) &&
           lay(&c->d, out, p.rows, p.cols, p.y_stride);
}

// ---- The table of algorithms -------------------------------------------------------------------------------------------------

// FNV-1a over the key's bytes.
static size_t hash(const tdm_blas_key *k)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *k; i++) h = (h ^ ((const uint8_t *)k)[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 32);
}

static bool ask(const tdm_stream *s, const tdm_blas_product &p, cublasLtMatmulAlgo_t *algo)
{
    call c;
    cublasLtMatmulPreferenceOpaque_t want;
    cublasLtMatmulHeuristicResult_t pick;
    const uint64_t bytes = s->blas->library_bytes;
    const uint32_t align = 16; // all that is known of the pointers; the library assumes 256 where it is not told
    const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    int picks = 0;
    bool ok = describe(&c, p) && cublasLtMatmulPreferenceInit(&want) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes) ==
                  CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; ok && i < TDM_COUNT(aligned); i++)
        ok = cublasLtMatmulPreferenceSetAttribute(&want, aligned[i], &align, sizeof align) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         cublasLtMatmulAlgoGetHeuristic(s->lt, &c.desc, &c.a, &c.b, &c.d, &c.d, &want, 1, &pick, &picks) == CUBLAS_STATUS_SUCCESS &&
         picks == 1 && pick.state == CUBLAS_STATUS_SUCCESS;
    if (ok) *algo = pick.algo;
    return ok;
}

// The library may load a kernel at its first use, which a capture in progress forbids unless this thread relaxes it.
struct relaxed {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    relaxed() { (void)cudaThreadExchangeStreamCaptureMode(&mode); }
    ~relaxed() { (void)cudaThreadExchangeStreamCaptureMode(&mode); }
};

static const tdm_blas_entry *find(tdm_stream *s, const tdm_blas_product &p)
{
    tdm_blas_key k;
    memset(&k, 0, sizeof k);
    k.rows = p.rows, k.cols = p.cols, k.depth = p.depth;
    k.x_stride = p.x_stride, k.w_stride = p.w_stride, k.y_stride = p.y_stride;
    k.kind = p.kind;
    k.w_turned = p.w_turned, k.y_f32 = p.y_f32, k.accumulate = p.beta != 0.0f;
    tdm_blas_entry *e = &s->blas->entries[hash(&k) % TDM_BLAS_ENTRIES];
    if (memcmp(&e->key, &k, sizeof k) == 0) return e;
    const relaxed while_asking;
    e->key = k;
    e->found = ask(s, p, &e->algo);
    return e;
}

static bool aligned(const void *data, int64_t stride, int64_t bytes) { return (uintptr_t)data % 16 == 0 && stride * bytes % 16 == 0; }

bool tdm_blas_ready(tdm_stream *s, const tdm_blas_product &p)
{
    const int64_t in = p.kind == TDM_BLAS_BF16 ? 2 : 1;
    if (!s->blas || !s->blas->kinds[p.kind] || p.rows <= 0 || p.cols <= 0 || p.depth <= 0) return false;
    if (!aligned(p.x, p.x_stride, in) || !aligned(p.w, p.w_stride, in) || !aligned(p.y, p.y_stride, p.y_f32 ? 4 : 2)) return false;
    if (p.kind != TDM_BLAS_BF16 && (p.cols % 16 != 0 || p.depth % 16 != 0)) return false;
    return find(s, p)->found;
}

tdm_status tdm_blas_run(tdm_stream *s, const tdm_blas_product &p, tdm_error *err)
{
    const tdm_blas_entry *e = find(s, p); // another key may have taken the place since; then it is asked again
    call c;
    if (!e->found || !describe(&c, p)) return TDM_FAIL(err, TDM_ERR_OTHER, "device", "", "cuBLASLt cannot describe a product any more");
    const relaxed while_launching;
    const cublasStatus_t code = cublasLtMatmul(s->lt, &c.desc, &p.alpha, p.w, &c.a, p.x, &c.b, &p.beta, p.y, &c.d, p.y, &c.d, &e->algo,
                                               s->workspace, s->blas->library_bytes, s->cuda);
    if (code == CUBLAS_STATUS_SUCCESS) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_OTHER, "device", "set TANDEM_CUDA_CUBLAS=0", "cublasLtMatmul [%lld, %lld, %lld] kind %d: %s",
                    (long long)p.rows, (long long)p.cols, (long long)p.depth, (int)p.kind, cublasLtGetStatusName(code));
}
