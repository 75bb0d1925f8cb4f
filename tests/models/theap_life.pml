/*
 * The life of theaps and of the heap that they belong to: slots, destroy, delete, visit, reset, collect, exit,
 * default.
 *
 * Holds: the state word in a slot of the thread's record (state, WANTED bits, DEFAULT bit, generation), the part's
 * reference to the slot, the handle's count of references, the mailbox, and the reuse of record and slot by a later
 * thread for a theap of another heap. Does not hold: pages and blocks (a theap has pages or has none), freers; that
 * a freer may be DELAYING is a choice to put W_ABANDON off, made once. The stack of free slots is a set: its only
 * popper is the owner.
 *
 * Threads: 0 and 1 have theaps in heap H (parts 0 and 1); they collect, change the default, read mail, and exit or
 * stay. Thread 2 gets the record of thread 0 and makes a theap in another heap, that lives on. The ender destroys,
 * deletes, visits or resets H, in the combinations that the contract allows: nobody else uses H then, but all may
 * collect and exit.
 */
// STATES 1000000
// STATES 1000000 -DVISIT
// STATES 1000000 -DRESET
// STATES 1000000 -DDELETE
// STATES 1000000 -DDELETE -DAND_DESTROY
// MUTANT TAKE_BUSY | one_has_the_theap | a destroyer takes a theap that is BUSY
// MUTANT LEAVE_BY_STORE -DDELETE | wanted_work_is_done | BUSY ends with a store, which loses WANTED bits
// MUTANT NO_GENERATION | only_theaps_of_the_heap | the state word carries no generation
// MUTANT NO_RECHECK | only_theaps_of_the_heap | the part's slot is not read again after the word
// MUTANT GONE_READS_STATE | handle_is_freed_once | whether the heap is dying is read before the reference is dropped
// MUTANT FREED_BY_DESTROYER | handle_outlives_its_theaps | the destroyer frees the handle, whoever still has a theap
// MUTANT REFERENCE_EARLY | handle_outlives_its_theaps | exit drops the reference before it is through with the heap
// MUTANT DEFAULT_EARLY | theap_is_freed_once | the destroyer looks at DEFAULT before it frees the pages
// MUTANT DEFAULT_IGNORED | default_theap_is_valid | the destroyer frees a theap that is its thread's default
// MUTANT MAIL_FIRST -DDELETE | wanted_work_is_done | the mail is sent before the WANTED bit is set
// MUTANT MAIL_CLEARED_LATE -DDELETE | wanted_work_is_done | the mail flag is cleared after the slots were looked at
// MUTANT EXIT_IGNORES_BUSY -DVISIT | wanted_work_is_done | an exiting thread leaves no bit for who has its theap
// MUTANT POSTPONED_SILENTLY -DDELETE | wanted_work_is_done | work that is put off is not noted in the mailbox again

#ifdef AND_DESTROY
#define COLLECTS 0 /* of thread 0 */
#else
#define COLLECTS 1
#endif

#define FREE 0
#define LIVE 1
#define BUSY 2
#define TAKEN 3
#define DEAD 4
#define STATE 7
#define WANT_DESTROY 8
#define WANT_ABANDON 16
#define DEFAULT 32
#define GENERATION 64 /* and above */

#define MAIN 3 /* the default theap that belongs to no slot */
#define NONE 4

#define OPEN 0
#define CLOSED 1
#define DYING 2

/* Slots 0 and 1 are of record 0, slot 2 is of record 1. Theaps 0 and 1 are of H (parts 0 and 1), theap 2 is of
 * another heap. */
#define record_of(s) (s / 2)

short word[3];
byte slot_theap[3];
byte part_slot[2]; /* 1 + the slot, or 0 */
byte theap_slot[3];
bool mail[2];
byte refs;
byte heap_state;
byte tls[2]; /* the default theap of records 0 and 1 */

/* What the program does not have: bookkeeping of the claims. */
bool theap_valid[3], theap_has_pages[3];
byte theap_in_hand[3]; /* how many have it BUSY or TAKEN */
byte pages_of_heap;    /* lots of pages on the heap's abandoned lists */
bool handle_valid;
bool slot_stacked[3];
bool record_free[2];
bool may_postpone;   /* a freer is DELAYING in some page */
bool heap_in_use;    /* some thread uses H */
bool heap_is_ending; /* the ender is in a call that excludes use */
byte threads_done;
bool ender_done;

