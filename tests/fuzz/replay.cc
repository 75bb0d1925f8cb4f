// Runs a fuzz target without a fuzzer, in every build and with every compiler:
//
//   replay FILE|DIRECTORY...         each file once, as it is
//   replay --random COUNT SEED       COUNT inputs of random bytes; the last one that was begun is left in
//                                    $TEST_TMPDIR/input for the case that it fails
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void RunFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) {
    fprintf(stderr, "replay: cannot read %s\n", path.c_str());
    exit(2);
  }
  fprintf(stderr, "%s\n", path.filename().c_str());
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

// Runs of the same few bytes make sequences that dwell on something; single ones make them wander.
void RunRandom(size_t count, unsigned seed) {
  const char* directory = getenv("TEST_TMPDIR");
  const std::string name = std::string(directory == nullptr ? "/tmp" : directory) + "/input";
  std::mt19937 random(seed);
  for (size_t n = 0; n < count; n++) {
    std::vector<uint8_t> bytes(1 + random() % 3000);
    const size_t period = (random() % 2 == 0 ? bytes.size() : 1 + random() % 40);
    for (size_t i = 0; i < bytes.size(); i++)
      bytes[i] = (i < period || random() % 16 == 0 ? static_cast<uint8_t>(random()) : bytes[i - period]);
    std::ofstream(name, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && strcmp(argv[1], "--random") == 0) {
    RunRandom(strtoul(argv[2], nullptr, 10), static_cast<unsigned>(strtoul(argv[3], nullptr, 10)));
    return 0;
  }
  size_t files = 0;
  for (int i = 1; i < argc; i++) {
    if (!std::filesystem::is_directory(argv[i])) {
      RunFile(argv[i]);
      files++;
      continue;
    }
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    for (const auto& path : paths) RunFile(path);
    files += paths.size();
  }
  fprintf(stderr, "%zu inputs\n", files);
  return files > 0 ? 0 : 2;
}
