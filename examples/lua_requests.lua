-- What every request runs: the body, a JSON document, is parsed, summed up, and shown as a page through a template.
--
-- The chunk gets the body as its argument and returns the page; an error says where the document is wrong. The template
-- is turned into Lua and compiled by `load`, as template libraries do, so a page costs some thousands of tables,
-- strings and closures. Objects keep the order of their keys, so that the same body gives the same page each time.

local body = ...

-- JSON -----------------------------------------------------------------------------------------------------------

local null = setmetatable({}, {__name = "null", __tostring = function() return "null" end})
local keys_of = {}  -- an object's keys, in the order of the document

local function parse_json(text)
  local at, depth = 1, 0
  local value

  local function fail(what)
    local line = select(2, text:sub(1, at - 1):gsub("\n", "")) + 1
    error(("line %d: %s"):format(line, what), 0)
  end

  local function skip() at = text:find("[^ \t\r\n]", at) or #text + 1 end

  local function expect(token, what)
    if text:sub(at, at + #token - 1) ~= token then fail(what) end
    at = at + #token
  end

  local plain = {['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

  local function unit()
    local hex = text:match("^%x%x%x%x", at)
    if not hex then fail("four hexadecimal digits expected") end
    at = at + 4
    return tonumber(hex, 16)
  end

  local function escape()
    local letter = text:sub(at, at)
    at = at + 1
    if plain[letter] then return plain[letter] end
    if letter ~= "u" then fail("no such escape") end
    local code = unit()
    if code >= 0xD800 and code < 0xDC00 then
      expect("\\u", "half of a surrogate pair")
      local low = unit()
      if low < 0xDC00 or low > 0xDFFF then fail("half of a surrogate pair") end
      code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00)
    elseif code >= 0xDC00 and code < 0xE000 then
      fail("half of a surrogate pair")
    end
    return utf8.char(code)
  end

  local function string_value()
    at = at + 1
    local pieces = {}
    while true do
      local stop = text:find('["\\%c]', at)
      if not stop then fail("the string does not end") end
      if stop > at then pieces[#pieces + 1] = text:sub(at, stop - 1) end
      local letter = text:sub(stop, stop)
      at = stop + 1
      if letter == '"' then return #pieces == 1 and pieces[1] or table.concat(pieces) end
      if letter ~= "\\" then fail("control character in a string") end
      pieces[#pieces + 1] = escape()
    end
  end

  local function number_value()
    local digits = text:match("^-?%d+", at)
    if not digits or digits:find("^-?0%d") then fail("a value expected") end
    local stop = at + #digits
    stop = select(2, text:find("^%.%d+", stop)) and select(2, text:find("^%.%d+", stop)) + 1 or stop
    stop = select(2, text:find("^[eE][+-]?%d+", stop)) and select(2, text:find("^[eE][+-]?%d+", stop)) + 1 or stop
    local number = tonumber(text:sub(at, stop - 1))
    at = stop
    return number
  end

  local function enter()
    depth = depth + 1
    if depth > 100 then fail("nested too deeply") end
    at = at + 1
    skip()
  end

  local function leave(closer)
    local letter = text:sub(at, at)
    if letter ~= "," and letter ~= closer then fail("',' or '" .. closer .. "' expected") end
    at = at + 1
    skip()
    return letter == closer
  end

  local function object_value()
    local object, keys = {}, {}
    keys_of[object] = keys
    enter()
    local done = text:sub(at, at) == "}"
    if done then at = at + 1 end
    while not done do
      if text:sub(at, at) ~= '"' then fail("a name expected") end
      local key = string_value()
      skip()
      expect(":", "':' expected")
      skip()
      if object[key] == nil then keys[#keys + 1] = key end
      object[key] = value()
      skip()
      done = leave("}")
    end
    depth = depth - 1
    return object
  end

  local function array_value()
    local array = {}
    enter()
    local done = text:sub(at, at) == "]"
    if done then at = at + 1 end
    while not done do
      array[#array + 1] = value()
      skip()
      done = leave("]")
    end
    depth = depth - 1
    return array
  end

  local words = {t = {"true", true}, f = {"false", false}, n = {"null", null}}

  function value()
    local letter = text:sub(at, at)
    if letter == "{" then return object_value() end
    if letter == "[" then return array_value() end
    if letter == '"' then return string_value() end
    local word = words[letter]
    if not word then return number_value() end
    expect(word[1], "a value expected")
    return word[2]
  end

  skip()
  local result = value()
  skip()
  if at <= #text then fail("something follows the document") end
  return result
end

-- Templates -------------------------------------------------------------------------------------------------------
-- {{ expression }} puts a value into the page, escaped; {= expression =} puts it as it is; {% statement %} is Lua.

local entities = {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;"}

local function escaped(value)
  if math.type(value) == "float" then value = ("%.10g"):format(value) end
  return (tostring(value):gsub('[&<>"]', entities))
end

local function compile(template, names)
  local code = {"local put, escaped, " .. table.concat(names, ", ") .. " = ...\n"}
  local from = 1
  while true do
    local start, _, kind = template:find("{([{=%%])", from)
    local text = template:sub(from, (start or 0) - 1)
    if text ~= "" then code[#code + 1] = ("put(%q)\n"):format(text) end
    if not start then break end
    local closer = kind == "{" and "}}" or kind .. "}"
    local stop = assert(template:find(closer, start + 2, true), "a template's tag does not end")
    local inside = template:sub(start + 2, stop - 1)
    if kind == "{" then inside = "put(escaped(" .. inside .. "))" end
    if kind == "=" then inside = "put(" .. inside .. ")" end
    code[#code + 1] = inside .. "\n"
    from = stop + 2
  end
  return assert(load(table.concat(code), "=template", "t"))
end

local function renderer(template, names)
  local run = compile(template, names)
  return function(...)
    local pieces = {}
    run(function(piece) pieces[#pieces + 1] = piece end, escaped, ...)
    return table.concat(pieces)
  end
end

local row = renderer([[
<tr>{% for _, key in ipairs(columns) do %}<td>{{ record[key] == nil and "" or record[key] }}</td>{% end %}</tr>
]], {"columns", "record"})

local page_of = renderer([[
<!doctype html>
<title>{{ title }}</title>
<h1>{{ title }}</h1>
<p>{{ sums.values }} values, {{ sums.depth }} deep, {{ sums.numbers }} numbers with a total of {{ sums.total }}.</p>
<ol>
{% for _, word in ipairs(words) do %}<li>{{ word.text }}: {{ word.count }}</li>
{% end %}</ol>
{= content =}
]], {"title", "sums", "words", "content"})

-- The page ---------------------------------------------------------------------------------------------------------

local show

local function is_record(value)
  if type(value) ~= "table" or not keys_of[value] then return false end
  for _, key in ipairs(keys_of[value]) do
    if type(value[key]) == "table" and value[key] ~= null then return false end
  end
  return true
end

-- An array of flat objects is a table; its columns are all their keys.
local function show_records(records)
  local columns, known, rows = {}, {}, {}
  for _, record in ipairs(records) do
    for _, key in ipairs(keys_of[record]) do
      if not known[key] then known[key] = true columns[#columns + 1] = key end
    end
  end
  for index, record in ipairs(records) do rows[index] = row(columns, record) end
  for index, key in ipairs(columns) do columns[index] = "<th>" .. escaped(key) .. "</th>" end
  return "<table>\n<tr>" .. table.concat(columns) .. "</tr>\n" .. table.concat(rows) .. "</table>\n"
end

local function show_array(array)
  local records = #array > 0
  for _, item in ipairs(array) do records = records and is_record(item) end
  if records then return show_records(array) end
  local items = {}
  for index, item in ipairs(array) do items[index] = "<li>" .. show(item) .. "</li>" end
  return "<ol>" .. table.concat(items) .. "</ol>\n"
end

local function show_object(object)
  local items = {}
  for index, key in ipairs(keys_of[object]) do
    items[index] = "<dt>" .. escaped(key) .. "</dt><dd>" .. show(object[key]) .. "</dd>"
  end
  return "<dl>" .. table.concat(items) .. "</dl>\n"
end

function show(value)
  if type(value) ~= "table" or value == null then return escaped(value) end
  return (keys_of[value] and show_object or show_array)(value)
end

-- How much there is, how deep, what its numbers come to, and how often each word occurs.
local function sum_up(document)
  local sums, counts = {values = 0, depth = 0, numbers = 0, total = 0}, {}
  local function visit(value, depth)
    sums.values = sums.values + 1
    sums.depth = math.max(sums.depth, depth)
    if type(value) == "number" then
      sums.numbers, sums.total = sums.numbers + 1, sums.total + value
    elseif type(value) == "string" then
      for word in value:gmatch("%a%a%a%a+") do
        word = word:lower()
        counts[word] = (counts[word] or 0) + 1
      end
    elseif type(value) == "table" and value ~= null then
      for _, key in ipairs(keys_of[value] or {}) do visit(value[key], depth + 1) end
      if not keys_of[value] then for _, item in ipairs(value) do visit(item, depth + 1) end end
    end
  end
  visit(document, 1)
  local words = {}
  for text, count in pairs(counts) do words[#words + 1] = {text = text, count = count} end
  table.sort(words, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.text < b.text
  end)
  return sums, table.move(words, 1, math.min(#words, 5), 1, {})
end

local document = parse_json(body)
local sums, words = sum_up(document)
local first = type(document) == "table" and keys_of[document] and keys_of[document][1]
return page_of(first and first .. " " .. tostring(document[first]):sub(1, 40):gsub("^table:.*", "") or "document", sums,
               words, show(document))
