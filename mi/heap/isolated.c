// Isolated and secret heaps: making one, what protection it really got, sealing it, and its end. Its memory is a space
// (mi/internal/space.c), in which there are no parts, no theaps and no lists.
//
// The handle lies, as that of a heap in an arena does, in a page of its own, with the extras and then the space behind
// it, and nothing of the heap is elsewhere. A thread that makes such a heap its default gets a lane and a theap of it,
// which stay empty.
//
// Protections are never assumed: what the system refuses when the heap is made is not among them, and with `required`
// the heap is not made then. What was got is kept: memory for more blocks either has it too, or is not had.
#include <errno.h>
#include <string.h>

#include "mi/heap/parts.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/os.h"
#include "mi/internal/space.h"
#include "mi/internal/stats.h"

#define MI_HEAP_FLAGS_APART ((uint32_t)(MI_HEAP_ISOLATED | MI_HEAP_SECRET))
#define MI_HEAP_FLAGS_TOGETHER \
  (MI_HEAP_FLAGS_APART |       \
   (uint32_t)(MI_HEAP_HARDENED | MI_HEAP_QUARANTINE | MI_HEAP_WIPE | MI_HEAP_ZERO | MI_HEAP_REPORT_SURVIVORS))

static const char* const protection_names[] = {
    "own segments", "guards",  "guards between pages", "quarantine",       "sealing",
    "wiped",        "no swap", "no core file",         "not in the child", "not in the kernel's map"};
#define PROTECTION_COUNT (sizeof(protection_names) / sizeof(protection_names[0]))

const char* mi_protection_name(mi_protections_t protection) {
  for (size_t i = 0; i < PROTECTION_COUNT; i++) {
    if (protection == (mi_protections_t)1 << i) return protection_names[i];
  }
  return "";
}

mi_protections_t mi_heap_protections(mi_heap_t* heap) {
  if (heap == NULL) {
    _mi_error(EINVAL, "mi_heap_protections: no heap\n");
    return 0;
  }
  if (!_mi_heap_check_usable(heap, "mi_heap_protections")) return 0;
  const mi_space_t* const space = mi_heap_space(heap);
  if (space != NULL) return space->protections;
  const mi_heap_extra_t* const extra = mi_heap_extra(heap);
  return (extra != NULL && (extra->policy & MI_HEAP_WIPE) != 0 ? MI_PROTECTED_WIPED : 0);
}

// --- making one ----------------------------------------------------------------------------------------------------

const char* _mi_isolated_refusal(const mi_heap_config_t* config) {
  if ((config->flags & MI_HEAP_FLAGS_APART) == 0) return NULL;
  if ((config->flags & ~MI_HEAP_FLAGS_TOGETHER) != 0) return "an isolated heap cannot have all of them";
  if (config->arena != NULL || config->numa_node != 0) return "an isolated heap has its memory of no arena or node";
  return NULL;
}

static mi_protections_t protections_of(const mi_space_t* space) {
  mi_protections_t got = MI_PROTECTED_SEGMENTS | MI_PROTECTED_GUARDS | MI_PROTECTED_QUARANTINE | MI_PROTECTED_SEALING;
  if (space->has_guards) got |= MI_PROTECTED_PAGE_GUARDS;
  if (space->wipes) got |= MI_PROTECTED_WIPED;
  if (!space->is_secret) return got;
  const mi_secret_probe_t* const probe = &space->secret;
  if (probe->way == MI_SECRET_FILE) got |= MI_PROTECTED_KERNEL_MAP | MI_PROTECTED_CORE_FILE;
  if (probe->way != MI_SECRET_OPEN) got |= MI_PROTECTED_SWAP;
  if (probe->way != MI_SECRET_FILE && probe->dump_error == 0) got |= MI_PROTECTED_CORE_FILE;
  if (probe->fork_error == 0) got |= MI_PROTECTED_FORK;
  return got;
}

