// The probes of probe.h, over the private headers. Holds no expectation of its own: what is right is said by the tests.
#include "tests/internal/probe.h"

#include <string.h>

#include "mi/heap/parts.h"
#include "mi/internal/bit_page.h"
#include "mi/internal/core.h"
#include "mi/internal/options.h"
#include "mi/internal/page_queue.h"
#include "mi/internal/stack.h"

// --- bits.h ---------------------------------------------------------------------------------------------------
size_t probe_bin_of(size_t size) { return mi_bin_of(size); }
size_t probe_bin_size(size_t bin) { return mi_bin_size(bin); }
size_t probe_bin_last(void) { return MI_BIN_LAST; }
size_t probe_bin_full(void) { return MI_BIN_FULL; }
size_t probe_bin_late(void) { return MI_BIN_LATE; }
size_t probe_bin_solo(void) { return MI_BIN_SOLO; }
size_t probe_bin_direct_last(void) { return MI_BIN_DIRECT_LAST; }
size_t probe_find_run(uint64_t word, size_t count, size_t align) { return mi_find_run(word, count, align); }
uint64_t probe_run_mask(size_t index, size_t count) { return mi_run_mask(index, count); }
size_t probe_msb(size_t x) { return mi_msb(x); }
size_t probe_round_up(size_t x, size_t power_of_two) { return mi_round_up(x, power_of_two); }

// --- arenas and segments ------------------------------------------------------------------------------------------
size_t probe_arena_count(void) {
  size_t n = 0;
  while (n < MI_ARENAS_MAX && mi_load_acquire(&_mi_arenas[n]) != NULL) n++;
  return n;
}

probe_arena_t probe_arena(size_t arena) {
  const mi_arena_t* const a = mi_load_acquire(&_mi_arenas[arena]);
  return (probe_arena_t){a->start, a->segment_count, mi_load_acquire(&((mi_arena_t*)a)->ready)};
}

bool probe_span_contains(const void* p) { return mi_span_contains(p); }

probe_segment_t probe_segment(size_t arena, size_t index) {
  mi_arena_t* const a = mi_load_acquire(&_mi_arenas[arena]);
  mi_segment_info_t* const info = &a->info[index];
  const uint64_t bit = (uint64_t)1 << (index % 64);
  probe_segment_t s;
  s.start = mi_arena_segment(a, index);
  s.arena = arena;
  s.index = index;
  s.kind = (probe_segment_kind_t)mi_load_acquire(&a->kind[index]);
  s.unused = (mi_load_acquire(&a->unused[index / 64]) & bit) != 0;
  s.has_free = (mi_load_acquire(&a->has_free[index / 64]) & bit) != 0;
  s.purgeable = (mi_load_acquire(&a->purgeable[index / 64]) & bit) != 0;
  s.free = mi_load_acquire(&info->free);
  s.aged = mi_load_acquire(&info->aged);
  s.dirty = mi_load_acquire(&info->dirty);
  s.backed = mi_load_acquire(&info->backed);
  s.little = mi_load_acquire(&info->part[0]);
  s.much = mi_load_acquire(&info->part[1]);
  return s;
}

static size_t arena_number(const mi_arena_t* arena) {
  size_t n = 0;
  while (mi_load_acquire(&_mi_arenas[n]) != arena) n++;
  return n;
}

bool probe_segment_of(const void* p, probe_segment_t* segment) {
  size_t index;
  const mi_arena_t* const arena = _mi_arena_of(p, &index);
  if (arena == NULL) return false;
  *segment = probe_segment(arena_number(arena), index);
  return true;
}

bool probe_segments_claim(size_t count, size_t alignment, size_t phase, probe_segment_t* first) {
  mi_arena_t* arena;
  size_t index;
  mi_thread();  // reads the options
  if (!_mi_segments_claim(count, alignment, phase, NULL, false, &arena, &index)) return false;
  *first = probe_segment(arena_number(arena), index);
  return true;
}

void probe_segments_release(size_t arena, size_t index, size_t count) {
  _mi_segments_release(mi_load_acquire(&_mi_arenas[arena]), index, count);
}

void probe_purge(bool force) { _mi_purge(force); }
void probe_purge_step(void) {
  if (mi_load_relaxed(&_mi_tick_state) == MI_TICK_STOPPED) {
    _mi_purge_go_on();
  } else {
    _mi_purge_step();
  }
}

