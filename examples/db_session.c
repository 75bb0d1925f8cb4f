// SQLite with a heap for each connection, and a limit for what a connection may hold: a query that asks for too much
// gets SQLITE_NOMEM, and neither the connection nor the others are the worse for it.
//
// SQLite takes its memory from one set of functions for the whole process (SQLITE_CONFIG_MALLOC), which get no
// context. So a thread-local variable says whose heap the calling thread allocates in: it is set around the calls for
// one session (enter, leave), and everything that SQLite allocates meanwhile lies in that session's heap and counts
// against its limit. Any thread may free it.
//
// The heap of a session ends with mi_heap_delete, not with mi_heap_destroy. Connections of one process to the same file
// share what SQLite knows about it (locks, descriptors that wait to be closed, the index of the write-ahead log), and
// that lies in the heap of whoever needed it first, perhaps of a session that ended long ago. mi_heap_delete keeps such
// blocks: they move to the main heap, and go when SQLite frees them. What was only the session's own is free by then,
// for sqlite3_close frees it.
//
// Here threads run sessions on one database with a write-ahead log: each moves money between accounts, some try a query
// without end in the middle of that. At the end no cent is lost, no heap is left, and no block.

#define _GNU_SOURCE
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "mi/mimalloc-stats.h"
#include "mi/mimalloc.h"

enum { ACCOUNTS = 100, THREADS_MAX = 256 };

// ---- SQLite's memory ---------------------------------------------------------------------------------------------

static _Thread_local mi_heap_t* current;  // NULL: the main heap

static mi_heap_t* current_heap(void) { return current != NULL ? current : mi_heap_main(); }

static void* session_malloc(int size) { return mi_heap_malloc(current_heap(), (size_t)size); }

// The block may be another session's, of what is shared; it is this one's if it moves.
static void* session_realloc(void* block, int size) { return mi_heap_realloc(current_heap(), block, (size_t)size); }

// SQLite uses what a block has beyond what was asked for, so it must be told exactly.
static int session_size(void* block) { return (int)mi_usable_size(block); }

static int session_roundup(int size) { return (int)mi_good_size((size_t)size); }

static int session_init(void* unused) {
  (void)unused;
  return SQLITE_OK;
}

static void session_shutdown(void* unused) { (void)unused; }

static bool sqlite_setup(void) {
  static const sqlite3_mem_methods methods = {
      .xMalloc = session_malloc,
      .xFree = mi_free,
      .xRealloc = session_realloc,
      .xSize = session_size,
      .xRoundup = session_roundup,
      .xInit = session_init,
      .xShutdown = session_shutdown,
  };
  // Each connection is used by one thread at a time. Without SQLite's own statistics there is no lock to allocate.
  return sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) == SQLITE_OK &&
         sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) == SQLITE_OK &&
         sqlite3_config(SQLITE_CONFIG_MULTITHREAD) == SQLITE_OK && sqlite3_initialize() == SQLITE_OK;
}

// ---- sessions ----------------------------------------------------------------------------------------------------

struct session {
  mi_heap_t* heap;
  sqlite3* db;
  size_t peak;       // bytes that it held at most; known when it is closed
  size_t outlasted;  // blocks of its heap that SQLite still had after it was closed
};

static void enter(const struct session* session) { current = session->heap; }
static void leave(void) { current = NULL; }

// Between enter and leave, as all that follows. SQLite's result of the first statement that gives another than a row or
// the end; the first column of the last row, or 0, is left in `*number`.
static int run(const struct session* session, const char* sql, int64_t* number) {
  int result = SQLITE_OK;
  if (number != NULL) *number = 0;
  while (result == SQLITE_OK && *sql != 0) {
    sqlite3_stmt* statement = NULL;
    result = sqlite3_prepare_v2(session->db, sql, -1, &statement, &sql);
    if (result != SQLITE_OK || statement == NULL) break;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
      if (number != NULL) *number = sqlite3_column_int64(statement, 0);
    }
    result = sqlite3_finalize(statement);  // again what went wrong, if anything did
  }
  return result;
}

