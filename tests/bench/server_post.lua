-- wrk's script for server_bench.sh: posts the documents named after "--" in turn, every thread starting at another
-- one, and prints at the end "requests N errors E".

local requests = {}
local position = 0
local threads = 0

function setup(thread)
  thread:set("start", threads)
  threads = threads + 1
end

function init(arguments)
  for _, name in ipairs(arguments) do
    local file = assert(io.open(name, "rb"))
    local body = file:read("*a")
    file:close()
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
  end
  assert(#requests > 0, "no documents named")
  position = start * 5
end

function request()
  position = position + 1
  return requests[position % #requests + 1]
end

function done(summary)
  local e = summary.errors
  io.write(string.format("requests %d errors %d\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
