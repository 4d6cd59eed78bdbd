/* Answer the instructions that hide_avx512.py put in the place of cpuid, without AVX-512. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

/* Intel 64 manual, CPUID, leaf 7: what needs 512-bit registers, masks or tiles. */
static const unsigned kB = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
static const unsigned kC = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14);
static const unsigned kD = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);
/* Subleaf 1, first register: VNNI without AVX-512, bf16, FP16 tiles, AVX-IFMA. */
static const unsigned kA1 = BIT(4) | BIT(5) | BIT(21) | BIT(23);

static void answer(int number, siginfo_t* info, void* context) {
  static const unsigned char kUndefined[] = {0x0f, 0x0b};
  greg_t* at = ((ucontext_t*)context)->uc_mcontext.gregs;
  unsigned a, b, c, d;
  (void)info;
  if (memcmp((const void*)at[REG_RIP], kUndefined, sizeof kUndefined) != 0) {
    signal(number, SIG_DFL);
    return;
  }
  const unsigned leaf = (unsigned)at[REG_RAX], sub = (unsigned)at[REG_RCX];
  __cpuid_count(leaf, sub, a, b, c, d);
  if (leaf == 7 && sub == 0) {
    b &= ~kB;
    c &= ~kC;
    d &= ~kD;
  }
  if (leaf == 7 && sub == 1) a &= ~kA1;
  at[REG_RAX] = a;
  at[REG_RBX] = b;
  at[REG_RCX] = c;
  at[REG_RDX] = d;
  at[REG_RIP] += sizeof kUndefined;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, 0);
}
