/*
 * An arena that grows, and vaults that close parts of its segments.
 *
 * Holds: the count of accessible segments (`ready`), who takes which segment, the calls of the system that make a stretch
 * of them accessible or close one, and the count of threads that are about to make some accessible. Does not hold: what
 * segments are for, and refusals of the system, which end a claim and change nothing.
 *
 * Threads: some claim a segment that has memory at once and use it; a vault claims one, closes it, and relies on that.
 */
// STATES 20000
// STATES 20000 -DVAULTS
// MUTANT NO_WAIT | closed_stays_closed | a vault closes its segment whoever may be about to open it
// MUTANT COUNT_LATE | closed_stays_closed | who makes segments accessible counts itself after it read how many are
// MUTANT COUNT_SHORT | closed_stays_closed | who makes segments accessible is counted only until it knows which
// MUTANT WAIT_FIRST | closed_stays_closed | a vault waits before its own segment is accessible
// MUTANT READY_FIRST | ready_is_open | the number rises before the segments are accessible
// MUTANT READY_BY_STORE | ready_only_grows | the number is stored, whatever it is by now

#define SEGMENTS 4
#ifdef VAULTS
#define USERS 1
#define CLOSERS 2
#else
#define USERS 2
#define CLOSERS 1
#endif

#define NONE 0
#define OPEN 1
#define CLOSED 2

byte mapping[SEGMENTS];
bool taken[SEGMENTS];
bool closed[SEGMENTS]; /* a vault relies on it */
byte ready = 1;        /* segment 0 holds the arena's own data */
byte growing;
byte threads_done;

#define CLAIM(condition, name) assert((condition) || name)
bool closed_stays_closed, ready_is_open, ready_only_grows;

inline check() {
  d_step {
    j = 1;
    do
    :: j < SEGMENTS ->
      CLAIM(!closed[j] || mapping[j] == CLOSED, closed_stays_closed);
      CLAIM(j >= ready || mapping[j] != NONE, ready_is_open);
      j++
    :: else -> break
    od;
    j = 0
  }
}

/* Any unused segment: its bits are cleared by a compare-and-swap. */
inline take() {
  atomic {
    if
    :: !taken[1] -> mine = 1
    :: !taken[2] -> mine = 2
    :: !taken[3] -> mine = 3
    fi;
    taken[mine] = true
  }
}

inline raise() {
#ifdef READY_BY_STORE
  d_step { CLAIM(ready <= mine + 1, ready_only_grows); ready = mine + 1 }
#else
  /* A loop of compare-and-swap. */
  d_step {
    if
    :: ready < mine + 1 -> ready = mine + 1
    :: else
    fi
  }
#endif
}

inline open() {
  /* One call of the system. */
  d_step {
    j = seen;
    do
    :: j <= mine -> mapping[j] = OPEN; j++
    :: else -> break
    od;
    j = 0
  }
}

inline make_ready() {
  if
  :: ready > mine
  :: ready <= mine ->
#ifdef COUNT_LATE
    seen = ready;
    growing++;
#else
    growing++;
    seen = ready;
#endif
#ifdef COUNT_SHORT
    growing--;
#endif
    if
    :: seen <= mine ->
#ifdef READY_FIRST
      raise();
      open();
#else
      open();
      raise();
#endif
      check()
    :: else
    fi;
#ifndef COUNT_SHORT
    growing--;
#endif
    seen = 0
  fi
}

proctype user() {
  byte mine, seen, j;
  take();
  make_ready();
  check();
  threads_done++
}

proctype closer() {
  byte mine, seen, j;
  take();
#ifdef WAIT_FIRST
  (growing == 0);
  make_ready();
#else
  make_ready();
#ifndef NO_WAIT
  (growing == 0);
#endif
#endif
  d_step { mapping[mine] = CLOSED; closed[mine] = true }
  check();
  threads_done++
}

init {
  byte i, j;
  atomic {
    mapping[0] = OPEN;
    i = 0;
    do
    :: i < USERS -> run user(); i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < CLOSERS -> run closer(); i++
    :: else -> break
    od;
    i = 0
  }
  (threads_done == USERS + CLOSERS);
  check();
  assert(growing == 0)
}
