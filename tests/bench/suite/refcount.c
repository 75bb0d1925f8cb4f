// A functional program with reference counts: after Ullrich and de Moura, "Counting immutable beans: reference counting
// optimized for purely functional programming" (IFL 2019), and Leijen, Zorn and de Moura (2019), who defer decrements
// so that the end of a large structure is no pause. Each of THREADS keeps persistent search trees (treaps): an
// insertion copies the path from the root and shares the rest; the versions before are dropped, and what a drop leads
// to is put on a list of which a bounded number is decremented with every insertion.
#include "tests/bench/suite/suite.h"

enum { kVersions = 8, kStep = 40 };

typedef struct object {
  size_t count;
  struct object* left;
  struct object* right;
  uint64_t key;
  uint64_t* value;  // a boxed number, shared by the copies
} object_t;

typedef struct {
  uint64_t seed;
  long insertions;
  uint64_t sum;
  object_t* deferred;  // linked by left; count is 0
} worker_t;

static uint64_t priority(uint64_t key) { return (key ^ (key >> 31)) * UINT64_C(0xd6e8feb86659fd93); }

static object_t* keep(object_t* object) {
  if (object != NULL) object->count++;
  return object;
}

// Boxes have their count in the second word.
static uint64_t* new_box(uint64_t value) {
  uint64_t* const box = malloc(2 * sizeof(uint64_t));
  if (box == NULL) suite_fail("no memory");
  box[0] = value;
  box[1] = 1;
  return box;
}

static object_t* new_object(object_t* left, object_t* right, uint64_t key, uint64_t* value) {
  object_t* const object = malloc(sizeof(*object));
  if (object == NULL) suite_fail("no memory");
  *object = (object_t){1, left, right, key, value};
  return object;
}

// A dead object waits on the list by its left link; where its left child was then stands in place of its key.
static void drop(worker_t* worker, object_t* object) {
  if (object == NULL || --object->count > 0) return;
  object->key = (uint64_t)(uintptr_t)object->left;
  object->left = worker->deferred;
  worker->deferred = object;
}

static void decrement_some(worker_t* worker, long most) {
  while (worker->deferred != NULL && most-- > 0) {
    object_t* const object = worker->deferred;
    worker->deferred = object->left;
    object_t* const left = (object_t*)(uintptr_t)object->key;
    object_t* const right = object->right;
    if (--object->value[1] == 0) {
      worker->sum += object->value[0];
      free(object->value);
    }
    free(object);
    drop(worker, left);
    drop(worker, right);
  }
}

// A tree with `key`, of which the caller has one reference; `tree` stays as it is.
static object_t* insert(worker_t* worker, object_t* tree, uint64_t key, uint64_t value) {
  if (tree == NULL) return new_object(NULL, NULL, key, new_box(value));
  if (key == tree->key) return new_object(keep(tree->left), keep(tree->right), key, new_box(value));
  tree->value[1]++;
  object_t* const copy = new_object(NULL, NULL, tree->key, tree->value);
  if (key < tree->key) {
    object_t* const child = insert(worker, tree->left, key, value);  // ours alone: it may be changed
    copy->left = child;
    copy->right = keep(tree->right);
    if (priority(child->key) <= priority(copy->key)) return copy;
    copy->left = child->right;
    child->right = copy;
    return child;
  }
  object_t* const child = insert(worker, tree->right, key, value);
  copy->right = child;
  copy->left = keep(tree->left);
  if (priority(child->key) <= priority(copy->key)) return copy;
  copy->right = child->left;
  child->left = copy;
  return child;
}

static void* work(void* argument) {
  worker_t* const worker = argument;
  object_t* versions[kVersions] = {NULL};
  for (long i = 0; i < worker->insertions; i++) {
    object_t** const oldest = &versions[(i + 1) % kVersions];
    object_t* const tree = insert(worker, versions[i % kVersions], suite_below(&worker->seed, 40000), (uint64_t)i);
    drop(worker, *oldest);
    *oldest = tree;
    decrement_some(worker, kStep);
  }
  for (int i = 0; i < kVersions; i++) drop(worker, versions[i]);
  decrement_some(worker, INT64_MAX);
  return NULL;
}

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  worker_t* const workers = calloc((size_t)args.threads, sizeof(worker_t));
  if (workers == NULL) suite_fail("no memory");
  for (int i = 0; i < args.threads; i++) {
    workers[i].seed = 1400 + (uint64_t)i;
    workers[i].insertions = suite_scaled(&args, 500000 / args.threads);
  }
  suite_threads(args.threads, work, workers, sizeof(workers[0]));
  uint64_t sum = 0;
  for (int i = 0; i < args.threads; i++) sum += workers[i].sum;
  free(workers);
  return suite_finish(sum);
}
