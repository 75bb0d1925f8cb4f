/*
 * Two frees of one block of a bit page at the same moment: is the second one noticed, exactly once, and never one that
 * is right?
 *
 * Holds: the bits `live` and `remote` of one block, its free by the page's owner and by two other threads, each after
 * it found the block live, the owner's collect, the use of the block for something else, the end of the page, and the
 * beginning of another page in its place. Does not hold: signals, states and generations of the page's word
 * (bit_page.pml): the owner looks at the bits now and then, and in the end. Every access to a shared word is one step.
 *
 * Thread 0 is the owner. Which of the three threads free the block, one or two of them, is chosen at the beginning.
 */
// STATES 2000
// MUTANT END_BY_LOAD | second_free_is_noticed | the page's end looks at the bits and leaves them clear
// MUTANT END_BY_STORE | second_free_is_noticed | the page's end sets the bits after it looked, in two steps
// MUTANT HAND_OUT_UNSEEN | second_free_is_noticed | a block that is handed out again is not looked at
// MUTANT COLLECT_UNSEEN | second_free_is_noticed | the collect does not compare the bits with the live blocks
// MUTANT FETCH_UNSEEN | second_free_is_noticed | a freer does not look at what its bit was before
// MUTANT BEGIN_KEEPS | right_free_is_not_reported | the bits of a page that begins are still set

bool live = true, remote;

/* What the program does not have: bookkeeping of the claims. */
bool frees[3];     /* the threads that free the block */
bool done[3];      /* those that have */
bool there = true; /* the page */
byte uses;         /* how often the address was handed out again */
byte reports;      /* of a double free */
bool is_double; /* two threads free it */
bool is_late;   /* a bit was set when the address was in use again */

#define CLAIM(condition, name) assert((condition) || name)
bool second_free_is_noticed, right_free_is_not_reported;

/* A free by another thread. If the address was handed out again before its bit is set, it is late: nothing tells it
 * from a free of the new block. */
proctype freer(byte me) {
  bool former;
  if
  :: frees[me] ->
    former = live && !remote;
    if
    :: !former -> reports++
    :: else ->
      d_step { former = remote; remote = true; is_late = is_late || uses != 0 }
      if
#ifndef FETCH_UNSEEN
      :: former -> reports++
#endif
      :: else
      fi
    fi
  :: else
  fi;
  done[me] = true
}

/* What others freed. */
inline collect() {
  d_step { f = remote; remote = false }
  d_step {
    if
#ifndef COLLECT_UNSEEN
    :: f && !live -> reports++
#endif
    :: else
    fi;
    if
    :: f -> live = false
    :: else
    fi;
    f = false
  }
}

inline hand_out() {
  d_step {
    uses++;
    if
#ifndef HAND_OUT_UNSEEN
    :: remote -> remote = false; reports++
#endif
    :: else
    fi
  }
  live = true
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
    live = true; uses++
  }
}

proctype owner() {
  bool f;
  if
  :: frees[0] ->
    f = live && !remote;
    if
    :: !f -> reports++
    :: else -> live = false; f = false
    fi
  :: else
  fi;
  f = false;
  done[0] = true;
  do
  :: there -> collect()
  :: there && !live && uses == 0 -> hand_out()
  :: there && !live -> end_page()
  :: !there && uses == 0 -> begin_page()
  :: done[1] && done[2] -> break
  od;
  /* A block that was handed out meanwhile is met by no bit of former times. */
  if
  :: live && there && uses > 0 && !is_late -> CLAIM(!remote, right_free_is_not_reported)
  :: else
  fi;
  if
  :: there -> collect()
  :: else
  fi;
  d_step {
    if
    :: is_late -> skip
    :: else -> CLAIM(!is_double || reports == 1, second_free_is_noticed)
    fi;
    CLAIM(is_double || reports == 0, right_free_is_not_reported)
  }
}

init {
  atomic {
    if
    :: frees[0] = true
    :: frees[1] = true
    :: frees[0] = true; frees[1] = true; is_double = true
    :: frees[1] = true; frees[2] = true; is_double = true
    fi;
    run owner(); run freer(1); run freer(2)
  }
}
