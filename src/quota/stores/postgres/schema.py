"""The PostgreSQL store's tables and functions: the second twin of the rule's plain case, tested as the first one is.

Each function is one statement of its caller and so one transaction: it does all of its work or nothing. Functions that
only read are STABLE: all they read is of one moment. Numbers are bigint and nothing overflows: a lane ends where a
count passes 2^53, and what is larger is kept in the encoded record alone. Whoever locks, locks in this order: the
stamp ``#``, a key's stamp, the key's record, its account's record.
"""

from __future__ import annotations

VERSION = 1
"""Of the tables and functions together; a later one is refused by name, an earlier one is brought up to date."""

TABLES = """
CREATE SCHEMA IF NOT EXISTS {ns};
CREATE TABLE IF NOT EXISTS {ns}.directory (
  part text COLLATE "C", name text COLLATE "C", value text NOT NULL, PRIMARY KEY (part, name)
) WITH (fillfactor = 70);
-- What a plain charge moves, and no more: a small row without an index on anything that moves, so that it is updated
-- within its page. The record as it was last written by the rule is beside it.
CREATE TABLE IF NOT EXISTS {ns}.records (
  name text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, moves bigint NOT NULL, at bigint NOT NULL,
  totals bigint[] NOT NULL, minutes bigint[] NOT NULL, hours bigint[] NOT NULL,
  levels bigint[] NOT NULL, poured bigint[] NOT NULL, turn bigint, turn_until bigint NOT NULL,
  dead_at bigint NOT NULL, floor bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS records_dead ON {ns}.records (dead_at);
CREATE TABLE IF NOT EXISTS {ns}.bodies (name text COLLATE "C" PRIMARY KEY, body text NOT NULL) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS {ns}.memos (
  name text COLLATE "C", request text COLLATE "C", until bigint NOT NULL, answer text NOT NULL, rest text NOT NULL,
  PRIMARY KEY (name, request)
);
CREATE INDEX IF NOT EXISTS memos_until ON {ns}.memos (until);
INSERT INTO {ns}.directory VALUES ('stamps', '#', '{version}'), ('stamps', '!', '0')
  ON CONFLICT (part, name) DO UPDATE SET value = EXCLUDED.value WHERE EXCLUDED.name = '#';
"""

MIGRATION = """
SELECT set_config('lock_timeout', '{wait}', true);
SELECT pg_advisory_xact_lock(487301543009); -- "quota" in ASCII
DO $quota_do$
DECLARE
  v_found int := 0;
BEGIN
  IF current_setting('server_encoding') <> 'UTF8' THEN
    RAISE EXCEPTION 'the database is encoded in %, a ledger needs UTF8', current_setting('server_encoding');
  END IF;
  IF to_regclass('{ns}.directory') IS NOT NULL THEN
    SELECT value::int INTO v_found FROM {ns}.directory WHERE part = 'stamps' AND name = '#';
  END IF;
  IF v_found > {version} THEN
    RAISE EXCEPTION 'schema {ns} is version %, this version of quota knows {version}', v_found;
  END IF;
  IF v_found < {version} OR {anyway} THEN
    EXECUTE $quota_all${all}$quota_all$;
  END IF;
END $quota_do$;
SELECT {version};
"""
"""One transaction: whoever comes at the same time waits, and finds that nothing is left to do."""

