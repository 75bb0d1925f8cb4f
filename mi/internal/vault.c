// Vaults: the arenas that spaces take their segments from, the spaces that live, and those in quarantine: heaps with
// memory of their own that ended.
//
// A vault is an exclusive arena. Heaps with a space have their handles, lanes and theaps in ordinary segments of it,
// where nobody's blocks are, and their blocks in segments that are theirs alone. It is not the span of mi_free, so that
// nothing is read of what a pointer into it leads to before the arena's kind byte was asked.
//
// When such a heap ends, its segments are closed (their memory is gone, every access faults) and stay so, and the
// handle stays dead, with the heap's name in it: that is the quarantine, first in, first out, of at most
// MI_QUARANTINE_HEAPS heaps and MI_QUARANTINE_BYTES of address space (fewer where address space is limited). Who frees
// a block of one of them, or uses its handle, is told which heap that was, and the program ends.
//
// One lock guards both lists. It is taken when such a heap is made or ends, by a forced collect of everything, before a
// program is told of its mistake, and around a fork; never to free, and to allocate only when there is no memory. In
// the child of a fork, memory of secrets is closed at once: MADV_DONTFORK left holes, where the child would map
// something else.
#include <errno.h>
#include <string.h>

#include "mi/internal/options.h"
#include "mi/internal/space.h"
#include "mi/internal/stats.h"

// --- the lists -----------------------------------------------------------------------------------------------------

static _Atomic(uintptr_t) lock_owner;  // the address of its thread's state; 0: nobody
static unsigned lock_nested;           // by who has it, as what follows
static mi_space_t* living;
static mi_space_t* buried_first;  // the oldest
static mi_space_t* buried_last;
static size_t buried_count, buried_segments;

static void enter(void) {
  const uintptr_t self = (uintptr_t)&_mi_tls;
  if (mi_load_relaxed(&lock_owner) == self) {  // a fork in a signal handler
    lock_nested++;
    return;
  }
  uintptr_t expected = 0;
  while (!mi_cas_weak_acq_rel(&lock_owner, &expected, self)) {
    expected = 0;
    _mi_os_yield();
  }
}

static void leave(void) {
  if (lock_nested > 0) {
    lock_nested--;
  } else {
    mi_store_release(&lock_owner, (uintptr_t)0);
  }
}

// --- arenas --------------------------------------------------------------------------------------------------------

mi_arena_t* _mi_vault_next(size_t* i) {
  for (; *i < MI_ARENAS_MAX; ++*i) {
    mi_arena_t* const arena = mi_load_acquire(&_mi_arenas[*i]);
    if (arena == NULL) return NULL;
    if (arena->is_vault) {
      ++*i;
      return arena;
    }
  }
  return NULL;
}

// One more vault, for at least so many segments: as large as the first arena, then twice as large as the last.
static mi_arena_t* vault_make(size_t segments) {
  const size_t least = (segments + 8) << MI_SEGMENT_SHIFT;
  size_t goal = (size_t)_mi_option(mi_option_arena_reserve) * MI_KiB, i = 0;
  if (goal == 0) goal = _mi_os_reserve_goal();
  for (const mi_arena_t* last; (last = _mi_vault_next(&i)) != NULL;)
    goal = 2 * (last->segment_count << MI_SEGMENT_SHIFT);
  goal = mi_round_up(goal < least ? least : goal, MI_SEGMENT_SIZE);
  for (;;) {
    uint8_t* const start = _mi_os_reserve(goal, MI_SEGMENT_SIZE, MI_SECURE != 0);
    if (start != NULL) {
      const mi_area_t area = {
          .start = start, .size = goal, .is_zero = true, .is_exclusive = true, .is_vault = true, .numa_node = -1};
      mi_arena_t* const arena = _mi_arena_add(&area);
      if (arena == NULL) {
        _mi_os_unreserve(start, goal);
      } else {
        mi_count(&_mi_stats.arenas, 1);
        mi_gauge_add(&_mi_stats.reserved, (int64_t)goal);
      }
      return arena;
    }
    if (goal <= least) return NULL;
    goal = mi_round_up(goal / 2 < least ? least : goal / 2, MI_SEGMENT_SIZE);
  }
}

// --- segments ------------------------------------------------------------------------------------------------------

static bool segments_claim(size_t count, size_t alignment, size_t phase, mi_arena_t** arena, size_t* index) {
  size_t i = 0;
  for (mi_arena_t* vault; (vault = _mi_vault_next(&i)) != NULL;) {
    if (_mi_segments_claim(count, alignment, phase, vault, false, arena, index)) return true;
  }
  return false;
}

