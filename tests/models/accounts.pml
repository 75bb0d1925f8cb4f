/*
 * Accounts: charging a heap and all those above it, while heaps are moved and former parents end.
 *
 * Holds: one word per account (the bytes, and the bit that says in which of two others they count too), the charge with
 * its refusal by a limit on the way and the taking back of what was charged below, the move with its wait for threads
 * that are on their way. Does not hold: what a heap's first part believes of itself (it is one word more of the same
 * heap, changed by CAS as here), and the families' lock: there is one mover.
 *
 * Threads: 0 and 1 charge the child and give it back, or keep it; 2 moves the middle from the first parent to the
 * second, whereupon the first ends, then the child to the second parent, whereupon the middle ends. With JOINS the child
 * counts nowhere at first, and comes to the middle, then to the second parent.
 */
// STATES 1000000
// STATES 100000 -DJOINS
// MUTANT NO_WAIT | account_is_not_touched_after_its_end | a mover does not wait for who is on the way
// MUTANT NUMBER_LATE | account_is_not_touched_after_its_end | the number becomes odd after the first word was changed
// MUTANT BIT_APART | nothing_lost | the bit is read before the word is changed, in a step of its own
// MUTANT AMOUNT_APART | nothing_lost | the mover reads the bytes before it turns the bit, in a step of its own
// MUTANT TURN_FIRST | nothing_lost | the bit is turned before the entry is written
// MUTANT TAKEN_BACK_BLINDLY | nothing_lost | what is taken back below does not look at the bit
// MUTANT TAKEN_BACK_HALF | nothing_lost | a turned bit is seen, but the old way does not get what it never had
// MUTANT WAIT_ONCE | account_is_not_touched_after_its_end | a mover waits after its last move only
// MUTANT NO_WAIT_FROM_NONE -DJOINS | nothing_lost | a mover does not wait where the heap counted nowhere before
// MUTANT CHECKED_APART | limit_holds | whether there is room is looked at before the word is changed

#ifdef SMALL
#define CHARGES 1
#else
#define CHARGES 2
#endif

#define NONE 0
#define CHILD 1
#define MIDDLE 2
#define FIRST 3
#define SECOND 4
#define ACCOUNTS 5
#define LIMIT 1 /* of FIRST */

short bytes[ACCOUNTS];
bit which[ACCOUNTS]; /* with `bytes` one word */
byte above0[ACCOUNTS], above1[ACCOUNTS];
byte number[2];

/* What the program does not have: bookkeeping of the claims. */
bool live[ACCOUNTS];
byte kept, done;

#define CLAIM(condition, name) assert((condition) || name)
bool account_is_not_touched_after_its_end, nothing_lost, limit_holds;

#define touch(x) CLAIM(live[x], account_is_not_touched_after_its_end)
#define above(x, b) (b == 0 -> above0[x] : above1[x])

/* Changes every account from a on by n, whatever the limits. */
inline add_up(n) {
  do
  :: a == NONE -> break
  :: else ->
#ifdef BIT_APART
    d_step { touch(a); w = which[a] }
    d_step { touch(a); bytes[a] = bytes[a] + n }
#else
    d_step { touch(a); bytes[a] = bytes[a] + n; w = which[a] }
#endif
    d_step { touch(a); a = above(a, w) }
  od
}

/* One level of a charge: refused, or the bytes are there and w is the bit. */
inline charge_level() {
#ifdef CHECKED_APART
  d_step { touch(a); refused = (a == FIRST && bytes[a] >= LIMIT) }
  if
  :: !refused -> d_step {
      touch(a); bytes[a]++; w = which[a]; CLAIM(a != FIRST || bytes[a] <= LIMIT, limit_holds)
    }
  :: else
  fi
#else
#ifdef BIT_APART
  d_step { touch(a); w = which[a] }
#endif
  d_step {
    touch(a);
    refused = (a == FIRST && bytes[a] >= LIMIT);
    if
    :: !refused ->
      bytes[a]++;
#ifndef BIT_APART
      w = which[a];
#endif
      CLAIM(a != FIRST || bytes[a] <= LIMIT, limit_holds)
    :: else
    fi
  }
#endif
}

