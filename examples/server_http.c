// The HTTP server on libmicrohttpd, see server_http.h. A request's life: on_request with the headers opens its
// memory, on_request with each piece of the body appends to it, on_request without a piece parses, computes and
// queues the answer, on_completed drops the memory; libmicrohttpd calls on_completed exactly once for every request
// that on_request saw, also when the connection is gone. The answer's bytes lie in the request's memory, which is
// why it stays until then. A request that must be refused is read to its end first, so that the client gets to read
// the refusal. Every 16th request of a thread is timed and every 16th is visited, never the same one.

#define _GNU_SOURCE
#include "examples/server_http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "examples/server_memory.h"
#include "examples/server_summary.h"

enum {
  SAMPLE_EVERY = 16,
  BODY_FIRST = 4096,           // bytes, for a body whose length is not known
  BODY_PRESIZED = 256 * 1024,  // bytes reserved on the client's word at most
  REFUSED_READ = 64 << 20,     // bytes of a refused body that are read before the connection is cut
  IDLE_SECONDS = 30,
};

struct server {
  struct MHD_Daemon* daemon;
  struct MHD_Response* refusals[OUTCOME_COUNT];  // shared by all requests, so that refusing needs no memory
  size_t max_body;
  uint32_t clock_nanoseconds;  // what reading the clock twice takes
  pthread_mutex_t lock;        // of what follows
  pthread_cond_t closed;       // a connection was closed
  size_t connections;          // open
  struct server_counters* counters;
};

struct request {
  struct memory memory;  // first
  enum outcome outcome;
  char* body;
  size_t length, capacity;
  cJSON* document;
  cJSON* summary;
  char* answer;
};

static _Thread_local struct server_counters* thread_counters;

static const struct {
  unsigned status;
  const char* body;
} outcomes[OUTCOME_COUNT] = {
    [OUTCOME_OK] = {MHD_HTTP_OK, NULL},
    [OUTCOME_BAD_REQUEST] = {MHD_HTTP_BAD_REQUEST, "{\"status\":400,\"error\":\"the body is not a JSON document\"}"},
    [OUTCOME_NOT_FOUND] = {MHD_HTTP_NOT_FOUND, "{\"status\":404,\"error\":\"POST to " SERVER_PATH "\"}"},
    [OUTCOME_BAD_METHOD] = {MHD_HTTP_METHOD_NOT_ALLOWED, "{\"status\":405,\"error\":\"only POST is served\"}"},
    [OUTCOME_TOO_LARGE] = {MHD_HTTP_CONTENT_TOO_LARGE, "{\"status\":413,\"error\":\"the body is too large\"}"},
    [OUTCOME_OUT_OF_MEMORY] = {MHD_HTTP_SERVICE_UNAVAILABLE,
                               "{\"status\":503,\"error\":\"the document needs too much memory\"}"},
    [OUTCOME_DROPPED] = {0, NULL},
};

unsigned outcome_status(enum outcome outcome) { return outcomes[outcome].status; }

