// Arenas by name: address space that the program reserves, huge OS pages, and memory that the program manages itself.
// What an arena is, is internal/arena.c; heaps in one are heap/arena_heap.c.
#include <errno.h>
#include <limits.h>

#include "mi/heap/parts.h"
#include "mi/internal/arena.h"
#include "mi/internal/os.h"
#include "mi/mimalloc.h"

static mi_arena_t* arena_of_id(mi_arena_id_t id, const char* function) {
  if (_mi_arena_exists(id)) return id;
  _mi_error(EINVAL, "%s: %p is no arena\n", function, id);
  return NULL;
}

// 2.x's programs name arenas by numbers: the place in the table, counted from 1.
mi_arena_id_t _mi_arena_id_of_index(int number) {
  if (number == 0) return NULL;
  mi_arena_t* const arena = (number < 0 || number > MI_ARENAS_MAX ? NULL : mi_load_acquire(&_mi_arenas[number - 1]));
  return (arena != NULL ? arena : (mi_arena_id_t)UINTPTR_MAX);  // which is refused, as NULL ("any") would not be
}
int _mi_arena_index_of_id(mi_arena_id_t id) {
  for (int i = 0; i < MI_ARENAS_MAX && id != NULL; i++) {
    const mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    if (arena == id) return i + 1;
  }
  return 0;
}

// --- memory of the program ----------------------------------------------------------------------------------

bool mi_manage_memory(void* start, size_t size, bool is_committed, bool is_pinned, bool is_zero, int numa_node,
                      bool exclusive, mi_commit_fun_t* commit_fun, void* commit_fun_arg, mi_arena_id_t* arena_id) {
  if (arena_id != NULL) *arena_id = NULL;
  if (start == NULL) {
    _mi_error(EINVAL, "mi_manage_memory: no memory given\n");
    return false;
  }
  if (mi_thread() == NULL) {  // reads the options
    _mi_error(ENOMEM, "mi_manage_memory: the thread could not be set up\n");
    return false;
  }
  const mi_area_t area = {
      .start = start,
      .size = size,
      .is_committed = is_committed,
      .is_zero = is_zero,
      .is_pinned = is_pinned,
      .is_exclusive = exclusive,
      .is_foreign = true,
      .numa_node = numa_node,
      .commit = commit_fun,
      .commit_arg = commit_fun_arg,
  };
  mi_arena_t* const arena = _mi_arena_add(&area);
  if (arena == NULL) {
    const bool fits = (size >= MI_SEGMENT_SIZE && (0 - (uintptr_t)start) % MI_SEGMENT_SIZE <= size - MI_SEGMENT_SIZE);
    _mi_error(fits ? ENOMEM : EINVAL, "mi_manage_memory: %zu bytes at %p cannot be managed: %s\n", size, start,
              fits ? "no memory for them" : "they hold no 4 MiB that are aligned to 4 MiB");
    return false;
  }
  if (arena_id != NULL) *arena_id = arena;
  return true;
}

bool mi_manage_os_memory_ex(void* start, size_t size, bool is_committed, bool is_pinned, bool is_zero, int numa_node,
                            bool exclusive, mi_arena_id_t* arena_id) {
  return mi_manage_memory(start, size, is_committed, is_pinned, is_zero, numa_node, exclusive, NULL, NULL, arena_id);
}
bool mi_manage_os_memory(void* start, size_t size, bool is_committed, bool is_pinned, bool is_zero, int numa_node) {
  return mi_manage_os_memory_ex(start, size, is_committed, is_pinned, is_zero, numa_node, false, NULL);
}

// --- memory of the system -----------------------------------------------------------------------------------