READING = """
CREATE OR REPLACE FUNCTION {ns}.look(p_digest text, p_key text)
RETURNS text LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $quota$
DECLARE
  v_id text := p_key;
  v_seat text;
BEGIN
  IF p_digest <> '' THEN
    SELECT value INTO v_id FROM {ns}.directory WHERE part = 'secrets' AND name = p_digest;
  END IF;
  SELECT value INTO v_seat FROM {ns}.directory WHERE part = 'keys' AND name = v_id;
  IF v_seat IS NULL THEN
    RETURN '0';
  END IF;
  RETURN json_build_array(
    (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = 'k:' || v_id),
    (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = '*'),
    v_seat,
    (SELECT value FROM {ns}.directory WHERE part = 'accounts' AND name = v_seat::json -> 'key' ->> 'account'),
    (SELECT coalesce(json_agg(d.value ORDER BY p.n), '[]'::json)
       FROM json_array_elements(v_seat::json -> 'plans') WITH ORDINALITY p(pair, n)
       LEFT JOIN {ns}.directory d ON d.part = 'plans' AND d.name = p.pair ->> 0))::text;
END $quota$;

CREATE OR REPLACE FUNCTION {ns}.read(p_parts text[], p_names text[]) RETURNS text LANGUAGE sql STABLE AS $quota$
  SELECT json_agg(CASE u.part
      WHEN 'use' THEN (SELECT r.version::text FROM {ns}.records r WHERE r.name = u.name)
      ELSE (SELECT d.value FROM {ns}.directory d WHERE d.part = u.part AND d.name = u.name) END ORDER BY u.n)::text
    FROM unnest(p_parts, p_names) WITH ORDINALITY u(part, name, n)
$quota$;

CREATE OR REPLACE FUNCTION {ns}.list(p_part text) RETURNS text LANGUAGE sql STABLE AS $quota$
  SELECT coalesce(json_agg(value), '[]'::json)::text FROM {ns}.directory WHERE part = p_part
$quota$;

-- The functions in plpgsql keep their plans from call to call; those in SQL, which are for the directory, do not.
CREATE OR REPLACE FUNCTION {ns}.fresh(p_stamp_name text, p_stamp text, p_plans text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $quota$
BEGIN
  RETURN EXISTS (SELECT FROM {ns}.directory WHERE part = 'stamps' AND name = p_stamp_name AND value = p_stamp)
    AND p_plans = coalesce((SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = '*'), '');
END $quota$;

-- Everything, for the rule to decide on: the records, a memo, the floor of new records; '0' where the copy is stale.
CREATE OR REPLACE FUNCTION {ns}.found(p_names text[], p_stamp_name text, p_stamp text, p_plans text, p_request text)
RETURNS text LANGUAGE plpgsql STABLE AS $quota$
BEGIN
  IF NOT {ns}.fresh(p_stamp_name, p_stamp, p_plans) THEN
    RETURN '0';
  END IF;
  RETURN json_build_array(
    (SELECT json_agg(CASE WHEN r.name IS NOT NULL THEN json_build_array(r.version, r.moves, r.turn, r.at, r.totals,
        r.minutes, r.hours, r.levels, r.poured, b.body::json) END ORDER BY u.n)
      FROM unnest(p_names) WITH ORDINALITY u(name, n)
      LEFT JOIN {ns}.records r ON r.name = u.name LEFT JOIN {ns}.bodies b ON b.name = u.name),
    (SELECT json_build_array(m.answer, m.rest::json) FROM {ns}.memos m
      WHERE m.name = p_names[1] AND m.request = p_request),
    (SELECT d.value::bigint FROM {ns}.directory d WHERE d.part = 'stamps' AND d.name = '!'))::text;
END $quota$;
"""