probe_counts_t probe_counts(void) {
  int64_t held, used;
  _mi_held_counts(&held, &used);
  return (probe_counts_t){(long)held, (long)used};
}

bool probe_slots_are_clean(const void* segment, size_t from) {
  for (size_t i = from; i < MI_SLICES_PER_SEGMENT; i++) {
    mi_page_t copy;
    memcpy(&copy, &((const mi_segment_t*)segment)->slot[i], sizeof(copy));
    if (copy.kind == MI_PAGE_TAIL) {
      copy.kind = 0;
      copy.distance = 0;
    }
    copy.slices = 0;
    const uint8_t* const bytes = (const uint8_t*)&copy;
    for (size_t k = 0; k < sizeof(copy); k++) {
      if (bytes[k] != 0) return false;
    }
  }
  return true;
}

bool probe_slices_claim_for(size_t count, size_t expected, probe_run_t* run) {
  const mi_want_t want = {.count = count, .expected = expected};
  mi_page_t* const page = _mi_slices_claim(mi_thread(), &want, &run->zero);
  if (page == NULL) return false;
  run->slot = page;
  run->slices = page->slices;
  run->start = (uint8_t*)mi_page_segment(page) + mi_page_slice(page) * MI_SLICE_SIZE;
  return true;
}

bool probe_slices_claim(size_t count, probe_run_t* run) { return probe_slices_claim_for(count, 0, run); }

void probe_slices_release_used(const probe_run_t* run, size_t used) { _mi_slices_release(run->slot, used); }
void probe_slices_release(const probe_run_t* run) { probe_slices_release_used(run, run->slices * MI_SLICE_SIZE); }

bool probe_huge_claim(size_t size, size_t alignment, size_t offset, probe_huge_t* huge) {
  mi_thread();
  mi_page_t* const page = _mi_huge_claim(size, alignment, offset, 0, NULL, &huge->zero);
  if (page == NULL) return false;
  huge->slot = page;
  huge->start = page->start;
  huge->size = page->block_size;
  huge->run = (uint8_t*)mi_page_segment(page);
  return true;
}

void probe_huge_release(const probe_huge_t* huge) { _mi_huge_release(huge->slot); }
void probe_huge_publish(const probe_huge_t* huge) { ((mi_page_t*)huge->slot)->kind = MI_PAGE_HUGE; }
const void* probe_slot_resolved(const void* p) { return _mi_page_of_any(p); }

// --- pages --------------------------------------------------------------------------------------------------------
static size_t list_length(const mi_block_t* block) {
  size_t n = 0;
  for (; block != NULL; block = block->next) n++;
  return n;
}

// Blocks of a bit page that others freed since the last collect.
static size_t remote_count(mi_page_t* page) {
  const mi_bits_t* const bits = mi_bits_of(page);
  size_t n = 0;
  for (size_t w = 0; w < ((size_t)page->capacity + 63) / 64; w++)
    n += (size_t)__builtin_popcountll(mi_load_acquire(mi_bits_remote(bits, w)));
  return n;
}

// Free blocks of a page, as far as its owner knows; those in quarantine are none.
static size_t free_count(const mi_page_t* page) {
  if (page->policy == 0) return list_length(page->free) + list_length(page->local_free);
  const mi_bits_t* const bits = mi_bits_of(page);
  size_t taken = 0;
  for (size_t w = 0; w < mi_bits_word_count(page); w++)
    taken += mi_popcount(mi_bits_taken(bits, w) | mi_bits_withheld(bits, w));
  return page->capacity - taken;
}