int mi_reserve_os_memory_ex(size_t size, bool commit, bool allow_large, bool exclusive, mi_arena_id_t* arena_id) {
  if (arena_id != NULL) *arena_id = NULL;
  if (mi_thread() == NULL) return ENOMEM;
  if (size == 0 || size > MI_ALLOC_MAX / 2) {
    _mi_error(EINVAL, "mi_reserve_os_memory: %zu bytes cannot be reserved\n", size);
    return EINVAL;
  }
  size = mi_round_up(size, MI_SEGMENT_SIZE) + MI_SEGMENT_SIZE;  // and the arena's header
  uint8_t* const start = _mi_os_reserve(size, MI_SEGMENT_SIZE, false);
  if (start == NULL) {
    _mi_error(ENOMEM, "mi_reserve_os_memory: no address space for %zu bytes\n", size);
    return ENOMEM;
  }
  const bool is_large = (allow_large && _mi_os_map_huge_pages(start, size, MI_OS_PAGE_2MIB));
  if (!is_large && commit && !_mi_os_commit(start, size)) {
    _mi_os_free(start, size);
    _mi_error(ENOMEM, "mi_reserve_os_memory: no memory for %zu bytes\n", size);
    return ENOMEM;
  }
  const mi_area_t area = {
      .start = start,
      .size = size,
      .is_committed = commit || is_large,
      .is_zero = true,
      .is_pinned = is_large,
      .is_exclusive = exclusive,
      .numa_node = -1,
  };
  mi_arena_t* const arena = _mi_arena_add(&area);
  if (arena == NULL) {
    _mi_os_free(start, size);
    _mi_error(ENOMEM, "mi_reserve_os_memory: no room for another arena\n");
    return ENOMEM;
  }
  if (arena_id != NULL) *arena_id = arena;
  return 0;
}

int mi_reserve_os_memory(size_t size, bool commit, bool allow_large) {
  return mi_reserve_os_memory_ex(size, commit, allow_large, false, NULL);
}

// At one node. `*reserved` counts the pages that were obtained, also if they are not all.
static int reserve_huge(size_t pages, int numa_node, size_t timeout_msecs, bool exclusive, mi_arena_id_t* arena_id,
                        size_t* reserved) {
  if (arena_id != NULL) *arena_id = NULL;
  if (mi_thread() == NULL) return ENOMEM;
  if (pages == 0) return 0;
  if (pages > MI_ALLOC_MAX / (2 * MI_GiB) || numa_node < -1 || numa_node > MI_NUMA_NODE_MAX) {
    _mi_error(EINVAL, "mi_reserve_huge_os_pages: %zu pages at node %d are refused\n", pages, numa_node);
    return EINVAL;
  }
  int error = ENOMEM;
  uint8_t* const start = _mi_os_reserve(pages * MI_GiB, MI_GiB, false);
  size_t got = 0;
  const uint64_t begin = _mi_os_clock_ms();
  while (start != NULL && got < pages) {
    if (timeout_msecs != 0 && _mi_os_clock_ms() - begin >= timeout_msecs) {
      error = ETIMEDOUT;
      break;
    }
    if (!_mi_os_map_huge_pages(start + got * MI_GiB, MI_GiB, MI_OS_PAGE_1GIB)) break;
    if (numa_node >= 0) _mi_os_prefer_node(start + got * MI_GiB, MI_GiB, numa_node);
    got++;
  }
  if (start != NULL && got < pages) _mi_os_free(start + got * MI_GiB, (pages - got) * MI_GiB);
  if (got > 0) {
    const mi_area_t area = {
        .start = start,
        .size = got * MI_GiB,
        .is_committed = true,
        .is_zero = true,
        .is_pinned = true,
        .is_exclusive = exclusive,
        .numa_node = numa_node,
    };
    mi_arena_t* const arena = _mi_arena_add(&area);
    if (arena == NULL) {
      _mi_os_free(start, got * MI_GiB);
      got = 0;
    } else if (arena_id != NULL) {
      *arena_id = arena;
    }
  }
  *reserved += got;
  if (got == pages) return 0;
  _mi_error(error, "mi_reserve_huge_os_pages: %zu of %zu pages of 1 GiB were obtained\n", got, pages);
  return error;
}

int mi_reserve_huge_os_pages_at_ex(size_t pages, int numa_node, size_t timeout_msecs, bool exclusive,
                                   mi_arena_id_t* arena_id) {
  size_t reserved = 0;
  return reserve_huge(pages, numa_node, timeout_msecs, exclusive, arena_id, &reserved);
}

int mi_reserve_huge_os_pages_at(size_t pages, int numa_node, size_t timeout_msecs) {
  return mi_reserve_huge_os_pages_at_ex(pages, numa_node, timeout_msecs, false, NULL);
}

static int reserve_interleaved(size_t pages, size_t nodes, size_t timeout_msecs, size_t* reserved) {
  const long limit = _mi_option(mi_option_use_numa_nodes);
  if (nodes == 0) nodes = (limit > 0 ? (size_t)limit : _mi_os_node_count());
  if (nodes > MI_NUMA_NODE_MAX) nodes = MI_NUMA_NODE_MAX;
  int result = 0;
  for (size_t node = 0; node < nodes; node++) {
    const size_t share = pages / nodes + (node < pages % nodes ? 1 : 0);
    const size_t timeout = (timeout_msecs == 0 ? 0 : timeout_msecs / nodes + 1);
    const int error = reserve_huge(share, (int)node, timeout, false, NULL, reserved);
    if (error != 0) result = error;
  }
  return result;
}

