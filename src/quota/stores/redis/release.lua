-- KEYS: records. ARGV: a turn. Ends the turn, in which nothing was written.
for _, key in ipairs(KEYS) do
  local turn = redis.call('HGET', key, 'w')
  if turn and string.match(turn, '^(%d+) ') == ARGV[1] then redis.call('HDEL', key, 'w') end
end
return 1