void probe_page_at(const void* slot, probe_page_t* out) {
  mi_page_t* const page = (mi_page_t*)slot;
  const mi_thread_free_t tf = mi_load_acquire(mi_page_word(page));
  const mi_tid_t owner = mi_load_acquire(&page->owner);
  out->slot = page;
  out->slice = mi_page_slice(page);
  out->slices = page->slices;
  out->kind = (probe_kind_t)page->kind;
  out->bin = page->bin;
  out->block_size = page->block_size;
  out->start = page->start;
  out->used = page->used;
  out->capacity = page->capacity;
  out->reserved = page->reserved;
  out->color = page->color;
  out->retire = page->retire;
  out->free = (page->policy == 0 ? list_length(page->free) : free_count(page));
  out->local_free = (page->policy == 0 ? list_length(page->local_free) : 0);
  out->remote_free = (page->policy == 0 ? list_length(MI_LIST(tf)) : remote_count(page));
  out->in_full = page->in_full != 0;
  out->delayed = page->delayed;
  out->pinned = page->pinned;
  out->listed = (tf & MI_LISTED) != 0;
  out->state = (probe_state_t)MI_STATE(tf);
  out->owner = owner & ~MI_OWNER_FLAGS;
  out->owner_full = (owner & MI_OWNER_FULL) != 0;
  out->owner_interior = (owner & MI_OWNER_INTERIOR) != 0;
  out->owner_special = (owner & MI_OWNER_SPECIAL) != 0;
  out->heap = mi_load_acquire(&page->heap);
  out->theap = mi_load_acquire(&page->theap);
}

bool probe_page_of(const void* p, probe_page_t* out) {
  const mi_page_t* const page = _mi_page_of_any(p);
  if (page == NULL) return false;
  probe_page_at(page, out);
  return true;
}

size_t probe_block_size(const void* p) {
  const mi_page_t* const page = _mi_page_of_any(p);
  return (page == NULL ? 0 : page->block_size);
}

bool probe_slices_are_free(const void* slot, size_t count) {
  const mi_page_t* const page = slot;
  size_t index;
  mi_arena_t* const arena = _mi_arena_of((uint8_t*)mi_page_segment(page) + 1, &index);
  const uint64_t run = mi_run_mask(mi_page_slice(page), count);
  if (mi_load_acquire(&arena->kind[index]) == MI_SEGMENT_UNUSED) return true;
  return (mi_load_acquire(&arena->info[index].free) & run) == run;
}

// --- theaps, slots ---------------------------------------------------------------------------------------------------
mi_theap_t* probe_theap_main(void) { return &mi_thread()->main_theap; }
mi_theap_t* probe_theap_internal(void) { return &mi_thread()->internal_theap; }
mi_theap_t* probe_theap_of_heap(mi_heap_t* heap) {
  mi_theap_t* const theap = mi_load_acquire(&heap->home.theap);
  return (theap == MI_THEAP_EMPTY ? NULL : theap);
}
void* probe_theap_alloc_class(mi_theap_t* theap, size_t bin) { return _mi_theap_alloc_class(theap, bin, false); }
void probe_theap_tidy(mi_theap_t* theap) { _mi_theap_tidy(theap); }

size_t probe_queue_length(const mi_theap_t* theap, size_t bin) {
  const mi_page_t* const first = theap->queue[bin];
  if (first == NULL) return 0;
  size_t n = 0;
  const mi_page_t* page = first;
  do {
    n++;
    page = page->next;
  } while (page != first);
  return n;
}

size_t probe_theap_page_count(const mi_theap_t* theap) { return theap->page_count; }
size_t probe_delayed_length(mi_theap_t* theap) { return list_length(mi_load_acquire(&theap->delayed_free)); }

bool probe_theap_is_sound(const mi_theap_t* theap) {
  size_t pages = 0;
  for (size_t bin = 1; bin < MI_BIN_COUNT; bin++) {
    mi_page_t* const first = theap->queue[bin];
    mi_page_t* page = first;
    if (first != NULL) {
      do {
        pages++;
        if (page->next->prev != page || mi_load_relaxed(&page->theap) != theap) return false;
        if ((page->in_full != 0) != (bin == MI_BIN_FULL)) return false;
        if (bin <= MI_BIN_LAST && page->bin != bin) return false;
        if (bin <= MI_BIN_LAST && page->used + free_count(page) != page->capacity) return false;
        if (page->capacity > page->reserved) return false;
        page = page->next;
      } while (page != first);
    }
    if (bin <= MI_BIN_DIRECT_LAST) {
      const mi_page_t* const want = (first == NULL ? MI_PAGE_EMPTY : first);
      for (size_t size = 1; size <= MI_DIRECT_SIZE_MAX; size++) {
        if (mi_theap_bin(theap, mi_bin_of(size)) == bin && theap->direct[(size + 7) / 8] != want) return false;
      }
    }
  }
  return pages == theap->page_count;
}

void probe_abandoned_sweep(mi_heap_t* heap) { _mi_abandoned_sweep(heap, false); }