int mi_reserve_huge_os_pages_interleave(size_t pages, size_t numa_nodes, size_t timeout_msecs) {
  size_t reserved = 0;
  return reserve_interleaved(pages, numa_nodes, timeout_msecs, &reserved);
}

int mi_reserve_huge_os_pages(size_t pages, double max_secs, size_t* pages_reserved) {
  size_t reserved = 0;
  const double most = 1e6;  // seconds
  const size_t timeout = (max_secs > 0 ? (size_t)((max_secs < most ? max_secs : most) * 1000) : 0);
  const int error = reserve_interleaved(pages, 0, timeout, &reserved);
  if (pages_reserved != NULL) *pages_reserved = reserved;
  return error;
}

// What the options ask for. Without it the program runs all the same: each that cannot be had is reported.
void _mi_reserve_at_start(void) {
  const long pages = _mi_option(mi_option_reserve_huge_os_pages), node = _mi_option(mi_option_reserve_huge_os_pages_at);
  if (pages > 0) {
    const size_t timeout = (size_t)pages * 500;
    if (node >= 0 && node <= MI_NUMA_NODE_MAX) {
      mi_reserve_huge_os_pages_at((size_t)pages, (int)node, timeout);
    } else {
      mi_reserve_huge_os_pages_interleave((size_t)pages, 0, timeout);
    }
  }
  const long size = _mi_option(mi_option_reserve_os_memory);
  if (size > 0)
    mi_reserve_os_memory(size > (long)(MI_ALLOC_MAX / MI_KiB) ? MI_ALLOC_MAX : (size_t)size * MI_KiB, true, true);
}

// --- asking -------------------------------------------------------------------------------------------------

void* mi_arena_area(mi_arena_id_t arena_id, size_t* size) {
  if (size != NULL) *size = 0;
  const mi_arena_t* const arena = arena_of_id(arena_id, "mi_arena_area");
  if (arena == NULL) return NULL;
  if (size != NULL) *size = arena->area_size;
  return arena->area;
}

bool mi_arena_contains(mi_arena_id_t arena_id, const void* p) {
  const mi_arena_t* const arena = arena_of_id(arena_id, "mi_arena_contains");
  // A block may start at the end of a segment, which is the end of the arena for a block without bytes only.
  return arena != NULL && (uintptr_t)p - (uintptr_t)arena->area < arena->area_size;
}

size_t mi_arena_min_alignment(void) { return MI_SEGMENT_SIZE; }
size_t mi_arena_min_size(void) { return MI_SEGMENT_SIZE; }

void mi_arenas_print(void) {
  for (size_t i = 0; i < MI_ARENAS_MAX; i++) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[i]);
    if (arena == NULL) break;
    const size_t ready = mi_load_acquire(&arena->ready);
    size_t normal = 0, huge = 0, own = 0, free_slices = 0, backed = 0;
    for (size_t index = 0; index < ready; index++) {
      const mi_segment_info_t* const info = &arena->info[index];
      const mi_segment_kind_t kind = (mi_segment_kind_t)mi_load_relaxed(&arena->kind[index]);
      normal += (kind == MI_SEGMENT_NORMAL);
      huge += (kind == MI_SEGMENT_HUGE_START || kind == MI_SEGMENT_HUGE_INSIDE);
      own += (kind == MI_SEGMENT_PRIVATE);
      free_slices += mi_popcount(mi_load_relaxed((_Atomic(uint64_t)*)&info->free));
      backed += mi_popcount(mi_load_relaxed((_Atomic(uint64_t)*)&info->backed));
    }
    _mi_print("arena %zu at %p: %zu segments of 4 MiB, %zu accessible%s%s%s\n", i, (void*)arena->area,
              arena->segment_count, ready, arena->is_exclusive ? ", exclusive" : "",
              arena->is_foreign ? ", memory of the program" : "", arena->is_pinned ? ", pinned" : "");
    _mi_print(
        "  %zu with pages (%zu slices of 64 KiB free), %zu of huge blocks, %zu for the arena itself; "
        "%zu KiB may have memory behind them\n",
        normal, free_slices, huge, own, backed * (MI_SLICE_SIZE / MI_KiB));
  }
}

void mi_debug_show_arenas(void) { mi_arenas_print(); }
