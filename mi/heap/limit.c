// Limits of heaps: what happens when an account has no room for what is asked (internal/account.c says what it counts
// and how), asking what a heap holds, and changing a limit.
//
// An allocation that finds a limit on its way up, its heap's own or an ancestor's, does this, in this order, and is
// tried again after each step that may have made room: the heap's deferred_free with force, and that of the heap whose
// limit it is, and a collect of both; on_limit of the heap whose limit it is, and a collect, as long as it says so, and
// a bounded number of times if that does not help. Then it fails, and the headroom of that heap serves what is
// allocated next, on the way of the error. It serves until the heap has as much room below its limit again (or, if the
// limit is less than the headroom, is empty): from then on it is not needed, and a heap that hits its limit again fails
// again.
//
// Callbacks run with nothing held: whatever the thread had looked at is looked at anew afterwards, from the handle on.
// Neither the heap that allocates nor the one whose limit it is may end in one.
#include <errno.h>

#include "mi/heap/checked.h"
#include "mi/internal/os.h"

#define CALLS_MAX 16  // of on_limit for one allocation: at a limit without any effect, at soft limits at all

// --- at a limit ---------------------------------------------------------------------------------------------------

static bool refusal_is_current(const mi_refusal_t* refusal) {
  return mi_load_acquire(&refusal->heap->home.id) == refusal->id;
}

// Calls what the refusal names, for an allocation in `heap`. False too if there is nothing to call.
static bool call(mi_thread_t* thread, mi_heap_t* heap, const mi_refusal_t* refusal) {
  if (refusal->on_limit == NULL || thread->callback_depth > 0 || !refusal_is_current(refusal)) return false;
  mi_callback_t allocates = {NULL, heap, 0}, limited = {NULL, refusal->heap, 0};
  mi_callback_enter(thread, &allocates);
  mi_callback_enter(thread, &limited);
  bool again;
  MI_CALL_USER(again = refusal->on_limit(refusal->heap, refusal->need, refusal->limit_arg));
  mi_callback_leave(thread, &limited);
  mi_callback_leave(thread, &allocates);
  return again;
}

static bool fail(mi_heap_t* heap, size_t size, const mi_refusal_t* refusal) {
  _mi_account_trip(mi_account_of(heap), refusal->heap);
  if (refusal->heap == heap) {
    _mi_error(ENOMEM, "no room for %zu bytes in heap %p (%s): its limit is %zu bytes\n", size, (void*)heap,
              mi_heap_name(heap), mi_heap_limit(heap));
  } else {
    _mi_error(ENOMEM, "no room for %zu bytes in heap %p (%s): the limit of heap %p above it\n", size, (void*)heap,
              mi_heap_name(heap), (void*)refusal->heap);
  }
  return false;
}

// What was freed in the heap, and in the one whose limit it is, counts until its pages and regions go.
static void collect(mi_heap_t* heap, const mi_refusal_t* refusal) {
  _mi_heap_collect_parts(heap, true);
  if (refusal->heap != heap && refusal_is_current(refusal)) _mi_heap_collect_parts(refusal->heap, true);
}

bool _mi_limit_try_again(mi_thread_t* thread, mi_heap_t* heap, size_t size, mi_limit_tries_t* tries) {
  const mi_refusal_t refusal = thread->refusal;
  if (tries->count == 0) {
    tries->id = mi_load_relaxed(&heap->home.id);
    _mi_deferred_call(thread, heap, true);
    if (refusal.heap != heap && refusal_is_current(&refusal)) _mi_deferred_force(thread, refusal.heap);
    if (mi_load_relaxed(&heap->home.id) == tries->id) collect(heap, &refusal);
  } else {
    if (tries->count > CALLS_MAX && refusal.need >= tries->need) return fail(heap, size, &refusal);
    if (!call(thread, heap, &refusal)) return fail(heap, size, &refusal);
    if (mi_load_relaxed(&heap->home.id) == tries->id) collect(heap, &refusal);
    tries->need = refusal.need;
  }
  tries->count++;
  if (mi_load_relaxed(&heap->home.id) == tries->id) return true;
  _mi_error(EFAULT, "heap %p ended while an allocation in it waited\n", (void*)heap);
  return false;
}

void _mi_limit_alarm(mi_thread_t* thread, mi_heap_t* heap) {
  if (thread->callback_depth > 0) return;  // given on the next slow path
  thread->alarm = false;
  const uint64_t id = mi_load_relaxed(&heap->home.id);
  mi_freed_twice_tell(thread, heap);
  if (heap == &_mi_heap_main) return;
  mi_refusal_t alarm;
  // A call may take the heap below its soft limit and above it again. What is left is given on the next slow path.
  for (int calls = 0; calls < CALLS_MAX && mi_load_relaxed(&heap->home.id) == id; calls++) {
    if (!_mi_account_alarm(mi_account_of(heap), &alarm)) return;
    (void)call(thread, heap, &alarm);
  }
}

