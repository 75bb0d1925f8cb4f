/*
 * Remote frees of a bit page's blocks, full pages and the exit of the owning thread, for one page that changes hands,
 * and for the pages that come after it in the same slot.
 *
 * Holds: the word (generation, MI_SIGNAL and state), the states of the blocks, the bits `remote`, `queued` and the theap's
 * delayed list, the owner's collect, to-full and drain, the free of a block by another thread in all four states, the end of a
 * page, the exit of a thread, and the adoption of the page by a second thread with a theap of its own. Does not hold:
 * the list of abandoned pages and the LISTED bit (abandoned.pml), quarantine, several words of bits, several pages: the
 * delayed list is a flag. Every access to a shared word is one step; what only one thread can see is folded into it.
 *
 * Threads: 0 owns the page at first, allocates, exits; 1 frees, may adopt the page when a free of its own meets
 * ABANDONED, then allocates and exits likewise; 2 only frees.
 */
// STATES 1500000
// MUTANT NO_GENERATION | page_outlives | a freer that was overtaken changes the word of a later page
// MUTANT GENERATION_LATE | page_outlives | the generation is read when the bit is set already
// MUTANT SIGNAL_FIRST | empty_page_is_found | the freer looks at the signal before it sets its bit
// MUTANT COLLECT_FIRST | empty_page_is_found | the collect looks at the bits before it clears the signal
// MUTANT COLLECT_BY_STORE | empty_page_is_released | the collect takes the bits with a load and a store
// MUTANT COLLECT_BY_STATE | block_comes_back_once | the collect takes blocks by their state, whether they have a bit or not
// MUTANT BIT_FIRST | block_comes_back_once | the freer sets the bit before the state
// MUTANT FULL_WITH_SIGNAL | empty_page_is_found | NORMAL becomes DELAYED although others set bits
// MUTANT NORMAL_BY_STORE | empty_page_is_found | DELAYING becomes NORMAL with a load and a store
// MUTANT NO_DELAYING | theap_outlives | a DELAYED page becomes NORMAL before it is on the theap's list
// MUTANT QUEUED_IGNORED | list_leads_to_pages | an empty page is released although it is on the theap's list
// MUTANT QUEUED_LATE | empty_page_is_found | the drain clears `queued` after it looked at the bits
// MUTANT DRAIN_BY_SIGNAL | empty_page_is_found | the drain looks at the bits only if there is a signal
// MUTANT EXIT_WITHOUT_DRAIN | delayed_list_is_empty | exit waits for DELAYING, but not for what is queued
// MUTANT ABANDON_BY_STORE | empty_page_is_released | ABANDONED is stored, not swapped in from (no signal, NORMAL)
// MUTANT ABANDONED_NOT_CLAIMED | empty_page_is_released | a free in an abandoned page signals and leaves it abandoned

#ifdef SMALL
#define ALLOCATIONS_0 3 /* how often thread 0 allocates at most */
#define ALLOCATIONS_1 1 /* and thread 1 */
#else
#define ALLOCATIONS_0 4
#define ALLOCATIONS_1 2
#endif
#define ALL 3           /* a bit per block; two blocks, numbered from 1 */
#define BIT(b) (1 << ((b)-1))

#define NORMAL 0
#define DELAYED 1
#define DELAYING 2
#define ABANDONED 3

byte generation; /* bits->word: three parts of one word */
bool signal;
byte state;
byte remote;      /* freed by others since the last collect */
byte live;        /* blocks whose state is not FREE: handed out, as far as the owner knows */
byte gone;        /* and those of them whose state is REMOTE */
bool queued;
bool delayed[2];  /* the page is on theap->delayed_free */
bool theap_ok[2]; /* the theap's memory is valid */
byte page_theap;  /* page->theap */
bool page_full;   /* on the full list of its theap */

/* The threads' own variables have the same names everywhere: me, b (block), g, s, n (generation, signal, state as
 * loaded), f (bits as loaded), ok (the swap succeeded), mine (the generation that the freer goes by), t (theap), claimed
 * (this thread has just become the owner by a free). */