// Why a protection was not had, as an error for the program.
static int reason_of(const mi_space_t* space, mi_protections_t missing) {
  int error = 0;
  if (space != NULL && space->is_secret) {
    if ((missing & MI_PROTECTED_KERNEL_MAP) != 0) error = space->secret.file_error;
    if ((missing & MI_PROTECTED_SWAP) != 0) error = space->secret.lock_error;
    if (error == 0 && (missing & MI_PROTECTED_CORE_FILE) != 0) error = space->secret.dump_error;
    if (error == 0 && (missing & MI_PROTECTED_FORK) != 0) error = space->secret.fork_error;
  }
  return (error == ENOMEM || error == EPERM ? error : ENOTSUP);
}

// The names of a set of protections, one after the other.
static void names_of(mi_protections_t set, char* text, size_t size) {
  size_t length = 0;
  text[0] = 0;
  for (size_t i = 0; i < PROTECTION_COUNT; i++) {
    if ((set >> i & 1) == 0) continue;
    const char* const name = protection_names[i];
    const size_t n = strlen(name), gap = (length == 0 ? 0 : 2);
    if (length + gap + n + 1 > size) return;
    memcpy(text + length, ", ", gap);
    memcpy(text + length + gap, name, n + 1);
    length += gap + n;
  }
}

bool _mi_isolated_satisfies(mi_heap_t* heap, mi_protections_t required) {
  const mi_protections_t missing = required & ~mi_heap_protections(heap);
  if (missing == 0) return true;
  const int error = reason_of(mi_heap_space(heap), missing);
  char names[256];
  names_of(missing, names, sizeof(names));
  _mi_error(error, "mi_heap_new_with: heap %s cannot be made: not to be had: %s (%s)\n", mi_heap_name(heap), names,
            strerror(error));
  mi_heap_destroy(heap);
  errno = error;
  return false;
}

// What a secret heap is for, and what nobody wants to find out later. (That memory is in the kernel's map is told by
// mi_heap_protections only.)
static void warn(const mi_space_t* space, mi_protections_t required) {
  const mi_protections_t all = MI_PROTECTED_SWAP | MI_PROTECTED_CORE_FILE | MI_PROTECTED_FORK;
  const mi_protections_t missing = (space->is_secret ? all & ~space->protections & ~required : 0);
  if (missing == 0) return;
  char names[256];
  names_of(missing, names, sizeof(names));
  _mi_warning("secret heap %s is without: %s (%s)\n", space->name, names, strerror(reason_of(space, missing)));
}

static mi_heap_t* handle_make(mi_thread_t* thread, size_t size) {
  do {
    size_t i = 0;
    for (mi_arena_t* vault; (vault = _mi_vault_next(&i)) != NULL;) {
      mi_heap_t* const heap = _mi_arena_handle_make(thread, vault, size);
      if (heap != NULL) return heap;
    }
  } while (_mi_vault_make_room(1));
  return NULL;
}

