// A runtime with reference counts, and what it does when the last reference to ten million objects goes.
//
// Its objects are nodes of trees or lists. Counting references frees an object as soon as nobody has it; and with it
// everything that only it had, all at once: the program stands still while millions of counts go down. The remedy is to
// put that off. An object that lost its last reference goes on a list, which costs a few instructions, and the list is
// worked off in small pieces while the program allocates: the heap calls the runtime now and then
// (deferred_free), and says how many blocks it should free so that it keeps up with what is allocated
// (mi_heap_deferred_budget). No thread, no clock and no counter on the way of an allocation is needed for that.
//
// The program builds a structure, drops it, and builds another, first with everything freed at the drop, then put off.
// Both times it does the same work. It prints how long it stood still, how often, and what the whole took; --svg draws
// the two distributions, with gnuplot.
//
// Allocation and free are compiled in (mimalloc-inline.h), as a runtime would have them.

#define _GNU_SOURCE
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "mi/mimalloc-inline.h"

typedef enum shape_e { SHAPE_TREE, SHAPE_LIST } shape_t;

typedef struct options_s {
  uint64_t nodes;
  shape_t shape;
  size_t cadence;
  char svg[PATH_MAX];  // "": not wanted
} options_t;

// --- pauses ----------------------------------------------------------------------------------------------------------

enum { BUCKETS = 160, PER_DOUBLING = 4 };  // of the histogram: by time, four to a doubling

typedef struct pauses_s {
  uint64_t count, total, longest;  // nanoseconds
  uint64_t bucket[BUCKETS];
} pauses_t;

static clockid_t pause_clock = CLOCK_THREAD_CPUTIME_ID;

