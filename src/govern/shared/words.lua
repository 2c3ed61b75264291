-- Hosts of one weir tell each other words: of each name the last one that was said, by its version. Each
-- change has a number, so that a host hears only what came after the last one that it has heard of.
--
-- KEYS  1 words (hash: name, "version text"; '' has their age)
--       2 names by the number of their last change (sorted set; the age has 0)
--       3 how words stand: "age number"; see draw.lua
-- ARGV  1 the name of a new age, should this one be lost  2 the age that this host knows  3 the number up
--       to which it has heard  4 words to reply at most  5 bytes of them
--       then name, version and text of each word that it tells; one without text is forgotten, if what is
--       known of it is that version of 'null'
-- Replies the age, the number up to which this tells, the last one, then name, version and text of words.
if redis.replicate_commands then pcall(redis.replicate_commands) end
local FORGET_MS = 100 * 24 * 3600 * 1000
local age, last = string.match(redis.call('GET', KEYS[3]) or '', '^(%x+) (%d+)$')
last = tonumber(last)
-- A server that is short of memory may have thrown one of the three away: what is left means nothing then.
if not age or redis.call('HGET', KEYS[1], '') ~= age or not redis.call('ZSCORE', KEYS[2], age) then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  age, last = ARGV[1], 0
  redis.call('HSET', KEYS[1], '', age)
  redis.call('ZADD', KEYS[2], 0, age)
end
for i = 6, #ARGV, 3 do
  local name, version, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local known = redis.call('HGET', KEYS[1], name)
  if text == '' then
    if known == version .. ' null' then
      redis.call('HDEL', KEYS[1], name)
      redis.call('ZREM', KEYS[2], name)
    end
  elseif tonumber(version) > (tonumber(string.match(known or '', '^(%d+) ')) or -1) then
    last = last + 1
    redis.call('HSET', KEYS[1], name, version .. ' ' .. text)
    redis.call('ZADD', KEYS[2], last, name)
  end
end
local function whole(number) return string.format('%.0f', number) end
redis.call('SET', KEYS[3], age .. ' ' .. whole(last), 'PX', FORGET_MS)
redis.call('PEXPIRE', KEYS[1], FORGET_MS)
redis.call('PEXPIRE', KEYS[2], FORGET_MS)

local since = ARGV[2] == age and ARGV[3] or '0'
local news = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local reply, told, bytes = {age, since, whole(last)}, tonumber(since), 0
for i = 1, #news, 2 do
  local version, text = string.match(redis.call('HGET', KEYS[1], news[i]) or '', '^(%d+) (.*)$')
  if version then
    bytes = bytes + #news[i] + #text
    if bytes > tonumber(ARGV[5]) and told > tonumber(since) then break end
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3] = news[i], version, text
  end
  told = tonumber(news[i + 1])
end
reply[2] = whole(told)
return reply
