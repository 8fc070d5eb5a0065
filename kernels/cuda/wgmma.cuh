// Hopper's warpgroup products: 64 rows of A by N columns of B and 16 of k, summed in f32 onto d. Four warps call together. A thread's part
// of d is that of mma.sync m16n8k16 for its warp's 16 rows, n8 after n8: d[4 j + i] is row g + 8 (i / 2), column 8 j + 2 c + i % 2, with
// g = lane / 4 and c = lane % 4. Seen on an H100, bit for bit: the sum of 16 products and d is that of mma.sync, whatever the order of
// the 16 and whichever operand is A; so kernels that cut k into the same groups of 16 agree. test_linear holds them to it.
//
// Operands in shared memory stand in rows of 128 bytes, 1024-byte aligned in groups of 8 rows, 16-byte unit u of row r at u ^ (r % 8):
//   along k      a row holds 64 of k of one row of the operand
//   turned (B)   a row holds 64 columns of B at one k
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"; CUTLASS include/cute/arch/mma_sm90_desc.hpp for the canonical layouts.
#pragma once

#include "kernels/cuda/gemm.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TDM_WGMMA 1
#else
#define TDM_WGMMA 0 // the kernel's body is left out; the host does not launch it
#endif

enum { TDM_ROW_BYTES = 128 }; // of an operand's row in shared memory: 64 elements

// Where 16-byte unit `unit` of row `row` stands.
TDM_DEVICE int tdm_swizzled(int row, int unit) { return row * TDM_ROW_BYTES + (unit ^ (row & 7)) * 16; }

// An operand that begins at p. Turned: `next` bytes lie between 64 columns and the next 64; along k it says nothing.
TDM_DEVICE uint64_t tdm_wgmma_operand(const void *p, int next)
{
    const uint64_t at = tdm_smem(p), eight_rows = 8 * TDM_ROW_BYTES;
    return (at & 0x3ffff) >> 4 | (uint64_t)(next >> 4) << 16 | (eight_rows >> 4) << 32 | 1ull << 62;
}

#if TDM_WGMMA

// Before the first product after registers or shared memory were written by this warpgroup.
TDM_DEVICE void tdm_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
TDM_DEVICE void tdm_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> TDM_DEVICE void tdm_wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// What cp.async and plain stores put into shared memory is seen by products from here on.
TDM_DEVICE void tdm_wgmma_see_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A barrier in shared memory that one bulk copy after the other completes: expect, copy, and wait for the parity of the copy's number.
TDM_DEVICE void tdm_barrier_open(uint64_t *b) { asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(tdm_smem(b)) : "memory"); }
// After the barriers were opened, before any is used; then __syncthreads.
TDM_DEVICE void tdm_barriers_opened() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// By one thread: `bytes` (a multiple of 16) from global memory to shared memory, both 16-byte aligned.
TDM_DEVICE void tdm_bulk_copy(void *to, const void *from, int bytes, uint64_t *b)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(tdm_smem(b)), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(tdm_smem(to)), "l"(from), "r"(bytes),
                 "r"(tdm_smem(b)) : "memory");
}
TDM_DEVICE void tdm_barrier_wait(uint64_t *b, int parity)
{
    asm volatile("{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra.uni out_%=;\nbra.uni again_%=;\nout_%=:\n}" ::"r"(tdm_smem(b)),
                 "r"(parity) : "memory");
}
// d is not to be kept elsewhere or moved across this line.
template <int N> TDM_DEVICE void tdm_wgmma_hold(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// Registers of d as the instruction names them, and as operands.
#define TDM_NAMES_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define TDM_NAMES_64 TDM_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
    ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define TDM_NAMES_128 TDM_NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95" \
    ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define TDM_SUMS_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define TDM_SUMS_32(i) TDM_SUMS_8(i), TDM_SUMS_8(i + 8), TDM_SUMS_8(i + 16), TDM_SUMS_8(i + 24)
#define TDM_SUMS_64(i) TDM_SUMS_32(i), TDM_SUMS_32(i + 32)
#define TDM_SUMS_128(i) TDM_SUMS_64(i), TDM_SUMS_64(i + 64)

// d += A B, both in shared memory, B turned. SUMS = N / 2; A and B: the numbers of the operands after them.
#define TDM_WGMMA_SS(N, SUMS, A, B)                                                                                                            \
    TDM_DEVICE void tdm_wgmma_ss_turned(float (&d)[SUMS], uint64_t a, uint64_t b)                                                              \
    {                                                                                                                                          \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" TDM_NAMES_##SUMS "}, %" #A ", %" #B ", 1, 1, 1, 0, 1;"        \
                     : TDM_SUMS_##SUMS(0)                                                                                                      \
                     : "l"(a), "l"(b)                                                                                                          \
                     : "memory");                                                                                                              \
    }
TDM_WGMMA_SS(64, 32, 32, 33)
TDM_WGMMA_SS(128, 64, 64, 65)
TDM_WGMMA_SS(256, 128, 128, 129)

// d += A B, A in registers (as mma.sync m16n8k16 has it, 16 rows a warp), B in shared memory along k.
#define TDM_WGMMA_RS(N, SUMS, TYPE, A0, A1, A2, A3, B)                                                                                         \
    TDM_DEVICE void tdm_wgmma_rs_##TYPE(float (&d)[SUMS], const uint32_t (&a)[4], uint64_t b)                                                  \
    {                                                                                                                                          \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #TYPE "." #TYPE " {" TDM_NAMES_##SUMS "}, {%" #A0 ",%" #A1 ",%" #A2     \
                     ",%" #A3 "}, %" #B ", 1, 1, 1, 0;"                                                                                        \
                     : TDM_SUMS_##SUMS(0)                                                                                                      \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                                                                      \
                     : "memory");                                                                                                              \
    }
TDM_WGMMA_RS(64, 32, f16, 32, 33, 34, 35, 36)
TDM_WGMMA_RS(64, 32, bf16, 32, 33, 34, 35, 36)
TDM_WGMMA_RS(128, 64, f16, 64, 65, 66, 67, 68)
TDM_WGMMA_RS(128, 64, bf16, 64, 65, 66, 67, 68)
template <int N, bool F16> TDM_DEVICE void tdm_wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b)
{
    if constexpr (F16) tdm_wgmma_rs_f16(d, a, b);
    else tdm_wgmma_rs_bf16(d, a, b);
}

#endif
