/* tandem tokenize: text or messages to ids, ids to text. Needs the tokenizer's files only, no weights. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "memory/gguf.h"
#include "runtime/cmd/args.h"
#include "runtime/cmd/commands.h"
#include "runtime/run/language.h"

typedef struct work {
    tdm_language language;
    bool decode, skip_special;
    tdm_ids ids;   /* of one line */
    tdm_text text;
} work;

static tdm_status out_of_memory(const char *where, tdm_error *err)
{
    return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for the line");
}

/* "text": the bytes as one JSON string. */
static tdm_status print_text(const tdm_text *text, const char *where, tdm_error *err)
{
    json_t *s = json_stringn(text->data ? text->data : "", text->len);
    if (!s) return out_of_memory(where, err);
    fputs("\"text\":", stdout);
    const int rc = json_dumpf(s, stdout, JSON_ENCODE_ANY);
    json_decref(s);
    fputs("}\n", stdout);
    return rc == 0 ? TDM_OK : TDM_FAIL(err, TDM_ERR_OTHER, "stdout", "is the reader gone?", "cannot write the output");
}

static tdm_status encode_line(work *w, const json_t *line, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_tokenizer *t = w->language.tokenizer;
    if (json_is_string(line)) {
        TDM_TRY(st, tdm_text_append(&w->text, json_string_value(line), json_string_length(line), err), done);
        TDM_TRY(st, tdm_tokenizer_encode(t, w->text.data, w->text.len, true, &w->ids, err), done);
    } else if (json_is_array(json_object_get(line, "messages"))) {
        TDM_TRY(st, tdm_language_chat_ids(&w->language, line, &w->text, &w->ids, err), done);
    } else {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "write \"text\" or {\"messages\":[{\"role\":\"user\",\"content\":\"text\"}]}",
                      "neither a JSON string nor an object with \"messages\"");
        goto done;
    }
    fputs("{\"ids\":[", stdout);
    for (int64_t i = 0; i < w->ids.count; i++) printf("%s%" PRId32, i ? "," : "", w->ids.data[i]);
    fputs("],", stdout);
    st = print_text(&w->text, where, err);
done:
    return st;
}

static tdm_status decode_line(work *w, const json_t *line, const char *where, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const json_t *list = json_object_get(line, "ids");
    if (!json_is_array(list)) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "write {\"ids\":[1,2,3]}", "no list \"ids\"");
        goto done;
    }
    const int32_t vocab = tdm_tokenizer_vocab(w->language.tokenizer);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        const json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= vocab) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, where, "ids are whole numbers below the vocabulary's size",
                          "ids[%zu] is none of this tokenizer's %" PRId32 " ids", i, vocab);
            goto done;
        }
        TDM_TRY(st, tdm_ids_push(&w->ids, (int32_t)id, err), done);
    }
    TDM_TRY(st, tdm_tokenizer_decode(w->language.tokenizer, w->ids.data, w->ids.count, w->skip_special, &w->text, err), done);
    fputc('{', stdout);
    st = print_text(&w->text, where, err);
done:
    return st;
}

/* An error below knows the tokenizer or the template; here it also learns the line. */
static tdm_status name_line(tdm_status st, tdm_error *err, const char *where)
{
    char old[sizeof err->where];
    if (st == TDM_OK || st == TDM_ERR_OTHER || !err || strncmp(err->where, "stdin:", 6) == 0) return st;
    snprintf(old, sizeof old, "%s", err->where);
    snprintf(err->where, sizeof err->where, "%s%s%.400s", where, old[0] ? ", " : "", old);
    return st;
}

static tdm_status one_line(work *w, const char *text, size_t len, int64_t number, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[64];
    json_error_t at;
    snprintf(where, sizeof where, "stdin:%" PRId64, number);
    json_t *line = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &at);
    w->ids.count = 0;
    w->text.len = 0;
    if (!line) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "one JSON value a line", "not JSON: %s", at.text);
        goto done;
    }
    st = name_line(w->decode ? decode_line(w, line, where, err) : encode_line(w, line, where, err), err, where);
done:
    json_decref(line);
    return st;
}

static bool blank(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!strchr(" \t\r\n", s[i])) return false;
    return true;
}

static tdm_status all_lines(work *w, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    for (int64_t number = 1; (len = getline(&line, &room, stdin)) >= 0; number++)
        if (!blank(line, (size_t)len)) TDM_TRY(st, one_line(w, line, (size_t)len, number, err), done);
    if (ferror(stdin)) st = TDM_FAIL(err, TDM_ERR_INPUT, "stdin", NULL, "cannot read the input");
    else if (fflush(stdout) != 0 || ferror(stdout)) st = TDM_FAIL(err, TDM_ERR_OTHER, "stdout", "is the reader gone?", "cannot write the output");
done:
    free(line);
    return st;
}

static tdm_status open_language(tdm_language *l, const char *model, tdm_error *err)
{
    tdm_status st = TDM_OK;
    snprintf(l->path, sizeof l->path, "%s", model);
    TDM_TRY(st, tdm_tokenizer_open(&l->tokenizer, model, NULL, err), done);
    const char *template = tdm_tokenizer_chat_template(l->tokenizer);
    if (template) st = tdm_chat_open(&l->chat, template, l->path, err);
done:
    return st;
}

tdm_status tdm_cmd_tokenize(int argc, char **argv, tdm_error *err)
{
    const char *model = NULL;
    work w = {0};
    bool help = false;
    const tdm_option options[] = {
        {"--model", TDM_OPTION_TEXT, &model, 0, 0, "M", "model folder or .gguf file", NULL},
        {"--decode", TDM_OPTION_FLAG, &w.decode, 0, 0, NULL, "stdin holds {\"ids\":[...]}; print {\"text\":\"...\"}", NULL},
        {"--skip-special", TDM_OPTION_FLAG, &w.skip_special, 0, 0, NULL, "leave special tokens out of decoded text", NULL},
    };
    const tdm_command command = {
        .name = "tandem tokenize",
        .summary = "Text or chat messages to token ids, and ids to text; JSON lines from stdin to stdout.",
        .example = "echo '{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"add_generation_prompt\":true}' | tandem tokenize --model models/Qwen3-0.6B",
        .options = options, .count = (int)TDM_COUNT(options)};
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, NULL, &help, err), done);
    if (help) return TDM_OK;
    if (!model) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --model FOLDER or FILE.gguf", "no model was named");
        goto done;
    }
    TDM_TRY(st, open_language(&w.language, model, err), done);
    st = all_lines(&w, err);
done:
    tdm_language_close(&w.language);
    tdm_ids_free(&w.ids);
    tdm_text_free(&w.text);
    return st;
}
