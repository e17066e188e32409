-- KEYS: stamps, the key's record[, the account's][, a remembered]. ARGV: a lane as JSON, now, units in the lane's order
-- [, the remembered's text, milliseconds to keep it].
-- Returns 0 where the copy of the directory entry is stale; -1 while it is another writer's turn; the server's
-- microseconds where the clocks differ too much; "allowed now reading..." where the lane decided; else everything and
-- the server's microseconds, for the rule to decide on.
local lane = cjson.decode(ARGV[1])
local stamps = redis.call('HMGET', KEYS[1], lane.f, '*', 'l' .. lane.f)
if stamps[1] ~= lane.r or (stamps[2] or '') ~= lane.p then return 0 end
local now = tonumber(ARGV[2])
if lane.s then
  local time = redis.call('TIME')
  local server = time[1] * 1000000 + time[2]
  if math.abs(server - now) > lane.s then return server end
end

-- A writer that lost twice takes a turn: for a moment others wait. Only advice: every write checks what it read.
local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function taken(turn)
  if not turn then return false end
  local owner, till = string.match(turn, '^(%d+) (%d+)$')
  return owner ~= lane.t and tonumber(till) > milliseconds()
end

local function everything()
  local found = {}
  for i = 2, #KEYS do
    if i - 2 >= lane.n then
      found[i - 1] = redis.call('GET', KEYS[i])
    else
      if not lane.o then
        if taken(redis.call('HGET', KEYS[i], 'w')) then return -1 end
        if lane.t and redis.call('EXISTS', KEYS[i]) == 1 then
          local turn = lane.t .. ' ' .. string.format('%.0f', milliseconds() + 200)
          local done = redis.pcall('HSET', KEYS[i], 'w', turn)
          if type(done) == 'table' then return done end
        end
      end
      found[i - 1] = redis.call('HGETALL', KEYS[i])
    end
  end
  local time = redis.call('TIME')
  found[#KEYS] = string.format('%.0f', time[1] * 1000000 + time[2])
  return found
end

if not lane.v then return everything() end
if #KEYS > lane.n + 1 and redis.call('EXISTS', KEYS[#KEYS]) == 1 then return everything() end
local states = {}
for i, names in ipairs(lane.v) do
  local state = redis.call('HMGET', KEYS[i + 1], unpack(names, 2))
  if state[1] ~= names[1] then return everything() end
  if taken(state[4]) then return -1 end
  local at = tonumber(state[2])
  if now < at then
    if now < at - lane.k then return everything() end
    now = at
  end
  states[i] = state
end
if now >= lane.u then return everything() end

local denied, slow = false, false
local after, before = {}, {}
for i, m in ipairs(lane.m) do
  local total, units = tonumber(states[m[1]][m[2]]), tonumber(ARGV[2 + m[3]])
  if total > 9007199254740991 then return everything() end
  before[i], after[i] = total, total + units
  if units > 0 then
    if after[i] > m[5] then denied = true elseif after[i] > m[4] then slow = true end
  end
end
local meters = #after
for i, b in ipairs(lane.b) do
  local state, units = states[b[1]], tonumber(ARGV[2 + b[4]])
  local level = tonumber(state[b[2]]) - b[5] * (now - tonumber(state[b[3]]))
  if level < 0 then level = 0 end
  before[meters + i], after[meters + i] = level, level + units * b[6]
  if units > 0 and after[meters + i] > b[7] then denied = true end
end

local function answer(allowed, readings)
  local texts = {allowed, string.format('%.0f', now)}
  for i, reading in ipairs(readings) do texts[i + 2] = string.format('%.0f', reading) end
  return table.concat(texts, ' ')
end

if denied then return answer('0', before) end
if slow then return everything() end
local writes, minute = {}, string.format('%.0f', now - math.fmod(now, 60000000))
for i, state in ipairs(states) do
  local at, set = tonumber(state[2]), {'at', string.format('%.0f', now), 'c', string.format('%.0f', state[3] + 1)}
  if at < now - math.fmod(now, 60000000) then
    local count, names = tonumber(redis.call('HGET', KEYS[i + 1], 'n')), {}
    for j = 1, count do names[j] = 't' .. (j - 1) end
    local turned = at < now - math.fmod(now, 3600000000)
    for j, total in ipairs(redis.call('HMGET', KEYS[i + 1], unpack(names))) do
      set[#set + 1], set[#set + 2] = 'm' .. (j - 1), total
      if turned then set[#set + 1], set[#set + 2] = 'h' .. (j - 1), total end
    end
  end
  writes[i] = set
end
for i, m in ipairs(lane.m) do
  local set = writes[m[1]]
  set[#set + 1], set[#set + 2] = lane.v[m[1]][m[2] + 1], string.format('%.0f', after[i])
end
for i, b in ipairs(lane.b) do
  local set, names = writes[b[1]], lane.v[b[1]]
  set[#set + 1], set[#set + 2] = names[b[2] + 1], string.format('%.0f', after[meters + i])
  set[#set + 1], set[#set + 2] = names[b[3] + 1], string.format('%.0f', now)
end
local remembered, write = #KEYS > lane.n + 1, redis.pcall
if remembered and not redis.acl_check_cmd('SET', KEYS[#KEYS], '') then
  return redis.error_reply('NOPERM this user has no permission to run SET, which the store needs')
end
for i, set in ipairs(writes) do
  local done = write('HSET', KEYS[i + 1], unpack(set))
  if type(done) == 'table' then return done end
  write = redis.call
end
if stamps[3] ~= minute and lane.f ~= '*' then redis.call('HSET', KEYS[1], 'l' .. lane.f, minute) end
local told = answer('1', after)
if remembered then redis.call('SET', KEYS[#KEYS], told .. '\n' .. ARGV[#ARGV - 1], 'PX', ARGV[#ARGV]) end
return told
