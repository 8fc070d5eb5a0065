/* Small things that live as long as a recipe: strings, lists, nodes. Taken one by one, released all at once.
 * For a recipe's kilobytes a plan or an arena of its own would be ceremony. */
#ifndef TANDEM_RUNTIME_RECIPE_POOL_H
#define TANDEM_RUNTIME_RECIPE_POOL_H

#include "kernels/base.h"

typedef struct tdm_pool { struct tdm_pool_block *last; } tdm_pool; /* start as {0} */

void *tdm_pool_take(tdm_pool *p, size_t bytes);                       /* zeroed; NULL: out of memory */
char *tdm_pool_text(tdm_pool *p, const char *text, size_t len);       /* a NUL-terminated copy; NULL: out of memory */
char *tdm_pool_print(tdm_pool *p, const char *fmt, ...) TDM_PRINTF(2, 3);
void tdm_pool_free(tdm_pool *p);

#endif