/* A claim is an assertion with a name that shows in the verifier's message. The names are never true. */
#define CLAIM(condition, name) assert((condition) || name)
bool one_has_the_theap, wanted_work_is_done, only_theaps_of_the_heap, handle_is_freed_once, handle_outlives_its_theaps,
  theap_is_freed_once, theap_is_not_used_after, default_theap_is_valid, slot_is_free_once, pages_are_freed_once;

#define touch_theap(t) CLAIM(theap_valid[t], theap_is_not_used_after)
#define touch_heap_of(t) CLAIM(t == 2 || handle_valid, handle_outlives_its_theaps)

/* The threads' own variables have the same names everywhere: me (record), s (slot), w (word as loaded), t (theap),
 * ok (the swap succeeded), p (part), i. */
#define VARIABLES byte s, t, p, i; short w; bool ok, flag

#ifdef DEFAULT_EARLY
#define EARLY short early
#define remember_default() early = word[s]
#else
#define EARLY skip
#define remember_default() skip
#endif

inline cas(slot, new_word) {
  d_step {
    if
    :: word[slot] == w -> word[slot] = new_word; ok = true
    :: else -> ok = false
    fi
  }
}

#define with_state(w, state) ((w & ~STATE) | state)

/* --- ending a theap ------------------------------------------------------------------------------- */

inline slot_free(slot) {
  slot_theap[slot] = NONE;
  d_step {
    CLAIM((word[slot] & STATE) != FREE, slot_is_free_once);
#ifdef NO_GENERATION
    word[slot] = FREE
#else
    word[slot] = (word[slot] & ~(GENERATION - 1)) + GENERATION
#endif
  }
  d_step { CLAIM(!slot_stacked[slot], slot_is_free_once); slot_stacked[slot] = true }
}

inline theap_free() {
  d_step { CLAIM(theap_valid[t] && !theap_has_pages[t], theap_is_freed_once); theap_valid[t] = false }
}

/* The last reference takes the handle and what is on the heap's lists. */
inline drop_reference() {
#ifdef GONE_READS_STATE
  d_step { CLAIM(handle_valid, handle_outlives_its_theaps); flag = (heap_state == DYING) }
#endif
  d_step {
    CLAIM(handle_valid && refs > 0, handle_outlives_its_theaps);
    refs--;
    if
#ifdef GONE_READS_STATE
    :: refs == 0 && flag -> handle_valid = false; pages_of_heap = 0
#else
    :: refs == 0 -> handle_valid = false; pages_of_heap = 0
#endif
    :: else
    fi;
    flag = false
  }
}

inline theap_gone() {
  if
  :: t < 2 -> drop_reference()
  :: else
  fi
}

inline part_forgets() {
  d_step {
    touch_theap(t); touch_heap_of(t);
    theap_in_hand[t]--;
    if
    :: t < 2 -> part_slot[t] = 0
    :: else
    fi
  }
}

/* The pages are gone. Only its thread may free a theap that is its default: the DEFAULT bit decides, with the state. */
inline end_taken() {
#ifdef DEFAULT_EARLY
  w = early;
#else
  w = word[s];
#endif
  part_forgets();
#ifdef REFERENCE_EARLY
  theap_gone();
#endif
  do
#ifndef DEFAULT_IGNORED
  :: w & DEFAULT ->
#ifdef DEFAULT_EARLY
    w = word[s];
#endif
    cas(s, with_state(w, DEAD));
    if
    :: ok -> break
    :: else -> w = word[s]
    fi
  :: !(w & DEFAULT) ->
#else
  :: true ->
#endif
    slot_free(s); theap_free(); break
  od;
#ifndef REFERENCE_EARLY
  theap_gone()
#else
  touch_heap_of(t)
#endif
}

inline free_pages() {
  d_step { touch_theap(t); CLAIM(theap_has_pages[t] || t < 3, pages_are_freed_once); theap_has_pages[t] = false }
}

