// Tests mi/mimalloc-inline.h and mi/inline.c: programs that compile the fast paths in get what the calls give, from
// every kind of heap and on every thread; and where the library is not the one that the header was written for, every
// operation is a call.
#include "mi/mimalloc-inline.h"
#include "tests/inline_paths.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

// Does this build of the library let itself be compiled in?
#if (defined(MI_PADDING) && MI_PADDING) || (defined(MI_GUARDED) && MI_GUARDED) || (defined(MI_SECURE) && MI_SECURE) || \
    (defined(MI_TRACK_VALGRIND) && MI_TRACK_VALGRIND) || (defined(MI_TRACK_ASAN) && MI_TRACK_ASAN)
constexpr bool kFits = false;
#elif defined(MI_TEST_TSAN) && !(defined(MI_TRACK_TSAN) && MI_TRACK_TSAN)
constexpr bool kFits = false;
#else
constexpr bool kFits = true;
#endif

// The same in C++, for the same tests.
struct CxxHandle {
  mi_inline_thread_t thread;
  mi_inline_theap_t theap;
  mi_heap_t* heap;
};
bool LeadsToCalls(const mi_inline_thread_t& thread, const mi_inline_theap_t& theap) {
  for (size_t size = 0; size <= MI_SMALL_SIZE_MAX; size++) {
    if (theap.direct[(size + 7) / 8]->free != nullptr) return false;
  }
  return thread.size == 0 && thread.active == 0;
}
const CxxHandle* Cxx(const inline_handle_t* handle) { return reinterpret_cast<const CxxHandle*>(handle); }
const inline_paths_t kCxx = {
    [](mi_heap_t* heap, bool* fits) {
      auto* handle = new CxxHandle;
      handle->heap = heap;
      fits[0] = mi_inline_thread_attach(&handle->thread);
      fits[1] = mi_inline_theap_attach(&handle->theap, heap);
      return reinterpret_cast<inline_handle_t*>(handle);
    },
    [](inline_handle_t* handle) { delete reinterpret_cast<CxxHandle*>(handle); },
    [](const inline_handle_t* handle, size_t size) { return mi_inline_theap_malloc_small(&Cxx(handle)->theap, size); },
    [](const inline_handle_t* handle) { return mi_inline_theap_malloc_small(&Cxx(handle)->theap, 48); },
    [](const inline_handle_t* handle, size_t size) {
      return mi_inline_heap_malloc_small(&Cxx(handle)->thread, Cxx(handle)->heap, size);
    },
    [](const inline_handle_t* handle, void* p) { mi_inline_free_small(&Cxx(handle)->thread, p); },
    [](const inline_handle_t* handle) { return LeadsToCalls(Cxx(handle)->thread, Cxx(handle)->theap); },
};

struct Paths {
  const char* name;
  const inline_paths_t* paths;
  bool fits;
};
void PrintTo(const Paths& paths, std::ostream* out) { *out << paths.name; }

