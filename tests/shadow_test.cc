// The shadow model: random operations on many heaps by one thread or several, mirrored in maps of what must be true.
// Contents are checked at every free and at random, alignment and usable size at every allocation, overlap of live
// blocks, the set of blocks that a visit shows and the heap of every block at quiet points and, as far as locks allow,
// in between.
//
// A Group stands for a heap over its whole life, a Block for a block. Contracts of the library that the harness has to
// keep for the program are kept by two locks per group:
//   allocating   shared by whoever allocates in the heap; exclusive to end it in any way
//   using_       shared by whoever allocates, frees or looks at blocks; exclusive to destroy, reset or visit
// so that frees of a heap's blocks run at the same moment as its delete or merge, as the contract allows. A group that
// was merged points to its target and keeps its own map: frees find it without waiting for the merge.
//
// SHADOW_SEED in the environment repeats a run (of one thread exactly, of several as far as scheduling allows).
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "gtest/gtest.h"
#include "mi/heap/heap.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

struct Block {
  size_t size;    // as requested
  size_t usable;  // as told at the allocation
  size_t alignment;
  size_t offset;
  bool inside;  // aligned with an offset: may begin inside what a visit shows
  uint64_t id;  // never used again: tells a block from a later one at its address
  uint64_t seed() const { return Mix(id); }
};

struct Group {
  mi_heap_t* heap = nullptr;
  bool is_main = false;
  std::shared_mutex allocating;
  std::shared_mutex using_;
  std::atomic<Group*> target{nullptr};  // written under `allocating`, exclusive
  std::atomic<bool> ended{false};       // destroyed, deleted or merged
  std::atomic<int> default_of{0};       // threads whose default heap it is
  std::string name;

  std::mutex mutex;  // guards what follows
  absl::flat_hash_map<void*, Block> live;
  std::vector<Group*> merged;  // groups whose target this is
};

// A block in somebody's hands; it may have been destroyed together with its heap.
struct Handle {
  Group* group;
  void* at;
  uint64_t id;
};

// Whether blocks of a heap are resized in the moment of its delete or merge. The contract names only frees.
constexpr bool kResizeDuringEnd = false;

class Shadow {
 public:
  Shadow(uint64_t seed, int threads, int heaps, int ends, size_t budget)
      : seed_(seed),
        threads_(threads),
        ends_(static_cast<size_t>(ends)),
        budget_(budget),
        slots_(heaps),
        exchange_(256) {
    main_ = NewGroup();
    main_->heap = mi_heap_main();
    main_->is_main = true;
    for (const Shown& shown : BlocksOf(mi_heap_main())) already_in_main_.push_back(shown.block);
    for (std::atomic<Group*>& slot : slots_) slot = MakeHeap(seed);
  }

  void Run(int operations, int quiet_points) {
    Barrier barrier(threads_);
    InThreads(threads_, [&](int t) {
      Actor actor(this, Mix(seed_ * 1000 + t));
      for (int q = 0; q < quiet_points; q++) {
        for (int i = 0; i < operations / quiet_points && !::testing::Test::HasFailure(); i++) {
          actor.Step();
        }
        barrier.Arrive();
        if (t == q % threads_) CheckAll();
        barrier.Arrive();
        if (::testing::Test::HasFailure()) break;
        // Everybody leaves the loop together.
        barrier.Arrive();
      }
      actor.Leave();
    });
  }

  // Ends what is left and compares the main heap with what it held before.
  void Finish() {
    if (::testing::Test::HasFailure()) return;
    CheckAll();
    for (std::atomic<Group*>& slot : slots_) {
      Group* group = slot.exchange(nullptr);
      if (group != nullptr) mi_heap_destroy(group->heap);
    }
    std::vector<Group*> tree;
    Tree(main_, &tree);
    for (Group* group : tree) {
      for (auto& entry : group->live) {
        ASSERT_TRUE(Holds(entry.first, entry.second.size, entry.second.seed()));
        mi_free(entry.first);
      }
      group->live.clear();
    }
    ASSERT_TRUE(ShowsExactly(mi_heap_main(), already_in_main_));
  }

