/*
 * Guarded blocks that were freed and are withheld: the ring that they wait in until others were freed after them.
 *
 * Holds: the places of the ring and its two counters, who has which page, and the two ways out of the ring: released, or
 * taken for the next guarded block. Does not hold: what guards are, and the bound by bytes, which acts as the one by
 * number does. Two places stand for 4096, and one page is withheld at most when nobody works, or two.
 *
 * Threads: each allocates a guarded block, of a withheld page or a fresh one, and frees it, some times over.
 */
// STATES 400000
// STATES 800000 -DTHREE
// MUTANT TAKE_BY_LOAD | page_has_one_owner | who takes the oldest one loads the place and clears it after that
// MUTANT PUT_BY_STORE | none_is_lost | who puts one in stores it, whatever is in the place
// MUTANT PASSED_KEPT | none_is_lost | what was still in the place is not released
// MUTANT PUT_FIRST | page_has_one_owner | a page is put into the ring before its last user is through with it
// MUTANT TICKET_LATE | none_is_lost | who puts one in takes the number after the place

#define PLACES 2
#define MOST 1
#define PAGES 4
#define NONE 0

#ifdef THREE
#define USERS 3
#define ROUNDS 1
#else
#define USERS 2
#define ROUNDS 3
#endif

#define OUTSIDE 0  /* its slices are free */
#define LIVE 1     /* of a block, or in the hands of who makes or frees one */
#define WITHHELD 2 /* in the ring, or on its way in or out */

byte ring[PLACES];
byte ring_in, ring_out;
byte state[PAGES + 1];
byte threads_done;

#define CLAIM(condition, name) assert((condition) || name)
bool page_has_one_owner, none_is_lost, no_more_than_places;

/* g: the page that comes out; 0: none. */
inline ring_take() {
  g = NONE;
  do
  :: o = ring_out;
    if
    :: ring_in <= o -> break
    :: else ->
      d_step {
        if
        :: ring_out == o -> ring_out++; ok = true
        :: else -> ok = false
        fi
      }
      if
      :: ok ->
#ifdef TAKE_BY_LOAD
        g = ring[o % PLACES];
        ring[o % PLACES] = NONE;
#else
        d_step { g = ring[o % PLACES]; ring[o % PLACES] = NONE }
#endif
        break
      :: else
      fi
    fi
  od;
  atomic { o = 0; ok = false }
}

inline release(page) {
  d_step {
    CLAIM(state[page] == WITHHELD, page_has_one_owner);
    state[page] = OUTSIDE;
    page = NONE
  }
}

inline ring_put() {
#ifdef TICKET_LATE
  o = ring_in;
  d_step { passed = ring[o % PLACES]; ring[o % PLACES] = g }
  ring_in++;
  passed = NONE;
#else
  d_step { o = ring_in; ring_in++ }
#ifdef PUT_BY_STORE
  ring[o % PLACES] = g;
#else
  d_step { passed = ring[o % PLACES]; ring[o % PLACES] = g }
#ifdef PASSED_KEPT
  passed = NONE;
#endif
  if
  :: passed != NONE -> release(passed)
  :: else
  fi;
#endif
#endif
  atomic { g = NONE; o = 0 }
}

proctype user() {
  byte g, o, passed;
  bool ok;
  byte rounds = ROUNDS;
  do
  :: atomic { rounds > 0 -> rounds-- }
    if
    :: ring_in - ring_out > MOST - 1 -> ring_take()
    :: true
    fi;
    if
    :: g != NONE -> d_step { CLAIM(state[g] == WITHHELD, page_has_one_owner); state[g] = LIVE }
    :: else ->
      atomic {
        if
        :: state[1] == OUTSIDE -> g = 1
        :: state[2] == OUTSIDE -> g = 2
        :: state[3] == OUTSIDE -> g = 3
        :: state[4] == OUTSIDE -> g = 4
        :: else /* no memory */
        fi;
        state[g] = LIVE
      }
    fi;
    if
    :: g != NONE ->
#ifdef PUT_FIRST
      o = g;
      ring_put();
      skip;
#else
      d_step { CLAIM(state[g] == LIVE, page_has_one_owner); state[g] = WITHHELD }
      ring_put();
#endif
      do
      :: ring_in > ring_out && ring_in - ring_out > MOST ->
        ring_take();
        if
        :: g != NONE -> release(g)
        :: else
        fi
      :: else -> break
      od
    :: else
    fi
  :: else -> break
  od;
  threads_done++
}

init {
  byte i, j, found, withheld;
  atomic {
    i = 0;
    do
    :: i < USERS -> run user(); i++
    :: else -> break
    od
  }
  (threads_done == USERS);
  atomic {
    /* Each withheld page is in one place, each place holds a withheld page or none, and nothing else is anywhere. */
    i = 1;
    do
    :: i <= PAGES ->
      found = 0;
      j = 0;
      do
      :: j < PLACES ->
        if
        :: ring[j] == i -> found++
        :: else
        fi;
        j++
      :: else -> break
      od;
      CLAIM(found <= 1, page_has_one_owner);
      CLAIM(state[i] != LIVE, none_is_lost);
      CLAIM(state[i] != WITHHELD || found == 1, none_is_lost);
      CLAIM(state[i] != OUTSIDE || found == 0, page_has_one_owner);
      withheld = withheld + found;
      i++
    :: else -> break
    od;
    CLAIM(withheld <= PLACES, no_more_than_places)
  }
}