/* All pages go to the heap's own lists. */
inline abandon_pages() {
  d_step {
    touch_theap(t); touch_heap_of(t);
    if
    :: t < 2 && theap_has_pages[t] -> pages_of_heap++
    :: else
    fi;
    theap_has_pages[t] = false
  }
}

/* --- BUSY -------------------------------------------------------------------------------------------- */

inline in_hand() {
  t = slot_theap[s];
  d_step { touch_theap(t); theap_in_hand[t]++; CLAIM(theap_in_hand[t] == 1, one_has_the_theap) }
}

/* LIVE -> BUSY, if it is LIVE: ok. For the slot's own thread. */
inline enter() {
  do
  :: w = word[s];
    if
    :: (w & STATE) != LIVE -> ok = false; break
    :: else ->
      cas(s, with_state(w, BUSY));
      if
      :: ok -> break
      :: else
      fi
    fi
  od;
  if
  :: ok -> in_hand()
  :: else
  fi
}

inline leave(exiting, wait) {
  do
  :: w = word[s]; touch_theap(t);
    if
    :: w & WANT_DESTROY -> free_pages(); remember_default(); end_taken(); break
    :: !(w & WANT_DESTROY) && (exiting || (w & WANT_ABANDON)) ->
      if
      :: abandon_pages(); remember_default(); end_taken(); break
      :: !wait && may_postpone ->
        may_postpone = false;
        theap_in_hand[t]--;
        cas(s, with_state(w, LIVE));
        if
        :: ok ->
#ifndef POSTPONED_SILENTLY
          mail[record_of(s)] = true;
#endif
          break
        :: else -> theap_in_hand[t]++
        fi
      fi
    :: else ->
      d_step {
#ifdef LEAVE_BY_STORE
        word[s] = with_state(w, LIVE); ok = true;
#else
        if
        :: word[s] == w -> word[s] = with_state(w, LIVE); ok = true
        :: else -> ok = false
        fi;
#endif
        if
        :: ok -> theap_in_hand[t]--
        :: else
        fi
      }
      if
      :: ok -> break
      :: else
      fi
    fi
  od;
  atomic { w = 0; t = 0; ok = false }
}

/* --- the threads that have theaps ------------------------------------------------------------------------- */

inline collect_slot() {
  enter();
  if
  :: ok -> leave(false, false)
  :: else -> w = 0
  fi
}

inline answer_slot() {
  if
  :: word[s] & (WANT_DESTROY | WANT_ABANDON) -> collect_slot()
  :: else
  fi
}

inline read_mail() {
#ifdef MAIL_CLEARED_LATE
  flag = mail[me];
#else
  d_step { flag = mail[me]; mail[me] = false }
#endif
  if
  :: flag ->
    flag = false;
    s = me * 2; answer_slot();
    if
    :: me == 0 -> s = 1; answer_slot()
    :: else
    fi;
#ifdef MAIL_CLEARED_LATE
    mail[me] = false
#endif
  :: else
  fi;
  s = 0
}

/* The default becomes the main theap: first the thread's own pointer, then the bit, whatever the state. */
inline leave_default() {
  if
  :: tls[me] != MAIN ->
    t = tls[me];
    tls[me] = MAIN;
    s = theap_slot[t]; CLAIM(theap_valid[t], default_theap_is_valid);
    do
    :: w = word[s]; cas(s, w & ~DEFAULT);
      if
      :: ok -> break
      :: else
      fi
    od;
    if
    :: (w & STATE) == DEAD -> slot_free(s); theap_free()
    :: else
    fi;
    atomic { w = 0; t = 0; s = 0; ok = false }
  :: else
  fi
}

/* An allocation in the default heap; it falls back to the main heap when the theap is dead. */
inline use_default() {
  if
  :: tls[me] != MAIN ->
    t = tls[me]; CLAIM(theap_valid[t], default_theap_is_valid);
    s = theap_slot[t];
    if
    :: (word[s] & STATE) == DEAD -> leave_default()
    :: else
    fi;
    atomic { t = 0; s = 0 }
  :: else
  fi
}