  ~Shadow() {
    for (std::atomic<Group*>& slot : slots_) {
      // Only after a failure.
      Group* group = slot.load();
      if (group != nullptr && !group->ended) mi_heap_destroy(group->heap);
    }
  }

 private:
  using SharedLock = std::shared_lock<std::shared_mutex>;
  using UniqueLock = std::unique_lock<std::shared_mutex>;

  Group* NewGroup() {
    std::lock_guard<std::mutex> lock(groups_mutex_);
    groups_.push_back(std::make_unique<Group>());
    return groups_.back().get();
  }

  Group* MakeHeap(uint64_t random) {
    Group* group = NewGroup();
    switch (random % 3) {
      case 0: {
        group->name = "heap " + std::to_string(random % 1000);
        mi_heap_config_t config;
        memset(&config, 0, sizeof(config));
        config.size = sizeof(config);
        config.name = group->name.c_str();
        group->heap = mi_heap_new_with(&config);
        break;
      }
      case 1:
        group->heap = mi_heap_new_ex(0, true, nullptr);
        break;
      default:
        group->heap = mi_heap_new();
        break;
    }
    EXPECT_NE(group->heap, nullptr);
    return group;
  }

  static Group* Resolve(Group* group) {
    for (Group* next = group->target.load(); next != nullptr; next = group->target.load()) group = next;
    return group;
  }

  // The group and all that were merged into it. Nobody merges into any of them meanwhile.
  static void Tree(Group* group, std::vector<Group*>* tree) {
    tree->push_back(group);
    std::vector<Group*> merged;
    {
      std::lock_guard<std::mutex> lock(group->mutex);
      merged = group->merged;
    }
    for (Group* child : merged) Tree(child, tree);
  }

  // All the locks that are needed to have the blocks of a heap to oneself; empty if somebody is in the way.
  static std::vector<UniqueLock> LockTree(const std::vector<Group*>& tree) {
    std::vector<UniqueLock> locks;
    for (Group* group : tree) {
      locks.emplace_back(group->using_, std::try_to_lock);
      if (!locks.back().owns_lock()) return {};
    }
    return locks;
  }

  // Does a visit show exactly the blocks of the tree, and are they as they were? The caller has them to itself.
  void CheckTree(Group* group, const std::vector<Group*>& tree) {
    std::vector<void*> expected, inside;
    if (group->is_main) expected = already_in_main_;
    for (Group* member : tree) {
      std::lock_guard<std::mutex> lock(member->mutex);
      for (const auto& entry : member->live) {
        (entry.second.inside ? inside : expected).push_back(entry.first);
        ASSERT_TRUE(Holds(entry.first, entry.second.size, entry.second.seed()));
        ASSERT_EQ(mi_usable_size(entry.first), entry.second.usable);
        ASSERT_TRUE(IsAligned(entry.first, entry.second.alignment, entry.second.offset));
        ASSERT_EQ(mi_heap_of(entry.first), group->heap);
        ASSERT_TRUE(mi_heap_contains(group->heap, entry.first));
      }
    }
    ASSERT_TRUE(ShowsExactly(group->heap, expected, inside));
    ASSERT_EQ(mi_heap_name(group->heap), group->is_main ? "main" : group->name);
  }

  // At a quiet point: everything about every heap, and that no two blocks overlap.
  void CheckAll() {
    absl::btree_map<uintptr_t, uintptr_t> intervals;
    std::vector<Group*> tops = {main_};
    for (std::atomic<Group*>& slot : slots_) {
      if (slot.load() != nullptr) tops.push_back(slot.load());
    }
    for (Group* top : tops) {
      std::vector<Group*> tree;
      Tree(top, &tree);
      CheckTree(top, tree);
      for (Group* member : tree) {
        for (const auto& entry : member->live) {
          uintptr_t start = reinterpret_cast<uintptr_t>(entry.first);
          ASSERT_TRUE(intervals.emplace(start, start + std::max<size_t>(entry.second.usable, 1)).second);
        }
      }
    }
    uintptr_t former_end = 0;
    for (const auto& interval : intervals) {
      ASSERT_GE(interval.first, former_end) << "blocks overlap";
      former_end = interval.second;
    }
  }

