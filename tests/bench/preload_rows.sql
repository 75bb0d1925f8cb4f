-- A million rows in memory: inserted, indexed, grouped, sorted, searched as text, made into JSON, updated. The values are
-- pseudo-random: a regular pattern would measure the processor's prefetcher.
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -64000;
CREATE TABLE item (id INTEGER PRIMARY KEY, owner INTEGER, price REAL, name TEXT);
BEGIN;
WITH RECURSIVE n (i, r) AS
  (SELECT 1, 42 UNION ALL SELECT i + 1, (r * 1103515245 + 12345) % 2147483648 FROM n LIMIT 1000000)
INSERT INTO item SELECT i, (r >> 8) % 5003, (r >> 4) / 7.0, 'item ' || (r >> 10) FROM n;
COMMIT;
SELECT count(*), sum(owner), round(sum(price), 3), sum(length(name)) FROM item;
CREATE INDEX item_owner ON item (owner);
CREATE TABLE owner AS
  SELECT owner AS id, count(*) AS items, round(avg(price), 6) AS average, group_concat(id % 10, '') AS digits
  FROM item WHERE owner < 1000 GROUP BY owner;
SELECT sum(length(name)) FROM (SELECT name FROM item WHERE id % 7 = 0 ORDER BY name LIMIT 100000);
CREATE VIRTUAL TABLE note USING fts5 (body);
INSERT INTO note SELECT 'word' || (id % 1009) || ' word' || (id % 2003) || ' ' || name FROM item WHERE id <= 20000;
SELECT count(*), sum(json_extract(j, '$.price') > 700) FROM
  (SELECT json_object('id', id, 'price', price, 'list', json_array(owner, name)) AS j FROM item WHERE id % 20 = 1);
UPDATE item SET name = upper(name) || ' ' || id WHERE id % 10 = 0;
