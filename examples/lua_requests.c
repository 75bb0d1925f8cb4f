// A Lua VM for every request, each in a heap of its own: made with lua_newstate's allocator, run, and dropped whole,
// without lua_close. What that takes is compared with the same VM on malloc, where lua_close must free every object.
//
// The heap has a limit, so a script that allocates without end gets Lua's own "not enough memory", and the server goes
// on with the next request. When its allocator fails, Lua first collects all garbage and asks again; only then it
// raises the error, whose message was made with the VM, so that the way of the error needs no memory. Code outside of a
// protected call has no such way: Lua calls the panic function and aborts. Hence everything that may allocate, opening
// the libraries included, runs inside lua_pcall here, and lua_newstate itself returns NULL under too small a limit.
//
// A limit bounds memory, not time: against scripts that loop, a server sets a hook (lua_sethook) as well.
//
// Lua's collector is stopped, in the VMs on malloc too: a request is over before its garbage matters, and where it does
// matter, at the limit, Lua collects all the same. --collector=run shows what it costs to let it run.

#define _GNU_SOURCE
#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <lualib.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "mi/mimalloc.h"

enum { DOCUMENTS_MAX = 64, ROUNDS_MAX = 1000 };

struct text {
  char name[64];
  char* bytes;
  size_t size;
};

// ---- a VM and its memory ---------------------------------------------------------------------------------------

enum way { WAY_DROPPED, WAY_CLOSED, WAY_MALLOC, WAYS };  // a heap destroyed as it is; after lua_close; malloc

static void* heap_alloc(void* heap, void* block, size_t old_size, size_t new_size) {
  if (new_size == 0) {
    mi_free(block);
    return NULL;
  }
  void* result = block == NULL ? mi_heap_malloc(heap, new_size) : mi_heap_realloc(heap, block, new_size);
  // At the limit, not even a smaller block may be had; then the old one has to do. (Without a block, `old_size` is the
  // kind of the new object.)
  if (result == NULL && block != NULL && new_size <= old_size) return block;
  return result;
}

static void* malloc_alloc(void* unused, void* block, size_t old_size, size_t new_size) {
  (void)unused, (void)old_size;
  if (new_size != 0) return realloc(block, new_size);
  free(block);
  return NULL;
}

struct vm {
  enum way way;
  mi_heap_t* heap;  // NULL: on malloc
  lua_State* state;
};

static bool vm_open(struct vm* vm, enum way way, size_t limit) {
  *vm = (struct vm){.way = way};
  if (way == WAY_MALLOC) {
    vm->state = lua_newstate(malloc_alloc, NULL);
    return vm->state != NULL;
  }
  vm->heap = mi_heap_new_with(&(mi_heap_config_t){.size = sizeof(mi_heap_config_t), .limit = limit});
  if (vm->heap == NULL) return false;
  vm->state = lua_newstate(heap_alloc, vm->heap);
  if (vm->state == NULL) mi_heap_destroy(vm->heap);
  return vm->state != NULL;
}

static void vm_end(struct vm* vm) {
  if (vm->way != WAY_DROPPED) lua_close(vm->state);
  if (vm->heap != NULL) mi_heap_destroy(vm->heap);
}

// ---- a request ---------------------------------------------------------------------------------------------------

struct request {
  const struct text* script;  // compiled or not
  const struct text* body;
  bool collects;     // Lua's collector runs as it does by default
  const char* page;  // lives as long as the VM
  size_t page_size;
  int64_t ready;  // when the script was loaded
};

static int64_t cpu_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

// What a script may use: no files, no processes.
static void open_libraries(lua_State* state) {
  static const luaL_Reg libraries[] = {
      {LUA_GNAME, luaopen_base},       {LUA_TABLIBNAME, luaopen_table}, {LUA_STRLIBNAME, luaopen_string},
      {LUA_UTF8LIBNAME, luaopen_utf8}, {LUA_MATHLIBNAME, luaopen_math},
  };
  for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
    luaL_requiref(state, libraries[i].name, libraries[i].func, 1);
    lua_pop(state, 1);
  }
  for (const char* const* name = (const char* const[]){"dofile", "loadfile", "print", NULL}; *name != NULL; name++) {
    lua_pushnil(state);
    lua_setglobal(state, *name);
  }
}

