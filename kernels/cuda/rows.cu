// embed, gather_rows, scatter_rows, zero, convert: rows from one place to another.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/math.cuh"

enum { THREADS = 256, COLS = 4 * THREADS, TILES_MOST = 65535 };

// One block a row and COLS columns, or a stride of them where a row is longer than the grid.
static dim3 tiles(int64_t rows, int64_t cols)
{
    return dim3((unsigned)rows, (unsigned)tdm_min_i64(TILES_MOST, tdm_ceil_div(cols, COLS)));
}
#define EACH_COL(c, cols)                                                                                                            \
    for (int64_t tile_ = blockIdx.y; tile_ * COLS < (cols); tile_ += gridDim.y)                                                      \
        for (int64_t c = tile_ * COLS + threadIdx.x, end_ = min((int64_t)(cols), (tile_ + 1) * COLS); c < end_; c += THREADS)

// ---- embed -----------------------------------------------------------------------------------------------------------------------

static __device__ float scale_at(const tdm_weight &w, int64_t row, int64_t c)
{
    const float *scale = (const float *)w.scale.data;
    switch (w.scheme) {
    case TDM_SCHEME_FP8_TENSOR: return scale[0];
    case TDM_SCHEME_FP8_CHANNEL: return scale[row * w.scale.stride];
    case TDM_SCHEME_FP8_BLOCK: return scale[row / TDM_FP8_BLOCK * w.scale.stride + c / TDM_FP8_BLOCK];
    case TDM_SCHEME_BF16: break;
    }
    return 1.0f;
}

static __global__ void __launch_bounds__(THREADS) embed_tiles(tdm_view y, tdm_weight table, const int32_t *id, float scale)
{
    const int64_t t = blockIdx.x, row = tdm_checked(id[t], table.codes.rows);
    float *out = (float *)y.data + t * y.stride;
    EACH_COL(c, y.cols)
    {
        if (table.scheme == TDM_SCHEME_BF16) out[c] = __fmul_rn(tdm_bf16(((const uint16_t *)table.codes.data)[row * table.codes.stride + c]), scale);
        else
            out[c] = __fmul_rn(__fmul_rn(tdm_e4m3(((const uint8_t *)table.codes.data)[row * table.codes.stride + c]), scale_at(table, row, c)), scale);
    }
}

// Eight columns a thread: a table in host memory comes over the bus in whole lines. Grid as above, over units of 8.
static __global__ void __launch_bounds__(THREADS) embed_wide(tdm_view y, tdm_cview table, const int32_t *id, float scale)
{
    const int64_t t = blockIdx.x, row = tdm_checked(id[t], table.rows);
    const uint4 *in = (const uint4 *)((const uint16_t *)table.data + row * table.stride);
    float4 *out = (float4 *)((float *)y.data + t * y.stride);
    EACH_COL(c, y.cols / 8)
    {
        const uint4 v = __ldg(in + c);
        const auto low = [scale](uint32_t u) { return __fmul_rn(tdm_bf16(u & 0xffff), scale); };
        const auto high = [scale](uint32_t u) { return __fmul_rn(tdm_bf16(u >> 16), scale); };
        out[2 * c] = make_float4(low(v.x), high(v.x), low(v.y), high(v.y));
        out[2 * c + 1] = make_float4(low(v.z), high(v.z), low(v.w), high(v.w));
    }
}

static bool embeds_wide(tdm_view y, const tdm_weight *table)
{
    const tdm_cview *c = &table->codes;
    return table->scheme == TDM_SCHEME_BF16 && ((uintptr_t)c->data | (uintptr_t)y.data) % 16 == 0 && (c->stride | y.cols) % 8 == 0 && y.stride % 4 == 0;
}

tdm_status tdm_cuda_embed(tdm_stream *s, tdm_view y, const tdm_weight *table, const int32_t *id, float scale, tdm_error *err)
{
    TDM_ASSERT(y.dtype == TDM_DTYPE_F32 && y.cols == table->codes.cols);
    TDM_ASSERT(table->codes.dtype == (table->scheme == TDM_SCHEME_BF16 ? TDM_DTYPE_BF16 : TDM_DTYPE_E4M3));
    if (y.rows == 0 || y.cols == 0) return TDM_OK;
    if (embeds_wide(y, table)) embed_wide<<<tiles(y.rows, y.cols / 8), THREADS, 0, s->cuda>>>(y, table->codes, id, scale);
    else embed_tiles<<<tiles(y.rows, y.cols), THREADS, 0, s->cuda>>>(y, *table, id, scale);
    return tdm_cuda_launched(err, "embed", y.rows, y.cols);
}

// ---- Copies ----------------------------------------------------------------------------------------------------------------------

