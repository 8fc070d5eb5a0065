/* SHA-256 and CRC-32C against published vectors and Python's hashlib.  labels: unit, golden */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "memory/hash.h"
#include "testing/scratch.h"

/* hashlib.sha256(bytes(i % 251 for i in range(n))).hexdigest(): lengths around the padding's corners. */
static const struct {
    size_t n;
    const char *hex;
} counted[] = {
    {1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"},
    {55, "463eb28e72f82e0a96c0a4cc53690c571281131f672aa229e0d45ae59b598b59"},
    {56, "da2ae4d6b36748f2a318f23e7ab1dfdf45acdc9d049bd80e59de82a60895f562"},
    {57, "2fe741af801cc238602ac0ec6a7b0c3a8a87c7fc7d7f02a3fe03d1c12eac4d8f"},
    {63, "29af2686fd53374a36b0846694cc342177e428d1647515f078784d69cdb9e488"},
    {64, "fdeab9acf3710362bd2658cdc9a29e8f9c757fcf9811603a8c447cd1d9151108"},
    {65, "4bfd2c8b6f1eec7a2afeb48b934ee4b2694182027e6d0fc075074f2fabb31781"},
    {119, "da18797ed7c3a777f0847f429724a2d8cd5138e6ed2895c3fa1a6d39d18f7ec6"},
    {120, "f52b23db1fbb6ded89ef42a23ce0c8922c45f25c50b568a93bf1c075420bbb7c"},
    {128, "471fb943aa23c511f6f72f8d1652d9c880cfa392ad80503120547703e56a2be5"},
    {1000, "4e4c294b331f7a2099a379bec34b9f9fc03dc46ab465d998f4d683da53487e6d"},
    {2000, "63d8d35920be456776a35578ade76725c687821ad55d4bb950225fed2d33e6cb"},
};

static void sha256_agrees_with_fips_180_4(void **state)
{
    (void)state;
    static const struct {
        const char *text, *hex;
    } vectors[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < TDM_COUNT(vectors); i++) {
        char hex[65];
        tdm_sha256 s;
        tdm_sha256_init(&s);
        tdm_sha256_put(&s, vectors[i].text, strlen(vectors[i].text));
        tdm_sha256_hex(&s, hex);
        assert_string_equal(hex, vectors[i].hex);
    }
}

static void sha256_agrees_with_hashlib_however_it_is_cut(void **state)
{
    (void)state;
    uint8_t data[2000];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i % 251);
    for (size_t i = 0; i < TDM_COUNT(counted); i++) {
        for (size_t step = 1; step < 200; step += 13) {
            char hex[65];
            tdm_sha256 s;
            tdm_sha256_init(&s);
            if (step % 2) s.native = false; /* both ways, where the CPU has its own */
            for (size_t at = 0; at < counted[i].n; at += step)
                tdm_sha256_put(&s, data + at, counted[i].n - at < step ? counted[i].n - at : step);
            tdm_sha256_hex(&s, hex);
            assert_string_equal(hex, counted[i].hex);
        }
    }
}

static void a_file_has_the_hash_of_its_bytes(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "abc");
    char hex[65];
    tdm_error err = {0};
    test_file_put(path, "abc");
    assert_int_equal(tdm_sha256_file(path, hex, &err), TDM_OK);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(tdm_sha256_file(dir, hex, &err), TDM_ERR_INPUT);
    free(path);
    test_scratch_free(dir);
}

static void crc32c_agrees_with_rfc_3720(void **state)
{
    (void)state;
    uint8_t zeros[32] = {0}, ones[32], rising[32];
    memset(ones, 0xff, sizeof ones);
    for (size_t i = 0; i < sizeof rising; i++) rising[i] = (uint8_t)i;
    assert_int_equal(tdm_crc32c(0, zeros, 32), 0x8a9136aaU);
    assert_int_equal(tdm_crc32c(0, ones, 32), 0x62a8ab43U);
    assert_int_equal(tdm_crc32c(0, rising, 32), 0x46dd794eU);
    assert_int_equal(tdm_crc32c(0, "123456789", 9), 0xe3069283U);
    assert_int_equal(tdm_crc32c(tdm_crc32c(0, "1234", 4), "56789", 5), 0xe3069283U);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_agrees_with_fips_180_4),
        cmocka_unit_test(sha256_agrees_with_hashlib_however_it_is_cut),
        cmocka_unit_test(a_file_has_the_hash_of_its_bytes),
        cmocka_unit_test(crc32c_agrees_with_rfc_3720),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
