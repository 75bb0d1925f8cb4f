/*
 * Pages without an owner: abandoning, claiming by a free, claiming from the heap's list, releasing.
 *
 * Holds: the abandon loop, the free that meets ABANDONED, the heap's lock-free list with a tagged head, the popper,
 * and the LISTED bit, which is a bit of thread_free beside the state, so that one compare-and-swap decides on all of
 * them. Does not hold: DELAYED and DELAYING (remote_free.pml), the life of theaps and heaps (theap_life.pml). The
 * blocks on thread_free are a set here, because remote_free.pml has the list itself. A released slot may be used for
 * anything: touching it is an error, with one exception, a popper's read of the link of a page that another popper
 * has taken; that read may return anything, and the tag must make it harmless.
 *
 * Threads: 0 owns both pages and abandons them at its exit; 1 frees two blocks and has no theap; 2 frees one block
 * and may keep the page that it claims by that; 3 and 4 pop, keep or give back; init is the final popper (the heap's
 * destroyer). All of that at once is too large, hence two settings: without 4, and (TWO_POPPERS) without 0 and 2,
 * both pages listed.
 */
// STATES 1000000
// STATES 1000000 -DTWO_POPPERS
// MUTANT LISTED_APART | page_is_not_touched_after | LISTED is a word of its own, read again after the page was given up
// MUTANT LISTED_APART_SILENT | nothing_lost | the same without that second look: a wake-up is lost
// MUTANT NO_TAG -DTWO_POPPERS | head_is_a_listed_page | the head of the list carries no tag
// MUTANT CLEAR_AFTER_CLAIM | nothing_lost | a popper claims first and clears LISTED in a second step
// MUTANT RELEASE_LISTED | page_is_not_touched_after | an empty page is released although it is LISTED
// MUTANT PUSH_ALWAYS | list_holds_a_page_once | a page is pushed although it is LISTED
// MUTANT ABANDON_BY_STORE | nothing_lost | ABANDONED is stored, not swapped in from an empty list
// MUTANT FREE_BY_STORE | one_owner | a free into an abandoned page stores NORMAL
// MUTANT POP_BY_STORE -DTWO_POPPERS | list_holds_a_page_once | a popper stores the new head

#ifdef SMALL
#define POPS_4 1
#else
#define POPS_4 2
#endif

#define PAGES 2
#define NO_PAGE 0
#define OTHER 3 /* what the link of a released slot may say: a page of another heap */

#define NORMAL 0
#define ABANDONED 1
#define LISTED 2 /* the state and the LISTED bit share a byte; with the set of blocks they are one word */
#define state(w) (w & 1)
#define is_listed(w) (w & LISTED)

byte tf_blocks[PAGES + 1]; /* thread_free: blocks that were freed remotely ... */
byte tf_bits[PAGES + 1];   /* ... state and LISTED */
byte used[PAGES + 1];
byte link[PAGES + 1]; /* the next page of the heap's list */
byte head, tag;       /* one word */
#ifdef LISTED_APART_SILENT
#define LISTED_APART
#endif
#ifdef LISTED_APART
bool listed_word[PAGES + 1];
#endif

/* What the program does not have: bookkeeping of the claims. */
byte owner[PAGES + 1];   /* 1 + the thread that owns the page exclusively, or 0 */
bool live[PAGES + 1];    /* not yet released */
bool on_list[PAGES + 1];
byte threads_done;

/* A claim is an assertion with a name that shows in the verifier's message. The names are never true. */
#define CLAIM(condition, name) assert((condition) || name)
bool one_owner, released_once, nothing_lost, list_holds_a_page_once, head_is_a_listed_page,
  page_is_not_touched_after_its_release;

#define touch(p) CLAIM(live[p], page_is_not_touched_after_its_release)

/* The threads' own variables have the same names everywhere: me, p (page), q (page read as head or link), g (tag as
 * read), m and w (blocks and bits as loaded), ok (the swap succeeded), push, kept (set of pages). */

inline load() {
  d_step { touch(p); m = tf_blocks[p]; w = tf_bits[p] }
}

inline cas(new_blocks, new_bits, new_owner) {
  d_step {
    touch(p);
    if
    :: tf_blocks[p] == m && tf_bits[p] == w ->
      tf_blocks[p] = new_blocks; tf_bits[p] = new_bits; owner[p] = new_owner; ok = true
    :: else -> ok = false
    fi
  }
}

inline collect() {
  do
  :: load();
    if
    :: m == 0 -> break
    :: else ->
      cas(0, w, me + 1);
      if
      :: ok ->
        d_step {
          CLAIM(owner[p] == me + 1, one_owner);
          do
          :: m != 0 -> CLAIM(used[p] > 0, released_once); used[p]--; m = m & (m - 1)
          :: else -> break
          od
        }
      :: else
      fi
    fi
  od
}

