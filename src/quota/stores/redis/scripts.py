"""The Lua scripts of the Redis store. Each runs atomically; all keys share one hash tag and are declared.

Numbers travel as decimal text, ``%.0f``: exact below 2^53, where a lane ends.

Redis undoes nothing of a script that fails half way. So everything is checked before the first write, permissions
too, and the first write is a ``pcall`` whose error is returned: what a server refuses then (no memory, a replica, too
few replicas) was refused before anything was done. An error that is raised says by its text that it came from within,
and its outcome is unknown. Nothing is removed that the same script writes: in a slot that moves to another node of a
Cluster a missing key cannot be made again.
"""

from __future__ import annotations

from hashlib import sha1

from attrs import define, field


@define(frozen=True)
class Script:
    """A script's text and the SHA-1 that Redis knows it by, both packed as arguments of the protocol."""

    text: str
    by_hash: bytes = field(init=False)
    by_text: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        text = self.text.encode()
        sha = sha1(text, usedforsecurity=False).hexdigest().encode()
        object.__setattr__(self, "by_hash", b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % sha)
        object.__setattr__(self, "by_text", b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(text), text))


DECIDE = Script("""
-- KEYS: stamps, the key's record[, the account's][, a memo]. ARGV: a lane as JSON, now, units in the lane's order
-- [, the memo's text, milliseconds to keep it].
-- Returns 0 where the copy of the directory entry is stale; -1 while it is another writer's turn; the server's
-- microseconds where the clocks differ too much; "allowed now reading..." where the lane decided; else everything,
-- for the rule to decide on.
local lane = cjson.decode(ARGV[1])
local stamps = redis.call('HMGET', KEYS[1], lane.f, '*')
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
local writes = {}
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
local memo, write = #KEYS > lane.n + 1, redis.pcall
if memo and not redis.acl_check_cmd('SET', KEYS[#KEYS], '') then
  return redis.error_reply('NOPERM this user has no permission to run SET, which the store needs')
end
for i, set in ipairs(writes) do
  local done = write('HSET', KEYS[i + 1], unpack(set))
  if type(done) == 'table' then return done end
  write = redis.call
end
local told = answer('1', after)
if memo then redis.call('SET', KEYS[#KEYS], told .. '\\n' .. ARGV[#ARGV - 1], 'PX', ARGV[#ARGV]) end
return told
""")

LOOK = Script("""
-- KEYS: stamps, secrets, keys, accounts, plans. ARGV: a digest or '', a key's id.
-- Returns 0 for an unknown key, else its stamp, the plans' stamp, the format, the seat, its account, its plans.
local id = ARGV[2]
if ARGV[1] ~= '' then id = redis.call('HGET', KEYS[2], ARGV[1]) end
local text = id and redis.call('HGET', KEYS[3], id)
if not text then return 0 end
local seat = cjson.decode(text)
local stamps = redis.call('HMGET', KEYS[1], 'k:' .. id, '*', '#')
local found = {stamps[1], stamps[2] or '', stamps[3], text, redis.call('HGET', KEYS[4], seat.key.account)}
for _, pair in ipairs(seat.plans) do found[#found + 1] = redis.call('HGET', KEYS[5], pair[1]) end
return found
""")

READ = Script("""
-- ARGV: pairs of a key's index and a field. Returns the fields as they stand together.
local found = {}
for i = 1, #ARGV, 2 do found[#found + 1] = redis.call('HGET', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) end
return found
""")

COMMIT = Script("""
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
""")

RELEASE = Script("""
-- KEYS: records. ARGV: a turn. Ends the turn, in which nothing was written.
for _, key in ipairs(KEYS) do
  local turn = redis.call('HGET', key, 'w')
  if turn and string.match(turn, '^(%d+) ') == ARGV[1] then redis.call('HDEL', key, 'w') end
end
return 1
""")