// SQLite's result. The session must be closed in any case.
static int session_open(struct session* session, const char* database, size_t limit) {
  *session = (struct session){0};
  session->heap =
      mi_heap_new_with(&(mi_heap_config_t){.size = sizeof(mi_heap_config_t), .name = "session", .limit = limit});
  if (session->heap == NULL) return SQLITE_NOMEM;
  enter(session);
  int result = sqlite3_open_v2(database, &session->db, SQLITE_OPEN_READWRITE, NULL);
  if (result == SQLITE_OK) result = sqlite3_busy_timeout(session->db, 300000);
  // What queries need beside the database stays in memory, where the limit holds.
  if (result == SQLITE_OK) result = run(session, "PRAGMA temp_store = MEMORY; PRAGMA synchronous = NORMAL", NULL);
  leave();
  return result;
}

static size_t blocks_of(mi_heap_t* heap) {
  mi_heap_counts_t counts = {.size = sizeof counts};
  return mi_heap_counts_get(heap, &counts) ? (size_t)counts.blocks : 0;
}

static int session_close(struct session* session) {
  if (session->heap == NULL) return SQLITE_OK;
  enter(session);
  const int result = sqlite3_close(session->db);
  leave();
  session->peak = mi_heap_peak(session->heap);
  session->outlasted = blocks_of(session->heap);
  mi_heap_delete(session->heap);
  return result;
}

// ---- what a session does -----------------------------------------------------------------------------------------

static const char schema[] =
    "PRAGMA journal_mode = WAL;"
    "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, cents INTEGER NOT NULL);"
    "CREATE TABLE entry(id INTEGER PRIMARY KEY, account INTEGER NOT NULL REFERENCES account, cents INTEGER NOT NULL,"
    "  note TEXT NOT NULL);"
    "CREATE INDEX entry_account ON entry(account, cents);"
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 100)"
    "  INSERT INTO account SELECT i, printf('owner %04d', i), 10000 FROM n;";

// More than a session may hold, each in another part of SQLite. All but the first would go on without end: memory that
// is refused ends them. (A limit bounds memory, not time, and the functions that collect strings go on counting rows
// when they have lost theirs: against queries that only loop, a server sets sqlite3_progress_handler as well.)
#define NUMBERS "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
static const char* const runaways[] = {
    NUMBERS "SELECT group_concat(hex(zeroblob(1000))) FROM (SELECT i FROM n LIMIT 40000)",  // a string
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT count(*) FROM n",   // a table
    NUMBERS "SELECT i FROM n ORDER BY i % 997",                                             // a sort
    "SELECT count(*) FROM account WHERE owner < hex(zeroblob(400000000))",                  // one value
};
enum { RUNAWAYS = sizeof runaways / sizeof runaways[0] };

// Half of a transfer, then the other half, or a query without end and no transfer.
static int transfer(const struct session* session, unsigned number, const char* runaway, bool* committed) {
  char sql[512];
  const unsigned from = number % ACCOUNTS, to = (number * 7 + 1) % ACCOUNTS, cents = number % 90 + 10;
  *committed = false;
  snprintf(sql, sizeof sql,
           "BEGIN IMMEDIATE; UPDATE account SET cents = cents - %u WHERE id = %u;"
           "INSERT INTO entry(account, cents, note) VALUES(%u, -%u, 'transfer %u to %u');",
           cents, from, from, cents, number, to);
  int result = run(session, sql, NULL);
  if (result == SQLITE_OK && runaway != NULL) result = run(session, runaway, NULL);
  if (result != SQLITE_OK) {
    // SQLite may have rolled the transaction back by itself; then this would be one error more.
    if (!sqlite3_get_autocommit(session->db)) run(session, "ROLLBACK", NULL);
    return result;
  }
  snprintf(sql, sizeof sql,
           "UPDATE account SET cents = cents + %u WHERE id = %u;"
           "INSERT INTO entry(account, cents, note) VALUES(%u, %u, 'transfer %u from %u'); COMMIT",
           cents, to, to, cents, number, from);
  result = run(session, sql, NULL);
  *committed = (result == SQLITE_OK);
  if (!*committed && !sqlite3_get_autocommit(session->db)) run(session, "ROLLBACK", NULL);
  return result;
}

// What is read is always a state between two transfers.
static bool books_balance(const struct session* session) {
  int64_t total, entries, wrong;
  return run(session, "SELECT sum(cents) FROM account", &total) == SQLITE_OK && total == ACCOUNTS * INT64_C(10000) &&
         run(session, "SELECT total(cents) FROM entry", &entries) == SQLITE_OK && entries == 0 &&
         run(session,
             "SELECT count(*) FROM (SELECT a.id FROM account a JOIN entry e ON e.account = a.id GROUP BY a.id"
             " HAVING a.cents <> 10000 + sum(e.cents) ORDER BY a.owner DESC)",
             &wrong) == SQLITE_OK &&
         wrong == 0;
}

