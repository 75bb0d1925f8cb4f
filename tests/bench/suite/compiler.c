// A compiler over a large program: much that lives to the end and much that lives for a function. The sizes and
// lifetimes follow what Zorn and Grunwald ("Empirical measurements of six allocation-intensive C programs", 1992) and
// later traces of gcc show: trees and types that stay, tables that double, and passes that allocate in great numbers
// and free all. At the end some hundred MiB in many thousand full pages are live, through which no allocation may have
// to search.
#include "tests/bench/suite/suite.h"

typedef struct node {
  size_t size;
  struct node* next;
  struct node* operands[2];
} node_t;

typedef struct {
  void** items;
  size_t count;
  size_t room;
} table_t;

static const unsigned short node_sizes[] = {32, 40, 40, 48, 56, 56, 64, 72, 80, 96, 112, 144, 176, 240, 304, 512};

static node_t* new_node(uint64_t* seed, node_t* next) {
  const size_t size = node_sizes[suite_below(seed, sizeof(node_sizes) / sizeof(node_sizes[0]))];
  node_t* const node = calloc(1, size);
  if (node == NULL) suite_fail("no memory");
  node->size = size;
  node->next = next;
  node->operands[0] = next;
  node->operands[1] = next != NULL ? next->next : NULL;
  return node;
}

static void append(table_t* table, void* item) {
  if (table->count == table->room) {
    table->room = table->room == 0 ? 64 : table->room * 2;
    table->items = realloc(table->items, table->room * sizeof(void*));
    if (table->items == NULL) suite_fail("no memory");
  }
  table->items[table->count++] = item;
}

static uint64_t free_nodes(node_t* node) {
  uint64_t sum = 0;
  while (node != NULL) {
    node_t* const next = node->next;
    sum += node->size + (node->operands[1] != NULL);
    free(node);
    node = next;
  }
  return sum;
}

// Reads trees that stay, makes a few that stay, and works on many that do not.
static uint64_t compile_function(uint64_t* seed, table_t* trees, table_t* names) {
  node_t* tree = NULL;
  const size_t length = suite_between(seed, 50, 1000);
  for (size_t i = 0; i < length; i++) tree = new_node(seed, tree);
  append(trees, tree);
  for (size_t i = 0; i < length / 8; i++) append(names, suite_malloc(suite_between(seed, 8, 40)));
  uint64_t sum = 0;
  for (int pass = 0; pass < 6; pass++) {
    node_t* lowered = NULL;
    for (const node_t* node = tree; node != NULL; node = node->next) lowered = new_node(seed, lowered);
    void* const bits = calloc(1, length * 16);
    if (bits == NULL) suite_fail("no memory");
    free(bits);
    sum += free_nodes(lowered);
  }
  return sum;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  const long functions = suite_scaled(&args, 4000);
  uint64_t seed = 1300;
  uint64_t sum = 0;
  table_t trees = {NULL, 0, 0};
  table_t names = {NULL, 0, 0};
  for (long i = 0; i < functions; i++) sum += compile_function(&seed, &trees, &names);
  for (size_t i = 0; i < trees.count; i++) sum += free_nodes(trees.items[i]);
  for (size_t i = 0; i < names.count; i++) sum += suite_free(names.items[i]);
  free(trees.items);
  free(names.items);
  return suite_finish(sum);
}
