#include "memory/mirror.h"

tdm_status tdm_mirror_open(tdm_mirror *m, const tdm_backend *be, void *device, size_t bytes, tdm_error *err)
{
    *m = (tdm_mirror){.be = be, .device = device, .bytes = bytes};
    if (!be->device) {
        m->host = device;
        return TDM_OK;
    }
    void *host = NULL;
    const tdm_status st = be->host_open(&host, bytes, err);
    m->host = host;
    return st;
}

void tdm_mirror_close(tdm_mirror *m)
{
    if (m->host && m->be->device) m->be->host_close(m->host, m->bytes);
    *m = (tdm_mirror){0};
}

tdm_status tdm_mirror_push(const tdm_mirror *m, tdm_stream *s, const void *host, size_t bytes, tdm_error *err)
{
    return m->be->upload(s, tdm_mirror_twin(m, host), host, bytes, err);
}

tdm_status tdm_mirror_pull(const tdm_mirror *m, tdm_stream *s, void *host, size_t bytes, tdm_error *err)
{
    return m->be->download(s, host, tdm_mirror_twin(m, host), bytes, err);
}