mi_heap_t* _mi_isolated_new(const mi_heap_config_t* config) {
  mi_thread_t* const thread = mi_thread();
  const size_t ring = ((config->flags & MI_HEAP_QUARANTINE) != 0 ? MI_QUARANTINE * sizeof(void*) : 0);
  mi_heap_t* const heap = (thread == NULL ? NULL : handle_make(thread, MI_OS_PAGE + ring));
  if (heap == NULL) {
    _mi_error(ENOMEM, "mi_heap_new_with: no memory for an isolated heap\n");
    return NULL;
  }
  mi_space_t* const space = (mi_space_t*)((uint8_t*)heap + MI_SPACE_OFFSET);
  space->heap = heap;
  space->id = _mi_heap_next_id(thread);
  for (size_t i = 0; config->name != NULL && i + 1 < sizeof(space->name) && config->name[i] != 0; i++)
    space->name[i] = config->name[i];
  space->policy = (uint8_t)config->flags;
  space->is_secret = (config->flags & MI_HEAP_SECRET) != 0;
  space->wipes = space->is_secret || (config->flags & MI_HEAP_WIPE) != 0;
  space->has_guards = space->is_secret || _mi_os_may_guard();
  space->opened = 1;
  space->withheld = (ring == 0 ? NULL : (_Atomic(void*)*)((uint8_t*)heap + MI_OS_PAGE));
  mi_store_relaxed(&space->stamp, _mi_fork_stamp);
  if (space->is_secret) _mi_os_secret_probe(&space->secret);
  space->protections = protections_of(space);
  warn(space, config->required);
  mi_heap_set_flags(heap, mi_heap_flags(heap) | MI_HEAP_IN_SPACE);
  _mi_vault_enter(space);
  ((mi_heap_extra_t*)heap->home.config)->subproc = mi_load_relaxed(&thread->subproc);
  // Release: who enumerates the handles and finds an id finds a heap that is set up.
  mi_store_release(&heap->home.id, space->id);
  return heap;
}
_Static_assert(((size_t)1 << MI_REGION_SHIFT_MIN) + sizeof(mi_heap_extra_t) <= MI_SPACE_OFFSET,
               "the extras lie between the handle and its space");

// --- blocks --------------------------------------------------------------------------------------------------------

// Work that the program put off is due by what the thread's theap of the heap hands out, which is nothing: it is told
// of this block.
static void count_supplied(mi_thread_t* thread, mi_heap_t* heap, size_t size) {
  mi_part_t* const part = _mi_part_of(thread, heap);
  mi_theap_t* const theap = (part == NULL ? NULL : _mi_part_theap(thread, part));
  if (theap == NULL) return;
  theap->supplied_blocks++;
  theap->supplied_bytes += size;
}

static bool refuse(mi_heap_t* heap, const mi_space_t* space, const char* function, size_t size) {
  const char* const refusal = _mi_space_refusal(space);
  if (mi_likely(refusal == NULL)) return false;
  _mi_error(EPERM, "%s: %zu bytes refused in heap %p (%s): %s\n", function, size, (void*)heap, space->name, refusal);
  errno = EPERM;
  return true;
}

void* _mi_isolated_alloc(mi_thread_t* thread, mi_heap_t* heap, const mi_request_t* r) {
  if (!_mi_heap_check_usable(heap, "allocation")) return NULL;
  mi_space_t* const space = mi_heap_space(heap);
  if (mi_unlikely(r->size > MI_ALLOC_MAX)) {
    _mi_error(ENOMEM, "allocation of %zu bytes refused: larger than PTRDIFF_MAX\n", r->size);
    return NULL;
  }
  if (mi_unlikely(mi_load_relaxed(&_mi_deferred_armed) != 0)) count_supplied(thread, heap, r->size);
  _mi_slow_path(thread, heap);
  const bool zero = r->zero || (space->policy & MI_HEAP_ZERO) != 0;
  mi_limit_tries_t limit_tries = {0, 0, 0};
  for (int tries = 0;;) {
    // A callback may have ended the heap, or sealed it.
    if (mi_load_acquire(&heap->home.id) != space->id || refuse(heap, space, "allocation", r->size)) return NULL;
    thread->refusal.heap = NULL;
    void* const p = _mi_space_alloc(space, r->size, r->alignment, r->offset, zero);
    if (mi_likely(p != NULL)) {
      if (mi_unlikely(thread->alarm)) _mi_limit_alarm(thread, heap);
      return p;
    }
    if (thread->refusal.heap != NULL) {
      if (!_mi_limit_try_again(thread, heap, r->size, &limit_tries)) return NULL;
      continue;
    }
    if (++tries == 1) {
      _mi_deferred_call(thread, heap, true);
      if (mi_load_acquire(&heap->home.id) == space->id) _mi_space_collect(space, true);
    } else if (tries == 2 && space->is_secret) {
      _mi_vault_collect(true);  // what other heaps have in quarantine is locked, too
    } else {
      break;
    }
  }
  _mi_error(ENOMEM, "no memory for %zu bytes in heap %p (%s)\n", r->size, (void*)heap, space->name);
  return NULL;
}

