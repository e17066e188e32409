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
  IF v_found BETWEEN 1 AND {version} - 1 THEN
    RAISE EXCEPTION 'schema {ns} is version %, which was never released: drop it, or name another schema', v_found;
  END IF;
  IF v_found < {version} OR {anyway} THEN
    EXECUTE $quota_all${all}$quota_all$;
  END IF;
END $quota_do$;
SELECT {version};
