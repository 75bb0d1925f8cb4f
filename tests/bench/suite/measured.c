// Runs a program and writes what it cost to a file: user and system time in microseconds, the largest resident set in
// KiB, minor page faults, wall time in microseconds. A process of its own, because the kernel counts the memory of who
// called exec as the program's: a driver in Python is larger than most of what it measures. Variables are set for the
// program alone, so that what it has preloaded is not measured here.
//
// Usage: measured FILE [NAME=VALUE]... -- PROGRAM [ARGUMENT]...
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long microseconds(struct timeval time) { return (long long)time.tv_sec * 1000000 + time.tv_usec; }

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (long long)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static void run_program(char** words) {
  while (strcmp(*words, "--") != 0) putenv(*words++);
  execv(words[1], words + 1);
  perror(words[1]);
  _exit(127);
}

static int write_cost(const char* name, const struct rusage* usage, long long wall) {
  FILE* const file = fopen(name, "w");
  if (file == NULL) return -1;
  fprintf(file, "%lld %lld %ld %ld %lld\n", microseconds(usage->ru_utime), microseconds(usage->ru_stime),
          usage->ru_maxrss, usage->ru_minflt, wall);
  return fclose(file);
}

int main(int argc, char** argv) {
  int separator = 2;
  while (separator < argc && strcmp(argv[separator], "--") != 0) separator++;
  if (separator + 1 >= argc) {
    fprintf(stderr, "usage: measured FILE [NAME=VALUE]... -- PROGRAM [ARGUMENT]...\n");
    return 126;
  }
  const long long start = now();
  const pid_t child = fork();
  if (child == 0) run_program(argv + 2);
  int status;
  struct rusage usage;
  if (child < 0 || wait4(child, &status, 0, &usage) != child || write_cost(argv[1], &usage, now() - start) != 0) {
    perror("measured");
    return 126;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
