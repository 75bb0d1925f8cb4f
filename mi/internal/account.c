// Accounts: how many bytes a heap holds, together with its children and the heaps that were merged into it, and whether
// it may hold more. What is done at a limit is mi/heap/limit.c's business; which account counts in which, the heap
// layer's.
//
// What is charged. Of a page, the blocks that it has supplied so far, whether they are live or free: its capacity times
// its block size, from the moment when they come to a free list until the page, or its lists, go. Of a part, its
// regions in use. It happens on slow paths only, once per OS page of small blocks, per region, and per block above
// 1 KiB. The main heap, which has no limit, counts in the threads' records.
//
// An account is one word: the bytes, and a bit `which`. The bytes of an account count in `above[which]` too, and so on
// up. Who charges changes the word in one step and learns `which` from it, then owes the same change to above[which].
// Who moves the account (set_parent, merge, the end of a child) writes the other of the two entries, turns the bit in
// one step, which tells how many bytes stood there at that moment, and moves those: every change of the word is either
// among them, and its debt is (or will be) paid to the old one, or it comes after and goes to the new one. Nobody waits
// for a mover. A mover waits, before it lets go of the families' lock, until every thread that was on its way up
// through accounts is through: afterwards nobody is on the way to the old one, which may end, and no second move
// overlaps with the same walk. A thread says so with a number in its record, odd meanwhile; it is stored before the
// word is changed, so that who turns the bit afterwards sees it (the changes of one word are a release sequence).
//
// Invariant: when no walk is under way, word = the bytes of the heap's own pages and regions + those of every account
// that counts in it. (In the child of a fork it may be off by what each thread that is gone was about to do.)
//
// A charge that is refused further up is taken back from below. Where the bit was turned meanwhile, the mover took the
// charge along: then the levels of the old way that were never charged are, to make up for it, and the new way is
// relieved.
//
// The first part of a heap does not charge its regions as long as the heap counts in no other: the owner's own counter
// (part->young, and what the embedded region has handed out) is believed, less what was charged of it (`counted`), so
// that a young heap with a limit changes no word that others read. Whoever needs the word to be true settles: the
// change of `counted`, by CAS, is what is charged. A move may miss a region that the owner opens at that very moment;
// it is charged at the next.
#include "mi/internal/account.h"

#include "mi/internal/os.h"

mi_account_t _mi_account_main;

static _Atomic(int64_t) main_held_by_nobody;  // by threads without a record
static _Atomic(int64_t) nobody_charging;      // such threads on their way through accounts

// --- the main heap ------------------------------------------------------------------------------------------------

void _mi_account_main_add(int64_t n) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (mi_likely(thread != NULL)) {
    mi_count_own(&thread->counts.main_held, n);
  } else {
    mi_count(&main_held_by_nobody, n);
  }
}

static void add_main_held(mi_thread_t* thread, void* sum) {
  *(int64_t*)sum += mi_load_relaxed(&thread->counts.main_held);
}

int64_t _mi_account_main_total(void) {
  int64_t sum = mi_load_relaxed(&main_held_by_nobody);
  _mi_threads_each(add_main_held, &sum);
  return sum;
}

// --- one account --------------------------------------------------------------------------------------------------

// What the embedded region of a handle has handed out. The owner may be going on to another region.
static MI_RACY size_t embedded_held(const mi_part_t* home) {
  const mi_region_t* const region = &home->region;
  for (int tries = 0; tries < 4; tries++) {
    size_t end = mi_load_acquire((_Atomic(uint16_t)*)&region->end);
    if (end == 0) {
      const size_t offset = (size_t)(mi_load_acquire((_Atomic(uint8_t*)*)&home->bump) - (const uint8_t*)region);
      if (offset > (size_t)1 << MI_REGION_SHIFT_MIN) continue;
      end = offset / 16;
    }
    const size_t first = MI_PART_SIZE / 16;
    return (end > first ? (end - first) * 16 : 0);
  }
  return 0;
}

// All that the part holds.
static MI_RACY uint32_t part_held_in_all(const mi_part_t* home) {
  return mi_racy(home->young) * (uint32_t)MI_KiB + (uint32_t)embedded_held(home);
}

