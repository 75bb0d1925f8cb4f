/*
 * A page of a space (space.c): taking and freeing its blocks by any thread, without an owner, and closing it when it is
 * empty, when its slices may become a page of another class.
 *
 * Holds: the page's state (open, class, how many blocks are counted), its bits, its segment's bit in `room`, and whether
 * its slices are free. Does not hold: several pages and the search among them, guards and wiping, pages with one block.
 * Two blocks stand for up to 4,096. Sequentially consistent; the C code uses seq_cst read-modify-writes where `room` needs
 * that.
 *
 * Threads: two users take blocks, one of either class, by the page that served last or by `room`, and free them; a third
 * closes empty pages (a collect).
 */
// STATES 1000000
// MUTANT COUNT_FIRST | closed_only_empty | a free counts down before it clears the bit
// MUTANT ENTER_BY_STORE | block_has_one_holder | who enters loads and stores the count
// MUTANT CLASS_APART | block_is_of_its_class | the class is looked at before the CAS that counts
// MUTANT CLOSE_BY_STORE | entered_finds_a_block | a page is closed because no block was seen in it
// MUTANT ROOM_NO_RELOAD | room_is_findable | who clears the bit in room does not look at the page again
// MUTANT ROOM_FIRST | room_is_findable | a free looks at room before it counts down
// MUTANT OPEN_EARLY | block_has_one_holder | a page is open before its first block is taken
// MUTANT BIT_BY_STORE | closed_only_empty | who takes a block loads and stores the bits
// MUTANT SLICES_EARLY | block_is_of_its_class | slices are free before the page is closed

#define FIT 2
#define FULL 3

bool open;   /* the state: one word, changed in one step */
byte class, live;
byte bits;
bool room;
bool slices = true; /* free */

/* What the program does not have. */
byte holder[2];   /* of each block: 0, or 1 + its user */
byte made_class;  /* of the blocks that lie there */
byte threads_done;

#define CLAIM(condition, name) assert((condition) || name)
bool block_has_one_holder, block_is_of_its_class, closed_only_empty, room_is_findable, entered_finds_a_block;

#define VARIABLES byte n, b, x, c, k; bool ok, mine

/* Counts a block of class c. */
inline enter() {
#ifdef CLASS_APART
  ok = (open && class == c);
  if
  :: ok -> atomic { ok = (open && live < FIT); if :: ok -> live++ :: else fi }
  :: else
  fi
#else
#ifdef ENTER_BY_STORE
  atomic { ok = (open && class == c && live < FIT); x = live };
  if
  :: ok -> atomic { ok = open; if :: ok -> live = x + 1 :: else fi }
  :: else
  fi
#else
  atomic { ok = (open && class == c && live < FIT); if :: ok -> live++ :: else fi }
#endif
#endif
}

/* A clear bit of the page that was entered. */
inline take() {
  do
  :: x = bits;
    /* Clear bits are as many as threads that were counted and have none yet: who loses a CAS has let another one on. */
    CLAIM(open && (bits | x) <= FULL, entered_finds_a_block);
    if
    :: !(x & 1) -> b = 0
    :: !(x & 2) -> b = 1
    :: x == FULL -> b = 2
    fi;
    if
    :: b == 2 ->
      atomic {
        /* All were seen set. That is so for a moment only: not if nobody else can clear one or was faster. */
        CLAIM(bits != FULL || live <= FIT, entered_finds_a_block);
        CLAIM(!(bits == FULL && holder[0] != 0 && holder[1] != 0), entered_finds_a_block)
      }
    :: else ->
#ifdef BIT_BY_STORE
      atomic { bits = x | (1 << b); ok = true };
#else
      atomic { ok = (bits == x); if :: ok -> bits = x | (1 << b) :: else fi };
#endif
      if
      :: ok -> break
      :: else
      fi
    fi
  od;
  had()
}

/* Block b is this thread's. */
inline had() {
  d_step {
    CLAIM(holder[b] == 0, block_has_one_holder);
    CLAIM(!slices && open && made_class == c, block_is_of_its_class);
    holder[b] = n + 1
  }
}

inline open_page() {
  atomic { ok = slices; slices = false };
  if
  :: ok ->
    made_class = c;
#ifdef OPEN_EARLY
    bits = 0;
    d_step { open = true; class = c; live = 1 };
    bits = 1;
#else
    bits = 1;
    d_step { open = true; class = c; live = 1 };
#endif
    room = true;
    b = 0;
    had()
  :: else
  fi
}

inline close_page() {
#ifdef SLICES_EARLY
  if
  :: open && live == 0 -> slices = true
  :: else
  fi;
#endif
#ifdef CLOSE_BY_STORE
  mine = (open && live == 0);
  if
  :: mine -> atomic { mine = open; open = false; class = 0; live = 0 }
  :: else
  fi;
#else
  atomic { mine = (open && live == 0); if :: mine -> open = false; class = 0 :: else fi };
#endif
  if
  :: mine ->
    CLAIM(holder[0] == 0 && holder[1] == 0 && bits == 0, closed_only_empty);
    slices = true
  :: else
  fi;
  mine = false
}

inline alloc() {
  enter();
  if
  :: ok -> take()
  :: else ->
    /* By `room`, then. */
    if
    :: room ->
      enter();
      if
      :: ok -> take()
      :: else ->
        if
        :: !(open && live < FIT) ->
          room = false;
#ifndef ROOM_NO_RELOAD
          if
          :: open && live < FIT -> room = true
          :: else
          fi;
#endif
          ok = false
        :: else
        fi
      fi
    :: else
    fi;
    if
    :: !ok -> open_page()
    :: else
    fi
  fi
}

inline free_block() {
  d_step { CLAIM(holder[b] == n + 1 && (bits & (1 << b)), block_has_one_holder); holder[b] = 0 };
#ifdef ROOM_FIRST
  if
  :: !room -> room = true
  :: else
  fi;
#endif
#ifdef COUNT_FIRST
  atomic { k = live; live-- };
  if
  :: k == 1 -> close_page()
  :: else
  fi;
  bits = bits & ~(1 << b);
#else
  bits = bits & ~(1 << b);
  atomic { k = live; live-- };
#endif
#ifndef ROOM_FIRST
  if
  :: !room -> room = true
  :: else
  fi;
#endif
#ifndef COUNT_FIRST
  if
  :: k == 1 -> close_page()
  :: true /* it stays, idle */
  fi;
#endif
  atomic { k = 0; x = 0 }
}

proctype user(byte me; byte its; byte rounds) {
  VARIABLES;
  byte round;
  n = me;
  do
  :: round < rounds ->
    round++;
    if
    :: c = its
    :: its == 1 -> c = 2
    fi;
    alloc();
    if
    :: ok -> free_block()
    :: else
    fi;
    ok = false
  :: else -> break
  od;
  threads_done++
}

proctype keeper(byte me) { /* keeps a block for a while, so that pages are full */
  VARIABLES;
  n = me; c = 1;
  alloc();
  if
  :: ok -> free_block()
  :: else
  fi;
  threads_done++
}

proctype collector() {
  VARIABLES;
  n = 3;
  close_page();
  threads_done++
}

init {
  atomic { run user(0, 1, 1); run user(1, 1, 1); run keeper(2); run collector() };
  threads_done == 4;
  CLAIM(holder[0] == 0 && holder[1] == 0 && live == 0, block_has_one_holder);
  CLAIM(!open || room, room_is_findable);
  CLAIM(open || slices, closed_only_empty)
}
