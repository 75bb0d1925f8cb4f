// The allocators that the benchmarks compare, each behind the same four operations, so that every workload is written
// once: Create, Alloc, Free (a single block; only where kFreesBlocks) and Destroy (all blocks at once; only where
// kDropsAll). Holds no workloads. Invariants: an operation does what a user of that allocator would write and nothing
// more; a peer fails loudly when it is not there; nothing here replaces malloc in the process.
#ifndef TESTS_BENCH_PEERS_H
#define TESTS_BENCH_PEERS_H

#include <apr_allocator.h>
#include <apr_general.h>
#include <apr_pools.h>
#include <apr_thread_mutex.h>
#include <dlfcn.h>
#include <obstack.h>
#include <talloc.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "mi/mimalloc.h"

#define obstack_chunk_alloc malloc
#define obstack_chunk_free free

namespace bench {

[[noreturn]] inline void Fail(const char* what) {
  fprintf(stderr, "benchmark failed: %s\n", what);
  exit(1);
}

inline void Require(bool condition, const char* what) {
  if (__builtin_expect(!condition, 0)) Fail(what);
}

/// Makes the compiler believe that `p` escapes, so that the allocation cannot be removed.
inline void Keep(void* p) { asm volatile("" : : "r"(p) : "memory"); }

/// This library's heaps.
struct Ours {
  static constexpr const char* kName = "ours";
  static constexpr bool kFreesBlocks = true;
  static constexpr bool kDropsAll = true;
  using Heap = mi_heap_t*;
  static void Prepare() {}
  static void Create(Heap& heap) { heap = mi_heap_new(); }
  static void* Alloc(Heap& heap, size_t size) { return mi_heap_malloc(heap, size); }
  static void Free(Heap&, void* p) { mi_free(p); }
  static void Destroy(Heap& heap) { mi_heap_destroy(heap); }
  static void Reset(Heap& heap) { mi_heap_reset(heap); }
};

/// The same with a limit that is not reached.
struct OursLimited : Ours {
  static constexpr const char* kName = "with limit";
  static void Create(Heap& heap) {
    static constexpr mi_heap_config_t kConfig = [] {
      mi_heap_config_t config = {};
      config.size = sizeof(config);
      config.limit = size_t{1} << 30;
      return config;
    }();
    heap = mi_heap_new_with(&kConfig);
  }
};

/// With limits, their callback and a deferred_free, which is called at every end of a heap.
template <bool kNamed>
struct OursToOrder : Ours {
  static constexpr const char* kName = (kNamed ? "to order, named" : "to order");
  static void Create(Heap& heap) {
    static const mi_heap_config_t kConfig = [] {
      mi_heap_config_t config = {};
      config.size = sizeof(config);
      config.name = (kNamed ? "request" : nullptr);
      config.limit = size_t{1} << 30;
      config.soft_limit = size_t{1} << 29;
      config.on_limit = [](mi_heap_t*, size_t, void*) { return false; };
      config.deferred_free = [](mi_heap_t*, bool, unsigned long long, void*) {};
      return config;
    }();
    heap = mi_heap_new_with(&kConfig);
  }
};

/// The heaps of Debian's mimalloc 2.0, loaded privately: RTLD_LOCAL keeps its malloc out of everybody's sight and
/// RTLD_DEEPBIND makes it see its own functions first.
struct Mimalloc2 {
  static constexpr const char* kName = "mimalloc2";
  static constexpr bool kFreesBlocks = true;
  static constexpr bool kDropsAll = true;
  using Heap = void*;
  static inline void* (*heap_new)();
  static inline void* (*heap_malloc)(void*, size_t);
  static inline void (*block_free)(void*);
  static inline void (*heap_destroy)(void*);

  static void Prepare() {
    if (heap_new != nullptr) return;
    int flags = RTLD_LOCAL | RTLD_NOW;
#ifndef __SANITIZE_ADDRESS__
    flags |= RTLD_DEEPBIND;
#endif
    void* library = dlopen("libmimalloc.so.2.0", flags);
    if (library == nullptr) library = dlopen("libmimalloc.so.2", flags);
    if (library == nullptr) Fail(dlerror());
    Load(library, "mi_heap_malloc", heap_malloc);
    Load(library, "mi_free", block_free);
    Load(library, "mi_heap_destroy", heap_destroy);
    Load(library, "mi_heap_new", heap_new);
    Require(reinterpret_cast<void*>(heap_malloc) != reinterpret_cast<void*>(&mi_heap_malloc),
            "the peer's functions are ours");
  }
  static void Create(Heap& heap) { heap = heap_new(); }
  static void* Alloc(Heap& heap, size_t size) { return heap_malloc(heap, size); }
  static void Free(Heap&, void* p) { block_free(p); }
  static void Destroy(Heap& heap) { heap_destroy(heap); }

