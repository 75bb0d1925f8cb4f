# Interpreter threads: each clones the parent's data, churns, and returns its own to who joins it.
use strict;
use warnings;
use threads;
use threads::shared;

my %table = map { $_ => [ ($_) x ($_ % 20) ] } 1 .. 3000;
my $queue : shared = 0;

sub work {
  my ($id) = @_;
  my %mine;
  for my $i (1 .. 20_000) {
    my $key = ($i * 7919 + $id) % 4001;
    $mine{$key} = 'x' x ($i % 300);
    delete $mine{ ($i * 31) % 4001 };
  }
  my $sum = 0;
  $sum += length($mine{$_}) for keys %mine;
  $sum += @{ $table{$_} } for keys %table;
  { lock($queue); $queue += $id; }
  return ($id, $sum, [ sort { $a <=> $b } keys %mine ]);
}

for my $round (1 .. 4) {
  my @threads = map { threads->create({ context => 'list' }, \&work, $_) } 1 .. 6;
  for my $thread (@threads) {
    my ($id, $sum, $keys) = $thread->join();
    print "round $round thread $id: $sum ", scalar(@$keys), " $keys->[0] $keys->[-1]\n";
  }
}
print "shared: $queue\n";