static uint64_t now(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

// Bucket b holds times from this one to the next one's.
static double bucket_start(int b) {
  static const double quarter[PER_DOUBLING] = {1.0, 1.189207115, 1.414213562, 1.681792831};
  return quarter[b % PER_DOUBLING] * (double)((uint64_t)1 << (b / PER_DOUBLING));
}

static void pauses_add(pauses_t* pauses, uint64_t time) {
  int b = 0;
  while (b < BUCKETS - 1 && bucket_start(b + 1) <= (double)time) b++;
  pauses->bucket[b]++;
  pauses->count++;
  pauses->total += time;
  if (time > pauses->longest) pauses->longest = time;
}

// The time that this part of all pauses does not exceed, to a bucket.
static double pauses_quantile(const pauses_t* pauses, double part) {
  uint64_t below = 0;
  for (int b = 0; b < BUCKETS - 1; b++) {
    below += pauses->bucket[b];
    if (below > 0 && (double)below >= part * (double)pauses->count) return bucket_start(b + 1);
  }
  return (double)pauses->longest;
}

// --- the runtime
// ------------------------------------------------------------------------------------------------------

typedef struct node_s {
  union {
    uintptr_t references;
    struct node_s* next_dead;  // of an object that has none any more
  };
  struct node_s* child[2];
} node_t;

typedef struct runtime_s {
  mi_heap_t* heap;
  mi_inline_thread_t thread;
  mi_inline_theap_t theap;
  bool defers;
  node_t* dead;  // lost their last reference, and are not freed yet
  uint64_t live;
  pauses_t pauses;
} runtime_t;

static node_t* node_new(runtime_t* runtime) {
  node_t* node = mi_inline_theap_malloc_small(&runtime->theap, sizeof(node_t));
  if (node == NULL) {
    fprintf(stderr, "refcount_runtime: no memory\n");
    exit(EXIT_FAILURE);
  }
  node->references = 1;
  node->child[0] = node->child[1] = NULL;
  runtime->live++;
  return node;
}

static void reference_drop(runtime_t* runtime, node_t* node) {
  if (node == NULL || --node->references != 0) return;
  node->next_dead = runtime->dead;
  runtime->dead = node;
}

// Frees up to so many objects. What they referred to may follow: a list, not a recursion, whatever the structure.
static void free_dead(runtime_t* runtime, size_t budget) {
  for (; budget > 0 && runtime->dead != NULL; budget--) {
    node_t* node = runtime->dead;
    runtime->dead = node->next_dead;
    reference_drop(runtime, node->child[1]);
    reference_drop(runtime, node->child[0]);
    mi_inline_free_small(&runtime->thread, node);
    runtime->live--;
  }
}

// Called by the heap, in the middle of an allocation.
static void deferred_free(mi_heap_t* heap, bool force, unsigned long long heartbeat, void* arg) {
  (void)force, (void)heartbeat;
  runtime_t* runtime = arg;
  if (runtime->dead == NULL) return;
  const uint64_t start = now(pause_clock);
  free_dead(runtime, mi_heap_deferred_budget(heap));  // SIZE_MAX with `force`
  pauses_add(&runtime->pauses, now(pause_clock) - start);
}

// The program gives up a reference.
static void runtime_drop(runtime_t* runtime, node_t* node) {
  const uint64_t start = now(pause_clock);
  reference_drop(runtime, node);
  if (!runtime->defers) free_dead(runtime, SIZE_MAX);
  pauses_add(&runtime->pauses, now(pause_clock) - start);
}

// `cadence`: bytes that are allocated between two calls. Fewer make pauses shorter, and more of them.
static void runtime_start(runtime_t* runtime, bool defers, size_t cadence) {
  const mi_heap_config_t config = {
      .size = sizeof(config),
      .name = "objects",
      .deferred_free = defers ? deferred_free : NULL,
      .deferred_arg = defers ? runtime : NULL,
      .deferred_bytes = cadence,
  };
  *runtime = (runtime_t){.heap = mi_heap_new_with(&config), .defers = defers};
  if (runtime->heap == NULL) {
    fprintf(stderr, "refcount_runtime: %s\n", strerror(errno));
    exit(EXIT_FAILURE);
  }
  mi_inline_thread_attach(&runtime->thread);
  mi_inline_theap_attach(&runtime->theap, runtime->heap);
}

// --- the program
// ------------------------------------------------------------------------------------------------------

static node_t* build_list(runtime_t* runtime, uint64_t nodes) {
  node_t* list = NULL;
  while (nodes-- > 0) {
    node_t* node = node_new(runtime);
    node->child[0] = list;
    list = node;
  }
  return list;
}

// A balanced tree; every 16th node has a second reference to its left child in place of a right one.
static node_t* build_tree(runtime_t* runtime, uint64_t nodes, uint64_t* number) {
  if (nodes == 0) return NULL;
  node_t* node = node_new(runtime);
  if (++*number % 16 == 0 && nodes > 1) {
    node->child[0] = node->child[1] = build_tree(runtime, nodes - 1, number);
    node->child[0]->references++;
    return node;
  }
  node->child[0] = build_tree(runtime, nodes / 2, number);
  node->child[1] = build_tree(runtime, nodes - 1 - nodes / 2, number);
  return node;
}

static node_t* build(runtime_t* runtime, shape_t shape, uint64_t nodes) {
  uint64_t number = 0;
  return shape == SHAPE_LIST ? build_list(runtime, nodes) : build_tree(runtime, nodes, &number);
}

typedef struct result_s {
  pauses_t pauses;
  uint64_t total;  // from the drop until the second structure is there, and nothing of the first
} result_t;

static bool run(result_t* result, const options_t* options, bool defers) {
  const shape_t shape = options->shape;
  const uint64_t nodes = options->nodes;
  runtime_t runtime;
  runtime_start(&runtime, defers, options->cadence);
  node_t* first = build(&runtime, shape, nodes);
  const uint64_t start = now(CLOCK_THREAD_CPUTIME_ID);
  runtime_drop(&runtime, first);
  node_t* second = build(&runtime, shape, nodes);
  // What is still to do when the program ends its work: no more than it allocated since it was last asked.
  while (runtime.dead != NULL) {
    const uint64_t pause_start = now(pause_clock);
    free_dead(&runtime, 4096);
    pauses_add(&runtime.pauses, now(pause_clock) - pause_start);
  }
  result->total = now(CLOCK_THREAD_CPUTIME_ID) - start;
  result->pauses = runtime.pauses;
  const bool exact = (runtime.live == nodes);
  if (!exact) {
    fprintf(stderr, "refcount_runtime: %llu objects are alive, not %llu\n", (unsigned long long)runtime.live,
            (unsigned long long)nodes);
  }
  runtime_drop(&runtime, second);
  mi_heap_register_deferred_free(runtime.heap, NULL, NULL);
  mi_heap_destroy(runtime.heap);
  return exact;
}

// --- what it tells
// ----------------------------------------------------------------------------------------------------

static const char* time_text(double ns, char text[32]) {
  if (ns < 1e3) {
    snprintf(text, 32, "%.0f ns", ns);
  } else if (ns < 1e6) {
    snprintf(text, 32, "%.1f us", ns / 1e3);
  } else {
    snprintf(text, 32, "%.2f ms", ns / 1e6);
  }
  return text;
}

static void print_result(const char* name, const result_t* result) {
  const pauses_t* pauses = &result->pauses;
  char text[5][32];
  printf("%-9s %10llu %12s %12s %12s %12s %12s\n", name, (unsigned long long)pauses->count,
         time_text(pauses_quantile(pauses, 0.5), text[0]), time_text(pauses_quantile(pauses, 0.99), text[1]),
         time_text((double)pauses->longest, text[2]), time_text((double)pauses->total, text[3]),
         time_text((double)result->total, text[4]));
}

static void print_histogram(const char* name, const pauses_t* pauses) {
  uint64_t most = 1;
  for (int b = 0; b < BUCKETS; b++) most = pauses->bucket[b] > most ? pauses->bucket[b] : most;
  printf("\n%s: pauses by length\n", name);
  for (int b = 0; b < BUCKETS; b++) {
    if (pauses->bucket[b] == 0) continue;
    char text[32];
    const int width = (int)((pauses->bucket[b] * 50 + most - 1) / most);
    printf("%12s %9llu %.*s\n", time_text(bucket_start(b), text), (unsigned long long)pauses->bucket[b], width,
           "##################################################");
  }
}

static void plot_data(FILE* plot, const pauses_t* pauses) {
  for (int b = 0; b < BUCKETS - 1; b++) {
    if (pauses->bucket[b] == 0) continue;
    fprintf(plot, "%g %g %llu\n", bucket_start(b) / 1e3, bucket_start(b + 1) / 1e3,
            (unsigned long long)pauses->bucket[b]);
  }
  fprintf(plot, "e\n");
}

// Both distributions as a picture. Gnuplot is told by its standard input.
static bool draw(const char* path, const result_t* at_once, const result_t* deferred, uint64_t nodes) {
  FILE* plot = popen("gnuplot", "w");
  if (plot == NULL) return false;
  fprintf(plot, "set terminal svg size 800,480 noenhanced\nset output '%s'\n", path);
  fprintf(plot, "set title 'Dropping %llu objects'\n", (unsigned long long)nodes);
  fprintf(plot, "set xlabel 'length of a pause, microseconds'\nset ylabel 'pauses'\n");
  fprintf(plot, "set logscale xy\nset yrange [0.5:*]\nset style fill solid 0.7\nset grid\nset key top right\n");
  fprintf(plot,
          "plot '-' using (sqrt($1*$2)):3:($2-$1) with boxes title 'at once', "
          "'-' using (sqrt($1*$2)):3:($2-$1) with boxes title 'deferred'\n");
  plot_data(plot, &at_once->pauses);
  plot_data(plot, &deferred->pauses);
  return pclose(plot) == 0;
}

// --- options
// ----------------------------------------------------------------------------------------------------------

enum { KEY_WALL = 256, KEY_SVG };

static const struct argp_option argp_options[] = {
    {"nodes", 'n', "N", 0, "Objects in the structure (10000000)", 0},
    {"shape", 's', "tree|list", 0, "What they are (tree)", 0},
    {"cadence", 'c', "BYTES", 0, "Allocate as much between two calls of deferred_free (16384)", 0},
    {"wall", KEY_WALL, NULL, 0, "Pauses by the clock on the wall, not by the thread's: other programs lengthen them",
     0},
    {"svg", KEY_SVG, "FILE", 0, "Draw both distributions to FILE, with gnuplot", 0},
    {0},
};

static uint64_t number_of(const char* text, const char* option, const struct argp_state* state) {
  char* end;
  errno = 0;
  const unsigned long long value = strtoull(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end != 0 || errno != 0 || value < 1 || value > 1000000000) {
    argp_error(state, "--%s takes a number from 1 to 1000000000, not '%s'", option, text);
  }
  return value;
}

// As `bazel run` changes the directory, and says so in the environment. A quote would end gnuplot's string.
static void set_path(char* path, const char* argument, const struct argp_state* state) {
  const char* directory = argument[0] != '/' ? getenv("BUILD_WORKING_DIRECTORY") : NULL;
  const int length =
      snprintf(path, PATH_MAX, "%s%s%s", directory != NULL ? directory : "", directory != NULL ? "/" : "", argument);
  if (argument[0] == 0 || length >= PATH_MAX || strpbrk(path, "'\n") != NULL) {
    argp_error(state, "--svg takes a path without quotes, not '%s'", argument);
  }
}

static error_t parse_option(int key, char* argument, struct argp_state* state) {
  options_t* options = state->input;
  switch (key) {
    case 'n':
      options->nodes = number_of(argument, "nodes", state);
      break;
    case 'c':
      options->cadence = number_of(argument, "cadence", state);
      break;
    case 's':
      if (strcmp(argument, "tree") != 0 && strcmp(argument, "list") != 0) {
        argp_error(state, "--shape takes tree or list, not '%s'", argument);
      }
      options->shape = argument[0] == 'l' ? SHAPE_LIST : SHAPE_TREE;
      break;
    case KEY_WALL:
      pause_clock = CLOCK_MONOTONIC;
      break;
    case KEY_SVG:
      set_path(options->svg, argument, state);
      break;
    case ARGP_KEY_ARG:
      argp_error(state, "unexpected argument '%s'", argument);
      break;
    default:
      return ARGP_ERR_UNKNOWN;
  }
  return 0;
}

int main(int argc, char** argv) {
  static const struct argp argp = {
      .options = argp_options,
      .parser = parse_option,
      .doc =
          "A runtime with reference counts drops a structure of many objects: at once, and put off to a heap's "
          "deferred_free. Prints how long it stood still each time.",
  };
  static options_t options = {.nodes = 10000000, .cadence = 16384};
  static result_t at_once, deferred;
  argp_err_exit_status = EX_USAGE;
  argp_parse(&argp, argc, argv, 0, NULL, &options);

  signal(SIGPIPE, SIG_IGN);  // gnuplot may not be there
  result_t warm;             // so that neither pays for memory that the process never had
  bool good = run(&warm, &options, false);
  good = run(&at_once, &options, false) && good;
  good = run(&deferred, &options, true) && good;

  printf("%-9s %10s %12s %12s %12s %12s %12s\n", "drop", "pauses", "median", "99%", "longest", "all pauses", "total");
  print_result("at once", &at_once);
  print_result("deferred", &deferred);
  printf("longest pause: 1/%.0f; total time: %.3f\n", (double)at_once.pauses.longest / (double)deferred.pauses.longest,
         (double)deferred.total / (double)at_once.total);
  print_histogram("at once", &at_once.pauses);
  print_histogram("deferred", &deferred.pauses);
  if (options.svg[0] != 0 && !draw(options.svg, &at_once, &deferred, options.nodes)) {
    fprintf(stderr, "refcount_runtime: gnuplot could not draw '%s'; is it installed?\n", options.svg);
    good = false;
  }
  return fflush(stdout) == 0 && good ? EXIT_SUCCESS : EXIT_FAILURE;
}
