// One heap in a few figures, as a struct and as JSON. They are put together by stats.c.
#include <errno.h>
#include <string.h>

#include "mi/heap/stats.h"
#include "mi/mimalloc.h"
#include "mi/text.h"

static bool counts_check(mi_heap_t* heap, const char* function) {
  if (heap != NULL) return _mi_heap_check_usable(heap, function);
  _mi_error(EINVAL, "%s: no heap\n", function);
  return false;
}

static void counts_gather(mi_heap_t* heap, mi_heap_counts_t* counts) {
  _mi_heap_counts_gather(heap, counts);
  counts->used = mi_heap_used(heap);
  counts->used_peak = mi_heap_peak(heap);
  counts->limit = mi_heap_limit(heap);
}

bool mi_heap_counts_get(mi_heap_t* heap, mi_heap_counts_t* counts) {
  const size_t least = offsetof(mi_heap_counts_t, peak) + sizeof(counts->peak);
  if (counts == NULL || counts->size < least) {
    _mi_error(EINVAL, "mi_heap_counts_get: no struct, or its size is %zu; expected sizeof(mi_heap_counts_t)\n",
              counts == NULL ? 0 : counts->size);
    return false;
  }
  if (!counts_check(heap, "mi_heap_counts_get")) return false;
  const size_t size = counts->size;
  mi_heap_counts_t now;
  now.size = size;
  counts_gather(heap, &now);
  memset(counts, 0, size);                                        // a newer caller's fields are not known here
  memcpy(counts, &now, size < sizeof(now) ? size : sizeof(now));  // nor is an older caller's struct as large
  return true;
}

static size_t counts_write(const char* name, const mi_heap_counts_t* counts, size_t size, char* buf) {
  mi_text_t text = {buf, size, 0};
  mi_text_append(&text, "{ \"name\": ");
  mi_text_append_json(&text, name);
#define FIELD(field) mi_text_append(&text, ", \"" #field "\": %llu", (unsigned long long)counts->field)
  FIELD(blocks);
  FIELD(bytes);
  FIELD(allocations);
  FIELD(frees);
  FIELD(remote_frees);
  FIELD(pages);
  FIELD(committed);
  FIELD(peak);
  FIELD(used);
  FIELD(used_peak);
  FIELD(limit);
  mi_text_append(&text, " }\n");
  return text.length + 1;
}

char* mi_heap_counts_get_json(mi_heap_t* heap, size_t buf_size, char* buf) {
  mi_heap_counts_t counts = {.size = sizeof(counts)};
  if (!counts_check(heap, "mi_heap_counts_get_json")) return NULL;
  counts_gather(heap, &counts);
  const char* const name = mi_heap_name(heap);
  if (buf == NULL) {
    buf_size = counts_write(name, &counts, 0, NULL);
    buf = mi_malloc(buf_size);
    if (buf == NULL) return NULL;
  }
  if (counts_write(name, &counts, buf_size, buf) > buf_size) {
    if (buf_size > 0) buf[0] = 0;
    errno = ERANGE;
    return NULL;
  }
  return buf;
}
