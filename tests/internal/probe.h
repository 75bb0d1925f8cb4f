// What the unit tests of the library's insides see: plain C functions and structures that C++ can include. The private
// headers are C11 with _Atomic and cannot be; probe.c includes them and copies out what a test asks for.
//
// A probe holds no state and changes nothing but what its name says. The snapshots read fields that belong to a page's,
// part's or theap's owner: take them where nobody else is at work on the object.
#ifndef MI_TESTS_INTERNAL_PROBE_H_
#define MI_TESTS_INTERNAL_PROBE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mi/mimalloc.h"

#ifdef __cplusplus
extern "C" {
#endif

// --- bits.h ---------------------------------------------------------------------------------------------------
size_t probe_bin_of(size_t size);
size_t probe_bin_size(size_t bin);
size_t probe_bin_last(void);
size_t probe_bin_full(void);
size_t probe_bin_late(void);
size_t probe_bin_solo(void);
size_t probe_bin_direct_last(void);
size_t probe_find_run(uint64_t word, size_t count, size_t align);
uint64_t probe_run_mask(size_t index, size_t count);
size_t probe_msb(size_t x);
size_t probe_round_up(size_t x, size_t power_of_two);

// --- fork: what a thread could have left that did not survive one ------------------------------------------------
// A free of a block of a full page that stopped after its first step (`told`: after the second one).
void probe_free_halfway(void* p, bool told);
void probe_free_go_on(void* p, bool told);  // to its end
// Of a block in the first slice of a bit page: the number of the page among those in its slice; a free of it by a
// thread that found it live some time ago, false if that reports a double free; the two halves of that, of which the
// second is of the block that was taken last; a free by the calling thread between the two that does not see the first;
// do the calling thread's delayed frees of the heap lead to pages of its theap only?
uint64_t probe_bits_generation(const void* p);
bool probe_bits_free_remote(const void* p);
bool probe_bits_take_live(const void* p);
bool probe_bits_tell(const void* p);
bool probe_bits_free_unseen(void* p);
bool probe_same_page(const void* p, const void* q);
bool probe_delayed_frees_lead_to_pages(mi_heap_t* heap);
// The last bytes of a block that ends there, of 16 at least; `edges`: as in the secure build. There was a page with a
// policy before.
void probe_padding_write(uint8_t* end, size_t padding, bool edge);
bool probe_padding_is_whole(const uint8_t* end, size_t padding, bool edge);
size_t probe_padding_breach(const uint8_t* end, size_t padding);  // it is not whole
// Summaries that were about to be set: no segment is marked in either.
void probe_summaries_forget(void);
// Handles that were counted as returned to the calling thread, and were not pushed.
void probe_returned_count(uint32_t bytes);
uint32_t probe_returned_bytes(void);
// In the first part of the heap, which is the calling thread's: an object was about to be made, of which there is the
// start. It is the first one that a word of bits has room for. Returns how many objects were made before.
size_t probe_object_halfway(mi_heap_t* heap);
// The regions in use of the home part are its spare ones as well.
void probe_spare_regions_in_use(mi_heap_t* heap, bool on);
uint32_t probe_fork_stamp(void);

// --- arenas and segments ------------------------------------------------------------------------------------------
typedef struct probe_arena_s {
  uint8_t* start;
  size_t segment_count;
  size_t ready;
} probe_arena_t;
typedef enum probe_segment_kind_e {
  PROBE_SEGMENT_UNUSED,
  PROBE_SEGMENT_NORMAL,
  PROBE_SEGMENT_HUGE_START,
  PROBE_SEGMENT_HUGE_INSIDE,
  PROBE_SEGMENT_PRIVATE,
} probe_segment_kind_t;
typedef struct probe_segment_s {
  uint8_t* start;
  size_t arena;
  size_t index;
  probe_segment_kind_t kind;
  bool unused;     // in the arena's bitmap
  bool has_free;   // in the summary
  bool purgeable;  // in the other summary
  uint64_t free, aged, dirty, backed;
  uint64_t little, much;  // of those in `backed`, at most a quarter, or five eighths, has memory
} probe_segment_t;

size_t probe_arena_count(void);
probe_arena_t probe_arena(size_t arena);
bool probe_span_contains(const void* p);
probe_segment_t probe_segment(size_t arena, size_t index);
bool probe_segment_of(const void* p, probe_segment_t* segment);  // false: in no arena
bool probe_segments_claim(size_t count, size_t alignment, size_t phase, probe_segment_t* first);
void probe_segments_release(size_t arena, size_t index, size_t count);
void probe_purge(bool force);
void probe_purge_step(void);     // what a slow path does
typedef struct probe_counts_s {  // of slices, roughly: threads keep back up to 15 each
  long held, used;
} probe_counts_t;
probe_counts_t probe_counts(void);
// The slots from `from` on are zero in everything but what marks the slices of a claimed run.
bool probe_slots_are_clean(const void* segment, size_t from);

// A run of slices, claimed as for a page that is not set up. `slot` names it for the release.
typedef struct probe_run_s {
  void* slot;
  uint8_t* start;
  size_t slices;
  bool zero;
} probe_run_t;
bool probe_slices_claim(size_t count, probe_run_t* run);
bool probe_slices_claim_for(size_t count, size_t expected, probe_run_t* run);  // bytes that are likely to be used
void probe_slices_release(const probe_run_t* run);
void probe_slices_release_used(const probe_run_t* run, size_t used);  // bytes that were, from the start

// The run of segments of one huge block.
typedef struct probe_huge_s {
  void* slot;
  uint8_t* start;
  uint8_t* run;  // the first segment
  size_t size;
  bool zero;
} probe_huge_t;
bool probe_huge_claim(size_t size, size_t alignment, size_t offset, probe_huge_t* huge);
void probe_huge_release(const probe_huge_t* huge);
// Makes the claimed block one that pointers resolve to, as the page layer does.
void probe_huge_publish(const probe_huge_t* huge);
const void* probe_slot_resolved(const void* p);  // NULL: no page there

// --- pages --------------------------------------------------------------------------------------------------------
typedef enum probe_state_e { PROBE_NORMAL, PROBE_DELAYED, PROBE_DELAYING, PROBE_ABANDONED } probe_state_t;
typedef enum probe_kind_e { PROBE_NONE, PROBE_TAIL, PROBE_CLASS, PROBE_SOLO, PROBE_HUGE } probe_kind_t;
typedef struct probe_page_s {
  void* slot;  // its identity
  size_t slice;
  size_t slices;
  probe_kind_t kind;
  size_t bin;
  size_t block_size;
  uint8_t* start;
  size_t used, capacity, reserved, color, retire;
  size_t free, local_free, remote_free;  // lengths of the lists; of a bit page, how many are free, 0, and others freed
  int delayed, pinned;                   // what statistics take off `used`
  bool in_full;
  bool listed;
  probe_state_t state;
  uint64_t owner;  // without flags
  bool owner_full, owner_interior, owner_special;
  const mi_heap_t* heap;
  const mi_theap_t* theap;
} probe_page_t;
size_t probe_block_size(const void* p);  // of the page's blocks: in the secure build more than what is usable
bool probe_page_of(const void* p, probe_page_t* page);  // false: no page there
void probe_page_at(const void* slot, probe_page_t* page);
bool probe_slices_are_free(const void* slot, size_t count);  // `count` slices from this slot's on

// --- theaps, slots ---------------------------------------------------------------------------------------------------
mi_theap_t* probe_theap_main(void);                // of the calling thread
mi_theap_t* probe_theap_internal(void);            // of the calling thread
mi_theap_t* probe_theap_of_heap(mi_heap_t* heap);  // of the heap's first part; NULL: it has none
void* probe_theap_alloc_class(mi_theap_t* theap, size_t bin);
void probe_theap_tidy(mi_theap_t* theap);
size_t probe_queue_length(const mi_theap_t* theap, size_t bin);
size_t probe_theap_page_count(const mi_theap_t* theap);
size_t probe_delayed_length(mi_theap_t* theap);
bool probe_theap_is_sound(const mi_theap_t* theap);  // links, direct table and counts agree
void probe_abandoned_sweep(mi_heap_t* heap);
size_t probe_abandoned_depth(mi_heap_t* heap, size_t bin, const void* slot);  // pages above it in its stack

typedef struct probe_slot_s {
  void* slot;  // NULL: the part has no theap
  uint64_t generation;
  bool is_free, live, busy, taken, dead, is_default;
  bool want_destroy, want_abandon, want_collect;
} probe_slot_t;
probe_slot_t probe_slot_of_heap(mi_heap_t* heap);
probe_slot_t probe_slot_at(void* slot);
bool probe_slot_enter(void* slot);
void probe_slot_leave(void* slot);

// --- threads
// ------------------------------------------------------------------------------------------------------------
uint64_t probe_thread_id(void);  // of the calling thread; makes its record
size_t probe_thread_index(void);
bool probe_thread_has_record(void);
bool probe_tid_is_alive(uint64_t id);
const void* probe_thread_record(void);
const void* probe_record_of(uint64_t id);
bool probe_has_mail(const void* record);

// --- heaps
// ----------------------------------------------------------------------------------------------------------------
typedef struct probe_heap_s {
  uint64_t id;  // 0: the handle is not one of an open heap
  bool gone;    // nothing is left of the heap: the handle is free
  size_t refs;
  long pages_out;
  bool has_lists;  // of abandoned pages
  bool open, closed, dying;
  const mi_heap_t* into;
  size_t lanes;
  size_t forwarders;
} probe_heap_t;
probe_heap_t probe_heap(mi_heap_t* heap);

#define PROBE_REGION_WORDS 64
typedef struct probe_region_s {
  uint8_t* start;
  size_t size;
  size_t first;  // granules
  size_t end;
  uint64_t owner;
  size_t words;
  uint64_t starts[PROBE_REGION_WORDS], freed[PROBE_REGION_WORDS], remote[PROBE_REGION_WORDS];
} probe_region_t;
bool probe_region_of(const void* p, probe_region_t* region);  // false: not an object of a region

void probe_account_walk_begin(void);  // the calling thread is on its way through accounts

typedef struct probe_part_s {
  size_t regions, spare;  // how many
  size_t regions_bytes, spare_bytes;
  size_t bytes;  // what the part has counted
  size_t step;
} probe_part_t;
probe_part_t probe_part(mi_heap_t* heap);  // the first part
size_t probe_part_seen(mi_heap_t* heap, size_t bin);
typedef struct probe_cache_s {
  size_t count, bytes, limit;
  size_t listed, listed_bytes;  // by walking the list
  size_t returned, returned_bytes, returned_listed_bytes;
  int balance;
} probe_cache_t;
probe_cache_t probe_cache(const void* record);

// --- options
// -----------------------------------------------------------------------------------------------------------------
long probe_option_raw(mi_option_t option);  // as kept: sizes in KiB
const void* probe_pair_intern(void (*fun)(void), void* arg);

#ifdef __cplusplus
}
#endif
#endif
