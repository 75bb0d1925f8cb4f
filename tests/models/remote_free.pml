/*
 * Remote frees, full pages and the exit of the owning thread, for one page that changes hands.
 *
 * Holds: the word thread_free (list, length, state), the owner's collect, to-full and drain, the free of a block by
 * another thread in all four states, the exit of a thread, and the adoption of the page by a second thread with a
 * theap of its own. Does not hold: the list of abandoned pages and the LISTED bit (abandoned.pml), several pages.
 * Lists are real linked lists (head and next), so that a compare-and-swap sees only the head, as in the program.
 * Every access to a shared word is one step; everything that only one thread can see is folded into such a step.
 *
 * Threads: 0 owns the page at first, allocates, exits; 1 frees, may adopt the page when a free of its own meets
 * ABANDONED, then allocates and exits likewise; 2 only frees.
 */
// STATES 5000000
// MUTANT NO_DELAYING | theap_outlives | a DELAYED page becomes NORMAL before the block is on the theap's list
// MUTANT THEAP_READ_EARLY | theap_outlives | the theap is read before the page is DELAYING
// MUTANT EXIT_WAITS_FOR_FULL | theap_outlives | exit waits for DELAYING only on pages of the full list
// MUTANT DRAIN_BEFORE_NORMAL | delayed_list_is_empty | exit drains the delayed list before its pages are NORMAL
// MUTANT COLLECT_BY_STORE | empty_page_is_released | the owner takes the list with a load and a store
// MUTANT NORMAL_BY_STORE | empty_page_is_released | DELAYING becomes NORMAL with a load and a store
// MUTANT UNFULL_BY_STORE | only_the_freer_ends_DELAYING | the owner overwrites DELAYING with NORMAL
// MUTANT RELEASE_WHILE_DELAYING | page_outlives | an empty page is released although it is DELAYING
// MUTANT FULL_WITH_LIST | empty_page_is_found | NORMAL becomes DELAYED although blocks lie on thread_free
// MUTANT ABANDON_BY_STORE | empty_page_is_released | ABANDONED is stored, not swapped in from (empty, NORMAL)
// MUTANT COUNT_APART | list_is_counted | a freer counts its block after it pushed it
// MUTANT COUNT_KEPT | list_is_counted | the collect takes the list and leaves the count
// MUTANT COUNT_UNSEEN | list_is_counted | a push compares list and state, and stores the count that it loaded, plus one
// MUTANT ABANDONED_NOT_CLAIMED | empty_page_is_released | a free into an abandoned page pushes and leaves it abandoned

#define N 3             /* blocks of the page, numbered from 1; 0 ends a list */
#define ALL 7           /* a bit per block */
#define BIT(b) (1 << ((b)-1))
#if defined(SMALL) && !defined(COUNT_UNSEEN)
#define ALLOCATIONS_0 3 /* how often thread 0 allocates at most */
#else
#define ALLOCATIONS_0 4
#endif
#define ALLOCATIONS_1 2 /* and thread 1 */

#define NORMAL 0
#define DELAYED 1
#define DELAYING 2
#define ABANDONED 3

byte tf_list;  /* thread_free: list, ... */
byte tf_count; /* ... how many blocks it has, ... */
byte tf_state; /* ... and state, one word */
byte next[N + 1];
byte delayed[2];  /* theap->thread_delayed_free */
bool theap_ok[2]; /* the theap's memory is valid */
byte page_theap;  /* page->theap */
bool page_full;   /* on the full list of its theap */
byte page_free;   /* page->free and page->local_free */
byte used;

/* The threads' own variables have the same names everywhere: me, b (block), l, n, s (list, count, state as loaded), ok
 * (the swap succeeded), g, t (theap), claimed (this thread has just become the owner by a free). */

/* What the program does not have: bookkeeping of the claims. */
bool live;          /* the page exists */
byte page_gen;      /* counts releases, so that a touch of a later page in the same slot is seen */
byte owner;         /* 1 + the thread that owns the page exclusively, or 0 */
byte hold[N + 1];   /* 1 + the thread that has the block in hand, or 0 */
byte frees_running; /* remote frees that have not returned */
byte budget[2];
bool exited[3];

#define touch_page(g) CLAIM(live && page_gen == g, page_outlives_its_freers)
/* A claim is an assertion with a name that shows in the verifier's message. The names are never true. */
#define CLAIM(condition, name) assert((condition) || name)
bool theap_outlives_its_freers, page_outlives_its_freers, one_owner, block_comes_back_once,
  list_is_counted, never_given_up_while_DELAYING, only_the_freer_ends_DELAYING, delayed_list_is_empty_when_the_theap_goes,
  empty_page_is_found_by_the_next_slow_path, empty_page_is_released;

#define nothing_held (hold[1] == 0 && hold[2] == 0 && hold[3] == 0)
#define holds_none(t) (hold[1] != (t) + 1 && hold[2] != (t) + 1 && hold[3] != (t) + 1)

inline load() {
  d_step { l = tf_list; n = tf_count; s = tf_state }
}

#ifdef COUNT_UNSEEN
#define count_is_as_loaded true
#else
#define count_is_as_loaded (tf_count == n)
#endif

