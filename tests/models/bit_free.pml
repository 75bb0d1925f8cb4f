/*
 * Remote frees of a bit page, for a slice that holds one page after the other.
 *
 * Holds: the word (generation, signal, state), the bits that others set, the owner's collect, to-full and drain through
 * `queued`, the release of an empty page and the next page in the same slice, the exit of the owner, and the free that
 * finds the page ABANDONED and owns it. Does not hold: LISTED and the stacks (abandoned.pml, the same for both kinds of
 * pages), quarantine, double frees.
 * Every access to a shared word is one step; what only one thread can see is folded into such a step.
 *
 * Threads: 0 owns the pages, allocates, exits; 1 and 2 free what 0 hands them.
 */
// STATES 1000000
// MUTANT BIT_AFTER_SIGNAL | empty_page_is_released | the freer signals first and sets its bit then
// MUTANT NO_GENERATION | page_outlives | the freer's swap takes the word for that of its page, whatever the generation
// MUTANT COLLECT_BITS_FIRST | empty_page_is_released | the collect takes the bits before it clears the signal
// MUTANT RELEASE_WHILE_QUEUED | delayed_list_names_a_page | an empty page is released although it is queued
// MUTANT FULL_WITH_SIGNAL | full_page_is_found | NORMAL becomes DELAYED although there is a signal
// MUTANT QUEUED_CLEARED_LATE | empty_page_is_released | the drain collects first and clears `queued` then
// MUTANT NO_DELAYING | page_outlives | DELAYED becomes NORMAL before the page is on the theap's list
// MUTANT ABANDON_BY_STORE | empty_page_is_released | ABANDONED is stored, not swapped in from (NORMAL, no signal)
// MUTANT EXIT_BEFORE_NORMAL | theap_outlives | exit does not wait for a freer that is DELAYING

#define ALL 3 /* two blocks, a bit each */
#define NORMAL 0
#define DELAYED 1
#define DELAYING 2
#define ABANDONED 3
#ifdef SMALL
#define ALLOCATIONS 3
#else
#define ALLOCATIONS 4
#endif

/* The word. */
byte gen;
bool sig;
byte state;
/* The page's bits. */
byte remote;
byte live;
/* The theap: its delayed list, which the page is on or not. */
bool listed;
byte listed_gen;
bool queued;
bool theap_ok = true;
/* The owner's alone. */
bool in_full;

/* Bookkeeping. */
bool alive;       /* there is a page in the slice */
byte owner = 1;   /* 1 + the thread that has the page, or 0 */
byte hold1;       /* blocks in the hands of thread 1, */
byte hold2;       /* and 2 */
byte hold0;
byte running;     /* frees that have not returned */
bool exited;

#define CLAIM(condition, name) assert((condition) || name)
bool page_outlives_its_freers, theap_outlives_its_freers, one_owner, delayed_list_names_a_page, empty_page_is_released,
  block_is_freed_once, full_page_is_found;

inline cas(g, from_sig, from_state, to_sig, to_state) {
  d_step {
    if
#ifdef NO_GENERATION
    :: sig == from_sig && state == from_state -> sig = to_sig; state = to_state; ok = true
#else
    :: gen == g && sig == from_sig && state == from_state -> sig = to_sig; state = to_state; ok = true
#endif
    :: else -> ok = false
    fi
  }
}

/* By who has the page. */
inline take_bits() {
  d_step {
    CLAIM((remote & ~live) == 0, block_is_freed_once);
    live = live & ~remote;
    remote = 0
  }
}
inline collect() {
#ifdef COLLECT_BITS_FIRST
  take_bits();
  sig = false
#else
  if
  :: sig -> sig = false; take_bits()
  :: else
  fi
#endif
}
inline drain() {
  if
  :: listed ->
    d_step { CLAIM(alive && listed_gen == gen, delayed_list_names_a_page); listed = false }
#ifdef QUEUED_CLEARED_LATE
    sig = false;
    take_bits();
    queued = false;
#else
    queued = false;
    sig = false;
    take_bits();
#endif
    if
    :: in_full -> unfull()
    :: else
    fi
  :: else
  fi
}
inline unfull() {
  in_full = false;
  do
  :: d_step { s = state; w = sig };
    if
    :: s != DELAYED -> break
    :: else ->
      cas(gen, w, DELAYED, w, NORMAL);
      if
      :: ok -> break
      :: else
      fi
    fi
  od
}
/* The page goes: another generation from here on. */
inline release() {
  d_step { alive = false; in_full = false; gen++; sig = false; state = NORMAL }
}
inline release_if_empty() {
  if
#ifdef RELEASE_WHILE_QUEUED
  :: alive && live == 0 && state != DELAYING -> release()
#else
  :: alive && live == 0 ->
    s = state;
    if
    :: s != DELAYING && !queued -> release()
    :: else
    fi
#endif
  :: else
  fi
}
/* Gives the page up, which the thread has. */
inline give_up(me) {
  do
  :: collect();
    if
    :: live == 0 -> release(); break
    :: else ->
      w = sig;
      if
#ifdef ABANDON_BY_STORE
      :: !w -> d_step { state = ABANDONED; owner = 0 }; break
#else
      :: !w ->
        d_step {
          if
          :: !sig && state == NORMAL -> state = ABANDONED; owner = 0; ok = true
          :: else -> ok = false
          fi
        }
        if
        :: ok -> break
        :: else
        fi
#endif
      :: else
      fi
    fi
  od
}

