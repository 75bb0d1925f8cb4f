// std::pmr containers on a heap: a document is parsed into maps, vectors and strings whose memory is one heap's. Unlike
// a std::pmr::monotonic_buffer_resource, the heap serves any thread, and what a container gives up is used again;
// unlike the default resource, everything goes at once: the containers are never destroyed, only forgotten.
//
//   pmr_arena FILE    counts the words of FILE, line by line, on two threads
#include <cctype>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory_resource>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "mi/mimalloc-pmr.h"

namespace {

using Index = std::pmr::map<std::pmr::string, std::pmr::vector<int>>;  // word: the lines that it is on

// Makes an object in the resource's memory that nobody will destroy.
template <typename T>
T* MakeIn(std::pmr::memory_resource* resource) {
  return new (resource->allocate(sizeof(T), alignof(T))) T(resource);
}

void AddLine(std::string_view line, int number, Index* index) {
  std::pmr::memory_resource* const resource = index->get_allocator().resource();
  for (size_t at = 0; at < line.size();) {
    size_t end = at;
    while (end < line.size() && std::isalpha(static_cast<unsigned char>(line[end])) != 0) end++;
    if (end > at) {
      std::pmr::vector<int>& lines = (*index)[std::pmr::string(line.substr(at, end - at), resource)];
      if (lines.empty() || lines.back() != number) lines.push_back(number);
    }
    at = end + 1;
  }
}

// Half of the lines each; both threads allocate in the one heap.
Index* ReadHalf(const std::vector<std::string>& text, size_t half, std::pmr::memory_resource* resource) {
  Index* const index = MakeIn<Index>(resource);
  const size_t first = half * text.size() / 2, last = (half + 1) * text.size() / 2;
  for (size_t i = first; i < last; i++) AddLine(text[i], static_cast<int>(i + 1), index);
  return index;
}

// Moves what the second has to the first. The nodes of the map change hands without being copied.
void Join(Index* first, Index* second) {
  first->merge(*second);
  for (auto& [word, lines] : *second) {
    std::pmr::vector<int>& all = (*first)[word];
    all.insert(all.end(), lines.begin(), lines.end());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: pmr_arena FILE\n");
    return 2;
  }
  std::ifstream file(argv[1]);
  if (!file) {
    std::fprintf(stderr, "pmr_arena: %s cannot be read\n", argv[1]);
    return 1;
  }
  std::vector<std::string> text;
  for (std::string line; std::getline(file, line);) text.push_back(line);

  mi_heap_memory_resource resource;
  for (int round = 1; round <= 3; round++) {
    Index* halves[2];
    std::thread second([&] { halves[1] = ReadHalf(text, 1, &resource); });
    halves[0] = ReadHalf(text, 0, &resource);
    second.join();
    Join(halves[0], halves[1]);

    const Index::value_type* longest = nullptr;
    for (const auto& entry : *halves[0]) {
      if (longest == nullptr || entry.second.size() > longest->second.size()) longest = &entry;
    }
    std::printf("round %d: %zu words", round, halves[0]->size());
    if (longest != nullptr) std::printf(", \"%s\" on %zu lines", longest->first.c_str(), longest->second.size());
    std::printf("\n");
    resource.release();  // every map, vector and string at once
  }
  return 0;
}
