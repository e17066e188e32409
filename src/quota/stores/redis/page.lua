-- KEYS: lists, keys or accounts. ARGV: the first entry and the last, how many. Returns those on a list, in the order of
-- their ids.
local found = {}
for _, entry in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  local text = redis.call('HGET', KEYS[2], string.match(entry, '[^\n]*$'))
  if text then found[#found + 1] = text end
end
return found
