/* What a tokenizer is made of. Private to runtime/text/tokenizer*.c, bpe.c, normalize.c, pretokenize.c, decode.c, added.c.
 *
 * text -> [added tokens that are not normalized] -> normalizers -> [normalized added tokens] -> pre-tokenizers -> BPE -> template
 *
 * A word reaches BPE in one of two forms. `raw`: the last pre-tokenizer is ByteLevel, so words stay plain bytes and the
 * vocabulary's keys are turned back into bytes when it is loaded. Otherwise words are UTF-8 and a symbol is a character. */
#ifndef TANDEM_RUNTIME_TEXT_TOKENIZER_IMPL_H
#define TANDEM_RUNTIME_TEXT_TOKENIZER_IMPL_H

#include "runtime/text/regex.h"
#include "runtime/text/tokenizer.h"

enum { TDM_STEPS_MAX = 16, TDM_SPECIAL_COUNT = 4, TDM_TOKEN_IDS_MAX = 1 << 24, TDM_ADDED_BYTES_MAX = 4096 };

typedef struct tdm_span { uint32_t at, len; } tdm_span; /* bytes of the tokenizer's `bytes` */

/* One id; text is the token as decoders see it. */
typedef struct tdm_token { tdm_span text; bool exists, special; } tdm_token;

/* Byte string -> id; open addressing, keys in `bytes`. */
typedef struct tdm_slot { uint32_t hash; tdm_span key; int32_t id; } tdm_slot; /* id -1: empty */
typedef struct tdm_map { tdm_slot *slots; uint32_t mask, count; } tdm_map;

typedef struct tdm_merge { uint64_t pair; uint32_t rank; int32_t id; } tdm_merge; /* pair = left << 32 | right */

typedef enum tdm_whole { TDM_WHOLE_UNKNOWN, TDM_WHOLE_YES, TDM_WHOLE_NO } tdm_whole;

typedef struct tdm_bpe {
    tdm_map words;         /* what a word is looked up by: bytes when raw, else the vocabulary's strings */
    tdm_merge *merges;     /* open addressing by pair */
    uint32_t merges_mask;
    uint64_t *joins;       /* Bloom filter: symbols (last of left, first of right) of every merge */
    uint32_t joins_mask;   /* in bits */
    int32_t *chars;        /* [0x110000] or [256] when raw: id + 1 of a one-character token, 0 none */
    _Atomic uint8_t *whole; /* [vocab] tdm_whole: the merges make this token of its own text, so a word equal to it needs no merging */
    uint32_t longest;      /* bytes of the longest key of words */
    int32_t unk, bytes[256]; /* -1: none */
    bool raw, byte_fallback, fuse_unk, ignore_merges;
} tdm_bpe;

typedef struct tdm_trie_node { int32_t child, sibling, added; uint8_t byte; } tdm_trie_node; /* -1: none */
typedef struct tdm_trie { tdm_trie_node *nodes; int32_t count, room, root[256]; } tdm_trie;

/* flags as in tokenizer.json; pattern is the (normalized) content that is searched for. */
typedef struct tdm_added { int32_t id; tdm_span content, pattern; bool special, lstrip, rstrip, single_word, normalized; } tdm_added;

typedef struct tdm_pattern { tdm_regex *regex; char *literal; size_t literal_len; } tdm_pattern; /* one of the two */

typedef enum tdm_norm_kind {
    TDM_NORM_NFC, TDM_NORM_NFD, TDM_NORM_NFKC, TDM_NORM_NFKD, TDM_NORM_REPLACE, TDM_NORM_PREPEND, TDM_NORM_LOWERCASE,
    TDM_NORM_STRIP, TDM_NORM_STRIP_ACCENTS, TDM_NORM_BYTES
} tdm_norm_kind;
typedef struct tdm_norm { tdm_norm_kind kind; tdm_pattern pattern; char *content; size_t content_len; bool left, right; } tdm_norm;

