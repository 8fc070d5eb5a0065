/* JSONL as `generate --input` reads it, with a small tokenizer and a chat template: an error that names the line, or prompts of ids that
 * the model has. */
#include "fuzz_files.h"
#include "runtime/cmd/prompts.h"
#include "runtime/text/tokenizer_impl.h"

static const char tokenizer[] =
    "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[{\"content\":\"<s>\",\"special\":true}],"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"ab\":3,\"\\u0120\":4,\"\\u0120a\":5,\"abab\":6},"
    "\"merges\":[\"a b\",\"\\u0120 a\",\"ab ab\"]}}";
static const char template[] = "{% for m in messages %}<s>{{ m.role }}: {{ m['content'] }}{% for t in m.tool_calls or [] %}{{ t | tojson }}{% endfor %}\n"
                               "{% endfor %}{% if add_generation_prompt %}<s>a{% endif %}";
static const tdm_model_config config = {.vocab = 8};

/* The same for every input; what it remembers about words changes no result. */
static const tdm_language *language(void)
{
    static tdm_language l;
    tdm_error err = {0};
    if (l.tokenizer) return &l;
    if (tdm_tokenizer_new(&l.tokenizer, "fuzz", &err) != TDM_OK || tdm_tokenizer_load_json(l.tokenizer, tokenizer, sizeof tokenizer - 1, &err) != TDM_OK ||
        tdm_chat_open(&l.chat, template, "fuzz", &err) != TDM_OK || tdm_tokenizer_vocab(l.tokenizer) != config.vocab)
        abort();
    return &l;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    const int fd = fuzz_file((fuzz_piece){(const char *)data, size}, path);
    tdm_error err = {0};
    tdm_prompts p = {0};
    int64_t longest = 0;
    if (tdm_prompts_read(&p, language(), path, &config, &err) == TDM_OK) {
        for (int64_t i = 0; i < p.count; i++) {
            if (p.ids[i].count < 1) abort();
            for (int64_t k = 0; k < p.ids[i].count; k++)
                if (p.ids[i].data[k] < 0 || p.ids[i].data[k] >= config.vocab) abort();
            longest = tdm_max_i64(longest, p.ids[i].count);
        }
        if (longest != p.longest) abort();
    } else if (err.what[0] == 0 || err.where[0] == 0) abort();
    tdm_prompts_free(&p);
    close(fd);
    return 0;
}
