/*
 * The slices of one segment: claiming and releasing runs, opening and closing the segment, huge blocks, and purging.
 *
 * Holds: the words free, aged, dirty and backed of the segment, its kind, its bits in the summaries has_free and
 * purgeable and in the arena's set of unused segments. Does not hold: the search over several segments and arenas,
 * the hints, page slots, and a segment's header (slice 0, never free). Three slices stand for 63. Memory is a bit
 * per slice: zero or not. Sequentially consistent; the C code uses seq_cst read-modify-writes where the summaries
 * need that.
 *
 * Threads: two users claim a run, by the summary or directly because they remember the segment, write to it, may make
 * it one slice longer, release it, perhaps with the segment, and may keep the last one; one takes the whole segment for
 * a huge block; a purger ticks.
 */
// STATES 5000000
// STATES 300000 -DHUGE_BLOCK
// STATES 300000 -DEXTEND
// MUTANT NO_RELOAD | free_slices_are_findable | who clears the summary does not look at the word again
// MUTANT SUMMARY_FIRST | free_slices_are_findable | a release sets the summary before the word
// MUTANT SUMMARY_IF_CLEAR | free_slices_are_findable | a release sets the summary only if it was clear before
// MUTANT CLAIM_BY_STORE | slice_has_one_holder | a claim loads and stores the word
// MUTANT EXTEND_BLINDLY -DEXTEND | slice_has_one_holder | a page takes a slice behind it that it saw free, without a CAS
// MUTANT PURGE_SEEN | purged_only_while_held | a purger purges slices that it saw free, without claiming them
// MUTANT CLOSE_BY_STORE | claimed_only_in_normal | a segment is closed because its word was seen to be ALL
// MUTANT KIND_LATE -DHUGE_BLOCK | claimed_only_in_normal | a closed segment is unused before its kind says so
// MUTANT WORD_FIRST | claimed_only_in_normal | a segment's slices are free before its kind is NORMAL
// MUTANT PURGEABLE_FIRST | memory_goes_back | a release marks the segment purgeable before the word
// MUTANT PURGEABLE_LATE | memory_goes_back | a purger clears the mark after it looked at the segment
// MUTANT OPEN_UNMARKED | memory_goes_back | opening a segment does not mark it purgeable
// MUTANT ZERO_LATE | zero_is_zero | a purger gives slices back before it says that they are zero
// MUTANT STALE_CLEAN | zero_is_zero | a claim does not mark its slices as dirty

#define ALL 7
#define SLICES 3

#define UNUSED 0
#define NORMAL 1
#define HUGE 2

#define TICKS 2 /* of the purger */

byte free, aged, dirty, backed;
bool has_free, purgeable; /* the segment's bits in the summaries */
byte kind;
bool unused; /* the segment's bit in the arena's set */

/* What the program does not have: bookkeeping of the claims. */
byte held;     /* slices that somebody holds */
byte nonzero;  /* slices with something in them */
byte threads_done;

/* A claim is an assertion with a name that shows in the verifier's message. The names are never true. */
#define CLAIM(condition, name) assert((condition) || name)
bool slice_has_one_holder, free_slices_are_findable, purged_only_while_held, claimed_only_in_normal, memory_goes_back,
  zero_is_zero, segment_is_claimed_once;

/* The threads' own variables have the same names everywhere: w (word as loaded), r (run), x, y (as loaded), ok. */
#define VARIABLES byte w, r, x, y; bool ok

/* --- the summary ------------------------------------------------------------------------------------- */

inline summary_clear() {
  has_free = false;
#ifndef NO_RELOAD
  if
  :: free != 0 -> has_free = true
  :: else
  fi
#endif
}

/* The holder of the slices in r gives them back. */
inline give() {
#ifdef SUMMARY_FIRST
  if
  :: free == 0 -> has_free = true
  :: else
  fi;
#endif
#ifdef SUMMARY_IF_CLEAR
  y = has_free;
#endif
  d_step {
    CLAIM((held & r) == r && (free & r) == 0, slice_has_one_holder);
    x = free; free = free | r; held = held & ~r
  }
#ifndef SUMMARY_FIRST
  if
#ifdef SUMMARY_IF_CLEAR
  :: x == 0 && !y -> has_free = true
#else
  :: x == 0 -> has_free = true
#endif
  :: else
  fi;
#endif
  atomic { x = 0; y = 0 }
}

