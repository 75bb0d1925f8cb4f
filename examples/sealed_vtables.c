// Function tables and configuration that nobody can overwrite: they lie in an isolated heap that is sealed read-only
// once they are made. A write to one faults, wherever it comes from; who may change them opens the heap for the moment.
//
//   sealed_vtables          uses the tables, changes one the right way, and shows what an attacker's write comes to
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mi/mimalloc.h"

typedef struct shape_s shape_t;
typedef struct shape_table_s {
  double (*area)(const shape_t* shape);
  const char* name;
} shape_table_t;
struct shape_s {
  const shape_table_t* table;  // objects come and go in ordinary heaps; what they call does not
  double a, b;
};

static double circle_area(const shape_t* shape) { return 3.0 * shape->a * shape->a; }
static double better_circle_area(const shape_t* shape) { return 3.1416 * shape->a * shape->a; }
static double box_area(const shape_t* shape) { return shape->a * shape->b; }
static double evil(const shape_t* shape) {
  (void)shape;
  printf("the attacker's function runs\n");
  return 0;
}

static void die(const char* what) {
  perror(what);
  exit(1);
}

static shape_table_t* make_table(mi_heap_t* heap, const char* name, double (*area)(const shape_t*)) {
  shape_table_t* table = mi_heap_malloc(heap, sizeof *table);
  if (table == NULL) die("mi_heap_malloc");
  table->area = area;
  table->name = mi_heap_strdup(heap, name);
  return table;
}

static void use(const shape_t* shape) { printf("%s: %.2f\n", shape->table->name, shape->table->area(shape)); }

// What a bug that writes where it wants would do; in a child, since the program does not survive it.
static void attack(shape_table_t* table, const shape_t* victim) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    table->area = evil;
    use(victim);
    fflush(stdout);
    _exit(0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) die("fork");
  if (WIFSIGNALED(status)) {
    printf("a write to the table: %s\n", strsignal(WTERMSIG(status)));
  } else {
    printf("a write to the table: nothing stops it\n");
  }
}

int main(void) {
  const mi_heap_config_t config = {
      .size = sizeof config,
      .name = "tables",
      .flags = MI_HEAP_ISOLATED,
      .required = MI_PROTECTED_SEGMENTS | MI_PROTECTED_GUARDS | MI_PROTECTED_SEALING,
  };
  mi_heap_t* tables = mi_heap_new_with(&config);
  if (tables == NULL) die("mi_heap_new_with");
  shape_table_t* circle = make_table(tables, "circle", circle_area);
  shape_table_t* box = make_table(tables, "box", box_area);
  const shape_t shapes[] = {{circle, 1, 0}, {box, 2, 3}};
  attack(circle, &shapes[0]);

  // Made: from here on they are read only.
  if (!mi_heap_protect(tables, MI_PROTECT_READ)) die("mi_heap_protect");
  use(&shapes[0]);
  use(&shapes[1]);
  attack(circle, &shapes[0]);

  // Who has the right to change one opens the heap, and seals it again.
  if (!mi_heap_protect(tables, MI_PROTECT_READ_WRITE)) die("mi_heap_protect");
  circle->area = better_circle_area;
  if (!mi_heap_protect(tables, MI_PROTECT_READ)) die("mi_heap_protect");
  use(&shapes[0]);
  attack(box, &shapes[1]);
  mi_heap_destroy(tables);
  return 0;
}
