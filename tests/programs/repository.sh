# Makes a repository from the stream in $1, clones it, packs and checks both, and prints what must not depend on the
# allocator: names of objects, the history, differences. Packs themselves depend on the timing of threads.
set -eu

git init --quiet --bare -b main origin.git
git -C origin.git fast-import --quiet < "$1"
git -C origin.git -c pack.threads=4 gc --quiet --aggressive --prune=now
git -C origin.git fsck --full --strict
git clone --quiet --no-local origin.git clone
cd clone
git -c pack.threads=4 repack -a -d -f --quiet --depth=50 --window=50
git fsck --full --strict
git checkout --quiet -b work
git merge --quiet -s ours --no-edit origin/side 2> /dev/null || true
git reset --quiet --hard origin/main
git cat-file --batch-all-objects --batch-check | grep -v 'commit [0-9]*$' | cksum
git rev-parse origin/main origin/side
git log --oneline --stat -M origin/main | cksum
git log -p --topo-order origin/main origin/side | cksum
git blame -s dir1/file1.txt | cksum
git grep -c -E '[aeiou]{4}' origin/main | cksum
git archive origin/main | cksum
git status --short | wc -l
