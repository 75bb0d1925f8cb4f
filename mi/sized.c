// The functions that tell block sizes (mi_umalloc and its family), those that resize through a pointer to the pointer,
// and the Windows names. Thin: each is a line or two over the malloc family in malloc.c, and keeps its rules.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "mi/heap/parts.h"
#include "mi/mimalloc.h"

// --- with block sizes -------------------------------------------------------------------------------------------

static inline void* tell_size(void* p, size_t* block_size) {
  if (block_size != NULL) *block_size = _mi_usable_size(p);
  return p;
}

void* mi_umalloc(size_t size, size_t* block_size) { return tell_size(mi_malloc(size), block_size); }
void* mi_ucalloc(size_t count, size_t size, size_t* block_size) {
  return tell_size(mi_calloc(count, size), block_size);
}
void* mi_umalloc_small(size_t size, size_t* block_size) { return tell_size(mi_malloc_small(size), block_size); }
void* mi_uzalloc_small(size_t size, size_t* block_size) { return tell_size(mi_zalloc_small(size), block_size); }
void* mi_umalloc_aligned(size_t size, size_t alignment, size_t* block_size) {
  return tell_size(mi_malloc_aligned(size, alignment), block_size);
}
void* mi_uzalloc_aligned(size_t size, size_t alignment, size_t* block_size) {
  return tell_size(mi_zalloc_aligned(size, alignment), block_size);
}
void* mi_urealloc(void* p, size_t newsize, size_t* block_size_pre, size_t* block_size_post) {
  tell_size(p, block_size_pre);
  return tell_size(mi_realloc(p, newsize), block_size_post);
}
void mi_ufree(void* p, size_t* block_size) { mi_free(tell_size(p, block_size)); }

// --- through a pointer to the pointer ---------------------------------------------------------------------------

int mi_reallocarr(void* ptrp, size_t count, size_t size) {
  if (ptrp == NULL) return EINVAL;
  const int saved = errno;
  void* p;
  memcpy(&p, ptrp, sizeof(p));  // the program's pointer has a type of its own
  errno = 0;
  void* const q = mi_reallocarray(p, count, size);
  const int code = (q != NULL ? 0 : errno != 0 ? errno : ENOMEM);
  errno = saved;
  if (q != NULL) memcpy(ptrp, &q, sizeof(q));
  return code;
}

// --- Windows --------------------------------------------------------------------------------------------------------

void* mi__expand(void* p, size_t newsize) { return mi_expand(p, newsize); }
void* mi_aligned_recalloc(void* p, size_t newcount, size_t size, size_t alignment) {
  return mi_recalloc_aligned(p, newcount, size, alignment);
}
void* mi_aligned_offset_recalloc(void* p, size_t newcount, size_t size, size_t alignment, size_t offset) {
  return mi_recalloc_aligned_at(p, newcount, size, alignment, offset);
}

unsigned char* mi_mbsdup(const unsigned char* s) { return (unsigned char*)mi_strdup((const char*)s); }

wchar_t* mi_wcsdup(const wchar_t* s) {
  if (s == NULL) return NULL;
  const size_t size = (wcslen(s) + 1) * sizeof(wchar_t);
  wchar_t* const copy = mi_malloc(size);
  if (copy != NULL) memcpy(copy, s, size);
  return copy;
}

int mi_dupenv_s(char** buf, size_t* size, const char* name) {
  if (size != NULL) *size = 0;
  if (buf == NULL) return EINVAL;
  *buf = NULL;
  if (name == NULL) return EINVAL;
  const char* const value = getenv(name);
  if (value == NULL) return 0;
  *buf = mi_strdup(value);
  if (*buf == NULL) return ENOMEM;
  if (size != NULL) *size = strlen(value) + 1;
  return 0;
}

// The name in the multibyte form of the current locale; NULL: `*code` says why.
static char* narrow(const wchar_t* text, int* code) {
  mbstate_t state = {0};
  const wchar_t* from = text;
  const size_t length = wcsrtombs(NULL, &from, 0, &state);
  char* const narrowed = (length == (size_t)-1 ? NULL : mi_malloc(length + 1));
  if (narrowed == NULL) {
    *code = (length == (size_t)-1 ? EILSEQ : ENOMEM);
    return NULL;
  }
  from = text;
  memset(&state, 0, sizeof(state));
  wcsrtombs(narrowed, &from, length + 1, &state);
  return narrowed;
}

int mi_wdupenv_s(wchar_t** buf, size_t* size, const wchar_t* name) {
  if (size != NULL) *size = 0;
  if (buf == NULL) return EINVAL;
  *buf = NULL;
  if (name == NULL) return EINVAL;
  const int saved = errno;
  int code = 0;
  char* const variable = narrow(name, &code);
  const char* const value = (variable == NULL ? NULL : getenv(variable));
  if (value != NULL) {
    mbstate_t state = {0};
    const char* from = value;
    const size_t length = mbsrtowcs(NULL, &from, 0, &state);
    if (length == (size_t)-1) {
      code = EILSEQ;
    } else if ((*buf = mi_mallocn(length + 1, sizeof(wchar_t))) == NULL) {
      code = ENOMEM;
    } else {
      from = value;
      memset(&state, 0, sizeof(state));
      mbsrtowcs(*buf, &from, length + 1, &state);
      if (size != NULL) *size = length + 1;
    }
  }
  mi_free(variable);
  errno = saved;
  return code;
}
