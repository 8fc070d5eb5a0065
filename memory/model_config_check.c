#include "memory/model_config_check.h"

#include <inttypes.h>

tdm_status tdm_model_config_check(const tdm_model_config *c, const char *where, tdm_error *err)
{
    const char *hint = "is the file damaged?";
    if (c->heads % c->kv_heads != 0)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, hint,
                        "%" PRId64 " attention heads are not a multiple of %" PRId64 " key-value heads", c->heads,
                        c->kv_heads);
    if (c->head_dim < 2 || c->head_dim % 2 != 0 || c->head_dim > TDM_HEAD_DIM_MAX)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, hint,
                        "a head width of %" PRId64 ", an even one up to %d is supported", c->head_dim,
                        TDM_HEAD_DIM_MAX);
    return TDM_OK;
}

tdm_status tdm_model_config_add_eos(tdm_model_config *c, int64_t id, const char *where, tdm_error *err)
{
    if (id < 0 || id >= c->vocab) return TDM_OK;
    for (int i = 0; i < c->eos_count; i++)
        if (c->eos[i] == (int32_t)id) return TDM_OK;
    if (c->eos_count == (int)TDM_COUNT(c->eos))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "shorten the list", "more than %zu end tokens (eos_token_id)",
                        TDM_COUNT(c->eos));
    c->eos[c->eos_count++] = (int32_t)id;
    return TDM_OK;
}