  // What one thread does.
  class Actor {
   public:
    Actor(Shadow* shadow, uint64_t seed) : shadow_(shadow), random_(seed), default_(shadow->main_) {
      // Every thread's own default starts as the main heap.
    }

    void Step() {
      if (random_.Below(1000) < shadow_->ends_) End();
      size_t kind = random_.Below(1000);
      if (kind < 450) {
        Allocate();
      } else if (kind < 760) {
        Free();
      } else if (kind < 840) {
        Reallocate();
      } else if (kind < 900) {
        Look();
      } else if (kind < 950) {
        Exchange();
      } else if (kind < 970) {
        SetDefault();
      } else if (kind < 975) {
        Visit();
      } else if (kind < 980) {
        Collect();
      } else if (kind < 984) {
        DropSome();
      }
    }

    void Leave() {
      if (default_ != shadow_->main_) default_->default_of--;
      // The handles stay behind in the exchange, or are found again by the groups' maps.
    }

   private:
    Group* PickSlot(size_t* index = nullptr) {
      size_t i = random_.Below(shadow_->slots_.size());
      if (index != nullptr) *index = i;
      return shadow_->slots_[i].load();
    }

    // Takes the locks to allocate in `group`; false if it is being ended or has ended.
    static bool LockToAllocate(Group* group, SharedLock* allocating, SharedLock* use) {
      *allocating = SharedLock(group->allocating, std::try_to_lock);
      if (!allocating->owns_lock()) return false;
      *use = SharedLock(group->using_, std::try_to_lock);
      return use->owns_lock() && !group->ended;
    }

    void Remember(Group* group, void* at, size_t size, size_t alignment, size_t offset, bool zero, bool inside) {
      ASSERT_NE(at, nullptr) << "size " << size << ", alignment " << alignment;
      ASSERT_TRUE(IsAligned(at, alignment, offset)) << at << " " << alignment << "+" << offset;
      if (zero) {
        ASSERT_TRUE(IsZero(at, 0, std::min<size_t>(size, 20000)));
      }
      Block block{size, mi_usable_size(at), alignment, offset, inside, ++shadow_->next_id_};
      ASSERT_GE(block.usable, size);
      Fill(at, size, block.seed());
      {
        std::lock_guard<std::mutex> lock(group->mutex);
        ASSERT_TRUE(group->live.emplace(at, block).second) << "a live block was handed out again: " << at;
      }
      shadow_->bytes_ += size;
      mine_.push_back({group, at, block.id});
    }

    // Takes a block out of the shadow: from now on it is this thread's alone to free. The caller holds group->using_.
    bool Claim(const Handle& handle, Block* block) {
      std::lock_guard<std::mutex> lock(handle.group->mutex);
      auto it = handle.group->live.find(handle.at);
      if (it == handle.group->live.end() || it->second.id != handle.id) return false;
      *block = it->second;
      handle.group->live.erase(it);
      shadow_->bytes_ -= block->size;
      return true;
    }

    Handle TakeMine() {
      size_t i = random_.Below(mine_.size());
      Handle handle = mine_[i];
      mine_[i] = mine_.back();
      mine_.pop_back();
      return handle;
    }

