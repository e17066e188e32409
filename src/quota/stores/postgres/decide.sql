-- Brings everything. A writer that lost twice takes a turn: for a moment others wait. Only advice: every write checks
-- what it read. p_far is null where clocks are not compared, p_turn null for others, p_open where nothing is written.
CREATE OR REPLACE FUNCTION {ns}.ask(p_wait text, p_names text[], p_stamp_name text, p_stamp text, p_plans text,
  p_far bigint, p_now bigint, p_request text, p_turn bigint, p_open boolean)
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $quota$
DECLARE
  v_ms bigint := extract(epoch FROM clock_timestamp()) * 1000;
  v_server bigint;
BEGIN
  IF p_far IS NOT NULL AND {ns}.fresh(p_stamp_name, p_stamp, p_plans) THEN
    v_server := extract(epoch FROM clock_timestamp()) * 1000000;  -- the server's
    IF abs(v_server - p_now) > p_far THEN
      RETURN v_server;
    END IF;
  END IF;
  IF NOT p_open THEN
    IF EXISTS (SELECT FROM {ns}.records WHERE name = ANY (p_names) AND turn_until > v_ms
        AND turn IS DISTINCT FROM p_turn) THEN
      RETURN '-1';
    END IF;
    IF p_turn IS NOT NULL THEN
      PERFORM set_config('lock_timeout', p_wait, true);
      FOR i IN 1 .. cardinality(p_names) LOOP
        UPDATE {ns}.records SET turn = p_turn, turn_until = v_ms + 200 WHERE name = p_names[i];
      END LOOP;
    END IF;
  END IF;
  RETURN {ns}.found(p_names, p_stamp_name, p_stamp, p_plans, p_request);
END $quota$;

-- Ends a turn in which nothing was written.
CREATE OR REPLACE FUNCTION {ns}.release(p_wait text, p_names text[], p_turn bigint)
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $quota$
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  FOR i IN 1 .. cardinality(p_names) LOOP
    UPDATE {ns}.records SET turn_until = 0 WHERE name = p_names[i] AND turn = p_turn;
  END LOOP;
  RETURN '1';
END $quota$;

-- A lane: '0' where the copy of the directory entry is stale, '-1' while it is another writer's turn, the server's
-- microseconds where the clocks differ too much, 'allowed now reading...' where the lane decided, else everything.
-- The key's meters and buckets come before its account's, and those before the ones of accounts above: p_meters has (place,
-- unit, soft limit, hard limit) of each meter, p_buckets (place, unit, drain, scale, burst). What is read is of one moment
-- and not locked, so that a refusal writes nothing. Of one record the write checks that nothing moved; where something
-- did, and where there are several, the rows are locked from the key's upwards and it is done again.
CREATE OR REPLACE FUNCTION {ns}.spend(p_wait text, p_names text[], p_stamp_name text, p_stamp text, p_plans text,
  p_far bigint, p_back bigint, p_until bigint, p_versions bigint[], p_meters bigint[], p_buckets bigint[],
  p_now bigint, p_units bigint[], p_request text, p_remembered text, p_remembered_until bigint, p_before bigint)