// The whole of a request, protected: its argument is the request, its result the page.
static int serve(lua_State* state) {
  struct request* request = lua_touserdata(state, 1);
  if (!request->collects) lua_gc(state, LUA_GCSTOP);
  open_libraries(state);
  if (luaL_loadbuffer(state, request->script->bytes, request->script->size, request->script->name) != LUA_OK) {
    return lua_error(state);
  }
  request->ready = cpu_nanoseconds();
  lua_pushlstring(state, request->body->bytes, request->body->size);
  lua_call(state, 1, 1);
  request->page = luaL_checklstring(state, -1, &request->page_size);
  return 1;
}

// Returns Lua's status; the page or the message is on the VM's stack.
static int vm_serve(struct vm* vm, struct request* request) {
  lua_pushcfunction(vm->state, serve);  // neither of the two allocates
  lua_pushlightuserdata(vm->state, request);
  return lua_pcall(vm->state, 1, 1, 0);
}

// ---- texts -------------------------------------------------------------------------------------------------------

static bool text_read(struct text* text, const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return false;
  bool read = fseek(file, 0, SEEK_END) == 0;
  const long size = read ? ftell(file) : -1;
  text->bytes = size >= 0 ? malloc((size_t)size + 1) : NULL;
  rewind(file);
  read = text->bytes != NULL && fread(text->bytes, 1, (size_t)size, file) == (size_t)size;
  fclose(file);
  if (!read) return false;
  text->size = (size_t)size;
  const char* slash = strrchr(path, '/');
  snprintf(text->name, sizeof text->name, "%s", slash != NULL ? slash + 1 : path);
  return true;
}

static int is_json(const struct dirent* entry) {
  const char* end = strrchr(entry->d_name, '.');
  return end != NULL && strcmp(end, ".json") == 0;
}

// Reads all *.json of the directory in the order of their names; how many, 0 with errno set.
static size_t texts_read(struct text* texts, const char* directory) {
  struct dirent** entries;
  const int found = scandir(directory, &entries, is_json, alphasort);
  size_t count = 0;
  bool all = found > 0;
  if (found == 0) errno = ENOENT;
  for (int i = 0; i < found; i++) {
    char path[PATH_MAX];
    const int length = snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
    all = all && length < PATH_MAX && count < DOCUMENTS_MAX && text_read(&texts[count], path);
    if (all) count++;
    free(entries[i]);
  }
  if (found >= 0) free(entries);
  return all ? count : 0;
}

static int append(lua_State* state, const void* bytes, size_t size, void* arg) {
  (void)state;
  struct text* text = arg;
  char* grown = realloc(text->bytes, text->size + size);
  if (grown == NULL) return 1;
  memcpy(grown + text->size, bytes, size);
  text->bytes = grown;
  text->size += size;
  return 0;
}

// Compiles a script once for all requests, as a server does that trusts where the script comes from.
static bool compile(struct text* compiled, const struct text* source) {
  lua_State* state = luaL_newstate();
  char name[80];
  snprintf(name, sizeof name, "@%s", source->name);
  *compiled = (struct text){0};
  memcpy(compiled->name, source->name, sizeof compiled->name);
  bool done = state != NULL && luaL_loadbuffer(state, source->bytes, source->size, name) == LUA_OK;
  if (state != NULL && !done) fprintf(stderr, "lua_requests: %s\n", lua_tostring(state, -1));
  done = done && lua_dump(state, append, compiled, 0) == 0;
  if (state != NULL) lua_close(state);
  return done;
}

// ---- what a request takes ----------------------------------------------------------------------------------------

struct plan {
  struct text script, documents[DOCUMENTS_MAX];
  size_t document_count, limit;
  unsigned rounds, requests, runaways;
  bool collects;
  uint64_t page_hash[DOCUMENTS_MAX];  // of the first way that served the document
  size_t failures;
};

// Nanoseconds per request of one round.
struct times {
  double open, run, end, whole;
};

static uint64_t hash_of(const char* bytes, size_t size) {
  uint64_t hash = UINT64_C(14695981039346656037);
  for (size_t i = 0; i < size; i++) hash = (hash ^ (unsigned char)bytes[i]) * UINT64_C(1099511628211);
  return hash | 1;
}

static void complain(struct plan* plan, const char* what, const char* which) {
  if (plan->failures++ < 10) fprintf(stderr, "lua_requests: %s: %s\n", which, what);
}

// The page must be the same in every way.
static void check_page(struct plan* plan, size_t document, const struct request* request) {
  const uint64_t hash = hash_of(request->page, request->page_size);
  if (plan->page_hash[document] == 0) plan->page_hash[document] = hash;
  if (plan->page_hash[document] != hash) complain(plan, "another page than before", request->body->name);
}

