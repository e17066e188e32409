-- KEYS: stamps, secrets, keys, accounts, plans. ARGV: a digest or '', a key's id[, how many accounts are named above its
-- own, their ids].
-- Returns 0 for an unknown key, else its stamp, the plans' stamp, the format, the key_entry, its account and those above,
-- the plans of the key and then of each account.
local id = ARGV[2]
if ARGV[1] ~= '' then id = redis.call('HGET', KEYS[2], ARGV[1]) end
local text = id and redis.call('HGET', KEYS[3], id)
if not text then return 0 end
local key_entry = cjson.decode(text)
local accounts, plans = {}, {}
local function add(pairs)
  for _, pair in ipairs(pairs) do plans[#plans + 1] = redis.call('HGET', KEYS[5], pair[1]) end
end
add(key_entry.plans)
local names, place = {key_entry.key.account, unpack(ARGV, 4)}, 1
while names[place] do
  local body = redis.call('HGET', KEYS[4], names[place])
  if body then
    local account = cjson.decode(body)
    accounts[#accounts + 1] = body
    if account.plans then add(account.plans) end
    local parent = account.account and account.account.parent
    if not ARGV[3] and type(parent) == 'string' then names[#names + 1] = parent end
  end
  place = place + 1
end
local stamps = redis.call('HMGET', KEYS[1], 'k:' .. id, '*', '#')
return {stamps[1], stamps[2] or '', stamps[3], text, accounts, plans}