    void Allocate() {
      if (shadow_->bytes_ > shadow_->budget_) {
        Free();
        return;
      }
      bool through_default = random_.OneIn(5);
      Group* group = through_default ? default_ : random_.OneIn(20) ? shadow_->main_ : PickSlot();
      if (group == nullptr) return;
      SharedLock allocating, use;
      if (!LockToAllocate(group, &allocating, &use)) {
        if (!through_default || !allocating.owns_lock()) return;
        // The default heap has ended: the main heap serves.
        if (!group->ended) return;
        allocating = SharedLock();
        use = SharedLock();
        default_->default_of--;
        default_ = group = shadow_->main_;
        if (!LockToAllocate(group, &allocating, &use)) return;
      }
      mi_heap_t* heap = group->heap;
      const bool small_classes = random_.OneIn(3);
      size_t size = small_classes ? 16 * random_.Below(12) : RandomSize(random_);
      size_t alignment = NaturalAlignment(size), offset = 0;
      bool zero = false;
      void* at = nullptr;
      switch (random_.Below(8)) {
        case 0:
          zero = true;
          at = through_default ? mi_zalloc(size) : mi_heap_zalloc(heap, size);
          break;
        case 1: {
          zero = true;
          size_t count = 1 + random_.Below(8);
          size_t each = size / count;
          size = count * each;
          alignment = NaturalAlignment(size);
          at = through_default ? mi_calloc(count, each) : mi_heap_calloc(heap, count, each);
          break;
        }
        case 2: {
          alignment = size_t{1} << random_.Below(random_.OneIn(20) ? 24 : 14);
          offset = random_.OneIn(2) ? 0 : random_.Below(size + 1) & ~size_t{7};
          at = through_default ? mi_malloc_aligned_at(size, alignment, offset)
                               : mi_heap_malloc_aligned_at(heap, size, alignment, offset);
          break;
        }
        case 3: {
          alignment = size_t{1} << random_.Below(13);
          zero = true;
          at = through_default ? mi_zalloc_aligned(size, alignment) : mi_heap_zalloc_aligned(heap, size, alignment);
          break;
        }
        default:
          at = through_default ? mi_malloc(size) : mi_heap_malloc(heap, size);
          break;
      }
      Remember(group, at, size, alignment, offset, zero, offset != 0);
      if (through_default && at != nullptr) {
        ASSERT_EQ(mi_heap_of(at), group->heap) << "allocated in another heap than the default";
      }
    }

    void Free() {
      if (mine_.empty()) return;
      Handle handle = TakeMine();
      SharedLock use(handle.group->using_, std::try_to_lock);
      Block block;
      if (!use.owns_lock()) {
        mine_.push_back(handle);
        return;
      }
      if (!Claim(handle, &block)) return;  // gone with its heap
      ASSERT_TRUE(Holds(handle.at, block.size, block.seed()));
      ASSERT_EQ(mi_usable_size(handle.at), block.usable);
      switch (random_.Below(4)) {
        case 0:
          mi_free_size(handle.at, block.size);
          break;
        case 1:
          mi_cfree(handle.at);
          break;
        default:
          mi_free(handle.at);
          break;
      }
    }

    void Reallocate() {
      if (mine_.empty()) return;
      Group* group = random_.OneIn(3) ? shadow_->main_ : PickSlot();
      if (group == nullptr) return;
      SharedLock allocating, use, source, source_allocating;
      if (!LockToAllocate(group, &allocating, &use)) return;
      Handle handle = TakeMine();
      // One lock may not be taken twice by a thread.
      if (handle.group != group) {
        source = SharedLock(handle.group->using_, std::try_to_lock);
        if (!kResizeDuringEnd) source_allocating = SharedLock(handle.group->allocating, std::try_to_lock);
        if (!source.owns_lock() || (!kResizeDuringEnd && !source_allocating.owns_lock())) {
          mine_.push_back(handle);
          return;
        }
      }
      Block block;
      if (!Claim(handle, &block)) return;
      ASSERT_TRUE(Holds(handle.at, block.size, block.seed()));
      size_t size = random_.OneIn(3) ? RandomSize(random_) : block.size / 2 + random_.Below(block.size + 32);
      size_t alignment = NaturalAlignment(size);
      const bool aligned = random_.OneIn(5);
      void* at;
      if (aligned) {
        alignment = size_t{1} << random_.Below(12);
        at = mi_heap_realloc_aligned(group->heap, handle.at, size, alignment);
      } else {
        at = mi_heap_realloc(group->heap, handle.at, size);
      }
      ASSERT_NE(at, nullptr);
      ASSERT_TRUE(Holds(at, block.size, block.seed(), size));
      // In place, it is still in the heap where it was.
      const bool in_place = at == handle.at;
      // One that was aligned with an offset keeps its address, whatever plain alignment its size would have.
      const bool inside = in_place && block.inside;
      if (inside && !aligned) alignment = 1;
      Remember(in_place ? handle.group : group, at, size, alignment, 0, false, inside);
    }