typedef enum tdm_pre_kind {
    TDM_PRE_SPLIT, TDM_PRE_BYTE_LEVEL, TDM_PRE_DIGITS, TDM_PRE_METASPACE, TDM_PRE_PUNCTUATION, TDM_PRE_SPACE, TDM_PRE_CHAR, TDM_PRE_WORDS
} tdm_pre_kind;
typedef enum tdm_behavior {
    TDM_SPLIT_ISOLATED, TDM_SPLIT_REMOVED, TDM_SPLIT_CONTIGUOUS, TDM_SPLIT_WITH_PREVIOUS, TDM_SPLIT_WITH_NEXT
} tdm_behavior;
typedef enum tdm_prepend { TDM_PREPEND_NEVER, TDM_PREPEND_FIRST, TDM_PREPEND_ALWAYS } tdm_prepend;
typedef struct tdm_pre {
    tdm_pre_kind kind;
    tdm_pattern pattern;   /* SPLIT; BYTE_LEVEL with its regex */
    tdm_behavior behavior; /* SPLIT, DIGITS, PUNCTUATION, SPACE, CHAR */
    bool invert;           /* SPLIT */
    bool prefix_space;     /* BYTE_LEVEL */
    bool mapped;           /* BYTE_LEVEL: write the characters of the bytes, because a step follows */
    bool split;            /* METASPACE, BYTE_LEVEL: has a regex */
    tdm_prepend prepend;   /* METASPACE */
    uint32_t c;            /* METASPACE: what replaces a space; CHAR: the delimiter */
} tdm_pre;

typedef enum tdm_dec_kind {
    TDM_DEC_BYTE_LEVEL, TDM_DEC_BYTE_FALLBACK, TDM_DEC_FUSE, TDM_DEC_REPLACE, TDM_DEC_STRIP, TDM_DEC_METASPACE
} tdm_dec_kind;
typedef struct tdm_dec {
    tdm_dec_kind kind;
    tdm_pattern pattern; /* REPLACE, with content */
    char *content;
    size_t content_len;
    uint32_t c;          /* STRIP, METASPACE */
    size_t start, stop;  /* STRIP */
    bool prefix;         /* METASPACE: drop it in the first token */
} tdm_dec;

struct tdm_tokenizer {
    tdm_text bytes; /* every key and token text */
    tdm_token *tokens;
    int32_t vocab, tokens_room;
    int32_t model_count; /* entries of the model's own vocabulary */
    tdm_map strings;     /* the model's vocabulary */
    tdm_map added_map;   /* content -> index in added */
    tdm_added *added;
    int32_t added_count, added_room, added_new; /* new: not in the model's vocabulary */
    tdm_trie plain, normalized; /* added tokens searched before and after normalization */
    tdm_norm norm[TDM_STEPS_MAX];
    tdm_pre pre[TDM_STEPS_MAX];
    tdm_dec dec[TDM_STEPS_MAX];
    int norm_count, pre_count, dec_count;
    bool has_decoder; /* none at all joins tokens with spaces */
    tdm_ids before, after; /* the template's ids around a plain text */
    tdm_bpe bpe;
    int32_t bos, eos;
    char *special_text[TDM_SPECIAL_COUNT]; /* in the order of tdm_special_names; NULL: none */
    char *chat_template;   /* NULL: none */
    char *name;            /* what errors call it */
};

/* Everything one encode needs besides the immutable tokenizer. */
typedef struct tdm_encoder {
    const tdm_tokenizer *t;
    tdm_ids *ids;
    tdm_error *err;
    tdm_matcher match;
    bool head_lost;    /* the normalizers took away the first character */
    tdm_text normal[2], step[TDM_STEPS_MAX], mapped[TDM_STEPS_MAX];
    int32_t *symbols;  /* of one segment */
    int64_t symbols_room;
    void *long_words;  /* bpe.c: memory of the heap, for words past the short ones */
    size_t long_words_bytes;
} tdm_encoder;

/* vocab.c: growing a tokenizer while it loads. */
tdm_status tdm_bytes_put(tdm_tokenizer *t, const char *s, size_t len, tdm_span *out, tdm_error *err);
static inline const char *tdm_span_ptr(const tdm_tokenizer *t, tdm_span s) { return t->bytes.data + s.at; }
int32_t tdm_map_find(const tdm_tokenizer *t, const tdm_map *map, const char *key, size_t len); /* -1: not there */
tdm_status tdm_map_put(tdm_tokenizer *t, tdm_map *map, tdm_span key, int32_t id, tdm_error *err); /* replaces */
tdm_status tdm_vocab_add(tdm_tokenizer *t, const char *text, size_t len, int64_t id, tdm_error *err);
tdm_status tdm_token_at(tdm_tokenizer *t, int64_t id, tdm_token **out, tdm_error *err); /* grows to hold it */

