// Streams, recorded graphs, and what turns the driver's codes into errors.
#include <stdlib.h>

#include "kernels/cuda/gemm_thin.cuh"

struct tdm_graph {
    cudaGraphExec_t exec;
};

tdm_status tdm_cuda_check(cudaError_t code, tdm_error *err, const char *what)
{
    if (code == cudaSuccess) return TDM_OK;
    const tdm_status st = code == cudaErrorMemoryAllocation ? TDM_ERR_BUDGET : TDM_ERR_OTHER;
    return TDM_FAIL(err, st, "device", "", "%s: %s (%s)", what, cudaGetErrorString(code), cudaGetErrorName(code));
}

tdm_status tdm_cuda_launched(tdm_error *err, const char *op, long long rows, long long cols)
{
    const cudaError_t code = cudaGetLastError();
    if (code == cudaSuccess) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_OTHER, "device", "", "%s [%lld, %lld]: %s (%s)", op, rows, cols, cudaGetErrorString(code), cudaGetErrorName(code));
}

// The path is the backend's to set; see stream_open in backend.cu.
tdm_status tdm_cuda_stream_open(tdm_stream **s, void *workspace, size_t workspace_bytes, const tdm_stream_options *o, tdm_error *err)
{
    int device = 0;
    tdm_status st;
    // The caller promises 64 bytes; kernels want 256, and workspace_bytes leaves room for the difference.
    char *aligned = (char *)(((uintptr_t)workspace + 255) / 256 * 256);
    const size_t lost = (size_t)(aligned - (char *)workspace);
    tdm_stream *made = (tdm_stream *)calloc(1, sizeof *made);
    *s = NULL;
    if (!made) return TDM_FAIL(err, TDM_ERR_OTHER, "", "", "out of host memory for a stream");
    made->workspace = aligned;
    made->workspace_bytes = workspace_bytes > lost ? workspace_bytes - lost : 0;
    made->exact = o->exact;
    TDM_TRY(st, TDM_CUDA(cudaGetDevice(&device)), fail);
    TDM_TRY(st, TDM_CUDA(cudaDeviceGetAttribute(&made->sms, cudaDevAttrMultiProcessorCount, device)), fail);
    TDM_TRY(st, TDM_CUDA(cudaStreamCreateWithFlags(&made->cuda, cudaStreamNonBlocking)), fail);
    TDM_TRY(st, tdm_thin_open(made, err), fail);
    if (cublasLtCreate(&made->lt) != CUBLAS_STATUS_SUCCESS) {
        made->lt = NULL;
        st = TDM_FAIL(err, TDM_ERR_OTHER, "device", "", "cublasLtCreate failed");
        goto fail;
    }
    *s = made;
    return TDM_OK;
fail:
    tdm_cuda_stream_close(made);
    return st;
}

void tdm_cuda_stream_close(tdm_stream *s)
{
    if (!s) return;
    free(s->blas);
    if (s->side) (void)cudaStreamDestroy(s->side);
    if (s->given) (void)cudaEventDestroy(s->given);
    for (int i = 0; i < TDM_SIDE_SLOTS; i++)
        if (s->copied[i]) (void)cudaEventDestroy(s->copied[i]);
    tdm_thin_close(s);
    if (s->lt) (void)cublasLtDestroy(s->lt);
    if (s->cuda) (void)cudaStreamDestroy(s->cuda);
    free(s);
}

// Also where a fault of an earlier operation comes out.
tdm_status tdm_cuda_stream_sync(tdm_stream *s, tdm_error *err)
{
    return tdm_cuda_check(cudaStreamSynchronize(s->cuda), err, "the device failed in an operation");
}

static tdm_status side_open(tdm_stream *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (s->side) return TDM_OK;
    TDM_TRY(st, TDM_CUDA(cudaEventCreateWithFlags(&s->given, cudaEventDisableTiming)), done);
    for (int i = 0; i < TDM_SIDE_SLOTS; i++) TDM_TRY(st, TDM_CUDA(cudaEventCreateWithFlags(&s->copied[i], cudaEventDisableTiming)), done);
    TDM_TRY(st, TDM_CUDA(cudaStreamCreateWithFlags(&s->side, cudaStreamNonBlocking)), done);
done:
    return st;
}

static tdm_status side_copy(tdm_stream *s, int slot, void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(slot >= 0 && slot < TDM_SIDE_SLOTS);
    TDM_TRY(st, side_open(s, err), done);
    TDM_TRY(st, TDM_CUDA(cudaEventRecord(s->given, s->cuda)), done);
    TDM_TRY(st, TDM_CUDA(cudaStreamWaitEvent(s->side, s->given, 0)), done);
    if (bytes > 0) TDM_TRY(st, TDM_CUDA(cudaMemcpyAsync(dst, src, bytes, kind, s->side)), done);
    TDM_TRY(st, TDM_CUDA(cudaEventRecord(s->copied[slot], s->side)), done);
done:
    return st;
}

tdm_status tdm_cuda_side_out(tdm_stream *s, int slot, void *host, const void *src, size_t bytes, tdm_error *err)
{
    return side_copy(s, slot, host, src, bytes, cudaMemcpyDeviceToHost, err);
}

tdm_status tdm_cuda_side_in(tdm_stream *s, int slot, void *dst, const void *host, size_t bytes, tdm_error *err)
{
    return side_copy(s, slot, dst, host, bytes, cudaMemcpyHostToDevice, err);
}

tdm_status tdm_cuda_side_join(tdm_stream *s, int slot, tdm_error *err)
{
    TDM_ASSERT(slot >= 0 && slot < TDM_SIDE_SLOTS && s->side);
    return TDM_CUDA(cudaStreamWaitEvent(s->cuda, s->copied[slot], 0));
}

tdm_status tdm_cuda_capture_begin(tdm_stream *s, tdm_error *err)
{
    return TDM_CUDA(cudaStreamBeginCapture(s->cuda, cudaStreamCaptureModeThreadLocal));
}

tdm_status tdm_cuda_capture_end(tdm_stream *s, tdm_graph **g, tdm_error *err)
{
    cudaGraph_t graph = NULL;
    tdm_graph *made = NULL;
    *g = NULL;
    tdm_status st = TDM_CUDA(cudaStreamEndCapture(s->cuda, &graph));
    if (st != TDM_OK) {
        (void)cudaGetLastError();
        goto done;
    }
    made = (tdm_graph *)calloc(1, sizeof *made);
    if (!made) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, "", "", "out of host memory for a graph");
        goto done;
    }
    TDM_TRY(st, TDM_CUDA(cudaGraphInstantiate(&made->exec, graph, 0)), done);
    *g = made;
    made = NULL;
done:
    free(made);
    if (graph) (void)cudaGraphDestroy(graph);
    return st;
}

tdm_status tdm_cuda_graph_launch(tdm_stream *s, tdm_graph *g, tdm_error *err) { return TDM_CUDA(cudaGraphLaunch(g->exec, s->cuda)); }

void tdm_cuda_graph_close(tdm_graph *g)
{
    if (!g) return;
    (void)cudaGraphExecDestroy(g->exec);
    free(g);
}