    void Look() {
      if (mine_.empty()) return;
      const Handle& handle = mine_[random_.Below(mine_.size())];
      SharedLock use(handle.group->using_, std::try_to_lock);
      if (!use.owns_lock()) return;
      Block block;
      {
        std::lock_guard<std::mutex> lock(handle.group->mutex);
        auto it = handle.group->live.find(handle.at);
        if (it == handle.group->live.end() || it->second.id != handle.id) return;
        block = it->second;
      }
      // Only this thread has the handle, and the heap is not destroyed: the block lives.
      ASSERT_TRUE(Holds(handle.at, block.size, block.seed()));
      ASSERT_EQ(mi_usable_size(handle.at), block.usable);
      ASSERT_TRUE(mi_any_heap_contains(handle.at));
      // Its heap, as long as nobody merges that.
      Group* top = Resolve(handle.group);
      SharedLock allocating(top->allocating, std::try_to_lock);
      if (!allocating.owns_lock() || top->target.load() != nullptr) return;
      ASSERT_EQ(mi_heap_of(handle.at), top->heap);
      ASSERT_TRUE(mi_heap_contains(top->heap, handle.at));
    }

    void Exchange() {
      if (mine_.empty()) return;
      Handle handle = TakeMine();
      size_t i = random_.Below(shadow_->exchange_.size());
      Handle other;
      {
        std::lock_guard<std::mutex> lock(shadow_->exchange_mutex_);
        other = shadow_->exchange_[i];
        shadow_->exchange_[i] = handle;
      }
      if (other.group != nullptr) mine_.push_back(other);
    }

    void SetDefault() {
      Group* group = random_.OneIn(3) ? shadow_->main_ : PickSlot();
      if (group == nullptr) return;
      SharedLock allocating, use;
      if (!LockToAllocate(group, &allocating, &use)) return;
      if (!group->is_main) group->default_of++;
      mi_heap_t* former = mi_heap_set_default(group->heap);
      // Another thread may destroy the former one at this moment.
      ASSERT_TRUE(former == default_->heap || (default_->ended && former == mi_heap_main()));
      ASSERT_EQ(mi_heap_get_default(), group->heap);
      if (default_ != shadow_->main_) default_->default_of--;
      default_ = group;
    }

    // Destroys, resets, deletes or merges the heap of a slot.
    void End() {
      size_t index;
      Group* group = PickSlot(&index);
      if (group == nullptr) return;
      UniqueLock allocating(group->allocating, std::try_to_lock);
      if (!allocating.owns_lock() || group->ended) return;
      size_t way = random_.Below(4);
      if (way < 2) {
        std::vector<Group*> tree;
        Tree(group, &tree);
        std::vector<UniqueLock> locks = LockTree(tree);
        if (locks.empty()) return;
        size_t bytes = 0;
        for (Group* member : tree) {
          for (const auto& entry : member->live) bytes += entry.second.size;
          if (random_.OneIn(4)) {
            for (const auto& entry : member->live) {
              ASSERT_TRUE(Holds(entry.first, entry.second.size, entry.second.seed()));
            }
          }
          member->live.clear();
        }
        shadow_->bytes_ -= bytes;
        if (way == 0) {
          group->ended = true;
          mi_heap_destroy(group->heap);
        } else {
          mi_heap_reset(group->heap);
          return;
        }
      } else {
        // A heap that is the default of another thread would still be allocated in.
        int allowed = default_ == group ? 1 : 0;
        if (group->default_of != allowed) return;
        Group* into = way == 2 ? shadow_->main_ : PickSlot();
        if (into == nullptr || into == group) return;
        SharedLock target_allocating, target_use;
        if (!LockToAllocate(into, &target_allocating, &target_use)) return;
        if (into->is_main && random_.OneIn(2)) {
          mi_heap_delete(group->heap);
        } else {
          mi_heap_merge(group->heap, into->is_main && random_.OneIn(2) ? nullptr : into->heap);
        }
        {
          std::lock_guard<std::mutex> lock(into->mutex);
          into->merged.push_back(group);
        }
        group->target = into;
        group->ended = true;
        if (default_ == group) {
          ASSERT_EQ(mi_heap_get_default(), mi_heap_main());
        }
      }
      shadow_->slots_[index] = shadow_->MakeHeap(random_.Next());
    }

