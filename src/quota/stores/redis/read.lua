-- ARGV: pairs of a key's index and a field. Returns the fields as they stand together.
local found = {}
for i = 1, #ARGV, 2 do found[#found + 1] = redis.call('HGET', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) end
return found