 private:
  template <typename Function>
  static void Load(void* library, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    Require(function != nullptr, name);
  }
};

/// APR child pools of one root whose allocator has a mutex: what apr_pool_create(&root, NULL) gives. Any thread may
/// create and destroy children of it.
struct Apr {
  static constexpr const char* kName = "apr";
  static constexpr bool kFreesBlocks = false;
  static constexpr bool kDropsAll = true;
  using Heap = apr_pool_t*;
  static inline apr_pool_t* root;
  static void Prepare() {
    if (root != nullptr) return;
    Require(apr_initialize() == APR_SUCCESS, "apr_initialize");
    Require(apr_pool_create(&root, nullptr) == APR_SUCCESS, "apr_pool_create");
    Require(apr_allocator_mutex_get(apr_pool_allocator_get(root)) != nullptr, "APR's global allocator has no mutex");
  }
  static void Create(Heap& heap) {
    if (apr_pool_create(&heap, root) != APR_SUCCESS) Fail("apr_pool_create");
  }
  static void* Alloc(Heap& heap, size_t size) { return apr_palloc(heap, size); }
  static void Destroy(Heap& heap) { apr_pool_destroy(heap); }
  static void Reset(Heap& heap) { apr_pool_clear(heap); }
};

/// The same without the mutex: the fastest form that APR has, for one thread only.
struct AprUnlocked {
  static constexpr const char* kName = "apr_unlocked";
  static constexpr bool kFreesBlocks = false;
  static constexpr bool kDropsAll = true;
  using Heap = apr_pool_t*;
  static inline apr_pool_t* root;
  static void Prepare() {
    if (root != nullptr) return;
    apr_allocator_t* allocator;
    Require(apr_initialize() == APR_SUCCESS, "apr_initialize");
    Require(apr_allocator_create(&allocator) == APR_SUCCESS, "apr_allocator_create");
    Require(apr_pool_create_ex(&root, nullptr, nullptr, allocator) == APR_SUCCESS, "apr_pool_create_ex");
    apr_allocator_owner_set(allocator, root);
  }
  static void Create(Heap& heap) {
    if (apr_pool_create(&heap, root) != APR_SUCCESS) Fail("apr_pool_create");
  }
  static void* Alloc(Heap& heap, size_t size) { return apr_palloc(heap, size); }
  static void Destroy(Heap& heap) { apr_pool_destroy(heap); }
  static void Reset(Heap& heap) { apr_pool_clear(heap); }
};

/// APR pools without a parent that share one allocator with a mutex: half of Apr's locking, and as safe between
/// threads.
struct AprShared {
  static constexpr const char* kName = "apr_unmanaged";
  static constexpr bool kFreesBlocks = false;
  static constexpr bool kDropsAll = true;
  using Heap = apr_pool_t*;
  static inline apr_allocator_t* allocator;
  static void Prepare() {
    if (allocator != nullptr) return;
    Require(apr_initialize() == APR_SUCCESS, "apr_initialize");
    apr_pool_t* owner;
    apr_thread_mutex_t* mutex;
    Require(apr_allocator_create(&allocator) == APR_SUCCESS, "apr_allocator_create");
    Require(apr_pool_create_unmanaged_ex(&owner, nullptr, nullptr) == APR_SUCCESS, "apr_pool_create_unmanaged_ex");
    Require(apr_thread_mutex_create(&mutex, APR_THREAD_MUTEX_DEFAULT, owner) == APR_SUCCESS, "apr mutex");
    apr_allocator_mutex_set(allocator, mutex);
  }
  static void Create(Heap& heap) {
    if (apr_pool_create_unmanaged_ex(&heap, nullptr, allocator) != APR_SUCCESS) Fail("apr_pool_create_unmanaged_ex");
  }
  static void* Alloc(Heap& heap, size_t size) { return apr_palloc(heap, size); }
  static void Destroy(Heap& heap) { apr_pool_destroy(heap); }
};

/// APR pools without a parent, each with an allocator of its own: nothing shared but malloc.
struct AprAlone {
  static constexpr const char* kName = "apr_alone";
  static constexpr bool kFreesBlocks = false;
  static constexpr bool kDropsAll = true;
  using Heap = apr_pool_t*;
  static void Prepare() { Require(apr_initialize() == APR_SUCCESS, "apr_initialize"); }
  static void Create(Heap& heap) {
    if (apr_pool_create_unmanaged_ex(&heap, nullptr, nullptr) != APR_SUCCESS) Fail("apr_pool_create_unmanaged_ex");
  }
  static void* Alloc(Heap& heap, size_t size) { return apr_palloc(heap, size); }
  static void Destroy(Heap& heap) { apr_pool_destroy(heap); }
};

struct Talloc {
  static constexpr const char* kName = "talloc";
  static constexpr bool kFreesBlocks = true;
  static constexpr bool kDropsAll = true;
  using Heap = void*;
  static void Prepare() {}
  static void Create(Heap& heap) { heap = talloc_new(nullptr); }
  static void* Alloc(Heap& heap, size_t size) { return talloc_size(heap, size); }
  static void Free(Heap&, void* p) { talloc_free(p); }
  static void Destroy(Heap& heap) { talloc_free(heap); }
};

struct Obstack {
  static constexpr const char* kName = "obstack";
  static constexpr bool kFreesBlocks = false;
  static constexpr bool kDropsAll = true;
  using Heap = obstack;
  static void Prepare() {}
  static void Create(Heap& heap) { obstack_init(&heap); }
  static void* Alloc(Heap& heap, size_t size) { return obstack_alloc(&heap, size); }
  static void Destroy(Heap& heap) { obstack_free(&heap, nullptr); }
};

/// glibc's malloc and an array of what was allocated, which is what a program without heaps writes.
struct GlibcTracked {
  static constexpr const char* kName = "glibc_tracked";
  static constexpr bool kFreesBlocks = false;
  static constexpr bool kDropsAll = true;
  struct Heap {
    void** blocks;
    size_t count;
    size_t capacity;
  };
  static void Prepare() {}
  static void Create(Heap& heap) { heap = {nullptr, 0, 0}; }
  static void* Alloc(Heap& heap, size_t size) {
    if (heap.count == heap.capacity) {
      heap.capacity = heap.capacity == 0 ? 16 : heap.capacity * 2;
      heap.blocks = static_cast<void**>(realloc(heap.blocks, heap.capacity * sizeof(void*)));
      Require(heap.blocks != nullptr, "realloc");
    }
    return heap.blocks[heap.count++] = malloc(size);
  }
  static void Destroy(Heap& heap) {
    for (size_t i = 0; i < heap.count; i++) free(heap.blocks[i]);
    free(heap.blocks);
  }
};

/// glibc's malloc and free alone; the workload frees every block itself.
struct Glibc {
  static constexpr const char* kName = "glibc";
  static constexpr bool kFreesBlocks = true;
  static constexpr bool kDropsAll = false;
  struct Heap {};
  static void Prepare() {}
  static void Create(Heap&) {}
  static void* Alloc(Heap&, size_t size) { return malloc(size); }
  static void Free(Heap&, void* p) { free(p); }
  static void Destroy(Heap&) {}
};

/// mi_malloc and mi_free, without a heap of one's own.
struct OursDefault {
  static constexpr const char* kName = "mi_malloc";
  static constexpr bool kFreesBlocks = true;
  static constexpr bool kDropsAll = false;
  struct Heap {};
  static void Prepare() {}
  static void Create(Heap&) {}
  static void* Alloc(Heap&, size_t size) { return mi_malloc(size); }
  static void Free(Heap&, void* p) { mi_free(p); }
  static void Destroy(Heap&) {}
};

/// The limit: a bump pointer over chunks that are never given back, one heap at a time, not safe between threads. No
/// allocator that frees anything can be faster.
struct Bump {
  static constexpr const char* kName = "bump";
  static constexpr bool kFreesBlocks = false;
  static constexpr bool kDropsAll = true;
  static constexpr size_t kChunkSize = size_t{1} << 20;
  struct Chunk {
    Chunk* next;
    size_t reserved;
  };
  struct Heap {
    char* top;
    char* end;
    Chunk* chunk;
  };
  static inline Chunk* first;
  static void Prepare() {
    if (first == nullptr) first = NewChunk();
  }
  static void Create(Heap& heap) { Enter(heap, first); }
  static void* Alloc(Heap& heap, size_t size) {
    const size_t need = (size + 15) & ~size_t{15};
    if (__builtin_expect(static_cast<size_t>(heap.end - heap.top) < need, 0)) {
      if (heap.chunk->next == nullptr) heap.chunk->next = NewChunk();
      Enter(heap, heap.chunk->next);
    }
    void* block = heap.top;
    heap.top += need;
    return block;
  }
  static void Destroy(Heap& heap) { heap.top = nullptr; }

 private:
  static void Enter(Heap& heap, Chunk* chunk) {
    heap.chunk = chunk;
    heap.top = reinterpret_cast<char*>(chunk) + sizeof(Chunk);
    heap.end = reinterpret_cast<char*>(chunk) + kChunkSize;
  }
  static Chunk* NewChunk() {
    Chunk* chunk = static_cast<Chunk*>(malloc(kChunkSize));
    Require(chunk != nullptr, "malloc");
    chunk->next = nullptr;
    return chunk;
  }
};

}  // namespace bench

#endif
