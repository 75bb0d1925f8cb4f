#!/usr/bin/env bash
# xz and zstd with threads and the library preloaded: the archives are byte for byte those made without it, and give
# back what went in. Also decompression with threads, and bzip2 and gzip beside them.
source tests/programs/preloaded.sh "$@"
requires xz zstd python3

/usr/bin/python3 "$here/text.py" 24000000 > "$scratch/text"

same xz sh -c "xz -2 --threads=4 --block-size=2MiB < '$scratch/text' > text.xz && xz --threads=4 -dc text.xz | cksum"
same_files xz text.xz
same zstd sh -c "zstd -q -9 -T4 -B1048576 < '$scratch/text' > text.zst && zstd -q --long=27 -dc text.zst | cksum"
same_files zstd text.zst
same dictionary sh -c "split -b 3000 -a 4 '$scratch/text' part. && zstd -q -T4 --train part.a[a-d]* -o dictionary &&
  mkdir packed && zstd -q -T4 -D dictionary part.al* --output-dir-flat packed && cat packed/* | cksum"
cmp <(xz -dc "$scratch/xz.preloaded/text.xz") "$scratch/text" || fail "xz: not what went in"
cmp <(zstd -q -dc "$scratch/zstd.preloaded/text.zst") "$scratch/text" || fail "zstd: not what went in"
seen xz $((2 * runs))
seen zstd $((4 * runs))
