CREATE SCHEMA IF NOT EXISTS {ns};
CREATE TABLE IF NOT EXISTS {ns}.directory (
  part text COLLATE "C", name text COLLATE "C", value text NOT NULL, PRIMARY KEY (part, name)
) WITH (fillfactor = 70);
-- What a plain charge moves, and no more: a small row without an index on anything that moves, so that it is updated
-- within its page. The record as it was last written by the rule is beside it.
CREATE TABLE IF NOT EXISTS {ns}.records (
  name text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, moves bigint NOT NULL, at bigint NOT NULL,
  totals bigint[] NOT NULL, minutes bigint[] NOT NULL, hours bigint[] NOT NULL,
  levels bigint[] NOT NULL, filled bigint[] NOT NULL, turn bigint, turn_until bigint NOT NULL,
  dead_at bigint NOT NULL, floor bigint NOT NULL, last_used bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS records_dead ON {ns}.records (dead_at);
CREATE TABLE IF NOT EXISTS {ns}.bodies (name text COLLATE "C" PRIMARY KEY, body text NOT NULL) WITH (fillfactor = 70);
-- Lists of keys in the order of their ids: of each account and of each plan's generation.
CREATE TABLE IF NOT EXISTS {ns}.lists (list text COLLATE "C", id text COLLATE "C", PRIMARY KEY (list, id));
INSERT INTO {ns}.lists SELECT 'a' || chr(10) || (value::json -> 'key' ->> 'account'), name
  FROM {ns}.directory WHERE part = 'keys' ON CONFLICT DO NOTHING;
INSERT INTO {ns}.lists SELECT 'p' || chr(10) || (p.pair ->> 1), name
  FROM {ns}.directory, json_array_elements(value::json -> 'plans') p(pair) WHERE part = 'keys' ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS {ns}.remembered (
  name text COLLATE "C", request text COLLATE "C", until bigint NOT NULL, answer text NOT NULL, rest text NOT NULL,
  PRIMARY KEY (name, request)
);
CREATE INDEX IF NOT EXISTS remembered_until ON {ns}.remembered (until);
-- The outbox. Its last number is the stamp '^', whose row is the last that anyone locks, until the commit: so numbers
-- are seen in their order.
CREATE TABLE IF NOT EXISTS {ns}.events (
  cursor bigint PRIMARY KEY, at bigint NOT NULL, key text COLLATE "C", account text COLLATE "C", body text NOT NULL
);
INSERT INTO {ns}.directory VALUES ('stamps', '#', '{version}'), ('stamps', '!', '0'), ('stamps', '^', '0')
  ON CONFLICT (part, name) DO UPDATE SET value = EXCLUDED.value WHERE EXCLUDED.name = '#';
