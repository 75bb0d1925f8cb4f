// Containers of the C++ library with strings in them, through operator new: a map, a hash table and lists whose
// elements come and go. The common diet of C++ programs, whose blocks are small and freed in another order than they
// were made in.
#include <list>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/bench/suite/suite.h"

namespace {

struct Worker {
  uint64_t seed;
  long operations;
  uint64_t sum;
};

std::string Name(uint64_t number) { return "the element with number " + std::to_string(number); }

void* Work(void* argument) {
  Worker* const worker = static_cast<Worker*>(argument);
  uint64_t sum = 0;
  std::map<std::string, std::vector<int>> ordered;
  std::unordered_map<uint64_t, std::string> hashed;
  std::list<std::string> recent;
  for (long i = 0; i < worker->operations; i++) {
    const uint64_t number = suite_below(&worker->seed, 20000);
    switch (suite_below(&worker->seed, 5)) {
      case 0:
        ordered[Name(number)].push_back(static_cast<int>(i & 255));
        break;
      case 1:
        sum += ordered.erase(Name(number));
        break;
      case 2:
        hashed[number] = Name(number * 3);
        break;
      case 3:
        sum += hashed.erase(number);
        break;
      default:
        recent.push_back(Name(number));
        if (recent.size() > 5000) {
          sum += recent.front().size();
          recent.pop_front();
        }
    }
  }
  for (const auto& [name, values] : ordered) sum += name.size() + values.size();
  worker->sum = sum + hashed.size();
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  std::vector<Worker> workers(args.threads);
  for (int i = 0; i < args.threads; i++) {
    workers[i] = {2000 + static_cast<uint64_t>(i), suite_scaled(&args, 1000000 / args.threads), 0};
  }
  suite_threads(args.threads, Work, workers.data(), sizeof(Worker));
  uint64_t sum = 0;
  for (const Worker& worker : workers) sum += worker.sum;
  return suite_finish(sum);
}