/* A free of block b (a bit) by another thread. */
inline free_remote(me, b) {
  g = gen; /* while the block keeps the page */
#ifndef BIT_AFTER_SIGNAL
  d_step { CLAIM(alive && gen == g, page_outlives_its_freers); remote = remote | b };
#endif
  do
  :: d_step { s = state; w = sig; h = gen };
    if
#ifdef NO_GENERATION
    :: w -> break
    :: !w && s == DELAYED ->
#else
    :: h != g || w -> break
    :: h == g && !w && s == DELAYED ->
#endif
#ifdef NO_DELAYING
      cas(g, false, DELAYED, false, NORMAL);
#else
      cas(g, false, DELAYED, false, DELAYING);
#endif
      if
      :: ok ->
        d_step { CLAIM(alive && gen == g, page_outlives_its_freers); w = queued; queued = true };
        if
        :: !w -> d_step { CLAIM(theap_ok, theap_outlives_its_freers); CLAIM(alive && gen == g, page_outlives_its_freers); listed = true; listed_gen = gen }
        :: else
        fi;
#ifndef NO_DELAYING
        do
        :: d_step { w = sig };
          cas(g, w, DELAYING, w, NORMAL);
          if
          :: ok -> break
          :: else
          fi
        od;
#endif
        break
      :: else
      fi
#ifdef NO_GENERATION
    :: !w && s == ABANDONED ->
#else
    :: h == g && !w && s == ABANDONED ->
#endif
      cas(g, false, ABANDONED, true, NORMAL);
      if
      :: ok ->
        d_step { CLAIM(alive && gen == g, page_outlives_its_freers); CLAIM(owner == 0, one_owner); owner = me + 1 };
        give_up(me);
        break
      :: else
      fi
    :: else ->
      cas(g, false, s, true, s);
      if
      :: ok -> break
      :: else
      fi
    fi
  od;
#ifdef BIT_AFTER_SIGNAL
  remote = remote | b;
#endif
  ok = false
}

proctype freer(byte me) {
  byte g, h, s, b;
  bool w, ok;
  do
  :: me == 1 && hold1 != 0 -> d_step { b = hold1 & ~(hold1 - 1); hold1 = hold1 & ~b; running++ }; free_remote(me, b); running--
  :: me == 2 && hold2 != 0 -> d_step { b = hold2 & ~(hold2 - 1); hold2 = hold2 & ~b; running++ }; free_remote(me, b); running--
  :: exited && (me == 1 -> hold1 : hold2) == 0 -> break
  od
}

proctype owner_thread() {
  byte s, b, left = ALLOCATIONS;
  bool w, ok;
  do
  :: !alive && left > 0 -> /* the next page in the slice */
    d_step { gen++; sig = false; state = NORMAL; remote = 0; live = 0; queued = false; alive = true }
  :: alive && left > 0 && !in_full && live != ALL -> /* to itself, or to another thread */
    d_step {
      b = (live & 1 -> 2 : 1);
      live = live | b;
      left--
    };
    if
    :: hold0 = hold0 | b
    :: hold1 = hold1 | b
    :: hold2 = hold2 | b
    fi
  :: hold0 != 0 -> /* a free of its own */
    d_step { b = hold0 & ~(hold0 - 1); hold0 = hold0 & ~b; live = live & ~b };
    if
    :: in_full -> unfull()
    :: else
    fi;
    release_if_empty()
  :: alive && !in_full && live == ALL -> /* a search that finds no block */
    collect();
    if
    :: live == ALL ->
      d_step {
        if
#ifdef FULL_WITH_SIGNAL
        :: state == NORMAL -> state = DELAYED; in_full = true
#else
        :: !sig && state == NORMAL -> state = DELAYED; in_full = true
#endif
        :: else
        fi
      }
    :: else
    fi
  :: listed -> drain(); release_if_empty()
  :: alive && !in_full && sig -> collect(); release_if_empty() /* a slow path, or a collect */
  :: hold0 == 0 && (left == 0 || left < 3) -> break
  od;
  /* A full page whose blocks others freed is on the delayed list: the next slow path finds it. */
  CLAIM(!(alive && in_full && hold0 == 0 && hold1 == 0 && hold2 == 0 && running == 0 && remote == live && !listed),
        full_page_is_found);
  /* The thread ends. */
  if
  :: alive ->
    if
    :: in_full -> unfull()
    :: else
    fi;
    do
    :: drain();
      s = state;
#ifdef EXIT_BEFORE_NORMAL
      break
#else
      if
      :: s != DELAYING && !queued -> break
      :: else
      fi
#endif
    od;
    theap_ok = false;
    give_up(0)
  :: else -> theap_ok = false
  fi;
  exited = true;
  /* When all blocks are free and nobody is on the way, there is no page. */
  hold1 == 0 && hold2 == 0 && running == 0;
  CLAIM(!alive, empty_page_is_released)
}

init {
  atomic { run owner_thread(); run freer(1); run freer(2) }
}
