/* Tokenizers of published models for tests (tests/golden/data/tokenizers), and the cases of tests/golden/make_tokenizer.py. */
#ifndef TANDEM_TESTS_TOKENIZER_FILES_H
#define TANDEM_TESTS_TOKENIZER_FILES_H

#include <jansson.h>
#include <stdbool.h>

/* Unpacks `source` (an .xz file) to `path`; false when there is no xz on this machine. Any other failure fails the test. */
bool test_unxz(const char *source, const char *path);
/* Parses a JSON file; failure fails the test. The caller's (json_decref). */
json_t *test_json_open(const char *path);

#endif
