# Compiles the library's sources below $1 and a C++ file, and links the former; prints the objects' checksums.
set -eu

root=$1
objects=()
for source in "$root"/mi/*.c "$root"/mi/heap/*.c "$root"/mi/internal/*.c; do
  object=$(basename "$(dirname "$source")")_$(basename "$source" .c).o
  gcc -std=gnu11 -O2 -g -fPIC -Wall -Wextra "-ffile-prefix-map=$PWD=." "-I$root" -c "$source" -o "$object"
  objects+=("$object")
done
gcc -shared -Wl,--build-id=none -o libcompiled.so "${objects[@]}" -pthread
cat > templates.cc << 'END'
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

using value = std::variant<int, std::string, std::vector<double>, std::map<std::string, std::shared_ptr<int>>>;
int main(int argc, char** argv) {
  std::unordered_map<std::string, value> table;
  for (int i = 0; i < argc; i++) table.emplace(argv[i], std::vector<double>(i, 1.0));
  std::vector<std::function<int(int)>> functions{[](int x) { return x + 1; }, std::negate<int>()};
  std::regex pattern("(a|b)+c?");
  return std::count_if(table.begin(), table.end(), [&](const auto& e) { return std::regex_match(e.first, pattern); });
}
END
g++ -std=c++17 -O2 -g "-ffile-prefix-map=$PWD=." -c templates.cc -o templates.o
cksum "${objects[@]}" libcompiled.so templates.o
