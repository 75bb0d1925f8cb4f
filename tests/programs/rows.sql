-- A million rows: inserted, indexed, joined, sorted in memory, grouped, updated, deleted, searched as text, checked.
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -64000;
CREATE TABLE item (id INTEGER PRIMARY KEY, owner INTEGER, price REAL, name TEXT);
BEGIN;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
INSERT INTO item SELECT i, (i * 7919) % 5003, (i * 31 % 10007) / 7.0, 'item ' || ((i * 104729) % 1000003) FROM n;
COMMIT;
SELECT count(*), sum(owner), round(sum(price), 3), sum(length(name)) FROM item;
CREATE INDEX item_owner ON item (owner, price);
CREATE INDEX item_name ON item (name);
SELECT name, id FROM item ORDER BY name LIMIT 3 OFFSET 500000;
CREATE TABLE owner AS SELECT owner AS id, count(*) AS items, round(avg(price), 6) AS average, group_concat(id % 10, '') AS digits
FROM item GROUP BY owner;
SELECT count(*), sum(items), max(average), sum(length(digits)) FROM owner;
SELECT o.id, count(*), round(sum(i.price), 3) FROM owner o JOIN item i ON i.owner = o.id WHERE o.average > 715
GROUP BY o.id ORDER BY 3 DESC LIMIT 5;
UPDATE item SET name = upper(name) || ' ' || id WHERE id % 10 = 0;
DELETE FROM item WHERE owner % 17 = 3;
SELECT count(*), sum(length(name)) FROM item;
SELECT sum(r) FROM (SELECT rank() OVER (PARTITION BY owner % 100 ORDER BY price, id) AS r FROM item WHERE id < 200000);
CREATE VIRTUAL TABLE note USING fts5 (body);
INSERT INTO note SELECT 'word' || (id % 1009) || ' word' || (id % 2003) || ' ' || name FROM item WHERE id <= 60000;
SELECT count(*) FROM note WHERE note MATCH 'word7 OR word1999';
INSERT INTO note (note) VALUES ('optimize');
SELECT count(*), sum(json_extract(j, '$.price') > 700) FROM
  (SELECT json_object('id', id, 'price', price, 'list', json_array(owner, name)) AS j FROM item WHERE id % 20 = 1);
VACUUM;
PRAGMA integrity_check;
