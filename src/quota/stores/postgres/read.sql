-- A key, its account and those above (or those that are named), the plans of the key and then of each account.
CREATE OR REPLACE FUNCTION {ns}.look(p_digest text, p_key text, p_above text[])
RETURNS text LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $quota$
DECLARE
  v_id text := p_key;
  v_key_entry text;
  v_names text[];
  v_body text;
  v_accounts text[] := '{}';
  v_pairs json[];
  v_place int := 1;
BEGIN
  IF p_digest <> '' THEN
    SELECT value INTO v_id FROM {ns}.directory WHERE part = 'secrets' AND name = p_digest;
  END IF;
  SELECT value INTO v_key_entry FROM {ns}.directory WHERE part = 'keys' AND name = v_id;
  IF v_key_entry IS NULL THEN
    RETURN '0';
  END IF;
  v_names := (v_key_entry::json -> 'key' ->> 'account') || coalesce(p_above, '{}');
  v_pairs := ARRAY[v_key_entry::json -> 'plans'];
  WHILE v_place <= cardinality(v_names) LOOP
    SELECT value INTO v_body FROM {ns}.directory WHERE part = 'accounts' AND name = v_names[v_place];
    IF FOUND THEN
      v_accounts := v_accounts || v_body;
      v_pairs := v_pairs || coalesce(v_body::json -> 'plans', '[]'::json);
      IF p_above IS NULL AND v_body::json #>> '{account,parent}' IS NOT NULL THEN
        v_names := v_names || (v_body::json #>> '{account,parent}');
      END IF;
    END IF;
    v_place := v_place + 1;
  END LOOP;
  RETURN json_build_array(
    (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = 'k:' || v_id),
    (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = '*'),
    v_key_entry,
    v_accounts,
    (SELECT coalesce(json_agg(d.value ORDER BY u.n, p.n), '[]'::json)
       FROM unnest(v_pairs) WITH ORDINALITY u(pairs, n), json_array_elements(u.pairs) WITH ORDINALITY p(pair, n)
       LEFT JOIN {ns}.directory d ON d.part = 'plans' AND d.name = p.pair ->> 0))::text;
END $quota$;

CREATE OR REPLACE FUNCTION {ns}.read(p_parts text[], p_names text[]) RETURNS text LANGUAGE sql STABLE AS $quota$
  SELECT json_agg(CASE u.part
      WHEN 'use' THEN (SELECT r.version::text FROM {ns}.records r WHERE r.name = u.name)
      WHEN 'at' THEN (SELECT r.at::text FROM {ns}.records r WHERE r.name = u.name)
      WHEN 'last_used' THEN coalesce(
        (SELECT nullif(r.last_used, 0)::text FROM {ns}.records r WHERE r.name = 'k:' || u.name),
        (SELECT d.value FROM {ns}.directory d WHERE d.part = u.part AND d.name = u.name))
      ELSE (SELECT d.value FROM {ns}.directory d WHERE d.part = u.part AND d.name = u.name) END ORDER BY u.n)::text
    FROM unnest(p_parts, p_names) WITH ORDINALITY u(part, name, n)
$quota$;

CREATE OR REPLACE FUNCTION {ns}.list(p_part text) RETURNS text LANGUAGE sql STABLE AS $quota$
  SELECT coalesce(json_agg(value), '[]'::json)::text FROM {ns}.directory WHERE part = p_part
$quota$;

-- Keys or accounts on a list in the order of their ids, beyond one; 'k' is the list of all keys.
CREATE OR REPLACE FUNCTION {ns}.page(p_list text, p_after text, p_most bigint, p_part text)
RETURNS text LANGUAGE sql STABLE AS $quota$
  SELECT coalesce(json_agg(found.value ORDER BY found.name), '[]'::json)::text FROM (
    (SELECT d.name, d.value FROM {ns}.directory d WHERE p_list = 'k' AND d.part = 'keys' AND d.name > p_after
      ORDER BY d.name LIMIT p_most)
    UNION ALL
    (SELECT d.name, d.value FROM {ns}.lists l JOIN {ns}.directory d ON d.part = p_part AND d.name = l.id
      WHERE p_list <> 'k' AND l.list = p_list AND l.id > p_after ORDER BY l.id LIMIT p_most)) found
$quota$;

-- What is on a list between two texts.
CREATE OR REPLACE FUNCTION {ns}.entries(p_list text, p_after text, p_before text, p_most bigint)
RETURNS text LANGUAGE sql STABLE SET enable_seqscan = off AS $quota$
  SELECT coalesce(json_agg(found.id ORDER BY found.id), '[]'::json)::text FROM (
    SELECT l.id FROM {ns}.lists l WHERE l.list = p_list AND l.id > p_after AND (p_before IS NULL OR l.id < p_before)
      ORDER BY l.id LIMIT p_most) found
$quota$;

-- All that is kept of some records, null of one that is not there.
CREATE OR REPLACE FUNCTION {ns}.records_of(p_names text[])
RETURNS text LANGUAGE sql STABLE SET enable_seqscan = off AS $quota$
  SELECT json_agg(CASE WHEN r.name IS NOT NULL THEN json_build_array(r.version, r.moves, r.turn, r.at, r.totals,
      r.minutes, r.hours, r.levels, r.filled, r.last_used, b.body::json) END ORDER BY u.n)::text
    FROM unnest(p_names) WITH ORDINALITY u(name, n)
    LEFT JOIN {ns}.records r ON r.name = u.name LEFT JOIN {ns}.bodies b ON b.name = u.name
$quota$;

-- The outbox beyond a number: pairs of a number and an event.
CREATE OR REPLACE FUNCTION {ns}.told(p_after bigint, p_most bigint) RETURNS text LANGUAGE sql STABLE AS $quota$
  SELECT coalesce(json_agg(json_build_array(found.cursor, found.body) ORDER BY found.cursor), '[]'::json)::text FROM (
    SELECT e.cursor, e.body FROM {ns}.events e WHERE e.cursor > p_after ORDER BY e.cursor LIMIT p_most) found
$quota$;

-- What is kept of each key, beyond one: in the order of their ids, or of their accounts (which are told then) and ids.
CREATE OR REPLACE FUNCTION {ns}.report(p_account text, p_id text, p_most bigint, p_by_account boolean)
RETURNS text LANGUAGE sql STABLE SET enable_seqscan = off AS $quota$
  SELECT coalesce(json_agg(json_build_array(substr(k.list, 3), k.id,
      CASE WHEN r.name IS NOT NULL THEN json_build_array(r.version, r.moves, r.turn, r.at, r.totals,
        r.minutes, r.hours, r.levels, r.filled, r.last_used, b.body::json) END) ORDER BY k.list, k.id), '[]'::json)::text
    FROM (
      (SELECT '' AS list, d.name AS id FROM {ns}.directory d
        WHERE NOT p_by_account AND d.part = 'keys' AND d.name >= p_id ORDER BY d.name LIMIT p_most)
      UNION ALL
      (SELECT l.list, l.id FROM {ns}.lists l WHERE p_by_account AND l.list < 'a' || chr(11)
          AND (l.list, l.id) >= ('a' || chr(10) || p_account, p_id) ORDER BY l.list, l.id LIMIT p_most)) k
    LEFT JOIN {ns}.records r ON r.name = 'k:' || k.id LEFT JOIN {ns}.bodies b ON b.name = 'k:' || k.id
$quota$;

-- The functions in plpgsql keep their plans from call to call; those in SQL, which are for the directory, do not.
CREATE OR REPLACE FUNCTION {ns}.fresh(p_stamp_name text, p_stamp text, p_plans text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $quota$
BEGIN
  RETURN EXISTS (SELECT FROM {ns}.directory WHERE part = 'stamps' AND name = p_stamp_name AND value = p_stamp)
    AND p_plans = coalesce((SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = '*'), '');
END $quota$;

-- Everything, for the rule to decide on: the records, a remembered, the floor of new records, the server's microseconds; '0' where the copy is stale.
CREATE OR REPLACE FUNCTION {ns}.found(p_names text[], p_stamp_name text, p_stamp text, p_plans text, p_request text)
RETURNS text LANGUAGE plpgsql STABLE AS $quota$
BEGIN
  IF NOT {ns}.fresh(p_stamp_name, p_stamp, p_plans) THEN
    RETURN '0';
  END IF;
  RETURN json_build_array(
    (SELECT json_agg(CASE WHEN r.name IS NOT NULL THEN json_build_array(r.version, r.moves, r.turn, r.at, r.totals,
        r.minutes, r.hours, r.levels, r.filled, r.last_used, b.body::json) END ORDER BY u.n)
      FROM unnest(p_names) WITH ORDINALITY u(name, n)
      LEFT JOIN {ns}.records r ON r.name = u.name LEFT JOIN {ns}.bodies b ON b.name = u.name),
    (SELECT json_build_array(m.answer, m.rest::json) FROM {ns}.remembered m
      WHERE m.name = p_names[1] AND m.request = p_request),
    (SELECT d.value::bigint FROM {ns}.directory d WHERE d.part = 'stamps' AND d.name = '!'),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)::text;
END $quota$;
