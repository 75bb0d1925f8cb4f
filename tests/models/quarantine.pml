/*
 * Blocks of an isolated heap on their way through its quarantine: a ring of places, each of which has the block that was
 * freed last of those with its number.
 *
 * Holds: of a block the bits that say whether it is taken and whether it is live, the take, the free, also by two
 * threads, the ring, and a forced collect, which empties the ring. Does not hold: pages and their counts (space.pml):
 * the two blocks are those of a page that stays. Every access to a shared word is one step.
 *
 * Threads 0 and 1 take and free blocks; thread 2 frees some of them as well; thread 3 collects.
 */
// STATES 2000000
// MUTANT LIVE_IS_TAKEN | second_free_is_noticed | a block that is taken counts as live
// MUTANT LIVE_FIRST | second_free_is_noticed | the live bit is set before the block is taken
// MUTANT LIVE_BY_STORE | second_free_is_noticed | a free reads the live bit, and then clears it
// MUTANT PLACE_BY_STORE | block_comes_out_once | a place of the ring is read, and then written
// MUTANT COLLECT_BY_STORE | block_comes_out_once | the collect reads a place, and then empties it
// MUTANT TAKEN_FIRST | second_free_is_noticed | a block that comes out is free before it is live no more

#define ROUNDS 2 /* takes of each user */

bool taken[3]; /* blocks are numbered from 1 */
bool live[3];
byte place;    /* the ring, of one place: the block that is there, or 0 */

/* What the program does not have: bookkeeping of the claims. */
byte hold[3];     /* 1 + the thread that has the block in hand, or 0 */
byte uses[3];     /* how often it was handed out */
byte accepted[3]; /* frees of it since */
bool doubled[3];  /* two threads free it */
byte twice;       /* the block that thread 2 frees as well, or 0 */
byte twice_use;
byte ended;

#define CLAIM(condition, name) assert((condition) || name)
bool block_has_one_holder, block_comes_out_once, second_free_is_noticed, right_free_is_accepted, blocks_come_out;

inline take() {
  if
  :: !taken[1] -> b = 1
  :: !taken[2] -> b = 2
  :: else
  fi;
#ifdef LIVE_FIRST
  if
  :: b != 0 -> live[b] = true
  :: else
  fi;
#endif
  d_step {
    if
    :: b != 0 && !taken[b] -> taken[b] = true; uses[b]++; accepted[b] = 0; doubled[b] = false
    :: else -> b = 0
    fi
  }
  if
  :: b != 0 ->
    d_step { CLAIM(hold[b] == 0, block_has_one_holder); hold[b] = me + 1; live[b] = true }
  :: else
  fi
}

inline release() {
  if
  :: old != 0 -> d_step { CLAIM(taken[old] && hold[old] == 0, block_comes_out_once); taken[old] = false; old = 0 }
  :: else
  fi
}

#ifdef LIVE_IS_TAKEN
#define is_live(x) taken[x]
#else
#define is_live(x) live[x]
#endif

/* A free of block b by who got it in use number `use`. If the address is in use again, nothing tells it from a free of
 * that: not what is asked here. */
inline free_block() {
  d_step {
    if
    :: uses[b] == use -> two = doubled[b]
#ifndef LIVE_BY_STORE
      was = is_live(b); live[b] = false
#endif
    :: else -> b = 0
    fi
  }
#ifdef LIVE_BY_STORE
  was = is_live(b);
  live[b] = false;
#endif
  if
  :: b != 0 -> go_on()
  :: else
  fi
}

/* Block b was live, or was not: `was`. */
inline go_on() {
  if
  :: was ->
    d_step { accepted[b]++; CLAIM(accepted[b] == 1, second_free_is_noticed); was = false }
#ifdef TAKEN_FIRST
    live[b] = true; /* its bit is cleared only when it comes out */
#endif
#ifdef PLACE_BY_STORE
    old = place;
    place = b;
#else
    d_step { old = place; place = b }
#endif
#ifdef TAKEN_FIRST
    if
    :: old != 0 -> live[old] = false
    :: else
    fi;
#endif
    release()
  :: else -> CLAIM(two, right_free_is_accepted) /* reported */
  fi;
  b = 0; two = false
}

proctype user(byte me) {
  byte b, old, rounds, use;
  bool was, two;
  do
  :: rounds < ROUNDS ->
    rounds++;
    take();
    if
    :: b != 0 ->
      d_step { hold[b] = 0; use = uses[b] }
      if
      :: true
      :: twice == 0 -> d_step { twice = b; twice_use = uses[b]; doubled[b] = true }
      fi;
      free_block()
    :: else
    fi
  :: else -> break
  od;
  ended++
}

proctype second() {
  byte b, old, use;
  bool was, two;
  do
  :: twice != 0 ->
    d_step { b = twice; twice = 0; use = twice_use }
    free_block()
  :: ended == 2 && twice == 0 -> break
  od;
  ended++
}

inline collect() {
#ifdef COLLECT_BY_STORE
  old = place;
  place = 0;
#else
  d_step { old = place; place = 0 }
#endif
  release()
}

proctype collector() {
  byte old;
  collect();
  collect();
  (ended == 3);
  collect();
  CLAIM(!taken[1] && !taken[2], blocks_come_out)
}

init {
  atomic { run user(0); run user(1); run second(); run collector() }
}