// ---- measuring -------------------------------------------------------------------------------------------

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void sample(struct samples* samples, uint64_t value) {
  samples->values[samples->taken++ % SAMPLE_CAPACITY] = value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static void sample_since(const struct server* server, struct samples* samples, uint64_t start) {
  const uint64_t passed = now() - start;
  sample(samples, passed > server->clock_nanoseconds ? passed - server->clock_nanoseconds : 0);
}

static uint32_t clock_cost(void) {
  uint64_t least = UINT32_MAX;
  for (int i = 0; i < 1000; i++) {
    const uint64_t start = now();
    const uint64_t passed = now() - start;
    if (passed < least) least = passed;
  }
  return (uint32_t)least;
}

// The calling thread's counters; made when the thread serves its first request. NULL without memory.
static struct server_counters* counters_of(struct server* server) {
  if (thread_counters == NULL) {
    struct server_counters* counters = calloc(1, sizeof *counters);
    if (counters == NULL) return NULL;
    pthread_mutex_lock(&server->lock);
    counters->next = server->counters;
    server->counters = counters;
    pthread_mutex_unlock(&server->lock);
    thread_counters = counters;
  }
  return thread_counters;
}

// ---- a request's life ------------------------------------------------------------------------------------

static struct request* request_open(struct server* server, struct server_counters* counters) {
  const bool timed = counters->requests++ % SAMPLE_EVERY == 0;
  const uint64_t start = timed ? now() : 0;
  struct request* request = memory_open(sizeof(struct request));
  if (timed) sample_since(server, &counters->open_nanoseconds, start);
  return request;
}

// Heap mode: one call. Malloc mode: everything one by one, which takes the pointers to have been kept.
static void request_drop(struct request* request) {
  if (request->memory.heap == NULL) {
    cJSON_Delete(request->document);
    cJSON_Delete(request->summary);
    cJSON_free(request->answer);
    memory_free(&request->memory, request->body);
  }
  memory_close(&request->memory);
}

static void request_close(struct server* server, struct request* request, bool answered) {
  struct server_counters* counters = counters_of(server);
  if (counters == NULL) {
    request_drop(request);
    return;
  }
  counters->ended[answered ? request->outcome : OUTCOME_DROPPED]++;
  counters->allocations += request->memory.allocations;
  const unsigned turn = counters->closed++ % SAMPLE_EVERY;
  if (turn == 0 && request->memory.heap != NULL) {
    sample(&counters->heap_bytes, memory_heap_bytes(&request->memory));
  }
  const bool timed = turn == SAMPLE_EVERY / 2;
  const uint64_t start = timed ? now() : 0;
  request_drop(request);
  if (timed) sample_since(server, &counters->drop_nanoseconds, start);
}

// Frees the one block that is large and of no more use, long before the rest goes.
static void request_free_body(struct request* request) {
  memory_free(&request->memory, request->body);
  request->body = NULL;
  request->length = request->capacity = 0;
}

static void request_refuse(struct request* request, enum outcome outcome) {
  request->outcome = outcome;
  request_free_body(request);
}

static bool request_resize(struct request* request, size_t capacity) {
  char* body = memory_resize(&request->memory, request->body, capacity);
  if (body == NULL) return false;
  request->body = body;
  request->capacity = capacity;
  return true;
}

// Makes room for `length` bytes and a final 0, at least doubling what there is.
static bool request_reserve(struct request* request, size_t length) {
  if (length < request->capacity) return true;
  const size_t doubled = request->capacity != 0 ? 2 * request->capacity : BODY_FIRST;
  return request_resize(request, doubled > length ? doubled : length + 1);
}

// Takes a piece of the body. False if the connection should be cut.
static bool request_append(struct request* request, const char* data, size_t size, size_t max_body) {
  if (request->outcome != OUTCOME_OK) {
    request->length += size;
    return request->length <= REFUSED_READ;
  }
  if (size > max_body - request->length) {
    request_refuse(request, OUTCOME_TOO_LARGE);
  } else if (!request_reserve(request, request->length + size)) {
    request_refuse(request, OUTCOME_OUT_OF_MEMORY);
  } else {
    memcpy(request->body + request->length, data, size);
    request->length += size;
  }
  return true;
}

// Parses the body and prints the summary; the outcome says how far it got.
static void request_compute(struct request* request) {
  if (request->length == 0) {
    request->outcome = OUTCOME_BAD_REQUEST;
    return;
  }
  request->body[request->length] = 0;
  request->document = summary_parse(request->body, request->length);
  request_free_body(request);  // the document has copies of all that it needs
  if (request->document != NULL) {
    request->summary = summary_build(request->document);
    if (!request->memory.exhausted) request->answer = summary_print(request->summary);
  }
  if (request->memory.exhausted) {
    request->outcome = OUTCOME_OUT_OF_MEMORY;
  } else if (request->answer == NULL) {
    request->outcome = OUTCOME_BAD_REQUEST;
  }
}

// ---- libmicrohttpd's side --------------------------------------------------------------------------------

static enum MHD_Result queue_refusal(const struct server* server, struct MHD_Connection* connection,
                                     enum outcome outcome) {
  return MHD_queue_response(connection, outcomes[outcome].status, server->refusals[outcome]);
}

static enum MHD_Result queue_answer(const struct server* server, struct MHD_Connection* connection,
                                    struct request* request) {
  if (request->outcome != OUTCOME_OK) return queue_refusal(server, connection, request->outcome);
  struct MHD_Response* response =
      MHD_create_response_from_buffer(strlen(request->answer), request->answer, MHD_RESPMEM_PERSISTENT);
  if (response == NULL || MHD_add_response_header(response, "Content-Type", "application/json") != MHD_YES) {
    if (response != NULL) MHD_destroy_response(response);
    request->outcome = OUTCOME_OUT_OF_MEMORY;
    return queue_refusal(server, connection, request->outcome);
  }
  const enum MHD_Result result = MHD_queue_response(connection, MHD_HTTP_OK, response);
  MHD_destroy_response(response);  // the connection holds it now
  return result;
}

static const char* header_of(struct MHD_Connection* connection, const char* name) {
  return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

// The headers have arrived: refuses what they rule out, or makes room for the body.
static enum MHD_Result on_headers(struct server* server, struct MHD_Connection* connection, struct request* request,
                                  const char* url, const char* method) {
  const char* const length = header_of(connection, "Content-Length");  // libmicrohttpd has checked that it is a number
  const unsigned long long expected = length != NULL ? strtoull(length, NULL, 10) : 0;
  if (strcmp(url, SERVER_PATH) != 0) {
    request->outcome = OUTCOME_NOT_FOUND;
  } else if (strcmp(method, MHD_HTTP_METHOD_POST) != 0) {
    request->outcome = OUTCOME_BAD_METHOD;
  } else if (expected > server->max_body) {
    request->outcome = OUTCOME_TOO_LARGE;
  } else if (expected != 0 && !request_resize(request, (expected < BODY_PRESIZED ? expected : BODY_PRESIZED) + 1)) {
    request_refuse(request, OUTCOME_OUT_OF_MEMORY);
  }
  if (request->outcome != OUTCOME_OK && header_of(connection, "Expect") != NULL) {
    return queue_refusal(server, connection, request->outcome);  // the client waits before it sends the body
  }
  return MHD_YES;
}

static enum MHD_Result on_request(void* context, struct MHD_Connection* connection, const char* url, const char* method,
                                  const char* version, const char* data, size_t* size, void** request_context) {
  (void)version;
  struct server* server = context;
  struct request* request = *request_context;
  enum MHD_Result result = MHD_YES;
  if (request == NULL) {
    struct server_counters* counters = counters_of(server);
    request = counters != NULL ? request_open(server, counters) : NULL;
    if (request == NULL) {
      if (counters != NULL) counters->ended[OUTCOME_OUT_OF_MEMORY]++;
      return queue_refusal(server, connection, OUTCOME_OUT_OF_MEMORY);
    }
    *request_context = request;
    return on_headers(server, connection, request, url, method);
  }
  memory_enter(&request->memory);
  if (*size != 0) {
    result = request_append(request, data, *size, server->max_body) ? MHD_YES : MHD_NO;
    *size = 0;
  } else {
    if (request->outcome == OUTCOME_OK) request_compute(request);
    result = queue_answer(server, connection, request);
  }
  memory_leave();
  return result;
}

static void on_completed(void* context, struct MHD_Connection* connection, void** request_context,
                         enum MHD_RequestTerminationCode code) {
  (void)connection;
  if (*request_context == NULL) return;
  request_close(context, *request_context, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
  *request_context = NULL;
}

static void on_connection(void* context, struct MHD_Connection* connection, void** connection_context,
                          enum MHD_ConnectionNotificationCode code) {
  (void)connection, (void)connection_context;
  struct server* server = context;
  pthread_mutex_lock(&server->lock);
  if (code == MHD_CONNECTION_NOTIFY_STARTED) {
    server->connections++;
  } else {
    server->connections--;
    pthread_cond_signal(&server->closed);
  }
  pthread_mutex_unlock(&server->lock);
}

// ---- start and stop --------------------------------------------------------------------------------------

static bool make_refusals(struct server* server) {
  for (int i = 0; i < OUTCOME_COUNT; i++) {
    if (outcomes[i].body == NULL) continue;
    struct MHD_Response* response =
        MHD_create_response_from_buffer(strlen(outcomes[i].body), (void*)outcomes[i].body, MHD_RESPMEM_PERSISTENT);
    if (response == NULL) return false;
    server->refusals[i] = response;
    if (MHD_add_response_header(response, "Content-Type", "application/json") != MHD_YES) return false;
  }
  return MHD_add_response_header(server->refusals[OUTCOME_BAD_METHOD], "Allow", "POST") == MHD_YES;
}

struct server* server_start(const struct server_options* options) {
  struct server* server = calloc(1, sizeof *server);
  if (server == NULL) return NULL;
  pthread_mutex_init(&server->lock, NULL);
  pthread_cond_init(&server->closed, NULL);
  server->max_body = options->max_body;
  server->clock_nanoseconds = clock_cost();
  const struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(options->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  errno = 0;
  if (make_refusals(server)) {
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_SOCK_ADDR, 0, (void*)&address},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, server},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, server},
        {MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, NULL},
        {options->threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, (intptr_t)options->threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    // Not epoll: libmicrohttpd 0.9.75 then overlooks the end of a stream that arrives together with the last data, and
    // a dropped request would keep its memory until the idle time is over.
    server->daemon = MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, server, MHD_OPTION_ARRAY,
                                      items, MHD_OPTION_END);
  }
  if (server->daemon == NULL) {
    const int error = errno != 0 ? errno : ENOMEM;
    server_free(server);
    errno = error;
    return NULL;
  }
  return server;
}

uint16_t server_port(const struct server* server) {
  return MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
}

void server_wait_for_clients(struct server* server) {
  pthread_mutex_lock(&server->lock);
  while (server->connections != 0) pthread_cond_wait(&server->closed, &server->lock);
  pthread_mutex_unlock(&server->lock);
}

void server_stop(struct server* server) {
  MHD_stop_daemon(server->daemon);
  server->daemon = NULL;
}

const struct server_counters* server_counters(const struct server* server) { return server->counters; }

void server_free(struct server* server) {
  for (int i = 0; i < OUTCOME_COUNT; i++) {
    if (server->refusals[i] != NULL) MHD_destroy_response(server->refusals[i]);
  }
  for (struct server_counters* counters = server->counters; counters != NULL;) {
    struct server_counters* next = counters->next;
    free(counters);
    counters = next;
  }
  pthread_cond_destroy(&server->closed);
  pthread_mutex_destroy(&server->lock);
  free(server);
}
