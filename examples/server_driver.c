// The client side, see server_driver.h. One request in ten is bad in one of the ways of `enum kind`; which request is
// of which kind and which document it carries depends on its number alone. Right answers are known beforehand: the
// driver computes them itself, with glibc's allocator, and compares byte by byte. Plain sockets instead of a client
// library, because most of what is sent here is what such a library is there to prevent.

#define _GNU_SOURCE
#include "examples/server_driver.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "examples/server_http.h"
#include "examples/server_summary.h"

enum {
  BAD_EVERY = 10,          // requests
  CHUNKED_EVERY = 8,       // good requests
  TIMEOUT_SECONDS = 60,    // for one send or receive
  HEADER_CAPACITY = 4096,  // bytes of a request's or a response's headers
  CHUNK = 10000,           // bytes
  LARGE_LIMIT = 64 << 20,  // too large a body is sent only up to this size
};

enum kind {
  KIND_TRUNCATED,          // half a document
  KIND_INVALID,            // wrong in its last character
  KIND_EMPTY,              // Content-Length: 0
  KIND_MISSING,            // neither Content-Length nor a body
  KIND_TOO_LARGE,          // a byte more than allowed
  KIND_TOO_LARGE_CHUNKED,  // the same without a Content-Length
  KIND_TOO_LARGE_ASKED,    // the same, asking first
  KIND_WRONG_PATH,
  KIND_WRONG_METHOD,
  KIND_OUT_OF_MEMORY,        // small enough, but more values than the request's memory holds
  KIND_CLOSED_IN_BODY,       // half a body, then the end of the stream
  KIND_RESET_IN_BODY,        // half a body, then a reset
  KIND_RESET_BEFORE_ANSWER,  // the whole body, then a reset
  KIND_COUNT,
  KIND_GOOD = KIND_COUNT,
  KIND_GOOD_CHUNKED,
};

struct document {
  char* text;
  size_t length;
  char* invalid;  // the same length
  char* answer;
  size_t answer_length;
};

struct driver {
  struct driver_options options;
  struct driver_results* results;
  pid_t process;
  int port_pipe[2];
};

// The clients' common state; within the driver's process only.
struct clients {
  const struct driver_options* options;
  struct driver_results* results;
  uint16_t port;
  struct document* documents;
  size_t document_count;
  char* zeros;  // a JSON array of zeros, as large as bodies may be
  size_t zeros_length;
  atomic_uint_fast64_t next;
  atomic_uint_fast64_t answered, refused, dropped_unanswered, dropped_anyhow, unexpected;
};

struct connection {
  const struct clients* clients;
  int socket;  // -1: none
  char* body;  // of the last response
  size_t body_length, body_capacity;
  char header[HEADER_CAPACITY + 1];
};

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void* need(void* memory) {
  if (memory == NULL) {
    fprintf(stderr, "request_server: the clients are out of memory\n");
    _exit(EXIT_FAILURE);
  }
  return memory;
}

// ---- documents -------------------------------------------------------------------------------------------

static bool load_file(const char* path, struct document* document) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return false;
  size_t capacity = 0, got;
  do {
    capacity += 65536;
    document->text = need(realloc(document->text, capacity + 1));
    got = fread(document->text + document->length, 1, capacity - document->length, file);
    document->length += got;
  } while (got != 0);
  const bool read_all = !ferror(file);
  fclose(file);
  document->text[document->length] = 0;
  return read_all;
}

// Computes the right answer. False if the document is not a JSON array or object.
static bool prepare(struct document* document) {
  cJSON* parsed = summary_parse(document->text, document->length);
  if (!cJSON_IsArray(parsed) && !cJSON_IsObject(parsed)) return false;  // half of "12" would be valid
  cJSON* summary = summary_build(parsed);
  document->answer = need(summary_print(summary));
  document->answer_length = strlen(document->answer);
  cJSON_Delete(summary);
  cJSON_Delete(parsed);
  document->invalid = need(strdup(document->text));
  size_t last = document->length - 1;
  while (isspace((unsigned char)document->invalid[last])) last--;
  document->invalid[last] = '?';
  return true;
}

