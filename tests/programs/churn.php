<?php
// Memory of all kinds that a PHP program uses; prints sums that a seed of its own decides.
ini_set('memory_limit', '-1');
$seed = 99;
function draw(int $below): int {
    global $seed;
    $seed = ($seed * 1103515245 + 12345) & 0x7fffffff;
    return $seed % $below;
}

$table = [];
for ($i = 0; $i < 200000; $i++) {
    $key = str_repeat('k', 1 + draw(20)) . draw(4000);
    $table[$key] = ($table[$key] ?? '') . str_repeat(chr(65 + $i % 26), draw(50));
    if (draw(6) == 0) unset($table[$key]);
}
ksort($table);
echo 'table: ', count($table), ' ', md5(implode($table)), "\n";

class Node {
    public ?Node $next = null;
    public ?Node $other = null;
    public function __construct(public int $id, public array $data) {}
}
$sum = 0;
for ($round = 0; $round < 50; $round++) {
    $nodes = [];
    for ($i = 0; $i < 1000; $i++) $nodes[] = new Node($i, range(0, draw(20)));
    foreach ($nodes as $i => $node) {
        $node->next = $nodes[($i + 1) % 1000];
        $node->other = $nodes[draw(1000)];
        $sum += count($node->data);
    }
    unset($nodes, $node);
    $sum += gc_collect_cycles();
}
echo 'cycles: ', $sum, "\n";

$rows = array_map(fn($i) => ['id' => $i, 'name' => "row $i", 'list' => range(0, $i % 9)], range(1, 20000));
$text = json_encode($rows);
if (json_decode($text, true) !== $rows || unserialize(serialize($rows)) !== $rows) exit(1);
$packed = gzcompress($text, 9);
if (gzuncompress($packed) !== $text) exit(2);
echo 'json: ', strlen($text), ' ', strlen($packed), "\n";
echo 'regex: ', preg_match_all('/"id":(\d*7),/', $text), ' ',
    md5(preg_replace_callback('/row (\d+)/', fn($m) => $m[1] * 3, $text)), "\n";

$blocks = [];
for ($i = 0; $i < 3000; $i++) {
    $blocks[draw(100)] = str_repeat(chr($i % 256), draw(400000));
}
ksort($blocks);
echo 'blocks: ', md5(implode($blocks)), "\n";

function words(): Generator { for ($i = 0; $i < 50000; $i++) yield "w" . $i % 977; }
$counts = [];
foreach (words() as $word) $counts[$word] = ($counts[$word] ?? 0) + 1;
arsort($counts);
echo 'words: ', count($counts), ' ', reset($counts), "\n";