/* tokenizer_spm.c: of a GGUF, when its tokens are there. */
tdm_status tdm_spm_steps(tdm_tokenizer *t, const struct tdm_gguf *g, tdm_error *err);
tdm_status tdm_spm_merges(tdm_tokenizer *t, const struct tdm_gguf *g, tdm_error *err);

/* added.c */
typedef struct tdm_hit { size_t start, end; int32_t added; } tdm_hit;
tdm_status tdm_added_add(tdm_tokenizer *t, const char *content, size_t len, tdm_added flags, tdm_error *err);
tdm_status tdm_added_finish(tdm_tokenizer *t, tdm_error *err); /* after normalizers and all tokens are there */
/* The next token at or after `from`, its own bytes; false: none. Leftmost, of those the longest. */
bool tdm_trie_find(const tdm_trie *trie, const char *s, size_t len, size_t from, tdm_hit *hit);

/* bpe.c */
tdm_status tdm_bpe_reserve(tdm_tokenizer *t, int64_t merges, tdm_error *err);
/* left + right gives id at this rank; the same pair again replaces the rank. */
void tdm_bpe_add(tdm_tokenizer *t, int32_t left, int32_t right, int32_t id, uint32_t rank);
/* The same for the tokens written side[0] and side[1]; joined is scratch. Tokens that are not in the vocabulary are an error. */
tdm_status tdm_bpe_merge_texts(tdm_tokenizer *t, const char *const side[2], const size_t len[2], uint32_t rank, tdm_text *joined,
                               tdm_error *err);
tdm_status tdm_bpe_finish(tdm_tokenizer *t, tdm_error *err);
void tdm_bpe_fini(tdm_bpe *b);
tdm_status tdm_bpe_word(tdm_encoder *e, const char *s, size_t len);

/* normalize.c: *s, *len become the normalized text, which lies in e->normal or is the argument unchanged. */
tdm_status tdm_normalize(tdm_encoder *e, const char **s, size_t *len);
/* pretokenize.c: cuts and encodes one piece; first: it starts the whole text. */
tdm_status tdm_pretokenize(tdm_encoder *e, const char *s, size_t len, bool first);

void tdm_encoder_fini(tdm_encoder *e);

/* tokenizer_json.c, tokenizer_steps.c, tokenizer_gguf.c, tokenizer_config.c: loading. */
typedef struct json_t json_t;
tdm_status tdm_tokenizer_load_json(tdm_tokenizer *t, const char *data, size_t len, tdm_error *err);
tdm_status tdm_steps_load(tdm_tokenizer *t, const json_t *root, tdm_error *err);
tdm_status tdm_tokenizer_load_gguf(tdm_tokenizer *t, const tdm_gguf *g, tdm_error *err);
tdm_status tdm_tokenizer_load_folder(tdm_tokenizer *t, const char *folder, tdm_error *err);
tdm_status tdm_tokenizer_load_config(tdm_tokenizer *t, const char *folder, tdm_error *err);
tdm_status tdm_tokenizer_new(tdm_tokenizer **t, const char *name, tdm_error *err);
int32_t tdm_token_id(const tdm_tokenizer *t, const char *text, size_t len); /* of an added token or a word; -1: none */
tdm_status tdm_tokenizer_finish(tdm_tokenizer *t, tdm_error *err);
tdm_status tdm_pattern_literal(tdm_pattern *p, const char *s, size_t len, const char *name, tdm_error *err);
tdm_status tdm_pattern_regex(tdm_pattern *p, const char *s, size_t len, const char *name, tdm_error *err);
void tdm_pattern_fini(tdm_pattern *p);
extern const char tdm_gpt2_pattern[];
extern const char *const tdm_special_names[TDM_SPECIAL_COUNT]; /* "bos_token", ... */
/* The next match at or after *from, as Oniguruma's find_iter walks: *from = 0 and *last = SIZE_MAX to start. 1 found, 0 none,
 * -1 an error. */
int tdm_pattern_next(const tdm_pattern *p, tdm_matcher *m, const char *s, size_t len, size_t *from, size_t *last, size_t *start,
                     size_t *end, tdm_error *err);
char *tdm_copy(const char *s, size_t len, tdm_error *err); /* NUL-terminated, malloc; NULL with *err set */

#endif
