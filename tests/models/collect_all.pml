/*
 * A forced collect of all spaces, while some are reset and end.
 *
 * Holds: the list of spaces that live and its lock, and the lock of each space, with which an owner (a reset, a change of
 * access, the end) and a collect keep out of each other's way. Does not hold: what a collect does with blocks, beside
 * threads that allocate and free (quarantine.pml), and forks.
 *
 * Threads: two that collect, once each, and an owner of each of two spaces, who resets it and ends it.
 */
// STATES 5000
// MUTANT NO_TRY | owner_is_alone | a collect takes no lock of the space
// MUTANT NO_WAIT | owner_is_alone | an owner does not wait for the lock
// MUTANT TRY_LATE | space_is_there | a collect leaves the list before it has the space's lock
// MUTANT LEAVE_FIRST | space_is_there | it gives that back before it has the list again
// MUTANT GIVE_BACK | space_is_there | an end gives the lock back when all blocks are gone

#define NONE 2

bool list_lock;
byte head = 0;
byte next[2];
byte prev[2];
bool lock[2];
bool ending[2]; /* the heap is not open any more */
bool gone[2];   /* out of the list: the memory may be something else's */

/* What the program does not have: bookkeeping of the claims. */
bool alone[2];
byte collecting[2];
byte ended;

#define CLAIM(condition, name) assert((condition) || name)
bool owner_is_alone, space_is_there;

inline list_enter() { atomic { !list_lock -> list_lock = true } }
inline list_leave() { list_lock = false }

proctype collect() {
  byte at;
  bool mine;
  list_enter();
  at = head;
  do
  :: at != NONE ->
#ifdef TRY_LATE
    list_leave();
#endif
    d_step {
      CLAIM(!gone[at], space_is_there);
#ifdef NO_TRY
      mine = true
#else
      mine = !lock[at];
      lock[at] = true
#endif
    }
    if
    :: mine ->
#ifndef TRY_LATE
      list_leave();
#endif
      if
      :: !ending[at] ->
        d_step { CLAIM(!gone[at], space_is_there); CLAIM(!alone[at], owner_is_alone); collecting[at]++ }
        d_step { CLAIM(!gone[at], space_is_there); collecting[at]-- }
      :: else
      fi;
#ifdef LEAVE_FIRST
      lock[at] = false;
      list_enter()
#else
      list_enter();
#ifndef NO_TRY
      lock[at] = false
#endif
#endif
    :: else ->
#ifdef TRY_LATE
      list_enter()
#endif
    fi;
    d_step { CLAIM(!gone[at], space_is_there); at = next[at] }
  :: else -> break
  od;
  list_leave();
  ended++
}

inline clear() {
#ifndef NO_WAIT
  atomic { !lock[me] -> lock[me] = true }
#endif
  d_step { CLAIM(collecting[me] == 0, owner_is_alone); alone[me] = true }
  alone[me] = false
}

proctype own(byte me) {
  clear();
  lock[me] = false;
  ending[me] = true;
  clear();
#ifdef GIVE_BACK
  lock[me] = false;
#endif
  list_enter();
  if
  :: next[me] != NONE -> prev[next[me]] = prev[me]
  :: else
  fi;
  if
  :: prev[me] != NONE -> next[prev[me]] = next[me]
  :: else -> head = next[me]
  fi;
  gone[me] = true;
  list_leave();
  ended++
}

init {
  d_step { next[0] = 1; next[1] = NONE; prev[0] = NONE; prev[1] = 0 }
  atomic { run collect(); run collect(); run own(0); run own(1) }
  ended == 4
}
