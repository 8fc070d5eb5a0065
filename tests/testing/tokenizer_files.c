#include "testing/tokenizer_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <cmocka.h>

bool test_unxz(const char *source, const char *path)
{
    char command[1024];
    snprintf(command, sizeof command, "xz -dc '%s' > '%s' 2>/dev/null", source, path);
    const int rc = system(command);
    if (WIFEXITED(rc) && WEXITSTATUS(rc) == 127) return false;
    if (rc != 0) fail_msg("cannot unpack %s", source);
    return true;
}

json_t *test_json_open(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j) fail_msg("%s:%d: %s", path, e.line, e.text);
    return j;
}