static uint8_t* segment_start(const mi_space_segment_t* s) { return mi_arena_segment(s->arena, s->index); }
static size_t segment_size(const mi_space_segment_t* s) { return s->count << MI_SEGMENT_SHIFT; }

static void set_kinds(const mi_space_segment_t* s, mi_segment_kind_t kind) {
  for (size_t i = 0; i < s->count; i++) mi_store_release(&s->arena->kind[s->index + i], (uint8_t)kind);
}

// All of a segment but its head becomes inaccessible.
static bool segment_shut(const mi_space_segment_t* s) {
  uint8_t* const start = segment_start(s) + MI_SPACE_HEAD;
  const size_t size = segment_size(s) - MI_SPACE_HEAD;
  return _mi_os_close(start, size) || _mi_os_access(start, size, MI_ACCESS_NONE);
}

mi_space_segment_t* _mi_vault_claim(mi_space_t* space, size_t count, size_t alignment, size_t phase) {
  mi_arena_t* arena;
  size_t index;
  count++;
  while (!segments_claim(count, alignment, phase, &arena, &index)) {
    if (!_mi_vault_make_room(count + (alignment >> MI_SEGMENT_SHIFT))) return NULL;
  }
  _mi_arena_await_growth(arena);  // a thread that is late would open what is closed from here on
  // A segment that held handles may have a guard behind its slots.
  if (!_mi_segments_unguard(arena, index, count)) return NULL;
  uint8_t* const start = mi_arena_segment(arena, index);
  if (mi_load_relaxed(&arena->info[index].dirty) != 0) memset(start, 0, MI_SPACE_HEAD);
  for (size_t i = 0; i < count; i++) mi_store_relaxed(&arena->info[index + i].dirty, ~(uint64_t)0);
  mi_space_segment_t* const s = (mi_space_segment_t*)(start + sizeof(mi_segment_t));
  s->space = space;
  s->arena = arena;
  s->index = index;
  s->count = count;
  if (!segment_shut(s)) {
    _mi_segments_release(arena, index, count);
    return NULL;
  }
  set_kinds(s, MI_SEGMENT_CLOSED);
  mi_gauge_add(&_mi_stats.segments, (int64_t)count);
  return s;
}

// Gives a segment back to its arena, as new.
static void segment_release(mi_space_segment_t* segment) {
  const mi_space_segment_t s = *segment;
  uint8_t* const start = segment_start(&s);
  // What cannot be opened again is not used again.
  if (!_mi_os_reopen(start + MI_SPACE_HEAD, segment_size(&s) - MI_SPACE_HEAD)) return;
  const bool zero = (_mi_os_purge(start, MI_SPACE_HEAD, true) == MI_PURGE_ZERO);
  for (size_t i = 0; i < s.count; i++) mi_store_relaxed(&s.arena->info[s.index + i].dirty, zero ? 0 : ~(uint64_t)0);
  set_kinds(&s, MI_SEGMENT_UNUSED);
  mi_gauge_sub(&_mi_stats.segments, (int64_t)s.count);
  _mi_segments_release(s.arena, s.index, s.count);
}

// --- lives ---------------------------------------------------------------------------------------------------------

void _mi_vault_enter(mi_space_t* space) {
  enter();
  space->prev = NULL;
  space->next = living;
  if (living != NULL) living->prev = space;
  living = space;
  leave();
}

static size_t list_shut(mi_space_segment_t* s) {
  size_t count = 0;
  for (; s != NULL; s = s->next) {
    // Nobody finds a page there from now on, and the slots' memory goes; the head of the segment stays, for the list.
    set_kinds(s, MI_SEGMENT_CLOSED);
    segment_shut(s);
    _mi_os_purge(segment_start(s), sizeof(mi_segment_t), true);
    count += s->count;
  }
  return count;
}

void _mi_vault_shut(mi_space_t* space) {
  enter();
  space->buried = list_shut(mi_load_acquire(&space->segments)) + list_shut(mi_load_acquire(&space->huge));
  leave();
}

static void list_release(mi_space_segment_t* s) {
  while (s != NULL) {
    mi_space_segment_t* const next = s->next;
    segment_release(s);
    s = next;
  }
}

// With the lock: the oldest of the quarantine leaves it.
static void quarantine_pop(void) {
  mi_space_t* const space = buried_first;
  buried_first = space->next;
  if (buried_first == NULL) buried_last = NULL;
  buried_count--;
  buried_segments -= space->buried;
  list_release(mi_load_relaxed(&space->segments));
  list_release(mi_load_relaxed(&space->huge));
  mi_heap_set_flags(space->heap, 0);
  _mi_internal_free(space->heap);
}