// Rows of `units` units: y[to[t]] = x[from[t]], NULL: t itself. Strides in units.
template <typename unit>
static __global__ void __launch_bounds__(THREADS) copy_tiles(unit *__restrict__ y, int64_t y_rows, int64_t y_stride, const unit *__restrict__ x,
                                                             int64_t x_rows, int64_t x_stride, int64_t units, const int32_t *to, const int32_t *from)
{
    const int64_t t = blockIdx.x, dst = to ? tdm_checked(to[t], y_rows) : t, src = from ? tdm_checked(from[t], x_rows) : t;
    y += dst * y_stride;
    x += src * x_stride;
    EACH_COL(c, units) y[c] = x[c];
}

template <typename unit>
static void copy_launch(tdm_stream *s, tdm_view y, tdm_cview x, int64_t rows, int64_t size, const int32_t *to, const int32_t *from)
{
    const int64_t n = (int64_t)sizeof(unit), units = x.cols * size / n;
    copy_tiles<unit><<<tiles(rows, units), THREADS, 0, s->cuda>>>((unit *)y.data, y.rows, y.stride * size / n, (const unit *)x.data, x.rows,
                                                                x.stride * size / n, units, to, from);
}

// In the widest units that everything is a multiple of.
static tdm_status copy_rows(tdm_stream *s, const char *op, tdm_view y, tdm_cview x, int64_t rows, const int32_t *to, const int32_t *from, tdm_error *err)
{
    if (rows == 0 || x.cols == 0) return TDM_OK;
    const int64_t size = (int64_t)tdm_dtype_bytes(x.dtype);
    const uint64_t all = (uint64_t)(uintptr_t)y.data | (uint64_t)(uintptr_t)x.data | (uint64_t)(x.cols * size) | (uint64_t)(x.stride * size) |
                         (uint64_t)(y.stride * size);
    if (all % 16 == 0) copy_launch<uint4>(s, y, x, rows, size, to, from);
    else if (all % 4 == 0) copy_launch<uint32_t>(s, y, x, rows, size, to, from);
    else if (all % 2 == 0) copy_launch<uint16_t>(s, y, x, rows, size, to, from);
    else copy_launch<uint8_t>(s, y, x, rows, size, to, from);
    return tdm_cuda_launched(err, op, rows, x.cols);
}

tdm_status tdm_cuda_gather_rows(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err)
{
    TDM_ASSERT(y.dtype == x.dtype && y.cols == x.cols);
    return copy_rows(s, "gather_rows", y, x, y.rows, NULL, row, err);
}

tdm_status tdm_cuda_scatter_rows(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err)
{
    TDM_ASSERT(y.dtype == x.dtype && y.cols == x.cols);
    return copy_rows(s, "scatter_rows", y, x, x.rows, row, NULL, err);
}

tdm_status tdm_cuda_zero(tdm_stream *s, tdm_view y, tdm_error *err)
{
    const size_t size = tdm_dtype_bytes(y.dtype), width = (size_t)y.cols * size;
    if (y.rows == 0 || y.cols == 0) return TDM_OK;
    if (y.rows == 1 || y.stride == y.cols) return TDM_CUDA(cudaMemsetAsync(y.data, 0, (size_t)y.rows * width, s->cuda));
    return TDM_CUDA(cudaMemset2DAsync(y.data, (size_t)y.stride * size, 0, width, (size_t)y.rows, s->cuda));
}

// ---- convert ---------------------------------------------------------------------------------------------------------------------

static __global__ void __launch_bounds__(THREADS) narrow_tiles(tdm_view y, tdm_cview x)
{
    const int64_t t = blockIdx.x;
    EACH_COL(c, x.cols) ((uint16_t *)y.data)[t * y.stride + c] = tdm_to_bf16(((const float *)x.data)[t * x.stride + c]);
}

static __global__ void __launch_bounds__(THREADS) widen_tiles(tdm_view y, tdm_cview x)
{
    const int64_t t = blockIdx.x;
    EACH_COL(c, x.cols) ((float *)y.data)[t * y.stride + c] = tdm_bf16(((const uint16_t *)x.data)[t * x.stride + c]);
}

static bool is_float(tdm_dtype t) { return t == TDM_DTYPE_F32 || t == TDM_DTYPE_BF16; }

tdm_status tdm_cuda_convert(tdm_stream *s, tdm_view y, tdm_cview x, tdm_error *err)
{
    TDM_ASSERT(y.rows == x.rows && y.cols == x.cols);
    TDM_ASSERT(x.dtype == y.dtype || (is_float(x.dtype) && is_float(y.dtype)));
    if (x.dtype == y.dtype) return copy_rows(s, "convert", y, x, x.rows, NULL, NULL, err);
    if (x.rows == 0 || x.cols == 0) return TDM_OK;
    if (x.dtype == TDM_DTYPE_F32) narrow_tiles<<<tiles(x.rows, x.cols), THREADS, 0, s->cuda>>>(y, x);
    else widen_tiles<<<tiles(x.rows, x.cols), THREADS, 0, s->cuda>>>(y, x);
    return tdm_cuda_launched(err, "convert", x.rows, x.cols);
}