// ---- threads -----------------------------------------------------------------------------------------------------

struct options {
  unsigned long long threads, sessions, runaway_every, limit;
};

struct worker {
  pthread_t thread;
  unsigned index;
  const struct options* options;
  const char* database;
  uint64_t committed, stopped, outlasted, failures;
  size_t peak, largest_refused;  // of sessions without and with a runaway query
};

static void complain(struct worker* worker, const struct session* session, const char* what, int result) {
  if (worker->failures++ >= 10) return;
  fprintf(stderr, "db_session: %s: %s (%s)\n", what, sqlite3_errstr(result),
          session->db != NULL ? sqlite3_errmsg(session->db) : "no connection");
}

static void run_session(struct worker* worker, unsigned number) {
  const unsigned every = (unsigned)worker->options->runaway_every;
  const char* runaway = every != 0 && number % every == 0 ? runaways[number / every % RUNAWAYS] : NULL;
  struct session session;
  bool committed;
  int result = session_open(&session, worker->database, worker->options->limit);
  if (result != SQLITE_OK) {
    complain(worker, &session, "open", result);
    session_close(&session);
    return;
  }
  enter(&session);
  if (runaway != NULL) {
    // Each of them now and then in the middle of a transaction, which keeps other sessions from writing meanwhile.
    const bool inside = number / every / RUNAWAYS % 2 == 0;
    result = inside ? transfer(&session, number, runaway, &committed) : run(&session, runaway, NULL);
    if (result != SQLITE_NOMEM) complain(worker, &session, runaway, result);
    worker->stopped += (result == SQLITE_NOMEM);
  }
  // The connection serves as ever.
  result = transfer(&session, number, NULL, &committed);
  if (result != SQLITE_OK) complain(worker, &session, "transfer", result);
  worker->committed += committed;
  if (!books_balance(&session)) complain(worker, &session, "the books do not balance", sqlite3_errcode(session.db));
  leave();
  result = session_close(&session);
  if (result != SQLITE_OK) complain(worker, &session, "close", result);
  if (session.peak > worker->options->limit) complain(worker, &session, "the heap was above its limit", SQLITE_MISUSE);
  size_t* peak = (runaway != NULL ? &worker->largest_refused : &worker->peak);
  if (session.peak > *peak) *peak = session.peak;
  worker->outlasted += session.outlasted;
}

static void* work(void* arg) {
  struct worker* worker = arg;
  const unsigned threads = (unsigned)worker->options->threads;
  for (unsigned i = 0; i < worker->options->sessions; i++) run_session(worker, i * threads + worker->index);
  return NULL;
}

// ---- the whole ---------------------------------------------------------------------------------------------------

static bool make_database(const char* database) {
  struct session session = {.heap = NULL};  // in the main heap
  bool made = sqlite3_open_v2(database, &session.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) == SQLITE_OK &&
              run(&session, schema, NULL) == SQLITE_OK;
  if (!made) fprintf(stderr, "db_session: cannot make '%s': %s\n", database, sqlite3_errmsg(session.db));
  return sqlite3_close(session.db) == SQLITE_OK && made;
}

// Two connections to one file. What they share is in the heap of the first, which ends first; returns how many blocks
// that were, 0 if anything went wrong.
static size_t share(const char* database, size_t limit) {
  struct session first, second;
  int64_t count = 0;
  bool opened = session_open(&first, database, limit) == SQLITE_OK;
  enter(&first);
  opened = opened && run(&first, "SELECT count(*) FROM account", &count) == SQLITE_OK && count == ACCOUNTS;
  leave();
  opened = session_open(&second, database, limit) == SQLITE_OK && opened;
  enter(&second);
  opened = opened && run(&second, "SELECT count(*) FROM account", &count) == SQLITE_OK && count == ACCOUNTS;
  leave();
  opened = session_close(&first) == SQLITE_OK && opened;
  enter(&second);
  opened = opened && books_balance(&second);
  leave();
  return session_close(&second) == SQLITE_OK && opened ? first.outlasted : 0;
}

