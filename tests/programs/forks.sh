# Forks in every form that a shell has, with data that the children build in memory inherited from the parent.
set -eu

declare -A squares
total=0
for ((i = 0; i < 400; i++)); do
  squares[$i]=$(
    text=
    for ((j = 0; j < 20; j++)); do text+="$((i * j)),"; done
    echo "$((i * i)):${#text}"
  )
  total=$((total + ${squares[$i]%%:*}))
done
echo "subshells: $total"

for ((i = 0; i < 100; i++)); do
  printf '%s\n' "${!squares[@]}" | sort -n | while read -r key; do ((key % 97 != i % 97)) || echo "$key"; done
done | cksum

jobs=()
for ((i = 0; i < 50; i++)); do
  (
    list=()
    for ((j = 0; j < 200; j++)); do list+=("${squares[$(((i * 7 + j) % 400))]}"); done
    exit $(((${#list[*]} + i) % 100))
  ) &
  jobs+=($!)
done
sum=0
for job in "${jobs[@]}"; do
  code=0
  wait "$job" || code=$?
  sum=$((sum + code))
done
echo "jobs: $sum"

long=x
for ((i = 0; i < 13; i++)); do long+=$long; done
echo "string: ${#long} $(cksum <<< "${long//xxxx/ab}")"

deep() { if (($1 == 0)); then echo bottom; else echo "$(deep $(($1 - 1)))"; fi; }
deep 30