WRITING = """
-- Does all writes if every place is as it was read, else nothing: 1 or 0. One change at a time in a ledger: that stamp
-- is written, not only locked, so that a stricter isolation level than READ COMMITTED sees the conflict too.
CREATE OR REPLACE FUNCTION {ns}.change(p_wait text, p_checks json, p_writes json)
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $quota$
DECLARE
  c json;
  v_value text;
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  UPDATE {ns}.directory SET value = value WHERE part = 'stamps' AND name = '#';
  PERFORM FROM {ns}.directory d WHERE d.part = 'stamps' AND d.name IN (
    SELECT e ->> 1 FROM json_array_elements(p_checks) e WHERE e ->> 0 = 'stamps'
    UNION SELECT e ->> 2 FROM json_array_elements(p_writes) e WHERE e ->> 1 = 'stamps') FOR UPDATE;
  PERFORM FROM {ns}.records r
    WHERE r.name IN (SELECT e ->> 1 FROM json_array_elements(p_checks) e WHERE e ->> 0 = 'use') FOR UPDATE;
  FOR c IN SELECT * FROM json_array_elements(p_checks) LOOP
    IF c ->> 0 = 'use' THEN
      SELECT r.version::text INTO v_value FROM {ns}.records r WHERE r.name = c ->> 1;
    ELSE
      SELECT d.value INTO v_value FROM {ns}.directory d WHERE d.part = c ->> 0 AND d.name = c ->> 1;
    END IF;
    IF v_value IS DISTINCT FROM c ->> 2 THEN
      RETURN '0';
    END IF;
  END LOOP;
  FOR c IN SELECT * FROM json_array_elements(p_writes) LOOP
    CASE c ->> 0
    WHEN 'put' THEN
      INSERT INTO {ns}.directory VALUES (c ->> 1, c ->> 2, c ->> 3)
        ON CONFLICT (part, name) DO UPDATE SET value = EXCLUDED.value;
    WHEN 'del' THEN
      DELETE FROM {ns}.directory WHERE part = c ->> 1 AND name = c ->> 2;
    WHEN 'clear' THEN
      DELETE FROM {ns}.records WHERE name = c ->> 1;
      DELETE FROM {ns}.bodies WHERE name = c ->> 1;
    WHEN 'copy' THEN
      -- The record that is copied gets a new version: a charge that waits for its row must not go on as though alone.
      UPDATE {ns}.records SET version = version + 1 WHERE name = c ->> 1;
      DELETE FROM {ns}.records WHERE name = c ->> 2;
      DELETE FROM {ns}.bodies WHERE name = c ->> 2;
      INSERT INTO {ns}.records SELECT c ->> 2, r.version, r.moves, r.at, r.totals, r.minutes, r.hours, r.levels,
        r.poured, r.turn, r.turn_until, r.dead_at, r.floor FROM {ns}.records r WHERE r.name = c ->> 1;
      INSERT INTO {ns}.bodies SELECT c ->> 2, b.body FROM {ns}.bodies b WHERE b.name = c ->> 1;
    WHEN 'move' THEN
      DELETE FROM {ns}.records WHERE name = c ->> 2;
      DELETE FROM {ns}.bodies WHERE name = c ->> 2;
      UPDATE {ns}.records SET name = c ->> 2, version = version + 1 WHERE name = c ->> 1;
      UPDATE {ns}.bodies SET name = c ->> 2 WHERE name = c ->> 1;
    END CASE;
  END LOOP;
  RETURN '1';
END $quota$;

-- Writes records that the rule decided on, if they and the directory are as they were found: 1 or 0. A record that is
-- new has no row to lock, so the key's stamp stands for it. Each write looks over two dead records and two old memos.
CREATE OR REPLACE FUNCTION {ns}.keep(p_wait text, p_names text[], p_stamp_name text, p_stamp text, p_plans text,
  p_versions bigint[], p_moves bigint[], p_turns bigint[], p_rows json, p_bodies json, p_before bigint,
  p_request text, p_memo text, p_memo_until bigint)
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $quota$
DECLARE
  r {ns}.records;
  v_floor bigint;
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  IF array_position(p_versions, NULL) IS NOT NULL THEN
    UPDATE {ns}.directory SET value = value WHERE part = 'stamps' AND name = p_stamp_name;
  END IF;
  FOR i IN 1 .. cardinality(p_names) LOOP
    SELECT * INTO r FROM {ns}.records WHERE name = p_names[i] FOR UPDATE;
    IF r.version IS DISTINCT FROM p_versions[i] OR r.moves IS DISTINCT FROM p_moves[i]
        OR r.turn IS DISTINCT FROM p_turns[i] THEN
      RETURN '0';
    END IF;
  END LOOP;
  IF NOT {ns}.fresh(p_stamp_name, p_stamp, p_plans) THEN
    RETURN '0';
  END IF;
  FOR i IN 1 .. cardinality(p_names) LOOP
    r := json_populate_record(NULL::{ns}.records, p_rows -> (i - 1));
    IF p_versions[i] IS NULL THEN
      INSERT INTO {ns}.records VALUES (r.*) ON CONFLICT (name) DO NOTHING;
      IF NOT FOUND THEN
        RAISE EXCEPTION 'another call wrote the first record' USING ERRCODE = 'serialization_failure';
      END IF;
    ELSE
      UPDATE {ns}.records SET version = r.version, moves = r.moves, at = r.at, totals = r.totals, minutes = r.minutes,
          hours = r.hours, levels = r.levels, poured = r.poured, turn = r.turn, turn_until = r.turn_until,
          dead_at = r.dead_at, floor = r.floor
        WHERE name = r.name;
    END IF;
    INSERT INTO {ns}.bodies VALUES (r.name, p_bodies ->> (i - 1))
      ON CONFLICT (name) DO UPDATE SET body = EXCLUDED.body;
  END LOOP;
  IF p_request IS NOT NULL THEN
    INSERT INTO {ns}.memos VALUES (p_names[1], p_request, p_memo_until, '', p_memo)
      ON CONFLICT (name, request) DO UPDATE SET until = EXCLUDED.until, answer = '', rest = EXCLUDED.rest;
  END IF;
  DELETE FROM {ns}.memos m USING (SELECT o.name, o.request FROM {ns}.memos o WHERE o.until < p_before
    ORDER BY o.until LIMIT 2 FOR UPDATE SKIP LOCKED) old WHERE m.name = old.name AND m.request = old.request;
  FOR r IN SELECT * FROM {ns}.records d WHERE d.dead_at < p_before ORDER BY d.dead_at LIMIT 2
      FOR UPDATE SKIP LOCKED LOOP
    DELETE FROM {ns}.records WHERE name = r.name;
    DELETE FROM {ns}.bodies WHERE name = r.name;
    v_floor := greatest(v_floor, r.floor, r.at + 1);
  END LOOP;
  IF v_floor IS NOT NULL THEN
    UPDATE {ns}.directory SET value = greatest(value::bigint, v_floor)::text WHERE part = 'stamps' AND name = '!';
  END IF;
  RETURN '1';
END $quota$;
"""

CHECK = """
SELECT coalesce(json_agg(problem), '[]'::json) FROM (
  SELECT 'the record ' || r.name || ' has no body' AS problem
    FROM {ns}.records r WHERE NOT EXISTS (SELECT FROM {ns}.bodies b WHERE b.name = r.name)
  UNION ALL SELECT 'a secret belongs to ' || s.value || ', which is no key'
    FROM {ns}.directory s WHERE s.part = 'secrets'
    AND NOT EXISTS (SELECT FROM {ns}.directory k WHERE k.part = 'keys' AND k.name = s.value)
  UNION ALL SELECT 'the key ' || k.name || ' has no stamp'
    FROM {ns}.directory k WHERE k.part = 'keys'
    AND NOT EXISTS (SELECT FROM {ns}.directory s WHERE s.part = 'stamps' AND s.name = 'k:' || k.name)) found
"""
"""What does not fit together; nothing, unless someone else wrote to the tables."""
