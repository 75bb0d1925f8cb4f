# Memory of all kinds that a Perl program uses, in an order that a seed of its own decides; prints what came out.
use strict;
use warnings;

my $seed = 12345;
sub draw { $seed = ($seed * 1103515245 + 12345) & 0x7fffffff; return $seed % $_[0]; }

my %words;
for my $i (1 .. 200_000) {
  my $word = join '', map { chr(97 + draw(26)) } 1 .. 1 + draw(4);
  $words{$word} .= chr(65 + $i % 26);
  delete $words{$word} if draw(10) == 0;
}
my $sum = 0;
$sum = ($sum * 31 + length($_) * ord($words{$_})) % 1000003 for sort keys %words;
print "hash: ", scalar(keys %words), " $sum\n";

my @rows = map { { key => draw(1000), name => "row $_", list => [ map { draw(100) } 1 .. draw(20) ] } } 1 .. 30_000;
@rows = sort { $a->{key} <=> $b->{key} || $a->{name} cmp $b->{name} } @rows;
my @kept = grep { @{ $_->{list} } > 10 } @rows;
print "sort: $rows[0]{name}, $rows[-1]{name}, ", scalar(@kept), "\n";

my $text = join ' ', map { "item$_=" . 'v' x draw(50) } 1 .. 20_000;
my $matches = () = $text =~ /(item\d*7)=(v{3,9})\b/g;
(my $changed = $text) =~ s/(v+)/length($1)/ge;
print "regex: $matches ", length($changed), " ", unpack('%32C*', $changed), "\n";

my @closures = map { my $n = $_; my @held = (1 .. $n % 50); sub { $n + @held } } 1 .. 20_000;
my $called = 0;
$called += $_->() for @closures;
print "closures: $called\n";

my $buffer = '';
for my $i (1 .. 2000) {
  $buffer .= chr($i % 256) x 4000;
  $buffer = substr($buffer, length($buffer) / 2) if length($buffer) > 4_000_000;
}
print "buffer: ", length($buffer), " ", unpack('%32C*', $buffer), "\n";

my @codes;
for my $i (1 .. 40) {
  my $child = fork();
  die "fork: $!" unless defined $child;
  if ($child == 0) {
    my %copy = map { $_ => [ 1 .. $i ] } 1 .. 500;
    delete $words{$_} for (sort keys %words)[0 .. 100];
    exit((keys(%copy) + @{ $copy{1} }) % 200);
  }
  waitpid($child, 0);
  push @codes, $? >> 8;
}
print "forks: @codes\n";