    void Visit() {
      Group* group = PickSlot();
      if (group == nullptr) return;
      UniqueLock allocating(group->allocating, std::try_to_lock);
      if (!allocating.owns_lock() || group->ended) return;
      std::vector<Group*> tree;
      Tree(group, &tree);
      std::vector<UniqueLock> locks = LockTree(tree);
      if (locks.empty()) return;
      shadow_->CheckTree(group, tree);
    }

    void Collect() {
      Group* group = PickSlot();
      if (group == nullptr || random_.OneIn(2)) {
        mi_collect(random_.OneIn(2));
        return;
      }
      SharedLock allocating, use;
      if (!LockToAllocate(group, &allocating, &use)) return;
      mi_heap_collect(group->heap, random_.OneIn(2));
    }

    void DropSome() {
      for (size_t n = random_.Below(mine_.size() + 1); n > 0 && !::testing::Test::HasFatalFailure(); n--) Free();
    }

    Shadow* const shadow_;
    Random random_;
    Group* default_;
    std::vector<Handle> mine_;
  };

  const uint64_t seed_;
  const int threads_;
  const size_t ends_;  // of 1000 operations, how many end a heap
  const size_t budget_;
  Group* main_;
  std::vector<void*> already_in_main_;
  std::vector<std::atomic<Group*>> slots_;
  std::mutex exchange_mutex_;
  std::vector<Handle> exchange_;
  std::mutex groups_mutex_;
  std::vector<std::unique_ptr<Group>> groups_;
  std::atomic<uint64_t> next_id_{0};
  std::atomic<size_t> bytes_{0};
};

std::vector<uint64_t> Seeds(int n) {
  const char* given = getenv("SHADOW_SEED");
  if (given != nullptr && *given != 0) return {strtoull(given, nullptr, 0)};
  std::vector<uint64_t> seeds;
  for (int i = 1; i <= n; i++) seeds.push_back(static_cast<uint64_t>(i) * (kSoak ? 7919 : 1));
  return seeds;
}

void RunShadow(int seeds, int threads, int heaps, int ends, int operations, int quiet_points, size_t budget) {
  for (uint64_t seed : Seeds(seeds)) {
    SCOPED_TRACE(testing::Message() << "SHADOW_SEED=" << seed);
    Shadow shadow(seed, threads, heaps, ends, budget);
    shadow.Run(operations, quiet_points);
    shadow.Finish();
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "repeat with SHADOW_SEED=" << seed;
      return;
    }
  }
}

// Of 1000 operations of a thread one, or 20, or 40 end a heap: long lives fill pages, short ones stay young.
TEST(ShadowTest, OneThreadAndFewHeaps) { RunShadow(kSoak ? 200 : 4, 1, 3, 1, Scaled(60000), 20, 96 * kMiB); }

TEST(ShadowTest, OneThreadAndManyHeaps) { RunShadow(kSoak ? 200 : 4, 1, 50, 20, Scaled(60000), 10, 96 * kMiB); }

TEST(ShadowTest, ManyShortRunsOfOneThread) { RunShadow(kSoak ? 20000 : Scaled(300), 1, 4, 40, 600, 2, 32 * kMiB); }

TEST(ShadowTest, FourThreadsAndFewHeaps) { RunShadow(kSoak ? 200 : 4, 4, 3, 1, Scaled(30000), 5, 96 * kMiB); }

TEST(ShadowTest, FourThreadsAndManyHeaps) { RunShadow(kSoak ? 200 : 4, 4, 40, 20, Scaled(30000), 5, 96 * kMiB); }

TEST(ShadowTest, ManyShortRunsOfThreeThreads) { RunShadow(kSoak ? 20000 : Scaled(200), 3, 5, 40, 600, 2, 32 * kMiB); }

}  // namespace
}  // namespace mi_test
