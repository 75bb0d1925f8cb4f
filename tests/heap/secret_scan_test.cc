// Residue: a second process reads all memory of a program that has a secret heap, after every way in which a secret can
// go, and finds the marker nowhere; in a plain block it finds it every time.
//
// The program is this one, executed again ("--subject"), so that it has inherited nothing; it limits its own address
// space, so that there is not much to read. It makes the marker byte by byte where it is to lie, and nowhere else.
#include <cerrno>
#include <cstring>
#include <thread>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/apart_support.h"
#include "tests/test_support.h"

namespace mi_test {
namespace {

constexpr size_t kMarker = 32;

// No instruction of the program has these bytes in a row.
inline unsigned char MarkerByte(size_t i) { return static_cast<unsigned char>((i * 37 + 11) ^ (i >> 1) ^ 0xc3); }

void Mark(void* p) {
  for (size_t i = 0; i < kMarker; i++) static_cast<volatile unsigned char*>(p)[i] = MarkerByte(i);
}
void Unmark(void* p) {
  for (size_t i = 0; i < kMarker; i++) static_cast<volatile unsigned char*>(p)[i] = 0;
}

// ---- the program that is looked at ----------------------------------------------------------------------------

// Tells what it did, with the process to look at, and waits until that was looked at.
void Show(const char* what, pid_t process = getpid()) {
  char line[200];
  const int n = snprintf(line, sizeof(line), "%d %s\n", process, what);
  if (write(STDOUT_FILENO, line, static_cast<size_t>(n)) != n || read(STDIN_FILENO, line, 1) != 1) _exit(3);
}

void* Marked(mi_heap_t* heap, size_t size) {
  void* p = mi_heap_malloc(heap, size);
  if (p == nullptr) _exit(4);
  Mark(static_cast<char*>(p) + (size >= 2 * kMarker ? size - kMarker : 0));
  return p;
}

int Subject(bool file) {
  const rlimit limit{6 * kGiB, 6 * kGiB};
  if (setrlimit(RLIMIT_AS, &limit) != 0) return 5;
  if (!file && !RefuseCall(SYS_memfd_secret, ENOSYS)) return 6;
  mi_heap_t* heap = NewApart(MI_HEAP_SECRET, "scanned", MI_PROTECTED_SWAP | MI_PROTECTED_FORK | MI_PROTECTED_CORE_FILE);
  mi_heap_t* plain = mi_heap_new();
  if (heap == nullptr || plain == nullptr) return 7;
  void* control = mi_heap_malloc(plain, 4000);
  Mark(control);
  Show("control");
  Unmark(control);
  Show("nothing");
  for (size_t size : {kMarker, size_t{100}, size_t{3000}, size_t{50000}, size_t{200000}, size_t{1200000}}) {
    void* keeper = mi_heap_malloc(heap, size);  // keeps the page, so that it is the wiping that is seen
    void* p = Marked(heap, size);
    Show("live");
    mi_free(p);
    Show("free");
    p = Marked(heap, size);
    std::thread([p] { mi_free(p); }).join();
    Show("free by another thread");
    p = Marked(heap, size);
    char* q = static_cast<char*>(mi_realloc(p, 4 * size));
    if (q == nullptr) return 8;
    Unmark(q + (size >= 2 * kMarker ? size - kMarker : 0));
    Show("realloc that moves");
    Mark(q + 4 * size - kMarker);
    if (mi_realloc(q, 3 * size) != q) return 9;
    Show("realloc that shrinks");
    Mark(q);
    if (mi_reallocf(q, Opaque<size_t>(PTRDIFF_MAX)) != nullptr) return 10;
    Show("reallocf that fails");
    p = Marked(heap, size);
    if (mi_realloc(p, size < 1000 ? 1 : size / 3) == nullptr) return 11;
    Show("realloc to less");
    mi_heap_reset(heap);
    keeper = Marked(heap, size);
    Marked(heap, size);
    mi_heap_reset(heap);
    Show("reset");
    (void)keeper;
  }
  Marked(heap, 100);
  Marked(heap, 300000);
  // A child that does nothing but wait.
  int ends[2];
  if (pipe(ends) != 0) return 12;
  const pid_t child = fork();
  if (child == 0) {
    char c;
    close(ends[1]);
    _exit(read(ends[0], &c, 1) < 0);
  }
  Show("fork", child);
  close(ends[1]);
  waitpid(child, nullptr, 0);
  mi_heap_protect(heap, MI_PROTECT_NONE);
  mi_heap_destroy(heap);
  Show("destroy");
  Mark(control);
  Show("control");
  return 0;
}

// ---- the process that looks -----------------------------------------------------------------------------------

// How often the bytes are in the process's memory, whatever the process itself may do with it. Pages that are not
// present are left out, by what pagemap says; those that the kernel refuses hold nothing for us. At least as many must
// be looked at as the kernel says that the process has, but for those of secret files.
size_t CountInProcess(pid_t process, const std::string& bytes) {
  const std::string folder = "/proc/" + std::to_string(process);
  std::ifstream maps(folder + "/smaps");
  const int memory = open((folder + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
  const int pagemap = open((folder + "/pagemap").c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_TRUE(maps && memory >= 0 && pagemap >= 0) << "process " << process << " cannot be looked at";
  size_t count = 0, pages = 0, resident = 0;
  bool is_secret = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t low, high;
    size_t kib;
    if (sscanf(line.c_str(), "Rss: %zu kB", &kib) == 1 && !is_secret) resident += kib / 4;
    if (sscanf(line.c_str(), "%lx-%lx ", &low, &high) != 2) continue;
    is_secret = line.find("secretmem") != std::string::npos;
    std::vector<uint64_t> entries(64 * 1024);
    std::string text;  // the bytes of present pages in a row
    const auto look = [&] {
      for (size_t at = text.find(bytes); at != std::string::npos; at = text.find(bytes, at + 1)) count++;
      text.clear();
    };
    for (uintptr_t at = low; at < high; at += entries.size() * 4096) {
      const size_t want = std::min<size_t>(entries.size(), (high - at) / 4096);
      if (pread(pagemap, entries.data(), want * 8, static_cast<off_t>(at / 4096 * 8)) != static_cast<ssize_t>(want * 8))
        break;
      for (size_t i = 0; i < want; i++) {
        char page[4096];
        if (entries[i] >> 62 == 0 ||
            pread(memory, page, sizeof(page), static_cast<off_t>(at + i * 4096)) != sizeof(page)) {
          look();
          continue;
        }
        pages++;
        text.append(page, sizeof(page));
      }
    }
    look();
  }
  close(memory);
  close(pagemap);
  EXPECT_GT(resident, 0u);
  EXPECT_GE(pages, resident) << "process " << process << " was not looked at in full";
  return count;
}

void Scan(bool file) {
  int to[2], from[2];
  ASSERT_EQ(pipe(to), 0);
  ASSERT_EQ(pipe(from), 0);
  const pid_t subject = fork();
  if (subject == 0) {
    dup2(to[0], STDIN_FILENO);
    dup2(from[1], STDOUT_FILENO);
    for (int end : {to[0], to[1], from[0], from[1]}) close(end);
    execl("/proc/self/exe", "subject", "--subject", file ? "file" : "lock", nullptr);
    _exit(127);
  }
  close(to[0]);
  close(from[1]);
  std::string marker;
  for (size_t i = 0; i < kMarker; i++) marker.push_back(static_cast<char>(MarkerByte(i)));
  FILE* told = fdopen(from[0], "r");
  char line[200];
  int steps = 0, controls = 0;
  while (fgets(line, sizeof(line), told) != nullptr) {
    int process;
    char what[100];
    ASSERT_EQ(sscanf(line, "%d %99[^\n]", &process, what), 2);
    const size_t found = CountInProcess(process, marker);
    const std::string step = what;
    if (step == "control") {
      EXPECT_EQ(found, 1u) << "the marker in plain memory";
      controls++;
    } else if (step == "live") {
      // Without secret files the memory of a live secret can be read by who may trace the process.
      EXPECT_EQ(found, file ? 0u : 1u) << "step " << steps;
    } else {
      EXPECT_EQ(found, 0u) << "after " << step << ", step " << steps;
    }
    steps++;
    ASSERT_EQ(write(to[1], "x", 1), 1);
  }
  fclose(told);
  close(to[1]);
  int status = 0;
  waitpid(subject, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the program ended with " << status;
  EXPECT_EQ(controls, 2);
  EXPECT_EQ(steps, 3 + 6 * 8 + 2) << "steps that were looked at";
}

TEST(SecretScan, FindsNothingOfSecretsInFiles) {
  if (!HasSecretFiles()) GTEST_SKIP() << "this kernel has no memfd_secret";
  Scan(true);
}
TEST(SecretScan, FindsNothingOfSecretsInLockedMemoryThatWentAndAllThatAreLive) { Scan(false); }

}  // namespace
}  // namespace mi_test

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "--subject") == 0) return mi_test::Subject(strcmp(argv[2], "file") == 0);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
