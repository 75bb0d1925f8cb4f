// A signing service whose private keys never leave a secret heap: not to swap, not to a core file, not to a child, not
// to memory that was freed. Everything that OpenSSL allocates is allocated there (CRYPTO_set_mem_functions), so that
// the copies that it makes of keys while it works, and which no program knows of, are there as well; and what touches
// keys runs on a stack that lies there too. (That of a context, not of a thread: the kernel would have to reach into it
// when the thread is waited for.)
//
//   key_vault [--reveal FILE] [COUNT]     makes COUNT keys (6), then answers the lines of its standard input:
//     N TEXT          signs TEXT with key N, checks the signature, and prints its size and its first bytes
//     busy TEXT       signs TEXT with every key, again and again, until the process is ended
//     abort           ends as a program with a bug does
//   --reveal FILE     for the test: writes every private number to FILE, to be looked for where it must not be
//
// What remains is registers: a debugger that stops the thread in the middle of a signature writes them to its file. The
// heap's protections say what the system granted; a service that must have them says so in `required`, and does not
// start without.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "mi/mimalloc.h"

#define KEYS_MAX 1000
#define CONTROL_SIZE 64
#define STACK_SIZE ((size_t)256 * 1024)

static mi_heap_t* vault;
static EVP_PKEY* keys[KEYS_MAX];
static int key_count = 6;

static void die(const char* what) {
  fprintf(stderr, "key_vault: %s\n", what);
  exit(1);
}

// ---- the vault --------------------------------------------------------------------------------------------------

static void* vault_malloc(size_t size, const char* file, int line) {
  (void)file, (void)line;
  return mi_heap_malloc(vault, size);
}
static void* vault_realloc(void* p, size_t size, const char* file, int line) {
  (void)file, (void)line;
  return mi_heap_realloc(vault, p, size);  // what it moves, it wipes where it was
}
static void vault_free(void* p, const char* file, int line) {
  (void)file, (void)line;
  mi_free(p);  // wipes
}

static void vault_open(void) {
  const mi_heap_config_t config = {
      .size = sizeof config,
      .name = "keys",
      .flags = MI_HEAP_SECRET,
      .required = MI_PROTECTED_SWAP | MI_PROTECTED_CORE_FILE | MI_PROTECTED_FORK | MI_PROTECTED_WIPED,
  };
  vault = mi_heap_new_with(&config);
  if (vault == NULL) {
    perror("key_vault: no vault");  // `ulimit -l` says how much memory may be locked
    exit(1);
  }
  printf("protected:");
  const mi_protections_t got = mi_heap_protections(vault);
  for (mi_protections_t bit = 1; bit <= got; bit *= 2) {
    if ((got & bit) != 0) printf(" [%s]", mi_protection_name(bit));
  }
  printf("\n");
  // Before anything else of OpenSSL, or it is refused.
  if (CRYPTO_set_mem_functions(vault_malloc, vault_realloc, vault_free) != 1) die("OpenSSL has allocated already");
}

// ---- keys -------------------------------------------------------------------------------------------------------

static void make_keys(void) {
  for (int i = 0; i < key_count; i++) {
    switch (i % 3) {
      case 0:
        keys[i] = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
        break;
      case 1:
        keys[i] = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
        break;
      default:
        keys[i] = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
        break;
    }
    if (keys[i] == NULL) die("a key could not be made");
    // What the world may know of it: the digest of the public half.
    unsigned char* public_half = NULL;
    unsigned char digest[32];
    const int size = i2d_PUBKEY(keys[i], &public_half);
    if (size <= 0 || EVP_Digest(public_half, (size_t)size, digest, NULL, EVP_sha256(), NULL) != 1) die("no public key");
    OPENSSL_free(public_half);
    printf("key %d: %s, public key %02x%02x%02x%02x...\n", i, EVP_PKEY_get0_type_name(keys[i]), digest[0], digest[1],
           digest[2], digest[3]);
  }
}

// Signs, and checks what it signed. Returns the size of the signature; 0: it is wrong.
static size_t sign(EVP_PKEY* key, const char* text, size_t length, unsigned char* signature, size_t room) {
  const EVP_MD* digest = (EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256());
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  bool ok = context != NULL && EVP_DigestSignInit(context, NULL, digest, NULL, key) == 1 &&
            EVP_DigestSign(context, signature, &room, (const unsigned char*)text, length) == 1;
  EVP_MD_CTX_free(context);
  context = EVP_MD_CTX_new();
  ok = ok && context != NULL && EVP_DigestVerifyInit(context, NULL, digest, NULL, key) == 1 &&
       EVP_DigestVerify(context, signature, room, (const unsigned char*)text, length) == 1;
  EVP_MD_CTX_free(context);
  return (ok ? room : 0);
}

// ---- for the test -----------------------------------------------------------------------------------------------

