-- ARGV: {checks, writes} as JSON: [key index, field, value or false] each, [command, key index, arguments...] each.
-- XADD puts an event in the outbox under the next number, and of the two oldest forgets those before its third argument.
-- Returns 1 where every check held and every write is done, else 0, and nothing is.
local change = cjson.decode(ARGV[1])
for _, check in ipairs(change[1]) do
  if redis.call('HGET', KEYS[check[1]], check[2]) ~= check[3] then return 0 end
end
local may = {}
for _, step in ipairs(change[2]) do
  local name, key = step[1], KEYS[step[2]]
  for _, needed in ipairs(name == 'XADD' and {'XADD', 'XRANGE', 'XDEL'} or {name}) do
    if not may[needed] and not redis.acl_check_cmd(needed, key, key) then
      return redis.error_reply('NOPERM this user has no permission to run ' .. needed .. ', which the store needs')
    end
    may[needed] = true
  end
end
local write = redis.pcall
for _, step in ipairs(change[2]) do
  local done
  if step[1] == 'COPY' or step[1] == 'RENAME' then
    done = write(step[1], KEYS[step[2]], KEYS[step[3]], unpack(step, 4))
  elseif step[1] == 'XADD' then
    done = write('XADD', KEYS[step[2]], '0-*', unpack(step, 4))
  else
    done = write(step[1], KEYS[step[2]], unpack(step, 3))
  end
  if type(done) == 'table' and done.err then return done end
  write = redis.call
  if step[1] == 'XADD' then
    for _, old in ipairs(redis.call('XRANGE', KEYS[step[2]], '-', '+', 'COUNT', '2')) do
      if tonumber(old[2][2]) < tonumber(step[3]) then redis.call('XDEL', KEYS[step[2]], old[1]) end
    end
  end
end
return 1