/* The count as it was loaded is n. */
inline cas(old_list, old_state, new_list, new_count, new_state) {
  d_step {
    if
    :: tf_list == old_list && tf_state == old_state && count_is_as_loaded ->
      tf_list = new_list; tf_count = new_count; tf_state = new_state; ok = true
    :: else -> ok = false
    fi
  }
}

/* Pushes every block from the head b onto page_free. Only the owner calls it. */
inline to_free_list() {
  do
  :: l != 0 && !(page_free & BIT(l)) ->
    page_free = page_free | BIT(l);
    used--;
    n--;
    l = next[l]
  :: else -> CLAIM(l == 0, block_comes_back_once); CLAIM(n == 0, list_is_counted); break
  od
}

inline collect() {
  do
  :: load();
    if
    :: l == 0 -> break
    :: else ->
#ifdef COLLECT_BY_STORE
      d_step { tf_list = 0; tf_count = 0; tf_state = s; ok = true }
#else
#ifdef COUNT_KEPT
      cas(l, s, 0, n, s);
#else
      cas(l, s, 0, 0, s);
#endif
#endif
      if
      :: ok -> d_step { to_free_list(); ok = false }; break
      :: else
      fi
    fi
  od;
  atomic { l = 0; n = 0; s = 0; ok = false }
}

/* The page leaves the full list: DELAYED becomes NORMAL; in DELAYING that is left to the freer. */
inline unfull() {
  if
  :: page_full ->
    page_full = false;
    do
    :: load();
      if
      :: s != DELAYED -> break
      :: else ->
#ifdef UNFULL_BY_STORE
        tf_state = NORMAL; ok = true;
#else
        cas(l, s, l, n, NORMAL);
#endif
        if
        :: ok -> break
        :: else
        fi
      fi
    od;
    atomic { l = 0; n = 0; s = 0; ok = false }
  :: else
  fi
}

/* An empty page goes, unless a freer is still inside it. */
inline release_if_empty() {
  if
  :: live && used == 0 ->
    s = tf_state;
    if
#ifndef RELEASE_WHILE_DELAYING
    :: s == DELAYING
#endif
    :: else ->
      d_step {
        CLAIM(tf_list == 0 && tf_count == 0 && nothing_held, block_comes_back_once);
#ifndef RELEASE_WHILE_DELAYING
        CLAIM(tf_state == NORMAL && !page_full, never_given_up_while_DELAYING);
#endif
        live = false; owner = 0; page_gen++; page_free = 0; tf_state = NORMAL; page_full = false
      }
    fi;
    s = 0
  :: else
  fi
}

inline local_free() {
  d_step {
    CLAIM(owner == me + 1, one_owner);
    CLAIM(!(page_free & BIT(b)), block_comes_back_once);
    page_free = page_free | BIT(b);
    used--
  }
  unfull()
}

inline drain() {
  atomic { b = delayed[me]; delayed[me] = 0 }
  do
  :: b != 0 ->
    local_free();
    b = next[b]
  :: else -> break
  od
}

/* Only a page without a free block, and with nothing on thread_free, becomes full. */
inline to_full() {
#ifdef FULL_WITH_LIST
  d_step {
    ok = (tf_state == NORMAL);
    if
    :: ok -> tf_state = DELAYED
    :: else
    fi
  }
#else
  cas(0, NORMAL, 0, 0, DELAYED);
#endif
  if
  :: ok -> page_full = true; ok = false
  :: else
  fi
}

inline slow_path() {
  drain();
  if
  :: !page_full -> collect(); release_if_empty() /* the full list is not searched */
  :: else
  fi;
  if
  :: owner == me + 1 && page_free == 0 && !page_full -> to_full()
  :: else
  fi
}

/* Gives the page up: released when empty, abandoned otherwise. The caller owns it and it is on no full list. */
inline abandon() {
  do
  :: collect();
    if
    :: used == 0 -> release_if_empty(); CLAIM(!live, empty_page_is_released); break
    :: else ->
      d_step {
        CLAIM(owner == me + 1, one_owner);
        CLAIM(!page_full && tf_state == NORMAL, never_given_up_while_DELAYING);
        if
#ifdef ABANDON_BY_STORE
        :: true
#else
        :: tf_list == 0
#endif
          -> tf_list = 0; tf_count = 0; tf_state = ABANDONED; owner = 0; ok = true
        :: else -> ok = false
        fi
      }
      if
      :: ok -> ok = false; break
      :: else
      fi
    fi
  od
}

#ifdef ABANDONED_NOT_CLAIMED
#define pushes_on_page(s) (s == NORMAL || s == DELAYING || s == ABANDONED)
#else
#define pushes_on_page(s) (s == NORMAL || s == DELAYING)
#endif