// --- settings -----------------------------------------------------------------------------------------------------

void _mi_limit_configure(mi_heap_extra_t* extra, const mi_heap_config_t* config) {
  mi_account_t* const account = &extra->account;
  mi_store_relaxed(&account->limit, config->limit);
  mi_store_relaxed(&account->soft_limit, config->soft_limit);
  account->headroom = config->headroom;
  account->on_limit = config->on_limit;
  account->limit_arg = config->limit_arg;
}

static void states_look_again(mi_account_t* account) {
  const int64_t total = _mi_account_total(account);
  const size_t limit = mi_load_relaxed(&account->limit), soft = mi_load_relaxed(&account->soft_limit);
  if (limit == 0 || mi_account_recovered(account, total)) mi_store_relaxed(&account->tripped, (uint8_t)0);
  if (soft == 0 || total < (int64_t)soft) mi_store_relaxed(&account->alarm, (uint8_t)MI_ALARM_NONE);
}

void _mi_limit_reset(mi_heap_t* heap) {
  mi_account_t* const account = mi_account_of(heap);
  if (account == NULL) return;
  mi_assert(_mi_fork_stamp != 1 || _mi_account_total(account) == 0);
  mi_store_relaxed(&account->peak, 0);
  states_look_again(account);
}

// The account of a heap whose limit is to be set; NULL: reported.
static mi_account_t* account_to_change(mi_heap_t* heap, const char* function) {
  if (heap == NULL || heap == &_mi_heap_main) {
    _mi_error(EINVAL, "%s: %s\n", function, heap == NULL ? "no heap" : "the main heap has no limit");
    return NULL;
  }
  if (!_mi_heap_check_usable(heap, function)) return NULL;
  mi_heap_extra_t* const extra = _mi_heap_extra_make(heap);
  if (extra == NULL) {
    _mi_error(ENOMEM, "%s: no memory\n", function);
  } else {
    mi_store_relaxed(&heap->home.young_max, 0);
  }
  return (extra == NULL ? NULL : &extra->account);
}

bool mi_heap_set_limit(mi_heap_t* heap, size_t limit) {
  mi_account_t* const account = account_to_change(heap, "mi_heap_set_limit");
  if (account == NULL) return false;
  mi_store_release(&account->limit, limit);
  states_look_again(account);
  return true;
}

bool mi_heap_set_soft_limit(mi_heap_t* heap, size_t soft_limit) {
  mi_account_t* const account = account_to_change(heap, "mi_heap_set_soft_limit");
  if (account == NULL) return false;
  mi_store_release(&account->soft_limit, soft_limit);
  states_look_again(account);
  return true;
}

// --- asking -------------------------------------------------------------------------------------------------------

static bool check(mi_heap_t* heap, const char* function) {
  if (heap != NULL) return _mi_heap_check_usable(heap, function);
  _mi_error(EINVAL, "%s: no heap\n", function);
  return false;
}

size_t mi_heap_limit(mi_heap_t* heap) {
  if (!check(heap, "mi_heap_limit")) return 0;
  mi_account_t* const account = (heap == &_mi_heap_main ? NULL : mi_account_of(heap));
  return (account == NULL ? 0 : mi_load_relaxed(&account->limit));
}

static size_t used_of(mi_heap_t* heap) {
  if (heap == &_mi_heap_main) {
    const int64_t total = _mi_account_main_total();
    return (total > 0 ? (size_t)total : 0);
  }
  mi_account_t* const account = mi_account_of(heap);
  return (account == NULL ? _mi_account_held_alone(heap) : (size_t)_mi_account_total(account));
}

size_t mi_heap_used(mi_heap_t* heap) { return (check(heap, "mi_heap_used") ? used_of(heap) : 0); }

size_t mi_heap_peak(mi_heap_t* heap) {
  static _Atomic(int64_t) main_peak;
  if (!check(heap, "mi_heap_peak")) return 0;
  const size_t used = used_of(heap);
  mi_account_t* const account = (heap == &_mi_heap_main ? NULL : mi_account_of(heap));
  if (heap == &_mi_heap_main) mi_peak(&main_peak, (int64_t)used);
  const int64_t peak = (heap == &_mi_heap_main ? mi_load_relaxed(&main_peak)
                        : account == NULL      ? 0
                                               : mi_load_relaxed(&account->peak));
  return (peak > (int64_t)used ? (size_t)peak : used);
}