/* What the program does not have: bookkeeping of the claims. */
bool page_there; /* the page exists */
byte owner;      /* 1 + the thread that owns the page exclusively, or 0 */
byte hold[3];    /* 1 + the thread that has the block in hand, or 0 */
byte running;    /* remote frees that have not returned */
byte pages;      /* that were made */
byte budget[2];
bool exited[3];

#define CLAIM(condition, name) assert((condition) || name)
bool theap_outlives_its_freers, page_outlives_its_freers, one_owner, block_comes_back_once,
  never_given_up_while_DELAYING, list_leads_to_pages_that_are_there, delayed_list_is_empty_when_the_theap_goes,
  empty_page_is_found_by_the_next_slow_path, empty_page_is_released;

#define nothing_held (hold[1] == 0 && hold[2] == 0)
#define holds_none(t) (hold[1] != (t) + 1 && hold[2] != (t) + 1)
#define owns(t) (owner == (t) + 1)

inline load() {
  d_step { g = generation; s = signal; n = state }
}
inline cas(signal_next, state_next) {
  d_step {
    if
#ifdef NO_GENERATION
    :: signal == s && state == n -> signal = signal_next; state = state_next; ok = true
#else
    :: generation == g && signal == s && state == n -> signal = signal_next; state = state_next; ok = true
#endif
    :: else -> ok = false
    fi
  }
}
inline forget() {
  d_step { g = 0; s = 0; n = 0; f = 0; ok = false }
}

/* Bits of blocks in another state are reported as freed twice: there are none. Of a block that has its bit nobody else
 * changes the state. */
inline take_bits() {
#ifdef COLLECT_BY_STORE
  f = remote;
  d_step { remote = 0; CLAIM((f & ~gone) == 0, block_comes_back_once); live = live & ~f; gone = gone & ~f; f = 0 }
#else
#ifdef COLLECT_BY_STATE
  d_step { remote = 0; live = live & ~gone; gone = 0 }
#else
  d_step { CLAIM((remote & ~gone) == 0, block_comes_back_once); live = live & ~remote; gone = gone & ~remote; remote = 0 }
#endif
#endif
}

inline clear_signal_and_take_bits() {
#ifdef COLLECT_FIRST
  take_bits();
  signal = false
#else
  signal = false;
  take_bits()
#endif
}

inline collect() {
  if
  :: signal -> clear_signal_and_take_bits()
  :: else
  fi
}

/* The page leaves the full list: DELAYED becomes NORMAL; in DELAYING that is left to the freer. */
inline unfull() {
  if
  :: page_full ->
    page_full = false;
    do
    :: load();
      if
      :: n != DELAYED -> break
      :: else ->
        cas(s, NORMAL);
        if
        :: ok -> break
        :: else
        fi
      fi
    od;
    forget()
  :: else
  fi
}

#ifdef QUEUED_IGNORED
#define is_delaying (state == DELAYING)
#else
#define is_delaying (state == DELAYING || queued)
#endif

/* An empty page goes, unless a freer is still inside it, or it is queued. Ends its generation. */
inline release_if_empty() {
  if
  :: page_there && live == 0 && !page_full ->
    if
    :: is_delaying
    :: else ->
      d_step {
        CLAIM(remote == 0 && nothing_held, block_comes_back_once);
        CLAIM(state == NORMAL, never_given_up_while_DELAYING);
        page_there = false; owner = 0; generation++; signal = false; state = NORMAL
      }
    fi
  :: else
  fi
}

inline drain() {
  d_step { f = delayed[me]; delayed[me] = false }
  if
  :: f ->
    CLAIM(page_there && owns(me), list_leads_to_pages_that_are_there);
    f = live;
#ifndef QUEUED_LATE
    queued = false;
#endif
#ifdef DRAIN_BY_SIGNAL
    collect();
#else
    clear_signal_and_take_bits();
#endif
#ifdef QUEUED_LATE
    queued = false;
#endif
    n = state;
    if
    :: (page_full && n != DELAYED) || live != f -> unfull(); release_if_empty()
    :: else
    fi
  :: else
  fi;
  forget()
}