static void serve_document(struct plan* plan, enum way way, size_t document, struct times* times) {
  struct request request = {.script = &plan->script, .body = &plan->documents[document], .collects = plan->collects};
  struct vm vm;
  const int64_t start = cpu_nanoseconds();
  if (!vm_open(&vm, way, plan->limit)) {
    complain(plan, "no memory for a VM", request.body->name);
    return;
  }
  const int status = vm_serve(&vm, &request);
  const int64_t served = cpu_nanoseconds();
  if (status == LUA_OK) {
    check_page(plan, document, &request);
  } else {
    complain(plan, lua_tostring(vm.state, -1), request.body->name);
  }
  const int64_t ending = cpu_nanoseconds();
  vm_end(&vm);
  const int64_t ended = cpu_nanoseconds();
  if (status != LUA_OK) return;
  times->open += (double)(request.ready - start);
  times->run += (double)(served - request.ready);
  times->end += (double)(ended - ending);
  times->whole += (double)(served - start + ended - ending);
}

static void serve_round(struct plan* plan, enum way way, struct times* times) {
  *times = (struct times){0};
  for (unsigned i = 0; i < plan->requests; i++) serve_document(plan, way, i % plan->document_count, times);
  times->open /= plan->requests;
  times->run /= plan->requests;
  times->end /= plan->requests;
  times->whole /= plan->requests;
}

static int compare_doubles(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

// The value below which `share` of them lie. Sorts them.
static double quantile(double* values, unsigned count, double share) {
  qsort(values, count, sizeof *values, compare_doubles);
  return values[(unsigned)((count - 1) * share + 0.5)];
}

static double median_of(const struct times* times, size_t offset, unsigned rounds) {
  static double values[ROUNDS_MAX];
  for (unsigned i = 0; i < rounds; i++) values[i] = *(const double*)((const char*)&times[i] + offset);
  return quantile(values, rounds, 0.5);
}

static void print_times(const struct plan* plan, struct times (*times)[ROUNDS_MAX]) {
  static const struct {
    const char* name;
    size_t offset;
  } rows[] = {{"open, microseconds", offsetof(struct times, open)},
              {"run, microseconds", offsetof(struct times, run)},
              {"end, microseconds", offsetof(struct times, end)},
              {"whole, microseconds", offsetof(struct times, whole)}};
  printf("%-24s %16s %16s %16s\n", "a request", "heap, dropped", "heap, lua_close", "malloc, lua_close");
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    printf("%-24s", rows[i].name);
    for (int way = 0; way < WAYS; way++) {
      printf(" %16.1f", median_of(times[way], rows[i].offset, plan->rounds) / 1000);
    }
    printf("\n");
  }
  for (int way = 0; way < WAY_MALLOC; way++) {
    double ratios[ROUNDS_MAX];
    for (unsigned i = 0; i < plan->rounds; i++) ratios[i] = times[way][i].whole / times[WAY_MALLOC][i].whole;
    const double low = quantile(ratios, plan->rounds, 0.25), high = quantile(ratios, plan->rounds, 0.75);
    printf("%-24s %.3f of malloc with lua_close (quartiles of %u rounds: %.3f to %.3f)\n",
           way == WAY_DROPPED ? "heap, dropped" : "heap, lua_close", quantile(ratios, plan->rounds, 0.5), plan->rounds,
           low, high);
  }
}

// The ways take turns, in an order that turns too, so that what else the machine does falls on all of them.
static void compare_ways(struct plan* plan) {
  static struct times times[WAYS][ROUNDS_MAX];
  struct times warm_up;
  for (int way = 0; way < WAYS; way++) serve_round(plan, (enum way)way, &warm_up);
  for (unsigned round = 0; round < plan->rounds; round++) {
    for (unsigned turn = 0; turn < WAYS; turn++) {
      const enum way way = (enum way)((round + turn) % WAYS);
      serve_round(plan, way, &times[way][round]);
    }
  }
  print_times(plan, times);
}

// ---- scripts that allocate without end ---------------------------------------------------------------------------