/* free: w -> w & ~r. */
inline claim() {
  d_step {
    if
#ifdef CLAIM_BY_STORE
    :: true ->
#else
    :: free == w ->
#endif
      CLAIM((held & r) == 0, slice_has_one_holder); CLAIM(kind == NORMAL, claimed_only_in_normal);
      free = w & ~r; held = held | r; ok = true
    :: else -> ok = false
    fi
  }
}

/* --- users --------------------------------------------------------------------------------------------- */

/* The slices in r are this thread's: whether they are zero, and that they will not be any more. One step, because
 * only the holder of a slice changes its bits in dirty and backed, and nobody else relies on them. */
inline make_dirty() {
  d_step {
    CLAIM((dirty & r) || !(nonzero & r), zero_is_zero);
#ifndef STALE_CLEAN
    dirty = dirty | r;
#endif
    backed = backed | r; nonzero = nonzero | r
  }
}

/* r is a run of one or two slices, or 0 if there was none. */
inline slices_take() {
  do
  :: w = free;
    if
    :: w == 0 -> r = 0; break
    :: w & 1 -> r = 1
    :: w & 2 -> r = 2
    :: (w & 6) == 6 -> r = 6
    :: w == 4 -> r = 4
    fi;
    claim();
    if
    :: ok -> break
    :: else
    fi
  od;
  if
  :: r != 0 ->
    if
    :: (w & ~r) == 0 -> summary_clear()
    :: else
    fi;
    make_dirty()
  :: else
  fi;
  atomic { w = 0; ok = false }
}

/* A page of the slices in r, which are one, takes the next one too if it is free (resize.c). */
inline slices_extend() {
  do
  :: w = free;
    if
    :: (w & (r << 1)) == 0 -> break
    :: else ->
      x = r; r = r << 1;
#ifdef EXTEND_BLINDLY
      d_step { CLAIM((held & r) == 0, slice_has_one_holder); free = free & ~r; held = held | r; ok = true }
#else
      claim();
#endif
      if
      :: ok ->
        if
        :: (w & ~r) == 0 -> summary_clear()
        :: else
        fi;
        make_dirty();
        r = r | x;
        break
      :: else -> r = x
      fi
    fi
  od;
  atomic { w = 0; x = 0; ok = false }
}

inline segment_claim() {
  d_step {
    ok = unused; unused = false;
    CLAIM(!ok || (held == 0 && free == 0), segment_is_claimed_once)
  }
}

/* The whole segment goes back to the arena. */
inline segment_release() {
  purgeable = true;
  unused = true
}

inline mark_purgeable() {
  if
  :: !purgeable -> purgeable = true
  :: else
  fi
}

/* Makes the segment NORMAL, with the caller's run claimed from the start. */
inline segment_open() {
  segment_claim();
  if
  :: ok ->
    ok = false;
    held = ALL;
#ifndef WORD_FIRST
    kind = NORMAL;
#endif
    r = 1; make_dirty();
    r = ALL & ~1; give(); r = 1;
#ifndef OPEN_UNMARKED
    mark_purgeable(); /* free slices may have memory from the segment's last use */
#endif
#ifdef WORD_FIRST
    kind = NORMAL
#endif
  :: else
  fi
}

inline segment_close() {
  d_step {
#ifdef CLOSE_BY_STORE
    ok = true;
#else
    ok = (free == ALL);
#endif
    if
    :: ok -> free = 0
    :: else
    fi
  }
  if
  :: ok ->
    ok = false;
    summary_clear();
#ifdef KIND_LATE
    segment_release();
    kind = UNUSED;
    aged = 0
#else
    kind = UNUSED;
    aged = 0;
    segment_release()
#endif
  :: else
  fi
}

inline slices_release() {
  aged = aged & ~r;
#ifdef PURGEABLE_FIRST
  mark_purgeable();
#endif
  give();
#ifndef PURGEABLE_FIRST
  mark_purgeable();
#endif
  r = 0
}

proctype user(byte rounds) {
  VARIABLES;
  do
  :: atomic { rounds > 0 -> rounds-- }
    if
    :: has_free || kind != UNUSED -> /* found by the summary, or remembered, perhaps from long ago */
      slices_take();
      if
      :: r == 0 && free == 0 -> summary_clear()
      :: else
      fi
    :: slices_take() /* a stale memory of the segment */
    :: r = 0
    fi;
    if
    :: r == 0 -> segment_open()
    :: else
    fi;
#ifdef EXTEND
    if
    :: r == 1 || r == 2 -> slices_extend()
    :: true
    fi;
#endif
    if
    :: r != 0 -> slices_release();
#ifdef EXTEND
      if
      :: free == ALL -> segment_close() /* of a large block */
      :: true
      fi
#endif
    :: r != 0 && rounds == 0 -> break /* keeps it */
    :: else
    fi
  :: else -> break
  od;
  threads_done++
}