size_t probe_abandoned_depth(mi_heap_t* heap, size_t bin, const void* slot) {
  size_t depth = 0;
  for (mi_page_t* page = _mi_abandoned_first(heap, bin); page != NULL && page != slot; depth++)
    page = mi_load_relaxed(&page->listed_next);
  return depth;
}

probe_slot_t probe_slot_at(void* slot) {
  probe_slot_t s;
  memset(&s, 0, sizeof(s));
  s.slot = slot;
  if (slot == NULL) return s;
  const uint64_t word = mi_load_acquire(&((mi_slot_t*)slot)->word);
  s.generation = word / MI_SLOT_GENERATION;
  s.is_free = (word & MI_SLOT_STATE) == MI_SLOT_FREE;
  s.live = (word & MI_SLOT_STATE) == MI_SLOT_LIVE;
  s.busy = (word & MI_SLOT_STATE) == MI_SLOT_BUSY;
  s.taken = (word & MI_SLOT_STATE) == MI_SLOT_TAKEN;
  s.dead = (word & MI_SLOT_STATE) == MI_SLOT_DEAD;
  s.is_default = (word & MI_SLOT_DEFAULT) != 0;
  s.want_destroy = (word & MI_WANT_DESTROY) != 0;
  s.want_abandon = (word & MI_WANT_ABANDON) != 0;
  s.want_collect = (word & MI_WANT_COLLECT) != 0;
  return s;
}
probe_slot_t probe_slot_of_heap(mi_heap_t* heap) { return probe_slot_at(mi_load_acquire(&heap->home.slot)); }
bool probe_slot_enter(void* slot) { return _mi_slot_enter(slot); }
void probe_slot_leave(void* slot) { _mi_slot_leave(slot, false, true); }

// --- threads
// ------------------------------------------------------------------------------------------------------------
uint64_t probe_thread_id(void) { return mi_load_relaxed(&mi_thread()->id); }
size_t probe_thread_index(void) { return mi_thread()->index; }
bool probe_thread_has_record(void) { return _mi_tls.thread != NULL; }
bool probe_tid_is_alive(uint64_t id) { return mi_tid_is_alive(id); }
const void* probe_thread_record(void) { return mi_thread(); }
const void* probe_record_of(uint64_t id) { return _mi_thread_of(id); }
bool probe_has_mail(const void* record) { return mi_load_acquire(&((mi_thread_t*)record)->mail) != 0; }

// --- heaps
// ----------------------------------------------------------------------------------------------------------------
probe_heap_t probe_heap(mi_heap_t* heap) {
  probe_heap_t h;
  memset(&h, 0, sizeof(h));
  h.id = mi_load_acquire(&heap->home.id);
  h.refs = mi_load_acquire(&heap->refs);
  h.has_lists = mi_load_acquire(&heap->abandoned) != NULL;
  h.pages_out = (long)mi_load_acquire(&heap->pages_out);
  const uint8_t state = mi_load_acquire(&heap->state);
  h.open = (state == MI_HEAP_OPEN);
  h.closed = (state == MI_HEAP_CLOSED);
  h.dying = (state == MI_HEAP_DYING);
  h.into = mi_load_acquire(&heap->into);
  h.gone = (h.id == 0 && h.open && h.into == NULL);
  if (heap != &_mi_heap_main) {
    for (mi_part_t* lane = mi_load_acquire(&heap->parts); lane != NULL; lane = mi_load_acquire(&lane->next)) h.lanes++;
  }
  for (int i = 0; i < 2; i++) {
    mi_heap_t* f = mi_stack_node(mi_load_acquire(&heap->forwarders[i]));
    for (; f != NULL; f = mi_load_acquire(&f->forwarder_next)) {
      h.forwarders++;
    }
  }
  return h;
}

bool probe_region_of(const void* p, probe_region_t* out) {
  const mi_page_t* const page = _mi_page_of_any(p);
  if (page == NULL) return false;
  const mi_tid_t owner = mi_load_acquire(&((mi_page_t*)page)->owner);
  if ((owner & MI_OWNER_SPECIAL) == 0 || (owner & MI_OWNER_INTERIOR) != 0) return false;
  mi_region_t* const region = _mi_region_of(page, p);
  memset(out, 0, sizeof(*out));
  out->start = (uint8_t*)region;
  out->size = (size_t)1 << region->shift;
  out->first = region->first;
  out->end = _mi_region_end(region);
  out->owner = mi_load_acquire(&region->owner) & ~MI_OWNER_FLAGS;
  out->words = (region->shift <= 10 ? 1 : (size_t)1 << (region->shift - 10));
  for (size_t w = 0; w < out->words; w++) {
    _Atomic(uint64_t)* const word = mi_region_words(region, 64 * w);
    out->starts[w] = mi_load_acquire(&word[0]);
    out->freed[w] = mi_load_acquire(&word[1]);
    out->remote[w] = mi_load_acquire(&word[2]);
  }
  return true;
}