static const struct runaway {
  const char* source;
  const char* page;  // NULL: ends with LUA_ERRMEM
} runaways[] = {
    {"local hoard = {} while true do hoard[#hoard + 1] = { tostring(#hoard), {} } end", NULL},
    {"local text = 'x' while true do text = text .. text end", NULL},
    {"local function more(list) return more({ list, function() return list end }) end return more({})", NULL},
    {"return ('x'):rep(1 << 30)", NULL},
    // This one catches the error and has an answer all the same: what it hoarded is garbage by then.
    {"local done, message = pcall(function() local t = {} while true do t[#t + 1] = {} end end)\n"
     "return 'caught: ' .. message",
     "caught: not enough memory"},
};
enum { RUNAWAYS = sizeof runaways / sizeof runaways[0] };

static size_t resident_bytes(void) {
  unsigned long pages = 0;
  FILE* file = fopen("/proc/self/statm", "r");
  if (file != NULL && fscanf(file, "%*u %lu", &pages) != 1) pages = 0;
  if (file != NULL) fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void run_away(struct plan* plan, const struct runaway* runaway, size_t* peak) {
  struct text source = {.name = "=runaway", .bytes = (char*)runaway->source, .size = strlen(runaway->source)};
  struct request request = {.script = &source, .body = &plan->documents[0], .collects = plan->collects};
  struct vm vm;
  if (!vm_open(&vm, WAY_DROPPED, plan->limit)) {
    complain(plan, "no memory for a VM", source.name);
    return;
  }
  const int status = vm_serve(&vm, &request);
  const char* text = lua_tostring(vm.state, -1);
  if (status != (runaway->page == NULL ? LUA_ERRMEM : LUA_OK)) {
    complain(plan, text, source.name);
  } else if (strcmp(text, runaway->page == NULL ? "not enough memory" : runaway->page) != 0) {
    complain(plan, text, source.name);
  }
  const size_t held = mi_heap_peak(vm.heap);
  if (held > plan->limit) complain(plan, "the heap held more than its limit", source.name);
  if (held > *peak) *peak = held;
  vm_end(&vm);
}

static size_t smallest_document(const struct plan* plan) {
  size_t smallest = 0;
  for (size_t i = 1; i < plan->document_count; i++) {
    if (plan->documents[i].size < plan->documents[smallest].size) smallest = i;
  }
  return smallest;
}

// Resident bytes as they are, and with all that is free given back.
struct resident {
  size_t now, needed;
};

static struct resident measure_resident(void) {
  struct resident resident = {.now = resident_bytes()};
  mi_collect(true);
  malloc_trim(0);
  resident.needed = resident_bytes();
  return resident;
}

// After each of them the server serves a request as ever, and it needs no more memory for the thousandth than for the
// hundredth.
static void survive_runaways(struct plan* plan) {
  const size_t document = smallest_document(plan), failures = plan->failures;
  size_t peak = 0;
  struct resident early = {0, 0};
  struct times times = {0};
  for (unsigned i = 0; i < plan->runaways; i++) {
    run_away(plan, &runaways[i % RUNAWAYS], &peak);
    serve_document(plan, WAY_DROPPED, document, &times);
    if (i == plan->runaways / 10) early = measure_resident();
  }
  const struct resident late = measure_resident();
  if (late.needed > early.needed + (1 << 20)) complain(plan, "more and more memory is needed", "runaways");
  printf("%-24s %u stopped at the limit, in a row, with a request after each: %s\n", "runaway scripts", plan->runaways,
         plan->failures == failures ? "all as expected" : "FAILED");
  printf("%-24s %zu of %zu KiB\n", "held by one, at most", peak / 1024, plan->limit / 1024);
  printf("%-24s %zu KiB after a tenth of them, %zu KiB after the last\n", "resident", early.now / 1024,
         late.now / 1024);
  printf("%-24s %zu KiB, %zu KiB\n", "  without what is free", early.needed / 1024, late.needed / 1024);
}

static bool count_heap(mi_heap_t* heap, void* count) {
  if (heap != mi_heap_main()) ++*(size_t*)count;
  return true;
}

// ---- options -----------------------------------------------------------------------------------------------------

struct options {
  unsigned long long rounds, requests, runaways, limit;
  bool collects;
  char script[PATH_MAX], documents[PATH_MAX];
};

enum { KEY_LIMIT = 256, KEY_COLLECTOR, KEY_SCRIPT, KEY_DOCUMENTS };

static const struct argp_option argp_options[] = {
    {"rounds", 'r', "N", 0, "Rounds in which the ways take turns (9)", 0},
    {"requests", 'n', "N", 0, "Requests of each way in a round (48)", 0},
    {"runaways", 'a', "N", 0, "Scripts that allocate without end, in a row (1000)", 0},
    {"limit", KEY_LIMIT, "BYTES", 0, "What one VM may hold (16777216)", 0},
    {"collector", KEY_COLLECTOR, "stop|run", 0, "Lua's collector, in all VMs (stop)", 0},
    {"script", KEY_SCRIPT, "FILE", 0, "The requests' script (examples/lua_requests.lua)", 0},
    {"documents", KEY_DOCUMENTS, "DIR", 0, "The requests' bodies, *.json (examples/data)", 0},
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

// A path as the user means it: `bazel run` changes the directory and says so in the environment.
static void set_path(char* path, const char* argument, const char* option, const struct argp_state* state) {
  const char* directory = argument[0] != '/' ? getenv("BUILD_WORKING_DIRECTORY") : NULL;
  const int length =
      snprintf(path, PATH_MAX, "%s%s%s", directory != NULL ? directory : "", directory != NULL ? "/" : "", argument);
  if (argument[0] == 0 || length >= PATH_MAX) argp_error(state, "--%s takes a path, not '%s'", option, argument);
}

static error_t parse_option(int key, char* argument, struct argp_state* state) {
  struct options* options = state->input;
  switch (key) {
    case 'r':
      options->rounds = number_of(argument, 1, ROUNDS_MAX, "rounds", state);
      break;
    case 'n':
      options->requests = number_of(argument, 1, 1000000, "requests", state);
      break;
    case 'a':
      options->runaways = number_of(argument, 0, 1000000000, "runaways", state);
      break;
    case KEY_LIMIT:
      options->limit = number_of(argument, 1, PTRDIFF_MAX, "limit", state);
      break;
    case KEY_COLLECTOR:
      options->collects = strcmp(argument, "run") == 0;
      if (!options->collects && strcmp(argument, "stop") != 0) {
        argp_error(state, "--collector takes stop or run, not '%s'", argument);
      }
      break;
    case KEY_SCRIPT:
      set_path(options->script, argument, "script", state);
      break;
    case KEY_DOCUMENTS:
      set_path(options->documents, argument, "documents", state);
      break;
    case ARGP_KEY_ARG:
      argp_error(state, "unexpected argument '%s'", argument);
      break;
    default:
      return ARGP_ERR_UNKNOWN;
  }
  return 0;
}

static bool make_plan(struct plan* plan, const struct options* options) {
  struct text source;
  plan->rounds = (unsigned)options->rounds;
  plan->requests = (unsigned)options->requests;
  plan->runaways = (unsigned)options->runaways;
  plan->limit = options->limit;
  plan->collects = options->collects;
  plan->document_count = texts_read(plan->documents, options->documents);
  if (plan->document_count == 0) {
    fprintf(stderr, "lua_requests: no documents in '%s': %s\n", options->documents, strerror(errno));
    return false;
  }
  if (!text_read(&source, options->script)) {
    fprintf(stderr, "lua_requests: cannot read '%s': %s\n", options->script, strerror(errno));
    return false;
  }
  const bool compiled = compile(&plan->script, &source);
  free(source.bytes);
  return compiled;
}

static void free_plan(struct plan* plan) {
  for (size_t i = 0; i < plan->document_count; i++) free(plan->documents[i].bytes);
  free(plan->script.bytes);
}

int main(int argc, char** argv) {
  static const struct argp argp = {
      .options = argp_options,
      .parser = parse_option,
      .doc =
          "A Lua VM for every request, each in a heap of its own with a limit. Compares it with VMs on malloc, then "
          "runs scripts that allocate without end; exits with 1 if anything went otherwise than expected.",
  };
  static struct options options = {
      .rounds = 9,
      .requests = 48,
      .runaways = 1000,
      .limit = 16 << 20,
      .script = "examples/lua_requests.lua",
      .documents = "examples/data",
  };
  static struct plan plan;
  argp_err_exit_status = EX_USAGE;
  argp_parse(&argp, argc, argv, 0, NULL, &options);
  if (!make_plan(&plan, &options)) return EXIT_FAILURE;
  // Some MiB are dropped after each request and wanted again by the next. Both allocators are told to keep them so
  // long.
  mi_option_set(mi_option_purge_delay, 1000);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  compare_ways(&plan);
  if (plan.runaways > 0) survive_runaways(&plan);
  size_t heaps = 0;
  mi_heap_visit_all(count_heap, &heaps);
  if (heaps != 0) complain(&plan, "heaps were left over", "at the end");
  printf("heaps alive = %zu\n", heaps);
  free_plan(&plan);
  return fflush(stdout) == 0 && plan.failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