// Under a limit that is too small for a connection, opening it or its first query fails as it should, and it can be
// closed. Returns how many failed, of those with limits up to 1 MiB, with which there is no need to; 0 if anything else
// went wrong.
static size_t starve(const char* database) {
  size_t failed = 0;
  int result = SQLITE_OK;
  for (size_t limit = 4096; limit <= 1 << 20; limit *= 2) {
    struct session session;
    int64_t count;
    result = session_open(&session, database, limit);
    if (result == SQLITE_OK) {
      enter(&session);
      result = run(&session, "SELECT count(*) FROM entry JOIN account ON account = account.id", &count);
      leave();
    }
    if (result == SQLITE_NOMEM) failed++;
    if (session_close(&session) != SQLITE_OK || (result != SQLITE_OK && result != SQLITE_NOMEM)) return 0;
  }
  return result == SQLITE_OK ? failed : 0;
}

static bool run_workers(struct worker* workers, const struct options* options, const char* database) {
  unsigned started = 0;
  for (; started < options->threads; started++) {
    struct worker* worker = &workers[started];
    *worker = (struct worker){.index = started, .options = options, .database = database};
    if (pthread_create(&worker->thread, NULL, work, worker) != 0) break;
  }
  for (unsigned i = 0; i < started; i++) pthread_join(workers[i].thread, NULL);
  return started == options->threads;
}