RETURNS text LANGUAGE plpgsql AS $quota$
DECLARE
  v_names int := cardinality(p_names);
  r record;
  v_stamp text; v_plans text; v_kept boolean; v_server bigint;
  v_found int; v_others boolean; v_late boolean; v_done boolean; v_turn bigint;
  v_moves bigint[]; v_turns bigint[]; v_counts int[]; v_buckets int[];
  v_totals bigint[]; v_levels bigint[]; v_filled bigint[];
  v_now bigint; v_minute bigint; v_hour bigint;
  v_place int; v_bucket int; v_units bigint; v_reading bigint;
  v_denied boolean; v_slow boolean; v_beyond boolean := false; v_locked boolean := false; v_before text; v_after text;
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  LOOP
    v_found := 0;
    v_others := false;
    v_late := false;
    v_turn := 0;
    v_now := p_now;
    v_moves := '{}';
    v_turns := '{}';
    v_counts := '{}';
    v_buckets := '{}';
    v_totals := '{}';
    v_levels := '{}';
    v_filled := '{}';
    FOR r IN SELECT t.*, s.value AS stamp, d.value AS plans, p_request IS NOT NULL
          AND EXISTS (SELECT FROM {ns}.remembered WHERE name = p_names[1] AND request = p_request) AS kept
        FROM unnest(p_names) WITH ORDINALITY u(name, n) JOIN {ns}.records t ON t.name = u.name
        JOIN {ns}.directory s ON s.part = 'stamps' AND s.name = p_stamp_name
        JOIN {ns}.directory d ON d.part = 'stamps' AND d.name = '*' ORDER BY u.n LOOP
      v_found := v_found + 1;
      v_stamp := r.stamp;
      v_plans := r.plans;
      v_kept := r.kept;
      v_others := v_others OR r.name <> p_names[v_found] OR r.version <> p_versions[v_found];
      v_late := v_late OR v_now < r.at - p_back;
      v_now := greatest(v_now, r.at);
      v_turn := greatest(v_turn, r.turn_until);
      v_moves := v_moves || r.moves;
      v_turns := v_turns || r.turn_until;
      v_counts := v_counts || cardinality(r.totals);
      v_buckets := v_buckets || cardinality(r.levels);
      v_totals := v_totals || r.totals;
      v_levels := v_levels || r.levels;
      v_filled := v_filled || r.filled;
    END LOOP;
    IF v_found < v_names THEN
      RETURN {ns}.ask(p_wait, p_names, p_stamp_name, p_stamp, p_plans, p_far, p_now, p_request, NULL, false);
    END IF;
    IF v_stamp <> p_stamp OR v_plans <> p_plans THEN
      RETURN '0';
    END IF;
    IF p_far IS NOT NULL THEN
      v_server := extract(epoch FROM clock_timestamp()) * 1000000;
      IF abs(v_server - p_now) > p_far THEN
        RETURN v_server;
      END IF;
    END IF;
    EXIT WHEN v_kept OR v_others;
    IF v_turn > 0 AND v_turn > (extract(epoch FROM clock_timestamp()) * 1000)::bigint THEN
      RETURN '-1';
    END IF;
    EXIT WHEN v_late OR v_now >= p_until;

    v_denied := false;
    v_slow := false;
    v_before := '';
    v_after := '';
    FOR i IN 1 .. cardinality(p_meters) BY 4 LOOP
      v_place := p_meters[i];
      v_units := p_units[p_meters[i + 1]];
      v_reading := v_totals[v_place];
      IF v_reading IS NULL OR v_reading > 9007199254740991 THEN
        v_beyond := true;
        EXIT;
      END IF;
      v_before := v_before || ' ' || v_reading;
      v_reading := v_reading + v_units;
      v_after := v_after || ' ' || v_reading;
      v_totals[v_place] := v_reading;
      IF v_units > 0 THEN
        IF v_reading > p_meters[i + 3] THEN
          v_denied := true;
        ELSIF v_reading > p_meters[i + 2] THEN
          v_slow := true;
        END IF;
      END IF;
    END LOOP;
    EXIT WHEN v_beyond;
    FOR i IN 1 .. cardinality(p_buckets) BY 5 LOOP
      v_place := p_buckets[i];
      v_units := p_units[p_buckets[i + 1]];
      v_reading := v_levels[v_place];
      -- Divided first: a long time times a fast drain could be more than there are numbers for.
      IF v_now - v_filled[v_place] > v_reading / p_buckets[i + 2] THEN
        v_reading := 0;
      ELSE
        v_reading := v_reading - p_buckets[i + 2] * (v_now - v_filled[v_place]);
      END IF;
      v_before := v_before || ' ' || v_reading;
      IF v_units > p_buckets[i + 4] / p_buckets[i + 3] THEN
        v_denied := true;
      ELSE
        v_reading := v_reading + v_units * p_buckets[i + 3];
        v_after := v_after || ' ' || v_reading;
        v_levels[v_place] := v_reading;
        v_filled[v_place] := v_now;
        IF v_units > 0 AND v_reading > p_buckets[i + 4] THEN
          v_denied := true;
        END IF;
      END IF;
    END LOOP;
    IF v_denied THEN
      RETURN '0 ' || v_now || v_before;
    END IF;
    EXIT WHEN v_slow;

    v_minute := v_now - v_now % 60000000;
    v_hour := v_now - v_now % 3600000000;
    IF v_locked OR v_names = 1 THEN
      v_place := 0;
      v_bucket := 0;
      FOR i IN 1 .. v_names LOOP
        UPDATE {ns}.records SET at = v_now, moves = moves + 1, totals = v_totals[v_place + 1:v_place + v_counts[i]],
            minutes = CASE WHEN at < v_minute THEN totals ELSE minutes END,
            hours = CASE WHEN at < v_hour THEN totals ELSE hours END,
            levels = v_levels[v_bucket + 1:v_bucket + v_buckets[i]],
            filled = v_filled[v_bucket + 1:v_bucket + v_buckets[i]],
            last_used = CASE WHEN i = 1 THEN v_minute ELSE last_used END
          WHERE name = p_names[i] AND version = p_versions[i] AND moves = v_moves[i] AND turn_until = v_turns[i];
        v_done := FOUND;  -- the loop itself sets FOUND when it ends
        EXIT WHEN NOT v_done;
        v_place := v_place + v_counts[i];
        v_bucket := v_bucket + v_buckets[i];
      END LOOP;
      IF v_done THEN
        IF p_request IS NOT NULL THEN
          INSERT INTO {ns}.remembered VALUES (p_names[1], p_request, p_remembered_until, '1 ' || v_now || v_after, p_remembered);
          DELETE FROM {ns}.remembered m USING (SELECT o.name, o.request FROM {ns}.remembered o WHERE o.until < p_before
            ORDER BY o.until LIMIT 2 FOR UPDATE SKIP LOCKED) old WHERE m.name = old.name AND m.request = old.request;
        END IF;
        RETURN '1 ' || v_now || v_after;
      END IF;
      IF v_names > 1 THEN
        RAISE EXCEPTION 'an account moved' USING ERRCODE = 'serialization_failure';
      END IF;
    END IF;
    v_locked := true;
    FOR i IN 1 .. v_names LOOP
      PERFORM FROM {ns}.records WHERE name = p_names[i] FOR UPDATE;
    END LOOP;
  END LOOP;
  RETURN {ns}.found(p_names, p_stamp_name, p_stamp, p_plans, p_request);