void* _mi_isolated_realloc(mi_heap_t* heap, mi_page_t* page, void* p, size_t newsize, size_t alignment, size_t offset,
                           bool zero) {
  const mi_space_t* const space = mi_space_segment_of(page)->space;
  const size_t usable = _mi_space_block_size(page, p, "realloc");
  if (refuse(space->heap, space, "realloc", newsize)) return NULL;
  if (heap == NULL) heap = space->heap;
  const bool aligned = (((uintptr_t)p + offset) & (alignment - 1)) == 0;
  if (heap == space->heap && newsize > 0 && aligned &&
      _mi_space_resize(page, p, newsize, zero || (space->policy & MI_HEAP_ZERO) != 0, false, "realloc")) {
    return p;
  }
  void* const q = _mi_heap_alloc_aligned(heap, newsize, alignment, offset, zero);
  if (mi_unlikely(q == NULL)) return NULL;
  memcpy(q, p, newsize < usable ? newsize : usable);
  _mi_space_free(page, p);
  return q;
}

// --- sealing -------------------------------------------------------------------------------------------------------

static bool protect(mi_space_t* space, mi_protection_t mode) {
  if (mode == MI_PROTECT_READ_WRITE) {
    if (space->opened == UINT32_MAX || !_mi_space_set_access(space, MI_ACCESS_WRITE)) return false;
    space->opened++;
    return true;
  }
  if (space->opened > 1) {
    space->opened--;
    return true;
  }
  if (!_mi_space_set_access(space, mode == MI_PROTECT_READ ? MI_ACCESS_READ : MI_ACCESS_NONE)) return false;
  space->opened = 0;
  return true;
}

bool mi_heap_protect(mi_heap_t* heap, mi_protection_t mode) {
  if (heap == NULL || (mode != MI_PROTECT_NONE && mode != MI_PROTECT_READ && mode != MI_PROTECT_READ_WRITE)) {
    _mi_error(EINVAL, "mi_heap_protect: no heap, or mode %d is none\n", (int)mode);
    return false;
  }
  if (!_mi_heap_check_usable(heap, "mi_heap_protect")) return false;
  mi_space_t* const space = mi_heap_space(heap);
  if (space == NULL) {
    _mi_error(EINVAL, "mi_heap_protect: heap %p (%s) is not isolated\n", (void*)heap, mi_heap_name(heap));
    return false;
  }
  _mi_space_enter(space);
  const bool ok = protect(space, mode);
  _mi_space_leave(space);
  if (!ok) _mi_error(ENOMEM, "mi_heap_protect: the system refused for heap %p (%s)\n", (void*)heap, space->name);
  return ok;
}

// --- ends ----------------------------------------------------------------------------------------------------------

bool _mi_isolated_may_reset(mi_heap_t* heap, const char* function) {
  const mi_space_t* const space = mi_heap_space(heap);
  if (space == NULL || mi_load_relaxed((_Atomic(uint32_t)*)&space->sealed) == 0) return true;
  _mi_error(EPERM, "%s: heap %p (%s) is sealed (mi_heap_protect)\n", function, (void*)heap, space->name);
  errno = EPERM;
  return false;
}

bool _mi_isolated_stays(mi_heap_t* heap, mi_heap_t* into, const char* function) {
  if (mi_heap_space(heap) == NULL && mi_heap_space(into) == NULL) return false;
  _mi_error(EINVAL, "%s: heap %p (%s): blocks of isolated heaps do not move: destroy or reset it\n", function,
            (void*)heap, mi_heap_name(heap));
  return true;
}