inline release() {
  d_step {
    CLAIM(owner[p] == me + 1, one_owner);
    CLAIM(live[p] && used[p] == 0 && tf_blocks[p] == 0, released_once);
    CLAIM(!on_list[p], list_holds_a_page_once);
    live[p] = false; owner[p] = 0; tf_bits[p] = NORMAL; link[p] = OTHER
  }
}

inline push_page() {
  do
  :: atomic { q = head; g = tag; touch(p); link[p] = q }
    d_step {
      if
      :: head == q && tag == g -> head = p; CLAIM(!on_list[p], list_holds_a_page_once); on_list[p] = true; ok = true
      :: else -> ok = false
      fi
    }
    if
    :: ok -> break
    :: else
    fi
  od;
  q = 0; g = 0
}

/* Gives up page p, which this thread owns: releases it when it is empty and not LISTED, else leaves it abandoned,
 * and LISTED in any case. Once the swap succeeded, the page is touched only to push it, before which nobody can
 * release it. */
#ifndef LISTED_APART
inline abandon() {
  do
  :: collect();
    if
#ifndef RELEASE_LISTED
    :: used[p] == 0 && !is_listed(w) -> release(); break
#else
    :: used[p] == 0 -> release(); break
#endif
    :: else ->
#ifdef ABANDON_BY_STORE
      d_step { touch(p); tf_blocks[p] = 0; tf_bits[p] = ABANDONED | LISTED; owner[p] = 0; ok = true }
#else
      cas(0, ABANDONED | LISTED, 0);
#endif
      if
#ifdef PUSH_ALWAYS
      :: ok -> push_page(); break
#else
      :: ok && !is_listed(w) -> push_page(); break
      :: ok && is_listed(w) -> break
#endif
      :: else
      fi
    fi
  od;
  atomic { m = 0; w = 0; ok = false; p = 0 }
}
#else
/* The mutant: LISTED in a word of its own. */
inline abandon() {
  do
  :: collect();
    if
    :: used[p] == 0 && !listed_word[p] -> release(); break
    :: else ->
      if
      :: used[p] > 0 -> d_step { push = push || !listed_word[p]; listed_word[p] = true }
      :: else
      fi;
      cas(0, ABANDONED, 0);
      if
      :: ok && push -> push_page(); break
      :: ok && !push ->
#ifdef LISTED_APART_SILENT
        break
#else
        d_step { touch(p); ok = listed_word[p] }
        if
        :: ok -> break
        :: else ->
          load();
          if
          :: w == ABANDONED -> cas(m, NORMAL, me + 1)
          :: else -> ok = false
          fi;
          if
          :: !ok -> break
          :: else
          fi
        fi
#endif
      :: else
      fi
    fi
  od;
  atomic { m = 0; w = 0; ok = false; p = 0; push = false }
}
#endif

/* mi_free of a block, a bit of page p's set, by a thread that does not own p. claimed: it does now. */
inline remote_free(block) {
  do
  :: load();
    if
    :: state(w) == NORMAL ->
      d_step {
        touch(p);
        if
        :: tf_blocks[p] == m && tf_bits[p] == w -> tf_blocks[p] = m | block; ok = true
        :: else -> ok = false
        fi
      }
    :: else ->
      d_step {
        touch(p);
        if
#ifdef FREE_BY_STORE
        :: true ->
#else
        :: tf_blocks[p] == m && tf_bits[p] == w ->
#endif
          CLAIM(owner[p] == 0, one_owner); tf_blocks[p] = m | block; tf_bits[p] = w & ~ABANDONED; owner[p] = me + 1;
          claimed = true; ok = true
        :: else -> ok = false
        fi
      }
    fi;
    if
    :: ok -> break
    :: else
    fi
  od;
  atomic { m = 0; w = 0; ok = false }
}

/* Takes a page off the list into p, or leaves p == NO_PAGE; claimed: and owns it now, otherwise someone else does. */
inline pop() {
  do
  :: atomic { p = head; g = tag }
    if
    :: p == NO_PAGE -> break
    :: else ->
      q = link[p]; /* p may be gone by now */
      d_step {
        if
#ifdef NO_TAG
        :: head == p ->
#else
#ifdef POP_BY_STORE
        :: true ->
#else
        :: head == p && tag == g ->
#endif
#endif
          head = q; tag++; CLAIM(q == NO_PAGE || (q < OTHER && on_list[q]), head_is_a_listed_page);
          CLAIM(on_list[p], list_holds_a_page_once); on_list[p] = false; ok = true
        :: else -> ok = false
        fi
      }
      if
      :: ok -> break
      :: else
      fi
    fi
  od;
  atomic { q = 0; g = 0; ok = false }
  if
  :: p != NO_PAGE -> take_popped()
  :: else
  fi
}