/* A block that takes the whole segment. */
proctype huge_user() {
  VARIABLES;
  segment_claim();
  if
  :: ok ->
    held = ALL;
    d_step { CLAIM(dirty != 0 || nonzero == 0, zero_is_zero); CLAIM(free == 0, claimed_only_in_normal) }
    dirty = ALL; backed = ALL;
    kind = HUGE;
    nonzero = ALL;
    CLAIM(kind == HUGE && free == 0 && held == ALL, claimed_only_in_normal);
    if
    :: aged = 0;
      held = 0; kind = UNUSED;
      segment_release()
    :: skip /* keeps it */
    fi
  :: else
  fi;
  threads_done++
}

/* --- purging --------------------------------------------------------------------------------------------- */

/* Gives the memory of the slices in r back to the system. */
inline purge() {
  d_step {
    CLAIM((held & r) == r, purged_only_while_held);
    nonzero = nonzero & ~r;
#ifndef ZERO_LATE
    dirty = dirty & ~r;
#endif
    backed = backed & ~r
  }
}

inline purge_normal() {
  do
  :: w = free;
    if
    :: force -> r = w & backed
    :: else -> y = aged; r = w & backed & y; y = 0
    fi;
    if
    :: r == 0 -> break
    :: else ->
#ifdef PURGE_SEEN
      purge(); r = 0; break
#else
      claim();
      if
      :: ok ->
        ok = false;
        if
        :: (w & ~r) == 0 -> summary_clear()
        :: else
        fi;
        purge();
#ifdef ZERO_LATE
        w = r; give(); dirty = dirty & ~w;
#else
        give();
#endif
        break
      :: else
      fi
#endif
    fi
  od;
  atomic { w = 0; r = 0 }
  if
  :: free == ALL && (force || aged == ALL) -> segment_close()
  :: else -> w = free; aged = aged | w; w = 0
  fi
}

inline purge_unused() {
  if
  :: !force && aged == 0 -> aged = ALL
  :: else ->
    segment_claim();
    if
    :: ok ->
      ok = false;
      held = ALL;
      r = ALL; purge();
#ifdef ZERO_LATE
      dirty = 0;
#endif
      r = 0;
      aged = 0;
      d_step { held = 0; unused = true }
    :: else
    fi
  fi
}

inline purge_pass() {
  if
  :: purgeable ->
#ifndef PURGEABLE_LATE
    purgeable = false;
#endif
    if
    :: kind == NORMAL ->
      purge_normal();
      w = free; y = backed & w;
      if
      :: free == ALL -> y = 1
      :: else
      fi
    :: kind == UNUSED -> purge_unused(); y = backed
    :: kind == HUGE
    fi;
    w = 0;
#ifdef PURGEABLE_LATE
    purgeable = false;
#endif
    if
    :: y != 0 -> purgeable = true
    :: else
    fi;
    y = 0
  :: else
  fi
}

proctype purger() {
  VARIABLES;
  bool force;
  byte ticks = TICKS;
  do
  :: atomic { ticks > 0 -> ticks--; if :: force = true :: force = false fi }
    purge_pass()
  :: else -> break
  od;
  threads_done++
}

init {
  VARIABLES;
  bool force = true;
  unused = true;
  atomic {
#ifdef EXTEND
    run user(1);
#else
    run user(2);
#endif
    run purger();
#ifdef HUGE_BLOCK
    run huge_user()
#else
    run user(1)
#endif
  }
  (threads_done == 3);
  atomic {
    CLAIM(free == 0 || has_free, free_slices_are_findable);
    CLAIM(kind != NORMAL || (free | held) == ALL, slice_has_one_holder);
    CLAIM((kind == NORMAL) || free == 0, claimed_only_in_normal);
    /* What is left is given back by the next two passes, and the segment is closed when nobody holds a slice. */
    purge_pass();
    purge_pass();
    CLAIM((backed & ~held) == 0 && (nonzero & ~held) == 0, memory_goes_back);
    CLAIM(held != 0 || (unused && kind == UNUSED), memory_goes_back)
  }
}