/* mi_free of block b by a thread that is not the page's owner. claimed: the thread owns the page now. */
inline remote_free() {
  d_step { assert(hold[b] == me + 1); hold[b] = 0; frees_running++; g = page_gen }
  do
  :: d_step { touch_page(g); l = tf_list; n = tf_count; s = tf_state; next[b] = l;
#ifdef THEAP_READ_EARLY
    t = page_theap
#endif
    }
    if
    :: pushes_on_page(s) ->
      d_step { touch_page(g) }
#ifdef COUNT_APART
      cas(l, s, b, n, s);
      if
      :: ok -> tf_count++
      :: else
      fi;
#else
      cas(l, s, b, n + 1, s);
#endif
      if
      :: ok -> break
      :: else
      fi
    :: s == DELAYED ->
      d_step { touch_page(g) }
#ifdef NO_DELAYING
      cas(l, s, l, n, NORMAL);
#else
      cas(l, s, l, n, DELAYING);
#endif
      if
      :: ok ->
#ifndef THEAP_READ_EARLY
        t = page_theap;
#endif
        do
        :: d_step { CLAIM(theap_ok[t], theap_outlives_its_freers); l = delayed[t]; next[b] = l }
          d_step {
            CLAIM(theap_ok[t], theap_outlives_its_freers);
            if
            :: delayed[t] == l -> delayed[t] = b; ok = true
            :: else -> ok = false
            fi
          }
          if
          :: ok -> break
          :: else
          fi
        od;
#ifndef NO_DELAYING
        do
        :: d_step {
            touch_page(g); l = tf_list; n = tf_count; s = tf_state; CLAIM(s == DELAYING, only_the_freer_ends_DELAYING)
          }
#ifdef NORMAL_BY_STORE
          d_step { tf_list = l; tf_count = n; tf_state = NORMAL; ok = true }
#else
          d_step { touch_page(g) }
          cas(l, DELAYING, l, n, NORMAL);
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
#ifndef ABANDONED_NOT_CLAIMED
    :: s == ABANDONED ->
      d_step {
        touch_page(g);
        if
        :: tf_list == l && tf_count == n && tf_state == s ->
          CLAIM(owner == 0, one_owner); tf_list = b; tf_count = n + 1; tf_state = NORMAL; owner = me + 1; ok = true
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
  atomic { l = 0; n = 0; s = 0; ok = false; g = 0; t = 0; b = 0; frees_running-- }
}

/* Exit: pages become NORMAL, drain, abandon, and only then the theap goes. The only wait is for DELAYING. */
inline thread_exit() {
#ifdef DRAIN_BEFORE_NORMAL
  drain();
#endif
  if
  :: owner == me + 1 ->
#ifdef EXIT_WAITS_FOR_FULL
    if
    :: page_full -> unfull(); (tf_state != DELAYING)
    :: else
    fi
#else
    unfull();
    (tf_state != DELAYING)
#endif
  :: else
  fi;
#ifndef DRAIN_BEFORE_NORMAL
  drain();
#endif
  if
  :: owner == me + 1 -> abandon()
  :: else
  fi;
  atomic { CLAIM(delayed[me] == 0, delayed_list_is_empty_when_the_theap_goes); theap_ok[me] = false; exited[me] = true }
}

#define owns(t) (owner == (t) + 1)

inline allocate() {
  d_step {
    budget[me]--;
    if
    :: page_free & BIT(1) -> b = 1
    :: !(page_free & BIT(1)) && (page_free & BIT(2)) -> b = 2
    :: !(page_free & BIT(1)) && !(page_free & BIT(2)) -> b = 3
    fi;
    page_free = page_free & ~BIT(b);
    used++
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
  :: hold[3] == me + 1 -> b = 3
  fi
}

proctype owner_thread(byte me) {
  byte b, l, n, s, g, t;
  bool ok, claimed;
  do
  :: atomic { owns(me) && page_free != 0 && budget[me] > 0 -> allocate() }
  :: atomic { take_a_held_block(); if :: owns(me) -> hold[b] = 0 :: else fi };
    if
    :: owns(me) -> local_free(); b = 0; release_if_empty()
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
  :: owns(me) && !claimed && nothing_held && frees_running == 0 ->
    atomic { slow_path(); CLAIM(!live, empty_page_is_found_by_the_next_slow_path) }
  :: me == 0 && !live && budget[0] > 0 && page_gen < 2 -> /* a new page in the same slot */
    d_step {
      live = true; owner = 1; page_theap = 0; page_free = ALL; used = 0; tf_list = 0; tf_count = 0; tf_state = NORMAL
    }
  :: holds_none(me) && !claimed && (me == 0 || exited[0]) -> break
  od;
  thread_exit();
}

/* Thread 2, without a theap. */
proctype freer(byte me) {
  byte b, l, n, s, g, t;
  bool ok, claimed;
  do
  :: atomic { take_a_held_block() }; remote_free()
  :: claimed -> claimed = false; abandon()
  :: exited[0] && exited[1] && holds_none(me) && !claimed -> break
  od;
  exited[2] = true
}

init {
  d_step {
    theap_ok[0] = true; theap_ok[1] = true;
    budget[0] = ALLOCATIONS_0; budget[1] = ALLOCATIONS_1;
    live = true; owner = 1; page_free = ALL
  }
  atomic { run owner_thread(0); run owner_thread(1); run freer(2) }
  (exited[0] && exited[1] && exited[2]);
  CLAIM(!live, empty_page_is_released)
}