#ifdef LISTED_APART
inline take_popped() {
  d_step { touch(p); listed_word[p] = false }
  load();
  if
  :: w == ABANDONED -> cas(m, NORMAL, me + 1); claimed = ok
  :: else
  fi;
  atomic { m = 0; w = 0; ok = false; if :: !claimed -> p = 0 :: else fi }
}
#else
/* Clears LISTED and, when the page has no owner, claims it, both in one swap. */
inline take_popped() {
  do
  :: load();
#ifdef CLEAR_AFTER_CLAIM
    if
    :: state(w) == ABANDONED -> claim_popped(w & ~ABANDONED)
    :: else -> ok = true
    fi;
    if
    :: ok -> d_step { touch(p); tf_bits[p] = tf_bits[p] & ~LISTED }
#else
    if
    :: state(w) == ABANDONED -> claim_popped(NORMAL)
    :: else -> cas(m, w & ~LISTED, owner[p])
    fi;
    if
    :: ok ->
#endif
      break
    :: else
    fi
  od;
  atomic { m = 0; w = 0; ok = false; if :: !claimed -> p = 0 :: else fi }
}
#endif

inline claim_popped(new_bits) {
  d_step {
    touch(p);
    if
    :: tf_blocks[p] == m && tf_bits[p] == w ->
      CLAIM(owner[p] == 0, one_owner); tf_bits[p] = new_bits; owner[p] = me + 1; claimed = true; ok = true
    :: else -> ok = false
    fi
  }
}

/* A claimed page is kept, to be given up later, or given up at once, as is one that is empty. */
inline keep_or_give_up() {
  if
  :: claimed ->
    claimed = false;
    if
    :: kept = kept | p; p = 0
    :: abandon()
    fi
  :: else
  fi
}

inline give_up_kept() {
  atomic {
    if
    :: kept & 1 -> p = 1; kept = kept & ~1
    :: kept & 2 -> p = 2; kept = kept & ~2
    fi
  }
  abandon()
}

#define VARIABLES byte p, q, g, m, w, kept; bool ok, push, claimed

proctype exiting() {
  VARIABLES;
  byte me = 0;
  p = 1; abandon();
  p = 2; abandon();
  threads_done++
}

proctype freer_without_theap() {
  VARIABLES;
  byte me = 1, page;
  bool second;
  if
  :: page = 1 :: page = 2
  fi;
  do
  :: p = page; remote_free(1);
    if
    :: claimed -> claimed = false; abandon()
    :: else
    fi;
    if
    :: second -> break
    :: else -> second = true; page = 3 - page
    fi
  od;
  threads_done++
}

proctype freer_with_theap() {
  VARIABLES;
  byte me = 2;
  p = 1; remote_free(2); keep_or_give_up();
  if
  :: kept -> give_up_kept()
  :: else
  fi;
  threads_done++
}

proctype popper(byte me; byte pops) {
  VARIABLES;
  do
  :: pops > 0 -> pops--; p = 0; pop(); keep_or_give_up()
  :: kept -> give_up_kept()
  :: !kept -> break
  od;
  threads_done++
}

init {
  VARIABLES;
  byte me = 5;
  d_step {
    live[1] = true; live[2] = true;
    used[1] = 2; used[2] = 1 /* block 1 of both pages: thread 1; block 2 of page 1: thread 2 */
#ifdef TWO_POPPERS
    used[1] = 1;
    tf_bits[1] = ABANDONED | LISTED; tf_bits[2] = ABANDONED | LISTED;
    on_list[1] = true; on_list[2] = true; head = 1; link[1] = 2
#ifdef LISTED_APART
    tf_bits[1] = ABANDONED; tf_bits[2] = ABANDONED; listed_word[1] = true; listed_word[2] = true
#endif
#else
    owner[1] = 1; owner[2] = 1
#endif
  }
  atomic {
    run freer_without_theap(); run popper(3, 2);
#ifdef TWO_POPPERS
    run popper(4, POPS_4);
    threads_done++;
#else
    run exiting(); run freer_with_theap();
#endif
  }
  (threads_done == 4);
  do
  :: pop();
    if
    :: p == NO_PAGE && head == NO_PAGE -> break
    :: p == NO_PAGE && head != NO_PAGE
    :: else -> claimed = false; abandon()
    fi
  od;
  CLAIM(!live[1] && !live[2], nothing_lost)
}