static bool load_documents(struct clients* clients, const char* directory) {
  char pattern[4096];
  glob_t found;
  snprintf(pattern, sizeof pattern, "%s/*.json", directory);
  if (glob(pattern, 0, NULL, &found) != 0) {
    fprintf(stderr, "request_server: no *.json in '%s'; name the directory with --documents\n", directory);
    return false;
  }
  clients->documents = need(calloc(found.gl_pathc, sizeof *clients->documents));
  for (size_t i = 0; i < found.gl_pathc; i++) {
    struct document* document = &clients->documents[clients->document_count];
    if (!load_file(found.gl_pathv[i], document) || !prepare(document)) {
      fprintf(stderr, "request_server: '%s' cannot be read or is not a JSON array or object\n", found.gl_pathv[i]);
      return false;
    }
    if (document->length > clients->options->max_body) continue;  // the server would rightly refuse it
    clients->document_count++;
  }
  globfree(&found);
  if (clients->document_count == 0) {
    fprintf(stderr, "request_server: --max-body admits none of the documents in '%s'\n", directory);
    return false;
  }
  return true;
}

// An array of zeros: takes about 32 times its length in memory when parsed. Serves as too large a body, too.
static void make_zeros(struct clients* clients) {
  const size_t max_body = clients->options->max_body;
  if (max_body >= LARGE_LIMIT) return;
  clients->zeros = need(malloc(max_body + 2));
  for (size_t i = 1; i <= max_body; i++) clients->zeros[i] = i % 2 != 0 ? '0' : ',';
  clients->zeros[0] = '[';
  clients->zeros_length = max_body % 2 != 0 ? max_body : max_body - 1;
  clients->zeros[clients->zeros_length - 1] = ']';
}

// ---- connections -----------------------------------------------------------------------------------------

