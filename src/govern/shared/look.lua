-- How shared allowances stand on all hosts but one. It changes nothing.
--
-- KEYS  1 hosts (sorted set: host, ms it was last heard)  2 .. one for each allowance
-- ARGV  1 host  2 ms a silent host keeps what it doesn't use  then the kind of each allowance: 'b', 's', 'r'
-- Replies one number for each: used by others; of a rate, us until all of it is there again.
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local living = {}
local since = math.floor(now_us / 1000) - tonumber(ARGV[2])
for _, host in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], since, '+inf')) do living[host] = true end
local reply = {}
for i = 2, #KEYS do
  local kind, number = ARGV[i + 1], 0
  if kind == 'r' then
    number = math.max(tonumber(redis.call('GET', KEYS[i]) or '0') - now_us, 0)
  else
    local fields = redis.call('HGETALL', KEYS[i])
    for n = 1, #fields, 2 do
      local used = tonumber(string.match(fields[n + 1], '^%-?%d+ (%-?%d+) ') or '0')
      if fields[n] ~= ARGV[1] and (kind == 'b' or living[fields[n]]) then number = number + used end
    end
  end
  reply[#reply + 1] = number
end
return reply
