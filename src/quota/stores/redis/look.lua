-- KEYS: stamps, secrets, keys, accounts, plans. ARGV: a digest or '', a key's id.
-- Returns 0 for an unknown key, else its stamp, the plans' stamp, the format, the key_entry, its account, its plans.
local id = ARGV[2]
if ARGV[1] ~= '' then id = redis.call('HGET', KEYS[2], ARGV[1]) end
local text = id and redis.call('HGET', KEYS[3], id)
if not text then return 0 end
local key_entry = cjson.decode(text)
local stamps = redis.call('HMGET', KEYS[1], 'k:' .. id, '*', '#')
local found = {stamps[1], stamps[2] or '', stamps[3], text, redis.call('HGET', KEYS[4], key_entry.key.account)}
for _, pair in ipairs(key_entry.plans) do found[#found + 1] = redis.call('HGET', KEYS[5], pair[1]) end
return found
