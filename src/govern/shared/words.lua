-- Hosts of one weir tell each other words: of each name the last one that was said, by its version.
--
-- KEYS  1 words (hash: name, "version text")  2 how often they were changed
-- ARGV  name, version and text of each word that this host has
-- Replies how often they were changed, then name, version and text of all.
if redis.replicate_commands then pcall(redis.replicate_commands) end
local changed = false
for i = 1, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  local version = known and tonumber(string.match(known, '^(%d+) ')) or -1
  if tonumber(ARGV[i + 1]) > version then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2])
    changed = true
  end
end
local changes = tonumber(redis.call('GET', KEYS[2]) or '0')
if changed then changes = redis.call('INCR', KEYS[2]) end
local reply = {tostring(changes)}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local version, text = string.match(all[i + 1], '^(%d+) (.*)$')
  if version then
    reply[#reply + 1] = all[i]
    reply[#reply + 1] = version
    reply[#reply + 1] = text
  end
end
return reply