inline exit_slot() {
  do
  :: w = word[s];
    if
    :: (w & STATE) == LIVE ->
      enter();
      if
      :: ok -> leave(true, true); break
      :: else
      fi
    :: (w & STATE) == BUSY || (w & STATE) == TAKEN ->
#ifdef EXIT_IGNORES_BUSY
      break
#else
      cas(s, w | WANT_ABANDON);
      if
      :: ok -> break
      :: else
      fi
#endif
    :: else -> CLAIM((w & STATE) == FREE, theap_is_freed_once); break
    fi
  od;
  w = 0
}

inline thread_exit() {
  leave_default();
  s = me * 2; exit_slot();
  if
  :: me == 0 -> s = 1; exit_slot()
  :: else
  fi;
  s = 0;
  record_free[me] = true
}

proctype owner_thread(byte me) {
  VARIABLES;
  EARLY;
  byte collects = (me == 0 -> COLLECTS : 0);
  bool used = false;
  do
  :: collects > 0 -> collects--; s = me * 2; collect_slot(); s = 0
  :: me == 0 && tls[0] != MAIN -> leave_default()
  :: mail[me] -> read_mail()
  :: me == 0 && !used -> /* by contract never while the heap ends */
    used = true;
    atomic { !heap_is_ending -> heap_in_use = true }
    use_default();
    heap_in_use = false
  :: thread_exit(); break
  :: ender_done -> /* it stays, and passes a slow path */
    atomic { read_mail() }
    use_default();
    break
  od;
  threads_done++
}

/* Thread 2: a theap of another heap, in the record of thread 0. */
proctype later_thread() {
  VARIABLES;
  EARLY;
  byte me = 0;
  if
  :: record_free[0] ->
    mail[0] = false;
    d_step {
      if
      :: slot_stacked[0] -> s = 0
      :: !slot_stacked[0] -> s = 1
      fi;
      slot_stacked[s] = false
    }
    d_step { theap_valid[2] = true; theap_has_pages[2] = true; theap_slot[2] = s; slot_theap[s] = 2 }
    word[s] = (word[s] & ~(GENERATION - 1)) | LIVE;
    if
    :: enter(); leave(false, false)
    :: skip
    fi;
    s = 0;
    read_mail();
    thread_exit()
  :: threads_done == 2 && ender_done && !record_free[0]
  fi;
  threads_done++
}

/* --- the thread that ends, visits or resets the heap ----------------------------------------------------------- */

/* The word w of part p's slot s, in a state where s was the part's when w was read. s == 255: the part has no theap. */
inline word_of_part() {
  do
  :: s = part_slot[p];
    if
    :: s == 0 -> s = 255; break
    :: else ->
      s--;
      w = word[s];
#ifdef NO_RECHECK
      break
#else
      if
      :: part_slot[p] == s + 1 -> break
      :: else
      fi
#endif
    fi
  od
}

/* Changes that word; the slot must still be the part's, or be on its way to be freed. */
inline cas_of_part(new_word) {
  atomic {
    cas(s, new_word);
    CLAIM(!ok || slot_theap[s] == p || slot_theap[s] == NONE, only_theaps_of_the_heap)
  }
}

inline destroy_part() {
  do
  :: word_of_part();
    if
    :: s == 255 -> break
#ifdef TAKE_BUSY
    :: s != 255 && ((w & STATE) == LIVE || (w & STATE) == BUSY) ->
#else
    :: s != 255 && (w & STATE) == LIVE ->
#endif
      cas_of_part((with_state(w, TAKEN) & ~(WANT_DESTROY | WANT_ABANDON)));
      if
      :: ok -> in_hand(); remember_default(); free_pages(); end_taken(); break
      :: else
      fi
    :: else ->
      cas_of_part(w | WANT_DESTROY);
      if
      :: ok -> break
      :: else
      fi
    fi
  od;
  atomic { s = 0; w = 0; t = 0; ok = false }
}

inline destroy() {
  heap_state = DYING;
  p = 0; destroy_part();
  p = 1; destroy_part();
#ifdef FREED_BY_DESTROYER
  handle_valid = false; pages_of_heap = 0
#else
  drop_reference()
#endif
}

inline close_part() {
  do
  :: word_of_part();
    if
    :: s == 255 -> break
    :: else ->
#ifdef MAIL_FIRST
      mail[record_of(s)] = true;
#endif
      cas_of_part(w | WANT_ABANDON);
      if
      :: ok ->
#ifndef MAIL_FIRST
        mail[record_of(s)] = true;
#endif
        break
      :: else
      fi
    fi
  od;
  atomic { s = 0; w = 0; ok = false }
}