size_t _mi_account_held(mi_heap_t* heap) { return part_held_in_all(&heap->home); }

// A region that the part opened when it was empty (nursery.c) does not count before there is something in it, as long
// as the part need not ask for its regions.
static MI_RACY uint32_t part_held(const mi_part_t* home) {
  const mi_region_t* const region = mi_racy(home->current);
  const bool is_empty =
      region != &home->region && mi_racy(home->step) == 0 && region == mi_racy(home->regions) &&
      region == mi_racy(home->regions_last) &&
      mi_load_relaxed((_Atomic(uint16_t)*)&home->young_max) >= mi_racy(home->young) &&
      mi_load_relaxed((_Atomic(uint8_t*)*)&home->bump) == (const uint8_t*)region + (size_t)mi_racy(region->first) * 16;
  return (is_empty ? 0 : part_held_in_all(home));
}

size_t _mi_account_held_alone(mi_heap_t* heap) { return part_held(&heap->home); }

// Bytes of the heap's first part that are not in the word.
static inline int64_t pending(mi_account_t* account) {
  return (int64_t)part_held(&account->heap->home) - (int64_t)mi_load_relaxed(&account->counted);
}

int64_t _mi_account_total(mi_account_t* account) {
  const int64_t total = (mi_load_acquire(&account->word) >> 1) + pending(account);
  return (total > 0 ? total : 0);
}

static int64_t limit_now(mi_account_t* account) {  // 0: none
  const size_t limit = mi_load_relaxed(&account->limit);
  if (limit == 0) return 0;
  const size_t room = (mi_load_relaxed(&account->tripped) != 0 ? account->headroom : 0);
  const size_t most = INT64_MAX;
  return (int64_t)(limit > most || room > most - limit ? most : limit + room);
}

// Is there room for `n` bytes where there are `total`? If not, the thread's refusal is filled in.
static bool has_room(mi_thread_t* thread, mi_account_t* account, int64_t total, size_t n) {
  const int64_t limit = limit_now(account);
  if (mi_likely(limit == 0 || (total <= limit && (int64_t)n <= limit - total))) return true;
  thread->refusal.heap = account->heap;
  thread->refusal.id = mi_load_relaxed(&account->heap->home.id);
  thread->refusal.need = (size_t)(total + (int64_t)n - limit);
  thread->refusal.on_limit = account->on_limit;
  thread->refusal.limit_arg = account->limit_arg;
  return false;
}

static void look_at_soft_limit(mi_thread_t* thread, mi_account_t* account, int64_t total) {
  const size_t soft = mi_load_relaxed(&account->soft_limit);
  if (mi_likely(soft == 0) || total <= 0 || (size_t)total <= soft) return;
  uint8_t state = MI_ALARM_NONE;
  mi_cas_strong_acq_rel(&account->alarm, &state, (uint8_t)MI_ALARM_DUE);
  if (state != MI_ALARM_GIVEN) thread->alarm = true;
}

// The account is about to hold `n` bytes less than `total`, or does already.
static void fell(mi_account_t* account, int64_t total, int64_t n) {
  mi_peak(&account->peak, total);
  const int64_t now = total - n;
  if (mi_load_relaxed(&account->alarm) != MI_ALARM_NONE && now < (int64_t)mi_load_relaxed(&account->soft_limit))
    mi_store_relaxed(&account->alarm, (uint8_t)MI_ALARM_NONE);
  if (mi_load_relaxed(&account->tripped) != 0 && mi_account_recovered(account, now))
    mi_store_relaxed(&account->tripped, (uint8_t)0);
}

bool _mi_account_fits_alone(mi_account_t* account, size_t n) {
  mi_thread_t* const thread = _mi_tls.thread;
  const int64_t total = (mi_load_relaxed(&account->word) >> 1) + pending(account);
  if (!has_room(thread, account, total, n)) return false;
  look_at_soft_limit(thread, account, total + (int64_t)n);
  return true;
}

void _mi_account_fell_alone(mi_account_t* account, size_t n) {
  fell(account, (mi_load_relaxed(&account->word) >> 1) + pending(account), (int64_t)n);
}

void _mi_account_note_peak(mi_account_t* account) { mi_peak(&account->peak, _mi_account_total(account)); }