END $quota$;

-- The lane of most keys: one meter of one record, without a throttle, and in spend_poured with one. One statement does
-- it all, on the newest row where it had to wait for another call's; what it does not admit is for spend, as is the
-- first call of a minute. Arguments and expressions of a function cost a microsecond or two each, as they are prepared
-- anew in every transaction: so they are few.
-- p_texts: the record's name, the stamp's name, the stamp, the plans' stamp. p_lane: now, units, what they pour; how far
-- the clocks may differ, how far back a call may be, until when the lane is good, the record's version; the meter's
-- place, quiet and ceiling; the bucket's place, drain, scale and burst.
CREATE OR REPLACE FUNCTION {ns}.spend_one(p_wait text, p_texts text[], p_lane bigint[])
RETURNS text LANGUAGE plpgsql AS $quota$
DECLARE
  v_after text;
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  UPDATE {ns}.records SET at = greatest(at, p_lane[1]), moves = moves + 1,
      totals[p_lane[8]] = totals[p_lane[8]] + p_lane[2]
    WHERE name = p_texts[1] AND version = p_lane[7] AND turn_until = 0 AND p_lane[1] < p_lane[6]
      AND at BETWEEN p_lane[1] - p_lane[1] % 60000000 AND least(p_lane[1] + p_lane[5], p_lane[6] - 1)
      AND at - last_used BETWEEN 0 AND 59999999
      AND totals[p_lane[8]] <= 9007199254740991 AND totals[p_lane[8]] + p_lane[2] <= p_lane[9]
      AND abs(date_part('epoch', clock_timestamp()) * 1000000 - p_lane[1]) <= p_lane[4]
      AND p_texts[3] = (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = p_texts[2])
      AND p_texts[4] = (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = '*')
    RETURNING '1 ' || at || ' ' || totals[p_lane[8]] INTO v_after;
  IF v_after IS NULL THEN
    RETURN {ns}.spend(p_wait, p_texts[:1], p_texts[2], p_texts[3], p_texts[4],
      nullif(p_lane[4], 4611686018427387904), p_lane[5], p_lane[6], p_lane[7:7], ARRAY[p_lane[8], 1, p_lane[9], p_lane[10]],
      '{}', p_lane[1], p_lane[2:2], NULL, NULL, NULL, NULL);
  END IF;
  RETURN v_after;
