/* Checksums: SHA-256 (FIPS 180-4) for checkpoints, so that `sha256sum -c` can check one without us, and CRC-32C (RFC 3720, B.4)
 * for the framing of TensorBoard's event files. */
#ifndef TANDEM_MEMORY_HASH_H
#define TANDEM_MEMORY_HASH_H

#include "kernels/base.h"

typedef struct tdm_sha256 {
    uint32_t h[8];
    uint64_t bytes;
    uint8_t block[64];
    bool native; /* this CPU's own SHA instructions; set by init */
} tdm_sha256;
void tdm_sha256_init(tdm_sha256 *s);
void tdm_sha256_put(tdm_sha256 *s, const void *data, size_t bytes);
void tdm_sha256_hex(tdm_sha256 *s, char hex[65]);                          /* ends it; lower case, terminated */
tdm_status tdm_sha256_file(const char *path, char hex[65], tdm_error *err); /* streams the file */

uint32_t tdm_crc32c(uint32_t crc, const void *data, size_t bytes); /* start with 0; continues */

#endif