// One line of hexadecimal digits, which are made in the vault too: nothing of a key passes through a buffer of stdio.
static void reveal(int file, const char* what, const unsigned char* bytes, size_t size) {
  const size_t room = strlen(what) + 2 * size + 3;
  char* line = mi_heap_malloc(vault, room);
  if (line == NULL) die("no memory");
  size_t n = (size_t)snprintf(line, room, "%s ", what);
  for (size_t i = 0; i < size; i++) {
    line[n++] = "0123456789abcdef"[bytes[i] >> 4];
    line[n++] = "0123456789abcdef"[bytes[i] & 15];
  }
  line[n++] = '\n';
  if (write(file, line, n) != (ssize_t)n) die("the file could not be written");
  mi_free(line);
}

static void reveal_number(int file, EVP_PKEY* key, const char* name) {
  BIGNUM* number = NULL;
  if (EVP_PKEY_get_bn_param(key, name, &number) != 1) die("a private number is not there");
  const int size = BN_num_bytes(number);
  unsigned char* bytes = mi_heap_malloc(vault, (size_t)size);
  BN_bn2bin(number, bytes);
  reveal(file, "number", bytes, (size_t)size);
  mi_free(bytes);
  BN_clear_free(number);
}

static void reveal_all(const char* path, const unsigned char* control) {
  const int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) die("the file to reveal to cannot be made");
  for (int i = 0; i < key_count; i++) {
    unsigned char* der = NULL;
    const int size = i2d_PrivateKey(keys[i], &der);
    if (size <= 0) die("a private key has no DER form");
    reveal(file, "der", der, (size_t)size);
    OPENSSL_clear_free(der, (size_t)size);
    if (EVP_PKEY_is_a(keys[i], "RSA")) {
      static const char* const names[] = {OSSL_PKEY_PARAM_RSA_D,         OSSL_PKEY_PARAM_RSA_FACTOR1,
                                          OSSL_PKEY_PARAM_RSA_FACTOR2,   OSSL_PKEY_PARAM_RSA_EXPONENT1,
                                          OSSL_PKEY_PARAM_RSA_EXPONENT2, OSSL_PKEY_PARAM_RSA_COEFFICIENT1};
      for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) reveal_number(file, keys[i], names[n]);
    } else if (EVP_PKEY_is_a(keys[i], "EC")) {
      reveal_number(file, keys[i], OSSL_PKEY_PARAM_PRIV_KEY);
    } else {
      size_t room = 32;
      unsigned char* raw = mi_heap_malloc(vault, room);
      if (raw == NULL || EVP_PKEY_get_raw_private_key(keys[i], raw, &room) != 1) die("no raw key");
      reveal(file, "number", raw, room);
      mi_free(raw);
    }
  }
  // What will be found: bytes that lie in a plain heap.
  reveal(file, "control", control, CONTROL_SIZE);
  close(file);
}

// ---- requests ---------------------------------------------------------------------------------------------------

static void answer(int n, const char* text) {
  unsigned char signature[512];
  const size_t size = sign(keys[n], text, strlen(text), signature, sizeof signature);
  if (size == 0) die("a signature is wrong");
  printf("signed by %d: %zu bytes, %02x%02x%02x%02x...\n", n, size, signature[0], signature[1], signature[2],
         signature[3]);
}

static void be_busy(const char* text) {
  for (unsigned long done = 0;; done++) {
    unsigned char signature[512];
    if (sign(keys[done % (unsigned long)key_count], text, strlen(text), signature, sizeof signature) == 0)
      die("a signature is wrong");
    if (done == 1000) printf("busy\n");
  }
}

// All of what has to do with keys, on the stack in the vault.
static const char* revealed;
static void serve(void) {
  make_keys();
  unsigned char* control = mi_malloc(CONTROL_SIZE);
  if (control == NULL || RAND_bytes(control, CONTROL_SIZE) != 1) die("no random bytes");
  if (revealed != NULL) reveal_all(revealed, control);
  printf("ready\n");
  char line[1000];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = 0;
    char* text = line;
    const long n = strtol(line, &text, 10);
    if (strcmp(line, "abort") == 0) abort();
    if (strncmp(line, "busy ", 5) == 0) be_busy(line + 5);
    if (text == line || n < 0 || n >= key_count) {
      printf("no such key\n");
    } else {
      answer((int)n, text);
    }
  }
  for (int i = 0; i < key_count; i++) EVP_PKEY_free(keys[i]);
  mi_free(control);
}

int main(int argc, char** argv) {
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--reveal") == 0 && i + 1 < argc) {
      revealed = argv[++i];
    } else if ((key_count = atoi(argv[i])) < 1 || key_count > KEYS_MAX) {
      die("usage: key_vault [--reveal FILE] [COUNT]");
    }
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  vault_open();
  void* stack = mi_heap_malloc_aligned(vault, STACK_SIZE, 4096);  // between guards, as every page of the heap
  ucontext_t outside, inside;
  if (stack == NULL || getcontext(&inside) != 0) die("no stack");
  inside.uc_stack.ss_sp = stack;
  inside.uc_stack.ss_size = STACK_SIZE;
  inside.uc_link = &outside;
  makecontext(&inside, serve, 0);
  if (swapcontext(&outside, &inside) != 0) die("no context");
  mi_free(stack);
  OPENSSL_cleanup();  // what it has of its own lies in the vault
  mi_heap_destroy(vault);
  return 0;
}