END $quota$;

CREATE OR REPLACE FUNCTION {ns}.spend_poured(p_wait text, p_texts text[], p_lane bigint[])
RETURNS text LANGUAGE plpgsql AS $quota$
DECLARE
  v_after text;
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  UPDATE {ns}.records SET at = greatest(at, p_lane[1]), moves = moves + 1,
      totals[p_lane[8]] = totals[p_lane[8]] + p_lane[2], filled[p_lane[11]] = greatest(at, p_lane[1]),
      -- No longer than it takes to be empty: a long time times a fast drain could be more than there are numbers for.
      levels[p_lane[11]] = p_lane[3] + greatest(0, levels[p_lane[11]] - p_lane[12] *
        least(greatest(at, p_lane[1]) - filled[p_lane[11]], levels[p_lane[11]] / p_lane[12] + 1))
    WHERE name = p_texts[1] AND version = p_lane[7] AND turn_until = 0 AND p_lane[1] < p_lane[6]
      AND at BETWEEN p_lane[1] - p_lane[1] % 60000000 AND least(p_lane[1] + p_lane[5], p_lane[6] - 1)
      AND at - last_used BETWEEN 0 AND 59999999
      AND totals[p_lane[8]] <= 9007199254740991 AND totals[p_lane[8]] + p_lane[2] <= p_lane[9]
      AND p_lane[14] - p_lane[3] >= greatest(0, levels[p_lane[11]] - p_lane[12] *
        least(greatest(at, p_lane[1]) - filled[p_lane[11]], levels[p_lane[11]] / p_lane[12] + 1))
      AND abs(date_part('epoch', clock_timestamp()) * 1000000 - p_lane[1]) <= p_lane[4]
      AND p_texts[3] = (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = p_texts[2])
      AND p_texts[4] = (SELECT value FROM {ns}.directory WHERE part = 'stamps' AND name = '*')
    RETURNING '1 ' || at || ' ' || totals[p_lane[8]] || ' ' || levels[p_lane[11]] INTO v_after;
  IF v_after IS NULL THEN
    RETURN {ns}.spend(p_wait, p_texts[:1], p_texts[2], p_texts[3], p_texts[4],
      nullif(p_lane[4], 4611686018427387904), p_lane[5], p_lane[6], p_lane[7:7], ARRAY[p_lane[8], 1, p_lane[9], p_lane[10]],
      ARRAY[p_lane[11], 1, p_lane[12], p_lane[13], p_lane[14]], p_lane[1], p_lane[2:2], NULL, NULL, NULL, NULL);
  END IF;
  RETURN v_after;
END $quota$;
