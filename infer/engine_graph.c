/* Decoding from recorded graphs: on a device the launches of a step cost more than its arithmetic when the batch is small, so the
 * step is recorded once for each bucket of batch sizes and launched from then on. Only what the mirror holds changes in between.
 * A batch smaller than its bucket is padded with sequences of one token in a page of their own; a row's bits do not depend on them. */
#include "infer/engine_internal.h"

/* Buckets grow with the batch, so that padding costs at most a quarter of small batches and an eighth of large ones. */
static int64_t bucket_of(int64_t sequences)
{
    if (sequences <= 4) return sequences;
    const int64_t step = sequences <= 16 ? 4 : sequences <= 64 ? 8 : sequences <= 256 ? 32 : 64;
    return tdm_ceil_div(sequences, step) * step;
}

bool tdm_engine_records(const tdm_backend *be) { return be->capture_begin != NULL; }

/* A pure decode of plain rows: what a recorded step can do. */
static bool recordable(const tdm_engine *e)
{
    if (!tdm_engine_records(e->m->be) || e->careful || e->running == 0 || e->ready_count != e->running) return false;
    return e->batch.tokens == e->running;
}

static void pad(tdm_engine *e, int64_t bucket)
{
    for (int64_t b = e->running; b < bucket; b++) {
        e->ids[b] = 0;
        e->position[b] = 0;
        e->q_start[b + 1] = (int32_t)(b + 1);
        e->kv_len[b] = 1;
        e->pages[b * e->pages_per_sequence] = e->pad_page;
        e->head_row[b] = (int32_t)b;
        e->sampling[b] = (tdm_sampling){.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
        e->draw[b] = (tdm_draw){0};
    }
    e->batch.tokens = e->batch.sequences = bucket;
    e->batch.kv_most = e->spec.context; /* the same launch for every step */
}

static tdm_status compute(tdm_engine *e, const tdm_adapter *adapter, int64_t rows, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_engine_forward(e, adapter, err), done);
    TDM_TRY(st, tdm_engine_sample(e, rows, err), done);
done:
    return st;
}

/* The recording for this bucket, or a free place for one, or NULL: all places are taken. */
static tdm_recorded *find(tdm_engine *e, const tdm_adapter *adapter, int64_t bucket)
{
    for (int i = 0; i < TDM_RECORDED_MOST; i++) {
        tdm_recorded *r = &e->recorded[i];
        if (r->bucket == 0) *r = (tdm_recorded){.bucket = bucket, .adapter = adapter};
        if (r->bucket == bucket && r->adapter == adapter) return r;
    }
    return NULL;
}

tdm_status tdm_engine_compute(tdm_engine *e, const tdm_adapter *adapter, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = e->m;
    const int64_t bucket = tdm_min_i64(bucket_of(e->running), e->spec.sequences);
    tdm_recorded *r = recordable(e) ? find(e, adapter, bucket) : NULL;
    if (!r) {
        TDM_TRY(st, tdm_engine_push(e, err), done);
        TDM_TRY(st, compute(e, adapter, e->ready_count, err), done);
        goto done;
    }
    pad(e, bucket);
    TDM_TRY(st, tdm_engine_push(e, err), done);
    if (!r->warm) { /* once by itself: libraries load and choose before anything is recorded */
        TDM_TRY(st, compute(e, adapter, bucket, err), done);
        r->warm = true;
        goto done;
    }
    if (!r->graph) {
        TDM_TRY(st, m->be->capture_begin(m->s, err), done);
        const tdm_status computed = compute(e, adapter, bucket, err);
        st = m->be->capture_end(m->s, &r->graph, computed == TDM_OK ? err : NULL); /* always: the stream would stay in capture */
        if (computed != TDM_OK) st = computed;
        if (st != TDM_OK) goto done;
    }
    TDM_TRY(st, m->be->graph_launch(m->s, r->graph, err), done);
    e->stats.forwards++;
done:
    return st;
}

void tdm_engine_forget_recorded(tdm_engine *e)
{
    for (int i = 0; i < TDM_RECORDED_MOST; i++)
        if (e->recorded[i].graph) e->m->be->graph_close(e->recorded[i].graph);
}
