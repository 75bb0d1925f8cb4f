/*
 * Two frees of one block of a bit page at the same moment: is the second one noticed, exactly once, and never one that
 * is right?
 *
 * Holds: the state of one block and its bit `remote`, its free by the page's owner and by two other threads, or instead a
 * resize by one of these, each after it found the block live, the owner's collect, the use of the block for something else, the end of the page, and the
 * beginning of another page in its place. Does not hold: signals, states and generations of the page's word
 * (bit_page.pml): the owner looks at the bits now and then, and in the end. Every access to a shared word is one step.
 *
 * Thread 0 is the owner. Which of the three threads free the block, one or two of them, is chosen at the beginning, or that
 * one frees and another resizes it.
 */
// STATES 3000
// MUTANT END_BY_LOAD | second_free_is_noticed | the page's end looks at the bits and leaves them clear
// MUTANT END_BY_STORE | second_free_is_noticed | the page's end sets the bits after it looked, in two steps
// MUTANT COLLECT_UNSEEN | second_free_is_noticed | the collect does not compare the bits with the states
// MUTANT COLLECT_ANY | block_in_use_stays | the collect frees whatever has a bit
// MUTANT FETCH_UNSEEN | second_free_is_noticed | a freer does not look at what its bit was before
// MUTANT TAKE_BY_STORE | second_free_is_noticed | a freer stores the state after it looked, in two steps
// MUTANT BIT_FIRST | right_free_is_not_reported | a freer sets the bit before the state
// MUTANT RESIZE_BY_STORE | freed_block_stays_free | a resize stores the state after it looked, in two steps
// MUTANT BEGIN_KEEPS | right_free_is_not_reported | the bits of a page that begins are still set

#define FREE 0
#define LIVE 1
#define REMOTE 2
byte state = LIVE; /* of the block */
bool remote;

/* What the program does not have: bookkeeping of the claims. */
bool frees[3];     /* the threads that free the block */
bool done[3];      /* those that have */
bool there = true; /* the page */
byte uses;         /* how often the address was handed out again */
byte reports;      /* of a double free */
bool is_double; /* two threads free it */
bool resizes;   /* thread 2 resizes it */
bool is_late;   /* the block was taken from the live ones when the address was in use again */

#define CLAIM(condition, name) assert((condition) || name)
bool second_free_is_noticed, right_free_is_not_reported, block_in_use_stays, freed_block_stays_free;

/* Takes the block from the live ones, if it is one. If the address was handed out again before, it is late: nothing tells
 * it from a free of the new block. */
inline take() {
#ifdef TAKE_BY_STORE
  ok = (state == LIVE);
  if
  :: ok -> d_step { state = REMOTE; is_late = is_late || uses != 0 }
  :: else
  fi
#else
  d_step {
    ok = (state == LIVE);
    if
    :: ok -> state = REMOTE; is_late = is_late || uses != 0
    :: else
    fi
  }
#endif
}

/* Sets its bit, and looks at what that was. */
inline tell() {
  d_step { former = remote; remote = true }
  if
#ifndef FETCH_UNSEEN
  :: former -> reports++
#endif
  :: else
  fi
}

/* A free by another thread. */
proctype freer(byte me) {
  bool former, ok;
  if
  :: frees[me] ->
    ok = (state == LIVE);
    if
    :: !ok -> reports++
    :: else ->
#ifdef BIT_FIRST
      tell();
      take()
#else
      take();
      if
      :: !ok -> reports++
      :: else -> tell()
      fi
#endif
    fi
  :: resizes && me == 2 -> /* to another live state, which is LIVE here */
    ok = (state == LIVE);
    if
#ifdef RESIZE_BY_STORE
    :: ok -> state = LIVE
#else
    :: ok -> (true) /* the CAS changes nothing, or fails */
#endif
    :: else
    fi
  :: else
  fi;
  done[me] = true
}

/* What others freed: bits of blocks in another state are of double frees. */
inline collect() {
  d_step { f = remote; remote = false }
  d_step {
    if
#ifndef COLLECT_UNSEEN
    :: f && state != REMOTE -> reports++
#endif
    :: else
    fi;
    if
#ifdef COLLECT_ANY
    :: f -> state = FREE
#else
    :: f && state == REMOTE -> state = FREE
#endif
    :: else
    fi;
    f = false
  }
}

inline hand_out() {
  d_step {
    uses++;
    if
    :: remote -> remote = false; reports++
    :: else
    fi
  }
  state = LIVE
}

inline end_page() {
#if defined(END_BY_LOAD) || defined(END_BY_STORE)
  f = remote;
#ifdef END_BY_STORE
  remote = true;
#endif
#else
  d_step { f = remote; remote = true }
#endif
  d_step {
    there = false;
    if
    :: f -> reports++; f = false
    :: else
    fi
  }
}

/* Another page in the same place, whose block at the same address is handed out. */
inline begin_page() {
  d_step {
    there = true;
#ifndef BEGIN_KEEPS
    remote = false;
#endif
    state = LIVE; uses++
  }
}

proctype owner() {
  bool f;
  if
  :: frees[0] ->
    f = (state == LIVE);
    if
    :: !f -> reports++
    :: else -> state = FREE; f = false
    fi
  :: else
  fi;
  f = false;
  done[0] = true;
  do
  :: there -> collect()
  :: there && state == FREE && uses == 0 -> hand_out()
  :: there && state == FREE -> end_page()
  :: !there && uses == 0 -> begin_page()
  :: done[1] && done[2] -> break
  od;
  if
  :: there -> collect()
  :: else
  fi;
  d_step {
    if
    :: is_late -> skip
    :: else ->
      CLAIM(!is_double || reports == 1, second_free_is_noticed);
      CLAIM(!there || uses == 0 || state == LIVE, block_in_use_stays)
    fi;
    CLAIM(is_double || reports == 0, right_free_is_not_reported);
    CLAIM(!resizes || uses != 0 || state == FREE, freed_block_stays_free)
  }
}

init {
  atomic {
    if
    :: frees[0] = true
    :: frees[1] = true
    :: frees[0] = true; frees[1] = true; is_double = true
    :: frees[1] = true; frees[2] = true; is_double = true
    :: frees[0] = true; resizes = true
    :: frees[1] = true; resizes = true
    fi;
    run owner(); run freer(1); run freer(2)
  }
}
