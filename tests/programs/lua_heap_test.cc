// A language runtime with a heap per interpreter: Lua states whose allocator, given to lua_newstate, is a heap of ours.
// The same script must give what it gives on malloc, everything of a state must lie in its heap, and ending the heap
// must end the state, closed or not, on any thread.
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <lua.hpp>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mi/mimalloc.h"
#include "tests/test_support.h"

namespace {

// What a state's allocator keeps beside the heap; limit 0 means none.
struct Memory {
  mi_heap_t* heap;
  size_t live = 0;
  size_t limit = 0;
  size_t refused = 0;
  size_t outside = 0;  // blocks that the heap does not know as its own
};

void* HeapAlloc(void* data, void* block, size_t old_size, size_t new_size) {
  Memory* const memory = static_cast<Memory*>(data);
  if (block == nullptr) old_size = 0;  // there it is the kind of the new object
  if (new_size == 0) {
    mi_free(block);
    memory->live -= old_size;
    return nullptr;
  }
  if (memory->limit != 0 && new_size > old_size && memory->live - old_size + new_size > memory->limit) {
    memory->refused++;
    return nullptr;
  }
  void* const result = mi_heap_realloc(memory->heap, block, new_size);
  if (result == nullptr) return nullptr;
  memory->live += new_size - old_size;
  if (!mi_heap_contains(memory->heap, result)) memory->outside++;
  return result;
}

void* MallocAlloc(void*, void* block, size_t, size_t new_size) {
  if (new_size != 0) return std::realloc(block, new_size);
  std::free(block);
  return nullptr;
}

// Lua's print, into a string that an upvalue points to.
int Print(lua_State* state) {
  std::string* const out = static_cast<std::string*>(lua_touserdata(state, lua_upvalueindex(1)));
  for (int i = 1; i <= lua_gettop(state); i++) {
    size_t length;
    const char* const text = luaL_tolstring(state, i, &length);
    out->append(i > 1 ? "\t" : "").append(text, length);
    lua_pop(state, 1);
  }
  out->push_back('\n');
  return 0;
}

const std::string& Script() {
  static const std::string* const script = [] {
    std::ifstream file("tests/programs/churn.lua");
    return new std::string(std::istreambuf_iterator<char>(file), {});
  }();
  return *script;
}

void OpenLibraries(lua_State* state, std::string* out) {
  luaL_openlibs(state);
  lua_pushlightuserdata(state, out);
  lua_pushcclosure(state, Print, 1);
  lua_setglobal(state, "print");
}

// Runs `script` in the state and returns what it printed, or its error.
std::string RunScript(lua_State* state, const std::string& script) {
  std::string out;
  OpenLibraries(state, &out);
  if (luaL_loadbuffer(state, script.data(), script.size(), "script") != LUA_OK || lua_pcall(state, 0, 0, 0) != LUA_OK) {
    out = std::string("error: ") + lua_tostring(state, -1);
  }
  return out;
}

const std::string& Expected() {
  static const std::string* const expected = [] {
    lua_State* const state = lua_newstate(MallocAlloc, nullptr);
    std::string* const out = new std::string(RunScript(state, Script()));
    lua_close(state);
    return out;
  }();
  return *expected;
}

TEST(LuaHeap, TheScriptGivesWhatItGivesOnMalloc) {
  ASSERT_FALSE(Script().empty()) << "tests/programs/churn.lua is not there";
  ASSERT_EQ(Expected().rfind("incremental", 0), 0u) << Expected();
  Memory memory{mi_heap_new()};
  lua_State* const state = lua_newstate(HeapAlloc, &memory);
  ASSERT_NE(state, nullptr);
  EXPECT_EQ(RunScript(state, Script()), Expected());
  EXPECT_EQ(memory.outside, 0u);
  size_t shown = 0;
  for (const mi_test::Shown& block : mi_test::BlocksOf(memory.heap)) shown += block.size;
  EXPECT_GE(shown, memory.live);
  lua_close(state);
  EXPECT_EQ(memory.live, 0u);
  EXPECT_EQ(mi_test::CountBlocks(memory.heap), 0u) << "lua_close freed every block";
  mi_heap_destroy(memory.heap);
}

TEST(LuaHeap, AStateThatIsNotClosedEndsWithItsHeap) {
  size_t before = 0;
  for (int round = 0; round < 60; round++) {
    Memory memory{mi_heap_new()};
    lua_State* const state = lua_newstate(HeapAlloc, &memory);
    ASSERT_NE(state, nullptr);
    const std::string script = "t = {} for i = 1, 30000 do t[i] = { tostring(i), {} } end print(#t)";
    ASSERT_EQ(RunScript(state, script), "30000\n");
    ASSERT_GT(memory.live, 4u << 20);
    mi_heap_destroy(memory.heap);
    if (round == 9) before = mi_test::ResidentBytes();
  }
  // One state that stayed would be 4 MiB, and fifty were dropped since.
  EXPECT_LT(mi_test::ResidentBytes(), before + (40u << 20));
}

TEST(LuaHeap, StatesGoFromThreadToThread) {
  constexpr int kThreads = 4;
  std::vector<Memory> memories(kThreads);
  std::vector<lua_State*> states(kThreads, nullptr);
  std::vector<std::string> outputs(kThreads);
  Expected();
  for (int round = 0; round < 3; round++) {
    // Made by one thread, which ends; used by the next, by a third once more; ended by a fourth, closed or not.
    mi_test::InThreads(kThreads, [&](int i) {
      memories[i] = Memory{mi_heap_new()};
      states[i] = lua_newstate(HeapAlloc, &memories[i]);
      if (states[i] != nullptr) RunScript(states[i], "u = {} for i = 1, 3000 do u[i] = ('x'):rep(i % 100) end");
    });
    mi_test::InThreads(kThreads, [&](int i) { outputs[i] = RunScript(states[(i + 1) % kThreads], Script()); });
    for (int i = 0; i < kThreads; i++) EXPECT_EQ(outputs[i], Expected());
    mi_test::InThreads(kThreads, [&](int i) {
      outputs[i] = RunScript(states[(i + 2) % kThreads],
                             "local n = 0 for i = 1, #u do n = n + #u[i] end u = nil "
                             "collectgarbage() print(n)");
    });
    for (int i = 0; i < kThreads; i++) EXPECT_EQ(outputs[i], "148500\n");
    mi_test::InThreads(kThreads, [&](int i) {
      const int which = (i + 3) % kThreads;
      if (which % 2 == 0) lua_close(states[which]);
      mi_heap_destroy(memories[which].heap);
    });
    for (const Memory& memory : memories) EXPECT_EQ(memory.outside, 0u);
  }
}

TEST(LuaHeap, AStateThatIsRefusedMemoryFailsAloneAndCanGoOn) {
  Memory memory{mi_heap_new()};
  memory.limit = 2u << 20;
  lua_State* const state = lua_newstate(HeapAlloc, &memory);
  ASSERT_NE(state, nullptr);
  EXPECT_EQ(RunScript(state, "t = {} for i = 1, 1e9 do t[i] = { i } end"), "error: not enough memory");
  EXPECT_GT(memory.refused, 0u);
  EXPECT_LE(memory.live, memory.limit);
  // What the table held is garbage without it, and there is room again.
  lua_pushnil(state);
  lua_setglobal(state, "t");
  lua_gc(state, LUA_GCCOLLECT);
  EXPECT_LT(memory.live, memory.limit / 4);
  EXPECT_EQ(RunScript(state, "print(('ab'):rep(3))"), "ababab\n");
  lua_close(state);
  EXPECT_EQ(mi_test::CountBlocks(memory.heap), 0u);
  mi_heap_destroy(memory.heap);
}

}  // namespace
