#include "memory/json_read.h"
#include "memory/fs.h"

#include <inttypes.h>
#include <stdlib.h>

enum { JSON_MAX_BYTES = 100000000 }; /* an index of a very large model has some ten million */

tdm_status tdm_json_parse(json_t **out, const char *text, size_t bytes, const char *where, tdm_error *err)
{
    json_error_t bad;
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &bad);
    if (!*out)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "repair the file", "%s at line %d, column %d", bad.text, bad.line,
                        bad.column);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "repair the file", "not a JSON object");
    }
    return TDM_OK;
}

tdm_status tdm_json_open(json_t **out, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *text = NULL; /* owned here */
    size_t bytes = 0;

    *out = NULL;
    TDM_TRY(st, tdm_fs_read(path, JSON_MAX_BYTES, &text, &bytes, err), done);
    TDM_TRY(st, tdm_json_parse(out, text, bytes, path, err), done);
done:
    free(text);
    return st;
}

const json_t *tdm_json_get(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

#define BAD(f, ...)                                                                                                    \
    TDM_FAIL((f)->err, TDM_ERR_INPUT, (f)->where, "is the file complete, and of a model of this kind?", __VA_ARGS__)

tdm_status tdm_json_int(const tdm_json_fields *f, const char *key, bool required, int64_t min, int64_t max,
                        int64_t *out)
{
    const json_t *v = tdm_json_get(f->object, key);
    int64_t n;
    if (!v) return required ? BAD(f, "%s is missing", key) : TDM_OK;
    if (json_is_integer(v))
        n = json_integer_value(v);
    else if (json_is_real(v) && json_real_value(v) >= -0x1p53 && json_real_value(v) <= 0x1p53)
        n = (int64_t)json_real_value(v);
    else
        return BAD(f, "%s is not an integer", key);
    if (json_is_real(v) && (double)n != json_real_value(v)) return BAD(f, "%s is not an integer", key);
    if (n < min || n > max) return BAD(f, "%s is %" PRId64 ", expected %" PRId64 " to %" PRId64, key, n, min, max);
    *out = n;
    return TDM_OK;
}

tdm_status tdm_json_real(const tdm_json_fields *f, const char *key, bool required, double min, double max, double *out)
{
    const json_t *v = tdm_json_get(f->object, key);
    if (!v) return required ? BAD(f, "%s is missing", key) : TDM_OK;
    if (!json_is_number(v)) return BAD(f, "%s is not a number", key);
    const double x = json_number_value(v);
    if (!(x >= min && x <= max)) return BAD(f, "%s is %g, expected %g to %g", key, x, min, max);
    *out = x;
    return TDM_OK;
}

tdm_status tdm_json_bool(const tdm_json_fields *f, const char *key, bool *out)
{
    const json_t *v = tdm_json_get(f->object, key);
    if (!v) return TDM_OK;
    if (!json_is_boolean(v)) return BAD(f, "%s is not true or false", key);
    *out = json_is_true(v);
    return TDM_OK;
}

tdm_status tdm_json_str(const tdm_json_fields *f, const char *key, const char **out)
{
    const json_t *v = tdm_json_get(f->object, key);
    if (!v) return TDM_OK;
    if (!json_is_string(v)) return BAD(f, "%s is not text", key);
    *out = json_string_value(v);
    return TDM_OK;
}
