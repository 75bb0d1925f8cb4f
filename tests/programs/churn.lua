-- Memory of all kinds that a Lua program uses; prints sums that a seed of its own decides. lua_heap_test runs it too,
-- with each state in a heap of its own.
local seed = 31415
local function draw(below)
  seed = (seed * 1103515245 + 12345) & 0x7fffffff
  return seed % below
end
local function sum_of(text)
  local a = 1
  for i = 1, #text, 7 do a = (a * 31 + text:byte(i)) % 1000000007 end
  return a
end

local function churn(rounds)
  local map, keys = {}, {}
  for i = 1, rounds do
    local key = string.rep("k", draw(20)) .. draw(1000)
    map[key] = (map[key] or "") .. string.rep(string.char(65 + i % 26), draw(30))
    if draw(5) == 0 then map[key] = nil end
  end
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  local parts = {}
  for _, key in ipairs(keys) do parts[#parts + 1] = key .. map[key] end
  return #keys, sum_of(table.concat(parts))
end

for _, mode in ipairs({ "incremental", "generational" }) do
  collectgarbage(mode)
  print(mode, churn(40000))

  local rows = {}
  for i = 1, 10000 do rows[i] = { id = draw(5000), list = { i, i * 2, tostring(i) } } end
  table.sort(rows, function(a, b) return a.id < b.id end)
  print("sort", rows[1].id, rows[5000].id, rows[10000].id)

  local producer = coroutine.wrap(function()
    for i = 1, 3000 do
      local inner = coroutine.wrap(function(n) coroutine.yield(string.rep("x", n % 200)) end)
      coroutine.yield(inner(i))
    end
  end)
  local length = 0
  for _ = 1, 3000 do length = length + #producer() end
  print("coroutines", length)

  local weak, closed = setmetatable({}, { __mode = "v" }), 0
  for i = 1, 5000 do
    weak[i] = setmetatable({ string.rep("w", i % 100) }, { __gc = function() closed = closed + 1 end })
  end
  collectgarbage()
  collectgarbage()
  print("finalised", closed, next(weak))

  local text = string.rep("the quick brown fox ", 3000)
  print("gsub", select(2, text:gsub("(%w+) (%w+)", "%2 %1")), sum_of(text:gsub("%w+", string.upper)))
end