probe_part_t probe_part(mi_heap_t* heap) {
  probe_part_t p;
  memset(&p, 0, sizeof(p));
  const mi_part_t* const part = &heap->home;
  for (const mi_region_t* r = part->regions; r != NULL; r = r->next) {
    p.regions++;
    p.regions_bytes += (size_t)1 << r->shift;
  }
  for (const mi_region_t* r = part->spare; r != NULL; r = r->next) {
    p.spare++;
    p.spare_bytes += (size_t)1 << r->shift;
  }
  p.bytes = part->bytes;
  p.step = part->step;
  return p;
}

size_t probe_part_seen(mi_heap_t* heap, size_t bin) { return heap->home.seen[bin]; }

probe_cache_t probe_cache(const void* record) {
  mi_thread_t* const thread = (mi_thread_t*)record;
  probe_cache_t c;
  memset(&c, 0, sizeof(c));
  c.count = thread->handle_cache_count;
  c.bytes = thread->handle_cache_bytes;
  c.limit = thread->handle_cache_limit;
  c.balance = thread->heap_balance;
  for (mi_heap_t* h = thread->handle_cache; h != NULL; h = (mi_heap_t*)h->home.region.next) {
    c.listed++;
    c.listed_bytes += probe_part(h).regions_bytes + probe_part(h).spare_bytes;
  }
  c.returned_bytes = mi_load_acquire(&thread->returned_bytes);
  for (mi_heap_t* h = mi_load_acquire(&thread->returned); h != NULL; h = (mi_heap_t*)h->home.region.next) {
    c.returned++;
    c.returned_listed_bytes += probe_part(h).regions_bytes + probe_part(h).spare_bytes;
  }
  return c;
}

// --- options
// -----------------------------------------------------------------------------------------------------------------
long probe_option_raw(mi_option_t option) { return _mi_option(option); }
const void* probe_pair_intern(void (*fun)(void), void* arg) { return _mi_pair_intern(fun, arg); }

// --- fork ---------------------------------------------------------------------------------------------------------
static void theap_tell(mi_page_t* page, mi_block_t* block) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  block->next = mi_load_relaxed(&theap->delayed_free);
  mi_store_relaxed(&theap->delayed_free, block);
}

static void bits_tell(mi_page_t* page, mi_bits_t* bits) {
  mi_theap_t* const theap = mi_load_relaxed(&page->theap);
  mi_store_relaxed(&bits->queued, 1u);
  bits->link.next = mi_load_relaxed(&theap->delayed_free);
  mi_store_relaxed(&theap->delayed_free, &bits->link);
}

void probe_free_halfway(void* p, bool told) {
  mi_page_t* const page = _mi_page_of_any(p);
  if (page->policy != 0) {
    mi_bits_t* const bits = mi_bits_of(page);
    const size_t index = (mi_page_is_single(page) ? 0 : mi_bits_number(bits, p));
    mi_store_relaxed(&bits->states[index], MI_STATE_REMOTE);
    mi_fetch_or_seq_cst(mi_bits_remote(bits, index / 64), (uint64_t)1 << (index % 64));
    mi_store_relaxed(&bits->word, MI_WITH_STATE(mi_load_relaxed(&bits->word), MI_DELAYING));
    if (told) bits_tell(page, bits);
    return;
  }
  mi_thread_free_t tf = mi_load_relaxed(&page->thread_free);
  mi_store_relaxed(&page->thread_free, MI_WITH_STATE(tf, MI_DELAYING));
  if (told) theap_tell(page, p);
}

