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
      UPDATE {ns}.records SET turn = p_turn, turn_until = v_ms + 200 WHERE name = p_names[1];
      UPDATE {ns}.records SET turn = p_turn, turn_until = v_ms + 200 WHERE name = p_names[2];
    END IF;
  END IF;
  RETURN {ns}.found(p_names, p_stamp_name, p_stamp, p_plans, p_request);
END $quota$;

-- Ends a turn in which nothing was written.
CREATE OR REPLACE FUNCTION {ns}.release(p_wait text, p_names text[], p_turn bigint)
RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $quota$
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  UPDATE {ns}.records SET turn_until = 0 WHERE name = p_names[1] AND turn = p_turn;
  UPDATE {ns}.records SET turn_until = 0 WHERE name = p_names[2] AND turn = p_turn;
  RETURN '1';
END $quota$;

-- A lane: '0' where the copy of the directory entry is stale, '-1' while it is another writer's turn, the server's
-- microseconds where the clocks differ too much, 'allowed now reading...' where the lane decided, else everything.
-- The key's meters and buckets come before the account's: p_meters has (place, unit, soft limit, hard limit) of each meter,
-- p_buckets (place, unit, drain, scale, burst). What is read is of one moment and not locked, so that a refusal writes
-- nothing; the write checks that nothing moved, and where something did, the rows are locked and it is done again.
CREATE OR REPLACE FUNCTION {ns}.spend(p_wait text, p_names text[], p_stamp_name text, p_stamp text, p_plans text,
  p_far bigint, p_back bigint, p_until bigint, p_versions bigint[], p_meters bigint[], p_buckets bigint[],
  p_now bigint, p_units bigint[], p_request text, p_remembered text, p_remembered_until bigint, p_before bigint)
RETURNS text LANGUAGE plpgsql AS $quota$
DECLARE
  v_account text := p_names[2];
  v_stamp text; v_plans text; v_kept boolean; v_server bigint;
  v_version bigint; v_moves bigint; v_at bigint; v_turn bigint;
  w_version bigint; w_moves bigint; w_at bigint; w_turn bigint;
  v_totals bigint[]; v_levels bigint[]; v_filled bigint[];
  w_totals bigint[]; w_levels bigint[]; w_filled bigint[];
  v_count int; v_buckets int; v_now bigint; v_minute bigint; v_hour bigint;
  v_place int; v_units bigint; v_reading bigint;
  v_denied boolean; v_slow boolean; v_beyond boolean := false; v_locked boolean := false; v_before text; v_after text;
BEGIN
  PERFORM set_config('lock_timeout', p_wait, true);
  LOOP
    SELECT s.value, d.value, r.version, r.moves, r.at, r.turn_until, r.totals, r.levels, r.filled,
        a.version, a.moves, a.at, a.turn_until, a.totals, a.levels, a.filled,
        p_request IS NOT NULL AND EXISTS (SELECT FROM {ns}.remembered WHERE name = r.name AND request = p_request)
      INTO v_stamp, v_plans, v_version, v_moves, v_at, v_turn, v_totals, v_levels, v_filled,
        w_version, w_moves, w_at, w_turn, w_totals, w_levels, w_filled, v_kept
      FROM {ns}.records r
      JOIN {ns}.directory s ON s.part = 'stamps' AND s.name = p_stamp_name
      JOIN {ns}.directory d ON d.part = 'stamps' AND d.name = '*'
      LEFT JOIN {ns}.records a ON a.name = v_account
      WHERE r.name = p_names[1];
    IF NOT FOUND THEN
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
    EXIT WHEN v_kept OR v_version <> p_versions[1] OR w_version IS DISTINCT FROM p_versions[2];
    IF greatest(v_turn, w_turn) > 0
        AND greatest(v_turn, w_turn) > (extract(epoch FROM clock_timestamp()) * 1000)::bigint THEN
      RETURN '-1';
    END IF;
    v_now := greatest(p_now, v_at);
    EXIT WHEN p_now < v_at - p_back OR v_now < w_at - p_back;
    v_now := greatest(v_now, w_at);
    EXIT WHEN v_now >= p_until;

    v_denied := false;
    v_slow := false;
    v_before := '';
    v_after := '';
    v_count := cardinality(v_totals);
    v_buckets := cardinality(v_levels);
    IF v_account IS NOT NULL THEN
      v_totals := v_totals || w_totals;
      v_levels := v_levels || w_levels;
      v_filled := v_filled || w_filled;
    END IF;
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
    IF v_locked OR v_account IS NULL THEN
      UPDATE {ns}.records SET at = v_now, moves = moves + 1, totals = v_totals[:v_count],
          minutes = CASE WHEN at < v_minute THEN totals ELSE minutes END,
          hours = CASE WHEN at < v_hour THEN totals ELSE hours END,
          levels = v_levels[:v_buckets], filled = v_filled[:v_buckets], last_used = v_minute
        WHERE name = p_names[1] AND version = v_version AND moves = v_moves AND turn_until = v_turn;
      IF FOUND THEN
        IF v_account IS NOT NULL THEN
          UPDATE {ns}.records SET at = v_now, moves = moves + 1, totals = v_totals[v_count + 1:],
              minutes = CASE WHEN at < v_minute THEN totals ELSE minutes END,
              hours = CASE WHEN at < v_hour THEN totals ELSE hours END,
              levels = v_levels[v_buckets + 1:], filled = v_filled[v_buckets + 1:]
            WHERE name = v_account AND version = w_version AND moves = w_moves AND turn_until = w_turn;
          IF NOT FOUND THEN
            RAISE EXCEPTION 'the account moved' USING ERRCODE = 'serialization_failure';
          END IF;
        END IF;
        IF p_request IS NOT NULL THEN
          INSERT INTO {ns}.remembered VALUES (p_names[1], p_request, p_remembered_until, '1 ' || v_now || v_after, p_remembered);
          DELETE FROM {ns}.remembered m USING (SELECT o.name, o.request FROM {ns}.remembered o WHERE o.until < p_before
            ORDER BY o.until LIMIT 2 FOR UPDATE SKIP LOCKED) old WHERE m.name = old.name AND m.request = old.request;
        END IF;
        RETURN '1 ' || v_now || v_after;
      END IF;
    END IF;
    v_locked := true;
    PERFORM FROM {ns}.records WHERE name = p_names[1] FOR UPDATE;
    PERFORM FROM {ns}.records WHERE name = v_account FOR UPDATE;
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
