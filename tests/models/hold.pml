/*
 * Holding a heap's memory: readers that take a hold and then read a pointer, a thread that takes the pointer away, frees
 * the block, and asks whether the page that became empty must stay, and the end of the last hold.
 *
 * Holds: the count of all holds, the heap's own, `kept`, one page with one block, and where an empty page waits.
 * Does not hold: how holds are found (by the heap's id), queues and lists of pages (here: one place), other heaps but
 * one that may be held too, so that the count of all is not the heap's. The store that takes the pointer away may stand
 * in a store buffer until the processor writes it, or the fence before the question makes it; everything else is
 * sequentially consistent, as in the C code.
 *
 * Threads: READERS take a hold, read the pointer, look at the block twice, and end the hold; the writer unlinks, frees
 * and asks; somebody holds another heap for a while. Who ends the last hold collects what was kept.
 */
// STATES 20000
// MUTANT COUNT_LATE | what_a_reader_sees_stays | a reader counts itself after it read the pointer
// MUTANT NO_FENCE | what_a_reader_sees_stays | the writer asks while its store is still on the way
// MUTANT COLLECT_BLINDLY | what_a_reader_sees_stays | a collect at the end of a hold does not ask again
// MUTANT KEPT_LATE | what_was_kept_goes | the writer says that it keeps something after it looked at the count only
// MUTANT KEPT_EARLY | what_was_kept_goes | the end of a hold looks at `kept` before it takes the count down
// MUTANT ALL_LATE | what_a_reader_sees_stays | the count of all holds is the one that comes after the read

#ifdef SMALL
#define READERS 2
#else
#define READERS 3
#endif

byte all, count; /* holds of all heaps, and of this one */
bool kept;

bool linked = true;  /* what the readers find, in memory */
bool unlinking;      /* in the writer's store buffer */
bool released;       /* the page is something else now */
bool waits;          /* it stays, where a collect finds it */
bool early;          /* somebody collected what was kept before it was there */
byte done;

#define CLAIM(condition, name) assert((condition) || name)
bool what_a_reader_sees_stays, what_was_kept_goes;

/* _mi_heap_is_held, of this heap */
inline ask(held) {
#ifndef NO_FENCE
  d_step { if :: unlinking -> linked = false; unlinking = false :: else fi };
#endif
  held = false;
  if
  :: all == 0
  :: all != 0 ->
    if
    :: count == 0
    :: count != 0 ->
#ifndef KEPT_LATE
      kept = true;
#endif
      held = (count != 0);
#ifdef KEPT_LATE
      if :: held -> kept = true :: else fi;
#endif
    fi
  fi
}

inline collect() {
  if
  :: atomic { waits -> waits = false };
#ifdef COLLECT_BLINDLY
    released = true
#else
    ask(held);
    if :: held -> waits = true :: else -> released = true fi
#endif
  :: else -> early = true
  fi
}

proctype reader() {
  bool seen, held;
#ifdef COUNT_LATE
  seen = linked;
  all++; count++;
#else
#ifdef ALL_LATE
  count++; seen = linked; all++;
#else
  all++; count++;
  seen = linked;
#endif
#endif
  if
  :: seen -> CLAIM(!released, what_a_reader_sees_stays); CLAIM(!released, what_a_reader_sees_stays)
  :: else
  fi;
#ifdef KEPT_EARLY
  bool was = kept;
  if
  :: atomic { count > 1 -> count--; all-- }
  :: atomic { count == 1 -> count = 0 }; all--; if :: was -> kept = false; collect() :: else fi
  fi;
#else
  bool last;
  d_step { count--; last = (count == 0) };
  all--;
  if
  :: last ->
    bool was;
    d_step { was = kept; kept = false };
    if :: was -> collect() :: else fi
  :: else
  fi;
#endif
  done++
}

proctype writer() {
  bool held;
  unlinking = true;
  ask(held);
  if :: held -> waits = true :: else -> released = true fi;
  done++
}

/* The processor writes what is in the buffer, some time. */
proctype buffer() {
  if
  :: d_step { unlinking -> linked = false; unlinking = false }
  :: done == READERS + 2
  fi
}

proctype other_heap() {
  all++;
  all--;
  done++
}

/* At the end nobody holds: the page went, or it waits because it was looked for too early. */
proctype end() {
  done == READERS + 2;
  CLAIM(released || (waits && early), what_was_kept_goes);
  CLAIM(all == 0 && count == 0, what_was_kept_goes)
}

init {
  atomic {
    byte i;
    for (i : 1 .. READERS) { run reader() }
    run writer();
    run buffer();
    run other_heap();
    run end()
  }
}