// --- the way up ---------------------------------------------------------------------------------------------------

static inline void walk_begin(mi_thread_t* thread) {
  if (mi_likely(thread != NULL)) {
    mi_store_relaxed(&thread->charging, mi_load_relaxed(&thread->charging) + 1);
  } else {
    mi_fetch_add_acq_rel(&nobody_charging, 1);
  }
}

// Release: what the thread read on its way comes before.
static inline void walk_end(mi_thread_t* thread) {
  if (mi_likely(thread != NULL)) {
    mi_store_release(&thread->charging, mi_load_relaxed(&thread->charging) + 1);
  } else {
    mi_fetch_sub_acq_rel(&nobody_charging, 1);
  }
}

static inline mi_account_t* above_of(mi_account_t* account, int64_t word) {
  return mi_load_relaxed(&account->above[word & 1]);
}

static void add_up(mi_account_t* account, int64_t n) {
  while (account != NULL) {
    if (account == &_mi_account_main) {
      _mi_account_main_add(n);
      return;
    }
    // Acquire: the entry that the bit names. Release: see the top.
    const int64_t word = mi_fetch_add_acq_rel(&account->word, 2 * n);
    if (n < 0) fell(account, (word >> 1) + pending(account), -n);
    account = above_of(account, word);
  }
}

void _mi_account_add(mi_account_t* account, int64_t n) {
  mi_thread_t* const thread = _mi_tls.thread;
  if (n == 0) return;
  walk_begin(thread);
  add_up(account, n);
  walk_end(thread);
}

// Takes `n` bytes back that the levels below `refused` were charged with; bit k of `path` is the way that level k had.
static void take_back(mi_account_t* account, mi_account_t* refused, size_t depth, uint64_t path, int64_t n) {
  for (size_t level = 0; level < depth; level++) {
    const int64_t word = mi_fetch_sub_acq_rel(&account->word, 2 * n);
    if (((uint64_t)word & 1) != (path >> level & 1)) {
      add_up(refused, n);  // who moved this level took `n` from all of the old way
      add_up(above_of(account, word), -n);
      return;
    }
    account = above_of(account, word);
  }
}

// One level. `*word` is what it was.
static inline bool charge_level(mi_thread_t* thread, mi_account_t* account, size_t n, int64_t* word) {
  if (mi_likely((mi_load_relaxed(&account->limit) | mi_load_relaxed(&account->soft_limit)) == 0)) {
    *word = mi_fetch_add_acq_rel(&account->word, 2 * (int64_t)n);
    return true;
  }
  *word = mi_load_relaxed(&account->word);
  int64_t total;
  do {
    total = (*word >> 1) + pending(account);
    if (!has_room(thread, account, total, n)) return false;
  } while (!mi_cas_weak_acq_rel(&account->word, word, *word + 2 * (int64_t)n));
  look_at_soft_limit(thread, account, total + (int64_t)n);
  return true;
}

#define PATH_MAX 64

bool _mi_account_charge(mi_account_t* account, size_t n) {
  mi_thread_t* const thread = _mi_tls.thread;
  walk_begin(thread);
  uint64_t path = 0;
  size_t depth = 0;
  for (mi_account_t* at = account; at != NULL; depth++) {
    if (at == &_mi_account_main) {
      _mi_account_main_add((int64_t)n);
      break;
    }
    int64_t word;
    if (mi_unlikely(!charge_level(thread, at, n, &word))) {
      if (depth <= PATH_MAX) {
        take_back(account, at, depth, path, (int64_t)n);
      } else {  // a deep family: as if it had been served, and was freed
        add_up(at, (int64_t)n);
        add_up(account, -(int64_t)n);
      }
      walk_end(thread);
      return false;
    }
    if (depth < PATH_MAX) path |= (uint64_t)(word & 1) << depth;
    at = above_of(at, word);
  }
  walk_end(thread);
  return true;
}

// A walk that changes no word. The number and the words, and with a mover the word and the numbers, are in one order of
// all threads (sequentially consistent): one of the two sees the other.
static void look_begin(mi_thread_t* thread) {
  if (mi_likely(thread != NULL)) {
    atomic_fetch_add_explicit(&thread->charging, 1, memory_order_seq_cst);
  } else {
    atomic_fetch_add_explicit(&nobody_charging, 1, memory_order_seq_cst);
  }
}
static inline mi_account_t* look_above(mi_account_t* account) {
  return above_of(account, mi_load_seq_cst(&account->word));
}