// All vaults are full (or there is no memory, and then this ends soon). Where there is no more address space, the
// quarantine holds less.
bool _mi_vault_make_room(size_t segments) {
  if (vault_make(segments) != NULL) return true;
  enter();
  const bool any = (buried_first != NULL);
  if (any) quarantine_pop();
  leave();
  return any;
}

void _mi_vault_bury(mi_space_t* space) {
  enter();
  if (space->next != NULL) space->next->prev = space->prev;
  if (space->prev != NULL) {
    space->prev->next = space->next;
  } else {
    living = space->next;
  }
  space->next = NULL;
  if (buried_last != NULL) {
    buried_last->next = space;
  } else {
    buried_first = space;
  }
  buried_last = space;
  buried_count++;
  buried_segments += space->buried;
  while (buried_count > MI_QUARANTINE_HEAPS || buried_segments > MI_QUARANTINE_BYTES >> MI_SEGMENT_SHIFT)
    quarantine_pop();
  leave();
}

// A space whose lock is had does not leave the list: its end waits for the lock, and never gives it back.
void _mi_vault_collect(bool secrets_only) {
  enter();
  for (mi_space_t* space = living; space != NULL; space = space->next) {
    if ((secrets_only && !space->is_secret) || mi_space_is_inherited(space) || !_mi_space_try_enter(space)) continue;
    leave();
    // What stopped in its end when this process was forked stays as it is.
    if (mi_load_acquire(&space->heap->home.id) == space->id && mi_load_relaxed(&space->heap->state) == MI_HEAP_OPEN)
      _mi_space_collect(space, true);
    enter();
    _mi_space_leave(space);
  }
  leave();
}

// --- accusations ---------------------------------------------------------------------------------------------------

static bool list_holds(const mi_space_segment_t* s, const mi_arena_t* arena, size_t index) {
  for (; s != NULL; s = s->next) {
    if (s->arena == arena && index - s->index < s->count) return true;
  }
  return false;
}

static const mi_space_t* space_find(const mi_space_t* list, const mi_arena_t* arena, size_t index) {
  for (; list != NULL; list = list->next) {
    if (list_holds(mi_load_acquire(&((mi_space_t*)list)->segments), arena, index) ||
        list_holds(mi_load_acquire(&((mi_space_t*)list)->huge), arena, index))
      return list;
  }
  return NULL;
}

void _mi_vault_accuse(const void* p, const char* function) {
  size_t index;
  const mi_arena_t* const arena = _mi_arena_of(p, &index);
  if (arena == NULL || !arena->is_vault) return;
  enter();
  const mi_space_t* space = space_find(living, arena, index);
  const bool lives = (space != NULL);
  if (space == NULL) space = space_find(buried_first, arena, index);
  char name[sizeof(space->name)];
  const mi_heap_t* heap = NULL;
  uint64_t id = 0;
  if (space != NULL) {
    memcpy(name, space->name, sizeof(name));
    heap = space->heap;
    id = space->id;
  }
  leave();
  if (heap == NULL) return;
  if (lives) {
    _mi_corruption(EAGAIN, "%s: invalid pointer %p: no block is there (any more) (heap %p \"%s\", thread %u)\n",
                   function, p, (const void*)heap, name, _mi_os_thread_id());
  }
  _mi_corruption(EFAULT, "%s: %p was a block of a heap that was destroyed (heap %p \"%s\", number %llu, thread %u)\n",
                 function, p, (const void*)heap, name, (unsigned long long)id, _mi_os_thread_id());
}

void _mi_vault_accuse_heap(const mi_heap_t* heap, const char* function) {
  const mi_space_t* const space = mi_heap_space(heap);
  if (space == NULL) return;
  _mi_corruption(EFAULT, "%s: the heap was destroyed (heap %p \"%s\", number %llu, thread %u)\n", function,
                 (const void*)heap, space->name, (unsigned long long)space->id, _mi_os_thread_id());
}

// --- forks ---------------------------------------------------------------------------------------------------------

void _mi_vault_around_fork(bool before) {
  if (before) {
    enter();
  } else {
    leave();
  }
}

static void list_close_in_child(const mi_space_segment_t* s) {
  for (; s != NULL; s = s->next) segment_shut(s);
}

void _mi_vault_after_fork(void) {
  for (mi_space_t* space = living; space != NULL; space = space->next) {
    mi_store_relaxed(&space->lock, 0u);
    if (!mi_space_is_inherited(space)) continue;
    list_close_in_child(mi_load_relaxed(&space->segments));
    list_close_in_child(mi_load_relaxed(&space->huge));
  }
  leave();  // entered before the fork, by this thread
}
