/* A temporary folder of a test's own, under TMPDIR. */
#ifndef TANDEM_TESTS_SCRATCH_H
#define TANDEM_TESTS_SCRATCH_H

/* Makes it; fails the test when it cannot. The text is the caller's (free). */
char *test_scratch_new(void);
/* "DIR/name", the caller's (free). */
char *test_path(const char *dir, const char *name);
/* Removes the folder with all in it, and frees the text. */
void test_scratch_free(char *dir);
void test_file_put(const char *path, const char *text);
/* Whole file, terminated; the caller's (free). */
char *test_file_get(const char *path, unsigned long *bytes);

#endif