/* Only a page without a free block, and where no others set bits, becomes full. */
inline to_full() {
  load();
  if
#ifdef FULL_WITH_SIGNAL
  :: n == NORMAL -> cas(s, DELAYED)
#else
  :: n == NORMAL && !s -> cas(s, DELAYED)
#endif
  :: else
  fi;
  if
  :: ok -> page_full = true
  :: else
  fi;
  forget()
}

inline slow_path() {
  drain();
  if
  :: owns(me) && !page_full -> collect(); release_if_empty() /* the full list is not searched */
  :: else
  fi;
  if
  :: owns(me) && live == ALL && !page_full -> to_full()
  :: else
  fi
}

/* Gives the page up: released when empty, abandoned otherwise. The caller owns it and it is on no full list. */
inline abandon() {
  do
  :: collect();
    load();
    if
    :: s -> skip
    :: !s && live == 0 -> release_if_empty(); CLAIM(!page_there, empty_page_is_released); break
    :: else ->
      d_step {
        CLAIM(owns(me), one_owner);
        CLAIM(!page_full && state == NORMAL, never_given_up_while_DELAYING);
        if
#ifdef ABANDON_BY_STORE
        :: true
#else
        :: !signal
#endif
          -> signal = false; state = ABANDONED; owner = 0; ok = true
        :: else -> ok = false
        fi
      }
      if
      :: ok -> break
      :: else
      fi
    fi
  od;
  forget()
}

#ifdef NO_GENERATION
#define is_overtaken false
#else
#define is_overtaken (g != mine)
#endif
#define touch_page() CLAIM(page_there && generation == mine, page_outlives_its_freers)

/* mi_free of block b by a thread that is not the page's owner. claimed: the thread owns the page now. */
inline remote_free() {
  d_step { running++; mine = generation }
#ifdef SIGNAL_FIRST
  s = signal;
#endif
  d_step {
    assert(hold[b] == me + 1 && page_there);
    CLAIM((live & BIT(b)) != 0 && (gone & BIT(b)) == 0, block_comes_back_once);
#ifdef BIT_FIRST
    remote = remote | BIT(b)
#else
    hold[b] = 0; gone = gone | BIT(b)
#endif
  }
  d_step {
#ifdef BIT_FIRST
    hold[b] = 0; gone = gone | BIT(b); b = 0
#else
    CLAIM((remote & BIT(b)) == 0, block_comes_back_once);
    remote = remote | BIT(b); b = 0
#endif
  }
#ifdef GENERATION_LATE
  mine = generation;
#endif
  do
#ifdef SIGNAL_FIRST
  :: s -> break
#endif
  :: load();
    if
    :: is_overtaken || s -> break
    :: !is_overtaken && !s && (n == NORMAL || n == DELAYING) ->
      cas(true, n);
      if
      :: ok -> d_step { CLAIM(page_there || generation != mine, page_outlives_its_freers) }; break
      :: else
      fi
    :: !is_overtaken && !s && n == DELAYED ->
#ifdef NO_DELAYING
      cas(s, NORMAL);
#else
      cas(s, DELAYING);
#endif
      if
      :: ok ->
#ifndef NO_DELAYING
        d_step { touch_page(); t = page_theap }
#else
        t = page_theap;
#endif
        d_step { f = queued; queued = true }
        if
        :: !f -> d_step { CLAIM(theap_ok[t], theap_outlives_its_freers); delayed[t] = true }
        :: else
        fi;
#ifndef NO_DELAYING
        do
        :: load();
#ifdef NORMAL_BY_STORE
          d_step { signal = s; state = NORMAL; ok = true }
#else
          cas(s, NORMAL);
#endif
          if
          :: ok -> break
          :: else
          fi
        od;
#endif
        break
      :: else
      fi
    :: !is_overtaken && !s && n == ABANDONED ->
#ifdef ABANDONED_NOT_CLAIMED
      cas(true, n);
      if
      :: ok -> break
      :: else
      fi
#else
      d_step {
        if
        :: generation == g && signal == s && state == n ->
          touch_page(); CLAIM(owner == 0, one_owner);
          signal = true; state = NORMAL; owner = me + 1; ok = true
        :: else -> ok = false
        fi
      }
      if
      :: ok -> claimed = true; break
      :: else
      fi
#endif
    fi
  od;
  forget();
  d_step { mine = 0; t = 0; running-- }
}