static void connection_close(struct connection* connection, bool reset) {
  if (connection->socket < 0) return;
  const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  if (reset) setsockopt(connection->socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(connection->socket);
  connection->socket = -1;
}

static bool connection_open(struct connection* connection) {
  if (connection->socket >= 0) return true;
  const struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(connection->clients->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const struct timeval timeout = {.tv_sec = TIMEOUT_SECONDS};
  const int on = 1;
  connection->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connection->socket < 0) return false;
  setsockopt(connection->socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(connection->socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(connection->socket, (const struct sockaddr*)&address, sizeof address) == 0) return true;
  connection_close(connection, false);
  return false;
}

static bool send_all(struct connection* connection, const char* data, size_t length, int flags) {
  while (length != 0) {
    const ssize_t sent = send(connection->socket, data, length, flags | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    data += sent;
    length -= (size_t)sent;
  }
  return true;
}

static bool send_headers(struct connection* connection, const char* method, const char* path, const char* more,
                         int flags) {
  const int length = snprintf(connection->header, HEADER_CAPACITY, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s\r\n",
                              method, path, connection->clients->port, more);
  return send_all(connection, connection->header, (size_t)length, flags);
}

static bool send_with_length(struct connection* connection, const char* path, const char* body, size_t length) {
  char more[80];
  snprintf(more, sizeof more, "Content-Length: %zu\r\n", length);
  return send_headers(connection, "POST", path, more, length != 0 ? MSG_MORE : 0) &&
         send_all(connection, body, length, 0);
}

static bool send_chunked(struct connection* connection, const char* path, const char* body, size_t length) {
  bool sent = send_headers(connection, "POST", path, "Transfer-Encoding: chunked\r\n", MSG_MORE);
  while (sent && length != 0) {
    const size_t chunk = length < CHUNK ? length : CHUNK;
    char size[20];
    const int digits = snprintf(size, sizeof size, "%zx\r\n", chunk);
    sent = send_all(connection, size, (size_t)digits, MSG_MORE) && send_all(connection, body, chunk, MSG_MORE) &&
           send_all(connection, "\r\n", 2, MSG_MORE);
    body += chunk;
    length -= chunk;
  }
  return sent && send_all(connection, "0\r\n\r\n", 5, 0);
}

// Reads until the header's end is in connection->header; returns the bytes read, of which `*header_length` are
// header, or 0.
static size_t receive_header(struct connection* connection, size_t* header_length) {
  size_t length = 0;
  while (length < HEADER_CAPACITY) {
    const ssize_t got = recv(connection->socket, connection->header + length, HEADER_CAPACITY - length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0;
    length += (size_t)got;
    connection->header[length] = 0;
    const char* end = strstr(connection->header, "\r\n\r\n");
    if (end != NULL) {
      *header_length = (size_t)(end - connection->header) + 4;
      return length;
    }
  }
  return 0;
}

// Reads one response. Returns its status, or 0 if none came; closes the connection if it is of no more use.
static unsigned receive(struct connection* connection) {
  size_t header_length = 0, length;
  unsigned status = 0;
  connection->body_length = 0;
  const size_t received = receive_header(connection, &header_length);
  if (received == 0 || sscanf(connection->header, "HTTP/1.1 %3u", &status) != 1) {
    connection_close(connection, false);
    return 0;
  }
  if (status == 100) return status;
  const size_t have = received - header_length;
  const char* field = strcasestr(connection->header, "\r\nContent-Length:");
  if (field == NULL || sscanf(field + 17, "%zu", &length) != 1 || length < have) {
    connection_close(connection, false);
    return 0;
  }
  if (length >= connection->body_capacity) {
    connection->body_capacity = length + 1;
    connection->body = need(realloc(connection->body, connection->body_capacity));
  }
  memcpy(connection->body, connection->header + header_length, have);
  connection->header[header_length] = 0;
  const bool last = strcasestr(connection->header, "\r\nConnection: close") != NULL;
  for (connection->body_length = have; connection->body_length < length;) {
    const ssize_t got =
        recv(connection->socket, connection->body + connection->body_length, length - connection->body_length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      connection_close(connection, false);
      return 0;
    }
    connection->body_length += (size_t)got;
  }
  if (last) connection_close(connection, false);
  return status;
}

// Announces a body of `length` bytes and asks before sending it; returns the server's word, 100 for yes.
static unsigned ask(struct connection* connection, size_t length) {
  char more[80];
  snprintf(more, sizeof more, "Content-Length: %zu\r\nExpect: 100-continue\r\n", length);
  return send_headers(connection, "POST", SERVER_PATH, more, 0) ? receive(connection) : 0;
}

// ---- requests --------------------------------------------------------------------------------------------

static enum kind kind_of(const struct clients* clients, uint64_t number) {
  if (number % BAD_EVERY != BAD_EVERY - 1) return number % CHUNKED_EVERY == 0 ? KIND_GOOD_CHUNKED : KIND_GOOD;
  const enum kind kind = (enum kind)(number / BAD_EVERY % KIND_COUNT);
  const bool needs_zeros = kind == KIND_TOO_LARGE || kind == KIND_TOO_LARGE_CHUNKED || kind == KIND_OUT_OF_MEMORY;
  if (needs_zeros && clients->zeros == NULL) return KIND_TRUNCATED;
  const bool too_small = clients->zeros_length / 2 * sizeof(cJSON) <= clients->options->max_memory;
  if (kind == KIND_OUT_OF_MEMORY && too_small) return KIND_TRUNCATED;
  return kind;
}

static enum outcome expected_outcome(enum kind kind) {
  switch (kind) {
    case KIND_TRUNCATED:
    case KIND_INVALID:
    case KIND_EMPTY:
    case KIND_MISSING:
      return OUTCOME_BAD_REQUEST;
    case KIND_TOO_LARGE:
    case KIND_TOO_LARGE_CHUNKED:
    case KIND_TOO_LARGE_ASKED:
      return OUTCOME_TOO_LARGE;
    case KIND_WRONG_PATH:
      return OUTCOME_NOT_FOUND;
    case KIND_WRONG_METHOD:
      return OUTCOME_BAD_METHOD;
    case KIND_OUT_OF_MEMORY:
      return OUTCOME_OUT_OF_MEMORY;
    case KIND_CLOSED_IN_BODY:
    case KIND_RESET_IN_BODY:
    case KIND_RESET_BEFORE_ANSWER:
      return OUTCOME_DROPPED;
    case KIND_GOOD:
    case KIND_GOOD_CHUNKED:
      break;
  }
  return OUTCOME_OK;
}

// Sends a request of the kind and returns the status of the answer, 0 if none came.
static unsigned exchange(struct connection* connection, enum kind kind, const struct document* document) {
  const struct clients* clients = connection->clients;
  const size_t too_large = clients->options->max_body + 1;
  bool sent = false;
  switch (kind) {
    case KIND_GOOD:
      sent = send_with_length(connection, SERVER_PATH, document->text, document->length);
      break;
    case KIND_GOOD_CHUNKED:
      sent = send_chunked(connection, SERVER_PATH, document->text, document->length);
      break;
    case KIND_TRUNCATED:
      sent = send_with_length(connection, SERVER_PATH, document->text, document->length / 2);
      break;
    case KIND_INVALID:
      sent = send_with_length(connection, SERVER_PATH, document->invalid, document->length);
      break;
    case KIND_EMPTY:
      sent = send_with_length(connection, SERVER_PATH, NULL, 0);
      break;
    case KIND_MISSING:
      sent = send_headers(connection, "POST", SERVER_PATH, "", 0);
      break;
    case KIND_TOO_LARGE:
      sent = send_with_length(connection, SERVER_PATH, clients->zeros, too_large);
      break;
    case KIND_TOO_LARGE_CHUNKED:
      sent = send_chunked(connection, SERVER_PATH, clients->zeros, too_large);
      break;
    case KIND_TOO_LARGE_ASKED:
      return ask(connection, too_large);
    case KIND_WRONG_PATH:
      sent = send_with_length(connection, "/elsewhere", document->text, document->length);
      break;
    case KIND_WRONG_METHOD:
      sent = send_headers(connection, "GET", SERVER_PATH, "", 0);
      break;
    case KIND_OUT_OF_MEMORY:
      sent = send_with_length(connection, SERVER_PATH, clients->zeros, clients->zeros_length);
      break;
    case KIND_CLOSED_IN_BODY:
    case KIND_RESET_IN_BODY:
    case KIND_RESET_BEFORE_ANSWER:
      break;  // see drop
  }
  return sent ? receive(connection) : 0;
}

// Begins a request, makes sure that the server has seen it, and leaves. False if that went differently.
static bool drop(struct connection* connection, enum kind kind, const struct document* document) {
  const size_t length = kind == KIND_RESET_BEFORE_ANSWER ? document->length : document->length / 2;
  bool as_meant = ask(connection, document->length) == 100 && send_all(connection, document->text, length, 0);
  if (as_meant && kind == KIND_CLOSED_IN_BODY) {
    shutdown(connection->socket, SHUT_WR);
    as_meant = recv(connection->socket, connection->header, 1, 0) <= 0;
  }
  connection_close(connection, kind != KIND_CLOSED_IN_BODY);
  return as_meant;
}

static void report_unexpected(struct clients* clients, uint64_t number, enum kind kind, unsigned status) {
  if (atomic_fetch_add(&clients->unexpected, 1) >= 10) return;  // enough to see what is wrong
  fprintf(stderr, "request_server: request %llu of kind %d: status %u instead of %u, or a wrong answer\n",
          (unsigned long long)number, (int)kind, status, outcome_status(expected_outcome(kind)));
}

static void serve_number(struct clients* clients, struct connection* connection, uint64_t number) {
  const enum kind kind = kind_of(clients, number);
  const enum outcome expected = expected_outcome(kind);
  const struct document* document = &clients->documents[(number * 0x9E3779B97F4A7C15u >> 32) % clients->document_count];
  const uint64_t start = now();
  if (!connection_open(connection)) {
    report_unexpected(clients, number, kind, 0);
    return;
  }
  if (expected == OUTCOME_DROPPED) {
    if (!drop(connection, kind, document)) {
      report_unexpected(clients, number, kind, 0);
    } else {
      atomic_fetch_add(kind == KIND_RESET_BEFORE_ANSWER ? &clients->dropped_anyhow : &clients->dropped_unanswered, 1);
    }
    return;
  }
  const unsigned status = exchange(connection, kind, document);
  const uint64_t passed = now() - start;
  if (status != outcome_status(expected)) {
    report_unexpected(clients, number, kind, status);
  } else if (expected != OUTCOME_OK) {
    atomic_fetch_add(&clients->refused, 1);
  } else if (connection->body_length != document->answer_length ||
             memcmp(connection->body, document->answer, document->answer_length) != 0) {
    report_unexpected(clients, number, kind, status);
  } else {
    const uint64_t every = (clients->options->requests + LATENCIES - 1) / LATENCIES;
    atomic_fetch_add(&clients->answered, 1);
    if (number % every == 0) {
      clients->results->latencies[number / every] = passed < UINT32_MAX ? (uint32_t)passed : UINT32_MAX;
    }
  }
}

static void* client_main(void* context) {
  struct clients* clients = context;
  struct connection* connection = need(calloc(1, sizeof *connection));
  connection->clients = clients;
  connection->socket = -1;
  for (;;) {
    const uint64_t number = atomic_fetch_add(&clients->next, 1);
    if (number >= clients->options->requests) break;
    serve_number(clients, connection, number);
  }
  connection_close(connection, false);
  free(connection->body);
  free(connection);
  return NULL;
}

// ---- the process -----------------------------------------------------------------------------------------

static void run_clients(struct clients* clients) {
  const unsigned count = clients->options->connections;
  pthread_t* threads = need(calloc(count, sizeof *threads));
  const uint64_t start = now();
  unsigned started = 0;
  while (started < count && pthread_create(&threads[started], NULL, client_main, clients) == 0) started++;
  if (started < count) {
    fprintf(stderr, "request_server: only %u of %u client threads could be started\n", started, count);
    atomic_fetch_add(&clients->unexpected, 1);
  }
  for (unsigned i = 0; i < started; i++) pthread_join(threads[i], NULL);
  clients->results->seconds = (double)(now() - start) / 1e9;
  clients->results->answered = clients->answered;
  clients->results->refused = clients->refused;
  clients->results->dropped_unanswered = clients->dropped_unanswered;
  clients->results->dropped_anyhow = clients->dropped_anyhow;
  clients->results->unexpected = clients->unexpected;
}

static _Noreturn void driver_main(struct driver* driver) {
  struct clients clients = {.options = &driver->options, .results = driver->results};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  close(driver->port_pipe[1]);
  if (!load_documents(&clients, driver->options.documents)) _exit(EXIT_FAILURE);
  make_zeros(&clients);
  // Without a port the server could not start, and has said so.
  if (read(driver->port_pipe[0], &clients.port, sizeof clients.port) != sizeof clients.port) _exit(EXIT_FAILURE);
  run_clients(&clients);
  _exit(EXIT_SUCCESS);
}

struct driver* driver_start(const struct driver_options* options) {
  struct driver* driver = calloc(1, sizeof *driver);
  if (driver == NULL) return NULL;
  driver->options = *options;
  driver->results = mmap(NULL, sizeof *driver->results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (driver->results == MAP_FAILED || pipe(driver->port_pipe) != 0) goto failed;
  driver->process = fork();
  if (driver->process < 0) goto failed;
  if (driver->process == 0) driver_main(driver);
  close(driver->port_pipe[0]);
  return driver;
failed:
  free(driver);
  return NULL;
}

void driver_go(struct driver* driver, uint16_t port) {
  // If the process has ended already, driver_wait tells.
  const ssize_t written = write(driver->port_pipe[1], &port, sizeof port);
  (void)written;
  close(driver->port_pipe[1]);
}

bool driver_wait(struct driver* driver) {
  int status = 0;
  while (waitpid(driver->process, &status, 0) < 0) {
    if (errno != EINTR) return false;
  }
  if (WIFSIGNALED(status)) fprintf(stderr, "request_server: the clients died of signal %d\n", WTERMSIG(status));
  return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
}

const struct driver_results* driver_results(const struct driver* driver) { return driver->results; }

void driver_free(struct driver* driver) {
  munmap(driver->results, sizeof *driver->results);
  free(driver);
}
