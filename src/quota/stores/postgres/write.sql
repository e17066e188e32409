-- Puts an event down, under a number that nobody else draws until this transaction is over; of the two oldest it forgets
-- those from before p_since.
CREATE OR REPLACE FUNCTION {ns}.tell(p_at bigint, p_key text, p_account text, p_body text, p_since bigint)
RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $quota$
DECLARE
  v_cursor bigint;
BEGIN
  UPDATE {ns}.directory SET value = (value::bigint + 1)::text WHERE part = 'stamps' AND name = '^'
    RETURNING value::bigint INTO STRICT v_cursor;
  INSERT INTO {ns}.events VALUES (v_cursor, p_at, p_key, p_account, p_body);
  DELETE FROM {ns}.events WHERE at < p_since
    AND cursor IN (SELECT o.cursor FROM {ns}.events o ORDER BY o.cursor LIMIT 2);
END $quota$;

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
    WHEN 'index' THEN
      INSERT INTO {ns}.lists VALUES (c ->> 1, c ->> 2) ON CONFLICT DO NOTHING;
    WHEN 'unindex' THEN
      DELETE FROM {ns}.lists WHERE list = c ->> 1 AND id = c ->> 2;
    WHEN 'clear' THEN
      DELETE FROM {ns}.records WHERE name = c ->> 1;
      DELETE FROM {ns}.bodies WHERE name = c ->> 1;
      DELETE FROM {ns}.remembered WHERE name = c ->> 1;
    WHEN 'copy' THEN
      -- The record that is copied gets a new version: a charge that waits for its row must not go on as though alone.
      UPDATE {ns}.records SET version = version + 1 WHERE name = c ->> 1;
      DELETE FROM {ns}.records WHERE name = c ->> 2;
      DELETE FROM {ns}.bodies WHERE name = c ->> 2;
      INSERT INTO {ns}.records SELECT c ->> 2, r.version, r.moves, r.at, r.totals, r.minutes, r.hours, r.levels,
        r.filled, r.turn, r.turn_until, r.dead_at, r.floor, r.last_used FROM {ns}.records r WHERE r.name = c ->> 1;
      INSERT INTO {ns}.bodies SELECT c ->> 2, b.body FROM {ns}.bodies b WHERE b.name = c ->> 1;
    WHEN 'move' THEN
      DELETE FROM {ns}.records WHERE name = c ->> 2;
      DELETE FROM {ns}.bodies WHERE name = c ->> 2;
      UPDATE {ns}.records SET name = c ->> 2, version = version + 1 WHERE name = c ->> 1;
      UPDATE {ns}.bodies SET name = c ->> 2 WHERE name = c ->> 1;
      DELETE FROM {ns}.remembered WHERE name = c ->> 1;
    WHEN 'untell' THEN
      DELETE FROM {ns}.events WHERE cursor IN (SELECT e::bigint FROM json_array_elements_text(c -> 1) e);
    WHEN 'tell' THEN
      PERFORM {ns}.tell((c ->> 1)::bigint, c ->> 2, c ->> 3, c ->> 4, (c ->> 5)::bigint);
    END CASE;
  END LOOP;
  RETURN '1';
END $quota$;

-- Writes records that the rule decided on, if they and the directory are as they were found: 1 or 0. A record that is
-- new has no row to lock, so the key's stamp stands for it. Each write looks over two dead records and two old remembered.
CREATE OR REPLACE FUNCTION {ns}.keep(p_wait text, p_names text[], p_stamp_name text, p_stamp text, p_plans text,
  p_versions bigint[], p_moves bigint[], p_turns bigint[], p_rows json, p_bodies json, p_before bigint,
  p_request text, p_remembered text, p_remembered_until bigint, p_told json)
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $quota$
DECLARE
  r {ns}.records;
  v_floor bigint;
  e json;
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  -- Callers share a stamp, which is nobody's to wait for.
  IF array_position(p_versions, NULL) IS NOT NULL AND p_stamp_name <> '*' THEN
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
          hours = r.hours, levels = r.levels, filled = r.filled, turn = r.turn, turn_until = r.turn_until,
          dead_at = r.dead_at, floor = r.floor, last_used = r.last_used
        WHERE name = r.name;
    END IF;
    INSERT INTO {ns}.bodies VALUES (r.name, p_bodies ->> (i - 1))
      ON CONFLICT (name) DO UPDATE SET body = EXCLUDED.body;
  END LOOP;
  IF p_request IS NOT NULL THEN
    INSERT INTO {ns}.remembered VALUES (p_names[1], p_request, p_remembered_until, '', p_remembered)
      ON CONFLICT (name, request) DO UPDATE SET until = EXCLUDED.until, answer = '', rest = EXCLUDED.rest;
  END IF;
  DELETE FROM {ns}.remembered m USING (SELECT o.name, o.request FROM {ns}.remembered o WHERE o.until < p_before
    ORDER BY o.until LIMIT 2 FOR UPDATE SKIP LOCKED) old WHERE m.name = old.name AND m.request = old.request;
  FOR r IN SELECT * FROM {ns}.records d WHERE d.dead_at < p_before ORDER BY d.dead_at LIMIT 2
      FOR UPDATE SKIP LOCKED LOOP
    DELETE FROM {ns}.records WHERE name = r.name;
    DELETE FROM {ns}.bodies WHERE name = r.name;
    IF strpos(r.name, E'\n') = 0 THEN -- a caller's name has one: it leaves no floor
      v_floor := greatest(v_floor, r.floor, r.at + 1);
      IF r.last_used > 0 AND r.name LIKE 'k:%' THEN
        INSERT INTO {ns}.directory VALUES ('last_used', substr(r.name, 3), r.last_used)
          ON CONFLICT (part, name) DO UPDATE SET value = EXCLUDED.value;
      END IF;
    END IF;
  END LOOP;
  IF v_floor IS NOT NULL THEN
    UPDATE {ns}.directory SET value = greatest(value::bigint, v_floor)::text WHERE part = 'stamps' AND name = '!';
  END IF;
  IF p_told IS NOT NULL THEN
    FOR e IN SELECT * FROM json_array_elements(p_told) LOOP
      PERFORM {ns}.tell((e ->> 0)::bigint, e ->> 1, e ->> 2, e ->> 3, (e ->> 4)::bigint);
    END LOOP;
  END IF;
  RETURN '1';
END $quota$;