// What a thread has attached.
class Handle {
 public:
  Handle(const inline_paths_t& paths, mi_heap_t* heap) : paths_(paths), handle_(paths.attach(heap, fits_)) {}
  ~Handle() { paths_.detach(handle_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  bool fits_thread() const { return fits_[0]; }
  bool fits_theap() const { return fits_[1]; }
  void* TheapMalloc(size_t size) const { return paths_.theap_malloc(handle_, size); }
  void* TheapMalloc48() const { return paths_.theap_malloc_48(handle_); }
  void* HeapMalloc(size_t size) const { return paths_.heap_malloc(handle_, size); }
  void Free(void* p) const { paths_.free(handle_, p); }
  bool LeadsToCalls() const { return paths_.leads_to_calls(handle_); }

 private:
  const inline_paths_t& paths_;
  bool fits_[2];
  inline_handle_t* handle_;
};

struct Block {
  void* p;
  size_t size;
  uint64_t seed;
};

// Blocks that come and go by inline paths and by calls, in turn, with their contents looked after.
class Mixture {
 public:
  Mixture(mi_heap_t* heap, uint64_t seed) : heap_(heap), random_(seed) {}

  void Step(const Handle& handle) {
    if (live_.size() < 64 || (live_.size() < 3000 && random_.OneIn(2))) {
      Block block = {nullptr, random_.Below(MI_SMALL_SIZE_MAX + 1), random_.Next()};
      if (random_.OneIn(50)) block.size = random_.Between(1, 100 * kKiB);
      switch (random_.Below(5)) {
        case 0:
        case 1:
          block.p = handle.TheapMalloc(block.size);
          break;
        case 2:
          block.p = handle.TheapMalloc48();
          block.size = 48;
          break;
        case 3:
          block.p = handle.HeapMalloc(block.size);
          break;
        default:
          block.p = mi_heap_malloc(heap_, block.size);
      }
      ASSERT_NE(block.p, nullptr);
      ASSERT_TRUE(IsAligned(block.p, NaturalAlignment(block.size)));
      ASSERT_GE(mi_usable_size(block.p), block.size);
      Fill(block.p, block.size, block.seed);
      live_.push_back(block);
    } else {
      Free(handle, random_.Below(live_.size()));
    }
  }
  void Free(const Handle& handle, size_t index) {
    const Block block = live_[index];
    live_[index] = live_.back();
    live_.pop_back();
    ASSERT_TRUE(Holds(block.p, block.size, block.seed));
    if (random_.OneIn(4)) {
      mi_free(block.p);
    } else {
      handle.Free(block.p);
    }
  }
  void FreeAll(const Handle& handle) {
    while (!live_.empty()) Free(handle, live_.size() - 1);
  }
  std::vector<void*> Live() const {
    std::vector<void*> all;
    for (const Block& block : live_) all.push_back(block.p);
    return all;
  }
  std::vector<Block>& blocks() { return live_; }

 private:
  mi_heap_t* heap_;
  Random random_;
  std::vector<Block> live_;
};

class InlineTest : public ::testing::TestWithParam<Paths> {
 protected:
  const inline_paths_t& paths() const { return *GetParam().paths; }
};

TEST_P(InlineTest, FitsThisLibraryUnlessThatChecksEveryBlockOrIsAnother) {
  mi_heap_t* heap = mi_heap_new();
  Handle handle(paths(), heap);
  EXPECT_EQ(handle.fits_thread(), GetParam().fits && kFits);
  EXPECT_EQ(handle.fits_theap(), GetParam().fits && kFits);
  EXPECT_EQ(CountBlocks(heap), 0u) << "attaching leaves nothing behind";
  for (int i = 0; i < 10000; i++) ASSERT_NE(mi_heap_malloc(heap, 48), nullptr);
  EXPECT_EQ(handle.LeadsToCalls(), !(GetParam().fits && kFits)) << "though there are free blocks";
  mi_heap_destroy(heap);
}

TEST_P(InlineTest, BlocksOfAHeapComeAndGoAsByCalls) {
  mi_heap_t* heap = mi_heap_new();
  Handle handle(paths(), heap);
  Mixture mixture(heap, 1);
  for (int i = 0; i < Scaled(60000); i++) {
    mixture.Step(handle);
    if (HasFatalFailure()) return;
    // From young to grown.
    if (i == 100 || i == 2000 || i == 20000) {
      ASSERT_TRUE(ShowsExactly(heap, mixture.Live()));
      ASSERT_TRUE(mi_heap_check(heap));
    }
  }
  ASSERT_TRUE(ShowsExactly(heap, mixture.Live()));
  for (void* p : mixture.Live()) ASSERT_EQ(mi_heap_of(p), heap);
  mixture.FreeAll(handle);
  EXPECT_EQ(CountBlocks(heap), 0u);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(InlineTest, TheMainHeapServesToo) {
  Handle handle(paths(), mi_heap_main());
  Mixture mixture(mi_heap_main(), 2);
  for (int i = 0; i < Scaled(20000); i++) {
    mixture.Step(handle);
    if (HasFatalFailure()) return;
  }
  for (void* p : mixture.Live()) ASSERT_EQ(mi_heap_of(p), mi_heap_main());
  mixture.FreeAll(handle);
}

TEST_P(InlineTest, NullAndWhatIsNoBlockAreAsForFree) {
  if (kSecure) GTEST_SKIP() << kMisuseEnds;
  Handle handle(paths(), mi_heap_main());
  ErrorRecorder recorder;
  handle.Free(nullptr);
  EXPECT_EQ(recorder.total(), 0);
  alignas(64) static char elsewhere[128];
  handle.Free(elsewhere + 64);
  EXPECT_EQ(recorder.count(EINVAL) + recorder.count(EFAULT), 1) << recorder.text();
  recorder.Forget();
  // In a block of several segments, inside, where inline code would look for a page's words.
  constexpr size_t kSize = 20 * kMiB;
  char* huge = static_cast<char*>(mi_malloc(kSize));
  ASSERT_NE(huge, nullptr);
  memset(huge, 0xff, kSize);
  handle.Free(huge + 9 * kMiB);
  EXPECT_EQ(recorder.count(EINVAL) + recorder.count(EFAULT), 1) << recorder.text();
  EXPECT_EQ(FindOther(huge, 0, kSize, 0xff), kSize) << "nothing of it was written to";
  mi_free(huge);
}

TEST_P(InlineTest, ThePageOfTheLastBlockIsGivenBack) {
  mi_heap_t* heap = mi_heap_new();
  Handle handle(paths(), heap);
  std::vector<void*> blocks;
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 20000; i++) blocks.push_back(handle.TheapMalloc(64));
    for (void* p : blocks) handle.Free(p);
    blocks.clear();
    ASSERT_TRUE(mi_heap_check(heap));
    mi_heap_collect(heap, true);
    size_t reserved = 0;
    mi_heap_visit_blocks(
        heap, false,
        [](auto, const mi_heap_area_t* area, void*, size_t, void* sum) {
          *static_cast<size_t*>(sum) += area->reserved;
          return true;
        },
        &reserved);
    EXPECT_LT(reserved, 256 * kKiB) << "of " << 20000 * 64 / kKiB << " KiB";
  }
  mi_heap_destroy(heap);
}

TEST_P(InlineTest, AHandleServesOnAfterAReset) {
  mi_heap_t* heap = mi_heap_new();
  Handle handle(paths(), heap);
  for (int round = 0; round < 5; round++) {
    Mixture mixture(heap, 10 + static_cast<uint64_t>(round));
    for (int i = 0; i < 3000; i++) {
      mixture.Step(handle);
      if (HasFatalFailure()) return;
    }
    ASSERT_TRUE(ShowsExactly(heap, mixture.Live()));
    mi_heap_reset(heap);
    ASSERT_EQ(CountBlocks(heap), 0u);
    ASSERT_TRUE(mi_heap_check(heap));
  }
  mi_heap_destroy(heap);
}

TEST_P(InlineTest, AHandleServesOnInTheChildOfAFork) {
  mi_heap_t* heap = mi_heap_new();
  Handle handle(paths(), heap);
  Mixture mixture(heap, 30);
  for (int i = 0; i < 5000; i++) mixture.Step(handle);
  EXPECT_EQ(InChild([&] {
              for (int i = 0; i < 5000; i++) mixture.Step(handle);
              if (HasFailure() || !ShowsExactly(heap, mixture.Live()) || !mi_heap_check(heap)) return 1;
              mixture.FreeAll(handle);
              return HasFailure() || CountBlocks(heap) != 0 ? 2 : 0;
            }),
            0);
  EXPECT_TRUE(ShowsExactly(heap, mixture.Live()));
  mi_heap_destroy(heap);
}

TEST_P(InlineTest, ThreadsShareAHeapAndFreeEachOthersBlocks) {
  constexpr int kThreads = 4;
  mi_heap_t* heap = mi_heap_new();
  std::mutex mutex;
  std::vector<Block> mailbox[kThreads];
  InThreads(kThreads, [&](int self) {
    Handle handle(paths(), heap);
    Mixture mixture(heap, 100 + static_cast<uint64_t>(self));
    for (int i = 0; i < Scaled(20000); i++) {
      mixture.Step(handle);
      if (i % 64 != 0) continue;
      std::lock_guard<std::mutex> lock(mutex);
      // Some go to a neighbour, who frees them or keeps them for a while.
      std::vector<Block>& box = mailbox[(self + 1) % kThreads];
      for (int n = 0; n < 20 && mixture.blocks().size() > 1; n++) {
        box.push_back(mixture.blocks().back());
        mixture.blocks().pop_back();
      }
      for (const Block& block : mailbox[self]) mixture.blocks().push_back(block);
      mailbox[self].clear();
    }
    mixture.FreeAll(handle);
  });
  size_t left = 0;
  {
    Handle handle(paths(), heap);
    for (std::vector<Block>& box : mailbox) {
      for (const Block& block : box) {
        EXPECT_TRUE(Holds(block.p, block.size, block.seed));
        handle.Free(block.p);
        left++;
      }
    }
  }
  EXPECT_EQ(CountBlocks(heap), 0u) << left;
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(InlineTest, BlocksOfThreadsThatEndedAreFreedInline) {
  mi_heap_t* heap = mi_heap_new();
  for (int round = 0; round < 20; round++) {
    std::vector<void*> blocks;
    InThread([&] {
      Handle handle(paths(), heap);
      for (int i = 0; i < 3000; i++) blocks.push_back(handle.TheapMalloc(static_cast<size_t>(i % 300)));
    });
    Handle handle(paths(), heap);
    for (void* p : blocks) handle.Free(p);
  }
  EXPECT_EQ(CountBlocks(heap), 0u);
  EXPECT_TRUE(mi_heap_check(heap));
  mi_heap_destroy(heap);
}

TEST_P(InlineTest, BlocksOfADeletedHeapAreFreedInline) {
  mi_heap_t* heap = mi_heap_new();
  std::vector<void*> blocks;
  mi_inline_thread_t thread;
  mi_inline_thread_attach(&thread);
  {
    Handle handle(paths(), heap);
    for (int i = 0; i < 3000; i++) blocks.push_back(handle.TheapMalloc(static_cast<size_t>(i % 300)));
  }
  mi_heap_delete(heap);
  for (void* p : blocks) mi_inline_free_small(&thread, p);
}

INSTANTIATE_TEST_SUITE_P(All, InlineTest,
                         ::testing::Values(Paths{"C11", &inline_paths_c11, true}, Paths{"Cxx", &kCxx, true},
                                           Paths{"Stale", &inline_paths_stale, false}),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace mi_test