bool _mi_account_fits(mi_account_t* account, size_t n) {
  mi_thread_t* const thread = _mi_tls.thread;
  look_begin(thread);
  bool room = true;
  while (account != NULL && account != &_mi_account_main) {
    const int64_t word = mi_load_seq_cst(&account->word);
    room = has_room(thread, account, (word >> 1) + pending(account), n);
    if (!room) break;
    account = above_of(account, word);
  }
  walk_end(thread);
  return room;
}

void _mi_account_trip(mi_account_t* account, mi_heap_t* heap) {
  mi_thread_t* const thread = _mi_tls.thread;
  look_begin(thread);
  while (account != NULL && account != &_mi_account_main && account->heap != heap) account = look_above(account);
  if (account != NULL && account != &_mi_account_main && account->headroom != 0)
    mi_store_relaxed(&account->tripped, (uint8_t)1);
  walk_end(thread);
}

bool _mi_account_alarm(mi_account_t* account, mi_refusal_t* alarm) {
  mi_thread_t* const thread = _mi_tls.thread;
  look_begin(thread);
  bool found = false;
  while (!found && account != NULL && account != &_mi_account_main) {
    uint8_t due = MI_ALARM_DUE;
    if (mi_load_relaxed(&account->alarm) == MI_ALARM_DUE &&
        mi_cas_strong_acq_rel(&account->alarm, &due, (uint8_t)MI_ALARM_GIVEN)) {
      const int64_t over = _mi_account_total(account) - (int64_t)mi_load_relaxed(&account->soft_limit);
      alarm->heap = account->heap;
      alarm->id = mi_load_relaxed(&account->heap->home.id);
      alarm->need = (over > 0 ? (size_t)over : 0);
      alarm->on_limit = account->on_limit;
      alarm->limit_arg = account->limit_arg;
      found = true;
    }
    account = look_above(account);
  }
  walk_end(thread);
  return found;
}

// --- settling and moving -------------------------------------------------------------------------------------------

void _mi_account_settle(mi_account_t* account, int64_t prepaid) {
  uint32_t counted = mi_load_relaxed(&account->counted), held;
  do {
    held = part_held(&account->heap->home);
  } while (!mi_cas_weak_acq_rel(&account->counted, &counted, held));
  _mi_account_add(account, (int64_t)held - (int64_t)counted - prepaid);
}

// Threads without a record that were on their way are gone.
void _mi_accounts_after_fork(void) { mi_store_relaxed(&nobody_charging, 0); }

static void wait_for(mi_thread_t* thread, void* self) {
  if (thread == self) return;
  const uint64_t seen = mi_load_seq_cst(&thread->charging);
  while (seen % 2 != 0 && mi_load_acquire(&thread->charging) == seen && !mi_thread_is_gone(thread)) {
    mi_count(&_mi_stats.heap_waits, 1);
    _mi_os_yield();
  }
}

void _mi_account_move(mi_account_t* account, mi_account_t* above, bool alone) {
  int64_t word = mi_load_relaxed(&account->word);  // only movers change the bit
  mi_account_t* const former = above_of(account, word);
  const int64_t which = word & 1;
  if (former == above) return;
  mi_store_relaxed(&account->above[1 - which], above);
  // Release: who reads the bit reads the entry. Acquire: numbers of threads that changed the word before.
  while (!atomic_compare_exchange_weak_explicit(&account->word, &word, word ^ 1, memory_order_seq_cst,
                                                memory_order_relaxed)) {
  }
  if (word >> 1 != 0) {
    add_up(above, word >> 1);
    add_up(former, -(word >> 1));
  }
  if (!alone && former != NULL && former != &_mi_account_main) {
    _mi_threads_each(wait_for, _mi_tls.thread);
    while (mi_load_seq_cst(&nobody_charging) != 0) _mi_os_yield();
  }
  mi_store_relaxed(&account->above[which], (mi_account_t*)NULL);
}
