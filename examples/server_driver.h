// The client side of the default run: sends a bounded number of requests over real connections and checks every
// answer. Runs in a process of its own, so that the server's memory and processor time are the server's alone.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct driver_options {
  const char* documents;  // directory of *.json
  uint64_t requests;
  unsigned connections;  // kept alive at once, one client thread each
  size_t max_body;       // the server's limits
  size_t max_memory;
};

enum { LATENCIES = 1000000 };  // latencies kept at most; of more requests, every n-th

/// What the clients saw. In memory that both processes share; read it after driver_wait.
struct driver_results {
  uint64_t answered;            // 200, and the right answer
  uint64_t refused;             // the expected 4xx or 503
  uint64_t dropped_unanswered;  // connections cut by the client within the body
  uint64_t dropped_anyhow;      // connections cut after the body: the server may have answered
  uint64_t unexpected;          // everything else
  double seconds;
  uint32_t latencies[LATENCIES];  // of answered requests, in nanoseconds; 0: not taken
};

struct driver;

/// Starts the process; the clients wait for driver_go. Before any thread. NULL with errno set if it cannot.
struct driver* driver_start(const struct driver_options* options);
/// Lets the clients loose on the port.
void driver_go(struct driver* driver, uint16_t port);
/// Waits for the end of the process. False if it did not come to its regular end; it has said why.
bool driver_wait(struct driver* driver);
const struct driver_results* driver_results(const struct driver* driver);
void driver_free(struct driver* driver);
