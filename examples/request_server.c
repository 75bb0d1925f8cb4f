// An HTTP server in which every request has a heap of its own: the program's options and its two ways of running.
//
//   server_memory.c   the memory of one request: opened, allocated from through cJSON's hooks, dropped whole
//   server_http.c     the server and a request's life from its headers to its end, on every path
//   server_summary.c  what the server computes
//   server_driver.c   clients for the default run: real connections, one request in ten bad
//   server_report.c   the table at the end
//
// By default it starts on a free port of the loopback interface, serves its own clients, and prints what that took.
// With --serve it stays until SIGINT or SIGTERM.

#define _GNU_SOURCE
#include <argp.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "examples/server_driver.h"
#include "examples/server_http.h"
#include "examples/server_memory.h"
#include "examples/server_report.h"

struct options {
  enum allocator allocator;
  struct server_options server;
  struct driver_options driver;
  bool serve;
  char json[PATH_MAX];  // "": not wanted
  char documents[PATH_MAX];
};

enum { KEY_SERVE = 256, KEY_ALLOCATOR, KEY_MAX_BODY, KEY_MAX_MEMORY, KEY_JSON, KEY_DOCUMENTS };

static const struct argp_option argp_options[] = {
    {"requests", 'n', "N", 0, "Requests that the clients send (10000)", 0},
    {"connections", 'c', "C", 0, "Connections that they keep at once (8)", 0},
    {"threads", 't', "T", 0, "Threads of the server (one per processor)", 0},
    {"allocator", KEY_ALLOCATOR, "heap|malloc", 0, "Who serves a request's memory (heap)", 0},
    {"serve", KEY_SERVE, "PORT", 0, "Serve other clients on PORT (0: any free one) until SIGINT or SIGTERM", 0},
    {"max-body", KEY_MAX_BODY, "BYTES", 0, "The largest body that is accepted (1048576)", 0},
    {"max-memory", KEY_MAX_MEMORY, "BYTES", 0,
     "What one request may have; beyond that it is answered with 503 (16777216)", 0},
    {"documents", KEY_DOCUMENTS, "DIR", 0, "The clients' documents, *.json (examples/data)", 0},
    {"json", KEY_JSON, "FILE", 0, "Write the results to FILE, too, as JSON", 0},
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

static enum allocator allocator_of(const char* text, const struct argp_state* state) {
  if (strcmp(text, "heap") == 0) return ALLOCATOR_HEAP;
  if (strcmp(text, "malloc") != 0) argp_error(state, "--allocator takes heap or malloc, not '%s'", text);
  return ALLOCATOR_MALLOC;
}

static error_t parse_option(int key, char* argument, struct argp_state* state) {
  struct options* options = state->input;
  switch (key) {
    case 'n':
      options->driver.requests = number_of(argument, 1, 1000000000, "requests", state);
      break;
    case 'c':
      options->driver.connections = (unsigned)number_of(argument, 1, 500, "connections", state);
      break;
    case 't':
      options->server.threads = (unsigned)number_of(argument, 1, 256, "threads", state);
      break;
    case KEY_ALLOCATOR:
      options->allocator = allocator_of(argument, state);
      break;
    case KEY_SERVE:
      options->serve = true;
      options->server.port = (uint16_t)number_of(argument, 0, UINT16_MAX, "serve", state);
      break;
    case KEY_MAX_BODY:
      options->server.max_body = number_of(argument, 1, INT_MAX - 1, "max-body", state);
      break;
    case KEY_MAX_MEMORY:
      options->driver.max_memory = number_of(argument, 1, PTRDIFF_MAX, "max-memory", state);
      break;
    case KEY_DOCUMENTS:
      set_path(options->documents, argument, "documents", state);
      break;
    case KEY_JSON:
      set_path(options->json, argument, "json", state);
      break;
    case ARGP_KEY_ARG:
      argp_error(state, "unexpected argument '%s'", argument);
      break;
    default:
      return ARGP_ERR_UNKNOWN;
  }
  return 0;
}

static unsigned processors(void) {
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count < 1 ? 1 : count > 16 ? 16 : (unsigned)count;
}

static void parse_options(struct options* options, int argc, char** argv) {
  static const struct argp argp = {
      .options = argp_options,
      .parser = parse_option,
      .doc =
          "An HTTP server in which every request has a heap of its own. Serves its own clients and prints a table "
          "of what that took; exits with 1 if anything went otherwise than expected.",
  };
  *options = (struct options){
      .allocator = ALLOCATOR_HEAP,
      .server = {.threads = processors(), .max_body = 1 << 20},
      .driver = {.requests = 10000, .connections = 8, .max_memory = 16 << 20},
      .documents = "examples/data",
  };
  argp_err_exit_status = EX_USAGE;
  argp_parse(&argp, argc, argv, 0, NULL, options);
  options->driver.max_body = options->server.max_body;
  options->driver.documents = options->documents;
}

static struct server* start_server(const struct options* options, struct report* report) {
  memory_setup(options->allocator, options->driver.max_memory);
  struct server* server = server_start(&options->server);
  if (server == NULL) {
    fprintf(stderr, "request_server: cannot serve on 127.0.0.1:%u: %s\n", options->server.port, strerror(errno));
    return NULL;
  }
  report->allocator = options->allocator;
  report->threads = options->server.threads;
  report_started(report);
  return server;
}

// Everything after the last request: stops, gives memory back, reports. Returns the exit status.
static int finish(const struct options* options, struct server* server, struct report* report,
                  const struct driver_results* clients) {
  server_stop(server);
  report_stopped(report, server);
  server_free(server);
  memory_teardown();
  memory_trim();
  report_finished(report, clients);
  bool clean = report_is_clean(report);
  if (options->json[0] != 0 && !report_write_json(report, options->json)) {
    fprintf(stderr, "request_server: cannot write '%s': %s\n", options->json, strerror(errno));
    clean = false;
  }
  report_print(report, stdout);
  return fflush(stdout) == 0 && clean ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int serve_own_clients(const struct options* options) {
  struct report report = {.connections = options->driver.connections};
  struct driver* driver = driver_start(&options->driver);
  if (driver == NULL) {
    fprintf(stderr, "request_server: cannot start the clients: %s\n", strerror(errno));
    return EXIT_FAILURE;
  }
  struct server* server = start_server(options, &report);
  if (server == NULL) return EXIT_FAILURE;
  driver_go(driver, server_port(server));
  const bool came_to_end = driver_wait(driver);
  server_wait_for_clients(server);
  const int status = finish(options, server, &report, came_to_end ? driver_results(driver) : NULL);
  driver_free(driver);
  return came_to_end ? status : EXIT_FAILURE;
}

static int serve_others(const struct options* options) {
  struct report report = {0};
  sigset_t ends;
  int signal_number;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, NULL);  // inherited by the server's threads: only sigwait takes them
  struct server* server = start_server(options, &report);
  if (server == NULL) return EXIT_FAILURE;
  printf("POST to http://127.0.0.1:%u" SERVER_PATH "\n", server_port(server));
  fflush(stdout);
  sigwait(&ends, &signal_number);
  return finish(options, server, &report, NULL);
}

int main(int argc, char** argv) {
  static struct options options;
  parse_options(&options, argc, argv);
  signal(SIGPIPE, SIG_IGN);
  return options.serve ? serve_others(&options) : serve_own_clients(&options);
}
