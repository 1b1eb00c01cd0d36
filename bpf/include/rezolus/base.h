/*
 * What every generated program uses: branch hints, exact arithmetic where C or the BPF back end
 * has none, the bucket of a value.
 */
#ifndef REZOLUS_BASE_H
#define REZOLUS_BASE_H

/* Of generated code; what the source may mean is the checker's business. */
#pragma clang diagnostic ignored "-Wconstant-logical-operand"
#pragma clang diagnostic ignored "-Wparentheses-equality"
#pragma clang diagnostic ignored "-Wswitch"
#pragma clang diagnostic ignored "-Wswitch-bool"
#pragma clang diagnostic ignored "-Wtautological-compare"
#pragma clang diagnostic ignored "-Wshift-count-overflow"
#pragma clang diagnostic ignored "-Wunused-label"
#pragma clang diagnostic ignored "-Wunused-variable"

#ifndef likely
#define likely(condition) __builtin_expect(!!(condition), 1)
#endif
#ifndef unlikely
#define unlikely(condition) __builtin_expect(!!(condition), 0)
#endif

/*
 * Keeps the compiler from reasoning about a number: it would drop a bounds check that it can
 * prove needless, and the kernel's verifier, which cannot, would reject the program.
 */
#define REZOLUS_OPAQUE(number) asm volatile("" : "+r"(number))

/*
 * Leaves a number that is known to be at most `mask` (2^n - 1) as it is, but makes the verifier (6.11+)
 * forget that it is another number plus a constant, which it would take for an offset of the pointer.
 */
#define REZOLUS_INDEX(number, mask) asm volatile("%0 &= %1" : "+r"(number) : "i"(mask))

/*
 * A kernel pointer as a plain number. The verifier refuses arithmetic on pointers whose type it
 * knows; what was read from memory it takes for a number.
 */
#define REZOLUS_ADDRESS(pointer)                                            \
    ({                                                                      \
        u64 typed = (u64)(pointer), plain = 0;                              \
        bpf_probe_read_kernel(&plain, sizeof(plain), &typed);               \
        plain;                                                              \
    })

/* A pointer that the compiler has to take as it is: it would compare what it was chosen from. */
#define REZOLUS_CHOSEN(pointer)                                             \
    ({                                                                      \
        u64 chosen = (u64)(pointer);                                        \
        REZOLUS_OPAQUE(chosen);                                             \
        chosen;                                                             \
    })

/*
 * A comparison of kernel pointers. The compiler would join it with others (`a == 0 && b == 0` as
 * `(a | b) == 0`), which the verifier refuses for pointers.
 */
#define REZOLUS_TRUTH(comparison)                                           \
    ({                                                                      \
        u64 truth = (comparison);                                           \
        REZOLUS_OPAQUE(truth);                                              \
        (u32)truth;                                                         \
    })

/*
 * Zeroes the words from `first` up to `end`. A loop that the compiler cannot see through: it would make a call of
 * memset of it, which BPF does not have, or compare pointers at its end, which the verifier cannot follow.
 */
static inline void rezolus_clear(u64 *words, u64 first, u64 end)
{
    for (u64 word = first; word < end; word++) {
        REZOLUS_OPAQUE(word);
        words[word] = 0;
    }
}

/* Signed division towards zero: LLVM has none for BPF and ends the process when asked for it. */
static inline s64 rezolus_divide(s64 left, s64 right)
{
    u64 dividend = left < 0 ? -(u64)left : (u64)left;
    u64 divisor = right < 0 ? -(u64)right : (u64)right;
    u64 quotient = dividend / divisor;
    return (s64)((left < 0) != (right < 0) ? -quotient : quotient);
}

static inline s64 rezolus_remainder(s64 left, s64 right)
{
    return (s64)((u64)left - (u64)rezolus_divide(left, right) * (u64)right);
}

/* The position of the highest bit set; 0 for 0. BPF has no instruction for it. */
static inline u64 rezolus_log2(u64 value)
{
    u64 position = 0;
    if (value >> 32) {
        value >>= 32;
        position = 32;
    }
    if (value >> 16) {
        value >>= 16;
        position += 16;
    }
    if (value >> 8) {
        value >>= 8;
        position += 8;
    }
    if (value >> 4) {
        value >>= 4;
        position += 4;
    }
    if (value >> 2) {
        value >>= 2;
        position += 2;
    }
    return position + (value >> 1);
}

/*
 * The bucket of a value in a histogram of this grouping power: exact below 2^(power+1), above that
 * 2^power buckets for each power of two.
 */
static inline u64 rezolus_bucket(u64 value, u64 power)
{
    if (!(value >> (power + 1)))
        return value;
    u64 shift = rezolus_log2(value) - power;
    /* The highest bit stands at `power` after the shift, so it adds the one power of two missing. */
    return (shift << power) + (value >> shift);
}

#endif