inline charge() {
  a = CHILD;
  do
  :: a == NONE -> break
  :: else ->
    charge_level();
    if
    :: refused -> break
    :: else ->
#ifdef NUMBER_LATE
      if
      :: depth == 0 -> number[me]++
      :: else
      fi;
#endif
      d_step { path = path | (w << depth); depth++ }
      d_step { touch(a); a = above(a, w) }
    fi
  od;
  if
  :: refused -> take_back()
  :: else
  fi
}

inline take_back() {
  at_limit = a; a = CHILD; level = 0;
  do
  :: level == depth -> break
  :: else ->
    d_step { touch(a); bytes[a]--; w = which[a] }
#ifndef TAKEN_BACK_BLINDLY
    if
    :: w != ((path >> level) & 1) ->
      d_step { touch(a); other = above(a, w) }
#ifndef TAKEN_BACK_HALF
      a = at_limit;
      add_up(1);
#endif
      a = other;
      add_up(-1);
      break
    :: else
    fi;
#endif
    d_step { touch(a); a = above(a, w) }
    level++
  od
}

proctype charger(byte me) {
  byte a, at_limit, other, depth, level, path, rounds;
  bit w;
  bool refused;
  do
  :: rounds == CHARGES -> break
  :: else ->
    rounds++;
#ifdef NUMBER_LATE
    charge();
    if
    :: depth > 0 -> number[me]++
    :: else
    fi;
#else
    number[me]++;
    charge();
    number[me]++;
#endif
    if
    :: refused
    :: !refused -> kept++
    :: !refused ->
      number[me]++;
      a = CHILD;
      add_up(-1);
      number[me]++
    fi;
    d_step { refused = false; depth = 0; level = 0; path = 0; a = 0; at_limit = 0; other = 0; w = 0 }
  od;
  done++
}

inline wait(t) {
  seen = number[t];
  if
  :: seen % 2 == 1 -> (number[t] != seen)
  :: else
  fi;
  seen = 0
}

inline move(x, to) {
  former = above(x, which[x]);
  former_bit = which[x];
#ifdef TURN_FIRST
  d_step { amount = bytes[x]; which[x] = 1 - which[x] }
#endif
  if
  :: former_bit == 0 -> above1[x] = to
  :: else -> above0[x] = to
  fi;
#ifndef TURN_FIRST
#ifdef AMOUNT_APART
  amount = bytes[x];
  which[x] = 1 - which[x];
#else
  d_step { amount = bytes[x]; which[x] = 1 - which[x] }
#endif
#endif
  if
  :: amount != 0 -> a = to; add_up(amount); a = former; add_up(-amount)
  :: else
  fi;
#ifndef NO_WAIT
#ifdef WAIT_ONCE
  if
  :: x == CHILD -> wait(0); wait(1)
  :: else
  fi;
#else
#ifdef NO_WAIT_FROM_NONE
  if
  :: former != NONE -> wait(0); wait(1)
  :: else
  fi;
#else
  wait(0);
  wait(1);
#endif
#endif
#endif
  if
  :: former_bit == 0 -> above0[x] = NONE
  :: else -> above1[x] = NONE
  fi;
  d_step { a = 0; w = 0; former_bit = 0; amount = 0 }
}

proctype mover() {
  byte a, former, seen;
  short amount;
  bit w, former_bit;
#ifdef JOINS
  move(CHILD, MIDDLE);
#else
  move(MIDDLE, SECOND);
  d_step { live[former] = false; former = 0 } /* FIRST is a parent of nobody any more, and ends */
#endif
  move(CHILD, SECOND);
  d_step { live[former] = false; former = 0 }
  done++
}

init {
  d_step {
    live[CHILD] = true; live[MIDDLE] = true; live[FIRST] = true; live[SECOND] = true;
#ifndef JOINS
    above0[CHILD] = MIDDLE;
#endif
    above0[MIDDLE] = FIRST
  }
  atomic { run charger(0); run charger(1); run mover() }
  done == 3;
  CLAIM(bytes[CHILD] == kept && bytes[SECOND] == kept, nothing_lost);
  CLAIM(bytes[MIDDLE] == 0 && bytes[FIRST] == 0, nothing_lost)
}
