-- ARGV: {checks, writes} as JSON: [key index, field, value or false] each, [command, key index, arguments...] each.
-- Returns 1 where every check held and every write is done, else 0, and nothing is.
local change = cjson.decode(ARGV[1])
for _, check in ipairs(change[1]) do
  if redis.call('HGET', KEYS[check[1]], check[2]) ~= check[3] then return 0 end
end
local may = {}
for _, step in ipairs(change[2]) do
  local name, key = step[1], KEYS[step[2]]
  if not may[name] and not redis.acl_check_cmd(name, key, key) then
    return redis.error_reply('NOPERM this user has no permission to run ' .. name .. ', which the store needs')
  end
  may[name] = true
end
local write = redis.pcall
for _, step in ipairs(change[2]) do
  local done
  if step[1] == 'COPY' or step[1] == 'RENAME' then
    done = write(step[1], KEYS[step[2]], KEYS[step[3]], unpack(step, 4))
  else
    done = write(step[1], KEYS[step[2]], unpack(step, 3))
  end
  if type(done) == 'table' and done.err then return done end
  write = redis.call
end
return 1