static bool is_sound(const char* database, uint64_t committed) {
  struct session session = {.heap = NULL};
  sqlite3_stmt* statement = NULL;
  int64_t entries = 0;
  bool sound =
      sqlite3_open_v2(database, &session.db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK && books_balance(&session) &&
      run(&session, "SELECT count(*) FROM entry", &entries) == SQLITE_OK && (uint64_t)entries == 2 * committed &&
      sqlite3_prepare_v2(session.db, "PRAGMA integrity_check", -1, &statement, NULL) == SQLITE_OK &&
      sqlite3_step(statement) == SQLITE_ROW && strcmp((const char*)sqlite3_column_text(statement, 0), "ok") == 0;
  sqlite3_finalize(statement);
  return sqlite3_close(session.db) == SQLITE_OK && sound;
}

static bool count_heap(mi_heap_t* heap, void* count) {
  if (heap != mi_heap_main()) ++*(size_t*)count;
  return true;
}

static size_t resident_bytes(void) {
  unsigned long pages = 0;
  FILE* file = fopen("/proc/self/statm", "r");
  if (file != NULL && fscanf(file, "%*u %lu", &pages) != 1) pages = 0;
  if (file != NULL) fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool expect(bool truth, const char* complaint) {
  if (!truth) fprintf(stderr, "db_session: %s\n", complaint);
  return truth;
}

static bool serve(const struct options* options, const char* database) {
  static struct worker workers[THREADS_MAX];
  struct worker sum = {0};
  if (!make_database(database)) return false;
  const size_t shared = share(database, options->limit), starved = starve(database);
  const double start = seconds();
  bool right = expect(run_workers(workers, options, database), "threads could not be started");
  const double end = seconds();
  for (unsigned i = 0; i < options->threads; i++) {
    const struct worker* worker = &workers[i];
    sum.committed += worker->committed;
    sum.stopped += worker->stopped;
    sum.outlasted += worker->outlasted;
    sum.failures += worker->failures;
    if (worker->peak > sum.peak) sum.peak = worker->peak;
    if (worker->largest_refused > sum.largest_refused) sum.largest_refused = worker->largest_refused;
  }
  right &= expect(sum.failures == 0, "sessions did not go as they should");
  right &= expect(shared > 0, "two connections to one file shared nothing");
  right &= expect(starved > 0, "a connection with too little memory did not fail as it should");
  right &= expect(is_sound(database, sum.committed), "the database is not what was committed");
  const unsigned long long sessions = options->threads * options->sessions;
  printf("%-46s %12llu\n", "threads", options->threads);
  printf("%-46s %12llu\n", "sessions", sessions);
  printf("%-46s %12.0f\n", "sessions per second", (double)sessions / (end - start));
  printf("%-46s %12llu\n", "transfers committed", (unsigned long long)sum.committed);
  printf("%-46s %12llu\n", "queries stopped with SQLITE_NOMEM", (unsigned long long)sum.stopped);
  printf("%-46s %12zu\n", "connections refused for lack of memory", starved);
  printf("%-46s %12zu KiB of %llu\n", "held by a session, at most", sum.peak / 1024, options->limit / 1024);
  printf("%-46s %12zu KiB\n", "held by one with such a query, at most", sum.largest_refused / 1024);
  printf("%-46s %12zu\n", "blocks that a closed session left to another", shared);
  printf("%-46s %12llu\n", "  in all sessions of the threads", (unsigned long long)sum.outlasted);
  printf("%-46s %12zu KiB\n", "resident", resident_bytes() / 1024);
  return right;
}

// ---- options -----------------------------------------------------------------------------------------------------

enum { KEY_LIMIT = 256, KEY_RUNAWAY_EVERY };

static const struct argp_option argp_options[] = {
    {"threads", 't', "T", 0, "Threads with sessions of their own (4)", 0},
    {"sessions", 'n', "N", 0, "Sessions that each of them runs, one after the other (100)", 0},
    {"runaway-every", KEY_RUNAWAY_EVERY, "K", 0, "One session in K tries a query without end (7; 0: none)", 0},
    {"limit", KEY_LIMIT, "BYTES", 0, "What a session may hold (8388608)", 0},
    {0},
};

static unsigned long long number_of(const char* text, unsigned long long min, unsigned long long max,
                                    const char* option, const struct argp_state* state) {
  char* end;
  errno = 0;
  const unsigned long long value = strtoull(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end != 0 || errno != 0 || value < min || value > max) {
    argp_error(state, "--%s takes a number from %llu to %llu, not '%s'", option, min, max, text);
  }
  return value;
}

static error_t parse_option(int key, char* argument, struct argp_state* state) {
  struct options* options = state->input;
  switch (key) {
    case 't':
      options->threads = number_of(argument, 1, THREADS_MAX, "threads", state);
      break;
    case 'n':
      options->sessions = number_of(argument, 1, 1000000, "sessions", state);
      break;
    case KEY_RUNAWAY_EVERY:
      options->runaway_every = number_of(argument, 0, 1000000, "runaway-every", state);
      break;
    case KEY_LIMIT:
      options->limit = number_of(argument, 1 << 20, 1 << 30, "limit", state);
      break;
    case ARGP_KEY_ARG:
      argp_error(state, "unexpected argument '%s'", argument);
      break;
    default:
      return ARGP_ERR_UNKNOWN;
  }
  return 0;
}

// The database is a temporary one: its files, whichever there are, go with their directory.
static void remove_database(const char* directory) {
  static const char* const names[] = {"bank.db", "bank.db-wal", "bank.db-shm"};
  char path[PATH_MAX];
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    snprintf(path, sizeof path, "%s/%s", directory, names[i]);
    unlink(path);
  }
  rmdir(directory);
}

int main(int argc, char** argv) {
  static const struct argp argp = {
      .options = argp_options,
      .parser = parse_option,
      .doc =
          "SQLite connections with a heap and a memory limit each, on one database, from several threads. Prints a "
          "table; exits with 1 if anything went otherwise than expected.",
  };
  static struct options options = {.threads = 4, .sessions = 100, .runaway_every = 7, .limit = 8 << 20};
  argp_err_exit_status = EX_USAGE;
  argp_parse(&argp, argc, argv, 0, NULL, &options);

  const char* temporary = getenv("TMPDIR");
  char directory[PATH_MAX - 32], database[PATH_MAX];
  snprintf(directory, sizeof directory, "%s/db_session.XXXXXX", temporary != NULL ? temporary : "/tmp");
  if (mkdtemp(directory) == NULL) {
    fprintf(stderr, "db_session: cannot make '%s': %s\n", directory, strerror(errno));
    return EXIT_FAILURE;
  }
  snprintf(database, sizeof database, "%s/bank.db", directory);
  const size_t blocks_before = blocks_of(mi_heap_main());
  if (!expect(sqlite_setup(), "SQLite takes no other memory functions")) return EXIT_FAILURE;
  bool right = serve(&options, database);
  right &= expect(sqlite3_shutdown() == SQLITE_OK, "SQLite does not shut down");
  remove_database(directory);

  size_t heaps = 0;
  mi_heap_visit_all(count_heap, &heaps);
  const size_t blocks = blocks_of(mi_heap_main()) - blocks_before;
  printf("blocks left = %zu\nheaps alive = %zu\n", blocks, heaps);
  right &= expect(blocks == 0 && heaps == 0, "something was left over");
  return fflush(stdout) == 0 && right ? EXIT_SUCCESS : EXIT_FAILURE;
}