/* Takes a theap of the heap to look at (BUSY) or to empty (TAKEN). May wait for a thread that is in collect or exit. */
inline borrow_part(state) {
  do
  :: word_of_part();
    if
    :: s == 255 -> break
    :: s != 255 && (w & STATE) == LIVE ->
      cas_of_part(with_state(w, state));
      if
      :: ok -> in_hand(); break
      :: else
      fi
    :: else -> (word[s] != w)
    fi
  od
}

inline visit() {
  p = 0; borrow_part(BUSY); first = s;
  p = 1; borrow_part(BUSY);
  if
  :: s != 255 -> leave(false, true)
  :: else
  fi;
  s = first; first = 0;
  if
  :: s != 255 -> t = 0; leave(false, true)
  :: else
  fi;
  atomic { s = 0; w = 0; t = 0; ok = false }
}

inline reset_part() {
  borrow_part(TAKEN);
  if
  :: s != 255 ->
    free_pages();
    do
    :: w = word[s]; cas(s, with_state(w, BUSY));
      if
      :: ok -> break
      :: else
      fi
    od;
    leave(false, true)
  :: else
  fi;
  atomic { s = 0; w = 0; t = 0; ok = false }
}

proctype ender() {
  VARIABLES;
  EARLY;
  byte first;
#ifndef DELETE
  atomic { !heap_in_use -> heap_is_ending = true }
#ifdef VISIT
    visit();
#endif
#ifdef RESET
    p = 0; reset_part(); p = 1; reset_part();
#endif
#ifdef VISIT
    if
    :: destroy()
    :: skip /* the heap lives on */
    fi;
#else
    destroy();
#endif
    heap_is_ending = false;
#else
    /* Others may free, and so a freer may be DELAYING. */
    heap_state = CLOSED;
    may_postpone = true;
    p = 0; close_part();
    p = 1; close_part();
#ifdef AND_DESTROY /* of the target */
    atomic { !heap_in_use -> heap_is_ending = true; may_postpone = false }
    destroy();
    heap_is_ending = false;
#endif
#endif
  p = 0;
  ender_done = true
}

init {
  VARIABLES;
  EARLY;
  byte me;
  d_step {
    word[0] = LIVE; word[2] = LIVE;
    slot_theap[0] = 0; slot_theap[1] = NONE; slot_theap[2] = 1; slot_stacked[1] = true;
    part_slot[0] = 1 + 0; part_slot[1] = 1 + 2;
    theap_slot[0] = 0; theap_slot[1] = 2;
    theap_valid[0] = true; theap_valid[1] = true; theap_has_pages[0] = true; theap_has_pages[1] = true;
    refs = 3; handle_valid = true;
    tls[0] = MAIN; tls[1] = MAIN
  }
  if
  :: tls[0] = 0; word[0] = LIVE | DEFAULT
  :: skip
  fi;
  atomic { run owner_thread(0); run owner_thread(1); run later_thread(); run ender() }
  (threads_done == 3 && ender_done);
  /* A thread that stayed may have put its work off once more: its next slow path. */
  atomic {
    if
    :: heap_state == CLOSED ->
      may_postpone = false;
      me = 0; read_mail(); me = 1; read_mail(); me = 0; use_default();
      CLAIM(refs == 1, wanted_work_is_done);
      heap_state = DYING; drop_reference()
    :: heap_state == OPEN ->
      CLAIM((!record_free[0] || !theap_valid[0]) && (!record_free[1] || !theap_valid[1]), wanted_work_is_done);
      destroy()
    :: else
    fi;
    CLAIM(!handle_valid && pages_of_heap == 0, handle_is_freed_once);
    if
    :: tls[0] != MAIN -> me = 0; leave_default()
    :: else
    fi;
    CLAIM(!theap_valid[0] && !theap_valid[1] && !theap_valid[2], theap_is_freed_once);
    CLAIM(slot_stacked[0] && slot_stacked[1] && slot_stacked[2], slot_is_free_once)
  }
}
