// The HTTP server: POST a JSON document to SERVER_PATH and get its summary. One heap per request, made when the
// request's headers have arrived and dropped when its answer has been sent or its connection has gone.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SERVER_PATH "/summary"

/// How a request ended: an HTTP status that was sent, or a connection that went away first.
enum outcome {
  OUTCOME_OK,             // 200
  OUTCOME_BAD_REQUEST,    // 400: no body, not JSON
  OUTCOME_NOT_FOUND,      // 404
  OUTCOME_BAD_METHOD,     // 405
  OUTCOME_TOO_LARGE,      // 413
  OUTCOME_OUT_OF_MEMORY,  // 503
  OUTCOME_DROPPED,        // no status
  OUTCOME_COUNT,
};

/// The status code of an outcome; 0 for OUTCOME_DROPPED.
unsigned outcome_status(enum outcome outcome);

struct server_options {
  uint16_t port;     // on the loopback interface; 0: any free one
  unsigned threads;  // 1 and up
  size_t max_body;   // bytes
};

/// The most recent measurements of one kind that one thread took.
enum { SAMPLE_CAPACITY = 8192 };
struct samples {
  uint64_t taken;
  uint32_t values[SAMPLE_CAPACITY];
};

/// What one thread of the pool counted; written by that thread alone.
struct server_counters {
  struct server_counters* next;
  uint64_t requests;                // requests whose headers arrived
  uint64_t ended[OUTCOME_COUNT];    // requests that ended, by outcome
  uint64_t closed;                  // requests whose memory was dropped
  uint64_t allocations;             // blocks that these requests asked for
  struct samples open_nanoseconds;  // making the heap
  struct samples drop_nanoseconds;  // ending it; in malloc mode, freeing every block
  struct samples heap_bytes;        // what the heap holds just before its end; heap mode only
};

struct server;

/// Starts the server; memory_setup comes first. NULL with errno set, EADDRINUSE for one, if it cannot.
struct server* server_start(const struct server_options* options);
uint16_t server_port(const struct server* server);
/// Waits until every connection that was accepted is closed, so that no request is cut short by server_stop.
void server_wait_for_clients(struct server* server);
/// Stops listening, ends the connections that are left and joins the threads.
void server_stop(struct server* server);
/// The threads' counters as a list. After server_stop.
const struct server_counters* server_counters(const struct server* server);
/// After server_stop.
void server_free(struct server* server);
