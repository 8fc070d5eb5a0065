#include "memory/hash.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* FIPS 180-4, 4.2.2: fractional parts of the cube roots of the first 64 primes. */
static const uint32_t k256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

/* FIPS 180-4, 6.2.2, one block. */
static void sha256_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ (w[i - 15] >> 3);
        uint32_t s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], s = h[7];
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + k256[i] + w[i];
        uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        s = g; g = f; f = e; e = d + t1; d = c; c = b; b = a; a = t1 + t2;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += s;
}

#if defined(__x86_64__)
/* The same with the SHA extensions (Intel SDM vol. 2, SHA256RNDS2): four rounds an iteration, a..h held as ABEF and CDGH. */
__attribute__((target("sha,sse4.1,ssse3"))) static void sha256_blocks_native(uint32_t h[8], const uint8_t *p, size_t blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i dcba = _mm_loadu_si128((const __m128i *)h), hgfe = _mm_loadu_si128((const __m128i *)(h + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; blocks > 0; blocks--, p += 64) {
        __m128i m[4], abef0 = abef, cdgh0 = cdgh;
        for (int i = 0; i < 4; i++) m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
        for (int g = 0; g < 16; g++) {
            __m128i w = m[0]; /* the oldest four words; what replaces them is needed four groups later */
            __m128i next = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(m[0], m[1]), _mm_alignr_epi8(m[3], m[2], 4)), m[3]);
            __m128i k = _mm_add_epi32(w, _mm_loadu_si128((const __m128i *)(k256 + 4 * g)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
            m[0] = m[1];
            m[1] = m[2];
            m[2] = m[3];
            m[3] = next;
        }
        abef = _mm_add_epi32(abef, abef0);
        cdgh = _mm_add_epi32(cdgh, cdgh0);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)h, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}

static bool cpu_has_sha(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
}
#else
static void sha256_blocks_native(uint32_t h[8], const uint8_t *p, size_t blocks)
{
    for (; blocks > 0; blocks--, p += 64) sha256_block(h, p);
}
static bool cpu_has_sha(void) { return false; }
#endif

static void sha256_blocks(tdm_sha256 *s, const uint8_t *p, size_t blocks)
{
    if (s->native) sha256_blocks_native(s->h, p, blocks);
    else
        for (; blocks > 0; blocks--, p += 64) sha256_block(s->h, p);
}

void tdm_sha256_init(tdm_sha256 *s)
{
    static const uint32_t h0[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, h0, sizeof h0);
    s->bytes = 0;
    s->native = cpu_has_sha();
}

void tdm_sha256_put(tdm_sha256 *s, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    size_t used = (size_t)(s->bytes % 64);
    s->bytes += bytes;
    if (used > 0) {
        size_t n = bytes < 64 - used ? bytes : 64 - used;
        if (n > 0) memcpy(s->block + used, p, n);
        p += n;
        bytes -= n;
        if (used + n < 64) return;
        sha256_blocks(s, s->block, 1);
    }
    sha256_blocks(s, p, bytes / 64);
    p += bytes / 64 * 64;
    bytes %= 64;
    if (bytes > 0) memcpy(s->block, p, bytes);
}

void tdm_sha256_hex(tdm_sha256 *s, char hex[65])
{
    uint64_t bits = s->bytes * 8;
    uint8_t tail[72] = {0x80};
    size_t pad = (size_t)((119 - s->bytes % 64) % 64) + 1; /* 1..64 bytes, so that 8 more end a block */
    for (size_t i = 0; i < 8; i++) tail[pad + i] = (uint8_t)(bits >> (56 - 8 * i));
    tdm_sha256_put(s, tail, pad + 8);
    for (int i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08x", s->h[i]);
}

tdm_status tdm_sha256_file(const char *path, char hex[65], tdm_error *err)
{
    enum { CHUNK = 1 << 20 };
    tdm_status st = TDM_OK;
    char *buf = malloc(CHUNK);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!buf) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, NULL, "out of memory");
        goto done;
    }
    if (fd < 0) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, path, NULL, "cannot open: %s", strerror(errno));
        goto done;
    }
    tdm_sha256 s;
    tdm_sha256_init(&s);
    for (ssize_t n; (n = read(fd, buf, CHUNK)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, path, NULL, "cannot read: %s", strerror(errno));
            goto done;
        }
        tdm_sha256_put(&s, buf, (size_t)n);
    }
    tdm_sha256_hex(&s, hex);
done:
    if (fd >= 0) close(fd);
    free(buf);
    return st;
}

/* CRC-32C, reflected polynomial 0x82f63b78, a nibble at a time: the event records it frames are a few hundred bytes. */
uint32_t tdm_crc32c(uint32_t crc, const void *data, size_t bytes)
{
    static const uint32_t nibble[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= p[i];
        crc = (crc >> 4) ^ nibble[crc & 15];
        crc = (crc >> 4) ^ nibble[crc & 15];
    }
    return ~crc;
}
