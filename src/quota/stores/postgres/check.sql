SELECT coalesce(json_agg(problem), '[]'::json) FROM (
  SELECT 'the record ' || r.name || ' has no body' AS problem
    FROM {ns}.records r WHERE NOT EXISTS (SELECT FROM {ns}.bodies b WHERE b.name = r.name)
  UNION ALL SELECT 'a secret belongs to ' || s.value || ', which is no key'
    FROM {ns}.directory s WHERE s.part = 'secrets'
    AND NOT EXISTS (SELECT FROM {ns}.directory k WHERE k.part = 'keys' AND k.name = s.value)
  UNION ALL SELECT 'the key ' || k.name || ' has no stamp'
    FROM {ns}.directory k WHERE k.part = 'keys'
    AND NOT EXISTS (SELECT FROM {ns}.directory s WHERE s.part = 'stamps' AND s.name = 'k:' || k.name)) found
