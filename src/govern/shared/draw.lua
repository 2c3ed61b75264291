-- Hosts of one weir say what they hold of shared allowances, and draw more or give back: all of one
-- host's at once, atomically. What a host says of itself is absolute, so saying it twice changes
-- nothing. Of all that is granted the sum never passes the limit.
--
-- KEYS  1 hosts (sorted set: host, ms it was last heard)  2 the last number of each host (hash)
--       3 there while hosts come back to a server that has forgotten  4 how words stand; see words.lua
--       5 .. one for each allowance
-- ARGV  1 host  2 number of this exchange  3 number of the last one that was answered  4 ms a silent
--       host keeps what it doesn't use  5 ms to wait for others after data were lost  6 1: it leaves
--       and nine for each allowance:
--         s: a sum or slots    kind ('b' or 's'), limit, ttl ms, used, has, need, want, used for good,
--                              used for good by others, as this host has heard
--         r: a rate            'r', limit, window us, burst, give, need, want, where it stood (us), 0
-- Replies 'old' and the last number, when this exchange is older than one that was heard; else
--   hosts, ms to wait for others (0: none), how words stand, and five for each allowance:
--         s: has, left, used by others, unused by others, used for good by others
--         r: drawn (negative: given), left, where it stands (us), us until one more is there, 0
if redis.replicate_commands then pcall(redis.replicate_commands) end
local FORGET_MS = 100 * 24 * 3600 * 1000
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
local me, number, heard = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local lease, patience, leaves = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'

local last = tonumber(redis.call('HGET', KEYS[2], me) or '0')
if number <= last then return {'old', last} end
redis.call('HSET', KEYS[2], me, ARGV[2])
if heard > last then redis.call('SET', KEYS[3], '1', 'PX', patience, 'NX') end
local waits = math.max(redis.call('PTTL', KEYS[3]), 0)

if leaves then redis.call('ZREM', KEYS[1], me) else redis.call('ZADD', KEYS[1], now, me) end
for _, host in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - FORGET_MS)) do
  redis.call('ZREM', KEYS[1], host)
  redis.call('HDEL', KEYS[2], host)
end
redis.call('PEXPIRE', KEYS[1], FORGET_MS)
redis.call('PEXPIRE', KEYS[2], FORGET_MS)
local living, hosts = {}, 0
for _, host in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now - lease, '+inf')) do
  living[host] = true
  hosts = hosts + 1
end
hosts = math.max(hosts, 1)

-- A host alone may have half of what is left, two a quarter each; what it can't go on without it gets.
local function drawn(left, need, want)
  if waits > 0 or left <= 0 then return 0 end
  local share = math.floor(left / (2 * hosts))
  return math.max(math.min(left, math.max(need, math.min(want, share))), 0)
end

-- Whatever is wrong with words stops nobody.
local stands = redis.pcall('GET', KEYS[4])
local reply = {hosts, waits, type(stands) == 'string' and stands or ''}
local function tell(a, b, c, d, e)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = a, b, c, d, e
end

local function sum(key, kind, limit, ttl, used, has, need, want, settled, told)
  local others, idle, others_used, others_settled = 0, 0, 0, 0
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local h, u, s = string.match(fields[i + 1], '^(%-?%d+) (%-?%d+) (%-?%d+)$')
    if fields[i] ~= me and h then
      h, u, s = tonumber(h), tonumber(u), tonumber(s)
      if living[fields[i]] then
        others = others + math.max(h, u)
        others_used = others_used + u
        idle = idle + math.max(h - u, 0)
      elseif kind == 'b' then
        others = others + u
        others_used = others_used + u
      else
        redis.call('HDEL', key, fields[i])
      end
      others_settled = others_settled + s
    end
  end
  -- What is used for good stays so: a host remembers it for a server that has forgotten.
  if kind == 'b' then
    others_settled = math.max(others_settled, told)
    others_used = math.max(others_used, told)
    others = math.max(others, told)
  end
  local mine = math.max(has, used)
  if want < mine then
    mine = math.max(want, used)
  else
    mine = mine + drawn(limit - others - mine, need - mine, want - mine)
  end
  -- A limit that is lower than it was takes back what isn't used.
  mine = math.max(math.min(mine, limit - others), used)
  redis.call('HSET', key, me, string.format('%.0f %.0f %.0f', mine, used, settled))
  if ttl > 0 then redis.call('PEXPIRE', key, string.format('%.0f', ttl)) end
  tell(mine, limit - others - mine, others_used, idle, others_settled)
end

local function rate(key, limit, window, burst, give, need, want, told)
  local each = window / limit
  -- What a host remembers counts for a server that has forgotten, not against what others gave back.
  local stands = tonumber(redis.call('GET', key) or math.min(told, now_us + burst * each))
  stands = math.max(stands - give * each, now_us)
  local free = math.floor((now_us + burst * each - stands) / each + 0.000001)
  local more = drawn(free, need, want)
  stands = stands + more * each
  local ttl = math.ceil((stands - now_us) / 1000) + 60000
  redis.call('SET', key, string.format('%.3f', stands), 'PX', string.format('%.0f', ttl))
  local wait = math.max(stands + (free - more + 1) * each - burst * each - now_us, 0)
  tell(more - give, free - more, math.ceil(stands), math.ceil(wait), 0)
end

for i = 5, #KEYS do
  local at = 7 + (i - 5) * 9
  local kind = ARGV[at]
  local v = {}
  for n = 1, 8 do v[n] = tonumber(ARGV[at + n]) end
  if kind == 'r' then
    rate(KEYS[i], v[1], v[2], v[3], v[4], v[5], v[6], v[7])
  else
    sum(KEYS[i], kind, v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8])
  end
end
return reply