void probe_free_go_on(void* p, bool told) {
  mi_page_t* const page = _mi_page_of_any(p);
  if (page->policy != 0) {
    mi_bits_t* const bits = mi_bits_of(page);
    if (!told) bits_tell(page, bits);
    mi_store_relaxed(&bits->word, MI_WITH_STATE(mi_load_relaxed(&bits->word), MI_NORMAL));
    return;
  }
  if (!told) theap_tell(page, p);
  mi_store_relaxed(&page->thread_free, MI_WITH_STATE(mi_load_relaxed(&page->thread_free), MI_NORMAL));
}

static mi_bits_t* bits_of(const void* p) { return mi_bits_of(mi_slot_of(p)); }

uint64_t probe_bits_generation(const void* p) { return MI_GENERATION(mi_load_acquire(&bits_of(p)->word)); }
bool probe_same_page(const void* p, const void* q) { return _mi_page_of_any(p) == _mi_page_of_any(q); }
static mi_found_t taken;
bool probe_bits_take_live(const void* p) {
  return mi_bits_find(bits_of(p)->page, bits_of(p), p, &taken) == MI_BLOCK_LIVE &&
         _mi_bits_change(bits_of(p), &taken, MI_STATE_REMOTE);
}
bool probe_bits_tell(const void* p) { return _mi_bits_tell(bits_of(p), &taken); }
bool probe_bits_free_remote(const void* p) { return probe_bits_take_live(p) && probe_bits_tell(p); }
bool probe_bits_free_unseen(void* p) {
  mi_bits_t* const bits = bits_of(p);
  if (!probe_bits_take_live(p)) return false;
  const mi_found_t found = taken;
  mi_store_relaxed(found.state, found.seen);  // the owner has read it already
  mi_free(p);
  return _mi_bits_tell(bits, &found);
}

void probe_padding_write(uint8_t* end, size_t padding, bool edge) {
  if (edge) {
    mi_padding_write_edge(end, padding);
  } else {
    _mi_padding_write(end, padding);
  }
}
bool probe_padding_is_whole(const uint8_t* end, size_t padding, bool edge) {
  return (edge ? mi_padding_edge_is_whole(end, padding) : _mi_padding_is_whole(end, padding));
}
size_t probe_padding_breach(const uint8_t* end, size_t padding) { return _mi_padding_breach(end, padding); }

bool probe_delayed_frees_lead_to_pages(mi_heap_t* heap) {
  mi_theap_t* const theap = mi_load_relaxed(&heap->home.theap);
  for (mi_block_t* link = mi_load_acquire(&theap->delayed_free); link != NULL; link = link->next) {
    mi_page_t* const page = mi_bits_of_link(link)->page;
    if (page->kind == MI_PAGE_NONE || page->policy == 0 || mi_load_relaxed(&page->theap) != theap) return false;
  }
  return true;
}

void probe_summaries_forget(void) {
  for (size_t i = 0; i < probe_arena_count(); i++) {
    mi_arena_t* const arena = mi_load_relaxed(&_mi_arenas[i]);
    const size_t words = (mi_load_relaxed(&arena->ready) + 63) / 64;
    for (size_t w = 0; w < words; w++) {
      mi_store_relaxed(&arena->has_free[w], 0);
      mi_store_relaxed(&arena->purgeable[w], 0);
    }
  }
}

void probe_returned_count(uint32_t bytes) { mi_fetch_add_relaxed(&_mi_tls.thread->returned_bytes, bytes); }
uint32_t probe_returned_bytes(void) { return mi_load_relaxed(&_mi_tls.thread->returned_bytes); }

size_t probe_object_halfway(mi_heap_t* heap) {
  mi_part_t* const part = &heap->home;
  for (size_t made = 0;; made++) {
    const size_t granule = (size_t)(mi_load_relaxed(&part->bump) - (uint8_t*)part->current) / 16;
    if (granule % 64 == 0 && mi_load_relaxed(&part->bump) < part->limit) {
      mi_store_relaxed(&mi_region_words(part->current, granule)[0], 1);
      return made;
    }
    if (mi_heap_malloc(heap, 16) == NULL) return made;
  }
}

void probe_spare_regions_in_use(mi_heap_t* heap, bool on) { heap->home.spare = (on ? heap->home.regions : NULL); }

uint32_t probe_fork_stamp(void) { return _mi_fork_stamp; }

void probe_account_walk_begin(void) {
  _Atomic(uint64_t)* const charging = &_mi_tls.thread->charging;
  mi_store_relaxed(charging, mi_load_relaxed(charging) + 1);
}