/* Exit: pages become NORMAL, nothing is DELAYING or queued, and only then the theap goes. */
inline thread_exit() {
  if
  :: owns(me) ->
    drain();
    if
    :: owns(me) ->
      unfull();
#ifdef EXIT_WITHOUT_DRAIN
      (state != DELAYING)
#else
      do
      :: is_delaying -> (state != DELAYING); drain(); if :: !owns(me) -> break :: else fi
      :: else -> break
      od
#endif
    :: else
    fi
  :: else
  fi;
#ifndef EXIT_WITHOUT_DRAIN
  drain();
#endif
  if
  :: owns(me) -> abandon()
  :: else
  fi;
  d_step { CLAIM(!delayed[me], delayed_list_is_empty_when_the_theap_goes); theap_ok[me] = false; exited[me] = true }
}

inline allocate() {
  d_step {
    budget[me]--;
    if
    :: (live & BIT(1)) == 0 -> b = 1
    :: else -> b = 2
    fi;
    CLAIM((remote & BIT(b)) == 0, block_comes_back_once);
    live = live | BIT(b)
  }
  if
  :: me == 0 -> hold[b] = 0 + 1
  :: hold[b] = 1 + 1
  :: hold[b] = 2 + 1
  fi;
  b = 0
}

inline take_a_held_block() {
  if
  :: hold[1] == me + 1 -> b = 1
  :: hold[2] == me + 1 -> b = 2
  fi
}

inline local_free() {
  d_step {
    CLAIM(owns(me), one_owner);
    CLAIM((live & BIT(b)) != 0 && (gone & BIT(b)) == 0 && (remote & BIT(b)) == 0, block_comes_back_once);
    hold[b] = 0; live = live & ~BIT(b); b = 0
  }
  unfull();
  release_if_empty()
}

proctype owner_thread(byte me) {
  byte b, g, n, t, mine, f;
  bool s, ok, claimed;
  do
  :: atomic { owns(me) && !claimed && live != ALL && budget[me] > 0 -> allocate() }
  :: atomic { !claimed && !holds_none(me) -> take_a_held_block() };
    if
    :: owns(me) -> local_free()
    :: else -> remote_free()
    fi
  :: claimed ->
    claimed = false;
    if
    :: theap_ok[me] -> page_theap = me; collect(); release_if_empty() /* keeps it */
    :: abandon()
    fi
  :: owns(me) && !claimed -> slow_path()
  /* The owner lives on, and the others are done with the page: its next slow path finds that it is empty. */
  :: owns(me) && !claimed && nothing_held && running == 0 ->
    atomic { slow_path(); CLAIM(!page_there, empty_page_is_found_by_the_next_slow_path) }
  :: atomic { me == 0 && !page_there && budget[0] > 0 && pages < 2 -> /* a new page in the same slot */
      page_there = true; owner = 1; page_theap = 0; live = 0; pages++; generation++;
      CLAIM(remote == 0 && gone == 0 && !queued && !signal && state == NORMAL, page_outlives_its_freers) }
  :: holds_none(me) && !claimed && (me == 0 || exited[0]) -> break
  od;
  thread_exit();
}

/* Thread 2, without a theap. */
proctype freer(byte me) {
  byte b, g, n, t, mine, f;
  bool s, ok, claimed;
  do
  :: atomic { !claimed && !holds_none(me) -> take_a_held_block() }; remote_free()
  :: claimed -> claimed = false; abandon()
  :: exited[0] && exited[1] && holds_none(me) && !claimed -> break
  od;
  exited[2] = true
}

init {
  d_step {
    theap_ok[0] = true; theap_ok[1] = true;
    budget[0] = ALLOCATIONS_0; budget[1] = ALLOCATIONS_1;
    page_there = true; owner = 1; pages = 1
  }
  atomic { run owner_thread(0); run owner_thread(1); run freer(2) }
  (exited[0] && exited[1] && exited[2]);
  CLAIM(!page_there, empty_page_is_released)
}
