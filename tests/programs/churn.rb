# Memory of all kinds that a Ruby program uses; prints sums that a seed of its own decides.
require 'digest'
require 'json'
require 'zlib'

$seed = 4711
def draw(below)
  $seed = ($seed * 1103515245 + 12345) & 0x7fffffff
  $seed % below
end

table = {}
150_000.times do |i|
  key = 'k' * (1 + draw(30)) + draw(3000).to_s
  table[key] = (table[key] || '') + (65 + i % 26).chr * draw(40)
  table.delete(key) if draw(6) == 0
end
puts "hash: #{table.size} #{Digest::MD5.hexdigest(table.sort.join)}"

rows = Array.new(20_000) { |i| { 'id' => i, 'tags' => Array.new(draw(8)) { |j| "t#{j * draw(50)}" } } }
text = JSON.generate(rows)
raise 'json' unless JSON.parse(text) == rows
packed = Zlib.deflate(text, 9)
raise 'zlib' unless Zlib.inflate(packed) == text
puts "json: #{text.size} #{packed.size}"
raise 'marshal' unless Marshal.load(Marshal.dump(rows)) == rows

GC.stress = true
small = Array.new(30) { |i| "s#{i}" * 3 }.map(&:to_sym)
GC.stress = false
puts "stress: #{small.size}"
3.times { GC.start(full_mark: true, immediate_sweep: true) }
GC.compact if GC.respond_to?(:compact)

threads = Array.new(8) do |t|
  Thread.new do
    mine = {}
    20_000.times { |i| mine[(i * 7919 + t) % 2003] = "v#{i}" * (i % 30) }
    Digest::MD5.hexdigest(mine.sort.join)
  end
end
puts threads.map(&:value)

codes = Array.new(20) do |i|
  pid = fork do
    copy = table.map { |k, v| k + v }.select { |s| s.size % 7 == i % 7 }
    GC.start
    exit!(copy.size % 200)
  end
  Process.wait(pid)
  $?.exitstatus
end
puts "forks: #{codes.join(' ')}"
puts "regex: #{text.gsub(/t(\d+)/) { ($1.to_i * 3).to_s }.sum} #{text.scan(/"id":\d*7,/).size}"
